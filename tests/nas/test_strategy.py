"""Strategies decide from the set of results, say nothing twice, and go from rung to rung together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from nas.halving import halving
from nas.strategy import Advance, Cohort, Decision, Ladder, Stop, TrialHistory, by_rungs, exhaustive

FULL = 1000
FRESH = TrialHistory(trial_id=1, candidate_id=1, told_tokens=0, tokens=0)
PART = TrialHistory(trial_id=2, candidate_id=2, told_tokens=400, tokens=400, losses={400: 3.0})
TOLD = TrialHistory(trial_id=3, candidate_id=3, told_tokens=FULL, tokens=400, losses={400: 2.0})
DONE = TrialHistory(trial_id=4, candidate_id=4, told_tokens=FULL, tokens=FULL, losses={FULL: 1.0})
FAILED = TrialHistory(trial_id=5, candidate_id=5, told_tokens=FULL, tokens=0, failed=True)
HISTORY = (FRESH, PART, TOLD, DONE, FAILED)
LADDER = Ladder(rungs=(250, 500), ends=(FULL,))


def test_every_trial_gets_the_full_retraining_whatever_its_loss() -> None:
    assert exhaustive(HISTORY, FULL) == [Advance(1, FULL), Advance(2, FULL)]


def test_the_order_of_the_history_does_not_matter() -> None:
    decided = {frozenset(exhaustive(history, FULL)) for history in permutations(HISTORY)}
    assert decided == {frozenset({Advance(1, FULL), Advance(2, FULL)})}


def test_what_was_said_is_not_said_again() -> None:
    told = [replace(trial, told_tokens=FULL) for trial in HISTORY]
    assert exhaustive(told, FULL) == []
    assert exhaustive([], FULL) == []


# --- from rung to rung --------------------------------------------------------------------------------------


def at(place: int, losses: Mapping[int, float]) -> list[TrialHistory]:
    """Candidates by number that have come to a rung with these losses."""
    return [
        TrialHistory(trial_id=10 + i, candidate_id=i, told_tokens=place, tokens=place, losses={place: loss})
        for i, loss in losses.items()
    ]


def halved(history: Sequence[TrialHistory], ladder: Ladder = LADDER) -> list[Decision]:
    return by_rungs(history, ladder, halving(0.5))


def test_half_of_five_is_three_and_the_others_leave_with_a_reason() -> None:
    decided = halved(at(250, {1: 3.0, 2: 2.0, 3: 5.0, 4: 4.0, 5: 1.0}))
    assert [each for each in decided if isinstance(each, Advance)] == [
        Advance(11, 500),
        Advance(12, 500),
        Advance(15, 500),
    ]
    reason = "not among the 3 of 5 with the lowest loss after 250 tokens"
    assert [each for each in decided if isinstance(each, Stop)] == [Stop(13, reason), Stop(14, reason)]


def test_of_equal_losses_the_first_listed_goes_on() -> None:
    assert halved(at(250, {2: 1.0, 1: 1.0}))[0] == Advance(11, 500)


def test_nobody_leaves_at_the_start_and_all_begin_together() -> None:
    assert halved([replace(FRESH, trial_id=i, candidate_id=i) for i in (1, 2)]) == [Advance(1, 250), Advance(2, 250)]


def test_at_a_rung_all_wait_for_the_slowest_but_not_for_who_failed_or_was_stopped() -> None:
    there = at(250, {1: 1.0, 2: 2.0})
    slow = replace(FRESH, trial_id=20, candidate_id=20, told_tokens=250)
    assert halved([*there, slow]) == []
    for gone in (replace(slow, failed=True), replace(slow, stopped=True)):
        assert halved([*there, gone]) == halved(there)


def test_all_orders_of_the_history_decide_the_same() -> None:
    history = at(250, {1: 3.0, 2: 1.0, 3: 2.0, 4: 1.0})
    assert len({tuple(halved(order)) for order in permutations(history)}) == 1


def test_behind_the_last_rung_comes_the_end_and_behind_that_nothing() -> None:
    assert halved(at(500, {1: 1.0})) == [Advance(11, FULL)]
    assert halved(at(FULL, {1: 1.0, 2: 2.0})) == []


def test_an_extension_takes_those_who_are_left_further_and_none_of_them_leaves() -> None:
    extended = replace(LADDER, ends=(FULL, 1800))
    assert halved(at(FULL, {1: 1.0, 2: 2.0}), extended) == [Advance(11, 1800), Advance(12, 1800)]


def test_seeds_of_a_candidate_count_by_their_mean_and_go_together() -> None:
    seeds = [
        TrialHistory(trial_id=i, candidate_id=i // 2, told_tokens=250, tokens=250, losses={250: loss})
        for i, loss in {2: 1.0, 3: 9.0, 4: 4.0, 5: 4.5}.items()
    ]
    decided = halved(seeds)
    assert [type(each) for each in decided] == [Stop, Stop, Advance, Advance]


def test_who_is_added_later_is_judged_at_the_same_rung_beside_those_who_have_passed_it() -> None:
    ahead = [replace(each, told_tokens=FULL, tokens=FULL) for each in at(250, {1: 1.0, 2: 2.0})]
    late = at(250, {3: 1.5, 4: 3.0})
    seen: list[tuple[list[int], list[int]]] = []

    def judge(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
        seen.append((sorted(behind), sorted(there)))
        return halving(0.5)(behind, there, place, full_tokens)

    decided = by_rungs([*ahead, *late], LADDER, judge)
    assert seen == [([3, 4], [1, 2, 3, 4])]
    assert [type(each) for each in decided] == [Advance, Stop]


@pytest.mark.parametrize("share", [0.1, 0.34, 0.5, 0.9])
def test_the_best_at_a_rung_never_leaves(share: float) -> None:
    losses = {i: float(loss) for i, loss in enumerate(np.random.default_rng(0).permutation(24))}
    decided = by_rungs(at(250, losses), LADDER, halving(share))
    going_on = {each.trial_id for each in decided if isinstance(each, Advance)}
    assert 10 + min(losses, key=losses.__getitem__) in going_on
    assert len(going_on) == -(-24 * round(share * 100) // 100)
