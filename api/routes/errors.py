"""Every error of the service as a status and an ErrorView: the one place that knows both."""

from collections.abc import Callable

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from pydantic import BaseModel
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException

from api.routes.parameters import ACCEPTED
from nas.errors import (
    ConflictError,
    FolderError,
    NotFoundError,
    ServiceError,
    SettingError,
    SpecError,
    StoreError,
    TopiaryError,
    UserError,
)
from nas.spec import SearchSpec
from nas.spec_file import problem, spec_error, unreadable
from nas.views import ErrorView

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer, under which browsers send our own forms with an Origin of null.
    "Referrer-Policy": "same-origin",
}
"""Of every answer that has none of its own."""

LARGEST_BODY = 1_000_000
"""Bytes; a spec has a few hundred."""

_LONGEST_VALUE = 200

ErrorPage = Callable[[ErrorView, int], str]
"""An error with its status as the page that a browser gets to see."""

_MEANINGS = {
    404: "Nothing of this name or number is there.",
    409: "Something of this name is there already and is not the same, or is past what was asked.",
    422: "Something given is wrong; the message names it, its value, and what is accepted.",
    503: "The database, or the store of artifacts, cannot be read or written at the moment.",
}
_Responses = dict[int | str, dict[str, object]]


def declared(*statuses: int) -> _Responses:
    """Responses of a route for OpenAPI: these errors, and those that every route can have."""
    return {status: {"model": ErrorView, "description": _MEANINGS[status]} for status in sorted({*statuses, 422, 503})}


def status_of(error: TopiaryError) -> int:
    """The HTTP status that stands for an error."""
    match error:
        case NotFoundError():
            return 404
        case ConflictError() | FolderError():
            return 409
        case UserError():
            return 422
        case StoreError():
            return 503
        case _:
            return 500


def error_view(error: TopiaryError) -> ErrorView:
    """The error for the wire; a client makes the same error, with the same sentence, of it."""
    kind, message = type(error).__name__, _writable(str(error))
    if not isinstance(error, UserError):
        return ErrorView(kind=kind, message=message)
    value = _writable(" ".join(str(error.value).splitlines()))
    return ErrorView(
        kind=kind,
        message=message,
        field=error.field,
        value=value if len(value) <= _LONGEST_VALUE else value[: _LONGEST_VALUE - 3] + "...",
        problem=error.problem,
        accepted=error.accepted,
        also=tuple(map(error_view, error.also)),
    )


def _writable(text: str) -> str:
    """With halves of surrogate pairs, which no encoding takes, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def too_large() -> SpecError:
    """A body of more than LARGEST_BODY."""
    return SpecError("spec", "the request", "is too large", f"up to {LARGEST_BODY:,} bytes")


def json_response(error: TopiaryError, status: int | None = None) -> Response:
    """The error as JSON, under its own status unless another is given."""
    content = error_view(error).model_dump_json()
    status = status_of(error) if status is None else status
    return Response(content, status_code=status, media_type="application/json")


def add_error_handlers(app: FastAPI, error_page: ErrorPage) -> None:
    """From here on every error of the app, expected or not, is answered with an ErrorView, or a page for browsers."""
    app.state.error_page = error_page
    app.add_exception_handler(TopiaryError, _on_topiary_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(UnicodeEncodeError, _on_half_a_pair)
    app.add_exception_handler(Exception, _on_bug)


def _answer(request: Request, error: TopiaryError, status: int | None = None) -> Response:
    wants_page = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/v1/")
    if not wants_page:
        return json_response(error, status)
    page: ErrorPage = request.app.state.error_page
    status = status_of(error) if status is None else status
    return HTMLResponse(page(error_view(error), status), status_code=status)


def _on_topiary_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, TopiaryError)
    return _answer(request, error)


def _on_half_a_pair(request: Request, error: Exception) -> Response:
    """JSON may escape half of a surrogate pair; what it ends up in, a path perhaps, then cannot be written."""
    assert isinstance(error, UnicodeEncodeError)
    half = ascii(error.object[error.start : error.end])
    return _answer(request, SpecError("spec", half, "is half of a character", "text in UTF-8"))


def _on_invalid_request(request: Request, error: Exception) -> Response:
    """The mistakes of a spec come first, in the words that a spec file is answered with, then those of parameters."""
    assert isinstance(error, RequestValidationError)
    details: list[ErrorDetails] = list(error.errors())
    of_body = [each for each in details if each["loc"][0] == "body"]
    model = _body_model(request)
    found: list[UserError] = []
    if any(each["type"] == "json_invalid" for each in of_body):
        found.append(unreadable("the request", error.__cause__ or error, model))
    elif any(isinstance(each["input"], bytes) for each in of_body):
        given = request.headers.get("content-type", "nothing")
        found.append(SpecError("Content-Type", given, "is not JSON", "application/json"))
    elif of_body:
        inner = [ErrorDetails(**{**each, "loc": each["loc"][1:]}) for each in of_body]
        of_spec = spec_error(inner, model)
        found += [of_spec, *of_spec.also]
    found += [_parameter_error(each) for each in details if each["loc"][0] != "body"]
    first, *others = found
    first.also = tuple(others)
    return _answer(request, first)


def _body_model(request: Request) -> type[BaseModel]:
    """What the body of a request to this address is to be."""
    body = request.scope["route"].body_field
    model: type[BaseModel] = SearchSpec if body is None else body.field_info.annotation
    return model


def _parameter_error(details: ErrorDetails) -> SettingError:
    name = str(details["loc"][-1])
    accepted = ACCEPTED.get(name, "what /openapi.json says of it")
    if details["type"] == "missing":
        return SettingError(name, "nothing", "is given, but it is required", accepted)
    return SettingError(name, details["input"], problem(details), accepted)


def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path = request.url.path
    if error.status_code == 404:
        return _answer(request, NotFoundError("address", path, "is not one of this service", "one listed at /docs"))
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "another")
        response = _answer(request, SettingError("method", request.method, f"is not possible at {path}", allowed), 405)
        response.headers["Allow"] = allowed
        return response
    if error.status_code == 413:
        return _answer(request, too_large(), 413)
    if error.status_code == 400 and isinstance(error.__cause__, Exception):
        # FastAPI could not parse the body, and not for its grammar: too deep, not UTF-8, a number of 5,000 digits.
        return _answer(request, unreadable("the request", error.__cause__))
    return _answer(
        request, SettingError("request", f"{request.method} {path}", "is refused", error.detail), error.status_code
    )


def _on_bug(request: Request, error: Exception) -> Response:
    message = "the service met a bug of its own; its log says more"
    response = _answer(request, ServiceError(message))
    response.headers.update(SECURITY_HEADERS)  # This handler alone is outside of the guard, who else sets them.
    return response
