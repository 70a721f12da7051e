"""How sure a ranking is, against formulas of statistics and against counting."""

from statistics import NormalDist

import numpy as np
import pytest

from nas.certainty import MOST_LEADERS, Measured, certainty, size_adjusted
from nas.racing import Lag
from nas.standard_errors import paired_variance, run_variance


def measured(*losses: float) -> list[Measured]:
    return [Measured((loss,)) for loss in losses]


def test_of_two_the_probability_is_that_of_their_normal_difference() -> None:
    run, behind = 0.004, 0.006
    (first, second), _ = certainty(measured(3.0, 3.0 + behind), run)
    expected = NormalDist(sigma=2**0.5 * run).cdf(behind)
    assert first.probability_best == pytest.approx(expected, abs=0.02)
    assert first.probability_best + second.probability_best == pytest.approx(1)
    assert first.error == 0.0
    assert second.error == pytest.approx(2**0.5 * run)


def test_equal_ones_share_it_and_the_same_history_is_told_the_same() -> None:
    found, _ = certainty(measured(*[3.0] * 4), 0.004)
    assert [each.probability_best for each in found] == pytest.approx([0.25] * 4, abs=0.03)
    assert found == certainty(measured(*[3.0] * 4), 0.004)[0]


def test_who_was_stopped_could_have_been_the_best() -> None:
    """A single one at the end is not sure of its place: it is what the normal distribution leaves to the other."""
    (only,), (stopped,) = certainty(measured(3.0), 0.004, [Lag(nats=0.01, error=0.008)])
    assert stopped == pytest.approx(NormalDist(0.01, 0.008).cdf(0), abs=0.02)
    assert only.probability_best == pytest.approx(1 - stopped)


def test_sequences_count_paired() -> None:
    """What is hard for both cancels: only what is left of the difference makes an error."""
    random = np.random.default_rng(0)
    common = random.normal(3, 1, 400)
    own = random.normal(0.01, 0.02, 400)
    pair = [Measured((float(each.mean()),), (each.astype(np.float32),)) for each in (common, common + own)]
    (_, second), _ = certainty(pair, 0.0)
    expected = own.std(ddof=1) / 400**0.5
    assert second.error == pytest.approx(expected, rel=1e-3)
    assert paired_variance(*(each.sequences for each in pair)) == pytest.approx(expected**2, rel=1e-3)


def test_ties_are_groups_from_the_top() -> None:
    run = 0.004  # A tie reaches 2 sqrt(2) run = 0.0113 from the first of its group.
    found, _ = certainty(measured(3.0, 3.005, 3.011, 3.012, 3.02, 3.1), run)
    assert [each.ties for each in found] == [(1, 3), (1, 3), (1, 3), (4, 5), (4, 5), (6, 6)]


def test_only_the_first_are_told_of() -> None:
    assert len(certainty(measured(*[3 + i / 100 for i in range(100)]), 0.004)[0]) == MOST_LEADERS
    assert certainty([], 0.004) == ([], [])


def test_the_variance_of_seeds_is_pooled_with_the_prior() -> None:
    assert run_variance([3.0], 0.01) == pytest.approx(1e-4)
    assert run_variance([3.0, 3.0], 0.01) == pytest.approx(1e-4 / 2 / 2)
    assert run_variance([2.9, 3.0, 3.1], 0.01) == pytest.approx((2 * 0.01 + 1e-4) / 3 / 3)


def test_other_numbers_of_sequences_do_not_pair() -> None:
    assert paired_variance([np.ones(4, np.float32)], [np.ones(5, np.float32)]) == 0.0
    assert paired_variance([], [np.ones(5, np.float32)]) == 0.0


def test_the_size_adjusted_loss_is_what_a_line_over_log_parameters_leaves() -> None:
    parameters = [1_000, 1_100, 1_300, 1_500]
    rests = np.array([0.01, -0.02, 0.0, 0.01])
    losses = 3 - 0.5 * np.log(parameters) + rests
    slope, _ = np.polyfit(np.log(parameters), losses, 1)
    expected = losses - slope * (np.log(parameters) - np.log(parameters).mean())
    assert size_adjusted(losses.tolist(), parameters) == pytest.approx(expected.tolist(), rel=1e-10)


def test_sizes_that_are_all_alike_or_too_few_explain_nothing() -> None:
    assert size_adjusted([1.0, 2.0, 3.0, 4.0], [7, 7, 7, 7]) is None
    assert size_adjusted([1.0, 2.0, 3.0], [7, 8, 9]) is None
