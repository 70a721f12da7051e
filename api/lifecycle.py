"""What comes next in a search: prepare data, calibrate in shards, trials as the strategy says, promotions, exports.

`advance` looks at what is on record and adds what is missing; called again without news it adds nothing.
"""

from dataclasses import dataclass
from datetime import datetime

from api.calibration_jobs import calibrate_jobs, calibration_tokens, merge_job
from api.store.curves import SearchCurves
from api.store.records import CandidateRecord, JobRecord, PromotionRecord, SearchRecord
from api.store.store import Store
from nas.errors import TeacherError
from nas.jobs import (
    Calibrated,
    DataPrepared,
    Export,
    Exported,
    PrepareData,
    Promotion,
    ScoresMerged,
    Trained,
    Trial,
)
from nas.ranking import Contender, Standing, leaderboard
from nas.spec import ResourcesSpec
from nas.states import JobState, SearchState, TrialState
from nas.strategy import Advance, TrialHistory, exhaustive


@dataclass(frozen=True)
class _Groundwork:
    """What all retraining of a search rests on; `calibrated` is the first shard."""

    data: DataPrepared
    calibrated: Calibrated
    merged: ScoresMerged | None

    @property
    def scores_file(self) -> str:
        return (self.merged or self.calibrated).scores_file


def advance(store: Store, search: SearchRecord, now: datetime) -> None:
    """Brings one running search as far as it can go without another result."""
    jobs = store.jobs.of_search(search.id)
    data = next((job.result for job in jobs if isinstance(job.result, DataPrepared)), None)
    if not jobs:
        _add_prepare_data(store, search, now)
    elif data is not None and (groundwork := _calibrated(store, search, data, jobs, now)) is not None:
        _follow_strategy(store, search, groundwork, now)
        jobs = store.jobs.of_search(search.id)
        if all(job.state.is_final for job in jobs if job.kind == "trial"):
            _promote(store, search, groundwork, jobs, now)
    broken = next((job for job in jobs if job.state is JobState.FAILED and job.kind != "trial"), None)
    # What still runs is brought to its end: a promotion of another winner is worth as much as ever.
    if broken is not None and all(job.state.is_final for job in store.jobs.of_search(search.id)):
        store.searches.end(search.id, SearchState.FAILED, broken.reason, now)


def standings(candidates: list[CandidateRecord], jobs: list[JobRecord], curves: SearchCurves) -> list[Standing]:
    """The leaderboard of a search, from all that is on record of it."""
    newest = {job.trial_id: job for job in jobs if job.kind == "trial"}
    return leaderboard(
        [
            Contender(
                candidate_id=candidate.id,
                architecture=candidate.architecture,
                parameters=candidate.parameters,
                non_embedding_parameters=candidate.non_embedding_parameters,
                curve=curves.of_trial.get(candidate.trial_id, ()),
                state=_trial_state(newest.get(candidate.trial_id)),
                reason=newest[candidate.trial_id].reason if candidate.trial_id in newest else None,
            )
            for candidate in candidates
        ]
    )


def _trial_state(newest: JobRecord | None) -> TrialState:
    return TrialState.WAITING if newest is None else TrialState(newest.state.value)


def _add_prepare_data(store: Store, search: SearchRecord, now: datetime) -> None:
    spec = search.spec
    length = spec.data.sequence_length
    # A promotion goes on after the trial's tokens, so it sees new text for as long as there is any.
    tokens = spec.trial.actual_tokens(length) + (spec.promotion.actual_tokens(length) if spec.promotion.winners else 0)
    tokens = max(tokens, calibration_tokens(spec))
    store.jobs.add(search.id, PrepareData(teacher=spec.teacher, data=spec.data, training_tokens=tokens), now)


# --- calibration --------------------------------------------------------------------------------------------


def _calibrated(
    store: Store, search: SearchRecord, data: DataPrepared, jobs: list[JobRecord], now: datetime
) -> _Groundwork | None:
    """What retraining rests on, once it is all there; before that, adds the next jobs of the calibration."""
    shards = [job for job in jobs if job.kind == "calibrate"]
    if not shards:
        depths = [each.architecture.num_hidden_layers for each in store.searches.candidates(search.id)]
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
    return _Groundwork(data, results[0], merged)


# --- retraining ---------------------------------------------------------------------------------------------


def _follow_strategy(store: Store, search: SearchRecord, groundwork: _Groundwork, now: datetime) -> None:
    spec = search.spec
    candidates = {candidate.trial_id: candidate for candidate in store.searches.candidates(search.id)}
    for decision in exhaustive(_history(store, search, list(candidates)), _full_tokens(search)):
        store.decisions.add(search.id, decision, now)
        if isinstance(decision, Advance):
            trial = Trial(
                teacher=spec.teacher,
                teacher_sha256=groundwork.calibrated.teacher_sha256,
                scores_file=groundwork.scores_file,
                calibration=spec.calibration,
                architecture=candidates[decision.trial_id].architecture,
                data=groundwork.data.data,
                training=spec.trial,
                until_tokens=decision.until_tokens,
                seed=candidates[decision.trial_id].seed,
                resources=_resolved(spec.resources, groundwork),
            )
            store.jobs.add(search.id, trial, now, trial_id=decision.trial_id)


