"""Every query of the store, as methods that hold one session and never commit."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from pydantic import TypeAdapter
from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from api.store.records import CandidateRecord, JobRecord, ModelRecord, PromotionRecord, SearchRecord
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
from nas.architecture import Architecture
from nas.jobs import Exported, Failure, JobProgress, JobResult, JobSpec, JobState, Measurement, check_move
from nas.spec import SearchSpec
from nas.strategy import Advance, Decision
from nas.views import CandidateView, CurvePoint, SearchState

DEFAULT_PROJECT = "default"
_JOB_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
_JOB_RESULT: TypeAdapter[JobResult] = TypeAdapter(JobResult)


@dataclass(frozen=True)
class Curves:
    """The points of every trial and promotion of a search, by id, in the order of tokens."""

    of_trial: dict[int, tuple[CurvePoint, ...]]
    of_promotion: dict[int, tuple[CurvePoint, ...]]


class Repository:
    """All access to the tables, within the transaction of `session`."""

    def __init__(self, session: Session) -> None:
        self._session = session

    # --- searches ---

    def add_search(
        self,
        spec: SearchSpec,
        teacher: Architecture,
        candidates: Sequence[CandidateView],
        now: datetime,
    ) -> int:
        """A new running search with its candidates and a trial for each."""
        search = SearchRow(
            project_id=self._project_id(DEFAULT_PROJECT),
            name=spec.name,
            spec=spec.model_dump(mode="json"),
            teacher=teacher.model_dump(),
            state="running",
            created_at=now,
        )
        self._session.add(search)
        self._session.flush()
        for position, candidate in enumerate(candidates):
            row = CandidateRow(
                search_id=search.id,
                position=position,
                architecture=candidate.architecture.model_dump(),
                parameters=candidate.cost.parameters,
                non_embedding_parameters=candidate.cost.non_embedding_parameters,
            )
            self._session.add(row)
            self._session.flush()
            self._session.add(TrialRow(candidate_id=row.id, seed=spec.seed))
        self._session.flush()
        return search.id

    def search(self, search_id: int) -> SearchRecord:
        return _search_record(self._session.get_one(SearchRow, search_id))

    def search_named(self, name: str) -> SearchRecord | None:
        row = self._session.scalar(select(SearchRow).where(SearchRow.name == name))
        return None if row is None else _search_record(row)

    def searches(self) -> list[SearchRecord]:
        return [_search_record(row) for row in self._session.scalars(select(SearchRow).order_by(SearchRow.id))]

    def running_searches(self) -> list[SearchRecord]:
        rows = self._session.scalars(select(SearchRow).where(SearchRow.state == "running").order_by(SearchRow.id))
        return [_search_record(row) for row in rows]

    def is_untouched(self, search: SearchRecord) -> bool:
        """Whether a search failed before any of its candidates was retrained."""
        return search.state == "failed" and all(job.trial_id is None for job in self.jobs(search.id))

    def discard(self, search_id: int) -> None:
        """Deletes an untouched search with all that hangs on it; the folders of its jobs stay."""
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

    def set_search_state(self, search_id: int, state: SearchState, reason: str | None, now: datetime) -> None:
        row = self._session.get_one(SearchRow, search_id)
        row.state, row.reason = state, reason
        row.finished_at = None if state == "running" else now

    def candidates(self, search_id: int) -> list[CandidateRecord]:
        """In the order of enumeration."""
        rows = self._session.execute(
            select(CandidateRow, TrialRow.id)
            .join(TrialRow, TrialRow.candidate_id == CandidateRow.id)
            .where(CandidateRow.search_id == search_id)
            .order_by(CandidateRow.position)
        )
        return [
            CandidateRecord(
                id=row.id,
                trial_id=trial_id,
                architecture=Architecture.model_validate(row.architecture),
                parameters=row.parameters,
                non_embedding_parameters=row.non_embedding_parameters,
            )
            for row, trial_id in rows
        ]

    def _project_id(self, name: str) -> int:
        row = self._session.scalar(select(ProjectRow).where(ProjectRow.name == name))
        if row is None:
            row = ProjectRow(name=name)
            self._session.add(row)
            self._session.flush()
        return row.id

    # --- decisions, promotions, models ---

    def add_decision(self, decision: Decision, now: datetime) -> None:
        advance = isinstance(decision, Advance)
        self._session.add(
            DecisionRow(
                trial_id=decision.trial_id,
                action="advance" if advance else "stop",
                until_tokens=decision.until_tokens if isinstance(decision, Advance) else None,
                reason=None if isinstance(decision, Advance) else decision.reason,
                made_at=now,
            )
        )

    def told_tokens(self, trial_ids: Iterable[int]) -> dict[int, int]:
        """How far each trial was told to go, 0 where nothing was said."""
        ids = list(trial_ids)
        rows = self._session.execute(
            select(DecisionRow.trial_id, func.max(DecisionRow.until_tokens))
            .where(DecisionRow.trial_id.in_(ids))
            .group_by(DecisionRow.trial_id)
        )
        told = {trial_id: tokens or 0 for trial_id, tokens in rows}
        return {trial_id: told.get(trial_id, 0) for trial_id in ids}

    def add_promotion(self, trial_id: int) -> int:
        row = PromotionRow(trial_id=trial_id)
        self._session.add(row)
        self._session.flush()
        return row.id

    def promotions(self, search_id: int) -> list[PromotionRecord]:
        rows = self._session.scalars(
            select(PromotionRow)
            .join(TrialRow, TrialRow.id == PromotionRow.trial_id)
            .join(CandidateRow, CandidateRow.id == TrialRow.candidate_id)
            .where(CandidateRow.search_id == search_id)
            .order_by(PromotionRow.id)
        )
        return [PromotionRecord(row.id, row.trial_id) for row in rows]

    def add_model(self, promotion_id: int, exported: Exported, now: datetime) -> None:
        self._session.add(
            ModelRow(
                promotion_id=promotion_id,
                folder=exported.folder,
                parameters=exported.parameters,
                loss=exported.loss,
                created_at=now,
            )
        )

    def models(self, promotion_ids: Iterable[int]) -> dict[int, ModelRecord]:
        rows = self._session.scalars(select(ModelRow).where(ModelRow.promotion_id.in_(list(promotion_ids))))
        return {row.promotion_id: ModelRecord(row.promotion_id, row.folder, row.parameters, row.loss) for row in rows}

    # --- jobs and attempts ---

    def add_job(
        self, search_id: int, spec: JobSpec, *, trial_id: int | None = None, promotion_id: int | None = None
    ) -> None:
        self._session.add(
            JobRow(
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
        )
        self._session.flush()

    def job(self, job_id: int) -> JobRecord:
        return _job_record(self._session.get_one(JobRow, job_id), None)

    def jobs(self, search_id: int) -> list[JobRecord]:
        """All jobs of a search with the progress of their current attempts, oldest first."""
        return self._job_records(JobRow.search_id == search_id)

    def jobs_in(self, state: JobState) -> list[JobRecord]:
        """All jobs in this state, oldest first."""
        return self._job_records(JobRow.state == state)

    def start_attempt(self, job_id: int, now: datetime) -> JobRecord:
        """Moves a queued job to running under its next attempt number."""
        row = self._session.get_one(JobRow, job_id)
        self._move(row, JobState.RUNNING)
        row.attempt += 1
        row.reason = None
        self._session.add(AttemptRow(job_id=job_id, number=row.attempt, started_at=now))
        self._session.flush()
        return _job_record(row, None)

    def set_progress(self, job_id: int, attempt: int, progress: JobProgress) -> None:
        self._attempt(job_id, attempt).progress = progress.model_dump()

    def succeed(self, job_id: int, result: JobResult, now: datetime) -> None:
        row = self._session.get_one(JobRow, job_id)
        self._move(row, JobState.SUCCEEDED)
        row.result = result.model_dump(mode="json")
        self._attempt(job_id, row.attempt).ended_at = now

    def give_back(self, job_id: int, failure: Failure, now: datetime, *, to: JobState) -> None:
        """Ends the current attempt without a result; the job is queued again, or failed."""
        row = self._session.get_one(JobRow, job_id)
        self._move(row, to)
        row.reason, row.user_error = failure.reason, failure.user_error
        row.failures += not failure.lost
        attempt = self._attempt(job_id, row.attempt)
        attempt.ended_at, attempt.reason = now, failure.reason

    def retry_failed(self, search_id: int) -> None:
        """Queues the failed jobs of a search again, their failures forgiven; trials only until winners are known."""
        failed = select(JobRow).where(JobRow.search_id == search_id, JobRow.state == JobState.FAILED)
        if self.promotions(search_id):
            failed = failed.where(JobRow.kind != "trial")
        for row in self._session.scalars(failed):
            self._move(row, JobState.QUEUED)
            row.failures = 0

    def _job_records(self, condition: object) -> list[JobRecord]:
        rows = self._session.execute(
            select(JobRow, AttemptRow.progress)
            .outerjoin(AttemptRow, (AttemptRow.job_id == JobRow.id) & (AttemptRow.number == JobRow.attempt))
            .where(condition)  # type: ignore[arg-type]
            .order_by(JobRow.id)
        )
        return [
            _job_record(row, None if progress is None else JobProgress.model_validate(progress))
            for row, progress in rows
        ]

    def _attempt(self, job_id: int, number: int) -> AttemptRow:
        return self._session.scalars(
            select(AttemptRow).where(AttemptRow.job_id == job_id, AttemptRow.number == number)
        ).one()

    @staticmethod
    def _move(row: JobRow, state: JobState) -> None:
        check_move(row.id, JobState(row.state), state)
        row.state = state

    # --- measurements ---

    def record_measurement(self, job: JobRecord, measurement: Measurement) -> None:
        """Adds a point to the job's curve; a point that is there already stays as it is."""
        known = select(MeasurementRow.id).where(
            MeasurementRow.trial_id.is_not_distinct_from(job.trial_id),
            MeasurementRow.promotion_id.is_not_distinct_from(job.promotion_id),
            MeasurementRow.tokens == measurement.tokens,
        )
        if self._session.scalar(known) is not None:
            return
        row = MeasurementRow(
            trial_id=job.trial_id,
            promotion_id=job.promotion_id,
            tokens=measurement.tokens,
            loss=measurement.loss,
            kl_to_teacher=measurement.kl_to_teacher,
        )
        self._session.add(row)
        self._session.flush()
        losses = np.asarray(measurement.loss_per_sequence, dtype="<f4").tobytes()
        self._session.add(SequenceLossesRow(measurement_id=row.id, losses=losses))

    def curves(self, search_id: int) -> Curves:
        of_trial: dict[int, list[CurvePoint]] = defaultdict(list)
        of_promotion: dict[int, list[CurvePoint]] = defaultdict(list)
        trials = (
            select(TrialRow.id)
            .join(CandidateRow, CandidateRow.id == TrialRow.candidate_id)
            .where(CandidateRow.search_id == search_id)
        )
        promotions = select(PromotionRow.id).where(PromotionRow.trial_id.in_(trials))
        rows = self._session.scalars(
            select(MeasurementRow)
            .where(MeasurementRow.trial_id.in_(trials) | MeasurementRow.promotion_id.in_(promotions))
            .order_by(MeasurementRow.tokens)
        )
        for row in rows:
            point = CurvePoint(tokens=row.tokens, loss=row.loss, kl_to_teacher=row.kl_to_teacher)
            if row.trial_id is not None:
                of_trial[row.trial_id].append(point)
            elif row.promotion_id is not None:
                of_promotion[row.promotion_id].append(point)
        return Curves(
            {key: tuple(points) for key, points in of_trial.items()},
            {key: tuple(points) for key, points in of_promotion.items()},
        )


def _search_record(row: SearchRow) -> SearchRecord:
    return SearchRecord(
        id=row.id,
        name=row.name,
        spec=SearchSpec.model_validate(row.spec),
        teacher=Architecture.model_validate(row.teacher),
        state=row.state,  # type: ignore[arg-type]  # held by the table's check constraint
        reason=row.reason,
        created_at=row.created_at,
        finished_at=row.finished_at,
    )


def _job_record(row: JobRow, progress: JobProgress | None) -> JobRecord:
    return JobRecord(
        id=row.id,
        search_id=row.search_id,
        trial_id=row.trial_id,
        promotion_id=row.promotion_id,
        spec=_JOB_SPEC.validate_python(row.spec),
        state=JobState(row.state),
        attempt=row.attempt,
        failures=row.failures,
        result=None if row.result is None else _JOB_RESULT.validate_python(row.result),
        reason=row.reason,
        user_error=row.user_error,
        progress=progress,
    )
