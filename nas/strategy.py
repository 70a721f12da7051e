"""Strategies: from what is on record of every trial to what each should do next.

A strategy may be asked at any time, and says nothing when there is nothing new. It decides from the set of results,
never from the order of arrival, so a search decides the same whatever died on the way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class TrialHistory:
    """What a strategy may know of a trial: how far it was told to go, how far it is, and its loss there."""

    trial_id: int
    told_tokens: int
    tokens: int
    loss: float | None
    failed: bool


@dataclass(frozen=True)
class Advance:
    """Retrain until the trial has seen this many tokens in all."""

    trial_id: int
    until_tokens: int


@dataclass(frozen=True)
class Stop:
    """Give the trial no more tokens."""

    trial_id: int
    reason: str


Decision = Advance | Stop
Strategy = Callable[[Sequence[TrialHistory], int], list[Decision]]
"""(history, tokens of a full trial) -> decisions; none when there is nothing new to say."""


def exhaustive(history: Sequence[TrialHistory], full_tokens: int) -> list[Decision]:
    """The paper's: every candidate gets the same full light retraining (P1, section 2.3)."""
    return [Advance(trial.trial_id, full_tokens) for trial in history if trial.told_tokens < full_tokens]
