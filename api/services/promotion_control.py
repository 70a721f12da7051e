"""What a user may do to a promotion: pause, resume, cancel, retry, extend; its search goes on beside it.

Every function raises NotFoundError, and ConflictError for a promotion in a state that does not allow it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

from api.services.control import check_affordable, check_not_cancelled, take_up
from api.services.outcome import promotions
from api.store.database import Database
from api.store.records import SearchRecord
from api.store.store import Store
from nas.errors import ConflictError, NotFoundError
from nas.extension import PromotionExtension
from nas.states import Intent, PromotionState
from nas.views import PromotionView

_ENDED = (PromotionState.FINISHED, PromotionState.FAILED, PromotionState.CANCELLED)


def pause(database: Database, name: str, promotion_id: int, now: datetime) -> None:
    """It saves its state and ends, and waits until it is resumed."""
    _hold_back(database, name, promotion_id, Intent.PAUSE, now)


def cancel(database: Database, name: str, promotion_id: int, now: datetime) -> None:
    """It ends now, or has failed, and its search does without the model. What was measured stays."""
    _hold_back(database, name, promotion_id, Intent.CANCEL, now)


def resume(database: Database, name: str, promotion_id: int, now: datetime) -> None:
    """One that was paused or cancelled goes on from its newest checkpoint."""
    with _promotion(database, name, promotion_id) as (store, search, view):
        if view.intent is Intent.RUN:
            raise _conflict(view, "is not held back", "one that is paused or cancelled")
        check_affordable(store, search, now)
        store.promotions.ask(search.id, promotion_id, Intent.RUN, now)
        store.jobs.retry_promotion(promotion_id, now)
        take_up(store, search, now)


def retry(database: Database, name: str, promotion_id: int, now: datetime) -> None:
    """Tries its failed job again, the failures forgiven."""
    with _promotion(database, name, promotion_id) as (store, search, view):
        if view.state is not PromotionState.FAILED:
            raise _conflict(view, f"is {view.state}", "one that has failed")
        store.jobs.retry_promotion(promotion_id, now)
        take_up(store, search, now)


def extend(database: Database, name: str, promotion_id: int, extension: PromotionExtension, now: datetime) -> None:
    """Distils it further, once what it does now is done, and exports it anew."""
    with _promotion(database, name, promotion_id) as (store, search, view):
        if view.state in (PromotionState.FAILED, PromotionState.CANCELLED):
            raise _conflict(view, f"is {view.state}", "one that is being distilled or finished")
        check_affordable(store, search, now)
        store.promotions.extend(search.id, promotion_id, extension.tokens, now)
        take_up(store, search, now)


def _hold_back(database: Database, name: str, promotion_id: int, intent: Intent, now: datetime) -> None:
    with _promotion(database, name, promotion_id) as (store, search, view):
        given_up = view.state is PromotionState.FAILED and intent is Intent.CANCEL
        if view.state in _ENDED and not given_up:
            raise _conflict(view, f"is {view.state} already", "one that is being distilled or exported")
        store.promotions.ask(search.id, promotion_id, intent, now)
        if given_up:
            take_up(store, search, now)


def _conflict(view: PromotionView, problem: str, accepted: str) -> ConflictError:
    return ConflictError("promotion", view.id, problem, accepted)


@contextmanager
def _promotion(database: Database, name: str, promotion_id: int) -> Iterator[tuple[Store, SearchRecord, PromotionView]]:
    with database.transaction() as session:
        store = Store(session)
        search = store.searches.named(name, lock=True)
        check_not_cancelled(search)
        view = next((each for each in promotions(session, name) if each.id == promotion_id), None)
        if view is None:
            accepted = "the id of a promotion, as the search lists them"
            raise NotFoundError("promotion", promotion_id, f"is not in {name}", accepted)
        yield store, search, view
