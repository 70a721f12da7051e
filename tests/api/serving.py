"""The real service on a free port, on a thread of the tests' process, over a database of its own."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import httpx

from api.app import Server, create_app
from api.scheduler import Scheduler
from api.settings import Settings
from api.store.database import Database
from tests.api.conftest import new_sqlite
from tests.api.instant_pool import InstantPool, Outcome, succeed


class Service:
    """The service, and what stands for the scheduler's process; it can be stopped and started on the same port."""

    def __init__(self, folder: Path, outcome: Outcome = succeed, database_url: str = "") -> None:
        self.settings = Settings(runs_folder=folder, database_url=database_url)
        if not database_url:
            folder.mkdir(parents=True, exist_ok=True)
            new_sqlite(folder)
        self.database = Database(self.settings.database)
        self.scheduler = Scheduler(self.database, InstantPool(outcome), folder)
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.app = create_app(self.settings)
        self.server = Server(self.app, host="127.0.0.1", port=self.port)
        self._thread = Thread(target=self.server.run)
        self._thread.start()
        for _ in range(600):
            if self.server.started:
                return
            self._thread.join(0.05)
            assert self._thread.is_alive(), "the server ended as it began"
        raise AssertionError("the server does not start")

    def stop(self) -> None:
        self.server.should_exit = True
        self._thread.join(20)
        assert not self._thread.is_alive(), "the server does not end"

    def finish(self) -> None:
        """Runs every search to its end."""
        for _ in range(100):
            if not self.scheduler.step():
                return
        raise AssertionError("a search did not end")


@contextmanager
def serving(folder: Path, outcome: Outcome = succeed, database_url: str = "") -> Iterator[Service]:
    service = Service(folder, outcome, database_url)
    service.start()
    try:
        yield service
    finally:
        service.stop()
        service.database.close()


@contextmanager
def browsing(service: Service) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, trust_env=False, timeout=20) as client:
        yield client


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
