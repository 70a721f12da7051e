"""Sums that do not depend on the order in which they were made."""

from collections.abc import Iterable

import torch


class ExactSum:
    """A sum of float64 tensors as two: the rounded sum, and what the rounding left out (Knuth's two-sum).

    About 106 bits are kept, so that batches and shards, added in any order, come to the same float64.
    """

    def __init__(self, high: torch.Tensor, low: torch.Tensor | None = None) -> None:
        self.high = high
        self.low = torch.zeros_like(high) if low is None else low

    @classmethod
    def zeros(cls, *size: int, device: torch.device | None = None) -> "ExactSum":
        return cls(torch.zeros(size, dtype=torch.float64, device=device))

    @property
    def value(self) -> torch.Tensor:
        return self.high + self.low

    def add(self, value: torch.Tensor) -> None:
        """Adds one float64 tensor of the sum's shape."""
        total = self.high + value
        added = total - self.high
        self.low = self.low + ((self.high - (total - added)) + (value - added))
        self.high = total

    def add_each(self, values: Iterable[torch.Tensor]) -> None:
        for value in values:
            self.add(value)

    def merge(self, other: "ExactSum") -> None:
        self.add(other.high)
        self.add(other.low)

    def cpu(self) -> "ExactSum":
        return ExactSum(self.high.cpu(), self.low.cpu())

    @classmethod
    def stacked(cls, sums: "Iterable[ExactSum]") -> "ExactSum":
        """One sum with a first dimension more, on the CPU."""
        each = [one.cpu() for one in sums]
        return cls(torch.stack([one.high for one in each]), torch.stack([one.low for one in each]))
