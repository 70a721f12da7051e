"""A search by a strategy, on a landscape: the strategy's own code, asked as the scheduler asks it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search_regret.landscapes import Landscape
from nas.strategy import Advance, Decision, TrialHistory

Asked = Callable[[Sequence[TrialHistory]], list[Decision]]


@dataclass(frozen=True)
class Outcome:
    """`tokens` that were spent on all trials, the candidate chosen, and whose loss was the lowest at the furthest."""

    tokens: int
    chosen: int


def replay(landscape: Landscape, strategy: Asked) -> Outcome:
    """Asks until nothing is said any more; the best of those that came furthest is chosen."""
    means_CK = landscape.losses_CKQ.mean(axis=-1, dtype=np.float64)
    told, stopped = [0] * len(means_CK), [False] * len(means_CK)
    while decisions := strategy([_history(landscape, means_CK, i, told[i], stopped[i]) for i in range(len(told))]):
        for decision in decisions:
            if isinstance(decision, Advance):
                told[decision.trial_id] = decision.until_tokens
            else:
                stopped[decision.trial_id] = True
    furthest = max(told)
    at = int(np.searchsorted(landscape.tokens_K, furthest))
    there = [i for i, tokens in enumerate(told) if tokens == furthest]
    return Outcome(sum(told), min(there, key=lambda i: means_CK[i, at]))


def _history(
    landscape: Landscape, means_CK: np.typing.NDArray[np.float64], i: int, told: int, stopped: bool
) -> TrialHistory:
    so_far = int(np.searchsorted(landscape.tokens_K, told, side="right"))
    tokens = landscape.tokens_K[:so_far].tolist()
    return TrialHistory(
        trial_id=i,
        candidate_id=i,
        told_tokens=told,
        tokens=told,
        losses=dict(zip(tokens, means_CK[i, :so_far].tolist(), strict=True)),
        sequences=landscape.losses_CKQ[i, so_far - 1] if so_far else None,
        stopped=stopped,
    )
