"""Looking at searches: the store's rows as the views that users see. Every function raises NotFoundError."""

from datetime import UTC, datetime, timedelta
from importlib.metadata import version

from sqlalchemy.orm import Session

from api.correction import correction_of
from api.gate import accuracy_of
from api.how_sure import sure_standings
from api.scheduler import LEASE, LEASE_SECONDS
from api.services.files import verified
from api.services.outcome import promotions
from api.services.progress import seconds_left, tokens_per_second, tokens_total
from api.services.source_losses import source_curves
from api.spending import spent, tokens_used
from api.standing import standings, trial_state
from api.store.curves import SearchCurves
from api.store.records import AttemptRecord, CandidateRecord, JobRecord, SearchRecord
from api.store.store import Store
from api.winners import newest_trained
from nas.cost import cost
from nas.errors import NotFoundError
from nas.extension import spending
from nas.families import family_named
from nas.importance_view import ImportanceView
from nas.jobs import Calibrated, ScoresMerged, Sweep, Swept, TeacherCorrected, Trained
from nas.rank_stability import rank_movements
from nas.ranking import CurvePoint, mean_curve
from nas.spec import SearchSpec
from nas.states import JobState, SearchState, TrialState
from nas.training_views import CorrectionView, SweepView
from nas.views import (
    AttemptView,
    CandidateDetails,
    EventView,
    HealthView,
    JobView,
    RetrainingView,
    SearchSummary,
    SearchView,
    TrialView,
)


def view(session: Session, name: str, now: datetime | None = None) -> SearchView:
    """The search as it stands `now`, by default at this moment."""
    store = Store(session)
    search = store.searches.named(name)
    jobs, curves = store.jobs.of_search(search.id), store.curves.of_search(search.id)
    candidates = store.candidates.of_search(search.id)
    rows = sure_standings(store, search, candidates, jobs, curves)
    used = spent(store, search, now or datetime.now(UTC))
    # What a run that was cut off had done and not measured is used, but not on the way to anything.
    total = max(used.tokens, tokens_total(search, candidates, jobs, store.promotions.of_search(search.id), curves))
    pace = tokens_per_second(jobs)
    running, corrected = search.state is SearchState.RUNNING, correction_of(jobs)
    return SearchView(
        id=search.id,
        name=search.name,
        state=search.state,
        intent=search.intent,
        reason=search.reason,
        user_error=search.state is SearchState.FAILED
        and any(job.user_error for job in jobs if job.state is JobState.FAILED),
        created_at=search.created_at,
        finished_at=search.finished_at,
        archived_at=search.archived_at,
        extensions=search.extensions,
        spending=spending(search.spec, search.extensions),
        spent=used,
        teacher=search.teacher,
        teacher_parameters=family_named(search.teacher.family).count(search.teacher),
        teacher_loss=next((loss for loss in _teacher_losses(jobs) if loss is not None), None),
        num_fitting=search.num_fitting,
        correction=None if corrected is None else _correction(corrected),
        sweep=_sweep(candidates, jobs),
        tokens_done=used.tokens,
        tokens_total=total,
        tokens_per_second=pace,
        seconds_left=seconds_left(total - used.tokens, pace) if running else None,
        leaderboard=tuple(rows),
        rank_movements=rank_movements({each.id: _curve(each, curves) for each in candidates}),
        promotions=tuple(promotions(session, name)),
        jobs=tuple(_job_views(store, search, jobs)),
    )


def summaries(session: Session, *, limit: int, offset: int, archived: bool | None = False) -> list[SearchSummary]:
    """Searches, the newest first; those that were archived, or all with `archived` None, if that is asked for."""
    store = Store(session)
    searches = store.searches.newest_first(limit=limit, offset=offset, archived=archived)
    return [_summary(store, search) for search in searches]


def spec(session: Session, name: str) -> SearchSpec:
    return Store(session).searches.named(name).spec


def curves(session: Session, name: str) -> dict[int, tuple[CurvePoint, ...]]:
    """The curve of every candidate that has one: the mean of its trials' curves."""
    store = Store(session)
    search = store.searches.named(name)
    curves = store.curves.of_search(search.id)
    found = {candidate.id: _curve(candidate, curves) for candidate in store.candidates.of_search(search.id)}
    return {candidate_id: curve for candidate_id, curve in found.items() if curve}


