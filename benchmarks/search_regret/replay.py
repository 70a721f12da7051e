"""A search on a landscape: by a strategy's own code, asked as the scheduler asks it, or by a simple rule."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.search_regret.landscapes import Landscape
from nas.spec import SearchSpec
from nas.strategies import decide
from nas.strategy import Advance, TrialHistory
from nas.strategy_spec import StrategySpec


@dataclass(frozen=True)
class Outcome:
    """`tokens` that were spent on all trials, and the candidate chosen."""

    tokens: int
    chosen: int


def by_strategy(strategy: StrategySpec) -> Callable[[Landscape, object], Outcome]:
    """Asks it until it says nothing any more; the best of those that came furthest is chosen."""

    def searched(landscape: Landscape, _: object) -> Outcome:
        spec, ends = _spec(strategy, landscape), (int(landscape.tokens_K[-1]),)
        means_CK = landscape.losses_CKQ.mean(axis=-1, dtype=np.float64)
        told, stopped = [0] * len(means_CK), [False] * len(means_CK)
        while said := decide(spec, ends, [_history(landscape, means_CK, *each) for each in _numbered(told, stopped)]):
            for decision in said:
                if isinstance(decision, Advance):
                    told[decision.trial_id] = decision.until_tokens
                else:
                    stopped[decision.trial_id] = True
        furthest = max(told)
        at = int(np.searchsorted(landscape.tokens_K, furthest))
        there = [i for i, tokens in enumerate(told) if tokens == furthest]
        return Outcome(sum(told), min(there, key=lambda i: float(means_CK[i, at])))

    return searched


def stopped_alike(landscape: Landscape, share: float) -> Outcome:
    """Everyone is stopped at the measurement nearest to that share of the tokens."""
    shares_K = landscape.tokens_K / landscape.tokens_K[-1]
    at = int(np.argmin(np.abs(shares_K - share)))
    means_C = landscape.losses_CKQ[:, at].mean(axis=-1, dtype=np.float64)
    return Outcome(int(landscape.tokens_K[at]) * len(means_C), int(np.argmin(means_C)))


def _spec(strategy: StrategySpec, landscape: Landscape) -> SearchSpec:
    """With as many steps as the landscape has measurements."""
    per_step, num_steps = int(landscape.tokens_K[0]), len(landscape.tokens_K)
    return SearchSpec.model_validate(
        {
            "name": "replayed",
            "teacher": "/teacher",
            "budget": {"parameters": 1},
            "data": {"train": "/text", "sequence_length": per_step},
            "trial": {"tokens": per_step * num_steps, "batch_size": 1, "measurements": num_steps},
            "strategy": strategy.model_dump(),
        }
    )


def _numbered(told: list[int], stopped: list[bool]) -> list[tuple[int, int, bool]]:
    return [(i, tokens, gone) for i, (tokens, gone) in enumerate(zip(told, stopped, strict=True))]


def _history(landscape: Landscape, means_CK: NDArray[np.float64], i: int, told: int, stopped: bool) -> TrialHistory:
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
