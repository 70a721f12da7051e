"""A sweep of peak learning rates: asked for before the trials, which then all use the rate that it has chosen."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from api.answers import TeachersAnswers
from api.groundwork import Groundwork
from api.store.records import CandidateRecord, JobRecord, SearchRecord
from api.store.store import Store
from api.trial_jobs import trial_job
from nas.jobs import Sweep, Swept


def swept(
    store: Store,
    search: SearchRecord,
    groundwork: Groundwork,
    answers: TeachersAnswers,
    jobs: Sequence[JobRecord],
    now: datetime,
) -> Groundwork | None:
    """The groundwork with the rate of the trials; None while that is not known, and the sweep is asked for once.

    `jobs` are the search's jobs but trials.
    """
    if not search.spec.trial.learning_rates:
        return groundwork
    job = next((job for job in jobs if job.kind == "sweep"), None)
    if job is None:
        _ask(store, search, groundwork, answers, now)
        return None
    return replace(groundwork, swept=job.result) if isinstance(job.result, Swept) else None


def _ask(store: Store, search: SearchRecord, groundwork: Groundwork, answers: TeachersAnswers, now: datetime) -> None:
    """Adds the job, of a first trial over the whole budget; waits for the teacher's answers where trials have them."""
    candidate = middle(store.candidates.of_search(search.id))
    segment, spec = trial_job(search, groundwork, candidate, candidate.trials[0], (), 0, search.trial_ends[0])
    if not answers.is_live:
        spec = spec.model_copy(update={"answers": answers.of(spec.seed, segment)})
        if spec.answers is None:
            return
    training = spec.training.model_copy(update={"text_samples": 0})
    sweep = Sweep(trial=spec.model_copy(update={"training": training}), rates=search.spec.trial.learning_rates)
    store.jobs.add(search.id, sweep, now)


def middle(candidates: Sequence[CandidateRecord]) -> CandidateRecord:
    """The candidate with the median of parameters, of two in the middle the smaller, of equal ones the first."""
    median = sorted(candidate.parameters for candidate in candidates)[(len(candidates) - 1) // 2]
    return next(candidate for candidate in candidates if candidate.parameters == median)
