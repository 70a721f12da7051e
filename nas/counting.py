"""How many shapes of a grid are within limits, without listing them.

Every cost is a polynomial that is of the first degree in each size. So along one axis (the MLP's, or the layers') it
is a line, and the sizes that a limit allows are an interval of it: one row stands for all sizes of that axis.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nas.architecture import AXES
from nas.budget import Limit
from nas.grid import Grid, Plane
from nas.polynomial import LARGEST, Integers, Mask

ROWS_AT_ONCE = 30_000
"""Few enough for a processor's cache."""


@dataclass(frozen=True)
class Rows:
    """Shapes of one hidden size; each row stands for all `values` (ascending) of the axis `along`.

    `sizes` has the row's other sizes by name, `layers` the position of its layer count in the plane (0 throughout where
    rows are along the layers).
    """

    sizes: dict[str, Integers]
    along: str
    values: Integers
    layers: Integers

    def within(self, limits: Sequence[Limit]) -> tuple[Integers, Integers]:
        """For each row, the positions (start, end) of the values that all limits allow; nothing where end <= start."""
        start, end = np.zeros(len(self.layers), dtype=np.int64), np.full(len(self.layers), len(self.values))
        for limit in limits:
            own_start, own_end = self.intervals(limit)
            start, end = np.maximum(start, own_start), np.minimum(end, own_end)
        return start, end

    def only(self, mask: Mask) -> "Rows":
        """The rows that the mask has."""
        sizes = {name: np.broadcast_to(size, mask.shape)[mask] for name, size in self.sizes.items()}
        return Rows(sizes, self.along, self.values, self.layers[mask])

    def intervals(self, limit: Limit) -> tuple[Integers, Integers]:
        """For each row, the positions (start, end) of the values that the limit allows."""
        low, high = min(limit.low, LARGEST), min(limit.high, LARGEST)  # No cost is as large; both fit 64 bits.
        intercept, slope = (part.over(self.sizes) for part in limit.cost.along(self.along))
        if not slope.any():
            allowed = (intercept >= low) & (intercept <= high)
            return np.zeros(allowed.shape, np.int64), np.where(allowed, len(self.values), 0)
        smallest = -((intercept - low) // slope)
        largest = (high - intercept) // slope
        return np.searchsorted(self.values, smallest, "left"), np.searchsorted(self.values, largest, "right")

    def costs(self, limit: Limit, positions: Integers) -> Integers:
        """The cost of each row's shape at a position of `values`."""
        return limit.cost.over({**self.sizes, self.along: self.values[positions]})


def rows_of(plane: Plane, along: str) -> Iterator[Rows]:
    """The plane as rows, some at a time."""
    by_layers = along == "num_hidden_layers"
    outer = plane.intermediate if by_layers else plane.layers
    values = np.sort(plane.layers if by_layers else plane.intermediate)
    inner = len(plane.heads) * len(plane.experts)
    step = max(1, ROWS_AT_ONCE // inner)
    for first in range(0, len(outer), step):
        some = np.arange(first, min(first + step, len(outer)))
        position, pair, expert = (
            axis.ravel()
            for axis in np.meshgrid(some, np.arange(len(plane.heads)), np.arange(len(plane.experts)), indexing="ij")
        )
        sizes = {
            "hidden_size": np.array([plane.hidden_size]),
            "num_attention_heads": plane.heads[pair],
            "num_key_value_heads": plane.key_values[pair],
            "num_experts": plane.experts[expert],
            "num_sliding_layers": np.zeros_like(position) if by_layers else plane.sliding[position],
            "intermediate_size" if by_layers else "num_hidden_layers": outer[position],
        }
        yield Rows(sizes, along, values, np.zeros_like(position) if by_layers else position)


def along_of(plane: Plane) -> str:
    """The axis that a plane's rows stand for: the longer of the two that no rule ties to another.

    The share of layers that attend to a window makes costs uneven in the layers, so these are not taken then.
    """
    many_layers = len(plane.layers) > len(plane.intermediate) and not plane.sliding.any()
    return "num_hidden_layers" if many_layers else "intermediate_size"


@dataclass(frozen=True)
class Counted:
    """`within` after each limit in turn, beginning with all; `of_block` by layers and hidden size, within them all."""

    within: tuple[int, ...]
    of_block: Integers


def count(grid: Grid, limits: Sequence[Limit]) -> Counted:
    """Counts exactly."""
    within = np.zeros(len(limits) + 1, dtype=np.int64)
    of_block = np.zeros((len(grid.layers), len(grid.planes)), dtype=np.int64)
    for column, plane in enumerate(grid.planes):
        for rows in rows_of(plane, along_of(plane)):
            start, end = rows.within(())
            within[0] += int((end - start).sum())
            for position, limit in enumerate(limits):
                own_start, own_end = rows.intervals(limit)
                start, end = np.maximum(start, own_start), np.minimum(end, own_end)
                within[position + 1] += int(np.maximum(end - start, 0).sum())
            of_block[:, column] += _by_layers(rows, start, np.maximum(end, start), len(grid.layers))
    return Counted(tuple(within.tolist()), of_block)


def _by_layers(rows: Rows, start: Integers, end: Integers, num_layers: int) -> Integers:
    """Shapes by position of their layers, descending as in the plane."""
    if rows.along != "num_hidden_layers":
        return np.bincount(rows.layers, weights=end - start, minlength=num_layers).astype(np.int64)
    return _by_value(start, end, num_layers)[::-1]


def _by_value(start: Integers, end: Integers, num_values: int) -> Integers:
    """In how many rows each value is allowed, if from `start` to `end` are (nowhere `end` < `start`)."""
    begun = np.bincount(start, minlength=num_values + 1) - np.bincount(end, minlength=num_values + 1)
    return np.cumsum(begun)[:num_values].astype(np.int64)


@dataclass(frozen=True)
class Block:
    """The shapes of one layer count and hidden size that are within limits, in order.

    Each of `rows` stands for the MLP sizes at positions `start` to `end`.
    """

    rows: Rows
    start: Integers
    end: Integers

    def __iter__(self) -> Iterator[Integers]:
        """The shapes (shapes, axes), some at a time."""
        positions = np.flatnonzero(self._of_value)[::-1]
        step = max(1, ROWS_AT_ONCE // len(self.start))
        for first in range(0, len(positions), step):
            yield self._with(positions[first : first + step])

    def at(self, rank: int) -> tuple[int, ...]:
        """The sizes along AXES of the shape at one position of the list."""
        ends = np.cumsum(self._of_value[::-1])
        descending = int(np.searchsorted(ends, rank, side="right"))
        shapes = self._with(np.array([len(ends) - 1 - descending]))
        return tuple(shapes[rank - int(ends[descending])].tolist())

    @cached_property
    def _of_value(self) -> Integers:
        """Shapes by MLP size, ascending."""
        return _by_value(self.start, self.end, len(self.rows.values))

    def _with(self, positions: Integers) -> Integers:
        """The shapes (shapes, axes) whose MLP sizes are at these positions."""
        column = positions[:, None]
        position, row = np.nonzero((self.start <= column) & (column < self.end))
        sizes = {name: np.broadcast_to(each, self.start.shape)[row] for name, each in self.rows.sizes.items()}
        sizes["intermediate_size"] = self.rows.values[positions[position]]
        return np.stack([sizes[axis] for axis in AXES], axis=1)


def block(plane: Plane, layer: int, limits: Sequence[Limit]) -> Block:
    """`layer` is a position of the plane's layer counts."""
    (rows,) = rows_of(plane.of_layers(layer, layer + 1), "intermediate_size")
    start, end = rows.within(limits)
    return Block(rows, start, np.maximum(end, start))
