"""SearchSpace x Budget -> candidates: every shape that fits, in a stable order."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import ceil, floor, prod
from random import Random
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from nas.architecture import AXES, Architecture
from nas.border import Border, Count, Number
from nas.errors import BudgetError, SpecError
from nas.families import family_named

LARGEST_SPACE = 100_000
Counting = Literal["total", "non_embedding"]


def _distinct(values: tuple[int, ...]) -> tuple[int, ...]:
    if not values:
        raise ValueError("holds no value")
    if len(set(values)) != len(values):
        raise ValueError("holds a value twice")
    return values


Choices = Annotated[tuple[Annotated[Count, Field(gt=0)], ...], AfterValidator(_distinct)]

_SIZES = "a list of different whole numbers from 1 to the teacher's size"


class SearchSpace(Border):
    """The sizes to try along each axis; an axis left out keeps the teacher's size."""

    num_hidden_layers: Choices | None = Field(default=None, description=_SIZES)
    hidden_size: Choices | None = Field(default=None, description=_SIZES)
    intermediate_size: Choices | None = Field(default=None, description=_SIZES)
    num_attention_heads: Choices | None = Field(default=None, description=_SIZES)


class Budget(Border):
    """How large a candidate may be: within `tolerance` of `parameters`, both ends included."""

    parameters: Number = Field(gt=0, description="a number of parameters, above 0")
    tolerance: Number = Field(default=0.05, ge=0, lt=1, description="a share of parameters, 0 or more, below 1")
    counting: Counting = Field(default="total", description="total, or non_embedding (without embedding and head)")

    @property
    def window(self) -> tuple[int, int]:
        """Smallest and largest count allowed: target * (1 - tolerance) to target * (1 + tolerance), exactly."""
        target, tolerance = Fraction(str(self.parameters)), Fraction(str(self.tolerance))
        return ceil(target * (1 - tolerance)), floor(target * (1 + tolerance))

    def count(self, architecture: Architecture) -> int:
        return family_named(architecture.family).count(architecture, embedding=self.counting == "total")


@dataclass(frozen=True)
class Enumeration:
    """The candidates, and how many shapes of the space were illegal for the family or outside the budget."""

    candidates: list[Architecture]
    num_illegal: int
    num_outside_budget: int


def enumerate_candidates(space: SearchSpace, budget: Budget, teacher: Architecture) -> Enumeration:
    """The legal shapes within the budget, ordered by AXES with the sizes of each axis descending.

    Raises SpecError for a size the teacher cannot give, and BudgetError, with the nearest misses, if nothing fits.
    """
    family = family_named(teacher.family)
    choices = [_axis_choices(space, axis, teacher) for axis in AXES]
    num_shapes = prod(map(len, choices))
    if num_shapes > LARGEST_SPACE:
        raise SpecError("space", f"{num_shapes:,} shapes", "are too many to list", f"up to {LARGEST_SPACE:,} shapes")
    everything = [teacher.resized(**dict(zip(AXES, sizes, strict=True))) for sizes in product(*choices)]
    legal = [shape for shape in everything if family.is_legal(shape)]
    if not legal:
        rules = " and ".join(map(str, family.constraints))
        sizes = space.model_dump(exclude_none=True)
        raise SpecError("space", sizes, f"has no shape that is legal for {family.model_type}", rules)
    low, high = budget.window
    candidates = [shape for shape in legal if low <= budget.count(shape) <= high]
    if not candidates:
        raise _nothing_fits(legal, budget)
    return Enumeration(candidates, len(everything) - len(legal), len(legal) - len(candidates))


def draw(candidates: Sequence[Architecture], sample_size: int | None, seed: int) -> list[Architecture]:
    """The candidates that a search tries: all, or `sample_size` of them at random, in the order they were in.

    The same seed draws the same; every candidate is as likely as any other.
    """
    if sample_size is None or sample_size >= len(candidates):
        return list(candidates)
    chosen = Random(seed).sample(range(len(candidates)), sample_size)
    return [candidates[index] for index in sorted(chosen)]


def _axis_choices(space: SearchSpace, axis: str, teacher: Architecture) -> list[int]:
    limit: int = getattr(teacher, axis)
    choices: tuple[int, ...] = getattr(space, axis, None) or (limit,)
    groups = teacher.num_key_value_heads if axis == "num_attention_heads" else 1
    for size in choices:
        if size > limit or size % groups:
            multiple = f"multiples of the teacher's {groups} key-value heads " if groups > 1 else "sizes "
            problem = f"is more than the teacher's {limit}" if size > limit else f"is not a multiple of {groups}"
            raise SpecError(f"space.{axis}", size, problem, f"{multiple}up to {limit}")
    return sorted(choices, reverse=True)


def _nothing_fits(legal: list[Architecture], budget: Budget) -> BudgetError:
    low, high = budget.window
    counts = sorted((budget.count(shape), shape.label) for shape in legal)
    below = [pair for pair in counts if pair[0] < low][-1:]
    above = [pair for pair in counts if pair[0] > high][:1]
    nearest = min(below + above, key=lambda pair: abs(pair[0] - budget.parameters))[0]
    misses = " and ".join(f"{label} with {count:,}" for count, label in below + above)
    return BudgetError(
        "budget.parameters",
        f"{budget.parameters:,.0f}",
        f"leaves none of {len(counts)} shapes ({budget.counting} count from {low:,} to {high:,}; nearest: {misses})",
        f"a target such as {nearest:,}, a wider budget.tolerance, or a wider space",
    )
