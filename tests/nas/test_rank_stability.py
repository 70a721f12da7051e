"""Kendall's tau against scipy's, and which points are compared."""

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas.rank_stability import kendall_tau, rank_movements
from nas.ranking import CurvePoint


def curve(*losses: float) -> list[CurvePoint]:
    return [CurvePoint(tokens=100 * i, loss=loss, kl_to_teacher=0.0) for i, loss in enumerate(losses)]


@pytest.mark.parametrize("levels", [4, 1000])
def test_tau_is_scipys_with_ties_and_without(levels: int) -> None:
    first, second = np.random.default_rng(levels).integers(levels, size=(2, 40)).astype(float)
    assert kendall_tau(first.tolist(), second.tolist()) == pytest.approx(kendalltau(first, second).statistic, abs=1e-12)


def test_nothing_in_order_is_zero() -> None:
    assert kendall_tau([1.0, 1.0], [1.0, 2.0]) == 0.0


def test_successive_points_are_compared_among_those_that_were_at_both() -> None:
    found = rank_movements(
        {1: curve(3.0, 2.0, 1.0), 2: curve(4.0, 3.0, 1.1), 3: curve(5.0, 1.0, 1.2), 4: curve(6.0, 9.0)}
    )
    assert [(each.before, each.after, each.num_candidates) for each in found] == [(0, 100, 4), (100, 200, 3)]
    # 1 2 3 4 becomes 2 3 1 4, and of the first three 2 3 1 becomes 1 2 3.
    assert [each.tau for each in found] == pytest.approx([1 / 3, -1 / 3])


def test_two_candidates_have_no_order_to_speak_of() -> None:
    assert rank_movements({1: curve(3.0, 2.0), 2: curve(4.0, 3.0)}) == ()
