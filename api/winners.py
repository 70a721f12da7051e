"""The winners of a search: chosen when its trials have ended, distilled segment by segment, and exported."""

from collections.abc import Sequence
from datetime import datetime

from api.groundwork import Groundwork
from api.standing import standings
from api.store.records import CandidateRecord, JobRecord, PromotionRecord, SearchRecord
from api.store.store import Store
from nas.extension import promotion_segments, segment_ends
from nas.jobs import Export, Exported, Promotion, Trained
from nas.states import Intent, JobState, SearchState


def promote(store: Store, search: SearchRecord, groundwork: Groundwork, now: datetime) -> None:
    """Promotes the winners of the finished trials, exports what promotions end in, and closes the search."""
    num_retrained = store.jobs.num_retrained(search.id)
    promotions = store.promotions.of_search(search.id)
    if num_retrained > max((promotion.num_retrained for promotion in promotions), default=0):
        _choose(store, search, groundwork, promotions, num_retrained, now)
        promotions = store.promotions.of_search(search.id)
    elif not num_retrained:
        failed = next(job for job in store.jobs.of_trials(search.id) if job.state is JobState.FAILED)
        reason = f"every trial failed, the first with: {failed.reason}"
        store.searches.end(search.id, SearchState.FAILED, reason, now)
        return
    jobs = store.jobs.but_trials(search.id)
    done = [_bring_on(store, search, groundwork, promotion, jobs, now) for promotion in promotions]
    if all(done):
        store.searches.end(search.id, SearchState.FINISHED, None, now)


def _choose(
    store: Store,
    search: SearchRecord,
    groundwork: Groundwork,
    promotions: Sequence[PromotionRecord],
    num_retrained: int,
    now: datetime,
) -> None:
    """Promotes those among the first of the leaderboard that are not promoted yet.

    That is done once, and again when more trials have ended than then: those of an extension, or tried again.
    """
    candidates, jobs = store.candidates.of_search(search.id), store.jobs.of_search(search.id)
    rows = standings(candidates, jobs, store.curves.of_search(search.id))
    promoted = {_candidate_of(candidates, promotion.trial_id).id for promotion in promotions}
    by_id = {candidate.id: candidate for candidate in candidates}
    for row in [row for row in rows if row.rank is not None][: search.spec.promotion.winners]:
        if row.candidate_id not in promoted:
            job = trained_first(by_id[row.candidate_id], jobs)
            if job is None or job.trial_id is None or not isinstance(job.result, Trained):
                raise LookupError(f"candidate {row.candidate_id} has a rank, but no trial that ended well")
            promotion_id = store.promotions.add(search.id, job.trial_id, num_retrained, now)
            spec = _promotion(search, groundwork, by_id[row.candidate_id], job.result, row.tokens)
            store.jobs.add(search.id, spec, now, promotion_id=promotion_id)


def trained_first(candidate: CandidateRecord, jobs: Sequence[JobRecord]) -> JobRecord | None:
    """The newest job of the first of a candidate's trials that is at its end; None while there is no such trial."""
    for trial in candidate.trials:
        own = [job for job in jobs if job.trial_id == trial.id]
        if own and isinstance(own[-1].result, Trained):
            return own[-1]
    return None


def _promotion(
    search: SearchRecord, groundwork: Groundwork, winner: CandidateRecord, trained: Trained, tokens: int
) -> Promotion:
    spec = search.spec
    return Promotion(
        teacher=spec.teacher,
        corrected=groundwork.corrected,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        weights=trained.weights,
        architecture=winner.architecture,
        kept_layers=trained.kept_layers,
        data=groundwork.data.data,
        training=spec.promotion,
        distillation=spec.distillation,
        first_sequence=tokens // spec.data.sequence_length,
        seed=spec.seed,
        resources=groundwork.resolved(spec.resources),
    )


