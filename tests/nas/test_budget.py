"""What a budget allows, to the last parameter, byte and FLOP."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nas.architecture import Architecture, sizes_of
from nas.budget import Budget, Limit, limits
from nas.cost import Cost, CostModel, cost
from nas.enumeration import enumerate_candidates
from nas.errors import BudgetError
from nas.polynomial import LARGEST
from nas.space import SearchSpace
from tests.nas.families.small import ALL
from tests.nas.shapes import small_llama

TEACHER = small_llama(num_hidden_layers=4, num_sliding_layers=1, sliding_window=3)
MIXTRAL = next(variant.architecture for variant in ALL if str(variant) == "mixtral-0")
LENGTH = 7

SERVED = {"batch_size": 2, "context": 5, "dtype": "float32"}


def limits_of(budget: dict[str, Any], teacher: Architecture = TEACHER) -> list[Limit]:
    return limits(Budget.model_validate(budget), CostModel(teacher), LENGTH)


def only_limit(budget: dict[str, Any], teacher: Architecture = TEACHER) -> Limit:
    (limit,) = limits_of(budget, teacher)
    return limit


def fits(budget: dict[str, Any], teacher: Architecture = TEACHER) -> bool:
    """Whether the teacher itself is within its budget."""
    try:
        found = enumerate_candidates(
            SearchSpace(), Budget.model_validate(budget), teacher, sequence_length=LENGTH
        ).first(2)
    except BudgetError:
        return False
    assert found == [teacher]
    return True


def costs_of(teacher: Architecture, context: int = LENGTH) -> Cost:
    return cost(teacher, dtype="bfloat16", batch_size=1, context=context)


# --- the window around a target ---------------------------------------------------------------------------------


@settings(derandomize=True, deadline=None, max_examples=200)
@given(st.integers(1, 10**12), st.integers(0, 999))
@example(100, 150)
def test_the_window_holds_exactly_the_counts_within_the_tolerance(target: int, thousandths: int) -> None:
    """Whole-number arithmetic decides; 1.15 * 100 in floating point is less than 115."""
    low, high = Budget(parameters=target, tolerance=thousandths / 1000).window
    smallest, largest = target * (1000 - thousandths), target * (1000 + thousandths)
    assert (low - 1) * 1000 < smallest <= low * 1000
    assert high * 1000 <= largest < (high + 1) * 1000


COUNT = costs_of(TEACHER).parameters
ENDS = [(COUNT * 4 / 5, 0.25), (COUNT * 5 / 4, 0.2), (COUNT, 0)]
"""(target, tolerance) of windows that the teacher's count is the very end of: the upper, the lower, both."""


@pytest.mark.parametrize(("target", "tolerance"), ENDS)
def test_a_shape_at_the_very_end_of_the_window_fits(target: float, tolerance: float) -> None:
    assert COUNT in Budget(parameters=target, tolerance=tolerance).window
    assert fits({"parameters": target, "tolerance": tolerance})


@pytest.mark.parametrize(("end", "step"), [(ENDS[0], -0.01), (ENDS[1], 0.01), (ENDS[2], -0.01), (ENDS[2], 0.01)])
def test_a_shape_just_outside_the_window_does_not(end: tuple[float, float], step: float) -> None:
    assert not fits({"parameters": end[0] + step, "tolerance": end[1]})


def test_the_default_is_the_papers_five_percent() -> None:
    assert Budget(parameters=100).window == (95, 105)


# --- what is counted --------------------------------------------------------------------------------------------

COUNTED = [
    ("total", costs_of(MIXTRAL).parameters),
    ("non_embedding", costs_of(MIXTRAL).non_embedding_parameters),
    ("active", costs_of(MIXTRAL).active_parameters),
]


def test_a_mixture_of_experts_counts_differently_each_way() -> None:
    """Otherwise the tests below would not tell one way from another."""
    assert len({count for _, count in COUNTED}) == 3


@pytest.mark.parametrize(("counting", "count"), COUNTED)
def test_a_target_and_a_range_count_what_they_say(counting: str, count: int) -> None:
    target = {"parameters": count, "tolerance": 0, "counting": counting}
    assert fits(target, MIXTRAL)
    name = f"{counting}_parameters"
    assert fits({name: {"min": count, "max": count}}, MIXTRAL)
    assert fits({name: {"min": count}}, MIXTRAL)
    assert fits({name: {"max": count}}, MIXTRAL)
    assert not fits({name: {"min": count + 1}}, MIXTRAL)
    assert not fits({name: {"max": count - 1}}, MIXTRAL)


