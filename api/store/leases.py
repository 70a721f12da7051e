"""Which of several schedulers may act."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import select
from sqlalchemy.orm import Session

from api.store.tables import InstallationRow, LeaseRow


@dataclass(frozen=True)
class Lease:
    """`term` changes with the holder."""

    term: int
    until: datetime


class Leases:
    def __init__(self, session: Session) -> None:
        self._session = session

    def take(self, name: str, holder: str, *, now: datetime, seconds: float) -> Lease | None:
        """Takes a lease for so many seconds, or extends it once half of them are gone; None if another has it.

        The row stays locked to the end of the transaction, so no two holders ever work at once, however late one is:
        whoever finds it locked does without rather than wait. (SQLite has one writer at a time anyway.)
        """
        row = self._session.scalar(select(LeaseRow).where(LeaseRow.name == name).with_for_update(skip_locked=True))
        if row is None or (row.holder != holder and row.until > now):
            return None
        if row.holder != holder:
            row.holder, row.term, row.until = holder, row.term + 1, now + timedelta(seconds=seconds)
        elif row.until < now + timedelta(seconds=seconds / 2):
            row.until = now + timedelta(seconds=seconds)
        self._session.flush()
        return Lease(row.term, row.until)

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
