"""A scheduler, its clock and a pool that holds back what it runs, all turned by a test."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from api.scheduler import Scheduler
from api.services.viewing import view
from api.store.database import Database
from nas.jobs import JobProgress
from nas.pool import Resources, Update
from nas.views import SearchView
from tests.api.instant_pool import InstantPool, succeed

START = datetime(2026, 11, 22, 12, tzinfo=UTC)


class HeldPool(InstantPool):
    """Its jobs of the kinds in `held` go on until they are told to end, or are let go."""

    def __init__(self, *held: str, num_cpus: int = 2) -> None:
        super().__init__(succeed, num_cpus=num_cpus)
        self.held = set(held)
        self.progress: JobProgress | None = None
        self.obstacles: dict[str, str] = {}

    def obstacle(self, wanted: Resources) -> str | None:
        return self.obstacles.get(wanted.accelerator_type or "")

    def has_room(self, wanted: Resources, claimed: object, avoid_nodes: object = ()) -> bool:
        return self.obstacle(wanted) is None and super().has_room(wanted, claimed, avoid_nodes)  # type: ignore[arg-type]

    def poll(self) -> list[Update]:
        told = set(self.interrupted)
        kept = [a for a in self._waiting if a.spec.kind in self.held and (a.job_id, a.attempt) not in told]
        self._waiting = [assignment for assignment in self._waiting if assignment not in kept]
        updates = super().poll()
        self._waiting = kept
        return updates + [Update(job_id=a.job_id, attempt=a.attempt, progress=self.progress) for a in kept]


class Turns:
    """A scheduler and a clock that a test turns."""

    def __init__(self, database: Database, pool: InstantPool) -> None:
        self.now, self.pool = START, pool
        self._database = database
        self._scheduler = Scheduler(database, pool, Path("/run"), clock=lambda: self.now)

    def step(self, count: int = 1, *, seconds: float = 0.3) -> SearchView:
        for _ in range(count):
            self.now += timedelta(seconds=seconds)
            self._scheduler.step()
        return self.look()

    def until(self, reached: Callable[[SearchView], bool]) -> SearchView:
        for _ in range(200):
            if reached(seen := self.step()):
                return seen
        raise AssertionError(f"it is still {seen.state}, wanted {seen.intent}: {seen.jobs}")

    def look(self, name: str = "tiny") -> SearchView:
        with self._database.reading() as session:
            return view(session, name, self.now)


def kinds(pool: InstantPool) -> list[str]:
    return [assignment.spec.kind for assignment in pool.submitted]


def is_training(seen: SearchView) -> bool:
    return any(job.kind == "trial" and job.state == "running" for job in seen.jobs)