def candidate(session: Session, name: str, candidate_id: int) -> CandidateDetails:
    """All that is on record of one candidate of a search."""
    store = Store(session)
    search = store.searches.named(name)
    candidates = store.candidates.of_search(search.id)
    found = next((each for each in candidates if each.id == candidate_id), None)
    if found is None:
        raise NotFoundError("candidate", candidate_id, f"is not in {name}", "a candidate_id of its leaderboard")
    jobs, curves = store.jobs.of_search(search.id), store.curves.of_search(search.id)
    trial_ids = [trial.id for trial in found.trials]
    attempts = store.attempts.of_candidate(trial_ids)
    promotion = next((each for each in promotions(session, name) if each.candidate_id == candidate_id), None)
    own = [job for job in jobs if job.trial_id in trial_ids or (promotion and job.promotion_id == promotion.id)]
    retrained = [(job, job.result) for job in own]
    kept = [result.kept_layers for _, result in retrained if isinstance(result, Trained) and result.kept_layers]
    ended = newest_trained(found, jobs)
    serving, dtype = search.spec.serving, search.spec.serving.dtype or search.teacher_dtype
    return CandidateDetails(
        search=name,
        standing=next(
            row for row in sure_standings(store, search, candidates, jobs, curves) if row.candidate_id == candidate_id
        ),
        cost=None
        if dtype is None
        else cost(found.architecture, dtype=dtype, batch_size=serving.batch_size, context=search.spec.context),
        share_of_teacher=found.parameters / family_named(search.teacher.family).count(search.teacher),
        kept_layers=kept[-1] if kept else None,
        targets=search.spec.trial.targets,
        distillation=search.spec.distillation.decided(
            search.teacher.num_hidden_layers, found.architecture.num_hidden_layers
        ),
        curve=_curve(found, curves),
        trials=tuple(
            TrialView(
                seed=trial.seed,
                state=trial_state(trial, next((job for job in reversed(jobs) if job.trial_id == trial.id), None)),
                curve=curves.of_trial.get(trial.id, ()),
            )
            for trial in found.trials
        ),
        sources=source_curves(store, jobs, trial_ids, () if promotion is None else (promotion.id,)),
        accuracy=accuracy_of(ended.result.weights, jobs) if ended and isinstance(ended.result, Trained) else None,
        promotion=promotion,
        attempts=tuple(_attempt_view(attempt) for attempt in attempts),
        retrainings=tuple(
            RetrainingView(job_id=job.id, kind=result.kind, rollbacks=result.rollbacks, samples=result.samples)
            for job, result in retrained
            if isinstance(result, Trained)
        ),
    )


def importance(session: Session, name: str) -> ImportanceView:
    """The scores of a search's teacher. Raises NotFoundError too while there are none, or if they were not kept.

    Raises CheckpointError for scores that are not what was written, StoreError where they cannot be read now.
    """
    store = Store(session)
    search = store.searches.named(name)
    results = [job.result for job in store.jobs.of_search(search.id) if job.kind in ("calibrate", "merge_scores")]
    calibrated = [result for result in results if isinstance(result, Calibrated)]
    merged = [result.importance_file for result in results if isinstance(result, ScoresMerged)]
    files = merged + [result.importance_file for result in calibrated if result.importance_file is not None]
    if not files:
        ended = search.spec.calibration.shards == len(calibrated) == 1
        problem = "was calibrated before scores were kept to be drawn" if ended else "has no scores yet"
        raise NotFoundError("search", name, problem, "a search whose calibration has ended")
    try:
        return ImportanceView.model_validate_json(verified(files[0]).read_bytes())
    except (OSError, ValueError) as error:
        problem = "has scores that cannot be read any more"
        raise NotFoundError("search", name, problem, "a search whose folder of runs is whole") from error


def attempt_folder(session: Session, job_id: int, number: int) -> str:
    """Where an attempt writes, its log among the rest."""
    folder = Store(session).attempts.one(job_id, number).folder
    if not folder:
        problem = "was made before folders were kept on record"
        raise NotFoundError("attempt", f"{number} of job {job_id}", problem, "a later attempt")
    return folder


