"""Jobs: the queue.

Every change of a state is one conditional statement, so a report of an attempt that is no longer its job's current,
running one changes nothing, whoever brings it and whenever.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, insert, or_, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from api.store.attempts import Attempts
from api.store.events import Events, trial_of
from api.store.records import JobRecord
from api.store.tables import AttemptRow, JobRow, PromotionRow
from nas.jobs import JobProgress, JobResult, JobSpec, Swept, Trial
from nas.pool import Failure, resources_of
from nas.states import AttemptState, Intent, JobState, check_move
from nas.views import EventKind

_CLAIMED_AT_ONCE = 32
"""Of one search, in one step."""


@dataclass(frozen=True)
class NewTrial:
    """A job to be added for a trial."""

    trial_id: int
    candidate_id: int
    segment: int
    spec: Trial


class Jobs:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)
        self._attempts = Attempts(session)

    # --- what there is ---

    def add(
        self,
        search_id: int,
        spec: JobSpec,
        now: datetime,
        *,
        trial_id: int | None = None,
        promotion_id: int | None = None,
        segment: int = 0,
    ) -> None:
        row = JobRow(**_new(search_id, spec, trial_id=trial_id, promotion_id=promotion_id, segment=segment))
        self._session.add(row)
        self._session.flush()
        self._tell(row, EventKind.JOB_QUEUED, now, reason=None)

    def add_trials(self, search_id: int, trials: Sequence[NewTrial], now: datetime) -> None:
        """Jobs for trials, all at once: there may be thousands."""
        if not trials:
            return
        rows = [_new(search_id, new.spec, trial_id=new.trial_id, segment=new.segment) for new in trials]
        ids = self._session.scalars(insert(JobRow).returning(JobRow.id, sort_by_parameter_order=True), rows)
        for job_id, new in zip(ids, trials, strict=True):
            told: dict[str, Any] = {"candidate_id": new.candidate_id, "job_id": job_id, "job_kind": "trial"}
            self._events.append(EventKind.JOB_QUEUED, search_id, now, **told, reason=None)

    def get(self, job_id: int) -> JobRecord:
        return _job_record(self._session.get_one(JobRow, job_id), None)

    def numbers(self) -> set[int]:
        """Of all jobs on record."""
        return set(self._session.scalars(select(JobRow.id)))

    def of_search(self, search_id: int) -> list[JobRecord]:
        """All jobs of a search with the progress of their current attempts, oldest first."""
        return self._records(JobRow.search_id == search_id)

    def but_trials(self, search_id: int) -> list[JobRecord]:
        """The few jobs of a search that are no trials, oldest first."""
        return self._records((JobRow.search_id == search_id) & JobRow.trial_id.is_(None))

    def of_trials(self, search_id: int) -> list[JobRecord]:
        """The jobs of a search's trials, oldest first."""
        return self._records((JobRow.search_id == search_id) & JobRow.trial_id.is_not(None))

    def num_retrained(self, search_id: int) -> int:
        """How many jobs of a search's trials ended well."""
        done = (JobRow.search_id == search_id) & (JobRow.state == JobState.SUCCEEDED) & (JobRow.kind == "trial")
        return self._session.scalar(select(func.count()).select_from(JobRow).where(done)) or 0

    def swept(self, search_id: int) -> Swept | None:
        """What a search's sweep came to; None without one, or before its end."""
        done = (JobRow.search_id == search_id) & (JobRow.state == JobState.SUCCEEDED) & (JobRow.kind == "sweep")
        result = self._session.scalar(select(JobRow.result).where(done))
        return None if result is None else Swept.model_validate(result)

    def first_broken(self, search_id: int) -> JobRecord | None:
        """The first failed job that a search cannot finish without: no trial, nor of a promotion that was cancelled."""
        given_up = select(PromotionRow.id).where(PromotionRow.intent == Intent.CANCEL)
        is_needed = JobRow.promotion_id.is_(None) | JobRow.promotion_id.not_in(given_up)
        failed = JobRow.trial_id.is_(None) & (JobRow.state == JobState.FAILED) & is_needed
        return next(iter(self._records((JobRow.search_id == search_id) & failed)), None)

    def any_open(self, search_id: int, *, trials_only: bool = False) -> bool:
        """Whether any job of a search, or of its trials, is queued or running."""
        is_open = JobRow.state.in_([JobState.QUEUED, JobState.RUNNING])
        query = select(JobRow.id).where(JobRow.search_id == search_id, is_open).limit(1)
        return self._session.scalar(query.where(JobRow.trial_id.is_not(None)) if trials_only else query) is not None

    def queued(self, search_id: int, now: datetime) -> list[JobRecord]:
        """The first few jobs of a search that wait to be started and may be, oldest first.

        A job that has failed waits for a while; one of a promotion that its user holds back, for the user.
        """
        held_back = select(PromotionRow.id).where(PromotionRow.intent != Intent.RUN)
        rows = self._session.scalars(
            select(JobRow)
            .where(
                JobRow.search_id == search_id,
                JobRow.state == JobState.QUEUED,
                or_(JobRow.not_before.is_(None), JobRow.not_before <= now),
                or_(JobRow.promotion_id.is_(None), JobRow.promotion_id.not_in(held_back)),
            )
            .order_by(JobRow.id)
            .limit(_CLAIMED_AT_ONCE)
        )
        return [_job_record(row, None) for row in rows]

    # --- how it changes ---

    def start_attempt(self, job: JobRecord, folder: str, now: datetime, lease_until: datetime) -> JobRecord | None:
        """Moves a queued job to running under its next attempt number; None if it is queued no more."""
        number = job.attempt + 1
        moved = self._change(
            (JobRow.id == job.id) & (JobRow.state == JobState.QUEUED) & (JobRow.attempt == job.attempt),
            state=JobState.RUNNING,
            attempt=number,
            not_before=None,
            reason=None,
        )
        if not moved:
            return None
        self._attempts.begin(job.id, number, folder, resources_of(job.spec), now, lease_until)
        row = self._session.get_one(JobRow, job.id)
        self._tell(row, EventKind.JOB_STARTED, now, attempt=number)
        return _job_record(row, None)

    def is_current(self, job_id: int, attempt: int) -> bool:
        """Whether this attempt is the one that its job runs under; locks the job's row."""
        query = select(JobRow.id).where(_current(job_id, attempt)).with_for_update()
        return self._session.scalar(query) is not None

    def got_on(self, job_id: int) -> None:
        """Forgives the losses of a job that has come further."""
        self._change((JobRow.id == job_id) & (JobRow.state == JobState.RUNNING) & (JobRow.losses > 0), losses=0)

    def say_why(self, job_id: int, reason: str) -> None:
        """Puts on a queued job's record why it waits."""
        self._change((JobRow.id == job_id) & (JobRow.state == JobState.QUEUED), reason=reason)

    def succeed(self, job_id: int, attempt: int, result: JobResult, now: datetime) -> bool:
        """Whether the attempt was current; if not, its result is refused."""
        done = self._change(
            _current(job_id, attempt), state=JobState.SUCCEEDED, result=result.model_dump(mode="json"), reason=None
        )
        if done:
            self._attempts.end(job_id, attempt, AttemptState.SUCCEEDED, None, now)
            row = self._session.get_one(JobRow, job_id)
            self._tell(row, EventKind.JOB_ENDED, now, attempt=attempt, state=JobState.SUCCEEDED, reason=None)
        return done

    def give_back(
        self,
        job_id: int,
        attempt: int,
        failure: Failure,
        now: datetime,
        *,
        to: JobState,
        not_before: datetime | None = None,
    ) -> bool:
        """Ends a current attempt without a result; the job is failed, cancelled, or queued, not before some time."""
        check_move(job_id, JobState.RUNNING, to)
        counts = to is not JobState.CANCELLED and not failure.interrupted
        done = self._change(
            _current(job_id, attempt),
            state=to,
            reason=failure.reason,
            user_error=failure.user_error,
            failures=JobRow.failures + int(counts and not failure.lost),
            losses=JobRow.losses + int(counts and failure.lost),
            not_before=not_before,
        )
        if done:
            self._attempts.end(job_id, attempt, _ended(failure, to), failure.reason, now)
            row = self._session.get_one(JobRow, job_id)
            if to is JobState.QUEUED:
                self._tell(row, EventKind.JOB_QUEUED, now, reason=failure.reason)
            else:
                self._tell(row, EventKind.JOB_ENDED, now, attempt=attempt, state=to, reason=failure.reason)
        return done

    def cancel_all(self, search_id: int, now: datetime) -> list[tuple[int, int]]:
        """Cancels what a search has queued or running; returns (job, attempt) of what ran."""
        return self._cancel(JobRow.search_id == search_id, "the search was cancelled", now)

    def cancel_promotion(self, promotion_id: int, now: datetime) -> list[tuple[int, int]]:
        """The same of a promotion."""
        return self._cancel(JobRow.promotion_id == promotion_id, "the promotion was cancelled", now)

    def retry(
        self,
        search_id: int,
        now: datetime,
        *,
        states: Sequence[JobState] = (JobState.FAILED, JobState.CANCELLED),
        only: Sequence[int] | None = None,
    ) -> int:
        """Queues the jobs of a search that ended in these states again, their failures forgiven; returns how many.

        Not those of promotions that were cancelled by themselves. `only` are the ids of trials whose jobs are meant.
        """
        cancelled = select(PromotionRow.id).where(PromotionRow.intent == Intent.CANCEL)
        of_promotion = JobRow.promotion_id.is_(None) | JobRow.promotion_id.not_in(cancelled)
        ended = (JobRow.search_id == search_id) & JobRow.state.in_(states) & of_promotion
        return self._retry(ended if only is None else ended & JobRow.trial_id.in_(only), now)

    def retry_promotion(self, promotion_id: int, now: datetime) -> int:
        """The same of a promotion."""
        ended = JobRow.state.in_([JobState.FAILED, JobState.CANCELLED])
        return self._retry((JobRow.promotion_id == promotion_id) & ended, now)

    # --- how that is done ---

    def _cancel(self, condition: ColumnElement[bool], why: str, now: datetime) -> list[tuple[int, int]]:
        ran = []
        cancelled = Failure(reason=why, lost=True)
        for job in self._records(condition & JobRow.state.in_([JobState.QUEUED, JobState.RUNNING])):
            if job.state is JobState.RUNNING:
                if self.give_back(job.id, job.attempt, cancelled, now, to=JobState.CANCELLED):
                    ran.append((job.id, job.attempt))
            elif self._change(
                (JobRow.id == job.id) & (JobRow.state == JobState.QUEUED), state=JobState.CANCELLED, reason=why
            ):
                row = self._session.get_one(JobRow, job.id)
                self._tell(row, EventKind.JOB_ENDED, now, attempt=row.attempt, state=JobState.CANCELLED, reason=why)
        return ran

    def _retry(self, condition: ColumnElement[bool], now: datetime) -> int:
        rows = self._session.scalars(select(JobRow).where(condition).order_by(JobRow.id)).all()
        for row in rows:
            check_move(row.id, JobState(row.state), JobState.QUEUED)
            # Why it had failed is of interest until it has ended well; that it was cancelled is over.
            row.reason = row.reason if row.state == JobState.FAILED else None
            row.state, row.failures, row.losses, row.not_before = JobState.QUEUED, 0, 0, None
            row.user_error = False
            self._session.flush()
            self._tell(row, EventKind.JOB_QUEUED, now, reason=row.reason)
        return len(rows)

    def _change(self, condition: ColumnElement[bool], **values: object) -> bool:
        """Whether the one row was as the condition says, and now is as the values say."""
        result = self._session.execute(update(JobRow).where(condition).values(**values))
        return isinstance(result, CursorResult) and result.rowcount == 1

    def _tell(self, row: JobRow, event: EventKind, now: datetime, **data: Any) -> None:
        trial_id = trial_of(self._session, row.trial_id, row.promotion_id)
        self._events.append(event, row.search_id, now, trial_id=trial_id, job_id=row.id, job_kind=row.kind, **data)

    def _records(self, condition: ColumnElement[bool]) -> list[JobRecord]:
        rows = self._session.execute(
            select(JobRow, AttemptRow.progress)
            .outerjoin(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.number == JobRow.attempt))
            .where(condition)
            .order_by(JobRow.id)
        )
        return [
            _job_record(row, None if progress is None else JobProgress.model_validate(progress))
            for row, progress in rows
        ]


