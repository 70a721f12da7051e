"""The winners of a search: chosen when its trials have ended, distilled segment by segment, and exported."""

from collections.abc import Sequence
from datetime import datetime

from api.deciding import told_by
from api.gate import Finalist, judged
from api.groundwork import Groundwork
from api.standing import standings
from api.store.records import CandidateRecord, JobRecord, PromotionRecord, SearchRecord
from api.store.store import Store
from nas.extension import promotion_segments, segment_ends
from nas.jobs import Export, Exported, Promotion, Trained
from nas.ranking import level
from nas.states import Intent, JobState, SearchState


def promote(store: Store, search: SearchRecord, groundwork: Groundwork, now: datetime) -> None:
    """Promotes the winners of the finished trials, exports what promotions end in, and closes the search.

    One whose gate lets nobody through is finished as well, with the reason.
    """
    num_retrained = store.jobs.num_retrained(search.id)
    promotions = store.promotions.of_search(search.id)
    is_decided, refusal = True, None
    if num_retrained > max((promotion.num_retrained for promotion in promotions), default=0):
        is_decided, refusal = _choose(store, search, groundwork, promotions, num_retrained, now)
        promotions = store.promotions.of_search(search.id)
    elif not num_retrained:
        failed = next(job for job in store.jobs.of_trials(search.id) if job.state is JobState.FAILED)
        reason = f"every trial failed, the first with: {failed.reason}"
        store.searches.end(search.id, SearchState.FAILED, reason, now)
        return
    jobs = store.jobs.but_trials(search.id)
    done = [_bring_on(store, search, groundwork, promotion, jobs, now) for promotion in promotions]
    if is_decided and all(done):
        store.searches.end(search.id, SearchState.FINISHED, None if promotions else refusal, now)


def _choose(
    store: Store,
    search: SearchRecord,
    groundwork: Groundwork,
    promotions: Sequence[PromotionRecord],
    num_retrained: int,
    now: datetime,
) -> tuple[bool, str | None]:
    """Promotes those among the first of the leaderboard that pass and are not promoted yet, once all have answered.

    That is done once, and again when more trials have ended than then: those of an extension, or tried again. Returns
    whether it was done, and why nobody passes.
    """
    candidates = store.candidates.of_search(search.id)
    promoted = {_candidate_of(candidates, promotion.trial_id).id for promotion in promotions}
    verdict, to_ask = judged(store, search, groundwork, _finalists(store, search, candidates))
    for question in to_ask:
        store.jobs.add(search.id, question, now)
    if verdict is None:
        return False, None
    for winner in verdict.winners:
        if winner.candidate.id not in promoted:
            promotion_id = store.promotions.add(search.id, winner.trial_id, num_retrained, now)
            store.jobs.add(search.id, _promotion(search, groundwork, winner), now, promotion_id=promotion_id)
    return True, verdict.refusal


def _finalists(store: Store, search: SearchRecord, candidates: Sequence[CandidateRecord]) -> list[Finalist]:
    """The first of the leaderboard: as many as there are winners, or with a gate, as are asked."""
    promotion = search.spec.promotion
    if not promotion.winners:
        return []
    jobs = store.jobs.of_search(search.id)
    rows = standings(candidates, jobs, store.curves.of_search(search.id))
    if promotion.gate is None:
        first = [row for row in rows if row.rank is not None][: promotion.winners]
    else:
        first = level(rows)[: promotion.gate.candidates]
    by_id = {candidate.id: candidate for candidate in candidates}
    finalists = []
    for row in first:
        job = newest_trained(by_id[row.candidate_id], jobs)
        if job is None or job.trial_id is None or not isinstance(job.result, Trained):
            raise LookupError(f"candidate {row.candidate_id} has a rank, but no trial that ended well")
        finalists.append(Finalist(by_id[row.candidate_id], job.trial_id, job.result, told_by([job])))
    return finalists


def trained_first(candidate: CandidateRecord, jobs: Sequence[JobRecord]) -> JobRecord | None:
    """The newest job of the one of a candidate's trials that has gone furthest, of equal ones the first.

    None while there is no trial whose newest job has ended well.
    """
    runs = [[job for job in jobs if job.trial_id == trial.id] for trial in candidate.trials]
    ended = [own[-1] for own in runs if own and isinstance(own[-1].result, Trained)]
    return max(ended, key=lambda job: told_by([job]), default=None)


def newest_trained(candidate: CandidateRecord, jobs: Sequence[JobRecord]) -> JobRecord | None:
    """The same; if none is at its end, for an extension has failed, the newest job of its trials that ended well."""
    ids = {trial.id for trial in candidate.trials}
    done = [job for job in jobs if job.trial_id in ids and isinstance(job.result, Trained)]
    return trained_first(candidate, jobs) or (done[-1] if done else None)


def _promotion(search: SearchRecord, groundwork: Groundwork, winner: Finalist) -> Promotion:
    spec = search.spec
    return Promotion(
        teacher=spec.teacher,
        corrected=groundwork.corrected,
        teacher_sha256=groundwork.calibrated.teacher_sha256,
        weights=winner.trained.weights,
        architecture=winner.candidate.architecture,
        kept_layers=winner.trained.kept_layers,
        data=groundwork.data.data,
        training=spec.promotion,
        distillation=spec.distillation,
        first_sequence=winner.tokens // spec.data.sequence_length,
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
