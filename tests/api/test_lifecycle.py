"""What users do to searches and promotions; jobs end when the test says so."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest

from api.scheduler import Scheduler
from api.services import control, promotion_control
from api.services.deletion import delete
from api.services.extending import clone, extend
from api.services.outcome import best
from api.services.submission import submit
from api.services.viewing import attempts, candidate, summaries, view
from api.store.database import Database
from api.store.searches import Searches
from api.store.store import Store
from nas.errors import ConflictError, NotFoundError, SpecError
from nas.extension import Extension, PromotionExtension
from nas.jobs import Assignment, Failure, JobProgress, Promotion, Resources, Trial, Update
from nas.spec import SearchSpec, SpendingSpec
from nas.states import SearchState
from nas.views import EventKind, SearchView
from tests.api.conftest import new_sqlite
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.conftest import tiny_spec

START = datetime(2026, 11, 22, 12, tzinfo=UTC)


ON_BOTH_DATABASES = {
    "test_a_paused_search_saves_what_runs_and_goes_on_when_it_is_resumed",
    "test_what_was_used_is_counted",
    "test_more_seeds_make_means",
    "test_a_promotion_is_paused_extended_and_cancelled",
    "test_a_deleted_search_is_gone_with_its_folders_and_its_name_is_free",
    "test_what_is_asked_while_a_step_ends_the_search_comes_after",
}
"""Where the statements or their locks are of another kind; for the rest one will do."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "database" in metafunc.fixturenames:
        both = metafunc.function.__name__ in ON_BOTH_DATABASES
        metafunc.parametrize("database_url", ["sqlite", "postgresql"] if both else ["sqlite"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(request.getfixturevalue("postgresql_database")) if request.param == "postgresql" else new_sqlite(tmp_path)
    )


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


@pytest.fixture
def spec(teacher_folder: Path, text_file: Path) -> SearchSpec:
    return tiny_spec(teacher_folder, text_file)


@pytest.fixture
def database(database: Database, spec: SearchSpec) -> Database:
    submit(database, spec, START)
    return database


def kinds(pool: InstantPool) -> list[str]:
    return [assignment.spec.kind for assignment in pool.submitted]


def is_training(seen: SearchView) -> bool:
    return any(job.kind == "trial" and job.state == "running" for job in seen.jobs)


def test_a_paused_search_saves_what_runs_and_goes_on_when_it_is_resumed(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    control.pause(database, "tiny", turns.now)
    assert (turns.look().state, turns.look().intent) == ("running", "pause")
    seen = turns.until(lambda seen: seen.state == "paused")
    assert pool.interrupted == [(3, 1), (4, 1)], "each told once"
    with database.reading() as session:
        *_, last = Store(session).events.after(0, search="tiny", limit=999)
        assert last.kind is EventKind.SEARCH_PAUSED, "once nothing runs any more"
        ended = [(each.state, each.reason) for each in attempts(session, "tiny") if each.kind == "trial"]
    assert ended == [("interrupted", "told to end")] * 2
    assert {job.state for job in seen.jobs} == {"queued"}
    submitted = len(pool.submitted)
    turns.step(5)
    assert len(pool.submitted) == submitted, "nothing is started while it is paused"
    control.pause(database, "tiny", turns.now)  # Asked again, nothing changes.
    assert turns.look().state == "paused"

    control.resume(database, "tiny", turns.now)
    pool.held.clear()
    seen = turns.until(lambda seen: seen.state == "finished")
    again = [a for a in pool.submitted if a.job_id == 3][-1]
    assert (again.attempt, again.earlier_folders) == (2, ("/run/jobs/000003/attempt-1",))
    assert seen.finished_at is not None


def test_a_pause_that_nobody_hears_waits_for_the_worker_or_its_loss(database: Database) -> None:
    """The scheduler dies right after it told the workers; the next one tells them again."""
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    control.pause(database, "tiny", turns.now)
    deaf = HeldPool("trial")
    deaf.interrupt = lambda job_id, attempt: None  # type: ignore[method-assign]
    deaf._waiting, pool._waiting = pool._waiting, []
    second = Turns(database, deaf)
    second.now = turns.now + timedelta(minutes=1)
    assert second.step(20).state == "paused", "what it adopted was lost with the first"
    with database.reading() as session:
        assert {each.state for each in attempts(session, "tiny") if each.kind == "trial"} == {"lost"}


def test_a_stopped_search_starts_nothing_new_and_ends_nothing(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    control.stop(database, "tiny", turns.now)
    assert turns.step(3).state == "running", "what runs goes on"
    pool.held.clear()
    seen = turns.until(lambda seen: seen.state == "stopped")
    assert pool.interrupted == []
    assert [row.state for row in seen.leaderboard] == ["succeeded"] * 2 + ["queued"] * 2
    assert seen.promotions == ()
    control.resume(database, "tiny", turns.now)
    assert turns.until(lambda seen: seen.state == "finished").promotions


def test_a_stop_while_the_last_job_runs_ends_the_search_as_finished(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("export"))
    turns.until(lambda seen: any(job.kind == "export" for job in seen.jobs))
    turns.step()
    control.stop(database, "tiny", turns.now)
    pool.held.clear()
    assert turns.step(3).state == "finished"


def test_what_waits_can_be_cancelled_and_a_cancelled_search_goes_on(database: Database) -> None:
    turns = Turns(database, HeldPool("trial"))
    turns.until(is_training)
    control.pause(database, "tiny", turns.now)
    turns.until(lambda seen: seen.state == "paused")
    control.cancel(database, "tiny", turns.now)
    seen = turns.step(2)
    assert (seen.state, {job.state for job in seen.jobs}) == ("cancelled", {"cancelled"})
    with pytest.raises(ConflictError, match="is cancelled already; accepted: a search that is running, paused or stop"):
        control.pause(database, "tiny", turns.now)
    control.resume(database, "tiny", turns.now)
    turns.pool.held.clear()  # type: ignore[attr-defined]
    assert turns.until(lambda seen: seen.state == "finished").state == "finished"


def test_a_user_who_changes_their_mind_has_the_last_word(database: Database) -> None:
    turns = Turns(database, HeldPool("trial"))
    turns.until(is_training)
    for ask in (control.cancel, control.pause, control.stop, control.resume):
        ask(database, "tiny", turns.now)
    seen = turns.step(3)
    assert (seen.state, seen.intent, is_training(seen)) == ("running", "run", True)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"tokens": 2000}, "spending.tokens: 2,400 of 2,000 are used"),
        ({"device_hours": 0.5}, "spending.device_hours: 0."),
        ({"money": 1.0}, "spending.money: 1"),
        ({"wall_hours": 0.5}, "spending.wall_hours: 0.5"),
    ],
)
def test_a_search_that_has_used_up_what_it_may_stops(
    database: Database, spec: SearchSpec, limits: dict[str, float], reason: str
) -> None:
    content = {**spec.model_dump(), "name": "costly", "spending": limits, "hardware": {"price_per_hour": 2.0}}
    submit(database, SearchSpec.model_validate(content), START)
    control.cancel(database, "tiny", START)
    turns = Turns(database, pool := HeldPool("trial"))
    turns.step(4, seconds=60)
    pool.progress = JobProgress(done=1200, total=1280, unit="tokens")
    turns.step(10, seconds=1 if "tokens" in limits else 240)
    seen = turns.look("costly")
    assert (seen.state, seen.intent) == ("stopped", "stop")
    assert str(seen.reason).startswith(reason)
    assert {each[1] for each in pool.interrupted} == {1}, "what ran has saved its state"
    with pytest.raises(ConflictError, match="may not go on: spending"):
        control.resume(database, "costly", turns.now)
    extend(database, "costly", Extension(spending=SpendingSpec(tokens=10)), turns.now)
    assert str(turns.look("costly").reason).endswith(" of 10 are used"), "what keeps it from going on now"
    extend(database, "costly", Extension(spending=SpendingSpec(tokens=10**9)), turns.now)
    assert turns.look("costly").reason is None
    control.resume(database, "costly", turns.now)
    pool.held.clear()
    turns.step(10)
    assert turns.look("costly").state == "finished"


