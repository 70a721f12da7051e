"""The Python client of the service: the same views, and the same errors with the same sentences, as everywhere else."""

import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from shutil import rmtree
from types import TracebackType
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from nas.connection import Connection
from nas.durable import flush
from nas.errors import FolderError, NotFoundError, ServiceError, SettingError, StoreError, TopiaryError
from nas.extension import Extension
from nas.importance_view import ImportanceView
from nas.plan import PlanView
from nas.ranking import Standing
from nas.spec import NAME, NAME_DESCRIPTION, SearchSpec
from nas.states import SearchState
from nas.views import (
    AttemptView,
    BestView,
    CandidateDetails,
    EnumerationView,
    EventView,
    HealthView,
    ModelView,
    PromotionView,
    SearchSummary,
    SearchView,
)

_PAGE = 1000
_MOST_CANDIDATES = 10_000
_LOOK_SECONDS = 0.5
_RETRY_SECONDS = 0.5
_NO_EVENTS = (None, "progress", "resync")


class Client:
    """What the service can do, one method for each verb; closed with the block it is used in.

    `url` is that of TOPIARY_URL, or else the default port on this machine. `timeout` is in seconds, for one answer;
    `patience` is how long events() and watch() wait for a service that went away before they give up.

    Every method raises UserError for what the service refuses, StoreError if its database fails, and ServiceError if
    no service answers.
    """

    def __init__(self, url: str | None = None, *, timeout: float = 60, patience: float = 60) -> None:
        self._service = Connection(url, timeout=timeout)
        self.url = self._service.url
        self._patience = patience

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._service.close()

    # --- searches ---

    def enumerate(self, spec: SearchSpec | Mapping[str, Any]) -> EnumerationView:
        """The candidates that a search of this spec would retrain, at most 10,000 of them; starts nothing."""
        return self._service.post("/v1/enumerations", EnumerationView, spec, limit=_MOST_CANDIDATES)

    def plan(self, spec: SearchSpec | Mapping[str, Any], devices: int | None = None) -> PlanView:
        """What a search of this spec would take with each strategy, on so many devices; starts nothing."""
        given = {} if devices is None else {"devices": devices}
        return self._service.post("/v1/plans", PlanView, spec, **given)

    def submit(self, spec: SearchSpec | Mapping[str, Any]) -> SearchView:
        """Starts a search, or goes on with the one of this name and spec. Paths are those of the server."""
        return self._service.post("/v1/searches", SearchView, spec)

    def searches(self, *, archived: bool = False) -> list[SearchSummary]:
        """All that are not archived, or only those that are, the newest first."""
        found: dict[int, SearchSummary] = {}
        while True:
            page = self._service.get(
                "/v1/searches", list[SearchSummary], limit=_PAGE, offset=len(found), archived=archived
            )
            # A search begun meanwhile moves the others on: the last of one page may be the first of the next.
            found |= {summary.id: summary for summary in page}
            if len(page) < _PAGE:
                return sorted(found.values(), key=lambda summary: -summary.id)

    def search(self, name: str) -> SearchView:
        return self._service.get(_path(name), SearchView)

    def spec(self, name: str) -> SearchSpec:
        return self._service.get(f"{_path(name)}/spec", SearchSpec)

    def leaderboard(self, name: str) -> list[Standing]:
        return self._service.get(f"{_path(name)}/leaderboard", list[Standing])

    def best(self, name: str, where: Sequence[str] = ()) -> BestView:
        """The best architecture so far, within the constraints `where`, such as `parameters<=1e9`, on its costs.

        ConflictError while no candidate was measured, BudgetError if none is within them.
        """
        return self._service.get(f"{_path(name)}/best", BestView, where=list(where))

    def importance(self, name: str) -> ImportanceView:
        """The scores of its teacher, which nas.importance_figures draws; NotFoundError while there are none."""
        return self._service.get(f"{_path(name)}/importance", ImportanceView)

    def candidate(self, name: str, candidate_id: int) -> CandidateDetails:
        return self._service.get(f"{_path(name)}/candidates/{candidate_id}", CandidateDetails)

    def attempts(self, name: str) -> list[AttemptView]:
        """Every try at every job of a search, by job."""
        return self._service.get(f"{_path(name)}/attempts", list[AttemptView])

    def promotions(self, name: str) -> list[PromotionView]:
        return self._service.get(f"{_path(name)}/promotions", list[PromotionView])

    # --- the life of a search: each answers with it as it stands then; the scheduler's next steps do the rest ---

    def pause(self, name: str) -> SearchView:
        """What runs saves its state and ends; the search waits until it is resumed."""
        return self._ask(name, "pause")

    def stop(self, name: str) -> SearchView:
        """What runs goes on to its end, and nothing new is started; the search waits until it is resumed."""
        return self._ask(name, "stop")

    def cancel(self, name: str) -> SearchView:
        """What runs ends now, and what waits is not started; what was measured stays."""
        return self._ask(name, "cancel")

    def resume(self, name: str) -> SearchView:
        """One that was paused, stopped or cancelled goes on, from its newest checkpoints."""
        return self._ask(name, "resume")

    def retry(self, name: str, candidate_id: int | None = None) -> SearchView:
        """Tries what has failed again, or only the trials of one candidate."""
        only = {} if candidate_id is None else {"candidate_id": candidate_id}
        return self._service.post(f"{_path(name)}/retry", SearchView, None, **only)

    def extend(self, name: str, extension: Extension | Mapping[str, Any]) -> SearchView:
        """More candidates, tokens or seeds, or other limits of what it may spend."""
        return self._service.post(f"{_path(name)}/extend", SearchView, extension)

    def clone(self, name: str, new_name: str, changes: Mapping[str, Any] | None = None) -> SearchView:
        """Begins a search like this one; `changes` are of its spec, nested, and None takes a field away."""
        return self._service.post(f"{_path(name)}/clone", SearchView, {"name": new_name, "changes": changes or {}})

    def archive(self, name: str) -> SearchView:
        """Takes a search that does not run out of the list; all else stays."""
        return self._ask(name, "archive")

    def unarchive(self, name: str) -> SearchView:
        return self._ask(name, "unarchive")

    def delete(self, name: str) -> None:
        """Deletes a search that does not run, with its models and all else that its jobs wrote; there is no way back.

        Asked again after whatever has interrupted it, it goes on.
        """
        self._service.delete(_path(name))

    def _ask(self, name: str, verb: str) -> SearchView:
        return self._service.post(f"{_path(name)}/{verb}", SearchView)

    # --- the life of a promotion; its search goes on beside it ---

    def pause_promotion(self, name: str, promotion_id: int) -> PromotionView:
        """It saves its state and ends, and waits until it is resumed."""
        return self._ask_of_promotion(name, promotion_id, "pause")

    def cancel_promotion(self, name: str, promotion_id: int) -> PromotionView:
        """It ends now, and its search does without the model; what was measured stays."""
        return self._ask_of_promotion(name, promotion_id, "cancel")

    def resume_promotion(self, name: str, promotion_id: int) -> PromotionView:
        """One that was paused or cancelled goes on, from its newest checkpoint."""
        return self._ask_of_promotion(name, promotion_id, "resume")

    def retry_promotion(self, name: str, promotion_id: int) -> PromotionView:
        """Tries one that has failed again."""
        return self._ask_of_promotion(name, promotion_id, "retry")

    def extend_promotion(self, name: str, promotion_id: int, tokens: int) -> PromotionView:
        """Distils it for so many more tokens, once it has done what it does now, and exports it anew."""
        return self._ask_of_promotion(name, promotion_id, "extend", {"tokens": tokens})

    def _ask_of_promotion(
        self, name: str, promotion_id: int, verb: str, body: Mapping[str, Any] | None = None
    ) -> PromotionView:
        return self._service.post(f"{_path(name)}/promotions/{promotion_id}/{verb}", PromotionView, body)

    # --- models and logs ---

    def models(self, name: str | None = None) -> list[ModelView]:
        """Those of one search, or of all."""
        return self._service.get("/v1/models" if name is None else f"{_path(name)}/models", list[ModelView])

    def model(self, model_id: int) -> ModelView:
        return self._service.get(f"/v1/models/{model_id}", ModelView)

    def log(self, job_id: int, attempt: int, *, tail: int = 1000) -> str:
        """The last lines that an attempt printed."""
        with self._service.answer(
            "GET", f"/v1/jobs/{job_id}/attempts/{attempt}/log", params={"tail": tail}
        ) as response:
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
        with self._service.answer("GET", path) as response, (folder / name).open("wb") as file:
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
        """The search as it stands, then whenever it has changed, at most twice a second, until it does not run.

        It has ended then, or it is paused or stopped and waits for its user.
        """
        seen: SearchView | None = None
        for _ in self._messages(name, None):
            looked = time.monotonic()
            try:
                view = self.search(name)
            except (ServiceError, StoreError):
                continue  # The next message comes once the service is there again.
            # What it has used of hours changes with every look.
            if not view.is_same_but_for_time(seen):
                yield view
                seen = view
            if view.state is not SearchState.RUNNING:
                return
            time.sleep(max(0.0, looked + _LOOK_SECONDS - time.monotonic()))

    def _messages(self, name: str | None, after: int | None) -> Iterator[EventView | None]:
        """Events, each once, and None for every other message: of progress, or that a connection has begun."""
        params = {} if name is None else {"search": name}
        begun, deadline = False, 0.0
        while True:
            lost: TopiaryError = ServiceError(f"the service at {self.url} ended the connection")
            try:
                for message in self._service.messages("/v1/events", params, after):
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

    # --- the service itself ---

    def health(self) -> HealthView:
        return self._service.get("/v1/health", HealthView)

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


def _event(data: str | None) -> EventView:
    try:
        return EventView.model_validate_json(data or "")
    except ValidationError as error:
        raise ServiceError(f"the service sends events of another version: {data}") from error


def _path(name: str) -> str:
    if not re.fullmatch(NAME, name):
        raise SettingError("search", name, "cannot be the name of a search", NAME_DESCRIPTION)
    return f"/v1/searches/{quote(name, safe='')}"
