"""Deleting a search with its artifacts."""

from datetime import datetime

from api.store.database import Database
from api.store.searches import not_found
from api.store.store import Store
from nas.errors import ConflictError, SettingError, StoreError
from nas.states import SearchState
from workers.artifacts import delete_folders


def delete(database: Database, name: str, now: datetime) -> None:
    """Deletes a search that does not run, with every model, weight, score and log of its jobs; its events stay.

    First nobody finds it any more, then its folders go, then its rows: whatever interrupts it, asked again it goes on.

    Raises NotFoundError; ConflictError for a search that runs; StoreError where a folder cannot be removed.
    """
    with database.transaction() as session:
        store = Store(session)
        search = store.searches.find(name, lock=True, deleted=True)
        if search is None:
            raise not_found(name)
        if search.state is SearchState.RUNNING:
            raise ConflictError("search", name, "is running", "one that has ended, or that is paused or stopped")
        store.searches.begin_to_delete(search.id, now)
        folders = [attempt.folder for attempt in store.attempts.of_search(search.id) if attempt.folder]
    try:
        delete_folders(folders)
    except (OSError, SettingError) as error:
        problem = f"the artifacts of {name} cannot be deleted: {error}; asked again, the deletion goes on"
        raise StoreError(problem) from error
    with database.transaction() as session:
        Store(session).searches.discard(search.id)
