"""The Pareto front: candidates that no other beats on loss and on all of what they cost, at equal tokens."""

import math
from collections.abc import Mapping, Sequence

from nas.ranking import Standing, level


def pareto_front(points: Sequence[Sequence[float]]) -> list[int]:
    """Where in `points` those are that no other dominates, ascending; lower is better along every coordinate.

    A point dominates another if it is nowhere higher and somewhere lower, so equal points are on the front together.
    Takes n log n steps for two coordinates, and n times the size of the front for more. Raises ValueError for points of
    different lengths, and for NaN, which does not compare.
    """
    if len({len(point) for point in points}) > 1:
        raise ValueError("points of different lengths do not compare")
    if any(math.isnan(value) for point in points for value in point):
        raise ValueError("NaN does not compare")
    distinct = sorted({tuple(point) for point in points})
    two = bool(distinct) and len(distinct[0]) == 2
    front = set(_front_of_two(distinct) if two else _front(distinct))
    return [place for place, point in enumerate(points) if tuple(point) in front]


def _front_of_two(ascending: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Of different points in ascending order: whatever comes before one is nowhere higher in the first coordinate."""
    front: list[tuple[float, ...]] = []
    for point in ascending:
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _front(ascending: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Of different points in ascending order: one that dominates another comes before it."""
    front: list[tuple[float, ...]] = []
    for point in ascending:
        if not any(all(mine <= its for mine, its in zip(other, point, strict=True)) for other in front):
            front.append(point)
    return front


def comparable(leaderboard: Sequence[Standing]) -> list[Standing]:
    """The candidates whose losses compare, in their order: retrained as far as any, with a loss that is finite."""
    return [row for row in level(leaderboard) if row.loss is not None and math.isfinite(row.loss)]


def front(leaderboard: Sequence[Standing], costs: Mapping[int, Sequence[float]]) -> list[Standing]:
    """The candidates on the front of loss and `costs`, which are by candidate id, in the leaderboard's order."""
    rows = comparable(leaderboard)
    found = pareto_front([(row.loss or 0.0, *costs[row.candidate_id]) for row in rows])
    return [rows[place] for place in found]
