"""What a search came to: promotions, models, and the best architecture with its weights."""

from collections.abc import Sequence

from pydantic import JsonValue
from sqlalchemy.orm import Session

from api.gate import accuracy_of
from api.how_sure import sure_standings
from api.services.costs import MILLISECONDS, cost_names, costs_by_candidate
from api.services.files import sizes
from api.store.records import JobRecord, PromotionRecord, SearchRecord
from api.store.store import Store
from api.winners import trained_first
from nas.architecture import Architecture
from nas.constraints import first_within, parse_constraint
from nas.errors import ConflictError, NotFoundError
from nas.hub import inspect_teacher
from nas.jobs import JobResult, Promotion, Trained, Trial
from nas.model_folder import ModelFolder
from nas.states import Intent, JobState, PromotionState, SearchState
from nas.views import BestView, Checkpoint, ModelFile, ModelView, PromotionView


def promotions(session: Session, name: str) -> list[PromotionView]:
    """The promotions of a search, in the order in which they were begun. Raises NotFoundError."""
    store = Store(session)
    search = store.searches.named(name)
    found = store.promotions.of_search(search.id)
    if not found:
        return []
    candidates = {
        trial.id: candidate for candidate in store.candidates.of_search(search.id) for trial in candidate.trials
    }
    models = store.promotions.models([promotion.id for promotion in found])
    curves, jobs = store.curves.of_search(search.id), store.jobs.of_search(search.id)
    return [
        PromotionView(
            id=promotion.id,
            candidate_id=candidates[promotion.trial_id].id,
            architecture=candidates[promotion.trial_id].architecture,
            curve=curves.of_promotion.get(promotion.id, ()),
            state=_promotion_state(promotion, jobs),
            intent=promotion.intent,
            extensions=promotion.extensions,
            model_id=None if (model := models.get(promotion.id)) is None else model.id,
            folder=None if model is None else model.folder,
            parameters=None if model is None else model.parameters,
            exported_loss=None if model is None else model.loss,
            accuracy=_accuracy(promotion, jobs),
        )
        for promotion in found
    ]


def models(session: Session, name: str | None) -> list[ModelView]:
    """The models of one search, or of all, the newest first. Raises NotFoundError."""
    store = Store(session)
    searches = store.searches.newest_first() if name is None else [store.searches.named(name)]
    return [model for search in searches for model in _models_of(session, search)]


def model(session: Session, model_id: int) -> ModelView:
    """Raises NotFoundError."""
    store = Store(session)
    search_id = store.promotions.search_of_model(model_id)
    if search_id is None:
        raise NotFoundError("model", model_id, "is not there", "the id of a model, as its search lists them")
    return next(each for each in _models_of(session, store.searches.get(search_id)) if each.id == model_id)


def best(session: Session, name: str, where: Sequence[str] = ()) -> BestView:
    """The first of the leaderboard within the constraints `where`, its config made from the teacher's, and its best
    weights.

    Raises NotFoundError; ConflictError while no candidate has been measured; SettingError for what is no constraint,
    SpecError for one on milliseconds whose table is gone, BudgetError if no candidate is within all of them;
    TeacherError if the teacher's folder is gone.
    """
    store = Store(session)
    search = store.searches.named(name)
    constraints = [parse_constraint(text, cost_names(search)) for text in where]
    jobs, candidates = store.jobs.of_search(search.id), store.candidates.of_search(search.id)
    rows = sure_standings(store, search, candidates, jobs, store.curves.of_search(search.id))
    if rows[0].rank is None:
        raise ConflictError("search", name, "has no candidate that was measured", "a search further on")
    costs = costs_by_candidate(search, candidates, timed=any(each.cost == MILLISECONDS for each in constraints))
    first = first_within(rows, costs, constraints)
    teacher = inspect_teacher(search.spec.teacher, whole=False)
    trained = _trained(store, search, first.candidate_id, jobs)
    return BestView(
        search=name,
        final=search.state is SearchState.FINISHED,
        standing=first,
        costs=costs[first.candidate_id],
        config=_config(teacher, first.architecture, None if trained is None else trained.result),
        checkpoint=_checkpoint(session, search, first.candidate_id, jobs),
    )


