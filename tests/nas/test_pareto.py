"""The Pareto front against its definition, and over leaderboards that were measured at different tokens."""

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nas.pareto import comparable, front, pareto_front
from nas.ranking import leaderboard
from tests.nas.test_ranking import contender

Point = tuple[float, ...]


def dominates(one: Point, other: Point) -> bool:
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def by_definition(points: list[Point]) -> list[int]:
    return [i for i, point in enumerate(points) if not any(dominates(other, point) for other in points)]


# Few different values, so that ties along one coordinate and along all are common.
VALUES = st.sampled_from([-1.0, 0.0, 0.5, 2.0, float("inf")])


@pytest.mark.parametrize("length", [1, 2, 3, 4])
@given(data=st.data())
def test_the_front_is_what_no_other_point_dominates(length: int, data: st.DataObject) -> None:
    points = data.draw(st.lists(st.tuples(*[VALUES] * length), max_size=12))
    assert pareto_front(points) == by_definition(points)


def test_equal_points_are_on_it_together() -> None:
    assert pareto_front([(1, 2), (2, 1), (1, 2), (2, 2)]) == [0, 1, 2]


def test_points_that_do_not_compare_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths"):
        pareto_front([(1, 2), (1, 2, 3)])
    with pytest.raises(ValueError, match="NaN"):
        pareto_front([(1, float("nan"))])


def test_two_coordinates_of_many_points_take_no_time_whatever_the_front() -> None:
    """All 200,000 are on it: to hold each against all others would take hours."""
    points = [(float(i), -float(i)) for i in range(200_000)]
    random.Random(0).shuffle(points)
    began = time.process_time()
    assert len(pareto_front(points)) == len(points)
    assert time.process_time() - began < 5


def test_only_candidates_at_the_furthest_tokens_compare() -> None:
    rows = leaderboard(
        [
            contender(1, (0, 5.0), (20, 3.0)),
            contender(2, (0, 5.0), (20, 2.0)),
            contender(3, (0, 5.0), (20, 2.5)),
            contender(4, (0, 5.0), (10, 1.0)),
            contender(5, (0, 5.0), (20, float("inf"))),
            contender(6, (0, 5.0), (20, 1.0), state="failed"),
            contender(7),
        ]
    )
    assert [row.candidate_id for row in comparable(rows)] == [2, 3, 1]
    costs = {row.candidate_id: (row.parameters,) for row in rows}
    assert [row.candidate_id for row in front(rows, costs)] == [2, 1]
    # Along a second cost that is the other way round, nobody beats 3 any more.
    assert [row.candidate_id for row in front(rows, {id_: (*own, -id_) for id_, own in costs.items()})] == [2, 3, 1]


def test_nothing_retrained_has_no_front() -> None:
    rows = leaderboard([contender(1, (0, 5.0)), contender(2)])
    assert comparable(rows) == front(rows, {1: (1.0,), 2: (1.0,)}) == []
