"""What a search has used, and whether that is all that it may."""

from datetime import datetime

from api.store.records import SearchRecord
from api.store.store import Store
from nas.extension import spending
from nas.spec import SpendingSpec
from nas.views import Spent


def spent(store: Store, search: SearchRecord, now: datetime) -> Spent:
    """What a search has used until now, or until it ended."""
    device_hours = store.attempts.device_seconds(search.id, now) / 3600
    price = search.spec.hardware.price_per_hour
    return Spent(
        tokens=tokens_used(store, search.id),
        device_hours=device_hours,
        money=None if price is None else device_hours * price,
        wall_hours=((search.finished_at or now) - search.created_at).total_seconds() / 3600,
    )


def tokens_used(store: Store, search_id: int) -> int:
    """Of all retraining of a search: every run as far as it was measured, or as far as it has said since."""
    swept = store.jobs.swept(search_id)
    measured = store.curves.tokens_behind(search_id) + (0 if swept is None else swept.tokens)
    return measured + store.attempts.tokens_not_measured(search_id)


def used_up(store: Store, search: SearchRecord, now: datetime) -> str | None:
    """The sentence that says which limit of a search's spending it has reached; None if it has not."""
    limits = spending(search.spec, search.extensions)
    if limits == SpendingSpec():
        return None
    used = spent(store, search, now)
    for field in SpendingSpec.model_fields:
        limit, value = getattr(limits, field), getattr(used, field)
        if limit is not None and value is not None and value >= limit:
            return f"spending.{field}: {_amount(value)} of {_amount(limit)} are used"
    return None


def _amount(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) or value >= 1000 else f"{value:,.3g}"
