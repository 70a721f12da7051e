"""Searches with a gate: the first of the leaderboard answer questions before any of them is promoted."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from api.display import summary
from api.pages.render import candidate_page, search_page
from api.services import control
from api.services.extending import extend
from api.services.submission import submit
from api.services.viewing import candidate
from api.store.database import Database
from api.store.store import Store
from nas.extension import Extension
from nas.jobs import Evaluate, Evaluated, Promotion
from nas.pool import Assignment, Update
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.lifecycle.turns import START, Turns, kinds
from tests.conftest import tiny_spec

NUM_QUESTIONS = 10_000


@pytest.fixture
def gated(database: Database, teacher_folder: Path, text_file: Path, tmp_path: Path) -> Any:
    """Submits a search with a gate under the name gated; the one that is there is out of the way."""
    control.cancel(database, "tiny", START)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}')

    def submitted(winners: int = 1, **gate: object) -> None:
        spec = tiny_spec(teacher_folder, text_file, name="gated", strategy={"kind": "exhaustive"})
        promotion = {**spec.promotion.model_dump(), "winners": winners, "gate": {"questions": str(questions), **gate}}
        changed = type(spec).model_validate({**spec.model_dump(), "promotion": promotion})
        submit(database, changed, START)

    return submitted


def name(spec: Evaluate | Promotion) -> str:
    """Of the candidate: A to D, in the order of the leaderboard as the pool makes it up."""
    shape = spec.architecture
    return "ABCD"[2 * (shape.num_hidden_layers - 2) + (shape.intermediate_size == 32)]


def answering(right: dict[str, int], digest: str = "q") -> Any:
    """An outcome: candidates, by their names, answer so many questions rightly."""

    def outcome(assignment: Assignment) -> Update:
        spec, update = assignment.spec, succeed(assignment)
        if not isinstance(spec, Evaluate):
            return update
        result = Evaluated(num_right=right[name(spec)], num_questions=NUM_QUESTIONS, questions_sha256=digest)
        return update.model_copy(update={"result": result})

    return outcome


def promoted(pool: InstantPool) -> list[str]:
    return [name(assignment.spec) for assignment in pool.submitted if isinstance(assignment.spec, Promotion)]


def asked(pool: InstantPool) -> list[str]:
    return [name(assignment.spec) for assignment in pool.submitted if isinstance(assignment.spec, Evaluate)]


def test_the_more_accurate_is_promoted_rather_than_the_one_with_the_lower_loss(database: Database, gated: Any) -> None:
    gated(candidates=3)
    turns = Turns(database, pool := InstantPool(answering({"A": 3000, "B": 4000, "C": 3500})))
    turns.step(30)
    seen = turns.look("gated")
    assert seen.state == "finished"
    assert seen.reason is None
    assert asked(pool) == ["A", "B", "C"], "the fourth is not asked"
    assert promoted(pool) == ["B"]
    (promotion,) = seen.promotions
    assert promotion.accuracy == 0.4
    assert "its accuracy    0.4 of promotion.gate.questions, after its trial" in summary(seen)
    assert seen.tokens_done == 4 * 1280 + 1280, "questions are no retraining"
    (evaluate, *_) = [each.spec for each in pool.submitted if isinstance(each.spec, Evaluate)]
    assert evaluate.resources.dtype == "bfloat16", "as the calibration has decided"
    with database.reading() as session:
        found = [candidate(session, "gated", row.candidate_id) for row in seen.leaderboard]
    assert [each.accuracy for each in found] == [0.3, 0.4, 0.35, None]
    told = ["accuracy on the gate" in candidate_page(each, seen, None) for each in found]
    assert told == [True, True, True, False]


def test_equal_accuracies_leave_the_choice_to_the_loss(database: Database, gated: Any) -> None:
    gated(winners=2)
    turns = Turns(database, pool := InstantPool(answering({"A": 3970, "B": 3000, "C": 4000})))
    turns.step(30)
    assert promoted(pool) == ["A", "C"]


def test_nobody_passes_and_more_tokens_put_the_questions_anew(database: Database, gated: Any) -> None:
    gated(candidates=2, min_accuracy=0.45)
    turns = Turns(database, pool := InstantPool(answering({"A": 3000, "B": 4000})))
    turns.step(30)
    seen = turns.look("gated")
    assert (seen.state, seen.promotions) == ("finished", ())
    labels = [row.architecture.label for row in seen.leaderboard]
    assert seen.reason == (
        f"nobody is promoted: the shares of right answers are {labels[0]} 0.3, {labels[1]} 0.4, below min_accuracy 0.45"
    )
    assert "promotion" not in kinds(pool)
    assert f"gate            {seen.reason}; `topiary extend gated --tokens MORE` retrains further" in summary(seen)
    assert "<strong>Finished:</strong> nobody is promoted" in search_page(seen, {})

    extend(database, "gated", Extension(tokens=256), turns.now)
    pool.outcome = answering({"A": 5000, "B": 4000})
    turns.step(30)
    seen = turns.look("gated")
    assert (seen.state, seen.reason) == ("finished", None)
    assert asked(pool) == ["A", "B", "A", "B"]
    assert promoted(pool) == ["A"]


def test_a_failed_extension_leaves_the_answers_as_they_were(database: Database, gated: Any) -> None:
    gated(candidates=2, min_accuracy=0.45)
    turns = Turns(database, pool := InstantPool(answering({"A": 3000, "B": 4000})))
    turns.step(30)
    before = turns.look("gated")
    extend(database, "gated", Extension(tokens=256), turns.now)
    pool.outcome = lambda a: fail(a, user_error=True)
    turns.step(30)
    seen = turns.look("gated")
    assert {row.reason for row in seen.leaderboard} == {"it broke"}
    assert (seen.state, seen.reason) == ("finished", before.reason)
    assert asked(pool) == ["A", "B"]


def test_who_comes_later_is_asked_alone_unless_the_file_has_changed(database: Database, gated: Any) -> None:
    gated(candidates=3)
    turns = Turns(database, pool := InstantPool(answering({"A": 4000, "B": 3000, "C": 3000})))
    turns.step(30)
    assert promoted(pool) == ["A"]
    extend(database, "gated", Extension(seeds=1), turns.now)
    turns.step(30)
    assert turns.look("gated").state == "finished"
    assert asked(pool) == ["A", "B", "C"], "the weights are those of the first seed, which have answered"

    right = {"A": 3000, "B": 4000, "C": 3000, "D": 5000}
    pool.outcome = answering(right, digest="other")
    extend(database, "gated", Extension(tokens=256), turns.now)
    turns.step(40)
    assert asked(pool)[3:] == ["A", "B", "C"]
    assert promoted(pool) == ["A", "B"], "who was promoted before stays so"


def test_answers_to_a_file_that_changed_in_between_are_asked_for_again(database: Database, gated: Any) -> None:
    gated(candidates=3)
    digests = iter(["old", "new", "new", "new"])

    def outcome(assignment: Assignment) -> Update:
        is_asked = isinstance(assignment.spec, Evaluate)
        update: Update = answering({"A": 9, "B": 9, "C": 9}, next(digests) if is_asked else "")(assignment)
        return update

    turns = Turns(database, pool := InstantPool(outcome))
    turns.step(30)
    assert asked(pool) == ["A", "B", "C", "A"]
    assert turns.look("gated").state == "finished"


def test_questions_that_cannot_be_put_fail_the_search_until_it_is_tried_again(database: Database, gated: Any) -> None:
    gated(candidates=2)
    turns = Turns(
        database,
        pool := InstantPool(lambda a: fail(a, "no file", user_error=True) if a.spec.kind == "evaluate" else succeed(a)),
    )
    turns.step(30)
    seen = turns.look("gated")
    assert (seen.state, seen.reason) == ("failed", "no file")
    assert "promotion" not in kinds(pool)
    pool.outcome = succeed
    control.retry(database, "gated", turns.now)
    turns.step(30)
    assert turns.look("gated").state == "finished"
    assert len(promoted(pool)) == 1


@pytest.mark.on_both_databases
def test_a_scheduler_that_dies_after_every_step_asks_nobody_twice(database: Database, gated: Any) -> None:
    gated(candidates=3)
    pool = InstantPool(answering({"A": 3000, "B": 4000, "C": 3500}), num_cpus=1, patient=True)
    turns = Turns(database, pool)
    for _ in range(100):
        if turns.look("gated").state == "finished":
            break
        turns.step(2)  # In the first, a scheduler only takes over.
        now, turns = turns.now, Turns(database, pool)
        turns.now = now + timedelta(seconds=11)  # Longer than the lease of the one that died.
    assert asked(pool) == ["A", "B", "C"]
    assert promoted(pool) == ["B"]
    with database.reading() as session:
        store = Store(session)
        jobs = store.jobs.but_trials(store.searches.named("gated").id)
    assert [job.kind for job in jobs] == ["prepare_data", "calibrate", *["evaluate"] * 3, "promotion", "export"]


def test_without_winners_nobody_is_asked(database: Database, gated: Any) -> None:
    gated(winners=0)
    turns = Turns(database, pool := InstantPool(succeed))
    turns.step(30)
    seen = turns.look("gated")
    assert (seen.state, seen.reason, asked(pool)) == ("finished", None, [])
