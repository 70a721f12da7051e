"""The append-only record of what happened: for live streams, replay and audit."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import JsonValue
from sqlalchemy import Select, func, insert, select, text
from sqlalchemy.orm import Session

from api.store.tables import EventRow, PromotionRow, SearchRow, TrialRow
from nas.views import EventKind, EventView

_WRITING = 0x70BA  # Any number, the same in every process: PostgreSQL's name for the lock.

Row = TypeVar("Row")


class Events:
    """Events of one transaction are kept until its end, when `write` numbers them all.

    So the lock that keeps numbers in the order of commits is always the last that a transaction takes.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._pending: list[dict[str, Any]] = session.info.setdefault("events", [])

    def append(
        self,
        kind: EventKind,
        search_id: int,
        at: datetime,
        *,
        trial_id: int | None = None,
        candidate_id: int | None = None,
        job_id: int | None = None,
        **data: JsonValue,
    ) -> None:
        """Of a candidate, if the event is of one: as given, or that of the trial."""
        search = self._kept(("search", search_id), lambda: self._session.get_one(SearchRow, search_id))
        if candidate_id is None and trial_id is not None:
            candidate_id = self._candidate_of(trial_id)
        self._pending.append(
            {
                "project_id": search.project_id,
                "search": search.name,
                "at": at,
                "kind": kind.value,
                "candidate_id": candidate_id,
                "job_id": job_id,
                "data": data,
            }
        )

    def _candidate_of(self, trial_id: int) -> int:
        return self._kept(("trial", trial_id), lambda: self._session.get_one(TrialRow, trial_id)).candidate_id

    def _kept(self, key: tuple[str, int], get: Callable[[], Row]) -> Row:
        """A session forgets rows that nobody holds; these are asked for again with every event."""
        held: dict[tuple[str, int], Row] = self._session.info.setdefault("rows", {})
        if key not in held:
            held[key] = get()
        return held[key]

    def num_pending(self) -> int:
        return len(self._pending)

    def forget_pending(self, after: int) -> None:
        """Takes back what was appended since there were `after`: its savepoint was rolled back."""
        del self._pending[after:]

    def write(self) -> None:
        """Numbers what is pending, right before the commit.

        PostgreSQL gives out numbers before rows become visible, so a reader could pass over the smaller of two: the
        lock, held to the end of the transaction, makes the order of numbers that of commits.
        """
        if not self._pending:
            return
        if self._session.get_bind().dialect.name == "postgresql":
            self._session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _WRITING})
        self._session.execute(insert(EventRow), self._pending)
        self._pending.clear()

    def after(self, event_id: int, *, search: str | None, limit: int) -> list[EventView]:
        """What happened later than an event, oldest first."""
        query = select(EventRow).where(EventRow.id > event_id).order_by(EventRow.id).limit(limit)
        if search is not None:
            query = query.where(EventRow.search == search)
        return [_view(row) for row in self._session.scalars(query)]

    def newest(self) -> int:
        """The number of the last event, 0 where nothing happened yet."""
        return self._session.scalar(select(func.max(EventRow.id))) or 0

    def newest_of(self, searches: Sequence[str]) -> dict[str, int]:
        """The number of the last event of each search, without those that have none."""
        # One look at the end of the index for each: grouped, a database would read all events there are.
        found = {name: self._session.scalar(_newest_of(name)) for name in searches}
        return {name: event_id for name, event_id in found.items() if event_id is not None}

    def pending_searches(self) -> frozenset[str]:
        """The searches to which something happened in this transaction."""
        return frozenset(event["search"] for event in self._pending)


def _newest_of(search: str) -> Select[int]:
    return select(EventRow.id).where(EventRow.search == search).order_by(EventRow.id.desc()).limit(1)


def trial_of(session: Session, trial_id: int | None, promotion_id: int | None) -> int | None:
    """The trial behind a job: its own, or that of the promotion which it is of."""
    return trial_id if promotion_id is None else session.get_one(PromotionRow, promotion_id).trial_id


def _view(row: EventRow) -> EventView:
    return EventView(
        id=row.id,
        at=row.at,
        kind=EventKind(row.kind),
        search=row.search,
        candidate_id=row.candidate_id,
        job_id=row.job_id,
        data=row.data,
    )
