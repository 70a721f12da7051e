"""The answer to a budget that nothing fits, against plain loops; limits too large to be counted."""

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nas.architecture import Architecture, sizes_of
from nas.budget import Limit
from nas.cost import CostModel
from nas.enumeration import Enumeration
from nas.errors import BudgetError, SpecError
from nas.grid import grid
from nas.polynomial import Polynomial
from nas.space import SearchSpace
from tests.nas.loops import COUNTINGS, LENGTH, Case, Count, PlainLimit, bytes_of, cases, count_of, flops_of, loop
from tests.nas.shapes import small_llama

GQA = small_llama(num_hidden_layers=4, intermediate_size=30)
FIELDS = ("parameters", *(f"{counting}_parameters" for counting in COUNTINGS), "memory", "flops")
"""In the order in which limits are applied."""

OF = {"parameters": ("tolerance", "counting")}
SERVED: dict[str, Any] = {"dtype": "bfloat16", "batch_size": 3, "context": 5}


# --- budgets that nothing fits ----------------------------------------------------------------------------------


@st.composite
def impossible(draw: st.DrawFn) -> Case:
    """The first limits of some budget, and one in a gap between the costs of the shapes that these leave."""
    case = draw(cases())
    field = draw(st.sampled_from(FIELDS))
    first = [name for before in FIELDS[: FIELDS.index(field)] for name in (before, *OF.get(before, ()))]
    budget = {name: case.budget[name] for name in first if name in case.budget}
    left = loop(case.teacher, case.choices, budget).fitting
    assume(left)
    return Case(case.teacher, case.choices, {**budget, **draw(beside(field, left))})


@st.composite
def beside(draw: st.DrawFn, field: str, shapes: list[Architecture]) -> dict[str, Any]:
    if field == "memory":
        return {field: {**SERVED, "max_bytes": draw(below(least(bytes_of(SERVED), shapes)))}}
    if field == "flops":
        most = draw(below(least(flops_of("prefill", 4), shapes))) / 4
        return {field: {"phase": "prefill", "context": 4, "max_per_token": most}}
    counting = draw(st.sampled_from(COUNTINGS)) if field == "parameters" else field.removesuffix("_parameters")
    costs = sorted({count_of(counting)(shape) for shape in shapes})
    above = draw(st.integers(0, len(costs)))
    low = costs[above - 1] + 1 if above > 0 else None
    high = costs[above] - 1 if above < len(costs) else None
    assume(low is None or high is None or low <= high)
    if field == "parameters":
        target = draw(st.sampled_from([end for end in (low, high) if end is not None]))
        return {"parameters": target, "tolerance": 0, "counting": counting}
    return {field: {end: number for end, number in (("min", low), ("max", high)) if number is not None}}


