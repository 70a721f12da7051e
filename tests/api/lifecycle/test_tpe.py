"""Whole searches by `tpe`: candidates are proposed from what is on record, whoever dies on the way."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.services.control import cancel
from api.services.extending import extend
from api.services.submission import enumerate_spec, submit
from api.services.viewing import events
from api.store.database import Database
from nas.architecture import Architecture
from nas.errors import SpecError
from nas.extension import Extension
from nas.pool import Update
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.lifecycle.turns import START, Turns
from tests.conftest import tiny_spec

WIDE = {"num_hidden_layers": [3, 2, 1], "hidden_size": [48, 36, 24], "intermediate_size": {"min": 8, "step": 8}}
STRATEGY = {"kind": "tpe", "startup": 3, "batch": 2}


@pytest.fixture
def new(database: Database, teacher_folder: Path, text_file: Path) -> Any:
    """Submits a search by tpe over some dozens of shapes; the one that is there is out of the way."""
    cancel(database, "tiny", START)

    def submitted(name: str, **changes: Any) -> None:
        content = {"space": WIDE, "budget": {"parameters": 43_000, "tolerance": 0.3}, "sample_size": 8, **changes}
        spec = tiny_spec(teacher_folder, text_file, name=name, **{"strategy": STRATEGY, **content})
        submit(database, spec, START)

    return submitted


def shapes_of(turns: Turns, name: str) -> list[Architecture]:
    """In the order in which they came."""
    rows = turns.look(name).leaderboard
    return [row.architecture for row in sorted(rows, key=lambda row: row.candidate_id)]


def test_a_search_proposes_until_all_were_tried(database: Database, new: Any) -> None:
    new("proposed")
    turns = Turns(database, InstantPool(succeed))
    seen = turns.look("proposed")
    assert (len(seen.leaderboard), seen.num_fitting > 20) == (3, True)
    assert seen.tokens_total == 8 * 1280 + 1280, "those to come are counted"
    turns.step(40)
    seen = turns.look("proposed")
    assert seen.state == "finished"
    assert [row.state for row in seen.leaderboard] == ["succeeded"] * 8
    assert len({row.architecture for row in seen.leaderboard}) == 8
    assert seen.promotions[0].candidate_id == seen.leaderboard[0].candidate_id
    assert len(seen.promotions) == 1
    assert seen.tokens_done == seen.tokens_total == 8 * 1280 + 1280
    with database.reading() as session:
        told = [
            each.data
            for each in events(session, after=0, search="proposed", limit=1000)
            if each.kind == "search_extended"
        ]
    assert told == [{"candidates": 2}, {"candidates": 2}, {"candidates": 1}]


def test_a_scheduler_that_dies_after_every_step_proposes_the_same(database: Database, new: Any) -> None:
    new("disturbed")
    turns = Turns(database, pool := InstantPool(succeed, num_cpus=1, patient=True))
    for _ in range(200):
        if turns.look("disturbed").state == "finished":
            break
        turns.step(2)  # In the first, a scheduler only takes over.
        now, turns = turns.now, Turns(database, pool)
        turns.now = now + timedelta(seconds=11)  # Longer than the lease of the one that died.
    new("alone")
    alone = Turns(database, InstantPool(succeed))
    alone.now = turns.now
    alone.step(40, seconds=11)
    assert len(shapes_of(alone, "alone")) == 8
    assert shapes_of(alone, "alone") == shapes_of(turns, "disturbed")


def test_failed_candidates_hold_up_nothing_unless_all_have_failed(database: Database, new: Any) -> None:
    def outcome(assignment: Any) -> Update:
        shape = getattr(assignment.spec, "architecture", None)
        return (
            fail(assignment, user_error=True) if shape is not None and shape.hidden_size == 36 else succeed(assignment)
        )

    new("halting")
    turns = Turns(database, InstantPool(outcome))
    turns.step(40)
    seen = turns.look("halting")
    assert seen.state == "finished"
    assert sorted({row.state for row in seen.leaderboard}) == ["failed", "succeeded"]
    assert len(seen.leaderboard) == 8
    new("hopeless", space={**WIDE, "hidden_size": [36]}, budget={"parameters": 33_000, "tolerance": 0.3})
    turns.step(40)
    seen = turns.look("hopeless")
    assert (seen.state, len(seen.leaderboard)) == ("failed", 3)


def test_extensions_draw_more_besides(database: Database, new: Any) -> None:
    new("extended")
    turns = Turns(database, InstantPool(succeed))
    turns.step(3)
    extend(database, "extended", Extension(candidates=2, seeds=1), turns.now)
    turns.step(60)
    seen = turns.look("extended")
    assert seen.state == "finished"
    assert len({row.architecture for row in seen.leaderboard}) == 10
    assert {row.num_seeds for row in seen.leaderboard} == {2}, "what is proposed later has the seeds of the others"
    assert seen.tokens_done == seen.tokens_total


def test_a_space_that_is_used_up_ends_the_search(database: Database, new: Any) -> None:
    new("small", space={**WIDE, "intermediate_size": [64, 32]}, sample_size=500)
    turns = Turns(database, InstantPool(succeed))
    turns.step(60)
    seen = turns.look("small")
    assert seen.state == "finished"
    assert 3 < len(seen.leaderboard) == seen.num_fitting < 20
    assert seen.tokens_done == seen.tokens_total


def test_scores_of_numbers_of_layers_keep_to_these(database: Database, new: Any) -> None:
    new("contiguous", calibration={"samples": 8, "contiguous": True}, strategy={**STRATEGY, "startup": 1})
    turns = Turns(database, InstantPool(succeed))
    turns.step(60)
    seen, shapes = turns.look("contiguous"), shapes_of(turns, "contiguous")
    assert seen.state == "finished"
    assert 1 < len(shapes) < 8, "no others have as many layers"
    assert len({shape.num_hidden_layers for shape in shapes}) == 1
    assert seen.tokens_done == seen.tokens_total


def test_how_many_may_be_tried_has_to_be_said(
    database: Database, new: Any, teacher_folder: Path, text_file: Path
) -> None:
    with pytest.raises(SpecError, match="sample_size") as raised:
        new("endless", sample_size=None)
    assert raised.value.field == "sample_size"
    with pytest.raises(SpecError, match="sample_size"):
        enumerate_spec(tiny_spec(teacher_folder, text_file, strategy=STRATEGY))
    new("short", sample_size=2)
    assert len(Turns(database, InstantPool(succeed)).look("short").leaderboard) == 2
