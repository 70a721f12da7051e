"""Counted, listed, sampled and thinned shapes against plain loops over every shape."""

from collections import Counter
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas import counting, enumeration
from nas.architecture import Architecture
from nas.counting import along_of
from nas.errors import BudgetError, SpecError
from tests.nas.loops import Case, bytes_of, cases, combinations, count_of, loop
from tests.nas.shapes import LLAMA_8B, small_llama

GQA = small_llama(num_hidden_layers=4, intermediate_size=30)
MOST: dict[str, Any] = {"total_parameters": {"max": 1e30}}
"""A budget that everything fits."""


# --- counts, lists and samples ----------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=120)
@given(cases(), st.integers(0, 12), st.integers(1, 12), st.integers(0, 9), st.sampled_from([1, 5, 30_000]))
def test_enumeration_is_a_plain_loop_over_all_shapes(case: Case, offset: int, size: int, seed: int, rows: int) -> None:
    plain = case.loop
    expected = plain.fitting
    if not expected:
        with pytest.raises(BudgetError):
            case.enumerate()
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "ROWS_AT_ONCE", rows)
        found = case.enumerate()
        assert (len(found), found.counted.within) == (len(expected), tuple(map(len, plain.left)))
        assert list(found) == expected
        assert [shape.axes for shape in expected] == sorted((shape.axes for shape in expected), reverse=True)
        assert found.first(size, offset) == expected[offset : offset + size]
        assert found.num_shapes == len(combinations(case.teacher, case.choices))
        assert sum(found.removed.values()) == found.num_shapes - len(expected)
        removed = {text: shapes for text, shapes in found.removed.items() if text not in found.grid.removed}
        assert list(removed.values()) == [n for n in map(len_less, plain.left, plain.left[1:]) if n]
        is_stratified(found.sample(size, seed), expected, size)
        assert found.sample(size, seed) == case.enumerate().sample(size, seed)


def len_less(before: list[Architecture], after: list[Architecture]) -> int:
    return len(before) - len(after)


