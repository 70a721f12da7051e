"""Projects, searches and their candidates."""

from datetime import datetime
from typing import cast

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from api.store.events import Events
from api.store.records import CandidateRecord, SearchRecord
from api.store.tables import AttemptRow, CandidateRow, JobRow, ProjectRow, SearchRow, TrialRow
from nas.architecture import Architecture
from nas.errors import NotFoundError
from nas.model_folder import StoredDtype
from nas.spec import SearchSpec
from nas.states import Intent, SearchState
from nas.views import EnumerationView, EventKind

DEFAULT_PROJECT = "default"


class Searches:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    def add(self, spec: SearchSpec, found: EnumerationView, now: datetime) -> SearchRecord:
        """A new running search with its candidates and a trial for each."""
        search = SearchRow(
            project_id=self._project_id(DEFAULT_PROJECT),
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            teacher=found.teacher.model_dump(),
            teacher_dtype=found.teacher_dtype,
            num_fitting=found.num_fitting,
            state=SearchState.RUNNING,
            intent=Intent.RUN,
            created_at=now,
        )
        self._session.add(search)
        self._session.flush()
        candidates = [
            CandidateRow(
                search_id=search.id,
                position=position,
                architecture=candidate.architecture.model_dump(),
                parameters=candidate.cost.parameters,
                non_embedding_parameters=candidate.cost.non_embedding_parameters,
            )
            for position, candidate in enumerate(found.candidates)
        ]
        self._session.add_all(candidates)
        self._session.flush()
        self._session.add_all(TrialRow(candidate_id=row.id, seed=spec.seed) for row in candidates)
        self._session.flush()
        self._events.append(
            EventKind.SEARCH_CREATED, search.id, now, candidates=len(candidates), fitting=found.num_fitting
        )
        return _record(search)

    def get(self, search_id: int) -> SearchRecord:
        return _record(self._session.get_one(SearchRow, search_id))

    def named(self, name: str) -> SearchRecord:
        """Raises NotFoundError."""
        found = self.find(name)
        if found is None:
            raise NotFoundError(
                "search", name, "is not there", "the name of a search, as `topiary searches` lists them"
            )
        return found

    def find(self, name: str, *, lock: bool = False) -> SearchRecord | None:
        """The search of this name; `lock` keeps its row as it is to the end of the transaction."""
        query = select(SearchRow).join(ProjectRow).where(SearchRow.name == name, ProjectRow.name == DEFAULT_PROJECT)
        if lock:
            query = query.with_for_update(of=SearchRow).execution_options(populate_existing=True)
        row = self._session.scalar(query)
        return None if row is None else _record(row)

    def newest_first(self, *, limit: int | None = None, offset: int = 0) -> list[SearchRecord]:
        rows = self._session.scalars(select(SearchRow).order_by(SearchRow.id.desc()).limit(limit).offset(offset))
        return [_record(row) for row in rows]

    def running(self) -> list[SearchRecord]:
        """Oldest first."""
        rows = self._session.scalars(
            select(SearchRow).where(SearchRow.state == SearchState.RUNNING).order_by(SearchRow.id)
        )
        return [_record(row) for row in rows]

    def num_running(self) -> int:
        query = select(func.count()).select_from(SearchRow).where(SearchRow.state == SearchState.RUNNING)
        return self._session.scalar(query) or 0

    def end(self, search_id: int, state: SearchState, reason: str | None, now: datetime) -> None:
        """Closes a running search; one that is closed already stays as it is."""
        values: dict[str, object] = {"state": state, "reason": reason, "finished_at": now}
        if self._update(search_id, [SearchState.RUNNING], values):
            self._events.append(EventKind.SEARCH_ENDED, search_id, now, state=state.value, reason=reason)

    def end_cancelled(self, search_id: int, now: datetime) -> bool:
        """Closes a running search whose user wants that; whether the user still does."""
        values: dict[str, object] = {"state": SearchState.CANCELLED, "finished_at": now}
        if not self._update(search_id, [SearchState.RUNNING], values, Intent.CANCEL):
            return False
        self._events.append(EventKind.SEARCH_ENDED, search_id, now, state=SearchState.CANCELLED.value, reason=None)
        return True

    def ask_to_cancel(self, search_id: int, now: datetime) -> bool:
        """Whether there was something to cancel: a search that still runs. Asked again, nothing changes."""
        asked = self._session.get_one(SearchRow, search_id).intent == Intent.CANCEL
        if not self._update(search_id, [SearchState.RUNNING], {"intent": Intent.CANCEL}):
            return False
        if not asked:
            self._events.append(EventKind.SEARCH_CANCELLING, search_id, now)
        return True

    def keep_running(self, search_id: int, now: datetime) -> bool:
        """Takes back that a search is to be cancelled; whether that could still be done."""
        kept = self._update(search_id, [SearchState.RUNNING], {"intent": Intent.RUN}, Intent.CANCEL)
        if kept:
            self._events.append(EventKind.SEARCH_RESUMED, search_id, now)
        return kept

    def resume(self, search_id: int, now: datetime) -> bool:
        """Takes up a search that has failed or was cancelled; whether it was in either state."""
        values: dict[str, object] = {
            "state": SearchState.RUNNING,
            "intent": Intent.RUN,
            "reason": None,
            "finished_at": None,
        }
        resumed = self._update(search_id, [SearchState.FAILED, SearchState.CANCELLED], values)
        if resumed:
            self._events.append(EventKind.SEARCH_RESUMED, search_id, now)
        return resumed

    def discard(self, search_id: int) -> None:
        """Deletes a search that ended before its first trial was queued; its events and its jobs' folders stay."""
        jobs = select(JobRow.id).where(JobRow.search_id == search_id)
        candidates = select(CandidateRow.id).where(CandidateRow.search_id == search_id)
        for statement in (
            delete(AttemptRow).where(AttemptRow.job_id.in_(jobs)),
            delete(JobRow).where(JobRow.search_id == search_id),
            delete(TrialRow).where(TrialRow.candidate_id.in_(candidates)),
            delete(CandidateRow).where(CandidateRow.search_id == search_id),
            delete(SearchRow).where(SearchRow.id == search_id),
        ):
            self._session.execute(statement)

    def candidates(self, search_id: int) -> list[CandidateRecord]:
        """In the order of enumeration."""
        rows = self._session.execute(
            select(CandidateRow, TrialRow)
            .join(TrialRow, TrialRow.candidate_id == CandidateRow.id)
            .where(CandidateRow.search_id == search_id)
            .order_by(CandidateRow.position)
        )
        return [
            CandidateRecord(
                id=row.id,
                trial_id=trial.id,
                seed=trial.seed,
                architecture=Architecture.model_validate(row.architecture),
                parameters=row.parameters,
                non_embedding_parameters=row.non_embedding_parameters,
            )
            for row, trial in rows
        ]

    def _update(
        self, search_id: int, states: list[SearchState], values: dict[str, object], intent: Intent | None = None
    ) -> bool:
        """Whether the search was in one of these states, with this intent if one is given, and now is as told.

        One statement, so that of a user who cancels and a scheduler that closes only one comes first.
        """
        statement = update(SearchRow).where(SearchRow.id == search_id, SearchRow.state.in_(states)).values(**values)
        if intent is not None:
            statement = statement.where(SearchRow.intent == intent)
        result = self._session.execute(statement)
        return isinstance(result, CursorResult) and result.rowcount == 1

    def _project_id(self, name: str) -> int:
        row = self._session.scalar(select(ProjectRow).where(ProjectRow.name == name))
        if row is None:
            row = ProjectRow(name=name)
            self._session.add(row)
            self._session.flush()
        return row.id


def _record(row: SearchRow) -> SearchRecord:
    return SearchRecord(
        id=row.id,
        name=row.name,
        spec=SearchSpec.model_validate(row.spec),
        teacher=Architecture.model_validate(row.teacher),
        teacher_dtype=cast("StoredDtype | None", row.teacher_dtype),
        num_fitting=row.num_fitting,
        state=SearchState(row.state),
        intent=Intent(row.intent),
        reason=row.reason,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )
