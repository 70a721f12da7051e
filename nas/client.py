"""The Python client of the service: the same views, and the same errors with the same sentences, as everywhere else."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import TypeAdapter, ValidationError

from nas import errors
from nas.durable import flush
from nas.errors import (
    FolderError,
    NotFoundError,
    ServiceError,
    SettingError,
    StoreError,
    TopiaryError,
    UserError,
)
from nas.importance_view import ImportanceView
from nas.ranking import Standing
from nas.spec import NAME, NAME_DESCRIPTION, SearchSpec
from nas.states import SearchState
from nas.views import (
    AttemptView,
    BestView,
    CandidateDetails,
    EnumerationView,
    ErrorView,
    EventView,
    HealthView,
    ModelView,
    PromotionView,
    SearchSummary,
    SearchView,
)

DEFAULT_URL = "http://127.0.0.1:8460"
_PAGE = 1000
_MOST_CANDIDATES = 10_000
_SILENCE_SECONDS = 45.0
"""Three heartbeats of a stream: after that long without a byte, the connection is given up."""

_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 0.5
_NO_EVENTS = (None, "progress", "resync")
_LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")

Content = TypeVar("Content")


class Client:
    """What the service can do, one method for each verb; closed with the block it is used in.

    `url` is that of TOPIARY_URL, or else the default port on this machine. `timeout` is in seconds, for one answer;
    `patience` is how long events() and watch() wait for a service that went away before they give up.

    Every method raises UserError for what the service refuses, StoreError if its database fails, and ServiceError if
    no service answers.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 60, patience: float = 60) -> None:
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
        self._patience = patience

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- searches ---

    def enumerate(self, spec: SearchSpec | Mapping[str, Any]) -> EnumerationView:
        """The candidates that a search of this spec would retrain, at most 10,000 of them; starts nothing."""
        return self._post("/v1/enumerations", EnumerationView, spec, limit=_MOST_CANDIDATES)

    def submit(self, spec: SearchSpec | Mapping[str, Any]) -> SearchView:
        """Starts a search, or goes on with the one of this name and spec. Paths are those of the server."""
        return self._post("/v1/searches", SearchView, spec)

    def searches(self) -> list[SearchSummary]:
        """All of them, the newest first."""
        found: dict[int, SearchSummary] = {}
        while True:
            page = self._get("/v1/searches", list[SearchSummary], limit=_PAGE, offset=len(found))
            # A search begun meanwhile moves the others on: the last of one page may be the first of the next.
            found |= {summary.id: summary for summary in page}
            if len(page) < _PAGE:
                return sorted(found.values(), key=lambda summary: -summary.id)

    def search(self, name: str) -> SearchView:
        return self._get(_path(name), SearchView)

    def spec(self, name: str) -> SearchSpec:
        return self._get(f"{_path(name)}/spec", SearchSpec)

    def cancel(self, name: str) -> SearchView:
        """Asks for a running search to be ended; what was measured stays."""
        return self._post(f"{_path(name)}/cancel", SearchView, None)

    def leaderboard(self, name: str) -> list[Standing]:
        return self._get(f"{_path(name)}/leaderboard", list[Standing])

    def best(self, name: str) -> BestView:
        """The best architecture so far; ConflictError while no candidate was measured."""
        return self._get(f"{_path(name)}/best", BestView)

    def importance(self, name: str) -> ImportanceView:
        """The scores of its teacher, which nas.importance_figures draws; NotFoundError while there are none."""
        return self._get(f"{_path(name)}/importance", ImportanceView)

    def candidate(self, name: str, candidate_id: int) -> CandidateDetails:
        return self._get(f"{_path(name)}/candidates/{candidate_id}", CandidateDetails)

    def attempts(self, name: str) -> list[AttemptView]:
        """Every try at every job of a search, by job."""
        return self._get(f"{_path(name)}/attempts", list[AttemptView])

    def promotions(self, name: str) -> list[PromotionView]:
        return self._get(f"{_path(name)}/promotions", list[PromotionView])

    # --- models and logs ---

    def models(self, name: str | None = None) -> list[ModelView]:
        """Those of one search, or of all."""
        return self._get("/v1/models" if name is None else f"{_path(name)}/models", list[ModelView])

    def model(self, model_id: int) -> ModelView:
        return self._get(f"/v1/models/{model_id}", ModelView)

    def log(self, job_id: int, attempt: int, *, tail: int = 1000) -> str:
        """The last lines that an attempt printed."""
        with self._answer("GET", f"/v1/jobs/{job_id}/attempts/{attempt}/log", params={"tail": tail}) as response:
            return response.read().decode(errors="replace")

    def export(self, model: str | int, into: Path) -> Path:
        """Downloads a model, or the best one of the search of this name, into a new folder; returns the folder.

        Raises NotFoundError where there is no model yet, and FolderError for a folder that is there or cannot be
        written. The folder appears whole or not at all.
        """
        found = self._best_model(model) if isinstance(model, str) else self.model(model)
        if into.exists():
            raise FolderError("into", str(into), "is there already", "a folder that is not there yet")
        partial = into.with_name(f".{into.name}.{os.getpid()}.partial")
        try:
            partial.mkdir(parents=True)
            for file in found.files:
                self._download(
                    f"/v1/models/{found.id}/files/{quote(file.name, safe='')}", partial, file.name, file.size
                )
            flush(partial)
            partial.rename(into)
            flush(into.parent)
        except OSError as error:
            problem = f"cannot be written ({error.strerror})"
            raise FolderError("into", str(into), problem, "a folder to write into") from error
        finally:
            rmtree(partial, ignore_errors=True)
        return into

    def _best_model(self, name: str) -> ModelView:
        models = self.models(name)
        if not models:
            raise NotFoundError("search", name, "has no model yet", "a search with a finished promotion")
        return min(models, key=lambda model: model.loss)

    def _download(self, path: str, folder: Path, name: str, size: int) -> None:
        if Path(name).name != name:
            raise ServiceError(f"the service lists {name!r}, which is not the name of a file")
        with self._answer("GET", path) as response, (folder / name).open("wb") as file:
            for chunk in response.iter_bytes():
                file.write(chunk)
        if (folder / name).stat().st_size != size:
            raise ServiceError(f"{name} came with {(folder / name).stat().st_size:,} bytes instead of {size:,}")
        flush(folder / name)

    # --- what happens ---

    def events(self, name: str | None = None, after: int | None = None) -> Iterator[EventView]:
        """What happens in one search or in all, each event once, without end.

        Begins after the event of id `after`, 0 for all on record, or with what happens from now on. A lost
        connection, or a service that starts anew, loses and repeats nothing.
        """
        for event in self._messages(name, after):
            if event is not None:
                yield event

    def watch(self, name: str) -> Iterator[SearchView]:
        """The search as it stands, then whenever it has changed, at most twice a second, until it has ended."""
        seen: SearchView | None = None
        for _ in self._messages(name, None):
            looked = time.monotonic()
            try:
                view = self.search(name)
            except (ServiceError, StoreError):
                continue  # The next message comes once the service is there again.
            if view != seen:
                yield view
                seen = view
            if view.state is not SearchState.RUNNING:
                return
            time.sleep(max(0.0, looked + _LOOK_SECONDS - time.monotonic()))

    def _messages(self, name: str | None, after: int | None) -> Iterator[EventView | None]:
        """Events, each once, and None for every other message: of progress, or that a connection has begun."""
        begun, deadline = False, 0.0
        while True:
            lost: TopiaryError = ServiceError(f"the service at {self.url} ended the connection")
            try:
                for message in self._stream(name, after):
                    begun, deadline = True, time.monotonic() + self._patience
                    if message.event == "resync" and (message.id or 0) >= (after or 0):
                        break  # We were too slow; what was left out is on record.
                    after = after if message.id is None else message.id
                    yield None if message.event in _NO_EVENTS else _event(message.data)
            except (ServiceError, StoreError) as error:
                lost = error
            if not begun or time.monotonic() > deadline:
                raise lost
            time.sleep(_RETRY_SECONDS)

    def _stream(self, name: str | None, after: int | None) -> Iterator["_Message"]:
        """The messages of one connection, heartbeats among them."""
        params = {} if name is None else {"search": name}
        headers = {} if after is None else {"Last-Event-ID": str(after)}
        timeout = httpx.Timeout(self._http.timeout.connect, read=_SILENCE_SECONDS)
        with self._answer("GET", "/v1/events", params=params, headers=headers, timeout=timeout) as response:
            rest = b""
            for chunk in response.iter_bytes():
                *messages, rest = (rest + chunk).split(b"\n\n")
                yield from map(_Message.parse, messages)

    # --- the service itself ---

    def health(self) -> HealthView:
        return self._get("/v1/health", HealthView)

    def wait_until_ready(self, seconds: float = 60) -> HealthView:
        """Returns once the service answers; raises what it last raised if it has not by then."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                return self.health()
            except (ServiceError, StoreError):
                if time.monotonic() > deadline:
                    raise
            time.sleep(_RETRY_SECONDS)

    # --- requests ---

    def _get(self, path: str, kind: type[Content], **params: int) -> Content:
        with self._answer("GET", path, params=params) as response:
            return _parsed(response, kind)

    def _post(
        self, path: str, kind: type[Content], spec: SearchSpec | Mapping[str, Any] | None, **params: int
    ) -> Content:
        headers = {} if spec is None else {"Content-Type": "application/json"}
        with self._answer("POST", path, params=params, headers=headers, content=_body(spec)) as response:
            return _parsed(response, kind)

    @contextmanager
    def _answer(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
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
class _Message:
    """A server-sent event; all fields are None for a heartbeat."""

    id: int | None
    event: str | None
    data: str | None

    @classmethod
    def parse(cls, text: bytes) -> "_Message":
        # Lines end in line feeds alone: splitlines() would break at what JSON may hold unescaped.
        fields = dict(line.partition(": ")[::2] for line in text.decode().split("\n"))
        number = fields.get("id")
        return cls(None if number is None else int(number), fields.get("event"), fields.get("data"))


def _event(data: str | None) -> EventView:
    try:
        return EventView.model_validate_json(data or "")
    except ValidationError as error:
        raise ServiceError(f"the service sends events of another version: {data}") from error


def _path(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise SettingError("search", name, "cannot be the name of a search", NAME_DESCRIPTION)
    return f"/v1/searches/{quote(name, safe='')}"


def _body(spec: SearchSpec | Mapping[str, Any] | None) -> str | None:
    if spec is None:
        return None
    # A dict goes as it is, wrong values too: the service says what is wrong with it.
    return spec.model_dump_json() if isinstance(spec, SearchSpec) else json.dumps(spec, default=str)


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
