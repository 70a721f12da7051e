"""Strategies: from what is on record of every trial to what each should do next.

A strategy may be asked at any time, and says nothing when there is nothing new. It decides from the set of results,
never from the order of arrival, so a search decides the same whatever died on the way.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TrialHistory:
    """What a strategy may know of a trial: how far it was told to go, whether it was stopped, and its curve.

    `losses` are by tokens, in nats per token; `sequences` are those of every validation sequence, (Q,), where a
    strategy compares: at the tokens up to which the trial was told to go.
    """

    trial_id: int
    candidate_id: int
    told_tokens: int
    tokens: int
    losses: Mapping[int, float] = field(default_factory=dict)
    sequences: NDArray[np.float32] | None = None
    failed: bool = False
    stopped: bool = False

    @property
    def is_alive(self) -> bool:
        return not (self.failed or self.stopped)


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


@dataclass(frozen=True)
class Ladder:
    """The tokens at which trials wait for each other: `rungs`, where candidates may leave, and `ends`.

    The first of `ends` is that of the spec's trials, over which rungs are shares; the others are those of extensions.
    """

    rungs: tuple[int, ...]
    ends: tuple[int, ...]

    def after(self, tokens: int) -> int | None:
        """The next place to wait behind so many tokens; None at the end."""
        return next((place for place in (*self.rungs, *self.ends) if place > tokens), None)

    @property
    def full_tokens(self) -> int:
        """Of a trial that goes to the end of the spec's budget."""
        return self.ends[0]


Cohort = Mapping[int, Sequence[TrialHistory]]
"""By candidate, its trials, one for each seed."""

Judge = Callable[[Cohort, Cohort, int, int], Mapping[int, str]]
"""(candidates at a rung; these and all that were ever measured there and still run; the rung's tokens; those of a full
trial) -> who of the first leaves, and why."""


def exhaustive(history: Sequence[TrialHistory], full_tokens: int) -> list[Decision]:
    """The paper's: every candidate gets the same full light retraining (P1, section 2.3)."""
    return [Advance(trial.trial_id, full_tokens) for trial in history if trial.told_tokens < full_tokens]


def by_rungs(history: Sequence[TrialHistory], ladder: Ladder, judge: Judge) -> list[Decision]:
    """Takes all trials from rung to rung together, and gives up the candidates that `judge` sends away.

    Trials that are behind, since an extension added them, catch up first. A candidate's trials go together.
    """
    alive = sorted((trial for trial in history if trial.is_alive), key=lambda trial: trial.trial_id)
    if any(trial.tokens < trial.told_tokens for trial in alive) or not alive:
        return []
    place = min(trial.told_tokens for trial in alive)
    following = ladder.after(place)
    if following is None:
        return []
    behind = [trial for trial in alive if trial.told_tokens == place]
    leaving = _leaving(behind, alive, place, ladder, judge)
    return [
        Stop(trial.trial_id, leaving[trial.candidate_id])
        if trial.candidate_id in leaving
        else Advance(trial.trial_id, following)
        for trial in behind
    ]


def _leaving(
    behind: Sequence[TrialHistory], alive: Sequence[TrialHistory], place: int, ladder: Ladder, judge: Judge
) -> Mapping[int, str]:
    if place not in ladder.rungs:
        return {}
    there = [trial for trial in alive if place in trial.losses]
    # Who has once come to the end is not given up for a later seed: its loss is to be a mean.
    at_end = {trial.candidate_id for trial in alive if trial.tokens >= ladder.full_tokens}
    leaving = judge(_by_candidate(behind), _by_candidate(there), place, ladder.full_tokens)
    return {candidate_id: why for candidate_id, why in leaving.items() if candidate_id not in at_end}


def _by_candidate(trials: Sequence[TrialHistory]) -> Cohort:
    found: dict[int, list[TrialHistory]] = {}
    for trial in trials:
        found.setdefault(trial.candidate_id, []).append(trial)
    return found
