"""How far two candidates' losses could be apart by chance: over validation sequences, and over runs."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Sequences = Sequence[NDArray[np.float32]]
"""Of one candidate: the losses of the validation sequences, (Q,), for each of its seeds."""


def paired_variance(mine: Sequences, others: Sequences) -> float:
    """Of the difference of two candidates' mean losses, over the sequences that both were measured on.

    Paired: what makes a sequence hard for both cancels. 0 where the sequences are not known, or not the same many.
    """
    if not mine or not others or len({len(each) for each in (*mine, *others)}) > 1:
        return 0.0
    differences_Q: NDArray[np.float64] = np.stack(mine).mean(axis=0, dtype=np.float64)
    differences_Q = differences_Q - np.stack(others).mean(axis=0, dtype=np.float64)
    return float(np.var(differences_Q, ddof=1)) / len(differences_Q) if len(differences_Q) > 1 else 0.0


def run_variance(losses: Sequence[float], prior: float) -> float:
    """Of the mean of a candidate's losses, one for each seed, given the standard deviation `prior` of a single run.

    With several seeds their spread is pooled with the prior, which counts as one degree of freedom: two seeds that
    happen to agree are no proof that runs do.
    """
    freedom = len(losses) - 1
    spread = float(np.var(losses, ddof=1)) if freedom else 0.0
    return (freedom * spread + prior**2) / (freedom + 1) / len(losses)
