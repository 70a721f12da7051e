"""What comes nearest to a budget that nothing fits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from nas.architecture import AXES, Architecture
from nas.budget import Budget, Limit
from nas.counting import Rows, along_of, rows_of
from nas.errors import BudgetError
from nas.grid import Grid
from nas.polynomial import Integers


@dataclass(frozen=True)
class _Miss:
    """A shape, by its sizes along AXES, and what it costs."""

    cost: int
    axes: tuple[int, ...]


def nothing_fits(
    teacher: Architecture, grid: Grid, limits: Sequence[Limit], within: Sequence[int], budget: Budget
) -> BudgetError:
    """Names the first limit that leaves nothing, and what comes nearest of the shapes that those before it leave.

    `within` counts the shapes within each limit in turn, beginning with all.
    """
    position = next(i for i in range(len(limits)) if not within[i + 1])
    limit, before = limits[position], limits[:position]
    misses = [miss for miss in _nearest(grid, before, limit) if miss is not None]
    costs = [f"{miss.cost / limit.per:,.0f}" for miss in misses]
    labels = [teacher.resized(**dict(zip(AXES, miss.axes, strict=True))).label for miss in misses]
    shown = " and ".join(f"{label} with {cost}" for label, cost in zip(labels, costs, strict=True))
    others = " that the limits before it leave" if before else ""
    nearest = min(zip(misses, costs, strict=True), key=lambda pair: _distance(pair[0].cost, limit, budget))[1]
    if limit.field == "budget.parameters":
        problem = f"leaves none of {within[position]:,} shapes{others} ({limit.text}; nearest: {shown})"
        accepted = f"a target such as {nearest}, a wider budget.tolerance, or a wider space"
        return BudgetError(limit.field, f"{budget.parameters:,.0f}", problem, accepted)
    problem = f"leaves none of {within[position]:,} shapes{others} (nearest: {shown})"
    return BudgetError(limit.field, limit.text, problem, f"a limit that leaves {nearest} in, or a wider space")


def _distance(cost: int, limit: Limit, budget: Budget) -> float:
    """From the target, or else from the limit."""
    if limit.field == "budget.parameters" and budget.parameters is not None:
        return abs(cost - budget.parameters)
    return max(limit.low - cost, cost - limit.high)


def _nearest(grid: Grid, before: Sequence[Limit], limit: Limit) -> tuple[_Miss | None, _Miss | None]:
    """(the most costly shape below a limit, the least costly above it) of those within the limits before it."""
    below: _Miss | None = None
    above: _Miss | None = None
    for rows, positions, costs in _candidates(grid, before, limit):
        short, long = costs < limit.low, costs > limit.high
        if short.any() and (below is None or costs[short].max() > below.cost):
            below = _miss(rows, positions, costs, int(np.where(short, costs, -1).argmax()))
        if long.any() and (above is None or costs[long].min() < above.cost):
            above = _miss(rows, positions, costs, int(np.where(long, costs, np.iinfo(np.int64).max).argmin()))
    return below, above


def _candidates(grid: Grid, before: Sequence[Limit], limit: Limit) -> Iterator[tuple[Rows, Integers, Integers]]:
    """For each row of shapes, the last below the limit and the first above it: (rows, positions, costs).

    Costs grow along a row, so no other can be nearer.
    """
    for plane in grid.planes:
        for rows in rows_of(plane, along_of(plane)):
            start, end = rows.within(before)
            left = end > start
            if not left.any():
                continue
            own_start, own_end = rows.intervals(limit)
            for wanted in (own_start - 1, own_end):
                positions = np.clip(wanted, start, np.maximum(end - 1, start)).clip(max=len(rows.values) - 1)
                yield rows.only(left), positions[left], rows.costs(limit, positions)[left]


def _miss(rows: Rows, positions: Integers, costs: Integers, row: int) -> _Miss:
    sizes = {**rows.sizes, rows.along: rows.values[positions]}
    axes = tuple(int(np.broadcast_to(sizes[axis], costs.shape)[row]) for axis in AXES)
    return _Miss(int(costs[row]), axes)
