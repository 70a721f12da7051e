"""What strategies are replayed on: a draw of a search whose every curve is known to its end.

C candidates, K measurements, Q validation sequences.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.search_record.kept import Kept

MARGIN = 0.005
"""Nats per token that nobody needs to tell apart."""

NUM_CANDIDATES, NUM_POINTS, NUM_SEQUENCES = 24, 8, 128
SPREAD = 0.048
"""Of final losses over candidates, in nats per token: that of the record."""

RUN_TO_RUN, OVER_SEQUENCES = 0.0035, 0.05
"""Standard deviations about the curve: of a run's loss over seeds, and of the paired difference of two sequences."""

LEFT_OUT = 6
"""Of the record's candidates, in each draw."""


@dataclass(frozen=True)
class Landscape:
    """One draw. `truth_C` are the final losses, `errors_CC` the standard errors of their differences."""

    tokens_K: NDArray[np.int64]
    losses_CKQ: NDArray[np.float32]
    after_pruning_C: NDArray[np.float64]
    truth_C: NDArray[np.float64]
    errors_CC: NDArray[np.float64]

    def top_group(self) -> NDArray[np.bool_]:
        """Who lies within max(MARGIN, two standard errors of the difference) of the best."""
        first = int(np.argmin(self.truth_C))
        margins_C = np.maximum(MARGIN, 2 * self.errors_CC[first])
        near: NDArray[np.bool_] = self.truth_C - self.truth_C[first] <= margins_C
        return near


def of_record(kept: Kept, random: np.random.Generator) -> Landscape:
    """A subset of the record's candidates, each with one of its seeds, and validation sequences drawn anew."""
    chosen = np.sort(random.choice(len(kept.candidates), len(kept.candidates) - LEFT_OUT, replace=False))
    seeds = random.integers(len(kept.seeds), size=len(chosen))
    sequences = random.integers(kept.losses_CSMQ.shape[-1], size=kept.losses_CSMQ.shape[-1])
    losses_CMQ = kept.losses_CSMQ[chosen, seeds][:, :, sequences]
    finals_CSQ = kept.losses_CSMQ[chosen, :, -1].astype(np.float64)
    return Landscape(
        tokens_K=kept.tokens_M[1:],
        losses_CKQ=losses_CMQ[:, 1:],
        after_pruning_C=losses_CMQ[:, 0].mean(axis=-1, dtype=np.float64),
        truth_C=finals_CSQ.mean(axis=(1, 2)),
        errors_CC=_errors(finals_CSQ),
    )


def _errors(finals_CSQ: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of the difference between two candidates' means: over sequences, paired, and over runs."""
    num_seeds, num_sequences = finals_CSQ.shape[1:]
    by_sequence_CQ, by_seed_CS = finals_CSQ.mean(axis=1), finals_CSQ.mean(axis=2)
    over_sequences_CC = (by_sequence_CQ[:, None] - by_sequence_CQ[None]).var(axis=-1, ddof=1) / num_sequences
    over_runs = by_seed_CS.var(axis=1, ddof=1).mean() / num_seeds
    errors_CC: NDArray[np.float64] = np.sqrt(over_sequences_CC + 2 * over_runs)
    return errors_CC


def synthetic(random: np.random.Generator) -> Landscape:
    """Curves a + b t^-c whose order at a quarter of the tokens has a Kendall's tau of 0.5 to 0.6 with the final one.

    At three quarters it is at least 0.9, and at most a quarter of the candidates are in the top group.
    """
    shares_K = np.arange(1, NUM_POINTS + 1) / NUM_POINTS
    errors_CC = np.zeros((NUM_CANDIDATES, NUM_CANDIDATES))  # The truth is known.
    while True:
        exponents_C = random.uniform(0.3, 1.0, NUM_CANDIDATES)
        finals_C = random.normal(0, SPREAD, NUM_CANDIDATES)
        falls_C = random.normal(0, random.uniform(0.4, 1.6) * SPREAD, NUM_CANDIDATES)
        # b is such that the fall since a quarter of the tokens has the same spread whatever c is.
        b_C = falls_C / (0.25**-exponents_C - 1)
        curves_CK = 3 + finals_C[:, None] + b_C[:, None] * (shares_K ** -exponents_C[:, None] - 1)
        early, late = (kendalltau(curves_CK[:, at], finals_C).statistic for at in (1, 5))
        landscape = Landscape(
            tokens_K=(shares_K * 131_072).astype(np.int64),
            losses_CKQ=_observed(curves_CK, random),
            after_pruning_C=curves_CK[:, 0] + b_C * 5 + random.normal(0, SPREAD, NUM_CANDIDATES),
            truth_C=curves_CK[:, -1],
            errors_CC=errors_CC,
        )
        if 0.5 <= early <= 0.6 and late >= 0.9 and landscape.top_group().sum() <= NUM_CANDIDATES // 4:
            return landscape


def _observed(curves_CK: NDArray[np.float64], random: np.random.Generator) -> NDArray[np.float32]:
    """With a run's own deviation, which wanders along the curve, and that of every sequence, which stays."""
    num_candidates, num_points = curves_CK.shape
    lasting_C1 = random.normal(0, RUN_TO_RUN * 0.7, (num_candidates, 1))
    passing_CK = random.normal(0, RUN_TO_RUN * 0.7, (num_candidates, num_points))
    of_sequence_CQ = random.normal(0, OVER_SEQUENCES / 2**0.5, (num_candidates, NUM_SEQUENCES))
    common_Q = random.normal(0, 0.5, NUM_SEQUENCES)
    losses = (curves_CK + lasting_C1 + passing_CK)[:, :, None] + of_sequence_CQ[:, None] + common_Q
    found: NDArray[np.float32] = losses.astype(np.float32)
    return found
