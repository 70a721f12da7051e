"""Which of several schedulers may act."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.tables import InstallationRow, LeaseRow


class Leases:
    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, name: str, holder: str, *, now: datetime, until: datetime) -> int | None:
        """Takes or extends a lease; returns its term, which changes with its holder, or None if another has it.

        The row stays locked to the end of the transaction, so no two holders ever work at once, however late one is:
        whoever finds it locked does without rather than wait. (SQLite has one writer at a time anyway.)
        """
        row = self._session.scalar(select(LeaseRow).where(LeaseRow.name == name).with_for_update(skip_locked=True))
        if row is None or (row.holder != holder and row.until > now):
            return None
        if row.holder != holder:
            row.holder, row.term = holder, row.term + 1
        row.until = until
        self._session.flush()
        return row.term

    def give_up(self, name: str, holder: str, *, now: datetime) -> None:
        """Lets another take a lease at once; nothing happens where `holder` does not have it."""
        row = self._session.scalar(select(LeaseRow).where(LeaseRow.name == name).with_for_update())
        if row is not None and row.holder == holder:
            row.until = now

    def vacate(self, name: str, *, now: datetime) -> None:
        """Ends whoever's lease, for one who knows that no other holder can be alive."""
        self._session.get_one(LeaseRow, name).until = now

    def installation(self) -> str:
        """What tells this store from any other."""
        return self._session.scalars(select(InstallationRow.id)).one()

    def until(self, name: str) -> datetime:
        return self._session.get_one(LeaseRow, name).until
