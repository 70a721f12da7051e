"""Racing: a candidate leaves at a rung once it is surely behind the best, with what is still to come allowed for.

Early in a retraining ranks still move: who lost most by pruning gains most. So candidates are compared not where they
stand, but where they are heading. What all curves have in common, such as the learning rate's course, goes out with
their mean; each one's distance from it is taken for a straight line in 1 / sqrt(t), t being the share of the tokens:

    d_i(t) = a_i + b_i / sqrt(t), heading for a_i + b_i

Who is behind the best by more than z standard errors leaves. docs/method.md states what these combine.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np
from numpy.typing import NDArray

from nas.standard_errors import paired_variance, run_variance
from nas.strategy import Cohort, Judge, TrialHistory

DOUBT = 0.5
"""The standard deviation of the movement still to come, as a share of what is predicted of it.

Chosen on the tuning draws of benchmarks/search_regret: curves are not quite lines.
"""

EARLIEST = 1 / 8
"""Points count from this share of a rung's tokens on: right after pruning, curves fall in ways of their own."""


@dataclass(frozen=True)
class Headings:
    """Where C candidates are heading, less their mean, in nats per token.

    `ends_C` are the predicted distances, `moves_C` what of them is still to come, and `variance` is that of the lines'
    ends for the scatter of the points about them.
    """

    ends_C: NDArray[np.float64]
    moves_C: NDArray[np.float64]
    variance: float


@dataclass(frozen=True)
class Lag:
    """How far a candidate is heading behind another, and the standard error of that."""

    nats: float
    error: float


def headings(shares_K: NDArray[np.float64], losses_CK: NDArray[np.float64], point_error: float) -> Headings:
    """Of curves at K shares of the tokens, two at least; points scatter by `point_error`, or more if they are seen to.

    Least squares of every candidate's distances on x = 1 / sqrt(t), at x = 1.
    """
    distances_CK = losses_CK - losses_CK.mean(axis=0)
    means_C1 = distances_CK.mean(axis=1, keepdims=True)
    x_K = shares_K**-0.5
    centered_K, to_end = x_K - x_K.mean(), 1 - float(x_K.mean())
    spread = float(centered_K @ centered_K)
    slopes_C = distances_CK @ centered_K / spread
    ends_C = means_C1[:, 0] + slopes_C * to_end
    residuals_CK = distances_CK - means_C1 - slopes_C[:, None] * centered_K
    # Distances from a mean add up to nothing, so one of the candidates is not free; nor are two points of each line.
    num_candidates, num_points = residuals_CK.shape
    scatter = float((residuals_CK**2).sum()) / max((num_candidates - 1) * (num_points - 2), 1)
    variance = max(scatter, point_error**2) * (1 / len(x_K) + to_end**2 / spread)
    return Headings(ends_C, ends_C - distances_CK[:, -1], variance)


def racing(confidence: float, run_to_run: float, at_least: int = 1) -> Judge:
    """Sends away who is behind by `confidence`, a one-sided probability; `run_to_run` as in StrategySpec.

    Behind the best, or, where `at_least` so many are to be left, behind the last of as many that head for the lowest.
    Nobody leaves before there are two points to draw a line through.
    """
    z = NormalDist().inv_cdf(confidence)

    def judge(behind: Cohort, there: Cohort, place: int, full_tokens: int) -> Mapping[int, str]:
        found = lags(there, place, full_tokens, run_to_run)
        whom = "the best" if at_least == 1 else f"the {at_least} best"
        if found and at_least > 1:
            last = sorted(found, key=lambda each: (found[each].nats, each))[:at_least][-1]
            found = lags(there, place, full_tokens, run_to_run, last)
        return {
            each: f"heading for {lag.nats:.4f} nats behind {whom}, ± {lag.error:.4f}, after {place:,} tokens"
            for each, lag in found.items()
            if each in behind and lag.nats > z * lag.error
        }

    return judge


def lags(there: Cohort, place: int, full_tokens: int, run_to_run: float, leader: int | None = None) -> dict[int, Lag]:
    """How far each candidate's heading is behind that of the leader, by default the lowest.

    `there` are those that were measured at `place` tokens, the leader among them. Empty for fewer than two of them, or
    fewer than two points to draw a line through.
    """
    ids, points = sorted(there), _points(there, place)
    if len(ids) < 2 or len(points) < 2:
        return {}
    losses_CK = np.array([[_mean_loss(there[each], tokens) for tokens in points] for each in ids])
    found = headings(np.array(points) / full_tokens, losses_CK, run_to_run)
    first = int(np.argmin(found.ends_C)) if leader is None else ids.index(leader)
    told = {}
    for i, each in enumerate(ids):
        movement = DOUBT * float(found.moves_C[i] - found.moves_C[first])
        of_both = (there[each], there[ids[first]])
        runs = sum(run_variance([trial.losses[place] for trial in trials], run_to_run) for trials in of_both)
        error = (2 * found.variance + movement**2 + paired_variance(*map(_sequences, of_both)) + runs) ** 0.5
        told[each] = Lag(float(found.ends_C[i] - found.ends_C[first]), error)
    return told


def _points(there: Cohort, place: int) -> list[int]:
    """The tokens at which all of them were measured, up to the rung."""
    measured = [set(trial.losses) for trials in there.values() for trial in trials]
    return sorted(tokens for tokens in set.intersection(*measured) if place * EARLIEST <= tokens <= place)


def _mean_loss(trials: Sequence[TrialHistory], tokens: int) -> float:
    return fmean(trial.losses[tokens] for trial in trials)


def _sequences(trials: Sequence[TrialHistory]) -> list[NDArray[np.float32]]:
    return [trial.sequences for trial in trials if trial.sequences is not None]
