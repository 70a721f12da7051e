"""Budget: how large, how costly to hold, to run, and how slow a candidate may be; all that is given has to hold."""

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from math import ceil, floor
from typing import Self, get_args

from pydantic import Field, model_validator

from nas.border import Border, Count, Number
from nas.cost import CostModel, Counting, Dtype, Phase
from nas.polynomial import LARGEST, Polynomial


class Range(Border):
    """From `min` to `max`, both included; either may be left out."""

    min: Number | None = Field(default=None, ge=0, description="a number of parameters, at least 0")
    max: Number | None = Field(default=None, gt=0, description="a number of parameters, above 0")

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        if self.min is None and self.max is None:
            raise ValueError("holds neither min nor max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"holds nothing: min {self.min:,.0f} is more than max {self.max:,.0f}")
        return self


class MemoryBudget(Border):
    """What weights and KV cache may take together."""

    max_bytes: Number = Field(gt=0, description="a number of bytes, above 0")
    batch_size: Count = Field(default=1, gt=0, description="sequences in the cache, at least 1")
    context: Count | None = Field(
        default=None, gt=0, description="tokens of each sequence, at least 1; left out, data.sequence_length"
    )
    dtype: Dtype = Field(default="bfloat16", description="float32, bfloat16, float16, float8 or int8, of both")


class FlopsBudget(Border):
    """What a token of forward pass may take."""

    max_per_token: Number = Field(gt=0, description="a number of FLOPs, above 0")
    phase: Phase = Field(
        default="prefill", description="prefill (the mean over a sequence) or decode (the token that ends one)"
    )
    context: Count | None = Field(
        default=None, gt=0, description="tokens of the sequence, at least 1; left out, data.sequence_length"
    )


class LatencyBudget(Border):
    """How long a forward pass may take, by a table that `topiary latency` measured."""

    max_milliseconds: Number = Field(gt=0, description="milliseconds of one forward pass, above 0")
    table: str = Field(description="a file that topiary latency wrote")
    phase: Phase = Field(default="prefill", description="prefill or decode")


class Budget(Border):
    """How large and how costly a candidate may be; whatever is given has to hold, both ends included.

    `parameters` is a target, and `tolerance` the share of it that a count may be off.
    """

    parameters: Number | None = Field(default=None, gt=0, description="a number of parameters to aim at, above 0")
    tolerance: Number = Field(default=0.05, ge=0, lt=1, description="a share of parameters, 0 or more, below 1")
    counting: Counting = Field(
        default="total",
        description="total, non_embedding (without embeddings and head), or active (what one token passes through)",
    )
    total_parameters: Range | None = Field(default=None, description="an object with min, max or both")
    non_embedding_parameters: Range | None = Field(default=None, description="an object with min, max or both")
    active_parameters: Range | None = Field(default=None, description="an object with min, max or both")
    memory: MemoryBudget | None = Field(
        default=None, description="bytes of weights and KV cache: max_bytes, batch_size, context, dtype"
    )
    flops: FlopsBudget | None = Field(default=None, description="FLOPs per token: max_per_token, phase, context")
    latency: LatencyBudget | None = Field(
        default=None, description="measured time of a forward pass: max_milliseconds, table, phase"
    )

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        limits = set(Budget.model_fields) - {"tolerance", "counting"}
        if all(getattr(self, name) is None for name in limits):
            raise ValueError("limits nothing")
        return self

    @property
    def window(self) -> tuple[int, int]:
        """Smallest and largest count allowed: target * (1 - tolerance) to target * (1 + tolerance), exactly."""
        target, tolerance = Fraction(str(self.parameters)), Fraction(str(self.tolerance))
        return ceil(target * (1 - tolerance)), floor(target * (1 + tolerance))


@dataclass(frozen=True)
class Limit:
    """What a budget says of one cost: `low` <= `cost` <= `high`.

    `cost` is `per` times what the user reads: the cost of a whole sequence, where the budget is per token.
    """

    field: str
    what: str
    cost: Polynomial
    low: int
    high: int
    per: int = 1

    @property
    def text(self) -> str:
        """As in `total parameters from 3,800,000,000 to 4,200,000,000`."""
        low, high = (_shown(end, self.per) for end in (self.low, self.high))
        if self.low <= 0:
            return f"{self.what} up to {high}" if self.high < LARGEST else f"{self.what} without limit"
        return f"{self.what} from {low}" if self.high >= LARGEST else f"{self.what} from {low} to {high}"


def _shown(cost: int, per: int) -> str:
    """Whole where it is, and in short where nobody counts digits any more."""
    value = Decimal(cost) / per
    if value >= 10**18:
        return f"{value:.4g}"
    return f"{value:,f}" if value == value.to_integral_value() else f"{value:,.2f}"


def limits(budget: Budget, costs: CostModel, sequence_length: int) -> list[Limit]:
    """The budget as bounds on exact counts, in the order of its fields; measured latency is not among them."""
    found = []
    if budget.parameters is not None:
        low, high = budget.window
        name = f"{budget.counting.replace('_', '-')} parameters"
        found.append(Limit("budget.parameters", name, costs.parameters(budget.counting), low, high))
    for counting in get_args(Counting):
        given: Range | None = getattr(budget, f"{counting}_parameters")
        if given is not None:
            low = 0 if given.min is None else ceil(Fraction(str(given.min)))
            high = LARGEST if given.max is None else min(LARGEST, floor(Fraction(str(given.max))))
            name = f"{counting.replace('_', '-')} parameters"
            found.append(Limit(f"budget.{counting}_parameters", name, costs.parameters(counting), low, high))
    if budget.memory is not None:
        memory = budget.memory
        context = memory.context or sequence_length
        cost = costs.weight_bytes(memory.dtype) + costs.cache_bytes(memory.dtype, memory.batch_size, context)
        what = f"bytes of weights and cache ({memory.batch_size} x {context:,} tokens, {memory.dtype})"
        found.append(Limit("budget.memory", what, cost, 0, _floor(memory.max_bytes, 1)))
    if budget.flops is not None:
        flops = budget.flops
        context = flops.context or sequence_length
        per = context if flops.phase == "prefill" else 1
        cost = costs.prefill_flops(context) if flops.phase == "prefill" else costs.decode_flops(context)
        what = f"FLOPs per token ({flops.phase}, {context:,} tokens)"
        found.append(Limit("budget.flops", what, cost, 0, _floor(flops.max_per_token, per), per))
    return found


def _floor(limit: float, per: int) -> int:
    return min(LARGEST, floor(Fraction(str(limit)) * per))