def test_a_range_may_end_between_two_counts() -> None:
    assert fits({"total_parameters": {"min": COUNT - 0.5, "max": COUNT + 0.5}})
    assert not fits({"total_parameters": {"min": COUNT + 0.5}})
    assert not fits({"total_parameters": {"max": COUNT - 0.5}})


@pytest.mark.parametrize("served", [{}, SERVED, {"context": 2}, {"batch_size": 3, "dtype": "int8"}])
def test_memory_holds_weights_and_cache_to_the_last_byte(served: dict[str, Any]) -> None:
    costs = cost(TEACHER, **{"dtype": "bfloat16", "batch_size": 1, "context": LENGTH, **served})
    needed = costs.weight_bytes + costs.kv_cache_bytes
    assert fits({"memory": {"max_bytes": needed, **served}})
    assert not fits({"memory": {"max_bytes": needed - 1, **served}})


@pytest.mark.parametrize("context", [None, 1, 2, 5, 8])
def test_decoding_takes_at_most_the_flops_of_the_last_token(context: int | None) -> None:
    needed = costs_of(TEACHER, context or LENGTH).decode_flops_per_token
    assert fits({"flops": {"max_per_token": needed, "phase": "decode", "context": context}})
    assert not fits({"flops": {"max_per_token": needed - 1, "phase": "decode", "context": context}})


@pytest.mark.parametrize("context", [None, 1, 2, 4, 8])
def test_prefill_takes_at_most_the_mean_over_the_sequence(context: int | None) -> None:
    length = context or LENGTH
    whole = round(costs_of(TEACHER, length).prefill_flops_per_token * length)
    limit = only_limit({"flops": {"max_per_token": whole / length, "context": context}})
    assert limit.per == length
    assert fits({"flops": {"max_per_token": whole / length + 1e-6, "context": context}})
    assert not fits({"flops": {"max_per_token": (whole - 1) / length, "context": context}})


def test_a_limit_per_token_is_multiplied_exactly() -> None:
    """0.29 * 100 in floating point is less than 29."""
    limit = only_limit({"flops": {"max_per_token": 0.29, "context": 100}})
    assert (limit.low, limit.high) == (0, 29)


def test_all_that_is_given_has_to_hold() -> None:
    count, decode = COUNT, costs_of(TEACHER).decode_flops_per_token
    both = {"total_parameters": {"max": count}, "flops": {"max_per_token": decode, "phase": "decode"}}
    assert fits(both)
    assert not fits({**both, "total_parameters": {"max": count - 1}})
    assert not fits({**both, "flops": {"max_per_token": decode - 1, "phase": "decode"}})


# --- limits as data ---------------------------------------------------------------------------------------------


def test_limits_come_in_the_order_of_the_fields_with_the_costs_they_are_of() -> None:
    budget = {
        "flops": {"max_per_token": 9e5},
        "memory": {"max_bytes": 1e6, **SERVED},
        "active_parameters": {"max": 3},
        "non_embedding_parameters": {"min": 2.5},
        "total_parameters": {"min": 1, "max": 2},
        "parameters": 1000,
        "counting": "non_embedding",
    }
    found = limits_of(budget, MIXTRAL)
    served = cost(MIXTRAL, dtype="float32", batch_size=2, context=5)
    expected = [
        ("budget.parameters", served.non_embedding_parameters, 950, 1050),
        ("budget.total_parameters", served.parameters, 1, 2),
        ("budget.non_embedding_parameters", served.non_embedding_parameters, 3, LARGEST),
        ("budget.active_parameters", served.active_parameters, 0, 3),
        ("budget.memory", served.weight_bytes + served.kv_cache_bytes, 0, 1_000_000),
        ("budget.flops", costs_of(MIXTRAL).prefill_flops_per_token * LENGTH, 0, 900_000 * LENGTH),
    ]
    assert [(limit.field, limit.cost.at(sizes_of(MIXTRAL)), limit.low, limit.high) for limit in found] == expected


TEXTS: list[tuple[dict[str, Any], str]] = [
    ({"parameters": 4e9}, "total parameters from 3,800,000,000 to 4,200,000,000"),
    ({"parameters": 100, "counting": "non_embedding"}, "non-embedding parameters from 95 to 105"),
    ({"total_parameters": {"min": 7.8e9, "max": 8.5e9}}, "total parameters from 7,800,000,000 to 8,500,000,000"),
    ({"non_embedding_parameters": {"max": 2e9}}, "non-embedding parameters up to 2,000,000,000"),
    ({"active_parameters": {"min": 1e9}}, "active parameters from 1,000,000,000"),
    (
        {"memory": {"max_bytes": 16e9, "batch_size": 8, "context": 8192, "dtype": "int8"}},
        "bytes of weights and cache (8 x 8,192 tokens, int8) up to 16,000,000,000",
    ),
    ({"memory": {"max_bytes": 99}}, "bytes of weights and cache (1 x 7 tokens, bfloat16) up to 99"),
    ({"flops": {"max_per_token": 5e9, "context": 4096}}, "FLOPs per token (prefill, 4,096 tokens) up to 5,000,000,000"),
    (
        {"flops": {"max_per_token": 5e9, "phase": "decode"}},
        "FLOPs per token (decode, 7 tokens) up to 5,000,000,000",
    ),
]


