"""The grammar of a space: lists, ranges, ratios and multiples of the hidden size, and where a mistake is found."""

from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.space import IntermediateSizes, SearchSpace, Sizes

TEACHER_SIZE = 24

decimals = st.decimals(min_value=Decimal("0.001"), max_value=1, places=3)


def sizes(given: Any, teacher_size: int = TEACHER_SIZE, multiple: int = 1) -> list[int]:
    return Sizes.model_validate(given).of(teacher_size, multiple)


def of_hidden(given: Any, hidden_size: int, multiple: int = 1) -> list[int]:
    return IntermediateSizes.model_validate(given).of_hidden(TEACHER_SIZE, hidden_size, multiple)


def by_hand(size: Decimal, multiple: int) -> int:
    """As at school: a half goes up, and nothing becomes 0."""
    return max(1, int((size / multiple).quantize(Decimal(1), ROUND_HALF_UP))) * multiple


# --- lists and ranges -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [[3, 24, 7], (24, 3, 7), {"values": [7, 24, 3]}, [3.0, 24, "7"]])
def test_a_list_is_its_sizes_from_large_to_small(given: Any) -> None:
    assert sizes(given) == [24, 7, 3]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"min": 22}, [24, 23, 22]),
        ({"min": 10, "step": 5}, [20, 15, 10]),
        ({"min": 4, "max": 12, "step": 4}, [12, 8, 4]),
        ({"min": 4, "max": 13, "step": 4}, [12, 8, 4]),
        ({"min": 4, "max": 4, "step": 9}, [4]),
        ({"min": 24}, [24]),
        ({"min": 24, "max": 26}, [26, 25, 24]),
        ({"min": 25}, []),
    ],
)
def test_a_range_goes_from_min_in_steps_up_to_max_or_the_teachers_size(given: Any, expected: list[int]) -> None:
    assert sizes(given) == expected


@pytest.mark.parametrize("given", [[5, 7], {"min": 5, "step": 2, "max": 7}])
def test_a_multiple_does_not_round_lists_and_ranges(given: Any) -> None:
    """Sizes that are no multiples are left out of the grid, by a rule that says how many."""
    assert sizes(given, multiple=4) == [7, 5]


def test_sizes_read_back_as_they_were_given() -> None:
    space = SearchSpace.model_validate(
        {"num_hidden_layers": [4, 2], "hidden_size": {"min": 8, "step": 8}, "intermediate_size": {"times_hidden": [2]}}
    )
    assert SearchSpace.model_validate_json(space.model_dump_json()) == space


# --- ratios and multiples of the hidden size --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ratios", "multiple", "expected"),
    [
        ([0.5, 1], 1, [24, 12]),
        ([0.1], 1, [2]),  # 2.4
        ([0.1875], 1, [5]),  # 4.5
        ([0.1458333], 1, [3]),  # 3.4999992
        ([0.001], 1, [1]),  # Not 0.
        ([0.25, 0.5, 1], 4, [24, 12, 8]),  # 6 lies halfway from 4 to 8.
        ([0.1], 16, [16]),
        ([0.49, 0.5, 0.51], 8, [16, 8]),  # 11.76, 12 and 12.24: two of them are the same multiple.
    ],
)
def test_ratios_are_rounded_to_the_nearest_multiple_halves_up(
    ratios: list[float], multiple: int, expected: list[int]
) -> None:
    assert sizes({"ratios": ratios}, multiple=multiple) == expected


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(decimals, min_size=1, max_size=5, unique=True), st.integers(1, 20_000), st.integers(1, 300))
def test_ratios_are_rounded_as_decimals(ratios: list[Decimal], teacher_size: int, multiple: int) -> None:
    """As written, not as floating point has them: 0.15 of 10 is one and a half. Never beyond the teacher's own size."""
    largest = max(teacher_size - teacher_size % multiple, multiple)
    rounded = (by_hand(ratio * teacher_size, multiple) for ratio in ratios)
    expected = sorted({min(size, largest) for size in rounded}, reverse=True)
    assert sizes({"ratios": list(map(float, ratios))}, teacher_size, multiple) == expected


@settings(derandomize=True, deadline=None, max_examples=150)
@given(st.lists(decimals, min_size=1, max_size=5, unique=True), st.integers(1, 20_000), st.integers(1, 300))
def test_multiples_of_the_hidden_size_are_rounded_alike(tenths: list[Decimal], hidden_size: int, multiple: int) -> None:
    factors = [10 * factor for factor in tenths]
    expected = sorted({by_hand(factor * hidden_size, multiple) for factor in factors}, reverse=True)
    assert of_hidden({"times_hidden": list(map(float, factors))}, hidden_size, multiple) == expected


