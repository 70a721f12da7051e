"""SearchSpace x Budget x teacher -> candidates: counted exactly, listed in a stable order, or sampled."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from random import Random

import numpy as np

from nas.architecture import AXES, Architecture, sizes_of
from nas.budget import Budget, Limit, limits
from nas.cost import CostModel
from nas.counting import Block, Counted, block, count
from nas.errors import SpecError
from nas.grid import Grid, grid
from nas.latency_limit import LatencyLimit, latency_limit
from nas.misses import nothing_fits
from nas.polynomial import LARGEST, Integers, Polynomial
from nas.space import SearchSpace

MOST_LISTED = 1_000_000
"""Near-duplicates, and shapes that are too slow, are found by going through all that are within the other limits."""


@dataclass(frozen=True)
class _Listed:
    """Candidates by their sizes along AXES, and what had to go through all shapes to be removed."""

    axes: list[tuple[int, ...]]
    removed: dict[str, int]


@dataclass(frozen=True)
class Enumeration:
    """The shapes of a space that are legal and within limits, in the order of AXES with sizes descending.

    Nothing is counted or listed before it is asked for.
    """

    teacher: Architecture
    grid: Grid
    limits: tuple[Limit, ...]
    latency: LatencyLimit | None = None
    thin: float | None = None

    @property
    def num_shapes(self) -> int:
        """Of the whole space, legal or not."""
        return self.grid.num_shapes

    @cached_property
    def removed(self) -> dict[str, int]:
        """How many shapes each rule and limit removed, of those that the ones before it had left."""
        within, found = self.counted.within, dict(self.grid.removed)
        for i, limit in enumerate(self.limits):  # Two fields of a budget may say the same.
            found[limit.text] = found.get(limit.text, 0) + within[i] - within[i + 1]
        found |= {} if self._listed is None else self._listed.removed
        return {rule: shapes for rule, shapes in found.items() if shapes}

    def milliseconds(self, architecture: Architecture) -> float | None:
        """Of a forward pass by the budget's table of measured latency; None where there is none, or no such block."""
        if self.latency is None or not self.latency.table.covers([architecture]):
            return None
        return self.latency.milliseconds(architecture)

    def budgeted(self, architecture: Architecture) -> tuple[float, ...]:
        """What the limits hold a shape against, in their order."""
        sizes = sizes_of(architecture)
        return tuple(limit.cost.at(sizes) / limit.per for limit in self.limits)

    def __len__(self) -> int:
        return self.counted.within[-1] if self._listed is None else len(self._listed.axes)

    def __iter__(self) -> Iterator[Architecture]:
        return map(self._shape, self._axes())

    def first(self, limit: int, offset: int = 0) -> list[Architecture]:
        """`limit` candidates in order, after the first `offset`."""
        return [self._shape(axes) for axes in self._at(range(offset, min(offset + limit, len(self))))]

    def sample(self, size: int, seed: int, limit: int | None = None, offset: int = 0) -> list[Architecture]:
        """`size` candidates in order, or all if they are fewer; of these `limit`, after the first `offset`.

        The list is cut into `size` runs as equal as can be, and one candidate drawn at random from each, so that
        every depth and width is drawn about as often as it occurs. The same seed draws the same.
        """
        total = len(self)
        end = None if limit is None else offset + limit
        if size >= total:
            return self.first(total if limit is None else limit, offset)
        random, ends = Random(seed), [total * i // size for i in range(size + 1)]
        ranks = list(map(random.randrange, ends[:-1], ends[1:]))
        return [self._shape(axes) for axes in self._at(ranks[offset:end])]

    @cached_property
    def listed(self) -> Integers | None:
        """The sizes (candidates, axes) along AXES, in order, where all have to be gone through anyway; else None."""
        return None if self._listed is None else np.array(self._listed.axes, dtype=np.int64).reshape(-1, len(AXES))

    @property
    def depths(self) -> set[int]:
        """The layer counts of its candidates."""
        if self.listed is not None:
            return set(self.listed[:, AXES.index("num_hidden_layers")].tolist())
        return {self.grid.layers[layer] for layer in np.flatnonzero(self.counted.of_block.any(axis=1)).tolist()}

    # --- from ranks to shapes -------------------------------------------------------------------------------

    @cached_property
    def counted(self) -> Counted:
        """How many shapes are within each limit in turn, near-duplicates among them."""
        return count(self.grid, self.limits)

    def _shape(self, axes: tuple[int, ...]) -> Architecture:
        return self.teacher.resized(**dict(zip(AXES, axes, strict=True)))

    def _axes(self) -> Iterator[tuple[int, ...]]:
        return self._within_limits() if self._listed is None else iter(self._listed.axes)

    def _within_limits(self) -> Iterator[tuple[int, ...]]:
        """In order."""
        for layer, column in np.argwhere(self.counted.of_block).tolist():
            for shapes in block(self.grid.planes[column], layer, self.limits):
                yield from map(tuple, shapes.tolist())

    @cached_property
    def _listed(self) -> "_Listed | None":
        """The candidates one by one, where something has to be known of each by itself."""
        if self.latency is None and self.thin is None:
            return None
        if self.counted.within[-1] > MOST_LISTED:
            field = "space.thin" if self.latency is None else "budget.latency"
            problem = f"has to go through {self.counted.within[-1]:,} shapes"
            value = self.thin if self.latency is None else self.latency.text
            raise SpecError(field, value, problem, f"at most {MOST_LISTED:,} shapes within the other limits")
        axes, removed = list(self._within_limits()), {}
        if self.latency is not None:
            times = [self.latency.milliseconds(self._shape(row)) for row in axes]
            fast = [row for row, time in zip(axes, times, strict=True) if time <= self.latency.budget.max_milliseconds]
            if not fast:
                raise self.latency.too_slow(len(axes), self._shape(axes[times.index(min(times))]))
            removed[self.latency.text], axes = len(axes) - len(fast), fast
        if self.thin is not None:
            kept = _thinned(axes, self.thin)
            removed[f"near-duplicates within {100 * self.thin:g}%"], axes = len(axes) - len(kept), kept
        return _Listed(axes, removed)

    def _at(self, ranks: Sequence[int]) -> list[tuple[int, ...]]:
        """The shapes at ascending positions of the list."""
        if self._listed is not None:
            return [self._listed.axes[rank] for rank in ranks]
        in_block = self.counted.of_block.ravel()
        starts = np.cumsum(in_block) - in_block
        blocks = np.searchsorted(starts + in_block, ranks, side="right")
        listed: dict[int, Block] = {}
        found = []
        for rank, position in zip(ranks, blocks.tolist(), strict=True):
            if position not in listed:
                layer, column = divmod(position, len(self.grid.planes))
                listed = {position: block(self.grid.planes[column], layer, self.limits)}
            found.append(listed[position].at(rank - int(starts[position])))
        return found


def enumerate_candidates(
    space: SearchSpace, budget: Budget, teacher: Architecture, *, sequence_length: int
) -> Enumeration:
    """What fits. Raises SpecError for a size the teacher cannot give or a space without a legal shape, and
    BudgetError, with the nearest misses, if nothing fits."""
    bounds = tuple(limits(budget, CostModel(teacher), sequence_length))
    for limit in bounds:
        if _bound(limit.cost, teacher) >= LARGEST:
            accepted = "a smaller teacher" if "parameters" in limit.field else "a shorter context or smaller batch"
            raise SpecError(limit.field, limit.what, "is too large to be counted", accepted)
    latency = None if budget.latency is None else latency_limit(budget.latency, teacher)
    found = Enumeration(teacher, grid(space, teacher), bounds, latency, space.thin)
    if not found.counted.within[-1]:
        raise nothing_fits(found.teacher, found.grid, bounds, found.counted.within, budget)
    len(found)  # Raises where everything is too slow, or where there is too much to go through.
    return found


def _bound(cost: Polynomial, teacher: Architecture) -> int:
    """What no partial sum of a cost can exceed for any shape cut out of the teacher."""
    return Polynomial({names: abs(by) for names, by in cost.terms.items()}).at(sizes_of(teacher))


def _thinned(axes: list[tuple[int, ...]], thin: float) -> list[tuple[int, ...]]:
    """Of the shapes whose sizes count as one along every axis, the first."""
    sizes = np.array(axes, dtype=np.int64).reshape(-1, len(AXES))
    cells = np.stack([_cells(column, thin) for column in sizes.T], axis=1)
    _, first = np.unique(cells, axis=0, return_index=True)
    return [axes[i] for i in np.sort(first)]


def _cells(sizes: Integers, thin: float) -> Integers:
    """For each size, the largest size that it counts as one with."""
    distinct, positions = np.unique(sizes, return_inverse=True)
    factor = 1 + Fraction(str(thin))
    leaders: list[int] = []
    for size in distinct[::-1].tolist():
        leaders.append(leaders[-1] if leaders and size * factor >= leaders[-1] else size)
    return np.array(leaders[::-1], dtype=np.int64)[positions]