def _bring_on(
    store: Store,
    search: SearchRecord,
    groundwork: Groundwork,
    promotion: PromotionRecord,
    jobs: Sequence[JobRecord],
    now: datetime,
) -> bool:
    """Adds the next job of a promotion, or its model; whether it is at its end, or its user has ended it."""
    if promotion.intent is Intent.CANCEL:
        return True
    own = [job for job in jobs if job.promotion_id == promotion.id]
    newest = own[-1]
    if newest.state is not JobState.SUCCEEDED:
        return False
    model = store.promotions.models([promotion.id]).get(promotion.id)
    if isinstance(newest.result, Exported) and (model is None or model.segment < newest.segment):
        store.promotions.add_model(search.id, promotion, newest.segment, newest.result, now)
    if newest.segment < len(promotion.extensions):
        trained = next(job for job in reversed(own) if isinstance(job.result, Trained))
        spec = _further(search, promotion, trained, newest.segment + 1)
        store.jobs.add(search.id, spec, now, promotion_id=promotion.id, segment=newest.segment + 1)
        return False
    if isinstance(newest.result, Trained):
        _add_export(store, search, groundwork, promotion, newest.result, now)
        return False
    return True


def _further(search: SearchRecord, promotion: PromotionRecord, before: JobRecord, segment: int) -> Promotion:
    """A promotion gone on with: from the weights that it has come to, on the text behind what it has seen."""
    length = search.spec.data.sequence_length
    segments = promotion_segments(search.spec, promotion.extensions)
    first_tokens = segment_ends(segments, length)[segment - 1]
    spec, result = before.spec, before.result
    if not isinstance(spec, Promotion) or not isinstance(result, Trained):
        raise TypeError(f"job {before.id} is no promotion that ended well")
    return spec.model_copy(
        update={
            "weights": result.weights,
            "kept_layers": result.kept_layers,
            "training": segments[segment],
            "first_sequence": spec.first_sequence + (first_tokens - spec.first_tokens) // length,
            "first_tokens": first_tokens,
        }
    )


def _candidate_of(candidates: Sequence[CandidateRecord], trial_id: int) -> CandidateRecord:
    return next(each for each in candidates if any(trial.id == trial_id for trial in each.trials))


def _add_export(
    store: Store,
    search: SearchRecord,
    groundwork: Groundwork,
    promotion: PromotionRecord,
    trained: Trained,
    now: datetime,
) -> None:
    """Exports what the newest segment of a promotion has come to."""
    candidate = _candidate_of(store.candidates.of_search(search.id), promotion.trial_id)
    spec, curves = search.spec, store.curves.of_search(search.id)
    export = Export(
        teacher=spec.teacher,
        corrected=groundwork.corrected,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        weights=trained.weights,
        architecture=candidate.architecture,
        kept_layers=trained.kept_layers,
        data=groundwork.data.data,
        micro_batch_size=spec.trial.fitting_micro_batch(spec.data.sequence_length, search.teacher.vocab_size),
        resources=spec.resources,
        provenance={
            "search": search.name,
            "spec": spec.model_dump(mode="json"),
            "extensions": [each.model_dump(mode="json", exclude_defaults=True) for each in search.extensions],
            "promotion_extensions": list(promotion.extensions),
            "candidate": candidate.id,
            "architecture": candidate.architecture.model_dump(),
            "parameters": candidate.parameters,
            "prepare_data": groundwork.data.model_dump(mode="json"),
            "correct_teacher": None if groundwork.correction is None else groundwork.correction.model_dump(mode="json"),
            "calibrate": groundwork.calibrated.model_dump(mode="json"),
            "merge_scores": None if groundwork.merged is None else groundwork.merged.model_dump(mode="json"),
            "sweep": None if groundwork.swept is None else groundwork.swept.model_dump(mode="json"),
            "trial_curve": [point.model_dump() for point in curves.of_trial[promotion.trial_id]],
            "promotion_curve": [point.model_dump() for point in curves.of_promotion[promotion.id]],
        },
    )
    segment = len(promotion.extensions)
    store.jobs.add(search.id, export, now, promotion_id=promotion.id, segment=segment)
