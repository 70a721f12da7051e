"""How sure a ranking is: standard errors, ties, the probability of being best, and what size alone would give."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nas.racing import Lag
from nas.standard_errors import Sequences, run_variance

TOLD_APART = 2.0
"""Standard errors of the difference between two losses from which on they are not called a tie."""

MOST_LEADERS = 48
"""Candidates that a probability of being best is worked out for; those behind them have none worth telling."""

_DRAWS = 4_000


@dataclass(frozen=True)
class Measured:
    """A candidate's losses at the tokens at which it is ranked: of every seed, and of every sequence for every seed."""

    losses: tuple[float, ...]
    sequences: Sequences = ()


@dataclass(frozen=True)
class Certainty:
    """`error` is the standard error of the loss's difference to the first's, in nats per token.

    `ties` are the first and the last place of those that cannot be told apart from each other by their first.
    """

    error: float
    ties: tuple[int, int]
    probability_best: float


def certainty(
    ranked: Sequence[Measured], run_to_run: float, stopped: Sequence[Lag] = ()
) -> tuple[list[Certainty], list[float]]:
    """Of candidates in the order of their mean losses, measured at equal tokens; the first MOST_LEADERS of them.

    Losses are taken for normal, with the paired covariance over validation sequences and, beside it, each one's own
    variance between runs; `run_to_run` is the standard deviation of a single run where seeds do not tell. Those that
    were `stopped` on the way could have been the best, too: the second list are their probabilities.
    """
    ranked = ranked[:MOST_LEADERS]
    if not ranked:
        return [], []
    means_C = np.array([np.mean(each.losses) for each in ranked])
    covariance_CC = _over_sequences(ranked) + np.diag([run_variance(each.losses, run_to_run) for each in ranked])
    errors_C = _errors_to(0, covariance_CC)
    # Always the same draws: the same history is told in the same words.
    random = np.random.default_rng(0)
    drawn = random.multivariate_normal(means_C, covariance_CC, _DRAWS, method="eigh")
    # Known is how far they are behind the first, which in each draw is where it is.
    others = [drawn[:, 0] + random.normal(lag.nats, lag.error, _DRAWS) for lag in stopped]
    lowest = np.column_stack([drawn, *others]).argmin(axis=1)
    probabilities = (np.bincount(lowest, minlength=len(ranked) + len(stopped)) / _DRAWS).tolist()
    told = [
        Certainty(error=float(error), ties=place, probability_best=probability)
        for error, place, probability in zip(errors_C, _ties(means_C, covariance_CC), probabilities, strict=False)
    ]
    return told, probabilities[len(ranked) :]


def _over_sequences(ranked: Sequence[Measured]) -> NDArray[np.float64]:
    """The covariance of means over the sequences that all were measured on; nothing where these are not known."""
    lengths = {len(losses_Q) for each in ranked for losses_Q in each.sequences}
    known = all(each.sequences for each in ranked) and len(lengths) == 1
    if not known or max(lengths) < 2:
        return np.zeros((len(ranked), len(ranked)))
    losses_CQ = np.array([np.stack(each.sequences).mean(axis=0, dtype=np.float64) for each in ranked])
    covariance_CC: NDArray[np.float64] = np.atleast_2d(np.cov(losses_CQ)) / losses_CQ.shape[1]
    return covariance_CC


def _errors_to(i: int, covariance_CC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the differences to candidate i."""
    own_C = np.diag(covariance_CC)
    variance_C = np.maximum(own_C + own_C[i] - 2 * covariance_CC[i], 0.0)
    variance_C[i] = 0.0
    errors_C: NDArray[np.float64] = np.sqrt(variance_C)
    return errors_C


def _ties(means_C: NDArray[np.float64], covariance_CC: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Groups from the top: the first, and all behind it without a gap that cannot be told apart from it."""
    ties: list[tuple[int, int]] = []
    while len(ties) < len(means_C):
        first = len(ties)
        near_C = means_C - means_C[first] <= TOLD_APART * _errors_to(first, covariance_CC)
        last = next((i for i in range(first + 1, len(means_C)) if not near_C[i]), len(means_C)) - 1
        ties += [(first + 1, last + 1)] * (last - first + 1)
    return ties


def size_adjusted(losses: Sequence[float], parameters: Sequence[int]) -> list[float] | None:
    """Each loss less what its size alone explains: the line of losses over log(parameters), taken at their mean.

    The largest candidate within a budget has a head start. None for fewer than four, or where all are of a size.
    """
    log_sizes = np.log(np.array(parameters, dtype=np.float64))
    centered = log_sizes - log_sizes.mean()
    spread = float(centered @ centered)
    if len(losses) < 4 or spread < 1e-12:
        return None
    slope = float(centered @ np.array(losses)) / spread
    return [float(loss - slope * distance) for loss, distance in zip(losses, centered, strict=True)]
