"""A claim of the paper, what is found of it here, and the rule by which it holds."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

EQUAL = 0.005
"""Nats by which losses may differ that are called equal, or two standard errors where those are more."""


@dataclass(frozen=True)
class Claim:
    """`parts` says of each of its statements whether it holds; `figures` are for the last line of the program."""

    says: str
    paper: str
    ours: str
    parts: tuple[bool, ...]
    figures: dict[str, float]

    @property
    def verdict(self) -> str:
        """`yes`, `in part` or `no`."""
        return "yes" if all(self.parts) else "in part" if any(self.parts) else "no"


def differences(values_S: Sequence[float], others_S: Sequence[float]) -> list[float]:
    """Within seeds, so that what a seed does to both is not in them."""
    return [value - other for value, other in zip(values_S, others_S, strict=True)]


def below(values_S: Sequence[float], others_S: Sequence[float]) -> bool:
    """By more than two standard errors."""
    found = differences(values_S, others_S)
    return statistics.fmean(found) < -_two_errors(found)


def equal(values_S: Sequence[float], others_S: Sequence[float]) -> bool:
    """Up to EQUAL, or up to two standard errors."""
    found = differences(values_S, others_S)
    return abs(statistics.fmean(found)) <= max(EQUAL, _two_errors(found))


def _two_errors(values: Sequence[float]) -> float:
    return 2 * statistics.stdev(values) / math.sqrt(len(values))
