"""The service that is broken: `topiary serve` over a PostgreSQL server, a Ray of several nodes and a small disk."""

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import psutil
from sqlalchemy import func, select

from api.store.database import Database
from api.store.tables import AttemptRow, EventRow, JobRow, SearchRow
from benchmarks.faults.cluster import RayCluster
from benchmarks.faults.disk import Disk
from benchmarks.faults.postgresql import PostgreSQL
from benchmarks.faults.reader import Reader
from nas.client import Client
from nas.errors import ServiceError, StoreError
from nas.states import AttemptState, SearchState

_START_SECONDS, _END_SECONDS = 60, 60
_LOOK_SECONDS = 0.2

Found = TypeVar("Found")


class Hang(Exception):
    """Something that ought to happen did not, in time that is ample for it."""


def wait_for(look: Callable[[], Found | None], seconds: float, what: str) -> Found:
    """What `look` finds, as soon as it finds something. Raises Hang."""
    deadline = time.monotonic() + seconds
    while (found := look()) is None:
        if time.monotonic() > deadline:
            raise Hang(f"{what}: not within {seconds:.0f} s")
        time.sleep(_LOOK_SECONDS)
    return found


@dataclass(frozen=True)
class Attempt:
    """One that runs, by the store's record."""

    job_id: int
    number: int
    kind: str
    folder: str

    def __str__(self) -> str:
        return f"job {self.job_id} attempt {self.number} ({self.kind})"


@dataclass(frozen=True)
class Look:
    """The store at one moment: what runs, and the last events, of all and of those that only a scheduler writes."""

    live: list[Attempt]
    num_running: int
    last_event: int
    last_of_job: int


@dataclass(frozen=True)
class Worker:
    """A process that runs an attempt, below the raylet of its node."""

    attempt: Attempt
    process: psutil.Process
    raylet: int


class Stage:
    """All of the processes. `no_disk` is why the disk cannot be made full here, if it cannot."""

    def __init__(self, folder: Path, disk: Disk, postgresql: PostgreSQL, cluster: RayCluster) -> None:
        self.folder = folder
        self.disk = disk
        self.postgresql = postgresql
        self.cluster = cluster
        self.reader = Reader(folder / "events.txt")
        self.no_disk: str | None = None
        self.url = ""
        self.doubles: set[int] = set()
        """Jobs that were ever seen with more live attempts than one."""
        self._process: subprocess.Popen[str] | None = None
        self._database: Database | None = None

    @property
    def log(self) -> Path:
        return self.folder / "service.log"

    @property
    def database(self) -> Database:
        """A connection of the benchmark's own to the service's store."""
        if self._database is None:
            self._database = Database(self.postgresql.url)
        return self._database

    def serve(self) -> None:
        command = [sys.executable, "-P", "-m", "api.cli", "serve", "--runs", str(self.disk.folder), "--with-parent"]
        options = ["--database", self.postgresql.url, "--ray-address", self.cluster.address, "--port", "0"]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with self.log.open("a") as log:
            self._process = subprocess.Popen(
                [*command, *options],
                stderr=log,
                start_new_session=True,
                env={**os.environ, **self.cluster.environment},
                **pipes,
            )
        line = self._process.stdout.readline() if self._process.stdout else ""
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        if address is None:
            raise RuntimeError(f"the service did not start: {self.log.read_text()}")
        self.url = address[0]

    def stop(self) -> None:
        if self._database is not None:
            self._database.close()
        if self._process is not None:
            self._process.terminate()
            self._process.communicate(timeout=_END_SECONDS)

    # --- what there is to see ---

    def look(self) -> Look | None:
        """None while the database is away."""
        try:
            with self.database.reading() as session:
                columns = (AttemptRow.job_id, AttemptRow.number, JobRow.kind, AttemptRow.folder)
                joined = select(*columns).join(JobRow, JobRow.id == AttemptRow.job_id)
                live = session.execute(joined.where(AttemptRow.state == AttemptState.RUNNING))
                running = select(func.count()).select_from(SearchRow).where(SearchRow.state == SearchState.RUNNING)
                last = select(func.max(EventRow.id))
                # The HTTP server writes others, such as that of a submission.
                counts = (running, last, last.where(EventRow.job_id.is_not(None)))
                seen = Look([Attempt(*row) for row in live], *(session.scalar(count) or 0 for count in counts))
        except StoreError:
            return None
        jobs = [attempt.job_id for attempt in seen.live]
        self.doubles |= {job for job in jobs if jobs.count(job) > 1}
        return seen

    def is_well(self) -> bool:
        """Whether the HTTP server answers, and a scheduler acts."""
        try:
            with Client(self.url, timeout=5) as client:
                return client.health().scheduler_alive
        except (ServiceError, StoreError):
            return False

    def child(self, name: str) -> psutil.Process | None:
        """The `http` or the `scheduler` process, if there is one at the moment."""
        if self._process is None:
            return None
        for process in psutil.Process(self._process.pid).children():
            try:
                if name in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                    return process
            except psutil.NoSuchProcess:
                continue
        return None

    def workers(self) -> list[Worker]:
        """The processes that run what the store holds as running."""
        seen = self.look()
        found = [_worker(attempt) for attempt in (seen.live if seen else [])]
        return [worker for worker in found if worker is not None and worker.raylet in self.cluster.raylets]


def _worker(attempt: Attempt) -> Worker | None:
    try:
        process = psutil.Process(int((Path(attempt.folder) / "heartbeat").read_text()))
        return Worker(attempt, process, process.ppid())
    except (OSError, ValueError, psutil.NoSuchProcess):
        return None  # It has not begun, or has just ended.


@contextmanager
def staged(folder: Path, *, num_nodes: int, disk_bytes: int) -> Iterator[Stage]:
    """A service that is ready, in `folder`; all of it ends with the block."""
    disk = Disk(folder / "runs", disk_bytes)
    postgresql, cluster = PostgreSQL(folder / "postgresql"), RayCluster(folder / "ray.log", num_nodes)
    stage = Stage(folder, disk, postgresql, cluster)
    with ExitStack() as parts:
        parts.callback(cluster.stop)
        cluster.start()  # It takes longest.
        stage.no_disk = disk.mount()
        parts.callback(disk.unmount)
        parts.callback(postgresql.stop)
        postgresql.start()
        cluster.wait_until_ready()
        parts.callback(stage.stop)
        stage.serve()
        wait_for(lambda: stage.is_well() or None, _START_SECONDS, "the service is ready")
        parts.callback(stage.reader.stop)
        stage.reader.start(stage.url)
        yield stage