def test_what_was_used_is_counted(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    before = turns.look().spent
    assert before.tokens == 0
    pool.progress = JobProgress(done=640, total=1280, unit="tokens")
    turns.step(4, seconds=900)
    after = turns.look().spent
    assert after.tokens == 2 * 640
    assert after.device_hours - before.device_hours == pytest.approx(2 * 1.0, abs=0.01), "two devices for an hour"
    assert after.wall_hours - before.wall_hours == pytest.approx(1.0)
    assert after.money is None


def test_a_failed_trial_is_tried_again(database: Database, spec: SearchSpec) -> None:
    def second_fails(assignment: Assignment) -> Update:
        broken = isinstance(assignment.spec, Trial) and assignment.spec.architecture.axes == (2, 48, 64, 4, 2, 0)
        return fail(assignment) if broken else succeed(assignment)

    turns = Turns(database, pool := InstantPool(second_fails))
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [row.state for row in seen.leaderboard] == ["succeeded"] * 3 + ["failed"]
    failed = seen.leaderboard[-1].candidate_id
    with pytest.raises(ConflictError, match=f"search: candidate {seen.leaderboard[0].candidate_id} of tiny has no job"):
        control.retry(database, "tiny", turns.now, candidate_id=seen.leaderboard[0].candidate_id)
    with pytest.raises(NotFoundError, match="candidate: 99 is not in tiny"):
        control.retry(database, "tiny", turns.now, candidate_id=99)
    pool.outcome = succeed
    control.retry(database, "tiny", turns.now, candidate_id=failed)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [row.state for row in seen.leaderboard] == ["succeeded"] * 4
    assert failed in [promotion.candidate_id for promotion in seen.promotions], "it has won after all"
    with pytest.raises(ConflictError, match="search: tiny has no job that failed"):
        control.retry(database, "tiny", turns.now)


def test_more_candidates_are_drawn_besides_those_that_are_there(database: Database, spec: SearchSpec) -> None:
    content = {**spec.model_dump(), "name": "sampled", "sample_size": 2}
    submit(database, SearchSpec.model_validate(content), START)
    control.cancel(database, "tiny", START)
    turns = Turns(database, InstantPool(succeed))
    turns.step(20)
    first = turns.look("sampled")
    assert first.state == "finished"
    with pytest.raises(SpecError, match="candidates: 3 is more than the 2 shapes that fit the budget besides"):
        extend(database, "sampled", Extension(candidates=3), turns.now)
    extend(database, "sampled", Extension(candidates=2), turns.now)
    assert len(turns.look("sampled").leaderboard) == 4
    turns.step(20)
    seen = turns.look("sampled")
    assert seen.state == "finished"
    assert len({row.architecture for row in seen.leaderboard}) == 4
    assert {row.state for row in seen.leaderboard} == {"succeeded"}
    before = {row.candidate_id: row.loss for row in first.leaderboard}
    assert {row.candidate_id: row.loss for row in seen.leaderboard}.items() >= before.items(), "what was there stays"
    assert seen.promotions[0].candidate_id == first.promotions[0].candidate_id


def test_more_tokens_go_on_from_the_final_weights(database: Database) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    before = turns.until(lambda seen: seen.state == "finished")
    extend(database, "tiny", Extension(tokens=600), turns.now)
    assert turns.look().tokens_total == 4 * (1280 + 640) + 1280, "completed to whole steps"
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [row.tokens for row in seen.leaderboard] == [1920] * 4
    further = [a for a in pool.submitted if isinstance(a.spec, Trial) and a.spec.continues is not None]
    assert len(further) == 4
    for assignment in further:
        spec = assignment.spec
        assert isinstance(spec, Trial)
        assert spec.continues is not None
        first = next(
            a for a in pool.submitted if isinstance(a.spec, Trial) and a.spec.architecture == spec.architecture
        )
        assert spec.continues.weights == f"{first.folder}/w"
        assert (spec.continues.tokens, spec.continues.first_sequence) == (1280, 40)
        assert (spec.training.tokens, spec.until_tokens) == (600, 640)
        assert assignment.earlier_folders == (), "checkpoints of another schedule are not gone on from"
    assert len(seen.promotions) == len(before.promotions) == 1
    assert seen.tokens_done == seen.tokens_total


def test_more_seeds_make_means(database: Database) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    before = turns.until(lambda seen: seen.state == "finished")
    extend(database, "tiny", Extension(seeds=2), turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert {a.spec.seed for a in pool.submitted if isinstance(a.spec, Trial)} == {0, 1, 2}
    assert [row.num_seeds for row in seen.leaderboard] == [3] * 4
    for row, first in zip(seen.leaderboard, before.leaderboard, strict=True):
        assert row.loss == pytest.approx(float(first.loss or 0) + 1 / 1000), "the mean of seeds 0, 1 and 2"
    with database.reading() as session:
        details = candidate(session, "tiny", seen.leaderboard[0].candidate_id)
        assert [trial.seed for trial in details.trials] == [0, 1, 2]
        assert details.curve[-1].num_seeds == 3
    with pytest.raises(SpecError, match="extension: nothing is added; accepted: at least one of candidates, tokens"):
        extend(database, "tiny", Extension(), turns.now)


def test_an_extension_of_an_extension(database: Database) -> None:
    """Seeds after tokens: new trials go through both segments, old ones stay as they are."""
    turns = Turns(database, pool := InstantPool(succeed))
    turns.until(lambda seen: seen.state == "finished")
    extend(database, "tiny", Extension(tokens=1280), turns.now)
    extend(database, "tiny", Extension(seeds=1), turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [(row.tokens, row.num_seeds) for row in seen.leaderboard] == [(2560, 2)] * 4
    assert kinds(pool).count("trial") == 4 * 2 * 2


def test_a_promotion_is_paused_extended_and_cancelled(database: Database, teacher_folder: Path) -> None:
    turns = Turns(database, pool := HeldPool("promotion"))
    seen = turns.until(lambda seen: any(job.kind == "promotion" and job.state == "running" for job in seen.jobs))
    (promotion,) = seen.promotions
    promotion_control.pause(database, "tiny", promotion.id, turns.now)
    seen = turns.step(3)
    assert (seen.state, seen.promotions[0].state) == ("running", "paused")
    with pytest.raises(ConflictError, match=f"promotion: {promotion.id} is paused; accepted: one that has failed"):
        promotion_control.retry(database, "tiny", promotion.id, turns.now)
    promotion_control.resume(database, "tiny", promotion.id, turns.now)
    promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=128), turns.now)
    pool.held.clear()
    seen = turns.until(lambda seen: seen.state == "finished")
    assert seen.promotions[0].curve[-1].tokens == 1280 + 128
    assert kinds(pool).count("export") == 1, "what was extended before its end is exported once"
    promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=256), turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    specs = [a.spec for a in pool.submitted if isinstance(a.spec, Promotion)]
    assert [(spec.first_tokens, spec.first_sequence) for spec in specs[-2:]] == [(1280, 80), (1408, 84)]
    assert seen.promotions[0].model_id == 2, "it has ended again, in another model"
    assert seen.tokens_done == seen.tokens_total

    promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=256), turns.now)
    pool.held = {"promotion"}
    turns.step(4)
    promotion_control.cancel(database, "tiny", promotion.id, turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert seen.promotions[0].state == "cancelled"
    assert seen.promotions[0].model_id == 2, "what it had ended in stays"


def test_a_clone_is_a_search_of_its_own(database: Database) -> None:
    turns = Turns(database, InstantPool(succeed))
    cloned = clone(
        database, "tiny", "again", {"seed": 7, "trial": {"tokens": 2560}, "promotion": {"winners": 0}}, START
    )
    assert cloned.created
    with database.reading() as session:
        spec, first = (Store(session).searches.named(name).spec for name in ("again", "tiny"))
    assert (spec.seed, spec.trial.tokens, spec.trial.batch_size) == (7, 2560, first.trial.batch_size)
    turns.step(20)
    assert [turns.look(name).state for name in ("tiny", "again")] == ["finished", "finished"]
    with pytest.raises(ConflictError, match="name: again is taken"):
        clone(database, "tiny", "again", {}, START)
    with pytest.raises(SpecError, match=r"trial\.tokens: -1"):
        clone(database, "tiny", "third", {"trial": {"tokens": -1}}, START)


def test_an_archived_search_is_out_of_the_lists(database: Database) -> None:
    turns = Turns(database, InstantPool(succeed))
    with pytest.raises(ConflictError, match="tiny is running; accepted: a search that has ended, or that waits"):
        control.archive(database, "tiny", turns.now)
    turns.until(lambda seen: seen.state == "finished")
    control.archive(database, "tiny", turns.now)
    with database.reading() as session:
        assert summaries(session, limit=9, offset=0) == []
        assert [each.name for each in summaries(session, limit=9, offset=0, archived=True)] == ["tiny"]
        assert best(session, "tiny").final, "it is there all the same"
    control.archive(database, "tiny", turns.now, archived=False)
    with database.reading() as session:
        assert len(summaries(session, limit=9, offset=0)) == 1


def test_a_deleted_search_is_gone_with_its_folders_and_its_name_is_free(
    database: Database, spec: SearchSpec, tmp_path: Path
) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    turns._scheduler = Scheduler(database, pool, tmp_path, clock=lambda: turns.now)
    with pytest.raises(ConflictError, match="tiny is running"):
        delete(database, "tiny", turns.now)
    turns.until(lambda seen: seen.state == "finished")
    other = tmp_path / "jobs" / "000099" / "attempt-1"
    for folder in (*(Path(a.folder) for a in pool.submitted), other):
        folder.mkdir(parents=True)
        (folder / "log.txt").write_text("x")
    delete(database, "tiny", turns.now)
    assert list(tmp_path.rglob("log.txt")) == [other / "log.txt"]
    with pytest.raises(NotFoundError):
        turns.look()
    with database.reading() as session:
        told = Store(session).events.after(0, search="tiny", limit=999)
        assert told[-1].kind is EventKind.SEARCH_DELETED, "what happened stays on record"
    assert submit(database, spec, turns.now).created
    turns.step(20)
    assert turns.look().state == "finished"
    assert not {a.folder for a in pool.submitted[:8]} & {a.folder for a in pool.submitted[8:]}


def test_a_deletion_that_was_cut_off_goes_on_when_it_is_asked_again(database: Database, spec: SearchSpec) -> None:
    turns = Turns(database, InstantPool(succeed))
    turns.until(lambda seen: seen.state == "finished")
    with database.transaction() as session:
        store = Store(session)
        store.searches.begin_to_delete(store.searches.named("tiny").id, turns.now)
    with pytest.raises(NotFoundError):
        turns.look()
    with pytest.raises(ConflictError, match="tiny names a search that is being deleted"):
        submit(database, spec, turns.now)
    delete(database, "tiny", turns.now)
    assert submit(database, spec, turns.now).created


def test_failures_wait_longer_each_time(database: Database, spec: SearchSpec) -> None:
    content = {**spec.model_dump(), "name": "waits", "backoff_seconds": 10, "max_failures": 4}
    submit(database, SearchSpec.model_validate(content), START)
    control.cancel(database, "tiny", START)
    turns = Turns(database, pool := InstantPool(lambda a: fail(a) if a.spec.kind == "prepare_data" else succeed(a)))
    begun = []
    for _ in range(40):
        before = len(pool.submitted)
        turns.step(seconds=2.5)
        begun += [turns.now] * (len(pool.submitted) - before)
    waits = [(later - earlier).total_seconds() for earlier, later in pairwise(begun)]
    assert waits == pytest.approx([10, 20, 40], abs=3)
    seen = turns.look("waits")
    assert (seen.state, seen.reason) == ("failed", "it broke")


def test_losses_are_counted_apart_until_something_is_measured(database: Database, spec: SearchSpec) -> None:
    content = {**spec.model_dump(), "name": "lossy", "max_losses": 3, "max_failures": 1}
    submit(database, SearchSpec.model_validate(content), START)
    control.cancel(database, "tiny", START)
    lost = Failure(reason="its node was taken away", lost=True)
    measured = {"some": True}

    def outcome(assignment: Assignment) -> Update:
        done = succeed(assignment)
        if not isinstance(assignment.spec, Trial):
            return done
        point = done.measurements[0].model_copy(update={"tokens": assignment.attempt})
        points = (point,) if measured["some"] else ()
        return done.model_copy(update={"result": None, "failure": lost, "measurements": points})

    turns = Turns(database, InstantPool(outcome))
    turns.step(12)
    assert turns.look("lossy").state == "running", "each attempt has come further"
    measured["some"] = False
    turns.step(8)
    seen = turns.look("lossy")
    assert (seen.state, seen.reason) == ("failed", "every trial failed, the first with: its node was taken away")


def test_another_node_is_asked_for_after_a_failure(database: Database, spec: SearchSpec) -> None:
    def outcome(assignment: Assignment) -> Update:
        if assignment.attempt == 1:
            return fail(assignment).model_copy(update={"node": "a"})
        return succeed(assignment)

    turns = Turns(database, pool := InstantPool(outcome))
    turns.until(lambda seen: seen.state == "finished")
    assert {(a.attempt, a.avoid_nodes) for a in pool.submitted} == {(1, ()), (2, ("a",))}
    with database.reading() as session:
        assert {(each.number, each.node) for each in attempts(session, "tiny")} == {(1, "a"), (2, None)}


def test_a_job_that_no_node_can_hold_says_so(database: Database, spec: SearchSpec) -> None:
    content = {**spec.model_dump(), "name": "h100", "resources": {"accelerator_type": "H100", "dtype": "float32"}}
    submit(database, SearchSpec.model_validate(content), START)
    turns = Turns(database, pool := HeldPool())
    pool.obstacles = {"H100": "no node has a GPU of type H100"}
    turns.until(lambda seen: seen.state == "finished")
    (job,) = turns.look("h100").jobs
    assert (job.kind, job.state, job.reason) == ("calibrate", "queued", "no node has a GPU of type H100")
    pool.obstacles = {}
    turns.step(20)
    assert turns.look("h100").state == "finished"


# --- what a tester found ------------------------------------------------------------------------------------


def test_a_clone_takes_a_preset_that_it_is_given(database: Database, text_file: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}\n' * 2)
    clone(database, "tiny", "other", {"calibration": {"preset": "follow-up", "questions": str(questions)}}, START)
    with database.reading() as session:
        calibration = Store(session).searches.named("other").spec.calibration
    assert (calibration.depth, calibration.contiguous, calibration.samples) == ("accuracy", True, 8)
    with pytest.raises(SpecError, match=r"data\.train: text\.txt"):
        clone(database, "tiny", "third", {"data": {"train": "text.txt"}}, START)


def test_money_needs_a_price(database: Database) -> None:
    with pytest.raises(
        SpecError, match=r"spending\.money: 5.* is given, but the search has no hardware\.price_per_hour"
    ):
        extend(database, "tiny", Extension(spending=SpendingSpec(money=5)), START)


def test_a_stopping_search_is_held_to_its_limits(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    extend(database, "tiny", Extension(spending=SpendingSpec(device_hours=1)), turns.now)
    control.stop(database, "tiny", turns.now)
    turns.step(60, seconds=60)
    assert pool.interrupted, "what runs was ended"
    assert turns.look().reason == "spending.device_hours: 1 of 1 are used"


def test_what_is_taken_up_again_is_listed_again(database: Database) -> None:
    turns = Turns(database, InstantPool(succeed))
    turns.until(lambda seen: seen.state == "finished")
    control.archive(database, "tiny", turns.now)
    extend(database, "tiny", Extension(seeds=1), turns.now)
    assert turns.look().archived_at is None


def test_a_search_does_without_a_promotion_that_failed(database: Database) -> None:
    turns = Turns(database, InstantPool(lambda a: fail(a) if a.spec.kind == "export" else succeed(a)))
    seen = turns.until(lambda seen: seen.state == "failed")
    assert seen.promotions[0].state == "failed"
    promotion_control.cancel(database, "tiny", seen.promotions[0].id, turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert seen.promotions[0].state == "cancelled"


# --- what a reviewer found ----------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["extend", "retry"])
def test_what_is_asked_while_a_step_ends_the_search_comes_after(
    database: Database, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """Another process asks for more between what the step has read and its commit."""
    pool = InstantPool(lambda a: fail(a, user_error=True) if a.job_id == 3 else succeed(a))
    turns = Turns(database, pool)
    asked: list[threading.Thread] = []

    def ask() -> None:
        pool.outcome = succeed
        if verb == "extend":
            extend(database, "tiny", Extension(seeds=1), turns.now)
        else:
            control.retry(database, "tiny", turns.now)

    def end(store: Searches, search_id: int, state: SearchState, reason: str | None, now: datetime) -> None:
        if not asked:
            asked.append(threading.Thread(target=ask))
            asked[0].start()
            asked[0].join(0.5)  # It waits for this very transaction.
        really_end(store, search_id, state, reason, now)

    really_end = Searches.end
    monkeypatch.setattr(Searches, "end", end)
    turns.until(lambda seen: bool(asked))
    asked[0].join()
    seen = turns.until(lambda seen: seen.state == "finished")
    if verb == "extend":
        assert [row.num_seeds for row in seen.leaderboard] == [2, 2, 2, 1], "the failed one has one that did not"
    else:
        assert {row.state for row in seen.leaderboard} == {"succeeded"}


def test_of_a_cancelled_search_all_goes_on_or_nothing(database: Database) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    (promotion,) = turns.until(lambda seen: seen.state == "finished").promotions
    extend(database, "tiny", Extension(seeds=1), turns.now)
    pool.silent = True
    turns.step(3)
    control.cancel(database, "tiny", turns.now)
    assert turns.step(2).state == "cancelled"
    pool.silent = False
    with pytest.raises(ConflictError, match="tiny is cancelled; accepted: one that is resumed first"):
        promotion_control.extend(database, "tiny", promotion.id, PromotionExtension(tokens=128), turns.now)
    with pytest.raises(ConflictError, match="tiny is cancelled; accepted: one that is resumed first"):
        control.retry(database, "tiny", turns.now)
    control.resume(database, "tiny", turns.now)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [row.num_seeds for row in seen.leaderboard] == [2] * 4
    assert all(row.reason is None for row in seen.leaderboard)


def test_weights_are_those_of_a_trial_that_is_at_its_end(database: Database) -> None:
    """Seed 0 of every candidate fails in the second segment, and another candidate wins there."""
    turns = Turns(database, pool := InstantPool(succeed))
    turns.until(lambda seen: seen.state == "finished")
    extend(database, "tiny", Extension(tokens=256, seeds=1), turns.now)

    def outcome(assignment: Assignment) -> Update:
        update = succeed(assignment)
        if not isinstance(assignment.spec, Trial) or assignment.spec.continues is None:
            return update
        if assignment.spec.seed == 0:
            return fail(assignment, user_error=True)
        points = tuple(point.model_copy(update={"loss": 20 - point.loss}) for point in update.measurements)
        return update.model_copy(update={"measurements": points})

    pool.outcome = outcome
    turns.until(lambda seen: seen.state == "finished")
    promoted = [a.spec for a in pool.submitted if isinstance(a.spec, Promotion)][-1]
    (source,) = [a for a in pool.submitted if promoted.weights == f"{a.folder}/w"]
    assert isinstance(source.spec, Trial)
    assert (source.spec.seed, source.spec.continues is not None) == (1, True)
    assert promoted.first_sequence == (1280 + 256) // 32


def test_a_model_that_was_exported_stays_when_more_is_asked_meanwhile(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("export"))
    seen = turns.until(lambda seen: any(job.kind == "export" and job.state == "running" for job in seen.jobs))
    promotion_control.extend(database, "tiny", seen.promotions[0].id, PromotionExtension(tokens=128), turns.now)
    pool.held.clear()
    pool.outcome = lambda a: fail(a, user_error=True) if isinstance(a.spec, Promotion) else succeed(a)
    seen = turns.until(lambda seen: seen.state == "failed")
    assert (seen.promotions[0].state, seen.promotions[0].model_id) == ("failed", 1)


def test_a_search_that_meets_a_bug_ends_what_runs(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    ran = {(a.job_id, a.attempt) for a in pool._waiting}

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("api.scheduler.advance", broken)
    extend(database, "tiny", Extension(seeds=1), turns.now)  # Something happens to it.
    seen = turns.step(2)
    assert (seen.state, seen.reason) == ("failed", "the scheduler met a bug of its own: ZeroDivisionError: ")
    assert set(pool.cancelled) == ran
    monkeypatch.undo()
    pool.held.clear()
    control.retry(database, "tiny", turns.now)
    assert turns.until(lambda seen: seen.state == "finished").leaderboard[0].num_seeds == 2


def test_what_was_used_is_not_forgotten_with_a_failure(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    pool.progress = JobProgress(done=640, total=1280, unit="tokens")
    turns.step(2)
    pool.held.clear()
    pool.outcome = lambda a: fail(a, user_error=True)
    turns.until(lambda seen: seen.state == "failed")
    assert turns.look().spent.tokens == 2 * 640


def test_what_a_bug_has_cancelled_goes_on_with_whatever_is_tried_again(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    turns._scheduler._unrecorded.append(fail(pool._waiting.pop(0), user_error=True))
    turns.step()
    failed = next(row.candidate_id for row in turns.look().leaderboard if row.state == "failed")

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("api.scheduler.advance", broken)
    extend(database, "tiny", Extension(seeds=1), turns.now)
    assert turns.step(2).state == "failed"
    monkeypatch.undo()
    pool.held.clear()
    control.retry(database, "tiny", turns.now, candidate_id=failed)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [row.num_seeds for row in seen.leaderboard] == [2] * 4


def test_a_failed_extension_leaves_what_was_there(database: Database) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    before = turns.until(lambda seen: seen.state == "finished")
    extend(database, "tiny", Extension(tokens=256), turns.now)
    pool.outcome = lambda a: fail(a, user_error=True)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [(row.rank, row.loss) for row in seen.leaderboard] == [(row.rank, row.loss) for row in before.leaderboard]
    assert {row.reason for row in seen.leaderboard} == {"it broke"}
