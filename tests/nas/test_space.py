"""Enumeration against plain loops over a formula written out by hand."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nas.architecture import AXES
from nas.errors import BudgetError, SpecError, UserError
from nas.space import Budget, Enumeration, SearchSpace, enumerate_candidates
from tests.nas.shapes import small_llama

TEACHER = small_llama(num_hidden_layers=4, hidden_size=24, intermediate_size=30, num_attention_heads=6)
ANY_BUDGET = Budget(parameters=15_000, tolerance=0.99)
GROUPS, HEAD_DIM, VOCABULARY = 2, 8, 11


def counted(axes: tuple[int, ...], counting: str) -> int:
    """The parameters of a Llama with TEACHER's groups, head_dim and vocabulary, untied and without biases."""
    layers, hidden, ffn, heads = axes
    attention = 2 * hidden * heads * HEAD_DIM + 2 * hidden * GROUPS * HEAD_DIM
    total = layers * (attention + 3 * hidden * ffn + 2 * hidden) + hidden
    return total + 2 * VOCABULARY * hidden if counting == "total" else total


def space_of(choices: dict[str, list[int]]) -> SearchSpace:
    return SearchSpace.model_validate(choices)


def refusal(kind: type[UserError], choices: dict[str, list[int]], budget: Budget) -> str:
    with pytest.raises(kind) as caught:
        enumerate_candidates(space_of(choices), budget, TEACHER)
    return str(caught.value)


def axis(largest: int, multiple: int = 1) -> st.SearchStrategy[list[int] | None]:
    sizes = st.integers(1, largest // multiple).map(lambda size: size * multiple)
    return st.none() | st.lists(sizes, min_size=1, max_size=4, unique=True)


@st.composite
def grids(draw: st.DrawFn) -> tuple[dict[str, list[int] | None], list[list[int]], tuple[int, ...]]:
    """A space, the sizes it stands for along AXES, and one point of it."""
    largest = {"num_hidden_layers": 4, "hidden_size": 24, "intermediate_size": 30, "num_attention_heads": 6}
    even = {"hidden_size": 2, "num_attention_heads": 2}
    choices = {name: draw(axis(largest[name], even.get(name, 1))) for name in AXES}
    grid = [choices[name] or [largest[name]] for name in AXES]
    return choices, grid, tuple(draw(st.sampled_from(sizes)) for sizes in grid)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(grids(), st.integers(-30, 30), st.integers(0, 40), st.sampled_from(["total", "non_embedding"]))
def test_enumeration_is_a_plain_loop_over_the_grid(
    space: tuple[dict[str, list[int] | None], list[list[int]], tuple[int, ...]], off: int, percent: int, counting: Any
) -> None:
    choices, grid, point = space
    target = counted(point, counting) + off
    expected, num_illegal, num_outside = [], 0, 0
    for layers in sorted(grid[0], reverse=True):
        for hidden in sorted(grid[1], reverse=True):
            for ffn in sorted(grid[2], reverse=True):
                for heads in sorted(grid[3], reverse=True):
                    if hidden % heads != 0:
                        num_illegal += 1
                    elif abs(counted((layers, hidden, ffn, heads), counting) - target) * 100 > target * percent:
                        num_outside += 1
                    else:
                        expected.append((layers, hidden, ffn, heads))
    budget = Budget(parameters=target, tolerance=percent / 100, counting=counting)
    try:
        found = enumerate_candidates(SearchSpace.model_validate(choices), budget, TEACHER)
    except BudgetError:
        found = Enumeration([], num_illegal, num_outside)
        assert num_outside > 0
    except SpecError as error:
        found = Enumeration([], num_illegal, 0)
        assert error.field == "space"
        assert num_outside == 0
    assert [candidate.axes for candidate in found.candidates] == expected
    assert (found.num_illegal, found.num_outside_budget) == (num_illegal, num_outside)


def test_a_candidate_differs_from_its_teacher_only_along_the_axes() -> None:
    teacher = small_llama(tie_word_embeddings=True, attention_bias=True, num_attention_heads=4)
    found = enumerate_candidates(space_of({"hidden_size": [8]}), ANY_BUDGET, teacher)
    assert found.candidates == [teacher.model_copy(update={"hidden_size": 8})]


def test_axes_left_out_keep_the_teachers_sizes() -> None:
    budget = Budget(parameters=counted(TEACHER.axes, "total"), tolerance=0)
    assert enumerate_candidates(SearchSpace(), budget, TEACHER).candidates == [TEACHER]


def test_the_order_of_candidates_does_not_depend_on_the_order_in_the_spec() -> None:
    budget = Budget(parameters=6_000, tolerance=0.9)
    one = {"num_hidden_layers": [1, 4, 2], "hidden_size": [12, 24], "intermediate_size": [30, 7, 9]}
    other = {name: sizes[::-1] for name, sizes in reversed(one.items())}
    found = [enumerate_candidates(space_of(choices), budget, TEACHER).candidates for choices in (one, other)]
    assert found[0] == found[1]
    assert [c.axes for c in found[0]] == sorted((c.axes for c in found[0]), reverse=True)
    assert len(found[0]) > 10


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(1, 10**12), st.integers(0, 999))
def test_the_window_holds_exactly_the_counts_within_the_tolerance(target: int, thousandths: int) -> None:
    """Whole-number arithmetic decides; 1.1 * 100 in floating point is more than 110."""
    low, high = Budget(parameters=target, tolerance=thousandths / 1000).window
    smallest, largest = target * (1000 - thousandths), target * (1000 + thousandths)
    assert (low - 1) * 1000 < smallest <= low * 1000
    assert high * 1000 <= largest < (high + 1) * 1000


