"""What mattered, on candidates of which it is known."""

from collections.abc import Callable
from itertools import product
from random import Random

import pytest

from api.services.axis_importance import FEWEST, axis_importance
from nas.architecture import Architecture
from nas.ranking import Contender, CurvePoint, Standing, leaderboard
from nas.states import TrialState
from tests.nas.shapes import small_llama

SHAPES = [
    small_llama(num_hidden_layers=layers, hidden_size=hidden, intermediate_size=ffn)
    for layers, hidden, ffn in product((1, 2, 3), (16, 20, 24), (8, 10, 12, 14))
]


def board(shapes: list[Architecture], loss: Callable[[Architecture], float]) -> list[Standing]:
    points = [(shape, CurvePoint(tokens=10, loss=loss(shape), kl_to_teacher=0.1)) for shape in shapes]
    return leaderboard(
        [
            Contender(number, shape, 100 + number, number, [point], TrialState.SUCCEEDED)
            for number, (shape, point) in enumerate(points, start=1)
        ]
    )


@pytest.mark.parametrize("axis", ["num_hidden_layers", "hidden_size", "intermediate_size"])
def test_the_axis_that_alone_decides_stands_out_and_no_other_does(axis: str) -> None:
    noise = Random(1)
    first, *others = axis_importance(board(SHAPES, lambda shape: 5.0 - getattr(shape, axis) + noise.random() / 100))
    assert first.axis == axis and first.score > 3 * first.by_chance
    assert {each.axis for each in others} == {"num_hidden_layers", "hidden_size", "intermediate_size"} - {axis}
    assert not any(each.score > each.by_chance for each in others)


def test_losses_at_random_stand_out_in_about_one_of_twenty_cases() -> None:
    random = Random(0)
    found = [each for _ in range(8) for each in axis_importance(board(SHAPES, lambda _: random.random()))]
    assert len(found) == 24
    # Of 24 tries at 1/20, more than 5 come out in one of a thousand cases.
    assert sum(each.score > each.by_chance for each in found) <= 5


def test_what_does_not_vary_or_compare_tells_nothing() -> None:
    assert axis_importance(board(SHAPES[: FEWEST - 1], lambda shape: shape.intermediate_size)) == ()
    assert axis_importance(board(SHAPES, lambda _: 1.0)) == ()
    assert axis_importance(board(SHAPES[:1] * 9, lambda _: Random(1).random())) == ()
    assert axis_importance([]) == ()


def test_the_same_candidates_are_told_the_same() -> None:
    rows = board(SHAPES, lambda shape: 1.0 / shape.hidden_size + 1.0 / shape.num_hidden_layers)
    assert axis_importance(rows) == axis_importance(list(reversed(rows))) != ()
