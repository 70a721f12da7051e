"""What users want of searches and promotions, brought about: what is to end ends, what has come to rest waits."""

from collections import defaultdict
from datetime import datetime

from api.store.records import LiveAttempt
from api.store.store import Store
from nas.states import Intent

Key = tuple[int, int]
"""A job and an attempt at it."""


def bring_about(store: Store, now: datetime) -> tuple[list[Key], list[Key]]:
    """Ends searches and promotions that were cancelled; returns what of others is to be interrupted, and what ran."""
    cancelled: list[Key] = []
    for search in store.searches.running():
        if search.intent is Intent.CANCEL and store.searches.end_cancelled(search.id, now):
            cancelled += store.jobs.cancel_all(search.id, now)
    held_back = store.promotions.held_back()
    for promotion_id, intent in held_back.items():
        if intent is Intent.CANCEL:
            cancelled += store.jobs.cancel_promotion(promotion_id, now)
    ending = {search.id for search in store.searches.running() if search.ends_at_once}
    interrupted = [
        (live.job_id, live.number)
        for live in store.attempts.live()
        if live.search_id in ending or held_back.get(live.promotion_id or 0) is Intent.PAUSE
    ]
    return interrupted, cancelled


def settle(store: Store, now: datetime) -> None:
    """Lets searches that are to be paused or stopped wait for their users once nothing of them runs any more."""
    live: dict[int, list[LiveAttempt]] = defaultdict(list)
    for attempt in store.attempts.live():
        live[attempt.search_id].append(attempt)
    for search in store.searches.running():
        if search.intent in (Intent.PAUSE, Intent.STOP) and not live[search.id]:
            store.searches.settle(search, now)
