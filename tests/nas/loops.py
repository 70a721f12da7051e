"""Spaces and budgets as plain loops over every shape: what the grid and the enumeration have to come to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import product
from typing import Any, TypeVar

from hypothesis import assume
from hypothesis import strategies as st

from nas.architecture import AXES, Architecture
from nas.budget import Budget
from nas.cost import Cost, Dtype, cost
from nas.enumeration import Enumeration, enumerate_candidates
from nas.families import family_named
from nas.space import SearchSpace
from tests.nas.families.small import ALL, Variant, legal_hidden_sizes

LENGTH = 7
"""data.sequence_length of all these specs."""

COUNTINGS = ("total", "non_embedding", "active")
Sizes = dict[str, int]
"""One size along each of AXES."""
Count = Callable[[Architecture], int]
Value = TypeVar("Value", int, str)


# --- shapes -----------------------------------------------------------------------------------------------------


def combinations(teacher: Architecture, choices: Mapping[str, list[int]]) -> list[Sizes]:
    """Every combination of sizes along AXES, legal or not, in the order of listing.

    An axis without choices keeps the teacher's size, and key-value heads follow the heads where each has its own.
    """
    own_keys = teacher.num_key_value_heads == teacher.num_attention_heads and "num_key_value_heads" not in choices
    along = [sorted(choices.get(axis, [getattr(teacher, axis)]), reverse=True) for axis in AXES]
    found = []
    for sizes in product(*along):
        shape = dict(zip(AXES, sizes, strict=True))
        found.append({**shape, "num_key_value_heads": shape["num_attention_heads"]} if own_keys else shape)
    return found


def is_legal(teacher: Architecture, sizes: Sizes) -> bool:
    """One shape at a time, by what the model itself and its family say."""
    if sizes["num_attention_heads"] * teacher.num_key_value_heads > (
        teacher.num_attention_heads * sizes["num_key_value_heads"]
    ):
        return False
    try:
        shape = teacher.resized(**sizes)
    except ValueError:
        return False
    return family_named(teacher.family).is_legal(shape)


def legal_shapes(teacher: Architecture, choices: dict[str, list[int]]) -> list[Architecture]:
    return [teacher.resized(**sizes) for sizes in combinations(teacher, choices) if is_legal(teacher, sizes)]


# --- limits -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlainLimit:
    """`low` <= `count` <= `high`, in fractions; `per` is what a cost is divided by for people."""

    count: Count
    low: Fraction | None
    high: Fraction | None
    per: int = 1

    def short(self, shape: Architecture) -> bool:
        return self.low is not None and self.count(shape) < self.low

    def long(self, shape: Architecture) -> bool:
        return self.high is not None and self.count(shape) > self.high


@cache
def costs_of(shape: Architecture, dtype: Dtype, batch_size: int, context: int) -> Cost:
    """Each shape by itself, apart from the teacher that it may be cut out of."""
    return cost(shape, dtype=dtype, batch_size=batch_size, context=context)


def count_of(counting: str) -> Count:
    def count(shape: Architecture) -> int:
        if counting == "active":
            return costs_of(shape, "int8", 1, 1).active_parameters
        return family_named(shape.family).count(shape, embedding=counting == "total")

    return count


def plain_limits(budget: dict[str, Any]) -> list[PlainLimit]:
    found = []
    if "parameters" in budget:
        target, tolerance = Fraction(str(budget["parameters"])), Fraction(str(budget["tolerance"]))
        ends = target * (1 - tolerance), target * (1 + tolerance)
        found.append(PlainLimit(count_of(budget.get("counting", "total")), *ends))
    for counting in COUNTINGS:
        if f"{counting}_parameters" in budget:
            given = budget[f"{counting}_parameters"]
            low, high = (None if given.get(end) is None else Fraction(str(given[end])) for end in ("min", "max"))
            found.append(PlainLimit(count_of(counting), low, high))
    if "memory" in budget:
        memory = dict(budget["memory"])
        most = Fraction(str(memory.pop("max_bytes")))
        found.append(PlainLimit(bytes_of(memory), None, most))
    if "flops" in budget:
        context, phase = budget["flops"]["context"] or LENGTH, budget["flops"]["phase"]
        per = context if phase == "prefill" else 1
        most = Fraction(str(budget["flops"]["max_per_token"])) * per
        found.append(PlainLimit(flops_of(phase, context), None, most, per))
    return found


def bytes_of(memory: dict[str, Any]) -> Count:
    def count(shape: Architecture) -> int:
        costs = costs_of(shape, memory["dtype"], memory["batch_size"], memory["context"] or LENGTH)
        return costs.weight_bytes + costs.kv_cache_bytes

    return count


def flops_of(phase: str, context: int) -> Count:
    def count(shape: Architecture) -> int:
        costs = costs_of(shape, "int8", 1, context)
        return costs.decode_flops_per_token if phase == "decode" else round(costs.prefill_flops_per_token * context)

    return count


@dataclass(frozen=True)
class Loop:
    """The shapes within each limit in turn, beginning with the legal ones."""

    limits: list[PlainLimit]
    left: list[list[Architecture]]

    @property
    def fitting(self) -> list[Architecture]:
        return self.left[-1]


def loop(teacher: Architecture, choices: dict[str, list[int]], budget: dict[str, Any]) -> Loop:
    limits = plain_limits(budget)
    left = [legal_shapes(teacher, choices)]
    for limit in limits:
        left.append([shape for shape in left[-1] if not limit.short(shape) and not limit.long(shape)])
    return Loop(limits, left)


# --- random spaces, families and budgets ------------------------------------------------------------------------


@st.composite
def teachers(draw: st.DrawFn, variant: Variant) -> Architecture:
    """The variant with another depth, and any share of its layers attending to a window."""
    layers = draw(st.sampled_from([9, 6, 1]))
    sliding = draw(st.sampled_from([0, 0, layers, layers // 2, layers // 3]))
    deeper = {"num_hidden_layers": layers, "num_sliding_layers": sliding, "sliding_window": 3 if sliding else 0}
    return Architecture.model_validate({**variant.architecture.model_dump(), **deeper})


def some(values: list[Value], number: int) -> st.SearchStrategy[list[Value]]:
    number = min(number, len(set(values)))
    return st.lists(st.sampled_from(values), min_size=number, max_size=number, unique=True)


@st.composite
def choices_of(draw: st.DrawFn, variant: Variant, teacher: Architecture) -> dict[str, list[int]]:
    """Sizes for most axes: few shapes, but many layers or many sizes of the MLP among them."""

    def up_to(axis: str) -> list[int]:
        return list(range(1, getattr(teacher, axis) + 1))

    layers, ffn = draw(st.sampled_from([(1, 9), (3, 9), (6, 1), (9, 2)]))
    choices = {
        "num_hidden_layers": draw(some(up_to("num_hidden_layers"), layers)),
        "intermediate_size": draw(some(up_to("intermediate_size"), ffn)),
        "num_attention_heads": draw(some([6, 6, 4, 3, 2], draw(st.integers(1, 2)))),
    }
    if draw(st.booleans()):
        choices["num_key_value_heads"] = draw(some(up_to("num_key_value_heads"), 2))
    if teacher.num_experts:
        choices["num_experts"] = draw(some(up_to("num_experts"), 2))
    legal = [size for heads in choices["num_attention_heads"] for size in legal_hidden_sizes(variant, heads)]
    if draw(st.booleans()):
        choices["hidden_size"] = draw(some([*legal, *legal, 23], 3))
    return choices


ENDS = [("min",), ("max",), ("min", "max")]
"""What a range may have."""


def near(number: int) -> st.SearchStrategy[int]:
    """That very number as often as one beside it."""
    return st.sampled_from([number, number, number - 1, number + 1]).filter(lambda near: near > 0)


@st.composite
def budgets(draw: st.DrawFn, shapes: list[Architecture]) -> dict[str, Any]:
    """Limits of several kinds, each near the costs of some of the shapes."""
    kinds = draw(some(["parameters", "memory", "flops", *COUNTINGS], draw(st.sampled_from([2, 3, 4, 1]))))
    costly = draw(st.sampled_from([1, 1, 4]))  # Times what it takes, so that more than one limit leaves something.

    def shape() -> Architecture:
        return draw(st.sampled_from(shapes))

    budget: dict[str, Any] = {}
    if "parameters" in kinds:
        counting = draw(st.sampled_from(COUNTINGS))
        tolerance = draw(st.sampled_from([0, 0.05, 0.3, 0.9]))
        target = draw(near(count_of(counting)(shape())))
        budget |= {"parameters": target, "tolerance": tolerance, "counting": counting}
    for counting in COUNTINGS:
        if counting in kinds:
            ends = sorted(draw(near(count_of(counting)(shape()))) for _ in range(2))
            given = dict(zip(("min", "max"), ends, strict=True))
            budget[f"{counting}_parameters"] = {end: given[end] for end in draw(st.sampled_from(ENDS))}
    contexts = st.none() | st.integers(1, 12)
    if "memory" in kinds:
        dtype, batch_size = draw(st.sampled_from(["float32", "bfloat16", "int8"])), draw(st.integers(1, 40))
        memory = {"dtype": dtype, "batch_size": batch_size, "context": draw(contexts)}
        budget["memory"] = {**memory, "max_bytes": costly * draw(near(bytes_of(memory)(shape())))}
    if "flops" in kinds:
        phase, context = draw(st.sampled_from(["prefill", "decode"])), draw(contexts)
        per = (context or LENGTH) if phase == "prefill" else 1
        most = costly * draw(near(flops_of(phase, context or LENGTH)(shape()))) / per
        budget["flops"] = {"phase": phase, "context": context, "max_per_token": most}
    return budget


@dataclass(frozen=True)
class Case:
    """A teacher, its space and its budget, as a spec has them."""

    teacher: Architecture
    choices: dict[str, list[int]]
    budget: dict[str, Any]

    @cached_property
    def loop(self) -> Loop:
        return loop(self.teacher, self.choices, self.budget)

    def enumerate(self, **changes: Any) -> Enumeration:
        space = SearchSpace.model_validate({**self.choices, **changes})
        budget = Budget.model_validate(self.budget)
        return enumerate_candidates(space, budget, self.teacher, sequence_length=LENGTH)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    variant = draw(st.sampled_from(ALL))
    teacher = draw(teachers(variant))
    choices = draw(choices_of(variant, teacher))
    shapes = legal_shapes(teacher, choices)
    assume(shapes)
    return Case(teacher, choices, draw(budgets(shapes)))
