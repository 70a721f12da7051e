"""SearchSpace: which sizes to try along each axis, and what that comes to for a teacher."""

from collections.abc import Iterable
from fractions import Fraction
from functools import cached_property
from typing import Annotated, Any, ClassVar, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from nas.architecture import Axis
from nas.border import Border, Count, Number

Given = TypeVar("Given", bound=tuple[float, ...] | None)

MOST_SIZES = 100_000
"""Along one axis, of a range."""

_MOST_VALUES, _MOST_RATIOS = 20_000, 1_000

Positive = Annotated[Count, Field(gt=0)]


class Sizes(Border):
    """Sizes to try along one axis: a list, a range with a step, or ratios of the teacher's size."""

    _WAYS: ClassVar[tuple[str, ...]] = ("values", "min", "ratios")

    values: tuple[Positive, ...] | None = Field(
        default=None, max_length=_MOST_VALUES, description="a list of different whole numbers above 0"
    )
    min: Positive | None = Field(default=None, description="the smallest size of a range, a whole number above 0")
    max: Positive | None = Field(
        default=None, description="the largest size of a range; left out, the teacher's own size"
    )
    step: Positive | None = Field(
        default=None, description="from one size of a range, counted from min, to the next; left out, 1"
    )
    ratios: tuple[Annotated[Number, Field(gt=0, le=1)], ...] | None = Field(
        default=None,
        max_length=_MOST_RATIOS,
        description="a list of different shares of the teacher's size, above 0, at most 1",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_a_list(cls, given: Any) -> Any:
        if not isinstance(given, list | tuple | dict | Sizes):
            raise ValueError("is neither a list nor an object")
        return {"values": given} if isinstance(given, list | tuple) else given

    @field_validator("values", "ratios")
    @classmethod
    def _all_different(cls, given: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return _distinct(given)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        given = [name for name in self._WAYS if getattr(self, name, None) is not None]
        if len(given) != 1:
            raise ValueError(f"holds {' and '.join(given) or 'nothing'}")
        if given != ["min"] and (self.max is not None or self.step is not None):
            raise ValueError(f"holds {given[0]} and parts of a range")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"holds nothing: min {self.min} is more than max {self.max}")
        return self

    def of(self, teacher_size: int, multiple: int) -> list[int]:
        """The sizes, descending.

        Those from ratios are rounded to the nearest multiple above 0, halves up; down, from more than the teacher has.
        """
        if self.values is not None:
            return sorted(self.values, reverse=True)
        if self.min is not None:
            return list(range(self.min, (self.max or teacher_size) + 1, self.step or 1))[::-1]
        largest = max(teacher_size // multiple, 1) * multiple
        rounded = (_nearest(Fraction(str(ratio)), teacher_size, multiple) for ratio in self.ratios or ())
        return _descending(min(size, largest) for size in rounded)


class IntermediateSizes(Sizes):
    """Sizes of the MLP: as along other axes, or multiples of each hidden size."""

    _WAYS: ClassVar[tuple[str, ...]] = ("values", "min", "ratios", "times_hidden")

    times_hidden: tuple[Annotated[Number, Field(gt=0)], ...] | None = Field(
        default=None, max_length=_MOST_RATIOS, description="a list of different multiples of the hidden size, above 0"
    )

    @field_validator("times_hidden")
    @classmethod
    def _factors_differ(cls, given: tuple[float, ...] | None) -> tuple[float, ...] | None:
        return _distinct(given)

    def of_hidden(self, teacher_size: int, hidden_size: int, multiple: int) -> list[int]:
        """The sizes for one hidden size, descending; multiples of it are rounded like ratios."""
        if self.times_hidden is None:
            return self.of(teacher_size, multiple)
        return _descending(_nearest(factor, hidden_size, multiple) for factor in self._factors)

    @cached_property
    def _factors(self) -> list[Fraction]:
        return [Fraction(str(factor)) for factor in self.times_hidden or ()]


_SIZES = (
    "a list of different whole numbers from 1 to the teacher's size, a range (min, max, step), "
    "or ratios of the teacher's size"
)


class SearchSpace(Border):
    """The sizes to try along each axis; an axis left out keeps the teacher's size."""

    num_hidden_layers: Sizes | None = Field(default=None, description=_SIZES)
    hidden_size: Sizes | None = Field(default=None, description=_SIZES)
    intermediate_size: IntermediateSizes | None = Field(
        default=None, description=_SIZES + ", or times_hidden, multiples of the hidden size"
    )
    num_attention_heads: Sizes | None = Field(default=None, description=_SIZES)
    num_key_value_heads: Sizes | None = Field(
        default=None,
        description=_SIZES + "; left out, they follow the heads where each of the teacher's has keys of its own",
    )
    num_experts: Sizes | None = Field(default=None, description=_SIZES)
    multiple_of: dict[Axis, Positive] = Field(
        default_factory=dict,
        description="for an axis, the number that its sizes have to be multiples of, such as hidden_size: 256",
    )
    thin: Number | None = Field(
        default=None,
        gt=0,
        le=1,
        description="the share by which sizes along an axis have to differ to count as two, above 0, at most 1",
    )


def _nearest(factor: Fraction, size: int, multiple: int) -> int:
    """The multiple above 0 that is nearest to factor * size, halves up."""
    twice, parts = 2 * factor.numerator * size, factor.denominator * multiple
    return max(1, (twice + parts) // (2 * parts)) * multiple


def _descending(sizes: Iterable[int]) -> list[int]:
    return sorted(set(sizes), reverse=True)


def _distinct(given: Given) -> Given:
    if given is not None and not given:
        raise ValueError("holds no value")
    if given is not None and len(set(given)) != len(given):
        raise ValueError("holds a value twice")
    return given
