"""The scheduler's process: the only Ray driver, and the only part of the controller that loads Ray."""

import logging
import signal
import threading

from api.scheduler import LEASE, Scheduler, utc_now
from api.settings import Settings
from api.store.database import Database
from api.store.store import Store
from nas.errors import ServiceError, StoreError
from workers import artifacts

STEP_SECONDS = 0.3
"""Between two steps; a step without news costs some milliseconds."""

_STORE_AWAY_SECONDS = 5

logger = logging.getLogger(__name__)


def run_scheduler(settings: Settings, *, alone: bool) -> None:
    """Takes steps until the process is told to end. `alone`: no other scheduler can be alive on this store.

    Running attempts outlive it on a Ray cluster, where the next scheduler finds them again; with a Ray of its own
    they end with it, and go on from their checkpoints.

    Raises UserError for settings that cannot be used, StoreError for a database of another version.
    """
    from workers.ray_pool import RayPool  # Here, so that only this process loads Ray.

    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    database = Database(settings.database)
    database.check_version()
    with database.reading() as session:
        # Attempts are named by job, and jobs are numbered by store.
        namespace = f"topiary-{Store(session).leases.installation()}"
    artifacts.check(settings.artifacts)
    pool = RayPool(settings.ray_address, namespace)
    scheduler = Scheduler(database, pool, settings.artifacts)
    try:
        if alone:
            with database.transaction() as session:
                Store(session).leases.vacate(LEASE, now=utc_now())
        while not stopping.wait(STEP_SECONDS):
            _step(scheduler, stopping)
        _stop(scheduler)
    except ServiceError:
        _stop(scheduler)  # Ray is lost; whoever comes next need not wait for the lease to run out.
        raise
    finally:
        pool.close()
        database.close()


def _step(scheduler: Scheduler, stopping: threading.Event) -> None:
    """A database that is away for a while costs nothing but time: what was polled waits for the next step."""
    try:
        scheduler.step()
    except StoreError as error:
        logger.warning("%s; trying again in %d s", error, _STORE_AWAY_SECONDS)
        stopping.wait(_STORE_AWAY_SECONDS)


def _stop(scheduler: Scheduler) -> None:
    try:
        scheduler.stop()
    except StoreError as error:
        logger.warning("%s; the lease runs out by itself", error)