def test_other_sizes_of_the_mlp_do_not_depend_on_the_hidden_size() -> None:
    for hidden_size in (8, 16):
        assert of_hidden([20, 10], hidden_size) == [20, 10]
        assert of_hidden({"ratios": [0.5]}, hidden_size) == [12]
        assert of_hidden({"min": 23}, hidden_size) == [24, 23]


def test_the_papers_space_is_short() -> None:
    factors = {"times_hidden": [2.5, 3, 3.5, 4]}
    assert of_hidden(factors, 4608) == [18432, 16128, 13824, 11520]


# --- mistakes ---------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], tuple[str | int, ...], str]] = [
    ({"hidden_size": []}, ("hidden_size", "values"), "holds no value"),
    ({"hidden_size": [8, 0]}, ("hidden_size", "values", 1), "greater than 0"),
    ({"hidden_size": [8, 4, 8]}, ("hidden_size", "values"), "holds a value twice"),
    ({"hidden_size": [True]}, ("hidden_size", "values", 0), "is not a number"),
    ({"hidden_size": [1.5]}, ("hidden_size", "values", 0), "valid integer"),
    ({"hidden_size": 8}, ("hidden_size",), "is neither a list nor an object"),
    ({"hidden_size": "8"}, ("hidden_size",), "is neither a list nor an object"),
    ({"hidden_size": {}}, ("hidden_size",), "holds nothing"),
    ({"hidden_size": {"min": 0}}, ("hidden_size", "min"), "greater than 0"),
    ({"hidden_size": {"min": 8, "step": 0}}, ("hidden_size", "step"), "greater than 0"),
    ({"hidden_size": {"min": 8, "max": 4}}, ("hidden_size",), "holds nothing: min 8 is more than max 4"),
    ({"hidden_size": {"min": 8, "steps": 4}}, ("hidden_size", "steps"), "Extra inputs"),
    ({"hidden_size": {"min": 8, "ratios": [0.5]}}, ("hidden_size",), "holds min and ratios"),
    ({"hidden_size": {"values": [8], "step": 4}}, ("hidden_size",), "holds values and parts of a range"),
    ({"hidden_size": {"ratios": [0.5], "max": 4}}, ("hidden_size",), "holds ratios and parts of a range"),
    ({"hidden_size": {"ratios": []}}, ("hidden_size", "ratios"), "holds no value"),
    ({"hidden_size": {"ratios": [0.5, 0.5]}}, ("hidden_size", "ratios"), "holds a value twice"),
    ({"hidden_size": {"ratios": [0.5, 0]}}, ("hidden_size", "ratios", 1), "greater than 0"),
    ({"hidden_size": {"ratios": [1.01]}}, ("hidden_size", "ratios", 0), "less than or equal to 1"),
    ({"hidden_size": {"times_hidden": [2]}}, ("hidden_size", "times_hidden"), "Extra inputs"),
    ({"intermediate_size": {"times_hidden": []}}, ("intermediate_size", "times_hidden"), "holds no value"),
    ({"intermediate_size": {"times_hidden": [2, 2.0]}}, ("intermediate_size", "times_hidden"), "holds a value twice"),
    ({"intermediate_size": {"times_hidden": [0]}}, ("intermediate_size", "times_hidden", 0), "greater than 0"),
    (
        {"intermediate_size": {"times_hidden": [2], "values": [8]}},
        ("intermediate_size",),
        "holds values and times_hidden",
    ),
    ({"multiple_of": {"vocab_size": 8}}, ("multiple_of", "vocab_size", "[key]"), "'num_experts'"),
    ({"multiple_of": {"hidden_size": 0}}, ("multiple_of", "hidden_size"), "greater than 0"),
    ({"thin": 0}, ("thin",), "greater than 0"),
    ({"thin": 1.1}, ("thin",), "less than or equal to 1"),
    ({"thin": True}, ("thin",), "is not a number"),
    ({"head_dim": [8]}, ("head_dim",), "Extra inputs"),
]


@pytest.mark.parametrize(("content", "where", "what"), MISTAKES)
def test_a_mistake_is_found_where_it_is(content: dict[str, Any], where: tuple[str | int, ...], what: str) -> None:
    with pytest.raises(ValidationError, match=what) as caught:
        SearchSpace.model_validate(content)
    assert [details["loc"] for details in caught.value.errors()] == [where]
