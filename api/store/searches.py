"""Projects and searches: what they are, and what is wanted of them."""

from datetime import datetime
from typing import cast

from sqlalchemy import delete, func, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from api.store.candidates import Candidates
from api.store.events import Events
from api.store.records import SearchRecord
from api.store.tables import (
    AttemptRow,
    CandidateRow,
    DecisionRow,
    JobRow,
    MeasurementRow,
    ModelRow,
    ProjectRow,
    PromotionRow,
    SearchRow,
    SequenceLossesRow,
    TrialRow,
)
from nas.errors import NotFoundError
from nas.extension import Extension
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
            extensions=[],
        )
        self._session.add(search)
        self._session.flush()
        Candidates(self._session).add(search.id, found.candidates, [spec.seed])
        self._events.append(
            EventKind.SEARCH_CREATED, search.id, now, candidates=len(found.candidates), fitting=found.num_fitting
        )
        return _record(search)

    def get(self, search_id: int, *, lock: bool = False) -> SearchRecord:
        """`lock` keeps its row as it is to the end of the transaction."""
        if lock:
            row = self._session.get_one(SearchRow, search_id, with_for_update=True, populate_existing=True)
            return _record(row)
        return _record(self._session.get_one(SearchRow, search_id))

    def named(self, name: str, *, lock: bool = False) -> SearchRecord:
        """Raises NotFoundError."""
        found = self.find(name, lock=lock)
        if found is None:
            raise not_found(name)
        return found

    def find(self, name: str, *, lock: bool = False, deleted: bool = False) -> SearchRecord | None:
        """The search of this name, also one that is being deleted if `deleted`.

        `lock` keeps its row as it is to the end of the transaction.
        """
        query = select(SearchRow).join(ProjectRow).where(SearchRow.name == name, ProjectRow.name == DEFAULT_PROJECT)
        if not deleted:
            query = query.where(SearchRow.deleted_at.is_(None))
        if lock:
            query = query.with_for_update(of=SearchRow).execution_options(populate_existing=True)
        row = self._session.scalar(query)
        return None if row is None else _record(row)

    def newest_first(
        self, *, limit: int | None = None, offset: int = 0, archived: bool | None = None
    ) -> list[SearchRecord]:
        """All that are not being deleted; only archived ones, or only others, if `archived` says which."""
        query = select(SearchRow).where(SearchRow.deleted_at.is_(None)).order_by(SearchRow.id.desc())
        if archived is not None:
            query = query.where(SearchRow.archived_at.is_not(None) if archived else SearchRow.archived_at.is_(None))
        return [_record(row) for row in self._session.scalars(query.limit(limit).offset(offset))]

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
        values: dict[str, object] = {"state": SearchState.CANCELLED, "reason": None, "finished_at": now}
        if not self._update(search_id, [SearchState.RUNNING], values, [Intent.CANCEL]):
            return False
        self._events.append(EventKind.SEARCH_ENDED, search_id, now, state=SearchState.CANCELLED.value, reason=None)
        return True

    def settle(self, search: SearchRecord, now: datetime) -> bool:
        """Lets a search of which nothing runs any more wait for its user; whether that is still wanted."""
        state = SearchState.PAUSED if search.intent is Intent.PAUSE else SearchState.STOPPED
        settled = self._update(search.id, [SearchState.RUNNING], {"state": state}, [search.intent])
        if settled:
            kind = EventKind.SEARCH_PAUSED if state is SearchState.PAUSED else EventKind.SEARCH_STOPPED
            self._events.append(kind, search.id, now, reason=search.reason)
        return settled

    def ask(self, search_id: int, intent: Intent, now: datetime, *, reason: str | None = None) -> bool:
        """Writes down what is wanted of a search that has not ended, for the scheduler to bring about.

        Whether it has not. Asked for what is wanted already, nothing changes.
        """
        row = self._session.get_one(SearchRow, search_id)
        self._session.refresh(row, with_for_update=True)
        before = Intent(row.intent)
        if SearchState(row.state) not in (SearchState.RUNNING, SearchState.PAUSED, SearchState.STOPPED):
            return False
        if before is intent and (reason is None or row.reason is not None):
            return True
        # One that waits has nothing to end, but what it has queued, so the scheduler takes it up to do that.
        row.intent, row.reason, row.state = intent, reason, SearchState.RUNNING
        row.archived_at = None  # What runs is listed.
        self._session.flush()
        self._events.append(_ASKED[intent], search_id, now, reason=reason)
        return True

    def reopen(self, search_id: int, now: datetime) -> bool:
        """Takes up a search that has ended, however that was; whether it had."""
        values: dict[str, object] = {
            "state": SearchState.RUNNING,
            "intent": Intent.RUN,
            "reason": None,
            "finished_at": None,
            "archived_at": None,
        }
        ended = [SearchState.FINISHED, SearchState.FAILED, SearchState.CANCELLED]
        reopened = self._update(search_id, ended, values)
        if reopened:
            self._events.append(EventKind.SEARCH_RESUMED, search_id, now)
        return reopened

    def extend(self, search_id: int, extension: Extension, now: datetime) -> None:
        """Adds to what is to be done; who calls it adds candidates and trials."""
        row = self._session.get_one(SearchRow, search_id)
        content = extension.model_dump(mode="json", exclude_defaults=True)
        row.extensions = [*row.extensions, content]
        self._session.flush()
        self._events.append(EventKind.SEARCH_EXTENDED, search_id, now, **content)

    def say_why(self, search_id: int, reason: str | None) -> None:
        """Puts on a stopped search's record what keeps it from going on; None if nothing does any more."""
        self._update(search_id, [SearchState.STOPPED], {"reason": reason})

    def archive(self, search_id: int, now: datetime, *, archived: bool) -> None:
        """Takes a search out of the lists, or puts it back."""
        row = self._session.get_one(SearchRow, search_id)
        if archived is (row.archived_at is None):
            row.archived_at = now if archived else None
            self._session.flush()
            kind = EventKind.SEARCH_ARCHIVED if archived else EventKind.SEARCH_UNARCHIVED
            self._events.append(kind, search_id, now)

    def begin_to_delete(self, search_id: int, now: datetime) -> None:
        """From now on nothing but its deletion finds the search; its rows stay until its artifacts are gone."""
        row = self._session.get_one(SearchRow, search_id)
        if row.deleted_at is None:
            row.deleted_at = now
            self._session.flush()
            self._events.append(EventKind.SEARCH_DELETED, search_id, now)

    def discard(self, search_id: int) -> None:
        """Deletes a search with all that is on record of it but its events; its jobs' folders stay."""
        jobs = select(JobRow.id).where(JobRow.search_id == search_id)
        candidates = select(CandidateRow.id).where(CandidateRow.search_id == search_id)
        trials = select(TrialRow.id).where(TrialRow.candidate_id.in_(candidates))
        promotions = select(PromotionRow.id).where(PromotionRow.trial_id.in_(trials))
        of_runs = MeasurementRow.trial_id.in_(trials) | MeasurementRow.promotion_id.in_(promotions)
        measurements = select(MeasurementRow.id).where(of_runs)
        for statement in (
            delete(SequenceLossesRow).where(SequenceLossesRow.measurement_id.in_(measurements)),
            delete(MeasurementRow).where(of_runs),
            delete(ModelRow).where(ModelRow.promotion_id.in_(promotions)),
            delete(AttemptRow).where(AttemptRow.job_id.in_(jobs)),
            delete(JobRow).where(JobRow.search_id == search_id),
            delete(PromotionRow).where(PromotionRow.trial_id.in_(trials)),
            delete(DecisionRow).where(DecisionRow.trial_id.in_(trials)),
            delete(TrialRow).where(TrialRow.candidate_id.in_(candidates)),
            delete(CandidateRow).where(CandidateRow.search_id == search_id),
            delete(SearchRow).where(SearchRow.id == search_id),
        ):
            self._session.execute(statement, execution_options={"synchronize_session": False})
        self._session.expire_all()

    def _update(
        self, search_id: int, states: list[SearchState], values: dict[str, object], intents: list[Intent] | None = None
    ) -> bool:
        """Whether the search was in one of these states, with one of these intents if given, and now is as told.

        One statement, so that of a user who cancels and a scheduler that closes only one comes first.
        """
        statement = update(SearchRow).where(SearchRow.id == search_id, SearchRow.state.in_(states)).values(**values)
        if intents is not None:
            statement = statement.where(SearchRow.intent.in_(intents))
        result = self._session.execute(statement)
        return isinstance(result, CursorResult) and result.rowcount == 1

    def _project_id(self, name: str) -> int:
        row = self._session.scalar(select(ProjectRow).where(ProjectRow.name == name))
        if row is None:
            row = ProjectRow(name=name)
            self._session.add(row)
            self._session.flush()
        return row.id


def not_found(name: str) -> NotFoundError:
    return NotFoundError("search", name, "is not there", "the name of a search, as `topiary searches` lists them")


_ASKED = {
    Intent.RUN: EventKind.SEARCH_RESUMED,
    Intent.PAUSE: EventKind.SEARCH_PAUSING,
    Intent.STOP: EventKind.SEARCH_STOPPING,
    Intent.CANCEL: EventKind.SEARCH_CANCELLING,
}


def _record(row: SearchRow) -> SearchRecord:
    return SearchRecord(
        id=row.id,
        name=row.name,
        spec_content=row.spec,
        extensions_content=row.extensions,
        teacher_content=row.teacher,
        teacher_dtype=cast("StoredDtype | None", row.teacher_dtype),
        num_fitting=row.num_fitting,
        state=SearchState(row.state),
        intent=Intent(row.intent),
        reason=row.reason,
        created_at=row.created_at,
        finished_at=row.finished_at,
        archived_at=row.archived_at,
    )
