"""The leaderboard against counting, for each candidate, those that beat it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.certainty import Measured
from nas.racing import Lag
from nas.ranking import (
    Contender,
    CurvePoint,
    Standing,
    at_common_tokens,
    leaderboard,
    level,
    mean_curve,
    told_how_sure,
)
from nas.states import TrialState
from tests.nas.shapes import small_llama


def contender(candidate_id: int, *points: tuple[int, float], state: str = "running", **changes: Any) -> Contender:
    """Its losses are those of `points`, pairs of tokens and loss."""
    return Contender(
        candidate_id=candidate_id,
        architecture=small_llama(intermediate_size=candidate_id),
        parameters=100 + candidate_id,
        non_embedding_parameters=candidate_id,
        curve=[CurvePoint(tokens=tokens, loss=loss, kl_to_teacher=loss / 2) for tokens, loss in points],
        state=TrialState(state),
        **changes,
    )


def ranks(contenders: list[Contender]) -> list[tuple[int, int | None]]:
    return [(row.candidate_id, row.rank) for row in leaderboard(contenders)]


def test_the_furthest_come_first_and_then_the_lower_loss() -> None:
    """The highest loss of all leads: it is compared only with those at its own token count."""
    board = [contender(1, (0, 9.0), (10, 2.0)), contender(2, (0, 8.0), (20, 7.0)), contender(3, (0, 7.0), (10, 1.0))]
    assert ranks(board) == [(2, 1), (3, 2), (1, 3)]


def test_only_the_last_measurement_counts() -> None:
    board = [contender(1, (0, 1.0), (10, 1.0), (20, 3.0)), contender(2, (0, 9.0), (10, 9.0), (20, 2.0))]
    assert ranks(board) == [(2, 1), (1, 2)]


def test_equal_losses_keep_the_order_of_enumeration() -> None:
    assert ranks([contender(3, (10, 2.0)), contender(1, (10, 2.0)), contender(2, (10, 2.0))]) == [
        (1, 1),
        (2, 2),
        (3, 3),
    ]


def test_a_loss_that_is_infinite_comes_last_of_its_rung() -> None:
    board = [contender(1, (10, float("inf"))), contender(2, (10, 5.0)), contender(3, (5, 1.0))]
    assert ranks(board) == [(2, 1), (1, 2), (3, 3)]


def test_failed_and_unmeasured_trials_have_no_rank_and_come_last() -> None:
    board = [contender(1, (10, 1.0), state="failed"), contender(2, state="waiting"), contender(3, (10, 2.0))]
    assert ranks(board) == [(3, 1), (1, None), (2, None)]
    assert leaderboard([]) == []


def test_ranks_after_pruning_show_what_retraining_turned_round() -> None:
    board = leaderboard([contender(1, (0, 4.0), (10, 3.0)), contender(2, (0, 5.0), (10, 2.0)), contender(3, (10, 1.0))])
    assert [(row.candidate_id, row.rank, row.rank_after_pruning) for row in board] == [
        (3, 1, None),
        (2, 2, 2),
        (1, 3, 1),
    ]
    assert [row.loss_after_pruning for row in board] == [None, 5.0, 4.0]


def test_ranks_after_pruning_are_over_all_candidates_those_whose_trial_failed_later_too() -> None:
    board = leaderboard([contender(1, (0, 4.0), state="failed"), contender(2, (0, 5.0), (10, 2.0))])
    assert [(row.candidate_id, row.rank, row.rank_after_pruning) for row in board] == [(2, 1, 2), (1, None, 1)]


@pytest.mark.parametrize("state", ["succeeded", "failed"])
def test_a_row_carries_the_candidate_and_its_last_measurement(state: str) -> None:
    (row,) = leaderboard([contender(7, (0, 6.0), (10, 4.0), state=state, reason="a reason")])
    ranked = state != "failed"
    assert row == Standing(
        rank=1 if ranked else None,
        rank_after_pruning=1,
        candidate_id=7,
        architecture=small_llama(intermediate_size=7),
        parameters=107,
        non_embedding_parameters=7,
        tokens=10,
        num_seeds=1,
        loss=4.0,
        loss_after_pruning=6.0,
        kl_to_teacher=2.0,
        state=TrialState(state),
        reason="a reason",
    )


def test_a_mean_is_over_the_trials_that_were_measured_there() -> None:
    """With the seeds of a candidate at different places, and one that was never measured."""
    of_seeds = [{0: 4.0, 10: 3.0, 20: 2.0}, {0: 5.0, 10: 2.0}, {}]
    trials = [[CurvePoint(tokens=t, loss=x, kl_to_teacher=x / 4) for t, x in losses.items()] for losses in of_seeds]
    found = [(point.tokens, point.loss, point.kl_to_teacher, point.num_seeds) for point in mean_curve(trials)]
    assert found == [(0, 4.5, 1.125, 2), (10, 2.5, 0.625, 2), (20, 2.0, 0.5, 1)]
    assert mean_curve([]) == ()


def test_a_row_of_a_trial_that_was_never_measured_claims_nothing() -> None:
    (row,) = leaderboard([contender(7, state="waiting")])
    assert (row.tokens, row.loss, row.loss_after_pruning, row.kl_to_teacher) == (0, None, None, None)
    assert (row.rank, row.rank_after_pruning) == (None, None)


curves = st.lists(st.sampled_from([1.0, 2.0, 3.0]), max_size=3).map(
    lambda losses: tuple((10 * rung, loss) for rung, loss in enumerate(losses))
)


def beats(one: Contender, other: Contender, *, at: int) -> bool:
    """Whether `one` is ahead at the last point of both curves, or at their first."""
    a, b = one.curve[at], other.curve[at]
    if a.tokens != b.tokens:
        return a.tokens > b.tokens
    return a.loss < b.loss or (a.loss == b.loss and one.candidate_id < other.candidate_id)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.lists(curves, max_size=6), st.randoms(use_true_random=False))
def test_a_rank_is_one_more_than_the_number_that_beat_it(
    drawn: list[tuple[tuple[int, float], ...]], random: Any
) -> None:
    contenders = [contender(candidate_id, *curve) for candidate_id, curve in enumerate(drawn, start=1)]
    random.shuffle(contenders)
    measured = [c for c in contenders if c.curve]
    rows = {row.candidate_id: row for row in leaderboard(contenders)}
    for each in measured:
        row = rows[each.candidate_id]
        assert row.rank == 1 + sum(beats(other, each, at=-1) for other in measured)
        assert row.rank_after_pruning == 1 + sum(beats(other, each, at=0) for other in measured)
    assert [row.rank for row in rows.values()] == [*range(1, len(measured) + 1), *[None] * (len(rows) - len(measured))]


# --- how sure it is -----------------------------------------------------------------------------------------


def sure(*states: TrialState, stopped: dict[int, Lag] | None = None) -> list[Standing]:
    """Two at the end, nearly equal, and behind them, with fewer tokens, one in each of these states."""
    losses = {0: 3.0, 1: 3.001}
    rows = [contender(i + 1, (0, 4.0), (200, loss), state="succeeded") for i, loss in losses.items()]
    rows += [contender(10 + i, (0, 4.0), (100, 3.5), state=state) for i, state in enumerate(states)]
    measured = {i + 1: Measured((loss,)) for i, loss in losses.items()}
    return told_how_sure(leaderboard(rows), measured, stopped or {}, 0.004)


def test_those_at_the_end_are_told_apart_or_not_and_those_behind_are_left_alone() -> None:
    first, second, behind = sure(TrialState.STOPPED)
    assert (first.ties, second.ties, behind.ties) == ((1, 2), (1, 2), None)
    assert (first.probability_best or 0) + (second.probability_best or 0) == pytest.approx(1)
    assert second.error == pytest.approx(0.004 * 2**0.5)
    assert behind.probability_best is None
    *_, behind = sure(TrialState.STOPPED, stopped={10: Lag(0.0, 0.004)})
    assert 0.2 < (behind.probability_best or 0) < 0.5


@pytest.mark.parametrize("state", [TrialState.RUNNING, TrialState.QUEUED, TrialState.WAITING])
def test_nothing_is_sure_while_others_are_on_their_way(state: TrialState) -> None:
    assert all(row.probability_best is None and row.ties is None for row in sure(state, TrialState.STOPPED))


# --- at common tokens ---------------------------------------------------------------------------------------


def test_what_most_have_come_to_is_compared_there() -> None:
    """One at the end, one stopped at 200, two at 100, one not measured: half of the four ranked have come to 200."""
    board = [
        contender(1, (0, 9.0), (100, 5.0), (200, 4.0), (400, 2.0)),
        contender(2, (0, 9.0), (100, 4.0), (200, 4.5)),
        contender(3, (0, 8.0), (100, 6.0)),
        contender(4, (0, 7.0), (100, 7.0)),
        contender(5),
    ]
    rows = leaderboard(board)
    found = at_common_tokens(rows, {each.candidate_id: list(each.curve) for each in board})
    assert [(row.candidate_id, row.rank, row.tokens, row.loss) for row in found] == [
        (1, 1, 200, 4.0),
        (2, 2, 200, 4.5),
        (3, 3, 100, 6.0),
        (4, 4, 100, 7.0),
        (5, None, 0, None),
    ]
    assert [row.candidate_id for row in level(found)] == [1, 2]
    assert at_common_tokens(leaderboard([contender(5)]), {}) == leaderboard([contender(5)])
