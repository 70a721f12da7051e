"""The life of searches and promotions: pausing, stopping, cancelling, resuming, retrying, extending, putting away."""

from fastapi import APIRouter, Response
from pydantic import Field, JsonValue

from api.routes.errors import declared
from api.routes.parameters import Now, OnlyCandidate, OpenDatabase, PromotionId, SearchName
from api.services import control, deletion, extending, outcome, promotion_control, viewing
from api.store.database import Database
from nas.border import Border
from nas.extension import Extension, PromotionExtension
from nas.spec import NAME, NAME_DESCRIPTION
from nas.views import PromotionView, SearchView

router = APIRouter(prefix="/v1", tags=["life of a search"])

_SEARCH = "/searches/{name}"
_PROMOTION = "/searches/{name}/promotions/{promotion_id}"


class Clone(Border):
    """A search like another: its name, and what is different, a JSON merge patch of the spec."""

    name: str = Field(pattern=f"^{NAME}$", description=NAME_DESCRIPTION)
    changes: dict[str, JsonValue] = Field(
        default_factory=dict, description="fields of the spec, nested, with their new values; null takes one away"
    )


# --- searches -----------------------------------------------------------------------------------------------


@router.post(f"{_SEARCH}/pause", summary="Pause a search", status_code=202, responses=declared(404, 409))
def pause_search(name: SearchName, database: OpenDatabase, now: Now) -> SearchView:
    """What runs saves its state and ends, then the search is paused, and waits until it is resumed."""
    control.pause(database, name, now)
    return _search(database, name)


@router.post(f"{_SEARCH}/stop", summary="Stop a search", status_code=202, responses=declared(404, 409))
def stop_search(name: SearchName, database: OpenDatabase, now: Now) -> SearchView:
    """What runs goes on to its end and nothing new is started, then the search waits until it is resumed."""
    control.stop(database, name, now)
    return _search(database, name)


@router.post(f"{_SEARCH}/cancel", summary="Cancel a search", status_code=202, responses=declared(404, 409))
def cancel_search(name: SearchName, database: OpenDatabase, now: Now) -> SearchView:
    """Asks for a running search to be ended; the scheduler's next step does it. What was measured stays."""
    control.cancel(database, name, now)
    return _search(database, name)


@router.post(f"{_SEARCH}/resume", summary="Resume a search", status_code=202, responses=declared(404, 409))
def resume_search(name: SearchName, database: OpenDatabase, now: Now) -> SearchView:
    """One that was paused, stopped or cancelled goes on, from its newest checkpoints.

    409 for one that has used up what it may: it is extended first.
    """
    control.resume(database, name, now)
    return _search(database, name)


@router.post(f"{_SEARCH}/retry", summary="Try failed jobs again", status_code=202, responses=declared(404, 409))
def retry_search(name: SearchName, database: OpenDatabase, now: Now, candidate_id: OnlyCandidate = None) -> SearchView:
    """Queues what has failed of a search again, its failures forgiven; with `candidate_id`, the trials of that one."""
    control.retry(database, name, now, candidate_id=candidate_id)
    return _search(database, name)


@router.post(f"{_SEARCH}/extend", summary="Add to a search", status_code=202, responses=declared(404, 409))
def extend_search(name: SearchName, extension: Extension, database: OpenDatabase, now: Now) -> SearchView:
    """More candidates, tokens or seeds, or other limits of what it may spend; its spec stays what it was.

    A finished search is taken up again; one that is paused or stopped waits until it is resumed.
    """
    extending.extend(database, name, extension, now)
    return _search(database, name)


@router.post(f"{_SEARCH}/clone", summary="Begin a search like another", status_code=201, responses=declared(404, 409))
def clone_search(name: SearchName, clone: Clone, database: OpenDatabase, now: Now, response: Response) -> SearchView:
    """Begins a search of the same spec but for its name and `changes`; nothing measured is shared."""
    extending.clone(database, name, clone.name, dict(clone.changes), now)
    response.headers["Location"] = f"/v1/searches/{clone.name}"
    return _search(database, clone.name)


@router.post(f"{_SEARCH}/archive", summary="Archive a search", responses=declared(404, 409))
def archive_search(name: SearchName, database: OpenDatabase, now: Now) -> SearchView:
    """Takes a search that does not run out of the list; all else stays."""
    control.archive(database, name, now)
    return _search(database, name)


@router.post(f"{_SEARCH}/unarchive", summary="Put a search back into the list", responses=declared(404))
def unarchive_search(name: SearchName, database: OpenDatabase, now: Now) -> SearchView:
    """The opposite of archiving it."""
    control.archive(database, name, now, archived=False)
    return _search(database, name)


@router.delete(_SEARCH, summary="Delete a search", status_code=204, responses=declared(404, 409))
def delete_search(name: SearchName, database: OpenDatabase, now: Now) -> None:
    """Deletes a search that does not run, with its models and all else that its jobs wrote; its events stay.

    There is no way back. Asked again after whatever has interrupted it, it goes on.
    """
    deletion.delete(database, name, now)


# --- promotions ---------------------------------------------------------------------------------------------


@router.post(f"{_PROMOTION}/pause", summary="Pause a promotion", status_code=202, responses=declared(404, 409))
def pause_promotion(name: SearchName, promotion_id: PromotionId, database: OpenDatabase, now: Now) -> PromotionView:
    """It saves its state and ends, and waits until it is resumed; its search goes on beside it."""
    promotion_control.pause(database, name, promotion_id, now)
    return _promotion(database, name, promotion_id)


@router.post(f"{_PROMOTION}/cancel", summary="Cancel a promotion", status_code=202, responses=declared(404, 409))
def cancel_promotion(name: SearchName, promotion_id: PromotionId, database: OpenDatabase, now: Now) -> PromotionView:
    """It ends now, and its search does without the model. What was measured stays."""
    promotion_control.cancel(database, name, promotion_id, now)
    return _promotion(database, name, promotion_id)


@router.post(f"{_PROMOTION}/resume", summary="Resume a promotion", status_code=202, responses=declared(404, 409))
def resume_promotion(name: SearchName, promotion_id: PromotionId, database: OpenDatabase, now: Now) -> PromotionView:
    """One that was paused or cancelled goes on, from its newest checkpoint."""
    promotion_control.resume(database, name, promotion_id, now)
    return _promotion(database, name, promotion_id)


@router.post(
    f"{_PROMOTION}/retry", summary="Try a failed promotion again", status_code=202, responses=declared(404, 409)
)
def retry_promotion(name: SearchName, promotion_id: PromotionId, database: OpenDatabase, now: Now) -> PromotionView:
    """Queues its failed job again, the failures forgiven."""
    promotion_control.retry(database, name, promotion_id, now)
    return _promotion(database, name, promotion_id)


@router.post(f"{_PROMOTION}/extend", summary="Add to a promotion", status_code=202, responses=declared(404, 409))
def extend_promotion(
    name: SearchName, promotion_id: PromotionId, extension: PromotionExtension, database: OpenDatabase, now: Now
) -> PromotionView:
    """More tokens, once it has done what it does now; then it is exported anew. A finished one is taken up again."""
    promotion_control.extend(database, name, promotion_id, extension, now)
    return _promotion(database, name, promotion_id)


def _search(database: Database, name: str) -> SearchView:
    with database.reading() as session:
        return viewing.view(session, name)


def _promotion(database: Database, name: str, promotion_id: int) -> PromotionView:
    with database.reading() as session:
        return next(each for each in outcome.promotions(session, name) if each.id == promotion_id)
