"""A service whose parts are deployed apart: PostgreSQL, a Ray head that outlives schedulers, and several of those."""

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from api.scheduler import LEASE
from api.store.database import Database
from api.store.tables import LeaseRow
from nas.client import Client
from nas.states import SearchState
from tests.api.service import wait_for
from tests.conftest import tiny_spec
from tests.ray_head import free_port, ray_head

TRAINING = {"tokens": 12800, "batch_size": 4, "warmup_steps": 5, "measurements": 4, "checkpoint_seconds": 0}


@pytest.fixture
def start(postgresql_database: str, tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[bytes]"]]:
    """Starts a part of the service on one PostgreSQL and one folder of runs."""
    with ExitStack() as parts:

        def begin(*arguments: str) -> "subprocess.Popen[bytes]":
            command = [sys.executable, "-m", "api.cli", *arguments, "--database", postgresql_database]
            log = parts.enter_context((tmp_path / "service.log").open("ab"))
            process = subprocess.Popen([*command, "--runs", str(tmp_path / "runs")], stderr=log)
            parts.callback(process.wait)
            parts.callback(process.terminate)
            return process

        yield begin


def test_four_schedulers_are_killed_one_after_another_and_no_attempt_is_lost(
    start: Callable[..., "subprocess.Popen[bytes]"],
    postgresql_database: str,
    teacher_folder: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever holds the lease dies, twice, in the middle of trials; the next finds them running."""
    if "RAY_AUTH_TOKEN" not in os.environ:
        monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    one = {"num_hidden_layers": [2]}
    spec = tiny_spec(teacher_folder, text_file, space=one, trial=TRAINING, promotion=TRAINING)
    database = Database(postgresql_database)
    with ray_head() as address:
        port = free_port()
        start("http", "--port", str(port))
        schedulers = {start("scheduler", "--ray-address", address) for _ in range(4)}
        with Client(f"http://127.0.0.1:{port}") as client:
            client.wait_until_ready()
            client.submit(spec)
            for kind in ("trial", "promotion"):
                wait_for(lambda kind=kind: _trains(client, kind))  # type: ignore[misc]
                schedulers -= {_kill_holder(database, schedulers)}
            *_, ended = client.watch("tiny")
            attempts = client.attempts("tiny")
        for each in schedulers:  # Before their head: they would wait for it.
            each.terminate()
            each.wait()
    database.close()
    assert ended.state is SearchState.FINISHED, ended.reason
    assert len(schedulers) == 2
    assert [each.number for each in attempts] == [1] * 5, "nothing was lost, so nothing was tried again"
    assert all(len(client_curve) == 5 for client_curve in [promotion.curve for promotion in ended.promotions])


def _trains(client: Client, kind: str) -> bool | None:
    """True once an attempt of this kind has trained, but not to its end."""
    return any(job.kind == kind and job.progress is not None for job in client.search("tiny").jobs) or None


def _kill_holder(database: Database, schedulers: "set[subprocess.Popen[bytes]]") -> "subprocess.Popen[bytes]":
    with database.reading() as session:
        holder = session.get_one(LeaseRow, LEASE).holder
    (process,) = [each for each in schedulers if holder.endswith(f"-{each.pid}")]
    process.send_signal(signal.SIGKILL)
    process.wait()
    return process