def attempts(session: Session, name: str) -> list[AttemptView]:
    """Every try at every job of a search, by job."""
    store = Store(session)
    return [_attempt_view(attempt) for attempt in store.attempts.of_search(store.searches.named(name).id)]


def events(session: Session, *, after: int, search: str | None, limit: int) -> list[EventView]:
    """What happened later than event `after`, oldest first; nothing for a search that is not there."""
    return Store(session).events.after(after, search=search, limit=limit)


def newest_event(session: Session) -> int:
    """The id of the last event, 0 before the first."""
    return Store(session).events.newest()


def health(session: Session, now: datetime) -> HealthView:
    """Whether a scheduler acts: its last step was at most the length of a lease ago."""
    until = Store(session).leases.until(LEASE)
    seen_at = until - timedelta(seconds=LEASE_SECONDS)
    return HealthView(
        version=version("topiary-nas"),
        scheduler_seen_at=seen_at if until.year > 1970 else None,
        scheduler_alive=until > now,
    )


def _summary(store: Store, search: SearchRecord) -> SearchSummary:
    jobs, curves = store.jobs.of_search(search.id), store.curves.of_search(search.id)
    candidates = store.candidates.of_search(search.id)
    rows = standings(candidates, jobs, curves)
    best = rows[0] if rows and rows[0].rank == 1 else None
    done = tokens_used(store, search.id)
    return SearchSummary(
        id=search.id,
        name=search.name,
        state=search.state,
        intent=search.intent,
        created_at=search.created_at,
        finished_at=search.finished_at,
        archived_at=search.archived_at,
        teacher=search.teacher,
        num_candidates=len(rows),
        num_retrained=sum(row.state is TrialState.SUCCEEDED for row in rows),
        tokens_done=done,
        tokens_total=max(done, tokens_total(search, candidates, jobs, store.promotions.of_search(search.id), curves)),
        best=best,
    )


def _teacher_losses(jobs: list[JobRecord]) -> list[float | None]:
    """By shard of the calibration; one of them measures it."""
    return [job.result.loss for job in jobs if isinstance(job.result, Calibrated)]


def _correction(found: TeacherCorrected) -> CorrectionView:
    return CorrectionView(tokens=found.tokens, loss_before=found.loss_before, loss=found.loss, folder=found.folder)


def _sweep(candidates: list[CandidateRecord], jobs: list[JobRecord]) -> SweepView | None:
    job = next((job for job in jobs if job.kind == "sweep"), None)
    if job is None or not isinstance(job.spec, Sweep) or not isinstance(job.result, Swept):
        return None
    architecture, result = job.spec.trial.architecture, job.result
    return SweepView(
        candidate_id=next(each.id for each in candidates if each.architecture == architecture),
        architecture=architecture,
        rates=result.rates,
        chosen=result.chosen,
        tokens=result.tokens,
    )


def _curve(candidate: CandidateRecord, curves: SearchCurves) -> tuple[CurvePoint, ...]:
    return mean_curve([curves.of_trial.get(trial.id, ()) for trial in candidate.trials])


def _job_views(store: Store, search: SearchRecord, jobs: list[JobRecord]) -> list[JobView]:
    candidate_of_trial = {
        trial.id: candidate.id for candidate in store.candidates.of_search(search.id) for trial in candidate.trials
    }
    trial_of_promotion = {each.id: each.trial_id for each in store.promotions.of_search(search.id)}

    def candidate_of(job: JobRecord) -> int | None:
        trial_id = job.trial_id if job.promotion_id is None else trial_of_promotion[job.promotion_id]
        return None if trial_id is None else candidate_of_trial[trial_id]

    return [
        JobView(
            job_id=job.id,
            kind=job.kind,
            candidate_id=candidate_of(job),
            state=job.state,
            attempt=job.attempt,
            not_before=job.not_before if job.state is JobState.QUEUED else None,
            progress=job.progress,
            reason=job.reason,
        )
        for job in jobs
        if job.state is not JobState.SUCCEEDED
    ]


def _attempt_view(attempt: AttemptRecord) -> AttemptView:
    return AttemptView(
        job_id=attempt.job_id,
        kind=attempt.kind,
        number=attempt.number,
        state=attempt.state,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        reason=attempt.reason,
        node=attempt.node,
        folder=attempt.folder,
    )
