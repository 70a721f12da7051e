"""A whole search on this machine with no server: the scheduler over SQLite and the local pool."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from api.run_folder import check_numbering, exclusive
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
    with exclusive(into, option="--into", accepted=_ONE_SEARCH), _database(into) as database:
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
def _database(into: Path) -> Iterator[Database]:
    check_numbering(into, into / "topiary.db", option="--into")
    database = Database(f"sqlite:///{into / 'topiary.db'}")
    try:
        database.migrate()
        yield database
    finally:
        database.close()
