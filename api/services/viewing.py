"""Looking at searches: the store's rows as the views that users see."""

from sqlalchemy.orm import Session

from api.lifecycle import standings
from api.store.records import JobRecord, SearchRecord
from api.store.repository import Curves, Repository
from nas.families import family_named
from nas.jobs import Calibrated, JobState
from nas.views import JobView, PromotionView, SearchView


def view(session: Session, search_id: int) -> SearchView:
    """The search as it stands."""
    repository = Repository(session)
    search = repository.search(search_id)
    jobs = repository.jobs(search_id)
    curves = repository.curves(search_id)
    leaderboard = standings(repository, search, jobs)
    candidate_of_trial = {candidate.trial_id: candidate.id for candidate in repository.candidates(search_id)}
    trial_of_promotion = {promotion.id: promotion.trial_id for promotion in repository.promotions(search_id)}

    def candidate_of(job: JobRecord) -> int | None:
        trial_id = job.trial_id if job.promotion_id is None else trial_of_promotion[job.promotion_id]
        return None if trial_id is None else candidate_of_trial[trial_id]

    return SearchView(
        id=search.id,
        name=search.name,
        state=search.state,
        reason=search.reason,
        user_error=search.state == "failed" and any(job.user_error for job in jobs if job.state is JobState.FAILED),
        created_at=search.created_at,
        finished_at=search.finished_at,
        teacher=search.teacher,
        teacher_parameters=family_named(search.teacher.family).count(search.teacher),
        teacher_loss=next((job.result.loss for job in jobs if isinstance(job.result, Calibrated)), None),
        tokens_done=sum(_tokens_done(job, curves) for job in jobs),
        tokens_total=_tokens_total(search, num_trials=sum(row.state != "failed" for row in leaderboard)),
        leaderboard=tuple(leaderboard),
        promotions=tuple(_promotion_views(repository, search, jobs, curves)),
        jobs=tuple(
            JobView(
                job_id=job.id,
                kind=job.spec.kind,
                candidate_id=candidate_of(job),
                state=job.state,
                attempt=job.attempt,
                progress=job.progress,
                reason=job.reason,
            )
            for job in jobs
            if job.state is not JobState.SUCCEEDED
        ),
    )


def _promotion_views(
    repository: Repository, search: SearchRecord, jobs: list[JobRecord], curves: Curves
) -> list[PromotionView]:
    candidates = {candidate.trial_id: candidate for candidate in repository.candidates(search.id)}
    promotions = repository.promotions(search.id)
    models = repository.models([promotion.id for promotion in promotions])
    views = []
    for promotion in promotions:
        newest = [job for job in jobs if job.promotion_id == promotion.id][-1]
        model = models.get(promotion.id)
        views.append(
            PromotionView(
                candidate_id=candidates[promotion.trial_id].id,
                architecture=candidates[promotion.trial_id].architecture,
                curve=curves.of_promotion.get(promotion.id, ()),
                state=f"{newest.spec.kind} {newest.state}",
                folder=None if model is None else model.folder,
                parameters=None if model is None else model.parameters,
                exported_loss=None if model is None else model.loss,
            )
        )
    return views


def _tokens_done(job: JobRecord, curves: Curves) -> int:
    """Tokens behind a trial or promotion: as far as it was measured, or further if it runs and says so."""
    if job.spec.kind == "trial" and job.trial_id is not None:
        curve = curves.of_trial.get(job.trial_id, ())
    elif job.spec.kind == "promotion" and job.promotion_id is not None:
        curve = curves.of_promotion.get(job.promotion_id, ())
    else:
        return 0
    if job.state is JobState.FAILED:
        return 0
    measured = curve[-1].tokens if curve else 0
    return max(measured, job.progress.done if job.progress is not None else 0)


def _tokens_total(search: SearchRecord, *, num_trials: int) -> int:
    """What all trials that have not failed, and the promotions of their winners, come to."""
    spec, length = search.spec, search.spec.data.sequence_length
    num_promotions = min(spec.promotion.winners, num_trials)
    return num_trials * spec.trial.actual_tokens(length) + num_promotions * spec.promotion.actual_tokens(length)