@pytest.mark.parametrize(("budget", "text"), TEXTS)
def test_a_limit_says_what_it_is(budget: dict[str, Any], text: str) -> None:
    assert only_limit(budget).text == text


@pytest.mark.parametrize(
    "budget",
    [
        {"parameters": 1e30},
        {"parameters": 1e30, "tolerance": 0.999},
        {"total_parameters": {"min": 1e30}},
        {"active_parameters": {"min": 1e30, "max": 2e30}},
    ],
)
def test_a_budget_beyond_all_models_is_answered_like_any_that_nothing_fits(budget: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match=r"budget\.[a-z_]+: .+ leaves none of 1 shapes"):
        enumerate_candidates(SearchSpace(), Budget.model_validate(budget), TEACHER, sequence_length=LENGTH)


@pytest.mark.parametrize(
    "budget",
    [
        {"total_parameters": {"max": 1e30}},
        {"memory": {"max_bytes": 1e30}},
        {"flops": {"max_per_token": 1e30}},
        {"total_parameters": {"min": 0}},
    ],
)
def test_a_limit_beyond_all_models_limits_nothing(budget: dict[str, Any]) -> None:
    assert fits(budget)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.decimals(min_value="0.001", max_value=10**9, places=3), st.integers(1, 10**6))
def test_every_limit_is_the_exact_product_rounded_down(most: Any, context: int) -> None:
    limit = only_limit({"flops": {"max_per_token": float(most), "context": context}})
    exact = Fraction(most) * context
    assert limit.high <= exact < limit.high + 1


# --- mistakes ---------------------------------------------------------------------------------------------------

MISTAKES: list[tuple[dict[str, Any], tuple[str, ...], str]] = [
    ({}, (), "limits nothing"),
    ({"tolerance": 0.1, "counting": "active"}, (), "limits nothing"),
    ({"parameters": 0}, ("parameters",), "greater than 0"),
    ({"parameters": True}, ("parameters",), "is not a number"),
    ({"parameters": float("inf")}, ("parameters",), "finite"),
    ({"parameters": 1, "tolerance": 1}, ("tolerance",), "less than 1"),
    ({"parameters": 1, "tolerance": -0.1}, ("tolerance",), "greater than or equal to 0"),
    ({"parameters": 1, "counting": "all"}, ("counting",), "'total', 'non_embedding' or 'active'"),
    ({"total_parameters": {}}, ("total_parameters",), "holds neither min nor max"),
    (
        {"total_parameters": {"min": 3e9, "max": 2e9}},
        ("total_parameters",),
        "holds nothing: min 3,000,000,000 is more than max 2,000,000,000",
    ),
    ({"total_parameters": {"min": -1}}, ("total_parameters", "min"), "greater than or equal to 0"),
    ({"active_parameters": {"max": 0}}, ("active_parameters", "max"), "greater than 0"),
    ({"memory": {}}, ("memory", "max_bytes"), "required"),
    ({"memory": {"max_bytes": 0}}, ("memory", "max_bytes"), "greater than 0"),
    ({"memory": {"max_bytes": 1, "dtype": "int4"}}, ("memory", "dtype"), "'float8' or 'int8'"),
    ({"memory": {"max_bytes": 1, "batch_size": 0}}, ("memory", "batch_size"), "greater than 0"),
    ({"memory": {"max_bytes": 1, "context": 0}}, ("memory", "context"), "greater than 0"),
    ({"flops": {"max_per_token": 0}}, ("flops", "max_per_token"), "greater than 0"),
    ({"flops": {"max_per_token": 1, "phase": "train"}}, ("flops", "phase"), "'prefill' or 'decode'"),
    ({"latency": {"table": "t"}}, ("latency", "max_milliseconds"), "required"),
    ({"latency": {"max_milliseconds": 1}}, ("latency", "table"), "required"),
    ({"params": 1}, ("params",), "Extra inputs"),
]


@pytest.mark.parametrize(("content", "where", "what"), MISTAKES)
def test_a_mistake_is_found_where_it_is(content: dict[str, Any], where: tuple[str, ...], what: str) -> None:
    with pytest.raises(ValidationError, match=what) as caught:
        Budget.model_validate(content)
    assert caught.value.errors()[0]["loc"] == where
