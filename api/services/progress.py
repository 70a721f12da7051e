"""How far a search is: tokens behind it and before it, pace, and the time that is left."""

from collections.abc import Sequence

from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, PromotionRecord, SearchRecord
from nas.extension import promotion_segments, segment_ends
from nas.jobs import JobProgress
from nas.states import Intent, JobState

_GOING_ON = (JobState.RUNNING, JobState.QUEUED, JobState.CANCELLED)


def tokens_done(jobs: Sequence[JobRecord], curves: SearchCurves) -> int:
    """Tokens of all retraining behind a search: each run as far as it was measured, or as far as it has said since."""
    reached: dict[tuple[str, int], int] = {}
    for job in jobs:
        if job.state is JobState.FAILED:
            continue
        if job.kind == "trial" and job.trial_id is not None:
            key, curve = ("trial", job.trial_id), curves.of_trial.get(job.trial_id, ())
        elif job.kind == "promotion" and job.promotion_id is not None:
            key, curve = ("promotion", job.promotion_id), curves.of_promotion.get(job.promotion_id, ())
        else:
            continue
        measured = curve[-1].tokens if curve else 0
        says = 0 if (progress := _retraining(job, *_GOING_ON)) is None else progress.done
        reached[key] = max(reached.get(key, 0), measured, says)
    return sum(reached.values())


def tokens_total(
    search: SearchRecord,
    candidates: Sequence[CandidateRecord],
    jobs: Sequence[JobRecord],
    promotions: Sequence[PromotionRecord],
) -> int:
    """What all trials that have not failed, and the promotions of the winners, come to."""
    spec, length = search.spec, search.spec.data.sequence_length
    failed = {job.trial_id for job in jobs if job.kind == "trial" and job.state is JobState.FAILED}
    running = [[trial for trial in candidate.trials if trial.id not in failed] for candidate in candidates]
    num_trials, num_candidates = sum(map(len, running)), sum(map(bool, running))
    begun = [
        segment_ends(promotion_segments(spec, promotion.extensions), length)[-1]
        for promotion in promotions
        if promotion.intent is not Intent.CANCEL
    ]
    to_come = max(0, min(spec.promotion.winners, num_candidates) - len(promotions))
    return num_trials * search.trial_ends[-1] + sum(begun) + to_come * spec.promotion.actual_tokens(length)


def tokens_per_second(jobs: Sequence[JobRecord]) -> float:
    """The pace of all trials and promotions that run now."""
    told = [_retraining(job, JobState.RUNNING) for job in jobs if job.kind in ("trial", "promotion")]
    return sum(progress.per_second for progress in told if progress is not None)


def _retraining(job: JobRecord, *states: JobState) -> JobProgress | None:
    """How far a trial or promotion in these states says to be; what it does before is counted in something else."""
    progress = job.progress if job.state in states else None
    return progress if progress is not None and progress.unit == "tokens" else None


def seconds_left(tokens: int, per_second: float) -> float | None:
    """None where nothing runs that could tell."""
    return tokens / per_second if per_second > 0 and tokens > 0 else None