def _resolved(resources: ResourcesSpec, groundwork: _Groundwork) -> ResourcesSpec:
    """With `auto` decided once, by the calibration: all candidates of a search are computed in one dtype."""
    return ResourcesSpec.model_validate({**resources.model_dump(), "dtype": groundwork.calibrated.dtype})


def _history(store: Store, search: SearchRecord, trial_ids: list[int]) -> list[TrialHistory]:
    told = store.decisions.told_tokens(trial_ids)
    curves = store.curves.of_search(search.id).of_trial
    failed = {job.trial_id for job in store.jobs.of_search(search.id) if job.state is JobState.FAILED}
    return [
        TrialHistory(
            trial_id=trial_id,
            told_tokens=told[trial_id],
            tokens=curves[trial_id][-1].tokens if trial_id in curves else 0,
            loss=curves[trial_id][-1].loss if trial_id in curves else None,
            failed=trial_id in failed,
        )
        for trial_id in trial_ids
    ]


def _micro_batch_size(search: SearchRecord) -> int:
    return search.spec.trial.fitting_micro_batch(search.spec.data.sequence_length, search.teacher.vocab_size)


def _full_tokens(search: SearchRecord) -> int:
    return search.spec.trial.actual_tokens(search.spec.data.sequence_length)


def _promote(store: Store, search: SearchRecord, groundwork: _Groundwork, jobs: list[JobRecord], now: datetime) -> None:
    """Promotes the winners of the finished trials, exports what promotions end in, and closes the search.

    Winners are decided once: a trial that is tried again later is ranked, but promotes nothing.
    """
    promotions = store.promotions.of_search(search.id)
    if not promotions:
        candidates = store.searches.candidates(search.id)
        rows = standings(candidates, jobs, store.curves.of_search(search.id))
        ranked = [row for row in rows if row.rank is not None]
        if not ranked:
            failed = next(job for job in jobs if job.state is JobState.FAILED)
            reason = f"every trial failed, the first with: {failed.reason}"
            store.searches.end(search.id, SearchState.FAILED, reason, now)
            return
        by_id = {candidate.id: candidate for candidate in candidates}
        for row in ranked[: search.spec.promotion.winners]:
            _add_promotion(store, search, groundwork, jobs, by_id[row.candidate_id], now)
        promotions = store.promotions.of_search(search.id)
    for promotion in promotions:
        own = [job for job in jobs if job.promotion_id == promotion.id]
        trained = next((job.result for job in own if isinstance(job.result, Trained)), None)
        exported = next((job.result for job in own if isinstance(job.result, Exported)), None)
        if trained is not None and not any(job.kind == "export" for job in own):
            _add_export(store, search, groundwork, promotion, trained, now)
        if exported is not None and promotion.id not in store.promotions.models([promotion.id]):
            store.promotions.add_model(search.id, promotion, exported, now)
    if len(store.promotions.models([promotion.id for promotion in promotions])) == len(promotions):
        store.searches.end(search.id, SearchState.FINISHED, None, now)


def _add_promotion(
    store: Store,
    search: SearchRecord,
    groundwork: _Groundwork,
    jobs: list[JobRecord],
    winner: CandidateRecord,
    now: datetime,
) -> None:
    spec = search.spec
    trained = [job.result for job in jobs if job.trial_id == winner.trial_id and isinstance(job.result, Trained)][-1]
    promotion = Promotion(
        teacher=spec.teacher,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        weights=trained.weights,
        architecture=winner.architecture,
        kept_layers=trained.kept_layers,
        data=groundwork.data.data,
        training=spec.promotion,
        first_sequence=trained.tokens // spec.data.sequence_length,
        seed=spec.seed,
        resources=_resolved(spec.resources, groundwork),
    )
    store.jobs.add(search.id, promotion, now, promotion_id=store.promotions.add(search.id, winner.trial_id, now))


def _add_export(
    store: Store,
    search: SearchRecord,
    groundwork: _Groundwork,
    promotion: PromotionRecord,
    trained: Trained,
    now: datetime,
) -> None:
    candidate = next(c for c in store.searches.candidates(search.id) if c.trial_id == promotion.trial_id)
    curves = store.curves.of_search(search.id)
    export = Export(
        teacher=search.spec.teacher,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        weights=trained.weights,
        architecture=candidate.architecture,
        kept_layers=trained.kept_layers,
        data=groundwork.data.data,
        micro_batch_size=_micro_batch_size(search),
        resources=search.spec.resources,
        provenance={
            "search": search.name,
            "spec": search.spec.model_dump(mode="json"),
            "candidate": candidate.id,
            "architecture": candidate.architecture.model_dump(),
            "parameters": candidate.parameters,
            "prepare_data": groundwork.data.model_dump(mode="json"),
            "calibrate": groundwork.calibrated.model_dump(mode="json"),
            "merge_scores": None if groundwork.merged is None else groundwork.merged.model_dump(mode="json"),
            "trial_curve": [point.model_dump() for point in curves.of_trial[promotion.trial_id]],
            "promotion_curve": [point.model_dump() for point in curves.of_promotion[promotion.id]],
        },
    )
    store.jobs.add(search.id, export, now, promotion_id=promotion.id)
