"""Racing: who leaves, held against curves whose end is known and against least squares by numpy."""

from collections.abc import Sequence

import numpy as np
import pytest

from nas.racing import DOUBT, headings, racing
from nas.strategy import Advance, Decision, Ladder, Stop, TrialHistory, by_rungs

FULL, QUARTER = 1_000, 250
LADDER = Ladder(rungs=(QUARTER, 500), ends=(FULL,))
COMMON = {125: 3.4, QUARTER: 3.1}
"""What all curves have in common, of no particular form."""


def history(ends: Sequence[float], falls: Sequence[float], *, num_sequences: int = 64) -> list[TrialHistory]:
    """Curves that are `ends` apart at the end, and before it fall by `falls` times 1 / sqrt(t) - 1, without noise."""
    rows = []
    for i, (end, fall) in enumerate(zip(ends, falls, strict=True)):
        losses = {tokens: base + end + fall * ((FULL / tokens) ** 0.5 - 1) for tokens, base in COMMON.items()}
        sequences = np.full(num_sequences, losses[QUARTER], dtype=np.float32)
        rows.append(
            TrialHistory(
                trial_id=i,
                candidate_id=i,
                told_tokens=QUARTER,
                tokens=QUARTER,
                losses=losses,
                sequences=sequences + np.linspace(-1, 1, num_sequences, dtype=np.float32),
            )
        )
    return rows


def raced(rows: Sequence[TrialHistory], confidence: float = 0.95, run_to_run: float = 0.004) -> list[Decision]:
    return by_rungs(rows, LADDER, racing(confidence, run_to_run))


def stopped(decisions: Sequence[Decision]) -> set[int]:
    return {each.trial_id for each in decisions if isinstance(each, Stop)}


def test_headings_are_least_squares_on_one_over_the_root_of_the_tokens() -> None:
    random = np.random.default_rng(0)
    shares, losses = np.array([0.125, 0.25, 0.375, 0.5]), random.normal(3, 0.1, (5, 4))
    found = headings(shares, losses, 0.0)
    design = np.stack([np.ones(4), shares**-0.5], axis=1)
    distances = losses - losses.mean(axis=0)
    coefficients, residuals, *_ = np.linalg.lstsq(design, distances.T, rcond=None)
    np.testing.assert_allclose(found.ends_C, coefficients.sum(axis=0), rtol=1e-10)
    np.testing.assert_allclose(found.moves_C, coefficients.sum(axis=0) - distances[:, -1], rtol=1e-10)
    at_end = np.ones(2)
    carried = at_end @ np.linalg.inv(design.T @ design) @ at_end
    assert found.variance == pytest.approx(residuals.sum() / (4 * 2) * carried, rel=1e-10)


def test_what_all_curves_have_in_common_makes_no_difference() -> None:
    shares, losses = np.array([0.125, 0.25, 0.5]), np.random.default_rng(1).normal(3, 0.1, (4, 3))
    moved = headings(shares, np.add(losses, [0.7, -0.2, 0.1]), 0.004)
    np.testing.assert_allclose(moved.ends_C, headings(shares, losses, 0.004).ends_C, atol=1e-12)


def test_who_is_far_behind_leaves_and_who_is_near_stays() -> None:
    decisions = raced(history(ends=[0, 0.002, 0.2, 0.3], falls=[0.05] * 4))
    assert stopped(decisions) == {2, 3}
    assert [each for each in decisions if isinstance(each, Advance)] == [Advance(0, 500), Advance(1, 500)]


def test_who_is_behind_now_but_falls_faster_stays() -> None:
    """0.1 behind the best at the rung, and on the way to its side; of equal distance, the one that does not fall."""
    rows = history(ends=[0, 0.0, 0.1], falls=[0.05, 0.15, 0.05])
    behind = [each.losses[QUARTER] - rows[0].losses[QUARTER] for each in rows]
    assert behind[1] == pytest.approx(behind[2])
    assert stopped(raced(rows)) == {2}


def test_the_threshold_is_that_of_the_formula() -> None:
    """Of two curves that fall alike only the lines' own error, the runs' and the sequences' count; here those are 0."""
    run, z = 0.004, 1.6448536269514722
    x = np.array([8.0, 4.0]) ** 0.5
    carried = 1 / 2 + (1 - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
    limit = z * (2 * run**2 * carried + 2 * run**2) ** 0.5
    for behind, leaves in ((limit * 0.99, set()), (limit * 1.01, {1})):
        assert stopped(raced(history(ends=[0, behind], falls=[0, 0]))) == leaves


def test_movement_to_come_is_doubted_in_proportion() -> None:
    """Heading for the same distance, the one with more still to move needs more of it to be sent away."""
    moving = DOUBT * 0.3  # (1 / sqrt(1/4) - 1) is 1: the fall is what is still to come.
    assert stopped(raced(history(ends=[0, 0.1, 0.1], falls=[0, 0, 0.3]))) == {1}
    assert stopped(raced(history(ends=[0, 1.7 * moving], falls=[0, 0.3]))) == {1}


def test_nobody_leaves_by_a_single_point_nor_alone() -> None:
    rows = history(ends=[0, 1], falls=[0, 0])
    only = [TrialHistory(**{**each.__dict__, "losses": {QUARTER: each.losses[QUARTER]}}) for each in rows]
    assert stopped(raced(only)) == set()
    assert stopped(raced(rows[1:])) == set()


def test_noise_over_sequences_keeps_a_candidate_that_seeds_alone_would_send_away() -> None:
    rows = history(ends=[0, 0.05], falls=[0, 0], num_sequences=16)
    noisy = rows[1].sequences
    assert noisy is not None
    noisy += np.resize(np.array([0.4, -0.4], dtype=np.float32), 16)  # 0.1 of a standard error, over 16.
    assert stopped(raced(history(ends=[0, 0.05], falls=[0, 0], num_sequences=16))) == {1}
    assert stopped(raced(rows)) == set()


def test_more_confidence_sends_fewer_away_and_the_reason_says_how_far_behind() -> None:
    rows = history(ends=[i * 0.008 for i in range(12)], falls=[0.02] * 12)
    left = [stopped(raced(rows, confidence)) for confidence in (0.8, 0.95, 0.999)]
    assert left[0] > left[1] > left[2]
    reason = next(each.reason for each in raced(rows) if isinstance(each, Stop) and each.trial_id == 11)
    assert reason.startswith("heading for 0.0880 nats behind the best, ± ")
    assert reason.endswith("after 250 tokens")


def test_as_many_as_are_to_be_promoted_are_left() -> None:
    """Behind the last of them counts, not behind the first."""
    rows = history(ends=[0, 0.2, 0.4, 0.6], falls=[0.05] * 4)
    for at_least, left in ((1, {0}), (2, {0, 1}), (3, {0, 1, 2}), (9, {0, 1, 2, 3})):
        decisions = by_rungs(rows, LADDER, racing(0.95, 0.004, at_least))
        assert {each.trial_id for each in decisions if isinstance(each, Advance)} == left
