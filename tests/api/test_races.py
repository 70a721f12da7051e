"""Schedulers and requests that meet, on real databases with real commits: whoever comes first, nothing breaks."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from random import Random

import pytest

from api.scheduler import LEASE_SECONDS, Scheduler
from api.services.control import cancel
from api.services.submission import Submission, submit
from api.services.viewing import attempts, view
from api.store.database import Database
from api.store.records import JobRecord
from api.store.store import Store
from nas.errors import ConflictError
from nas.jobs import DataFiles, DataPrepared, PrepareData
from nas.pool import Failure
from nas.spec import SearchSpec
from nas.states import JobState, SearchState
from nas.views import EventKind, SearchView
from tests.api.conftest import new_sqlite
from tests.api.instant_pool import InstantPool, succeed
from tests.api.shared_cluster import ClusterPool, SharedCluster
from tests.conftest import tiny_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
LATER = NOW + timedelta(seconds=LEASE_SECONDS + 1)


@pytest.fixture(scope="module")
def spec(teacher_folder: Path, text_file: Path) -> SearchSpec:
    return tiny_spec(teacher_folder, text_file)


def look(database: Database) -> SearchView:
    with database.reading() as session:
        return view(session, "tiny", NOW)


def check(database: Database) -> None:
    """What must hold of the record whatever happened."""
    with database.reading() as session:
        store = Store(session)
        events = store.events.after(0, search=None, limit=10**6)
        jobs = store.jobs.of_search(store.searches.named("tiny").id)
        live = store.attempts.live()
        tried = attempts(session, "tiny")
    assert [event.id for event in events] == sorted({event.id for event in events})
    ended = Counter(event.job_id for event in events if event.data.get("state") == "succeeded" and event.job_id)
    assert ended == Counter(job.id for job in jobs if job.state is JobState.SUCCEEDED), "each job succeeds once"
    measured = Counter((event.candidate_id, event.data["run"], event.data["tokens"])
                       for event in events if event.kind is EventKind.MEASURED)  # fmt: skip
    assert set(measured.values()) <= {1}, "each point is recorded once"
    assert Counter(job.spec.kind for job in jobs)["prepare_data"] == 1
    trials = Counter(job.trial_id for job in jobs if job.spec.kind == "trial")
    assert set(trials.values()) <= {1}, "each trial is begun once"
    assert [(each.job_id, each.number) for each in live] == [
        (job.id, job.attempt) for job in jobs if job.state is JobState.RUNNING
    ]
    open_attempts = [(each.job_id, each.number) for each in tried if each.state == "running"]
    assert open_attempts == [(each.job_id, each.number) for each in live]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, spec: SearchSpec) -> SearchView:
    """The search at its end, by one scheduler that nothing breaks into."""
    database = Database(new_sqlite(tmp_path_factory.mktemp("undisturbed")))
    submit(database, spec, NOW)
    turns = Scheduler(database, InstantPool(succeed), Path("/run"), clock=lambda: NOW)
    while turns.step():
        pass
    seen = look(database)
    database.close()
    return seen


def results(seen: SearchView) -> list[tuple[object, ...]]:
    """The leaderboard without its row numbers."""
    return [
        (row.rank, row.rank_after_pruning, row.architecture, row.tokens, row.loss, row.state)
        for row in seen.leaderboard
    ]


def test_four_schedulers_act_as_one(
    database: Database, database_url: str, spec: SearchSpec, undisturbed: SearchView
) -> None:
    """Each on connections of its own; after a few steps it dies without a word, and another comes in its place."""
    submit(database, spec, NOW)
    cluster = SharedCluster(succeed, num_cpus=1)
    holders: set[int] = set()
    began = time.monotonic()

    def clock() -> datetime:
        """A hundred times as fast as a real one, so that the leases of the dead run out in 0.1 s."""
        return NOW + 100 * timedelta(seconds=time.monotonic() - began)

    def run(number: int) -> None:
        own = Database(database_url)
        random = Random(number)
        for life in count():
            assert time.monotonic() < began + 60, "the search did not end"
            pool = ClusterPool(cluster, lambda _, me=10 * life + number: holders.add(me))  # type: ignore[misc]
            turns = Scheduler(own, pool, Path("/run"), clock=clock)
            for _ in range(random.randint(2, 5)):
                threading.Event().wait(random.random() / 200)
                if not turns.step():
                    own.close()
                    return

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    check(database)
    seen = look(database)
    assert seen.state is SearchState.FINISHED
    assert results(seen) == results(undisturbed)
    assert len(holders) > 2, "the lease changed hands"


def test_only_the_holder_of_the_lease_acts(database: Database, spec: SearchSpec) -> None:
    submit(database, spec, NOW)
    now = [NOW]
    first, second = InstantPool(succeed), InstantPool(succeed, patient=True)
    holder = Scheduler(database, first, Path("/run"), clock=lambda: now[0])
    waiting = Scheduler(database, second, Path("/run"), clock=lambda: now[0])
    holder.step()
    assert waiting.step(), "the search runs"
    assert not second.submitted
    assert not second.adopted
    now[0] = LATER
    waiting.step()
    assert [each.job_id for each in second.adopted] == [each.job_id for each in first.submitted]
    holder.step()
    assert len(first.submitted) == 1, "it lost the lease, so it lets go"
    assert not first._waiting

    now[0] = LATER + timedelta(seconds=1)
    waiting.stop()
    holder.step()
    assert len(first.adopted) == 1, "given up, the lease is free at once; and what was its own is adopted again"


ACTIONS: dict[str, Callable[[Database, SearchSpec], object]] = {
    "cancel": lambda database, spec: cancel(database, "tiny", NOW),
    "submit": lambda database, spec: submit(database, spec, NOW),
    "a waiting scheduler": lambda database, spec: Scheduler(
        database, InstantPool(succeed), Path("/run"), clock=lambda: NOW
    ).step(),
}
MOMENTS = ["between poll and transaction", "within the transaction", "between commit and submit"]


@pytest.mark.parametrize("step", [0, 2, 3], ids=["start", "calibrate", "trials"])
@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("action", [*ACTIONS, "another scheduler, the lease run out"])
def test_a_step_that_something_breaks_into(
    database: Database,
    database_url: str,
    spec: SearchSpec,
    undisturbed: SearchView,
    action: str,
    moment: str,
    step: int,
) -> None:
    """The interruption comes from another connection, in the middle of the given step."""
    submit(database, spec, NOW)
    cluster = SharedCluster(succeed, num_cpus=9)
    other = Database(database_url)
    threads: list[threading.Thread] = []
    failures: list[BaseException] = []
    taking_over = Scheduler(other, ClusterPool(cluster), Path("/run"), clock=lambda: LATER)

    def act() -> None:
        try:
            if action in ACTIONS:
                ACTIONS[action](other, spec)
            else:
                taking_over.step()
        except ConflictError:
            pass  # What it wanted to cancel has ended.
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failures.append(error)

    def hook(now: str) -> None:
        if now == moment and steps[0] == step and not threads:
            threads.append(threading.Thread(target=act))
            threads[0].start()
            threads[0].join(0.3)  # It may have to wait for the step's end.

    steps = [0]
    pool = ClusterPool(cluster, hook)
    turns = Scheduler(database, pool, Path("/run"), clock=lambda: NOW)
    for steps[0] in range(9):
        turns.step()
        for thread in threads:
            thread.join()
    if look(database).state is SearchState.RUNNING:
        while taking_over.step():
            pass
    assert not failures
    check(database)
    seen = look(database)
    if seen.state is SearchState.CANCELLED:
        assert action == "cancel"
        assert not cluster.running, "nothing goes on for a cancelled search"
    else:
        assert results(seen) == results(undisturbed)
    other.close()


def both(database_url: str, first: Callable[[Store], object], second: Callable[[Store], object]) -> list[object]:
    """What two transactions return that begin at the same moment."""
    barrier = threading.Barrier(2)

    def run(action: Callable[[Store], object]) -> object:
        own = Database(database_url)
        try:
            barrier.wait()
            with own.transaction() as session:
                return action(Store(session))
        finally:
            own.close()

    with ThreadPoolExecutor(2) as threads:
        return list(threads.map(run, [first, second]))


def test_of_a_result_and_a_loss_one_is_recorded(database: Database, database_url: str, spec: SearchSpec) -> None:
    search_id = submit(database, spec, NOW).search_id
    for _round in range(10):
        with database.transaction() as session:
            store = Store(session)
            store.jobs.add(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1), NOW)
            job = store.jobs.queued(search_id, NOW)[0]
            assert store.jobs.start_attempt(job, "/f", NOW, NOW) is not None
        key = (job.id, job.attempt + 1)
        recorded = both(
            database_url,
            partial(_succeed, key),
            partial(_lose, key),
        )
        assert sorted(map(bool, recorded)) == [False, True]
        with database.reading() as session:
            state = Store(session).jobs.get(job.id).state
        assert state is (JobState.SUCCEEDED if recorded[0] else JobState.FAILED)


def test_a_job_is_claimed_once(database: Database, database_url: str, spec: SearchSpec) -> None:
    search_id = submit(database, spec, NOW).search_id
    for _ in range(10):
        with database.transaction() as session:
            store = Store(session)
            store.jobs.add(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1), NOW)
            job = store.jobs.queued(search_id, NOW)[0]
        claims = both(database_url, partial(_claim, job), partial(_claim, job))
        assert sum(claim is not None for claim in claims) == 1


def test_of_two_that_submit_at_once_one_creates(database: Database, database_url: str, spec: SearchSpec) -> None:
    barrier = threading.Barrier(4)

    def run(_: int) -> Submission:
        own = Database(database_url)
        barrier.wait()
        submitted = submit(own, spec, NOW)
        own.close()
        return submitted

    with ThreadPoolExecutor(4) as threads:
        submissions = list(threads.map(run, range(4)))
    assert sorted(each.created for each in submissions) == [False, False, False, True]
    assert len({each.search_id for each in submissions}) == 1


def test_a_reader_of_events_misses_none(database: Database, database_url: str, spec: SearchSpec) -> None:
    """Numbers become visible in their order, although several write at once."""
    search_id = submit(database, spec, NOW).search_id
    writing = threading.Event()
    writing.set()

    def write(number: int) -> None:
        own = Database(database_url)
        for each in range(10):
            with own.transaction() as session:
                store = Store(session)
                for part in range(3):
                    store.events.append(EventKind.DECIDED, search_id, NOW, who=number, each=each, part=part)
        own.close()

    def read(_: int) -> list[int]:
        seen: list[int] = []
        own = Database(database_url)
        while True:
            last = not writing.is_set()
            with own.reading() as session:
                seen += [
                    event.id for event in Store(session).events.after(seen[-1] if seen else 0, search=None, limit=7)
                ]
            time.sleep(0.01)
            if last and own_newest(own) == seen[-1]:
                own.close()
                return seen

    with ThreadPoolExecutor(5) as threads:
        readers = [threads.submit(read, number) for number in range(2)]
        list(threads.map(write, range(3)))
        writing.clear()
        everything = [reader.result() for reader in readers]
    with database.reading() as session:
        stored = [event.id for event in Store(session).events.after(0, search=None, limit=10**6)]
    assert len(stored) == 1 + 3 * 10 * 3
    assert everything == [stored, stored]


def own_newest(database: Database) -> int:
    with database.reading() as session:
        return Store(session).events.newest()


def _claim(job: JobRecord, store: Store) -> object:
    return store.jobs.start_attempt(job, "/f", NOW, NOW)


def _succeed(key: tuple[int, int], store: Store) -> object:
    files = DataFiles(train_file="t", validation_file="v", sequence_length=32, validation_sequences=16)
    return store.jobs.succeed(*key, DataPrepared(data=files, training_tokens=1, validation_tokens=1), NOW)


def _lose(key: tuple[int, int], store: Store) -> object:
    return store.jobs.give_back(*key, Failure(reason="lost", lost=True), NOW, to=JobState.FAILED)


def test_of_two_that_take_up_a_cancelled_search_one_does(
    database: Database, database_url: str, spec: SearchSpec
) -> None:
    """Between the two, the scheduler has started its jobs again."""
    submit(database, spec, NOW)
    pool = InstantPool(succeed)
    turns = Scheduler(database, pool, Path("/run"), clock=lambda: NOW)
    turns.step()
    pool.silent = True
    cancel(database, "tiny", NOW)
    turns.step()
    assert look(database).state is SearchState.CANCELLED
    pool.silent = False
    barrier = threading.Barrier(4)

    def run(number: int) -> None:
        own = Database(database_url)
        barrier.wait()
        for _ in range(3):
            if number == 0:
                turns.step()
            else:
                submit(own, spec, NOW)
        own.close()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(run, range(4)))
    while turns.step():
        pass
    check(database)
    assert [each.attempt for each in pool.submitted if each.job_id == 1] == [1, 2]
