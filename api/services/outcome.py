"""What a search came to: promotions, models, and the best architecture with its weights."""

from pathlib import Path

from pydantic import JsonValue
from sqlalchemy.orm import Session

from api.lifecycle import standings
from api.store.records import JobRecord, PromotionRecord, SearchRecord
from api.store.store import Store
from nas.architecture import Architecture
from nas.errors import ConflictError, NotFoundError
from nas.hub import inspect_teacher
from nas.jobs import Trained
from nas.model_folder import ModelFolder
from nas.states import JobState, PromotionState, SearchState
from nas.views import BestView, Checkpoint, ModelFile, ModelView, PromotionView


def promotions(session: Session, name: str) -> list[PromotionView]:
    """The promotions of a search, in the order in which they were begun. Raises NotFoundError."""
    store = Store(session)
    search = store.searches.named(name)
    found = store.promotions.of_search(search.id)
    if not found:
        return []
    candidates = {candidate.trial_id: candidate for candidate in store.searches.candidates(search.id)}
    models = store.promotions.models([promotion.id for promotion in found])
    curves, jobs = store.curves.of_search(search.id), store.jobs.of_search(search.id)
    return [
        PromotionView(
            id=promotion.id,
            candidate_id=candidates[promotion.trial_id].id,
            architecture=candidates[promotion.trial_id].architecture,
            curve=curves.of_promotion.get(promotion.id, ()),
            state=_promotion_state(promotion, jobs),
            model_id=None if (model := models.get(promotion.id)) is None else model.id,
            folder=None if model is None else model.folder,
            parameters=None if model is None else model.parameters,
            exported_loss=None if model is None else model.loss,
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


def best(session: Session, name: str) -> BestView:
    """The first of the leaderboard, its config made from the teacher's, and its best weights.

    Raises NotFoundError; ConflictError while no candidate has been measured; TeacherError if the teacher's folder is
    gone.
    """
    store = Store(session)
    search = store.searches.named(name)
    jobs = store.jobs.of_search(search.id)
    first = standings(store.searches.candidates(search.id), jobs, store.curves.of_search(search.id))[0]
    if first.rank is None:
        raise ConflictError("search", name, "has no candidate that was measured", "a search further on")
    teacher = inspect_teacher(search.spec.teacher, whole=False)
    return BestView(
        search=name,
        final=search.state is SearchState.FINISHED,
        standing=first,
        config=_config(teacher, first.architecture, _trained(store, search, first.candidate_id, jobs)),
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
    store = Store(session)
    trained = _trained(store, search, candidate_id, jobs)
    if trained is None:
        return None
    trial_id = _trial_of(store, search, candidate_id)
    point = store.curves.of_search(search.id).of_trial[trial_id][-1]
    return Checkpoint(kind="trial", path=trained.weights, model_id=None, tokens=point.tokens, loss=point.loss)


def _trial_of(store: Store, search: SearchRecord, candidate_id: int) -> int:
    return next(each.trial_id for each in store.searches.candidates(search.id) if each.id == candidate_id)


def _trained(store: Store, search: SearchRecord, candidate_id: int, jobs: list[JobRecord]) -> Trained | None:
    """What the candidate's trial ended in, if it did."""
    trial_id = _trial_of(store, search, candidate_id)
    results = [job.result for job in jobs if job.trial_id == trial_id and isinstance(job.result, Trained)]
    return results[-1] if results else None


def _config(teacher: ModelFolder, architecture: Architecture, trained: Trained | None) -> dict[str, JsonValue] | None:
    """The student's config.json; None where it depends on which layers stay, and that is not known yet."""
    family = teacher.family
    if trained is None and family.tells_layers_apart(teacher.config):
        return None
    config: dict[str, JsonValue] = family.config(teacher.config, architecture, trained.kept_layers if trained else ())
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
            files=_files(Path(record.folder)),
        )
        for promotion in promotions(session, search.name)
        if (record := of_promotion.get(promotion.id)) is not None
    ]


def _files(folder: Path) -> tuple[ModelFile, ...]:
    """The files of a model's folder; none where it was deleted."""
    if not folder.is_dir():
        return ()
    return tuple(ModelFile(name=file.name, size=file.stat().st_size) for file in sorted(folder.iterdir()))


def _promotion_state(promotion: PromotionRecord, jobs: list[JobRecord]) -> PromotionState:
    newest = [job for job in jobs if job.promotion_id == promotion.id][-1]
    if newest.state is JobState.FAILED:
        return PromotionState.FAILED
    if newest.state is JobState.CANCELLED:
        return PromotionState.CANCELLED
    if newest.kind == "promotion":
        return PromotionState.DISTILLING
    return PromotionState.FINISHED if newest.state is JobState.SUCCEEDED else PromotionState.EXPORTING
