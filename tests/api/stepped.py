"""A real service whose scheduler takes a step when a test says so, over a pool that can hold back what it runs."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from api.scheduler import Scheduler, utc_now
from nas.client import Client
from nas.views import SearchView
from tests.api.instant_pool import InstantPool, Outcome
from tests.api.rest.answers import export
from tests.api.serving import Service, serving

_STEP = timedelta(seconds=3)
"""How much later every step is than the one before, so that what is done every few seconds is done in each."""


class Stepped:
    """A service, its client, and the scheduler and pool that stand for those of another process."""

    def __init__(self, service: Service, client: Client, outcome: Outcome) -> None:
        self.service, self.client = service, client
        self.pool = InstantPool(outcome)
        self._late = timedelta()
        self._scheduler = Scheduler(service.database, self.pool, service.settings.runs_folder, self._now)

    def _now(self) -> datetime:
        return utc_now() + self._late

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            self._late += _STEP
            self._scheduler.step()

    def finish(self, name: str) -> SearchView:
        """The search, once it does not run any more."""
        for _ in range(40):
            self.step()
            view = self.client.search(name)
            if view.state != "running":
                return view
        raise AssertionError(f"{name} runs still: {view.jobs}")

    def hold(self, name: str, kind: str) -> SearchView:
        """The search, once jobs of this kind were handed out; they end only after `let_go`."""
        for _ in range(40):
            before = len(self.pool.submitted)
            self.step()
            if any(assignment.spec.kind == kind for assignment in self.pool.submitted[before:]):
                self.pool.silent = True
                return self.client.search(name)
        raise AssertionError(f"no {kind} of {name} was handed out")

    def let_go(self) -> None:
        self.pool.silent = False


@contextmanager
def stepped(folder: Path, outcome: Outcome = export) -> Iterator[Stepped]:
    with serving(folder, outcome) as service, Client(service.url, timeout=20) as client:
        yield Stepped(service, client, outcome)
