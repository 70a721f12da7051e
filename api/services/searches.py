"""Submitting searches and looking at them."""

from datetime import datetime
from pathlib import Path

from sqlalchemy.orm import Session

from api.lifecycle import standings
from api.store.records import JobRecord, SearchRecord
from api.store.repository import Repository
from nas.architecture import Architecture
from nas.cost import cost
from nas.errors import FolderError, SpecError
from nas.families import family_named
from nas.model_folder import inspect_model_folder
from nas.space import enumerate_candidates
from nas.spec import SearchSpec
from nas.text import read_documents, text_files
from nas.views import CandidateView, EnumerationView, JobView, PromotionView, SearchView


def enumerate_spec(spec: SearchSpec) -> EnumerationView:
    """The teacher and the candidates of a spec with their costs; starts nothing.

    Raises UserError for a teacher that cannot be used and for a space or budget that leaves nothing.
    """
    teacher = inspect_model_folder(Path(spec.teacher))
    length, positions = spec.data.sequence_length, teacher.config.get("max_position_embeddings")
    if positions is not None and length > positions:
        problem = f"is longer than the teacher's {positions} positions"
        raise SpecError("data.sequence_length", length, problem, f"2 to {positions}")
    teacher_cost = cost(teacher.architecture, dtype=teacher.dtype, sequence_length=length)
    found = enumerate_candidates(spec.space, spec.budget, teacher.architecture)
    return EnumerationView(
        teacher=teacher.architecture,
        teacher_cost=teacher_cost,
        candidates=tuple(
            CandidateView(
                architecture=architecture,
                cost=(own := cost(architecture, dtype=teacher.dtype, sequence_length=length)),
                share_of_teacher=own.parameters / teacher_cost.parameters,
            )
            for architecture in found.candidates
        ),
        num_illegal=found.num_illegal,
        num_outside_budget=found.num_outside_budget,
    )


def submit(session: Session, spec: SearchSpec, now: datetime) -> int:
    """Creates the search, or finds the one of this name; a failed one has its failed jobs queued again.

    Raises UserError for a bad spec, before anything is written, and FolderError if a search of this name has
    another spec.
    """
    repository = Repository(session)
    existing = repository.search_named(spec.name)
    if existing is None:
        found = enumerate_spec(spec)
        _check_text(spec)
        return repository.add_search(spec, found.teacher, found.candidates, now)
    if existing.spec != spec:
        changed = [name for name in SearchSpec.model_fields if getattr(existing.spec, name) != getattr(spec, name)]
        raise FolderError(
            "name",
            spec.name,
            f"names a search that was begun with another {', '.join(changed)}",
            "the spec it was begun with, another name, or another --into folder",
        )
    if existing.state == "failed":
        _check_text(spec)
        repository.retry_failed(existing.id)
        repository.set_search_state(existing.id, "running", None, now)
    return existing.id


def _check_text(spec: SearchSpec) -> None:
    """Fails early on text that is not there or whose first document cannot be read."""
    for field, path in (("data.train", spec.data.train), ("data.validation", spec.data.validation)):
        if path is not None:
            text_files(Path(path), field=field)
            next(read_documents(Path(path), spec.data.text_field, field=field), None)


def view(session: Session, search_id: int) -> SearchView:
    """The search as it stands."""
    repository = Repository(session)
    search = repository.search(search_id)
    jobs = repository.jobs(search_id)
    rows = standings(repository, search, jobs)
    promotions = _promotion_views(repository, search, jobs)
    length = search.spec.data.sequence_length
    num_promotions = min(search.spec.promotion.winners, len(rows))
    candidate_of_trial = {candidate.trial_id: candidate.id for candidate in repository.candidates(search_id)}
    candidate_of_promotion = {
        promotion.id: candidate_of_trial[promotion.trial_id] for promotion in repository.promotions(search_id)
    }
    return SearchView(
        id=search.id,
        name=search.name,
        state=search.state,
        reason=search.reason,
        user_error=search.state == "failed" and any(job.user_error for job in jobs if job.state == "failed"),
        created_at=search.created_at,
        finished_at=search.finished_at,
        teacher=search.teacher,
        teacher_parameters=_count(search.teacher),
        teacher_loss=next((job.result.loss for job in jobs if job.result and job.result.kind == "calibrate"), None),
        tokens_done=sum(_tokens_done(job) for job in jobs),
        tokens_total=len(rows) * search.spec.trial.actual_tokens(length)
        + num_promotions * search.spec.promotion.actual_tokens(length),
        leaderboard=tuple(rows),
        promotions=tuple(promotions),
        jobs=tuple(
            JobView(
                job_id=job.id,
                kind=job.spec.kind,
                candidate_id=candidate_of_trial.get(job.trial_id or 0)
                or candidate_of_promotion.get(job.promotion_id or 0),
                state=job.state,
                attempt=job.attempt,
                progress=job.progress,
                reason=job.reason,
            )
            for job in jobs
            if job.state != "succeeded"
        ),
    )


def _promotion_views(repository: Repository, search: SearchRecord, jobs: list[JobRecord]) -> list[PromotionView]:
    candidates = {candidate.trial_id: candidate for candidate in repository.candidates(search.id)}
    curves = repository.curves(search.id).of_promotion
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
                curve=curves.get(promotion.id, ()),
                state=f"{newest.spec.kind} {newest.state}",
                folder=None if model is None else model.folder,
                parameters=None if model is None else model.parameters,
            )
        )
    return views


def _tokens_done(job: JobRecord) -> int:
    if job.spec.kind not in ("trial", "promotion"):
        return 0
    if job.result is not None and job.result.kind in ("trial", "promotion"):
        return job.result.tokens
    return job.progress.done if job.progress is not None else 0


def _count(architecture: Architecture) -> int:
    return family_named(architecture.family).count(architecture)
