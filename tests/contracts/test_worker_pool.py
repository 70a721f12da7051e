"""What every WorkerPool must do. Real workers, real jobs; a pool is added by adding it to POOLS."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nas.jobs import DataPrepared, JobProgress, Measurement, Trained, Trial
from nas.pool import Assignment, Resources, Update, WorkerPool
from tests.contracts.conftest import assignment, following, prepare_data
from workers.attempt import AttemptFolder
from workers.local import LocalPool
from workers.ray_pool import RayPool
from workers.tasks import run_job

SILENCE_SECONDS = 3.0
POOLS: dict[str, Callable[[], WorkerPool]] = {
    "local": lambda: LocalPool(num_cpus=2, silence_seconds=SILENCE_SECONDS),
    "ray": lambda: RayPool(None, "tests"),
}
FOREVER = 10**9  # tokens
INTERRUPTED_TOKENS = 40_000

pytestmark = pytest.mark.usefixtures("ray_of_the_run")


@pytest.fixture(params=POOLS)
def make_pool(request: pytest.FixtureRequest) -> Iterator[Callable[[], WorkerPool]]:
    """Makes pools of one kind, each of which may adopt what the one before it released."""
    made = []

    def make() -> WorkerPool:
        made.append(POOLS[request.param]())
        return made[-1]

    yield make
    for pool in made:
        pool.keep_only([])
        pool.release()
        pool.close()


@pytest.fixture
def pool(make_pool: Callable[[], WorkerPool]) -> WorkerPool:
    return make_pool()


@pytest.fixture
def job(tmp_path: Path, teacher_folder: Path, text_file: Path) -> Assignment:
    return assignment(prepare_data(teacher_folder, text_file), tmp_path)


@pytest.fixture
def endless(tmp_path: Path, trial: Callable[[int], Trial]) -> Assignment:
    return assignment(trial(FOREVER), tmp_path)


def test_a_job_ends_with_its_result_which_is_still_there_for_who_adopts_it(
    make_pool: Callable[[], WorkerPool],
    tmp_path: Path,
    teacher_folder: Path,
    text_file: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though it asks for more than the machine has, and packages of the user's folder are called as ours."""
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("raise SystemExit('the wrong package')")
    monkeypatch.chdir(tmp_path)
    pool, job = make_pool(), assignment(prepare_data(teacher_folder, text_file), tmp_path, cpus=64)
    pool.submit(job)
    update = wait_for_outcome(pool)
    assert (update.job_id, update.attempt) == (job.job_id, 1)
    assert isinstance(update.result, DataPrepared), update.failure
    assert update.result.training_tokens >= 2000
    assert Path(update.result.data.train_file).is_relative_to(tmp_path / "attempt-1")
    assert pool.poll() == []

    later = make_pool()
    later.adopt(job)
    assert wait_for_outcome(later).result == update.result
    (Path(job.folder) / "result.json").unlink()
    later.adopt(job)
    failure = wait_for_outcome(later).failure
    assert failure is not None
    assert failure.lost


def test_a_user_error_is_told_apart(pool: WorkerPool, tmp_path: Path, teacher_folder: Path, text_file: Path) -> None:
    pool.submit(assignment(prepare_data(teacher_folder, text_file, sequences=10**6), tmp_path))
    update = wait_for_outcome(pool)
    assert update.failure is not None
    assert update.failure.user_error
    assert update.failure.reason.startswith(f"data.train: {text_file} leaves ")
    assert "too few for 1000000 sequences of 32; accepted: data.validation_sequences up to " in update.failure.reason


def test_an_attempt_whose_worker_is_killed_is_lost(pool: WorkerPool, endless: Assignment) -> None:
    pool.submit(endless)
    os.kill(worker_of(endless), signal.SIGKILL)
    update = wait_for_outcome(pool)
    assert update.failure is not None
    assert update.failure.lost
    assert not update.failure.interrupted
    assert (
        "ended by signal 9" in update.failure.reason
        or "its worker died: its process ended without a word" in update.failure.reason
    )
    assert "\n" not in update.failure.reason
    assert pool.has_room(Resources(cpus=2), [])


def test_an_outcome_of_a_worker_that_died_counts(pool: WorkerPool, endless: Assignment) -> None:
    pool.submit(endless)
    worker = worker_of(endless)
    AttemptFolder(endless).finish(Trained(kind="trial", weights="w", tokens=1, dtype="float32"))
    os.kill(worker, signal.SIGKILL)
    assert wait_for_outcome(pool).result == Trained(kind="trial", weights="w", tokens=1, dtype="float32")


