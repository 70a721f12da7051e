"""What every WorkerPool must do. Real workers, real jobs; a pool is added by adding it to POOLS."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nas.jobs import Assignment, DataPrepared, JobProgress, Measurement, PrepareData, Update, WorkerPool
from tests.conftest import tiny_spec
from workers.attempt import AttemptFolder
from workers.local import LocalPool

POOLS: list[Callable[[], WorkerPool]] = [lambda: LocalPool(num_cpus=2)]


@pytest.fixture(params=POOLS, ids=["local"])
def pool(request: pytest.FixtureRequest) -> Iterator[WorkerPool]:
    made: WorkerPool = request.param()
    yield made
    made.close()


def assignment(folder: Path, teacher: Path, text: Path, *, sequences: int = 4) -> Assignment:
    data = tiny_spec(teacher, text).data.model_copy(update={"validation_sequences": sequences})
    spec = PrepareData(teacher=str(teacher), data=data, training_tokens=2000)
    return Assignment(job_id=1, attempt=1, spec=spec, folder=str(folder / "attempt-1"), cpus=1)


def wait_for_outcome(pool: WorkerPool, seconds: float = 60) -> Update:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for update in pool.poll():
            if update.result is not None or update.failure is not None:
                return update
        time.sleep(0.05)
    raise TimeoutError("no outcome")


def test_a_job_ends_with_its_result(pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    pool.submit(assignment(tmp_path, teacher_folder, text_file))
    update = wait_for_outcome(pool)
    assert (update.job_id, update.attempt) == (1, 1)
    assert isinstance(update.result, DataPrepared), update.failure
    assert update.result.training_tokens >= 2000
    assert Path(update.result.data.train_file).is_relative_to(tmp_path / "attempt-1")
    assert pool.poll() == []


def test_packages_of_the_users_folder_are_not_imported(
    pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    pool.submit(assignment(tmp_path, teacher_folder, text_file))
    assert wait_for_outcome(pool).result is not None


def test_a_user_error_is_told_apart(pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    pool.submit(assignment(tmp_path, teacher_folder, text_file, sequences=10**6))
    update = wait_for_outcome(pool)
    assert update.failure is not None
    assert update.failure.user_error
    assert update.failure.reason.startswith(f"data.train: {text_file} leaves ")
    assert "too few for 1000000 sequences of 32; accepted: data.validation_sequences up to " in update.failure.reason


def test_a_killed_worker_is_a_failure(pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    pool.submit(assignment(tmp_path, teacher_folder, text_file))
    (worker,) = workers_in(tmp_path)
    os.kill(worker, signal.SIGKILL)
    update = wait_for_outcome(pool)
    assert update.failure is not None
    assert not update.failure.lost
    assert "signal 9" in update.failure.reason


def test_cores_are_given_out_whole(pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    assert pool.has_room(2, 0)
    assert pool.has_room(3, 0), "a job larger than the machine may run alone"
    assert not pool.has_room(1, 2)
    pool.submit(assignment(tmp_path, teacher_folder, text_file))
    assert pool.has_room(1, 0)
    assert not pool.has_room(2, 0)


def test_closing_leaves_no_process(pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    pool.submit(assignment(tmp_path, teacher_folder, text_file))
    assert workers_in(tmp_path)
    pool.close()
    assert not workers_in(tmp_path)


def test_an_adopted_attempt_gives_its_result_or_is_lost(
    pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path
) -> None:
    first = assignment(tmp_path, teacher_folder, text_file)
    pool.submit(first)
    result = wait_for_outcome(pool).result
    pool.adopt(first)
    assert wait_for_outcome(pool).result == result

    (Path(first.folder) / "result.json").unlink()
    pool.adopt(first)
    failure = wait_for_outcome(pool).failure
    assert failure is not None
    assert failure.lost


def test_news_are_told_once(tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    folder = AttemptFolder(assignment(tmp_path, teacher_folder, text_file))
    folder.path.mkdir()
    reader = AttemptFolder(folder.assignment)
    assert reader.news() is None
    point = Measurement(tokens=0, loss=1.5, kl_to_teacher=0.5, loss_per_sequence=(1.0, 2.0))
    folder.report_measurement(point)
    folder.report_progress(JobProgress(done=5, total=5, unit="tokens"))
    news = reader.news()
    assert news is not None
    assert news.measurements == (point,)
    assert news.progress == JobProgress(done=5, total=5, unit="tokens")
    assert reader.news() is None

    (folder.path / "progress.json").write_text("")  # as a power cut may leave it
    assert reader.news() is None
    (folder.path / "result.json").write_text("{}")  # as no worker leaves it
    news = reader.news()
    assert news is not None
    assert news.failure is not None
    assert "cannot be read" in news.failure.reason


def workers_in(folder: Path) -> list[int]:
    """Process ids of the attempts below `folder`."""
    listed = subprocess.run(["ps", "-ww", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if f"workers.run_attempt {folder}" in line]
