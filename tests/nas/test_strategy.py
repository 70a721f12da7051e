"""Strategies decide from the set of results, and say nothing twice."""

from dataclasses import replace
from itertools import permutations

from nas.strategy import Advance, TrialHistory, exhaustive

FULL = 1000
FRESH = TrialHistory(trial_id=1, told_tokens=0, tokens=0, loss=None, failed=False)
PART = TrialHistory(trial_id=2, told_tokens=400, tokens=400, loss=3.0, failed=False)
TOLD = TrialHistory(trial_id=3, told_tokens=FULL, tokens=400, loss=2.0, failed=False)
DONE = TrialHistory(trial_id=4, told_tokens=FULL, tokens=FULL, loss=1.0, failed=False)
FAILED = TrialHistory(trial_id=5, told_tokens=FULL, tokens=0, loss=None, failed=True)
HISTORY = (FRESH, PART, TOLD, DONE, FAILED)


def test_every_trial_gets_the_full_retraining_whatever_its_loss() -> None:
    assert exhaustive(HISTORY, FULL) == [Advance(1, FULL), Advance(2, FULL)]


def test_the_order_of_the_history_does_not_matter() -> None:
    decided = {frozenset(exhaustive(history, FULL)) for history in permutations(HISTORY)}
    assert decided == {frozenset({Advance(1, FULL), Advance(2, FULL)})}


def test_what_was_said_is_not_said_again() -> None:
    told = [replace(trial, told_tokens=FULL) for trial in HISTORY]
    assert exhaustive(told, FULL) == []
    assert exhaustive([], FULL) == []