def is_stratified(sample: list[Architecture], shapes: list[Architecture], size: int) -> None:
    """One shape of each run, or all."""
    if size >= len(shapes):
        assert sample == shapes
        return
    starts = [len(shapes) * number // size for number in range(size + 1)]
    assert len(sample) == size
    for shape, start, end in zip(sample, starts, starts[1:], strict=False):
        assert shape in shapes[start:end]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(cases())
def test_counting_along_layers_and_along_the_mlp_is_the_same(case: Case) -> None:
    """And the same as a plain loop: it says how many shapes each block of one depth and width has."""
    assume(not case.teacher.num_sliding_layers and case.loop.fitting)
    found = case.enumerate()
    hidden_sizes = [plane.hidden_size for plane in found.grid.planes]
    blocks = [[0] * len(hidden_sizes) for _ in found.grid.layers]
    for shape in case.loop.fitting:
        blocks[found.grid.layers.index(shape.num_hidden_layers)][hidden_sizes.index(shape.hidden_size)] += 1
    for along in ("num_hidden_layers", "intermediate_size"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(counting, "along_of", lambda plane, along=along: along)
            counted = counting.count(found.grid, found.limits)
        assert counted.within == tuple(map(len, case.loop.left))
        assert counted.of_block.tolist() == blocks


SHAPES: dict[str, list[int]] = {
    "num_hidden_layers": [4, 3, 2, 1],
    "intermediate_size": [30, 25, 20, 15, 10, 5],
    "num_attention_heads": [6, 2],
    "num_key_value_heads": [2, 1],
}


@pytest.mark.parametrize("along", ["num_hidden_layers", "intermediate_size"])
def test_limits_that_pull_apart_leave_what_is_within_both(along: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full cache is of layers and key-value heads, parameters mostly of the MLP: many rows are within neither."""
    monkeypatch.setattr(counting, "along_of", lambda plane: along)
    served = {"dtype": "bfloat16", "batch_size": 40, "context": 40}
    shapes = loop(GQA, SHAPES, {}).fitting
    parameters, memory = ({shape: count(shape) for shape in shapes} for count in (count_of("total"), bytes_of(served)))
    for least in sorted(set(parameters.values()))[::4]:
        for most in sorted(set(memory.values()))[::4]:
            fitting = [shape for shape in shapes if parameters[shape] >= least and memory[shape] <= most]
            if fitting:
                budget = {"total_parameters": {"min": least}, "memory": {**served, "max_bytes": most}}
                found = Case(GQA, SHAPES, budget).enumerate()
                assert (list(found), found.first(99, 1)) == (fitting, fitting[1:])


@pytest.mark.parametrize(
    ("layers", "ffn", "sliding", "along"),
    [
        (4, 3, 0, "num_hidden_layers"),
        (3, 3, 0, "intermediate_size"),
        (2, 3, 0, "intermediate_size"),
        (4, 3, 2, "intermediate_size"),
    ],
)
def test_rows_are_along_the_layers_where_these_are_more_and_none_attends_to_a_window(
    layers: int, ffn: int, sliding: int, along: str
) -> None:
    teacher = small_llama(num_hidden_layers=4, num_sliding_layers=sliding, sliding_window=sliding)
    choices = {"num_hidden_layers": [4, 3, 2, 1][:layers], "intermediate_size": [14, 7, 3][:ffn]}
    (plane,) = Case(teacher, choices, MOST).enumerate().grid.planes
    assert along_of(plane) == along


def test_every_shape_of_a_run_is_drawn_about_as_often() -> None:
    found = Case(GQA, {"num_hidden_layers": [4, 3, 2, 1], "intermediate_size": [30, 20, 10]}, MOST).enumerate()
    shapes, drawn = list(found), Counter(shape for seed in range(400) for shape in found.sample(4, seed))
    assert set(drawn) == set(shapes)
    assert all(90 < drawn[shape] < 180 for shape in shapes)  # Of 400, one in three.


def test_the_order_does_not_depend_on_the_order_in_the_spec() -> None:
    one = {"num_hidden_layers": [1, 4, 2], "hidden_size": [12, 24], "intermediate_size": [30, 7, 9]}
    other = {axis: sizes[::-1] for axis, sizes in reversed(one.items())}
    assert list(Case(GQA, one, MOST).enumerate()) == list(Case(GQA, other, MOST).enumerate())


def test_axes_left_out_keep_the_teachers_sizes() -> None:
    assert list(Case(GQA, {}, MOST).enumerate()) == [GQA]


def test_what_two_fields_of_a_budget_remove_alike_is_counted_once() -> None:
    budget = {"parameters": 20_000, "tolerance": 0.1, "total_parameters": {"min": 18_000, "max": 22_000}}
    case = Case(GQA, {"intermediate_size": list(range(1, 31))}, budget)
    found = case.enumerate()
    assert found.removed == {"total parameters from 18,000 to 22,000": 30 - len(case.loop.fitting)}


def test_a_deep_offset_is_reached_without_what_comes_before() -> None:
    """A page far down a list of a hundred million; going through all before it would take minutes."""
    choices = {
        "num_hidden_layers": list(range(1, 33)),
        "hidden_size": list(range(32, 4097, 32)),
        "intermediate_size": list(range(1, 14_337)),
    }
    found = Case(LLAMA_8B, choices, MOST).enumerate()
    (last,) = found.first(5, len(found) - 1)
    assert len(found) == 32 * 128 * 14_336
    assert last.axes == (1, 32, 1, 32, 8, 0)
    assert found.first(2, len(found)) == []


# --- near-duplicates --------------------------------------------------------------------------------------------


def classes(sizes: set[int], thin: Fraction) -> dict[int, int]:
    """The largest size leads a class of all that are no more than that share below it; the next leads the next."""
    leaders: dict[int, int] = {}
    for size in sorted(sizes, reverse=True):
        leaders[size] = next((leader for leader in leaders.values() if size * (1 + thin) >= leader), size)
    return leaders


def thinned(shapes: list[Architecture], thin: Fraction) -> list[Architecture]:
    of_axis = [classes(set(sizes), thin) for sizes in zip(*(shape.axes for shape in shapes), strict=True)]
    firsts: dict[tuple[int, ...], Architecture] = {}
    for shape in shapes:
        firsts.setdefault(tuple(leaders[size] for leaders, size in zip(of_axis, shape.axes, strict=True)), shape)
    return list(firsts.values())


@settings(derandomize=True, deadline=None, max_examples=60)
@given(cases(), st.sampled_from(["0.001", "0.05", "0.1", "0.25", "0.5", "1"]), st.integers(1, 6), st.integers(0, 4))
def test_of_near_duplicates_the_first_stays(case: Case, thin: str, size: int, offset: int) -> None:
    plain = case.loop
    assume(plain.fitting)
    found, expected = case.enumerate(thin=float(thin)), thinned(plain.fitting, Fraction(thin))
    assert (list(found), len(found)) == (expected, len(expected))
    assert found.first(size, offset) == expected[offset : offset + size]
    is_stratified(found.sample(size, 0), expected, size)
    text = f"near-duplicates within {float(thin) * 100:g}%"
    assert found.removed.get(text, 0) == len(plain.fitting) - len(expected)
    assert sum(found.removed.values()) == found.num_shapes - len(expected)


def test_a_share_is_meant_exactly() -> None:
    """100 * 1.15 in floating point is less than 115."""
    for thin, larger, smaller in ((0.1, 110, 100), (0.15, 115, 100)):
        wide = small_llama(intermediate_size=larger)
        for size, number in ((smaller, 1), (smaller - 1, 2)):
            assert len(Case(wide, {"intermediate_size": [larger, size]}, MOST).enumerate(thin=thin)) == number


def test_too_many_shapes_to_go_through_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration, "MOST_LISTED", 29)
    case = Case(GQA, {"intermediate_size": list(range(1, 31))}, MOST)
    with pytest.raises(SpecError) as caught:
        case.enumerate(thin=0.1)
    assert caught.value.field == "space.thin"
    assert "has to go through 30 shapes; accepted: at most 29 shapes" in str(caught.value)
    assert len(case.enumerate()) == 30