TEACHER_COUNT = counted(TEACHER.axes, "total")
ENDS = [(TEACHER_COUNT * 4 / 5, 0.25), (TEACHER_COUNT * 5 / 4, 0.2), (TEACHER_COUNT, 0)]
"""(target, tolerance) of windows that the teacher's count is the very end of: the upper, the lower, both."""


@pytest.mark.parametrize(("target", "tolerance"), ENDS)
def test_a_shape_at_the_very_end_of_the_window_is_a_candidate(target: float, tolerance: float) -> None:
    budget = Budget(parameters=target, tolerance=tolerance)
    assert TEACHER_COUNT in budget.window
    assert enumerate_candidates(SearchSpace(), budget, TEACHER).candidates == [TEACHER]


@pytest.mark.parametrize(("end", "step"), [(ENDS[0], -0.01), (ENDS[1], 0.01), (ENDS[2], -0.01), (ENDS[2], 0.01)])
def test_a_shape_just_outside_the_window_is_not(end: tuple[float, float], step: float) -> None:
    with pytest.raises(BudgetError):
        enumerate_candidates(SearchSpace(), Budget(parameters=end[0] + step, tolerance=end[1]), TEACHER)


def test_non_embedding_budgets_leave_out_embedding_and_head() -> None:
    choices = {"hidden_size": [24, 12]}
    for axes in (TEACHER.axes, (4, 12, 30, 6)):
        budget = Budget(parameters=counted(axes, "non_embedding"), tolerance=0, counting="non_embedding")
        assert [c.axes for c in enumerate_candidates(space_of(choices), budget, TEACHER).candidates] == [axes]


def test_shapes_that_the_family_cannot_have_are_counted_and_left_out() -> None:
    found = enumerate_candidates(
        space_of({"hidden_size": [24, 22, 20, 18], "num_attention_heads": [6, 4]}),
        ANY_BUDGET,
        TEACHER,
    )
    assert [(c.hidden_size, c.num_attention_heads) for c in found.candidates] == [(24, 6), (24, 4), (20, 4), (18, 6)]
    assert (found.num_illegal, found.num_outside_budget) == (4, 0)


IMPOSSIBLE = [
    ("num_hidden_layers", [5], "5 is more than the teacher's 4; accepted: sizes up to 4"),
    ("hidden_size", [24, 25], "25 is more than the teacher's 24; accepted: sizes up to 24"),
    ("intermediate_size", [31, 7], "31 is more than the teacher's 30; accepted: sizes up to 30"),
    (
        "num_attention_heads",
        [8],
        "8 is more than the teacher's 6; accepted: multiples of the teacher's 2 key-value heads up to 6",
    ),
    (
        "num_attention_heads",
        [4, 3],
        "3 is not a multiple of 2; accepted: multiples of the teacher's 2 key-value heads up to 6",
    ),
]


@pytest.mark.parametrize(("name", "sizes", "sentence"), IMPOSSIBLE)
def test_a_size_the_teacher_cannot_give_is_refused(name: str, sizes: list[int], sentence: str) -> None:
    assert refusal(SpecError, {name: sizes}, ANY_BUDGET) == f"space.{name}: {sentence}."


def test_a_space_without_any_legal_shape_names_the_rule() -> None:
    assert refusal(SpecError, {"hidden_size": [23, 22]}, ANY_BUDGET) == (
        "space: {'hidden_size': (23, 22)} has no shape that is legal for llama; "
        "accepted: hidden_size as a multiple of num_attention_heads."
    )


TWO_SIZES = {"hidden_size": [24, 12]}
SMALL, LARGE = counted((4, 12, 30, 6), "total"), counted(TEACHER.axes, "total")
NEAREST_BELOW, NEAREST_ABOVE = f"4 x 12 x 30 x 6 with {SMALL:,}", f"4 x 24 x 30 x 6 with {LARGE:,}"


@pytest.mark.parametrize(
    ("target", "misses", "nearest"),
    [
        (SMALL - 1, NEAREST_BELOW, SMALL),
        (LARGE + 1, NEAREST_ABOVE, LARGE),
        (LARGE - 1, f"{NEAREST_BELOW} and {NEAREST_ABOVE}", LARGE),
    ],
)
def test_a_budget_that_nothing_fits_names_the_nearest_misses(target: int, misses: str, nearest: int) -> None:
    assert refusal(BudgetError, TWO_SIZES, Budget(parameters=target, tolerance=0)) == (
        f"budget.parameters: {target:,} leaves none of 2 shapes (total count from {target:,} to {target:,}; "
        f"nearest: {misses}); accepted: a target such as {nearest:,}, a wider budget.tolerance, or a wider space."
    )


def test_a_space_too_large_to_list_is_refused_with_the_limit() -> None:
    choices = {axis: list(range(1, 20)) for axis in ("hidden_size", "intermediate_size")}
    deep = TEACHER.model_copy(update={"num_hidden_layers": 300})
    space = SearchSpace.model_validate({**choices, "num_hidden_layers": list(range(1, 301))})
    with pytest.raises(SpecError, match=r"space: 108,300 shapes are too many to list; accepted: up to 100,000 shapes"):
        enumerate_candidates(space, ANY_BUDGET, deep)


def test_only_the_nearest_misses_on_either_side_are_named() -> None:
    choices = {"intermediate_size": [30, 20, 10, 1]}
    counts = [counted((4, 24, ffn, 6), "total") for ffn in (10, 20)]
    sentence = refusal(BudgetError, choices, Budget(parameters=sum(counts) / 2, tolerance=0))
    assert f"nearest: 4 x 24 x 10 x 6 with {counts[0]:,} and 4 x 24 x 20 x 6 with {counts[1]:,})" in sentence
