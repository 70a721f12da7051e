"""What comes next in a search: data, the teacher's correction, its calibration, a sweep, trials, and their winners.

`advance` looks at what is on record and adds what is missing; called again without news it adds nothing.
"""

from datetime import datetime

from api.answers import TeachersAnswers
from api.calibration_jobs import calibrate_jobs, merge_job, search_tokens
from api.correction import correction_of, is_ready
from api.deciding import decisions, told_by
from api.groundwork import Groundwork
from api.proposing import add_proposed
from api.store.jobs import NewTrial
from api.store.records import JobRecord, SearchRecord
from api.store.store import Store
from api.sweep import swept
from api.trial_jobs import trial_job
from api.winners import promote
from nas.errors import TeacherError, UserError
from nas.jobs import Calibrated, DataPrepared, PrepareData, ScoresMerged
from nas.states import JobState, SearchState


def advance(store: Store, search: SearchRecord, now: datetime) -> None:
    """Brings one running search as far as it can go without another result."""
    jobs = store.jobs.but_trials(search.id)
    data = next((job.result for job in jobs if isinstance(job.result, DataPrepared)), None)
    if not jobs:
        _add_prepare_data(store, search, now)
    elif data is not None and is_ready(store, search, data, jobs, now):
        _retrain(store, search, _calibrated(store, search, data, jobs, now), jobs, now)
    broken = store.jobs.first_broken(search.id)
    # What still runs is brought to its end: a promotion of another winner is worth as much as ever.
    if broken is not None and not store.jobs.any_open(search.id):
        store.searches.end(search.id, SearchState.FAILED, broken.reason, now)


def _add_prepare_data(store: Store, search: SearchRecord, now: datetime) -> None:
    spec = search.spec
    tokens = search_tokens(spec, search.trial_ends[-1])
    store.jobs.add(search.id, PrepareData(teacher=spec.teacher, data=spec.data, training_tokens=tokens), now)


# --- calibration --------------------------------------------------------------------------------------------


def _calibrated(
    store: Store, search: SearchRecord, data: DataPrepared, jobs: list[JobRecord], now: datetime
) -> Groundwork | None:
    """What retraining rests on, once it is all there; before that, adds the next jobs of the calibration."""
    correction, shards = correction_of(jobs), [job for job in jobs if job.kind == "calibrate"]
    if not shards:
        depths = [each.architecture.num_hidden_layers for each in store.candidates.of_search(search.id)]
        corrected = None if correction is None else correction.folder
        for job in calibrate_jobs(search.spec, search.teacher, data, depths, corrected):
            store.jobs.add(search.id, job, now)
    results = [job.result for job in shards if isinstance(job.result, Calibrated)]
    if not results or len(results) < len(shards):
        return None
    merged = next((job.result for job in jobs if isinstance(job.result, ScoresMerged)), None)
    if len(shards) > 1 and merged is None:
        if not any(job.kind == "merge_scores" for job in jobs):
            try:
                store.jobs.add(search.id, merge_job(search.spec, results), now)
            except TeacherError as error:
                store.searches.end(search.id, SearchState.FAILED, str(error), now)
        return None
    return Groundwork(data, results[0], merged, correction)


# --- retraining ---------------------------------------------------------------------------------------------


def _retrain(
    store: Store, search: SearchRecord, groundwork: Groundwork | None, others: list[JobRecord], now: datetime
) -> None:
    """A sweep if there is to be one, then trials, and when they have ended, more candidates or promotions.

    Nothing before there is a groundwork; `others` are the search's jobs but trials.
    """
    if groundwork is None:
        return
    answers = TeachersAnswers(store, search, groundwork, others, now)
    groundwork = swept(store, search, groundwork, answers, others, now)
    if groundwork is None:
        return
    is_waiting = _follow_strategy(store, search, groundwork, answers, now)
    if is_waiting or store.jobs.any_open(search.id, trials_only=True):
        return
    try:
        is_to_go_on = add_proposed(store, search, now)
    except UserError as error:
        store.searches.end(search.id, SearchState.FAILED, str(error), now)
        return
    if not is_to_go_on:
        promote(store, search, groundwork, now)


def _follow_strategy(
    store: Store, search: SearchRecord, groundwork: Groundwork, answers: TeachersAnswers, now: datetime
) -> bool:
    """Asks the strategy when all that it has asked for is there, and when there are trials that it never spoke of.

    Returns whether any trial waits for the teacher's answers.
    """
    if store.jobs.any_open(search.id, trials_only=True) and not store.decisions.num_silent(search.id):
        return False
    candidates = store.candidates.of_search(search.id)
    curves = store.curves.of_search(search.id)
    jobs: dict[int, list[JobRecord]] = {trial.id: [] for candidate in candidates for trial in candidate.trials}
    for job in store.jobs.of_trials(search.id):
        jobs[job.trial_id or 0].append(job)
    said = decisions(store, search, candidates, jobs, curves)
    candidate_ids = {trial.id: candidate.id for candidate in candidates for trial in candidate.trials}
    store.decisions.add(search.id, said, candidate_ids, now)
    told, added, is_waiting = store.decisions.told_tokens(jobs), [], False
    for candidate in candidates:
        for trial in candidate.trials:
            curve = curves.of_trial.get(trial.id, ())
            tokens = max(curve[-1].tokens if curve else 0, told_by(jobs[trial.id]))
            has_ended_well = all(job.state is JobState.SUCCEEDED for job in jobs[trial.id])
            if has_ended_well and told[trial.id] > tokens:
                segment, spec = trial_job(search, groundwork, candidate, trial, jobs[trial.id], tokens, told[trial.id])
                if not answers.is_live:
                    spec = spec.model_copy(update={"answers": answers.of(trial.seed, segment)})
                if answers.is_live or spec.answers is not None:
                    added.append(NewTrial(trial.id, candidate.id, segment, spec))
                else:
                    is_waiting = True
    store.jobs.add_trials(search.id, added, now)
    return is_waiting
