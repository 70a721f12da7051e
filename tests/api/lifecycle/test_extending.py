"""More candidates, tokens and seeds for a search that is there, and clones of it."""

import threading
from datetime import datetime
from pathlib import Path

import pytest

from api.services import control
from api.services.extending import clone, extend
from api.services.submission import submit
from api.services.viewing import candidate
from api.store.database import Database
from api.store.searches import Searches
from api.store.store import Store
from nas.errors import ConflictError, SpecError
from nas.extension import Extension
from nas.jobs import Promotion, Trial
from nas.pool import Assignment, Update
from nas.spec import SearchSpec, SpendingSpec
from nas.states import SearchState
from tests.api.instant_pool import InstantPool, fail, succeed
from tests.api.lifecycle.turns import START, Turns, kinds


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


@pytest.mark.on_both_databases
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


def test_money_needs_a_price(database: Database) -> None:
    with pytest.raises(
        SpecError, match=r"spending\.money: 5.* is given, but the search has no hardware\.price_per_hour"
    ):
        extend(database, "tiny", Extension(spending=SpendingSpec(money=5)), START)


def test_what_is_taken_up_again_is_listed_again(database: Database) -> None:
    turns = Turns(database, InstantPool(succeed))
    turns.until(lambda seen: seen.state == "finished")
    control.archive(database, "tiny", turns.now)
    extend(database, "tiny", Extension(seeds=1), turns.now)
    assert turns.look().archived_at is None


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


def test_a_failed_extension_leaves_what_was_there(database: Database) -> None:
    turns = Turns(database, pool := InstantPool(succeed))
    before = turns.until(lambda seen: seen.state == "finished")
    extend(database, "tiny", Extension(tokens=256), turns.now)
    pool.outcome = lambda a: fail(a, user_error=True)
    seen = turns.until(lambda seen: seen.state == "finished")
    assert [(row.rank, row.loss) for row in seen.leaderboard] == [(row.rank, row.loss) for row in before.leaderboard]
    assert {row.reason for row in seen.leaderboard} == {"it broke"}


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


def test_a_clone_takes_a_preset_that_it_is_given(database: Database, text_file: Path, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}\n' * 2)
    clone(database, "tiny", "other", {"calibration": {"preset": "follow-up", "questions": str(questions)}}, START)
    with database.reading() as session:
        calibration = Store(session).searches.named("other").spec.calibration
    assert (calibration.depth, calibration.contiguous, calibration.samples) == ("accuracy", True, 8)
    with pytest.raises(SpecError, match=r"data\.train: text\.txt"):
        clone(database, "tiny", "third", {"data": {"train": "text.txt"}}, START)


@pytest.mark.on_both_databases
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