def below(number: int) -> st.SearchStrategy[int]:
    """Just below, or so far that what earlier limits removed may come nearer."""
    return st.sampled_from([number - 1, number * 9 // 10, number // 2])


def least(count: Count, shapes: list[Architecture]) -> int:
    return min(count(shape) for shape in shapes)


# --- the answer by hand -----------------------------------------------------------------------------------------


def nearest(limit: PlainLimit, shapes: list[Architecture]) -> list[list[str]]:
    """What may be named below and above: shapes that cost the same are as good as each other."""
    costs = {shape: limit.count(shape) for shape in shapes}
    below = max((cost for shape, cost in costs.items() if limit.short(shape)), default=None)
    above = min((cost for shape, cost in costs.items() if limit.long(shape)), default=None)
    ends = [end for end in (below, above) if end is not None]
    return [[f"{s.label} with {cost / limit.per:,.0f}" for s, cost in costs.items() if cost == end] for end in ends]


@settings(derandomize=True, deadline=None, max_examples=80)
@given(impossible())
def test_the_first_limit_that_leaves_nothing_names_what_comes_nearest_on_either_side(case: Case) -> None:
    check_the_answer(case)


SHAPES = {"num_hidden_layers": [4, 2, 1], "hidden_size": [24, 18, 12], "intermediate_size": [30, 20, 10, 5]}
MANY_WORDS = small_llama(num_hidden_layers=4, intermediate_size=30, vocab_size=400)
"""Its embeddings outweigh its layers, so that parameters with and without them order shapes differently."""


@pytest.mark.parametrize("end", ["min", "max"])
def test_what_earlier_limits_removed_of_a_row_is_not_named(end: str) -> None:
    """Wherever the first limit cuts the rows, something that it removes comes nearer to the second, if anything can."""
    parameters, inner = count_of("total"), count_of("non_embedding")
    shapes = loop(MANY_WORDS, SHAPES, {}).fitting
    for cut in sorted(map(parameters, shapes)):
        left = [inner(s) for s in shapes if (parameters(s) >= cut if end == "min" else parameters(s) <= cut)]
        lower = max((cost for cost in map(inner, shapes) if cost < min(left)), default=min(left))
        higher = min((cost for cost in map(inner, shapes) if cost > max(left)), default=max(left))
        second = {"max": lower - 1} if end == "min" else {"min": higher + 1}
        budget = {"total_parameters": {end: cut}, "non_embedding_parameters": second}
        check_the_answer(Case(MANY_WORDS, SHAPES, budget))


def check_the_answer(case: Case) -> None:
    plain = case.loop
    position = next(number for number, left in enumerate(plain.left[1:]) if not left)
    limit, shapes = plain.limits[position], plain.left[position]
    with pytest.raises(BudgetError) as caught:
        case.enumerate()
    fields = [field for field in FIELDS if field in case.budget]
    assert caught.value.field == f"budget.{fields[position]}"
    others = " that the limits before it leave" if position else ""
    assert caught.value.problem.startswith(f"leaves none of {len(shapes):,} shapes{others} (")
    named = [" and ".join(pair) for pair in product(*nearest(limit, shapes))]
    assert any(caught.value.problem.endswith(f"nearest: {pair})") for pair in named)
    off = {cost: distance(cost, limit) for cost in map(limit.count, shapes)}
    closest = {f"{cost / limit.per:,.0f}" for cost, away in off.items() if away == min(off.values())}
    if fields[position] == "parameters":
        expected = {f"a target such as {cost}, a wider budget.tolerance, or a wider space" for cost in closest}
        assert caught.value.value == f"{case.budget['parameters']:,}"
    else:
        expected = {f"a limit that leaves {cost} in, or a wider space" for cost in closest}
    assert caught.value.accepted in expected


def distance(cost: int, limit: PlainLimit) -> float:
    """From the limit; a target is a limit from both sides."""
    return float(min(abs(cost - end) for end in (limit.low, limit.high) if end is not None))


# --- whole sentences --------------------------------------------------------------------------------------------

TWO_SIZES = {"hidden_size": [24, 12]}
SMALL, LARGE = (count_of("total")(GQA.resized(hidden_size=hidden)) for hidden in (12, 24))
BELOW, ABOVE = f"4 x 12 x 30 x 6/2 with {SMALL:,}", f"4 x 24 x 30 x 6/2 with {LARGE:,}"


def refusal(choices: dict[str, list[int]], budget: dict[str, Any], teacher: Architecture = GQA) -> str:
    with pytest.raises(BudgetError) as caught:
        Case(teacher, choices, budget).enumerate()
    return str(caught.value)


@pytest.mark.parametrize(
    ("target", "misses", "closest"),
    [(SMALL - 1, BELOW, SMALL), (LARGE + 1, ABOVE, LARGE), (LARGE - 1, f"{BELOW} and {ABOVE}", LARGE)],
)
def test_a_target_is_answered_with_one_that_something_fits(target: int, misses: str, closest: int) -> None:
    assert refusal(TWO_SIZES, {"parameters": target, "tolerance": 0}) == (
        f"budget.parameters: {target:,} leaves none of 2 shapes (total parameters from {target:,} to {target:,}; "
        f"nearest: {misses}); accepted: a target such as {closest:,}, a wider budget.tolerance, or a wider space."
    )


def test_the_shapes_that_earlier_limits_removed_are_not_named() -> None:
    needed = bytes_of(SERVED)(GQA.resized(hidden_size=24))
    budget = {"total_parameters": {"min": LARGE}, "memory": {**SERVED, "max_bytes": needed - 1}}
    sentence = refusal(TWO_SIZES, budget)
    assert sentence.startswith("budget.memory: bytes of weights and cache (3 x 5 tokens, bfloat16) up to ")
    assert "leaves none of 1 shapes that the limits before it leave" in sentence
    assert f"nearest: 4 x 24 x 30 x 6/2 with {needed:,})" in sentence
    assert sentence.endswith(f"accepted: a limit that leaves {needed:,} in, or a wider space.")


def test_flops_are_named_per_token() -> None:
    needed = flops_of("prefill", LENGTH)(GQA) / LENGTH
    sentence = refusal({}, {"flops": {"max_per_token": 1, "phase": "prefill", "context": None}})
    assert f"with {needed:,.0f})" in sentence
    assert sentence.endswith(f"accepted: a limit that leaves {needed:,.0f} in, or a wider space.")


# --- costs that 64 bits do not hold -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "field", "what"),
    [
        (
            {"memory": {"max_bytes": 1e9, "batch_size": 2**40, "context": 2**20}},
            "budget.memory",
            "bytes of weights and cache (1099511627776 x 1,048,576 tokens, bfloat16)",
        ),
        (
            {"memory": {"max_bytes": 1e30, "batch_size": 2**30, "context": 2**24}},
            "budget.memory",
            "bytes of weights and cache (1073741824 x 16,777,216 tokens, bfloat16)",
        ),
        (
            {"flops": {"max_per_token": 1e9, "context": 2**31}},
            "budget.flops",
            "FLOPs per token (prefill, 2,147,483,648 tokens)",
        ),
    ],
)
def test_a_cost_beyond_64_bits_is_refused(budget: dict[str, Any], field: str, what: str) -> None:
    with pytest.raises(SpecError) as caught:
        Case(GQA, {}, budget).enumerate()
    assert str(caught.value) == (
        f"{field}: {what} is too large to be counted; accepted: a shorter context or smaller batch."
    )


def test_half_of_what_is_refused_is_counted() -> None:
    """2^61 bytes of cache, and the weights; twice as many are refused above."""
    budget = {"memory": {"max_bytes": 1e30, "batch_size": 2**30, "context": 2**23, "dtype": "bfloat16"}}
    assert list(Case(GQA, {}, budget).enumerate()) == [GQA]


def test_a_window_does_not_hide_a_context_that_64_bits_do_not_hold() -> None:
    """The cost is small then, but not each part of the sum that it is."""
    teacher = small_llama(num_sliding_layers=3, sliding_window=4)
    with pytest.raises(SpecError, match="is too large to be counted"):
        Case(teacher, {}, {"memory": {"max_bytes": 1e9, "context": 2**62}}).enumerate()


COSTS: dict[str, Callable[[CostModel], Polynomial]] = {
    "prefill": lambda costs: costs.prefill_flops(2**26),
    "decode": lambda costs: costs.decode_flops(2**50),
    "memory": lambda costs: costs.cache_bytes("float8", 2**10, 2**43) + costs.weight_bytes("float8"),
}


@pytest.mark.parametrize("sliding", [0, 2])
@pytest.mark.parametrize("kind", COSTS)
def test_a_cost_just_below_64_bits_is_counted_to_the_last_bit(kind: str, sliding: int) -> None:
    teacher = small_llama(num_hidden_layers=4, num_sliding_layers=sliding, sliding_window=8 * bool(sliding))
    choices = {"num_hidden_layers": [4, 3, 2, 1], "intermediate_size": [14, 7, 1], "hidden_size": [24, 12]}
    costs = {s: COSTS[kind](CostModel(s)).at(sizes_of(s)) for s in loop(teacher, choices, {}).fitting}
    assert max(costs.values()) > 2**57
    shapes = grid(SearchSpace.model_validate(choices), teacher)
    for most in {cost + off for cost in costs.values() for off in (-1, 0)}:
        limit = Limit("field", "what", COSTS[kind](CostModel(teacher)), 0, most)
        assert list(Enumeration(teacher, shapes, (limit,))) == [shape for shape, cost in costs.items() if cost <= most]