def test_cores_are_given_out_whole(pool: WorkerPool, endless: Assignment) -> None:
    one, two = Resources(cpus=1), Resources(cpus=2)
    assert pool.has_room(two, [])
    assert pool.has_room(Resources(cpus=3), []), "a job larger than the machine may run alone"
    assert pool.has_room(one, [one])
    assert not pool.has_room(one, [two])
    assert not pool.has_room(one, [one, one])
    pool.submit(endless)
    for _ in range(2):  # at once, and when the worker is known to run
        assert pool.has_room(one, [])
        assert not pool.has_room(one, [one])
        assert not pool.has_room(two, [])
        worker_of(endless)
        wait_for(pool, lambda update: True)
    pool.cancel(endless.job_id, 1)
    assert pool.has_room(two, [])


def test_an_attempt_is_not_started_in_a_folder_that_is_there(pool: WorkerPool, job: Assignment) -> None:
    Path(job.folder).mkdir()
    with pytest.raises(OSError, match="exists"):
        pool.submit(job)
    assert pool.poll() == []


def test_an_attempt_without_news_still_shows_life_until_it_is_frozen(pool: WorkerPool, endless: Assignment) -> None:
    pool.submit(endless)
    alive = Update(job_id=endless.job_id, attempt=1)
    wait_for(pool, lambda update: update == alive)
    worker = worker_of(endless)
    os.kill(worker, signal.SIGSTOP)
    wait_for_silence(pool, SILENCE_SECONDS + 1)
    pool.cancel(endless.job_id, 1)
    assert pool.poll() == []
    wait_until_gone(worker)


def test_a_cancelled_attempt_leaves_no_process_and_tells_nothing_further(
    pool: WorkerPool, endless: Assignment, job: Assignment
) -> None:
    pool.submit(endless)
    worker = worker_of(endless)
    pool.cancel(endless.job_id, 2)
    pool.cancel(endless.job_id + 10_000, 1)
    assert is_alive(worker)
    pool.cancel(endless.job_id, 1)
    wait_until_gone(worker)
    assert pool.poll() == []
    pool.cancel(endless.job_id, 1)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, trial: Callable[[int], Trial]) -> bytes:
    """The weights that a trial of so many tokens ends with which nobody interrupts."""
    return _retrained(assignment(trial(INTERRUPTED_TOKENS), tmp_path_factory.mktemp("undisturbed")))


def _retrained(job: Assignment) -> bytes:
    """The weights that an attempt ends with that runs in this process."""
    Path(job.folder).mkdir(parents=True)
    retrained = run_job(AttemptFolder(job))
    assert isinstance(retrained, Trained)
    return Path(retrained.weights).read_bytes()


def test_an_interrupted_attempt_saves_its_state_and_the_last_ends_with_the_same_bits(
    pool: WorkerPool, tmp_path: Path, trial: Callable[[int], Trial], undisturbed: bytes
) -> None:
    """First the pool tells it to end, then a signal to its process; each says so twice."""
    first = assignment(trial(INTERRUPTED_TOKENS), tmp_path)
    pool.submit(first)
    wait_for(pool, lambda update: len(update.measurements) > 0)
    for _ in range(2):
        pool.interrupt(first.job_id, 1)
    step = _saved_at(wait_for_outcome(pool))
    assert pool.poll() == []
    assert pool.has_room(Resources(cpus=2), [])

    second = following(first)
    pool.submit(second)
    wait_for(pool, lambda update: len(update.measurements) > 0)
    for _ in range(2):
        os.kill(worker_of(second), signal.SIGTERM)
    assert _saved_at(wait_for_outcome(pool)) > step

    assert _retrained(following(second)) == undisturbed


def _saved_at(update: Update) -> int:
    """The step whose state an interrupted attempt saved."""
    assert update.failure is not None, update.result
    assert update.failure.interrupted, update.failure
    assert not update.failure.lost
    told, saved = update.failure.reason.split("; saved at step ")
    assert told in ("told to end", "its process was told to end (SIGTERM)")
    return int(saved)


def test_an_attempt_that_is_interrupted_before_it_has_begun_saves_nothing(
    pool: WorkerPool, endless: Assignment
) -> None:
    pool.submit(endless)
    for _ in range(2):
        pool.interrupt(endless.job_id, 1)
    failure = wait_for_outcome(pool).failure
    assert failure is not None
    assert failure.interrupted, failure
    assert "nothing was saved" in failure.reason or "before it had begun" in failure.reason
    pool.interrupt(endless.job_id, 1)
    assert pool.poll() == []


