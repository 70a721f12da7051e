"""A whole search on this machine with no server: the scheduler over SQLite and the local pool."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from api.scheduler import LEASE, Scheduler, utc_now
from api.services.submission import submit
from api.services.viewing import view
from api.store.database import Database
from api.store.store import Store
from nas.errors import FolderError
from nas.spec import SearchSpec
from nas.views import SearchView
from workers.local import LocalPool

_STEP_SECONDS = 0.2
_ONE_SEARCH = "a folder of its own for each search"


def run_search(spec: SearchSpec, into: Path, show: Callable[[SearchView], None]) -> SearchView:
    """Runs the spec's search to its end, or goes on with it if `into` holds it already; returns how it ended.

    `show` gets the search after every step. Raises UserError for a bad spec before anything is started. Whatever
    ends this process, the same call goes on from the newest checkpoints.
    """
    into = into.resolve()  # Addresses of artifacts are stored, and must hold from wherever the run goes on.
    with _exclusive(into), _database(into) as database:
        with database.transaction() as session:
            store = Store(session)
            others = [search.name for search in store.searches.newest_first() if search.name != spec.name]
            if others:
                raise FolderError("--into", str(into), f"holds the search {others[0]}", _ONE_SEARCH)
            # The folder's lock is ours, so whoever had the lease is dead.
            store.leases.vacate(LEASE, now=utc_now())
        submit(database, spec, utc_now())
        pool = LocalPool()
        try:
            scheduler = Scheduler(database, pool, into)
            while True:
                running = scheduler.step()
                with database.reading() as session:
                    seen = view(session, spec.name)
                show(seen)
                if not running:
                    return seen
                time.sleep(_STEP_SECONDS)
        finally:
            pool.close()


@contextmanager
def _exclusive(into: Path) -> Iterator[None]:
    """The folder for this process alone; the lock goes with the process, however it ends."""
    try:
        into.mkdir(parents=True, exist_ok=True)
        lock = FileLock(into / "lock")
        lock.acquire(blocking=False)
    except Timeout as error:
        raise FolderError("--into", str(into), "is in use by another run", _ONE_SEARCH) from error
    except OSError as error:
        raise FolderError(
            "--into", str(into), f"cannot be used ({error.strerror})", "a folder to write into"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _database(into: Path) -> Iterator[Database]:
    if (into / "jobs").exists() and not (into / "topiary.db").exists():
        # Numbered anew, its jobs would take what an earlier search left for their own.
        problem = "holds jobs whose database is gone"
        raise FolderError("--into", str(into), problem, "a new folder, or the one with its topiary.db put back")
    database = Database(f"sqlite:///{into / 'topiary.db'}")
    try:
        database.migrate()
        yield database
    finally:
        database.close()
