"""A unit's values over a sequence, and over the samples, as one number (P1, section 2.2).

B sequences, T tokens, X units.
"""

from collections.abc import Callable, Iterator

import torch

from nas.calibration import Aggregation
from nas.compression.importance.exact_sum import ExactSum

CACHED_ENTRIES = 2**18
"""So many entries stay in a core's cache between two operations on them."""


def over_sequence(values_BTX: torch.Tensor, aggregation: Aggregation) -> torch.Tensor:
    """(B, X) float64: the mean of absolute values, the L2 norm, or the variance over the tokens.

    Computed in float32, or in float64 where the values are; sums over many tokens are float64.
    """
    values_BTX = exact_enough(values_BTX)
    num_tokens = values_BTX.shape[1]
    if aggregation == "mean":
        return _summed(values_BTX, lambda rows_TX, out_TX: torch.abs(rows_TX, out=out_TX)) / num_tokens
    if aggregation == "l2":
        return _summed(values_BTX, lambda rows_TX, out_TX: torch.mul(rows_TX, rows_TX, out=out_TX)).sqrt()
    values_BTX = values_BTX - values_BTX.mean(dim=1, keepdim=True)
    return _summed(values_BTX, lambda rows_TX, out_TX: torch.mul(rows_TX, rows_TX, out=out_TX)) / num_tokens


def over_sparse_sequence(
    values_RX: torch.Tensor, sequence_R: torch.Tensor, num_sequences: int, num_tokens: int, aggregation: Aggregation
) -> torch.Tensor:
    """As `over_sequence` of values that are 0 but at R tokens, of which `sequence_R` says the sequence."""
    values_RX = exact_enough(values_RX).double()

    def summed(each_RX: torch.Tensor) -> torch.Tensor:
        sums_BX = each_RX.new_zeros(num_sequences, each_RX.shape[-1])
        return sums_BX.index_add_(0, sequence_R, each_RX)

    if aggregation == "mean":
        return summed(values_RX.abs()) / num_tokens
    if aggregation == "l2":
        return summed(values_RX.square()).sqrt()
    mean_BX = summed(values_RX) / num_tokens
    zeros_B1 = num_tokens - torch.bincount(sequence_R, minlength=num_sequences)[:, None]
    return (summed((values_RX - mean_BX[sequence_R]).square()) + zeros_B1 * mean_BX.square()) / num_tokens


def exact_enough(values: torch.Tensor) -> torch.Tensor:
    """In float32, unless they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def _summed(values_BTX: torch.Tensor, each: Callable[[torch.Tensor, torch.Tensor], object]) -> torch.Tensor:
    """(B, X) float64 sums over tokens of what `each` makes of the values, written to its second argument.

    It goes in pieces that the cache holds: a tensor of the whole size, written and read again, would take longer
    than many of the teacher's products.
    """
    num_sequences, num_tokens, num_units = values_BTX.shape
    sums_BX = torch.zeros(num_sequences, num_units, dtype=torch.float64, device=values_BTX.device)
    piece = max(1, CACHED_ENTRIES // num_units) if values_BTX.device.type == "cpu" else num_tokens
    buffer_TX = torch.empty(min(piece, num_tokens), num_units, dtype=values_BTX.dtype, device=values_BTX.device)
    for sequence in range(num_sequences):
        for rows_TX in values_BTX[sequence].split(piece):
            out_TX = buffer_TX[: len(rows_TX)]
            each(rows_TX, out_TX)
            sums_BX[sequence] += out_TX.sum(dim=0)
    return sums_BX


class Moments:
    """Of one number for each sequence and unit: the sums of it and of its square, from which all else follows."""

    def __init__(self, first: ExactSum, second: ExactSum) -> None:
        self.first = first
        self.second = second

    @classmethod
    def zeros(cls, *size: int, device: torch.device | None = None) -> "Moments":
        return cls(ExactSum.zeros(*size, device=device), ExactSum.zeros(*size, device=device))

    def add(self, numbers: torch.Tensor) -> None:
        """(B, units...) float64."""
        self.first.add_each(numbers)
        self.second.add_each(numbers.square())

    def merge(self, other: "Moments") -> None:
        self.first.merge(other.first)
        self.second.merge(other.second)

    def over_batch(self, aggregation: Aggregation, num_sequences: int) -> torch.Tensor:
        """The mean, the L2 norm or the variance over the sequences; numbers of sequences are never negative."""
        if aggregation == "mean":
            return self.first.value / num_sequences
        if aggregation == "l2":
            return self.second.value.sqrt()
        mean = self.first.value / num_sequences
        return (self.second.value / num_sequences - mean.square()).clamp(min=0)

    @classmethod
    def stacked(cls, moments: "list[Moments]") -> "Moments":
        return cls(ExactSum.stacked(one.first for one in moments), ExactSum.stacked(one.second for one in moments))

    def parts(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Its tensors by name, as a file holds them."""
        yield "first.high", self.first.high
        yield "first.low", self.first.low
        yield "second.high", self.second.high
        yield "second.low", self.second.low
