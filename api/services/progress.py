"""How far a search is to go: all its tokens, its pace, and the time that is left. What is behind it: api.spending."""

from collections.abc import Sequence

from api.proposing import num_to_come
from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, PromotionRecord, SearchRecord, seeds_of
from nas.extension import promotion_segments, segment_ends
from nas.jobs import Swept
from nas.states import Intent, JobState, SearchState


def tokens_total(
    search: SearchRecord,
    candidates: Sequence[CandidateRecord],
    jobs: Sequence[JobRecord],
    promotions: Sequence[PromotionRecord],
    curves: SearchCurves,
) -> int:
    """What sweep, all trials and the promotions of the winners come to; what was given up, as far as it came."""
    spec, length = search.spec, search.spec.data.sequence_length
    failed = {job.trial_id for job in jobs if job.kind == "trial" and job.state is JobState.FAILED}
    going_on = [[trial for trial in candidate.trials if trial.id not in failed] for candidate in candidates]
    stopped = {trial.id for candidate in candidates for trial in candidate.trials if trial.stopped is not None}
    num_trials = sum(trial.id not in stopped for trials in going_on for trial in trials)
    num_candidates = sum(map(bool, going_on))
    given_up = [curves.of_trial.get(trial_id or 0, ()) for trial_id in failed | stopped]
    given_up += [curves.of_promotion.get(each.id, ()) for each in promotions if each.intent is Intent.CANCEL]
    begun = [
        segment_ends(promotion_segments(spec, promotion.extensions), length)[-1]
        for promotion in promotions
        if promotion.intent is not Intent.CANCEL
    ]
    # Of a finished search none is: its gate has let nobody through.
    is_finished = search.state is SearchState.FINISHED
    to_come = 0 if is_finished else max(0, min(spec.promotion.winners, num_candidates) - len(promotions))
    behind = sum(curve[-1].tokens for curve in given_up if curve)
    behind += tokens_of_sweep(search, jobs)
    num_trials += _trials_to_come(search, candidates, promotions)
    return num_trials * search.trial_ends[-1] + sum(begun) + to_come * spec.promotion.actual_tokens(length) + behind


def _trials_to_come(
    search: SearchRecord, candidates: Sequence[CandidateRecord], promotions: Sequence[PromotionRecord]
) -> int:
    """Of candidates that are still to be proposed: none once there are winners."""
    if promotions or search.state is SearchState.FINISHED or not candidates:
        return 0
    return num_to_come(search, len(candidates)) * len(seeds_of(candidates))


def tokens_of_sweep(search: SearchRecord, jobs: Sequence[JobRecord]) -> int:
    """Of all its rates: as many as it took, or is to take; 0 without one."""
    result = next((job.result for job in jobs if job.kind == "sweep"), None)
    return result.tokens if isinstance(result, Swept) else len(search.spec.trial.learning_rates) * search.trial_ends[0]


def tokens_per_second(jobs: Sequence[JobRecord]) -> float:
    """The pace of all retraining that runs now."""
    running = [job for job in jobs if job.state is JobState.RUNNING]
    told = [job.progress for job in running if job.kind in ("sweep", "trial", "promotion")]
    # What they do before they retrain is counted in something else.
    return sum(progress.per_second for progress in told if progress is not None and progress.unit == "tokens")


def seconds_left(tokens: int, per_second: float) -> float | None:
    """None where nothing runs that could tell."""
    return tokens / per_second if per_second > 0 and tokens > 0 else None
