"""What retraining has achieved: tokens and device seconds of trials and promotions that have ended well."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import InstrumentedAttribute, Session

from api.store.tables import AttemptRow, CandidateRow, JobRow, MeasurementRow, PromotionRow, SearchRow, TrialRow
from nas.architecture import Architecture
from nas.states import JobState


@dataclass(frozen=True)
class EndedRun:
    """A trial or promotion. `device_seconds` are those of all attempts at it, and `teacher` is None where none ran."""

    student: Architecture
    teacher: Architecture | None
    sequence_length: int
    tokens: int
    device_seconds: float


def ended_runs(session: Session, most: int) -> list[EndedRun]:
    """The newest trials, and the newest promotions, of which no job is open or failed; `most` of each."""
    trials = _of(session, JobRow.trial_id, MeasurementRow.trial_id, most)
    return [*trials, *_of(session, JobRow.promotion_id, MeasurementRow.promotion_id, most)]


def _of(
    session: Session,
    of_job: InstrumentedAttribute[int | None],
    of_measurement: InstrumentedAttribute[int | None],
    most: int,
) -> Iterator[EndedRun]:
    is_promotion = of_job is JobRow.promotion_id
    seconds, newest = func.sum(AttemptRow.device_seconds), func.max(JobRow.id)
    attempts = AttemptRow.job_id == JobRow.id
    # An attempt of before seconds were kept leaves its run out, and so does one that runs.
    whole = (func.count(AttemptRow.device_seconds) == func.count()) & (seconds > 0)
    open_jobs = select(of_job).where(of_job.is_not(None), JobRow.state != JobState.SUCCEEDED)
    kinds = ("trial", "promotion")
    spent = (
        select(of_job.label("run"), seconds.label("seconds"), newest.label("newest"))
        .join(AttemptRow, attempts)
        .where(of_job.is_not(None), JobRow.kind.in_(kinds), of_job.not_in(open_jobs))
        .group_by(of_job)
        .having(whole)
        .order_by(newest.desc())
        .limit(most)
        .subquery()
    )
    tokens = select(func.max(MeasurementRow.tokens)).where(of_measurement == spent.c.run).scalar_subquery()
    rows = session.execute(
        select(CandidateRow.architecture, SearchRow.teacher, SearchRow.spec, tokens, spent.c.seconds)
        .select_from(spent)
        .join(JobRow, JobRow.id == spent.c.newest)
        .join(PromotionRow, PromotionRow.id == JobRow.promotion_id, isouter=True)
        .join(TrialRow, TrialRow.id == func.coalesce(JobRow.trial_id, PromotionRow.trial_id))
        .join(CandidateRow, CandidateRow.id == TrialRow.candidate_id)
        .join(SearchRow, SearchRow.id == JobRow.search_id)
        .order_by(spent.c.newest)
    )
    for student, teacher, spec, seen, used in rows:
        runs_live = is_promotion or spec.get("trial", {}).get("targets", "live") == "live"
        if seen:
            yield EndedRun(
                student=Architecture.model_validate(student),
                teacher=Architecture.model_validate(teacher) if runs_live else None,
                sequence_length=int(spec["data"]["sequence_length"]),
                tokens=seen,
                device_seconds=used,
            )