def _checkpoint(session: Session, search: SearchRecord, candidate_id: int, jobs: list[JobRecord]) -> Checkpoint | None:
    """The exported model of a candidate, or else the final weights of its trial."""
    for promotion in promotions(session, search.name):
        if promotion.candidate_id == candidate_id and promotion.folder is not None:
            return Checkpoint(
                kind="model",
                path=promotion.folder,
                model_id=promotion.model_id,
                tokens=promotion.curve[-1].tokens,
                loss=promotion.exported_loss if promotion.exported_loss is not None else promotion.curve[-1].loss,
            )
    job = _trained(Store(session), search, candidate_id, jobs)
    if job is None or job.trial_id is None or not isinstance(job.result, Trained):
        return None
    before = job.spec.continues if isinstance(job.spec, Trial) else None
    tokens = job.result.tokens + (0 if before is None else before.tokens)
    curve = Store(session).curves.of_search(search.id).of_trial[job.trial_id]
    point = next(point for point in curve if point.tokens >= tokens)
    return Checkpoint(kind="trial", path=job.result.weights, model_id=None, tokens=point.tokens, loss=point.loss)


def _trained(store: Store, search: SearchRecord, candidate_id: int, jobs: list[JobRecord]) -> JobRecord | None:
    """The newest job of a candidate's first trial that is at its end, else the newest of all that came so far."""
    candidate = next(each for each in store.candidates.of_search(search.id) if each.id == candidate_id)
    ids = [trial.id for trial in candidate.trials]
    done = [job for job in jobs if job.trial_id in ids and isinstance(job.result, Trained)]
    return trained_first(candidate, jobs) or (done[-1] if done else None)


def _config(teacher: ModelFolder, architecture: Architecture, trained: JobResult | None) -> dict[str, JsonValue] | None:
    """The student's config.json; None where it depends on which layers stay, and that is not known yet."""
    family = teacher.family
    kept_layers = trained.kept_layers if isinstance(trained, Trained) else None
    if kept_layers is None and family.tells_layers_apart(teacher.config):
        return None
    config: dict[str, JsonValue] = family.config(teacher.config, architecture, kept_layers or ())
    return config


def _models_of(session: Session, search: SearchRecord) -> list[ModelView]:
    store = Store(session)
    of_promotion = store.promotions.models([each.id for each in store.promotions.of_search(search.id)])
    return [
        ModelView(
            id=record.id,
            search=search.name,
            candidate_id=promotion.candidate_id,
            promotion_id=promotion.id,
            architecture=promotion.architecture,
            parameters=record.parameters,
            loss=record.loss,
            folder=record.folder,
            created_at=record.created_at,
            files=tuple(ModelFile(name=name, size=size) for name, size in sizes(record.folder).items()),
        )
        for promotion in promotions(session, search.name)
        if (record := of_promotion.get(promotion.id)) is not None
    ]


def _accuracy(promotion: PromotionRecord, jobs: list[JobRecord]) -> float | None:
    """Of the weights that it began with."""
    begun = next(job.spec for job in jobs if job.promotion_id == promotion.id)
    return accuracy_of(begun.weights, jobs) if isinstance(begun, Promotion) else None


def _promotion_state(promotion: PromotionRecord, jobs: list[JobRecord]) -> PromotionState:
    newest = [job for job in jobs if job.promotion_id == promotion.id][-1]
    if promotion.intent is Intent.CANCEL or newest.state is JobState.CANCELLED:
        return PromotionState.CANCELLED
    if newest.state is JobState.FAILED:
        return PromotionState.FAILED
    is_done = newest.state is JobState.SUCCEEDED and newest.kind == "export"
    if is_done and newest.segment == len(promotion.extensions):
        return PromotionState.FINISHED
    if promotion.intent is Intent.PAUSE and newest.state is JobState.QUEUED:
        return PromotionState.PAUSED
    return PromotionState.EXPORTING if newest.kind == "export" and not is_done else PromotionState.DISTILLING
