"""Jobs that fail or are lost: when they are tried again, where, how often, and by whom."""

from itertools import pairwise

import pytest

from api.services import control
from api.services.extending import extend
from api.services.submission import submit
from api.services.viewing import attempts
from api.store.database import Database
from nas.errors import ConflictError, NotFoundError
from nas.extension import Extension
from nas.jobs import JobProgress, Trial
from nas.pool import Assignment, Failure, Update
from nas.spec import SearchSpec
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.lifecycle.turns import START, HeldPool, Turns, is_training


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


def test_losses_are_counted_apart_until_a_job_comes_further(database: Database, spec: SearchSpec) -> None:
    content = {**spec.model_dump(), "name": "lossy", "max_losses": 3, "max_failures": 1}
    submit(database, SearchSpec.model_validate(content), START)
    control.cancel(database, "tiny", START)
    lost = Failure(reason="its node was taken away", lost=True)
    measured, further = {"some": True}, {"some": False}

    def outcome(assignment: Assignment) -> Update:
        done = succeed(assignment)
        if not isinstance(assignment.spec, Trial):
            return done
        point = done.measurements[0].model_copy(update={"tokens": assignment.attempt})
        points = (point,) if measured["some"] else ()
        done_tokens = assignment.attempt if further["some"] else 0
        progress = JobProgress(done=done_tokens, total=1280, unit="tokens")
        return done.model_copy(update={"result": None, "failure": lost, "measurements": points, "progress": progress})

    turns = Turns(database, InstantPool(outcome))
    turns.step(12)
    assert turns.look("lossy").state == "running", "each attempt has come further"
    measured["some"] = False
    further["some"] = True
    turns.step(12)
    assert turns.look("lossy").state == "running", "each attempt says to be further"
    further["some"] = False
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


def test_what_was_used_is_not_forgotten_with_a_failure(database: Database) -> None:
    turns = Turns(database, pool := HeldPool("trial"))
    turns.until(is_training)
    pool.progress = JobProgress(done=640, total=1280, unit="tokens")
    turns.step(2)
    pool.held.clear()
    pool.outcome = lambda a: fail(a, user_error=True)
    turns.until(lambda seen: seen.state == "failed")
    assert turns.look().spent.tokens == 2 * 640
