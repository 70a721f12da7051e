"""A whole search on this machine with no server: the scheduler over SQLite and the local pool."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from api.run_folder import check_numbering, exclusive
from api.scheduler import LEASE, Scheduler, utc_now
from api.services import control, promotion_control
from api.services.extending import extend
from api.services.submission import submit
from api.services.viewing import view
from api.spending import used_up
from api.store.database import Database
from api.store.store import Store
from nas.errors import ConflictError, FolderError, SpecError
from nas.extension import Extension, spending
from nas.pool import reserved
from nas.spec import SearchSpec
from nas.states import PromotionState, SearchState
from nas.views import SearchView
from workers.local import LocalPool

_STEP_SECONDS = 0.2
_ONE_SEARCH = "a folder of its own for each search"


def run_search(spec: SearchSpec, into: Path, show: Callable[[SearchView], None]) -> SearchView:
    """Runs the spec's search to its end, or until it has used up what it may; returns how it stands then.

    If `into` holds it already, it goes on, within the spec's `spending` as that is now. `show` gets the search after
    every step. Raises UserError for a bad spec before anything is started, and for a search that may not go on.
    Whatever ends this process, the same call goes on from the newest checkpoints.
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
        pool = LocalPool()
        if (obstacle := pool.obstacle(reserved(spec.resources))) is not None:
            shown = spec.resources.model_dump(exclude_defaults=True)
            raise SpecError("resources", shown, f"cannot be had here: {obstacle}", "a service on a Ray cluster")
        _begin(database, spec)
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


def _begin(database: Database, spec: SearchSpec) -> None:
    """Submits the search, or takes it up: also one that waits for its user, who is here."""
    with database.reading() as session:
        known = Store(session).searches.find(spec.name)
    same = known is not None and known.spec.model_copy(update={"spending": spec.spending}) == spec
    submit(database, known.spec if known is not None and same else spec, utc_now())
    with database.reading() as session:
        search = Store(session).searches.named(spec.name)
    if spec.spending != spending(search.spec, search.extensions):
        extend(database, spec.name, Extension(spending=spec.spending), utc_now())
    with database.reading() as session:
        found = view(session, spec.name)
        reason = used_up(Store(session), Store(session).searches.named(spec.name), utc_now())
    if found.state in (SearchState.PAUSED, SearchState.STOPPED):
        if reason is not None:
            raise ConflictError("search", spec.name, f"may not go on: {reason}", "more `spending` in its spec")
        control.resume(database, spec.name, utc_now())
    for promotion in found.promotions:
        if promotion.state is PromotionState.PAUSED:
            promotion_control.resume(database, spec.name, promotion.id, utc_now())


@contextmanager
def _database(into: Path) -> Iterator[Database]:
    check_numbering(into, into / "topiary.db", option="--into")
    database = Database(f"sqlite:///{into / 'topiary.db'}")
    try:
        database.migrate()
        yield database
    finally:
        database.close()
