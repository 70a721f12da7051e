"""What a service without keys needs where browsers run: only local hosts, only its own pages, small bodies."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.routes.errors import LARGEST_BODY, SECURITY_HEADERS, json_response, too_large
from nas.errors import SettingError, UserError

_LOCAL_HOSTS = {"localhost", "127.0.0.1", "[::1]"}
_READING = {"GET", "HEAD", "OPTIONS"}


class Guard:
    """ASGI middleware; refuses with an ErrorView, and puts the security headers that a response does not set itself.

    A page elsewhere can make a browser send requests here, and by a name of its own that resolves to this machine
    even read the answers. Neither reaches the app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        refusal = _refusal(scope["method"], headers)
        if refusal is not None:
            error, status = refusal
            await json_response(error, status)(scope, receive, send_guarded)
            return
        await self._app(scope, _counted(receive), send_guarded)


def _refusal(method: str, headers: Headers) -> tuple[UserError, int] | None:
    """Why a request may not reach the app, and under which status."""
    hosts = headers.getlist("host")
    if len(hosts) != 1 or _host_name(hosts[0]) not in _LOCAL_HOSTS:
        shown = ", ".join(hosts) or "nothing"
        accepted = "localhost, 127.0.0.1 or [::1], with any port"
        return SettingError("Host", shown, "is not a name of this machine", accepted), 400
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if method not in _READING:
        foreign = origin is not None and not _is_own(origin, hosts[0])
        if foreign or site in ("cross-site", "same-site"):
            accepted = "its own pages, and programs, which name no origin"
            return SettingError("Origin", origin or site, "may not change anything at this service", accepted), 403
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > LARGEST_BODY:
        return too_large(), 413
    return None


def _counted(receive: Receive) -> Receive:
    """`receive`, failing once more bytes came than a body may have: a chunked one does not say so beforehand."""
    received = 0

    async def receive_counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > LARGEST_BODY:
            raise HTTPException(413)
        return message

    return receive_counted


def _host_name(host: str) -> str:
    """Without the port; an IPv6 address keeps its brackets."""
    name, colon, port = host.rpartition(":")
    return (name if colon and (port.isdigit() or not port) and not host.endswith("]") else host).lower()


def _is_own(origin: str, host: str) -> bool:
    parts = urlsplit(origin)
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()