def test_only_current_attempts_are_kept(
    make_pool: Callable[[], WorkerPool], tmp_path: Path, trial: Callable[[int], Trial]
) -> None:
    pool = make_pool()
    kept, stranger = (assignment(trial(FOREVER), tmp_path / name) for name in ("kept", "stranger"))
    for each in (kept, stranger):
        pool.submit(each)
    kept_worker, stranger_worker = worker_of(kept), worker_of(stranger)
    pool.keep_only([(kept.job_id, 1)])
    wait_until_gone(stranger_worker)
    assert is_alive(kept_worker)
    assert {update.job_id for update in pool.poll()} <= {kept.job_id}

    pool.release()  # what nobody adopts, a later pool ends all the same
    later = make_pool()
    later.keep_only([])
    wait_until_gone(kept_worker)
    assert later.poll() == []


def test_a_released_attempt_is_found_again_or_was_ended(
    make_pool: Callable[[], WorkerPool], tmp_path: Path, trial: Callable[[int], Trial]
) -> None:
    """Where workers outlive their pool, the next one is told everything from the start, and the result."""
    pool, running = make_pool(), assignment(trial(60_000), tmp_path)
    pool.submit(running)
    wait_for(pool, lambda update: len(update.measurements) > 0)
    worker = worker_of(running)
    pool.release()
    assert pool.poll() == []
    pool.close()
    later = make_pool()
    later.adopt(running)
    if isinstance(later, LocalPool):
        wait_until_gone(worker)
        failure = wait_for_outcome(later).failure
        assert failure is not None
        assert failure.lost
        return
    assert is_alive(worker)
    updates = [wait_for(later, lambda update: len(update.measurements) > 0)]
    while updates[-1].result is None:
        updates.append(wait_for(later, lambda update: len(update.measurements) > 0 or update.result is not None))
    told = [point.tokens for update in updates for point in update.measurements]
    assert isinstance(updates[-1].result, Trained)
    assert told[0] == 0
    assert told == sorted(set(told))
    assert len(told) == 5
    assert told[-1] == updates[-1].result.tokens
    wait_until_gone(worker)


def test_closing_a_pool_that_owns_its_workers_leaves_none(endless: Assignment) -> None:
    pool = LocalPool(num_cpus=2)
    pool.submit(endless)
    worker = worker_of(endless)
    pool.close()
    assert not is_alive(worker)
    pool.close()


# --- what the tests watch --------------------------------------------------------------------------------------------


def wait_for(pool: WorkerPool, wanted: Callable[[Update], bool], seconds: float = 60) -> Update:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for update in pool.poll():
            if wanted(update):
                return update
            assert update.failure is None, update.failure
        time.sleep(0.05)
    raise TimeoutError("no such update")


def wait_for_outcome(pool: WorkerPool) -> Update:
    return wait_for(pool, lambda update: update.result is not None or update.failure is not None)


def wait_for_silence(pool: WorkerPool, seconds: float) -> None:
    """Until no update has come for a second; what was on its way may still arrive before."""
    deadline = time.monotonic() + seconds + 10
    last = time.monotonic()
    while time.monotonic() - last < 1:
        assert time.monotonic() < deadline, "still talking"
        if pool.poll():
            last = time.monotonic()
        time.sleep(0.05)


def worker_of(started: Assignment) -> int:
    """The process that runs an attempt, once it says so."""
    heartbeat = Path(started.folder) / "heartbeat"
    deadline = time.monotonic() + 60
    while not heartbeat.exists() or not heartbeat.read_text():
        assert time.monotonic() < deadline, "no heartbeat"
        time.sleep(0.02)
    return int(heartbeat.read_text())


def is_alive(process: int) -> bool:
    """Whether a process runs; one that only waits to be reaped does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until_gone(process: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while is_alive(process):
        assert time.monotonic() < deadline, f"process {process} is still there"
        time.sleep(0.05)


def test_news_are_told_once(job: Assignment) -> None:
    folder = AttemptFolder(job)
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
    reader.num_received = 0
    again = reader.news()
    assert again is not None
    assert again.measurements == (point,)

    (folder.path / "progress.json").write_text("")  # as a power cut may leave it
    assert reader.news() is None
    (folder.path / "result.json").write_text("{}")  # as no worker leaves it
    news = reader.news()
    assert news is not None
    assert news.failure is not None
    assert "cannot be read" in news.failure.reason
