"""What a user may do to a search that is there."""

from datetime import datetime

from api.store.database import Database
from api.store.store import Store
from nas.errors import ConflictError


def cancel(database: Database, name: str, now: datetime) -> None:
    """Asks for a running search to be ended now; the scheduler's next step does it. Asked again, nothing changes.

    Raises NotFoundError, and ConflictError for a search that has ended.
    """
    with database.transaction() as session:
        store = Store(session)
        search = store.searches.named(name)
        if not store.searches.ask_to_cancel(search.id, now):
            state = store.searches.get(search.id).state
            raise ConflictError("search", name, f"is {state} already", "a search that is running")
