"""Jobs and their attempts: the queue.

Every change of a state is one conditional statement, so a report of an attempt that is no longer its job's current,
running one changes nothing, whoever brings it and whenever.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.engine import CursorResult
from sqlalchemy.orm import Session

from api.store.events import Events, trial_of
from api.store.records import AttemptRecord, JobRecord, LiveAttempt
from api.store.tables import AttemptRow, JobRow, PromotionRow
from nas.errors import NotFoundError
from nas.jobs import Failure, JobProgress, JobResult, JobSpec
from nas.states import AttemptState, JobState, check_move
from nas.views import EventKind

_CLAIMED_AT_ONCE = 32
"""Of one search, in one step."""


class Jobs:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._events = Events(session)

    # --- what there is ---

    def add(
        self,
        search_id: int,
        spec: JobSpec,
        now: datetime,
        *,
        trial_id: int | None = None,
        promotion_id: int | None = None,
    ) -> None:
        row = JobRow(
            search_id=search_id,
            trial_id=trial_id,
            promotion_id=promotion_id,
            kind=spec.kind,
            spec=spec.model_dump(mode="json"),
            state=JobState.QUEUED,
            attempt=0,
            failures=0,
            user_error=False,
        )
        self._session.add(row)
        self._session.flush()
        self._tell(row, EventKind.JOB_QUEUED, now, reason=None)

    def get(self, job_id: int) -> JobRecord:
        return _job_record(self._session.get_one(JobRow, job_id), None)

    def of_search(self, search_id: int) -> list[JobRecord]:
        """All jobs of a search with the progress of their current attempts, oldest first."""
        return self._records(JobRow.search_id == search_id)

    def queued(self, search_ids: Sequence[int]) -> list[JobRecord]:
        """Jobs that wait, oldest first: of each of these searches the first few, so that none hides another's."""
        place = func.row_number().over(partition_by=JobRow.search_id, order_by=JobRow.id)
        waiting = (
            select(JobRow.id, place.label("place"))
            .where(JobRow.state == JobState.QUEUED, JobRow.search_id.in_(search_ids))
            .subquery()
        )
        return self._records(JobRow.id.in_(select(waiting.c.id).where(waiting.c.place <= _CLAIMED_AT_ONCE)))

    def live(self) -> list[LiveAttempt]:
        """Every attempt that runs according to the store, oldest job first."""
        rows = self._session.execute(
            select(JobRow.id, JobRow.attempt, AttemptRow.lease_until)
            .join(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.number == JobRow.attempt))
            .where(JobRow.state == JobState.RUNNING)
            .order_by(JobRow.id)
        )
        return [LiveAttempt(*row) for row in rows]

    def attempts(self, condition: ColumnElement[bool]) -> list[AttemptRecord]:
        """Attempts of the jobs that fulfil a condition, by job, then by number."""
        rows = self._session.execute(
            select(AttemptRow, JobRow)
            .join(JobRow, JobRow.id == AttemptRow.job_id)
            .where(condition)
            .order_by(AttemptRow.job_id, AttemptRow.number)
        )
        return [
            AttemptRecord(
                job_id=job.id,
                kind=job.kind,
                trial_id=job.trial_id,
                promotion_id=job.promotion_id,
                number=row.number,
                state=AttemptState(row.state),
                folder=row.folder,
                started_at=row.started_at,
                ended_at=row.ended_at,
                reason=row.reason,
            )
            for row, job in rows
        ]

    def attempts_of_search(self, search_id: int) -> list[AttemptRecord]:
        return self.attempts(JobRow.search_id == search_id)

    def attempts_of_candidate(self, trial_id: int) -> list[AttemptRecord]:
        """All tries at a trial, at its promotion, and at that one's export."""
        promotions = select(PromotionRow.id).where(PromotionRow.trial_id == trial_id)
        return self.attempts((JobRow.trial_id == trial_id) | JobRow.promotion_id.in_(promotions))

    def attempt(self, job_id: int, number: int) -> AttemptRecord:
        """Raises NotFoundError."""
        found = self.attempts((JobRow.id == job_id) & (AttemptRow.number == number))
        if not found:
            raise NotFoundError("attempt", f"{number} of job {job_id}", "is not there", "an attempt of a candidate")
        return found[0]

    def attempts_of_run(self, job: JobRecord) -> list[AttemptRecord]:
        """Attempts at the same trial or promotion, whichever of its jobs they belong to; the job's current one last."""
        same_run = JobRow.id == job.id
        if job.trial_id is not None or job.promotion_id is not None:
            same_run = (
                (JobRow.kind == job.kind)
                & JobRow.trial_id.is_not_distinct_from(job.trial_id)
                & JobRow.promotion_id.is_not_distinct_from(job.promotion_id)
            )
        return self.attempts(same_run & (JobRow.id <= job.id))

    # --- how it changes ---

    def start_attempt(self, job: JobRecord, folder: str, now: datetime, lease_until: datetime) -> JobRecord | None:
        """Moves a queued job to running under its next attempt number; None if it is queued no more."""
        number = job.attempt + 1
        moved = self._change(
            (JobRow.id == job.id) & (JobRow.state == JobState.QUEUED) & (JobRow.attempt == job.attempt),
            state=JobState.RUNNING,
            attempt=number,
            reason=None,
        )
        if not moved:
            return None
        self._session.add(
            AttemptRow(
                job_id=job.id,
                number=number,
                state=AttemptState.RUNNING,
                folder=folder,
                started_at=now,
                lease_until=lease_until,
            )
        )
        self._session.flush()
        row = self._session.get_one(JobRow, job.id)
        self._tell(row, EventKind.JOB_STARTED, now, attempt=number)
        return _job_record(row, None)

    def is_current(self, job_id: int, attempt: int) -> bool:
        """Whether this attempt is the one that its job runs under; locks the job's row."""
        query = select(JobRow.id).where(_current(job_id, attempt)).with_for_update()
        return self._session.scalar(query) is not None

    def hear(self, job_id: int, attempt: int, progress: JobProgress | None, lease_until: datetime) -> None:
        """A sign of life, and how far the attempt is if that is new."""
        values: dict[str, Any] = {"lease_until": lease_until}
        if progress is not None:
            values["progress"] = progress.model_dump()
        self._session.execute(
            update(AttemptRow).where(AttemptRow.job_id == job_id, AttemptRow.number == attempt).values(**values)
        )

    def succeed(self, job_id: int, attempt: int, result: JobResult, now: datetime) -> bool:
        """Whether the attempt was current; if not, its result is refused."""
        done = self._change(
            _current(job_id, attempt), state=JobState.SUCCEEDED, result=result.model_dump(mode="json"), reason=None
        )
        if done:
            self._end_attempt(job_id, attempt, AttemptState.SUCCEEDED, None, now)
            row = self._session.get_one(JobRow, job_id)
            self._tell(row, EventKind.JOB_ENDED, now, attempt=attempt, state=JobState.SUCCEEDED, reason=None)
        return done

    def give_back(self, job_id: int, attempt: int, failure: Failure, now: datetime, *, to: JobState) -> bool:
        """Ends a current attempt without a result; the job is queued again, failed or cancelled."""
        check_move(job_id, JobState.RUNNING, to)
        done = self._change(
            _current(job_id, attempt),
            state=to,
            reason=failure.reason,
            user_error=failure.user_error,
            failures=JobRow.failures + (0 if failure.lost else 1),
        )
        if done:
            state = AttemptState.LOST if failure.lost else AttemptState.FAILED
            ended = AttemptState.CANCELLED if to is JobState.CANCELLED else state
            self._end_attempt(job_id, attempt, ended, failure.reason, now)
            row = self._session.get_one(JobRow, job_id)
            if to is JobState.QUEUED:
                self._tell(row, EventKind.JOB_QUEUED, now, reason=failure.reason)
            else:
                self._tell(row, EventKind.JOB_ENDED, now, attempt=attempt, state=to, reason=failure.reason)
        return done

    def cancel_all(self, search_id: int, now: datetime) -> list[tuple[int, int]]:
        """Cancels what a search has queued or running; returns (job, attempt) of what ran."""
        ran = []
        for job in self._records(
            (JobRow.search_id == search_id) & JobRow.state.in_([JobState.QUEUED, JobState.RUNNING])
        ):
            cancelled = Failure(reason="the search was cancelled", lost=True)
            if job.state is JobState.RUNNING:
                if self.give_back(job.id, job.attempt, cancelled, now, to=JobState.CANCELLED):
                    ran.append((job.id, job.attempt))
            elif self._change(
                (JobRow.id == job.id) & (JobRow.state == JobState.QUEUED),
                state=JobState.CANCELLED,
                reason=cancelled.reason,
            ):
                row = self._session.get_one(JobRow, job.id)
                state = JobState.CANCELLED
                self._tell(row, EventKind.JOB_ENDED, now, attempt=row.attempt, state=state, reason=row.reason)
        return ran

    def retry(self, search_id: int, now: datetime, *, trials_too: bool) -> None:
        """Queues the failed and cancelled jobs of a search again, their failures forgiven."""
        ended = (JobRow.search_id == search_id) & JobRow.state.in_([JobState.FAILED, JobState.CANCELLED])
        for row in self._session.scalars(
            select(JobRow).where(ended if trials_too else ended & (JobRow.kind != "trial"))
        ):
            check_move(row.id, JobState(row.state), JobState.QUEUED)
            row.state, row.failures, row.user_error = JobState.QUEUED, 0, False
            self._session.flush()
            self._tell(row, EventKind.JOB_QUEUED, now, reason=row.reason)

    # --- how that is done ---

    def _change(self, condition: ColumnElement[bool], **values: object) -> bool:
        """Whether the one row was as the condition says, and now is as the values say."""
        result = self._session.execute(update(JobRow).where(condition).values(**values))
        return isinstance(result, CursorResult) and result.rowcount == 1

    def _end_attempt(self, job_id: int, number: int, state: AttemptState, reason: str | None, now: datetime) -> None:
        self._session.execute(
            update(AttemptRow)
            .where(AttemptRow.job_id == job_id, AttemptRow.number == number)
            .values(state=state, ended_at=now, reason=reason)
        )

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


def _current(job_id: int, attempt: int) -> ColumnElement[bool]:
    return (JobRow.id == job_id) & (JobRow.attempt == attempt) & (JobRow.state == JobState.RUNNING)


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
        result_content=row.result,
        reason=row.reason,
        user_error=row.user_error,
        progress=progress,
    )
