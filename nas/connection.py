"""A connection to the service: requests out, views or the service's own errors back."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from nas import errors
from nas.errors import ServiceError, SettingError, StoreError, TopiaryError, UserError
from nas.views import ErrorView

DEFAULT_URL = "http://127.0.0.1:8460"
_SILENCE_SECONDS = 45.0
"""Three heartbeats of a stream: after that long without a byte, the connection is given up."""

_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

Content = TypeVar("Content")
Body = BaseModel | Mapping[str, Any] | None


class Connection:
    """Asks the service at `url`, that of TOPIARY_URL, or else the default port on this machine.

    `timeout` is in seconds, for one answer. Every method raises UserError for what the service refuses, StoreError if
    its database fails, and ServiceError if no service answers.
    """

    def __init__(self, url: str | None, *, timeout: float) -> None:
        self.url = (url or os.environ.get("TOPIARY_URL") or DEFAULT_URL).rstrip("/")
        problem = SettingError("TOPIARY_URL", self.url, "is not the address of a service", f"one such as {DEFAULT_URL}")
        try:
            parts = urlsplit(self.url)
            if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
                raise problem
        except ValueError as error:  # Of a port that is no number.
            raise problem from error
        # A proxy for the web does not lead to this machine.
        trust_env = parts.hostname not in _LOCAL_HOSTS
        self._http = httpx.Client(base_url=self.url, timeout=timeout, trust_env=trust_env)

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, kind: type[Content], **params: int | bool | Sequence[str]) -> Content:
        with self.answer("GET", path, params=params) as response:
            return _parsed(response, kind)

    def post(self, path: str, kind: type[Content], body: Body = None, **params: int) -> Content:
        headers = {} if body is None else {"Content-Type": "application/json"}
        with self.answer("POST", path, params=params, headers=headers, content=_written(body)) as response:
            return _parsed(response, kind)

    def delete(self, path: str) -> None:
        """Waits for the answer as long as it takes: folders may be large."""
        timeout = httpx.Timeout(self._http.timeout.connect, read=None)
        with self.answer("DELETE", path, timeout=timeout):
            pass

    def messages(self, path: str, params: Mapping[str, str], last_id: int | None) -> Iterator["Message"]:
        """Server-sent events of one connection later than `last_id`, heartbeats among them."""
        headers = {} if last_id is None else {"Last-Event-ID": str(last_id)}
        timeout = httpx.Timeout(self._http.timeout.connect, read=_SILENCE_SECONDS)
        with self.answer("GET", path, params=params, headers=headers, timeout=timeout) as response:
            rest = b""
            for chunk in response.iter_bytes():
                *messages, rest = (rest + chunk).split(b"\n\n")
                yield from map(Message.parse, messages)

    @contextmanager
    def answer(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer whose body is yet to be read. Raises the error that it is, or ServiceError if there is none."""
        try:
            with self._http.stream(method, path, **options) as response:
                if not response.is_success:
                    response.read()
                    raise _error(response)
                yield response
        except httpx.ConnectError as error:
            raise ServiceError(
                f"no service answers at {self.url} ({error}); `topiary serve` starts one, TOPIARY_URL names another"
            ) from error
        except httpx.TimeoutException as error:
            raise ServiceError(f"the service at {self.url} takes too long to answer") from error
        except httpx.RequestError as error:
            raise ServiceError(f"the connection to the service at {self.url} was lost ({error})") from error


@dataclass(frozen=True)
class Message:
    """A server-sent event; all fields are None for a heartbeat."""

    id: int | None
    event: str | None
    data: str | None

    @classmethod
    def parse(cls, text: bytes) -> "Message":
        # Lines end in line feeds alone: splitlines() would break at what JSON may hold unescaped.
        fields = dict(line.partition(": ")[::2] for line in text.decode().split("\n"))
        number = fields.get("id")
        return cls(None if number is None else int(number), fields.get("event"), fields.get("data"))


def _written(body: Body) -> str | None:
    if body is None:
        return None
    # A dict goes as it is, wrong values too: the service says what is wrong with it.
    return body.model_dump_json() if isinstance(body, BaseModel) else json.dumps(body, default=str)


def _parsed(response: httpx.Response, kind: type[Content]) -> Content:
    try:
        return TypeAdapter(kind).validate_json(response.read())
    except ValidationError as error:
        raise ServiceError(f"{response.url} answers in words of another version: {error}") from error


def _error(response: httpx.Response) -> TopiaryError:
    try:
        return _rebuilt(ErrorView.model_validate_json(response.content))
    except ValidationError:
        return ServiceError(f"{response.url} answers {response.status_code}, which is no answer of Topiary's")


def _rebuilt(view: ErrorView) -> TopiaryError:
    """The error that the service raised, of the same class and with the same sentence."""
    kind = getattr(errors, view.kind, None)
    if kind is StoreError:
        return StoreError(view.message)
    if not (isinstance(kind, type) and issubclass(kind, UserError)):
        return ServiceError(view.message)
    error = kind(view.field or "", view.value or "", view.problem or "", view.accepted or "")
    error.also = tuple(also for also in map(_rebuilt, view.also) if isinstance(also, UserError))
    return error
