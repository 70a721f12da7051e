"""What comes next in a search: prepare data, calibrate in shards, trials as the strategy says, then its winners.

`advance` looks at what is on record and adds what is missing; called again without news it adds nothing.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime

from api.answers import TeachersAnswers
from api.calibration_jobs import calibrate_jobs, merge_job, search_tokens
from api.groundwork import Groundwork
from api.store.curves import SearchCurves
from api.store.jobs import NewTrial
from api.store.records import CandidateRecord, JobRecord, SearchRecord, TrialRecord
from api.store.store import Store
from api.winners import promote
from nas.errors import TeacherError
from nas.jobs import Calibrated, Continuation, DataPrepared, PrepareData, ScoresMerged, Trained, Trial
from nas.states import JobState, SearchState
from nas.strategy import TrialHistory, exhaustive


def advance(store: Store, search: SearchRecord, now: datetime) -> None:
    """Brings one running search as far as it can go without another result."""
    jobs = store.jobs.but_trials(search.id)
    data = next((job.result for job in jobs if isinstance(job.result, DataPrepared)), None)
    if not jobs:
        _add_prepare_data(store, search, now)
    elif data is not None and (groundwork := _calibrated(store, search, data, jobs, now)) is not None:
        is_waiting = _follow_strategy(store, search, groundwork, jobs, now)
        if not is_waiting and not store.jobs.any_open(search.id, trials_only=True):
            promote(store, search, groundwork, now)
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
    shards = [job for job in jobs if job.kind == "calibrate"]
    if not shards:
        depths = [each.architecture.num_hidden_layers for each in store.candidates.of_search(search.id)]
        for job in calibrate_jobs(search.spec, search.teacher, data, depths):
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
    return Groundwork(data, results[0], merged)


# --- retraining ---------------------------------------------------------------------------------------------


def _follow_strategy(
    store: Store, search: SearchRecord, groundwork: Groundwork, others: Sequence[JobRecord], now: datetime
) -> bool:
    """Asks the strategy when all that it has asked for is there, and when there are trials that it never spoke of.

    Returns whether any trial waits for the teacher's answers; `others` are the search's jobs but trials.
    """
    if store.jobs.any_open(search.id, trials_only=True) and not store.decisions.num_silent(search.id):
        return False
    candidates = store.candidates.of_search(search.id)
    curves = store.curves.of_search(search.id)
    jobs: dict[int, list[JobRecord]] = {trial.id: [] for candidate in candidates for trial in candidate.trials}
    for job in store.jobs.of_trials(search.id):
        jobs[job.trial_id or 0].append(job)
    decisions = exhaustive(_history(store, jobs, curves), search.trial_ends[-1])
    candidate_ids = {trial.id: candidate.id for candidate in candidates for trial in candidate.trials}
    store.decisions.add(search.id, decisions, candidate_ids, now)
    told, added = store.decisions.told_tokens(jobs), []
    answers, is_waiting = TeachersAnswers(store, search, groundwork, others, now), False
    for candidate in candidates:
        for trial in candidate.trials:
            curve = curves.of_trial.get(trial.id, ())
            tokens = max(curve[-1].tokens if curve else 0, _told_by(jobs[trial.id]))
            has_ended_well = all(job.state is JobState.SUCCEEDED for job in jobs[trial.id])
            if has_ended_well and told[trial.id] > tokens:
                segment, spec = _next(search, groundwork, candidate, trial, jobs[trial.id], tokens, told[trial.id])
                if not answers.is_live:
                    spec = spec.model_copy(update={"answers": answers.of(trial.seed, segment)})
                if answers.is_live or spec.answers is not None:
                    added.append(NewTrial(trial.id, candidate.id, segment, spec))
                else:
                    is_waiting = True
    store.jobs.add_trials(search.id, added, now)
    return is_waiting


def _next(
    search: SearchRecord,
    groundwork: Groundwork,
    candidate: CandidateRecord,
    trial: TrialRecord,
    jobs: Sequence[JobRecord],
    tokens: int,
    told_tokens: int,
) -> tuple[int, Trial]:
    """The number of the segment in which a trial goes on from so many tokens, and the job for it."""
    spec, ends = search.spec, search.trial_ends
    segment = bisect_right(ends, tokens)
    begins = ends[segment - 1] if segment else 0
    before = jobs[-1].result if segment else None
    return segment, Trial(
        teacher=spec.teacher,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        scores_file=groundwork.scores_file,
        calibration=spec.calibration,
        architecture=candidate.architecture,
        data=groundwork.data.data,
        training=search.trial_segments[segment],
        distillation=spec.distillation,
        until_tokens=min(told_tokens, ends[segment]) - begins,
        seed=trial.seed,
        resources=groundwork.resolved(spec.resources),
        continues=_continuation(before, begins, spec.data.sequence_length) if isinstance(before, Trained) else None,
    )


def _told_by(jobs: Sequence[JobRecord]) -> int:
    """How far the last of a trial's jobs was to go: one that ended well is there, whatever it has measured."""
    if not jobs:
        return 0
    content = jobs[-1].spec_content  # Not parsed: there may be thousands.
    continues = content.get("continues") or {"tokens": 0}
    return int(continues["tokens"]) + int(content["until_tokens"])


def _continuation(before: Trained, tokens: int, sequence_length: int) -> Continuation:
    return Continuation(
        weights=before.weights,
        tokens=tokens,
        first_sequence=tokens // sequence_length,
        kept_layers=before.kept_layers,
    )


def _history(store: Store, jobs: Mapping[int, Sequence[JobRecord]], curves: SearchCurves) -> list[TrialHistory]:
    told = store.decisions.told_tokens(jobs)
    of_trial = curves.of_trial
    return [
        TrialHistory(
            trial_id=trial_id,
            told_tokens=told[trial_id],
            tokens=of_trial[trial_id][-1].tokens if trial_id in of_trial else 0,
            loss=of_trial[trial_id][-1].loss if trial_id in of_trial else None,
            failed=any(job.state is JobState.FAILED for job in own),
        )
        for trial_id, own in jobs.items()
    ]
