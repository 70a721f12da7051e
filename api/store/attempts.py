"""Attempts: every try at every job, what runs now, and what it has used."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, func, select, update
from sqlalchemy.orm import Session

from api.store.records import AttemptRecord, JobRecord, LiveAttempt
from api.store.tables import AttemptRow, JobRow, MeasurementRow, PromotionRow
from nas.errors import NotFoundError
from nas.jobs import JobProgress
from nas.pool import Resources
from nas.states import AttemptState, JobState


class Attempts:
    def __init__(self, session: Session) -> None:
        self._session = session

    # --- what there is ---

    def live(self) -> list[LiveAttempt]:
        """Every attempt that runs according to the store, oldest job first."""
        rows = self._session.execute(
            select(JobRow.id, JobRow.attempt, JobRow.search_id, JobRow.promotion_id, AttemptRow.lease_until)
            .join(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.number == JobRow.attempt))
            .where(JobRow.state == JobState.RUNNING)
            .order_by(JobRow.id)
        )
        return [LiveAttempt(*row) for row in rows]

    def of_search(self, search_id: int) -> list[AttemptRecord]:
        """All tries at all its jobs, by job, then by number."""
        return self._records(JobRow.search_id == search_id)

    def of_candidate(self, trial_ids: Sequence[int]) -> list[AttemptRecord]:
        """All tries at a candidate's trials, at its promotion, and at that one's export."""
        promotions = select(PromotionRow.id).where(PromotionRow.trial_id.in_(trial_ids))
        return self._records(JobRow.trial_id.in_(trial_ids) | JobRow.promotion_id.in_(promotions))

    def of_run(self, job: JobRecord) -> list[AttemptRecord]:
        """Attempts at the same segment of a trial or promotion, whichever jobs they are of; the job's newest last."""
        same_run = JobRow.id == job.id
        if job.promotion_id is not None:
            same_run = JobRow.promotion_id == job.promotion_id
        elif job.trial_id is not None:
            same_run = JobRow.trial_id == job.trial_id
        return self._records(
            same_run & (JobRow.kind == job.kind) & (JobRow.segment == job.segment) & (JobRow.id <= job.id)
        )

    def one(self, job_id: int, number: int) -> AttemptRecord:
        """Raises NotFoundError."""
        found = self._records((JobRow.id == job_id) & (AttemptRow.number == number))
        if not found:
            raise NotFoundError("attempt", f"{number} of job {job_id}", "is not there", "an attempt of a candidate")
        return found[0]

    def device_seconds(self, search_id: int, now: datetime) -> float:
        """What all attempts of a search have used of devices until now."""
        of_search = select(AttemptRow).join(JobRow, JobRow.id == AttemptRow.job_id).where(JobRow.search_id == search_id)
        ended = self._session.scalar(of_search.with_only_columns(func.sum(AttemptRow.device_seconds)))
        running = self._session.scalars(of_search.where(AttemptRow.state == AttemptState.RUNNING))
        return (ended or 0.0) + sum(row.devices * max(0.0, (now - row.started_at).total_seconds()) for row in running)

    def tokens_not_measured(self, search_id: int) -> int:
        """How far retraining that did not come to its end said to be beyond its last measurement; a sweep has none."""
        rows = self._session.execute(
            select(AttemptRow.progress, JobRow.trial_id, JobRow.promotion_id)
            .join(JobRow, JobRow.id == AttemptRow.job_id)
            .where(
                JobRow.search_id == search_id,
                JobRow.state != JobState.SUCCEEDED,
                JobRow.kind.in_(["sweep", "trial", "promotion"]),
                AttemptRow.progress.is_not(None),
            )
        )
        furthest: dict[tuple[int | None, int | None], int] = {}
        for content, *run in rows:
            progress = JobProgress.model_validate(content)
            if progress.unit == "tokens":
                furthest[run[0], run[1]] = max(furthest.get((run[0], run[1]), 0), progress.done)
        return sum(max(0, done - self._measured(*run)) for run, done in furthest.items())

    def _measured(self, trial_id: int | None, promotion_id: int | None) -> int:
        if trial_id is None and promotion_id is None:
            return 0
        own = MeasurementRow.trial_id == trial_id
        if promotion_id is not None:
            own = MeasurementRow.promotion_id == promotion_id
        return self._session.scalar(select(func.max(MeasurementRow.tokens)).where(own)) or 0

    def is_further(self, job_id: int, number: int, progress: JobProgress | None) -> bool:
        """Whether an attempt says to be further than any earlier one at its job had said."""
        if progress is None:
            return False
        earlier = self._session.scalars(
            select(AttemptRow.progress).where(
                AttemptRow.job_id == job_id, AttemptRow.number < number, AttemptRow.progress.is_not(None)
            )
        )
        told = [JobProgress.model_validate(content) for content in earlier]
        return all(progress.done > each.done for each in told if each.unit == progress.unit)

    # --- how it changes ---

    def begin(
        self, job_id: int, number: int, folder: str, wanted: Resources, now: datetime, lease_until: datetime
    ) -> None:
        """A new running attempt; the store refuses a second one at the same job."""
        self._session.add(
            AttemptRow(
                job_id=job_id,
                number=number,
                state=AttemptState.RUNNING,
                folder=folder,
                # What reserves no GPU, or leaves it to the cluster, counts as one device.
                devices=wanted.gpus or 1.0,
                started_at=now,
                lease_until=lease_until,
            )
        )
        self._session.flush()

    def hear(
        self,
        job_id: int,
        number: int,
        lease_until: datetime,
        *,
        progress: JobProgress | None = None,
        node: str | None = None,
    ) -> None:
        """A sign of life, and how far the attempt is and where it runs, if that is new."""
        values: dict[str, Any] = {"lease_until": lease_until}
        if progress is not None:
            values["progress"] = progress.model_dump()
        if node is not None:
            values["node"] = node
        self._session.execute(
            update(AttemptRow)
            .where(AttemptRow.job_id == job_id, AttemptRow.number == number, AttemptRow.state == AttemptState.RUNNING)
            .values(**values)
        )

    def end(self, job_id: int, number: int, state: AttemptState, reason: str | None, now: datetime) -> None:
        """Ends a running attempt; one that has ended stays as it is."""
        row = self._session.scalar(
            select(AttemptRow)
            .where(AttemptRow.job_id == job_id, AttemptRow.number == number, AttemptRow.state == AttemptState.RUNNING)
            .execution_options(populate_existing=True)
        )
        if row is not None:
            row.state, row.reason, row.ended_at = state, reason, now
            row.device_seconds = row.devices * max(0.0, (now - row.started_at).total_seconds())
            self._session.flush()

    def _records(self, condition: ColumnElement[bool]) -> list[AttemptRecord]:
        rows = self._session.execute(
            select(AttemptRow, JobRow.kind, JobRow.trial_id, JobRow.promotion_id)
            .join(JobRow, JobRow.id == AttemptRow.job_id)
            .where(condition)
            .order_by(AttemptRow.job_id, AttemptRow.number)
        )
        return [
            AttemptRecord(
                job_id=row.job_id,
                kind=kind,
                trial_id=trial_id,
                promotion_id=promotion_id,
                number=row.number,
                state=AttemptState(row.state),
                node=row.node,
                folder=row.folder,
                started_at=row.started_at,
                ended_at=row.ended_at,
                reason=row.reason,
            )
            for row, kind, trial_id, promotion_id in rows
        ]
