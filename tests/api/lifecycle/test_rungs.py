"""Searches by rungs: who goes on is decided from what is on record, whoever dies on the way."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.scheduler import Scheduler
from api.services.control import cancel
from api.services.extending import extend
from api.services.submission import submit
from api.services.viewing import curves, events, view
from api.store.database import Database
from nas.extension import Extension
from nas.jobs import Trial
from nas.pool import Update
from nas.views import SearchView
from tests.api.here_pool import HerePool
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.lifecycle.turns import START, Turns
from tests.conftest import tiny_spec

STEP = 4 * 32
RUNGS = {"rungs": [0.3, 0.6], "keep": 0.5}


@pytest.fixture
def new(database: Database, teacher_folder: Path, text_file: Path) -> Any:
    """Submits a search by a strategy, of a name of its own; the one that is there is out of the way."""
    cancel(database, "tiny", START)

    def submitted(name: str, **strategy: object) -> None:
        submit(database, tiny_spec(teacher_folder, text_file, name=name, strategy=strategy), START)

    return submitted


def told(pool: InstantPool) -> list[tuple[int, int]]:
    """Of the trials' jobs, in order: how wide times how deep, and how many steps it is to be taken to."""
    specs = [each.spec for each in pool.submitted]
    return [
        (spec.architecture.hidden_size * spec.architecture.num_hidden_layers, spec.until_tokens // STEP)
        for spec in specs
        if isinstance(spec, Trial)
    ]


def test_half_goes_on_from_each_rung_and_the_best_is_promoted(database: Database, new: Any) -> None:
    new("halved", kind="halving", **RUNGS)
    turns = Turns(database, pool := InstantPool(succeed))
    turns.step(30)
    seen = turns.look("halved")
    assert seen.state == "finished"
    sizes = sorted(size for size, steps in told(pool) if steps == 3)
    assert sorted(steps for _, steps in told(pool)) == [3, 3, 3, 3, 6, 6, 10]
    # The smaller ones end lower here, as the pool makes it up.
    assert sorted(size for size, steps in told(pool) if steps == 6) == sizes[:2]
    assert [(row.state, row.tokens // STEP) for row in seen.leaderboard] == [
        ("succeeded", 10),
        ("stopped", 6),
        ("stopped", 3),
        ("stopped", 3),
    ]
    assert seen.leaderboard[1].reason == "not among the 1 of 2 with the lowest loss after 768 tokens"
    assert seen.promotions[0].candidate_id == seen.leaderboard[0].candidate_id
    assert seen.tokens_done == seen.tokens_total == (10 + 6 + 3 + 3) * STEP + 1280


def test_whoever_failed_holds_up_no_rung(database: Database, new: Any) -> None:
    new("halved", kind="halving", **RUNGS)

    def outcome(assignment: Any) -> Update:
        spec = assignment.spec
        broken = isinstance(spec, Trial) and spec.architecture.hidden_size == 48 and spec.until_tokens == 3 * STEP
        return fail(assignment, user_error=True) if broken else succeed(assignment)

    turns = Turns(database, pool := InstantPool(outcome))
    turns.step(30)
    seen = turns.look("halved")
    assert seen.state == "finished"
    assert [row.state for row in seen.leaderboard] == ["succeeded", "stopped", "failed", "failed"]
    assert sorted(steps for _, steps in told(pool)) == [3, 3, 3, 3, 6, 10]


def decided(database: Database, name: str) -> list[tuple[object, ...]]:
    with database.reading() as session:
        told = [each for each in events(session, after=0, search=name, limit=1000) if each.kind == "decided"]
        first = min(each.candidate_id or 0 for each in told)
    data = [each.data for each in told]
    return [
        ((each.candidate_id or 0) - first, own["action"], own["until_tokens"], own["reason"])
        for each, own in zip(told, data, strict=True)
    ]


@pytest.mark.parametrize("kind", ["halving", "racing"])
def test_a_scheduler_that_dies_after_every_step_changes_no_decision(database: Database, new: Any, kind: str) -> None:
    for name in ("undisturbed", "disturbed"):
        new(name, kind=kind, **RUNGS)
    turns = Turns(database, pool := InstantPool(succeed, num_cpus=1, patient=True))
    for _ in range(200):
        if turns.look("undisturbed").state == turns.look("disturbed").state == "finished":
            break
        turns.step(2)  # In the first, a scheduler only takes over.
        now, turns = turns.now, Turns(database, pool)
        turns.now = now + timedelta(seconds=11)  # Longer than the lease of the one that died.
    else:
        raise AssertionError("they do not end")
    assert decided(database, "disturbed") == decided(database, "undisturbed")
    alone = Turns(database, InstantPool(succeed))
    alone.now = turns.now
    new("alone", kind=kind, **RUNGS)
    alone.step(30, seconds=11)
    assert decided(database, "alone") == decided(database, "disturbed")


def test_more_candidates_and_tokens_find_their_rungs(database: Database, new: Any) -> None:
    new("halved", kind="halving", **RUNGS)
    turns = Turns(database, pool := InstantPool(succeed))
    turns.step(30)
    extend(database, "halved", Extension(tokens=640), turns.now)
    turns.step(30)
    seen = turns.look("halved")
    assert seen.state == "finished"
    assert [row.tokens // STEP for row in seen.leaderboard] == [15, 6, 3, 3], "who was stopped stays where it is"
    pool.submitted.clear()
    extend(database, "halved", Extension(seeds=1), turns.now)
    turns.step(40)
    seen = turns.look("halved")
    assert seen.state == "finished"
    assert [steps for _, steps in told(pool)] == [3, 6, 10, 5], "who is left gets the new seed, all the way"
    assert (seen.leaderboard[0].num_seeds, seen.leaderboard[0].tokens // STEP) == (2, 15)


def test_gross_rejects_get_a_single_step(database: Database, new: Any) -> None:
    """The pool's losses right after pruning are 9 less a thousandth of the size: the two smallest are 0.012 behind."""
    new("screened", kind="exhaustive", reject_behind=0.01)
    turns = Turns(database, pool := InstantPool(succeed))
    turns.step(30)
    seen = turns.look("screened")
    assert seen.state == "finished"
    assert sorted(steps for _, steps in told(pool)) == [1, 1, 1, 1, 10, 10]
    rejected = [row for row in seen.leaderboard if row.state == "stopped"]
    assert len(rejected) == 2
    assert {row.reason for row in rejected} == {"0.012 nats behind the best right after pruning, more than 0.01"}


def test_what_rungs_cut_short_is_on_the_curve_of_the_whole(database: Database, new: Any, tmp_path: Path) -> None:
    """Real retraining: where both were measured, stopping at rungs and going on changes no bit."""
    new("whole", kind="exhaustive")
    new("raced", kind="racing", rungs=[0.2, 0.5], confidence=0.6, run_to_run=0.0)
    scheduler = Scheduler(database, HerePool([]), tmp_path)
    for _ in range(30):
        scheduler.step()
    whole, raced = (looked(database, name) for name in ("whole", "raced"))
    assert (whole.state, raced.state) == ("finished", "finished")
    by_shape = {row.architecture: curve for row, curve in each_curve(database, whole)}
    shared = 0
    for row, curve in each_curve(database, raced):
        assert row.tokens in (2 * STEP, 5 * STEP, 10 * STEP)
        expected = by_shape[row.architecture]
        for tokens, loss in curve.items():
            if tokens in expected:
                shared += 1
                assert loss == expected[tokens]
    assert shared >= 8
    assert raced.leaderboard[0].tokens == 1280
    probabilities = [row.probability_best for row in raced.leaderboard]
    assert sum(each for each in probabilities if each is not None) == pytest.approx(1)
    assert all(each is not None for each in probabilities), "those stopped on the way could have been the best, too"


def looked(database: Database, name: str) -> SearchView:
    with database.reading() as session:
        return view(session, name, START)


def each_curve(database: Database, seen: SearchView) -> list[tuple[Any, dict[int, float]]]:
    with database.reading() as session:
        found = curves(session, seen.name)
    return [(row, {point.tokens: point.loss for point in found[row.candidate_id]}) for row in seen.leaderboard]


def test_seeds_added_twice_are_different_ones_though_some_candidates_have_none_of_them(
    database: Database, new: Any
) -> None:
    new("halved", kind="halving", **RUNGS)
    turns = Turns(database, InstantPool(succeed))
    for seeds in (1, 2):
        turns.step(30)
        extend(database, "halved", Extension(seeds=seeds), turns.now)
    turns.step(40)
    seen = turns.look("halved")
    assert seen.state == "finished"
    assert [row.num_seeds for row in seen.leaderboard] == [4, 1, 1, 1]


def test_a_rung_on_the_first_step_counts_beside_the_screening(database: Database, new: Any) -> None:
    new("screened", kind="halving", rungs=[0.1], keep=0.5, reject_behind=10)
    turns = Turns(database, pool := InstantPool(succeed))
    turns.step(30)
    assert turns.look("screened").state == "finished"
    assert sorted(steps for _, steps in told(pool)) == [1, 1, 1, 1, 10, 10]