def _new(
    search_id: int, spec: JobSpec, *, trial_id: int | None, promotion_id: int | None = None, segment: int
) -> dict[str, Any]:
    return {
        "search_id": search_id,
        "trial_id": trial_id,
        "promotion_id": promotion_id,
        "kind": spec.kind,
        "spec": spec.model_dump(mode="json"),
        "state": JobState.QUEUED,
        "attempt": 0,
        "failures": 0,
        "losses": 0,
        "segment": segment,
        "user_error": False,
    }


def _current(job_id: int, attempt: int) -> ColumnElement[bool]:
    return (JobRow.id == job_id) & (JobRow.attempt == attempt) & (JobRow.state == JobState.RUNNING)


def _ended(failure: Failure, to: JobState) -> AttemptState:
    if to is JobState.CANCELLED:
        return AttemptState.CANCELLED
    if failure.interrupted:
        return AttemptState.INTERRUPTED
    return AttemptState.LOST if failure.lost else AttemptState.FAILED


def _job_record(row: JobRow, progress: JobProgress | None) -> JobRecord:
    return JobRecord(
        id=row.id,
        search_id=row.search_id,
        trial_id=row.trial_id,
        promotion_id=row.promotion_id,
        kind=row.kind,
        spec_content=row.spec,
        state=JobState(row.state),
        attempt=row.attempt,
        failures=row.failures,
        losses=row.losses,
        segment=row.segment,
        result_content=row.result,
        reason=row.reason,
        user_error=row.user_error,
        not_before=row.not_before,
        progress=progress,
    )
