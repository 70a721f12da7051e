"""RayPool where processes die: schedulers on a cluster, and those with a Ray of their own."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from nas.errors import ServiceError, SettingError
from nas.jobs import Trained, Trial
from nas.pool import Assignment, Update
from tests.contracts.conftest import assignment
from tests.contracts.test_worker_pool import FOREVER, is_alive, wait_until_gone, worker_of
from tests.ray_head import RayHead, free_port, ray_head
from workers.ray_pool.connection import check_form, connect

pytestmark = pytest.mark.usefixtures("ray_of_the_run")

DRIVER = Path(__file__).with_name("ray_driver.py")


@pytest.fixture
def cluster() -> Iterator[str]:
    with ray_head() as address:
        yield address


@contextlib.contextmanager
def driver(address: str, what: str, job: Assignment, folder: Path) -> Iterator[IO[str]]:
    """A scheduler's process that runs in `folder`; it is killed with signal 9 at the end, if it is still there."""
    file = folder / "job.json"
    file.write_text(job.model_dump_json())
    command = [sys.executable, "-W", "error", str(DRIVER), address, what, str(file)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout
        process.send_signal(signal.SIGKILL)


def updates(lines: IO[str]) -> Iterator[Update]:
    for line in lines:
        yield Update.model_validate_json(line)


def test_a_restarted_scheduler_finds_its_running_attempts_again(
    cluster: str, tmp_path: Path, trial: Callable[[int], Trial]
) -> None:
    """Nor does what lies in the folder that it was started from get into the workers' way."""
    for package in ("workers", "nas", "torch"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("raise SystemExit('the wrong package')")
    job = assignment(trial(60_000), tmp_path)
    with driver(cluster, "submit", job, tmp_path) as lines:
        first = next(update for update in updates(lines) if update.measurements)
    worker = worker_of(job)
    assert is_alive(worker)
    assert not (Path(job.folder) / "result.json").exists()
    with driver(cluster, "adopt", job, tmp_path) as lines:
        told = list(updates(lines))
    points = [point for update in told for point in update.measurements]
    assert points[0] == first.measurements[0]
    assert [point.tokens for point in points] == sorted({point.tokens for point in points})
    assert len(points) == 5
    assert isinstance(told[-1].result, Trained)
    wait_until_gone(worker)


def test_a_scheduler_whose_head_is_lost_ends_at_once_and_the_next_goes_on_with_a_new_head(
    tmp_path: Path, trial: Callable[[int], Trial]
) -> None:
    """Ray would have it wait for a minute, and for ever where a new head is in its place."""
    job, head = assignment(trial(FOREVER), tmp_path), RayHead()
    try:
        head.start()
        with driver(head.address, "submit", job, tmp_path) as lines:
            first = next(updates(lines))
            worker = worker_of(job)
            killed = time.monotonic()
            head.kill()
            *_, told = lines
            assert time.monotonic() - killed < 30
            head.start()
        assert re.search(r"the Ray cluster at \S+ is lost: ", told)
        wait_until_gone(worker)
        with driver(head.address, "adopt", job, tmp_path) as lines:
            lost = next(updates(lines))
    finally:
        head.stop()
    assert first.node is not None
    assert lost.failure is not None
    assert lost.failure.lost


@pytest.mark.parametrize("how", ["closed", "killed"])
def test_an_embedded_ray_ends_with_its_process(how: str, tmp_path: Path, trial: Callable[[int], Trial]) -> None:
    job = assignment(trial(FOREVER), tmp_path)
    with driver("embedded", "close" if how == "closed" else "submit", job, tmp_path) as lines:
        assert next(updates(lines)).failure is None
        worker = worker_of(job)
        if how == "closed":
            lines.read()  # Until it has ended by itself.
    wait_until_gone(worker)


@pytest.mark.parametrize("address", ["ray://127.0.0.1:10001", "somewhere", "", "a b:1"])
def test_an_address_of_another_form_is_refused(address: str) -> None:
    with pytest.raises(SettingError, match="is no address of a Ray cluster; accepted: auto, or host:port"):
        check_form(address)


@pytest.mark.parametrize("address", ["auto", "127.0.0.1:PORT"])
def test_a_cluster_that_does_not_answer_is_told_in_a_sentence(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = address.replace("PORT", str(free_port()))
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    began = time.monotonic()
    with pytest.raises(
        ServiceError, match=f"^the Ray cluster at {address} cannot be reached: .*[Cc]onnection refused$"
    ):
        connect(address, "tests", None)
    assert time.monotonic() - began < 10
