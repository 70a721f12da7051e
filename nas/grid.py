"""SearchSpace x teacher -> all shapes that go together, one plane for each hidden size."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from nas.architecture import Architecture, Axis, sliding_share
from nas.errors import SpecError
from nas.families import family_named
from nas.polynomial import LARGEST, Integers
from nas.space import MOST_SIZES, SearchSpace

MOST_ROWS = 20_000_000
"""Shapes that differ in more than the MLP's size, which is what counting takes time for: a few seconds' worth."""

MOST_GIVEN = 1_000_000
"""Pairs of head counts, and sizes of the MLP that depend on the hidden size: they are made one by one."""


@dataclass(frozen=True)
class Plane:
    """The shapes of one hidden size: every layer count with every MLP, pair of heads, and number of experts.

    Sizes descend. `heads` and `key_values` are the legal pairs, position by position.
    """

    hidden_size: int
    layers: Integers
    sliding: Integers
    intermediate: Integers
    heads: Integers
    key_values: Integers
    experts: Integers

    @property
    def num_shapes(self) -> int:
        return len(self.layers) * len(self.intermediate) * len(self.heads) * len(self.experts)

    def of_layers(self, start: int, end: int) -> "Plane":
        """What it holds of the layer counts at positions `start` to `end`."""
        return replace(self, layers=self.layers[start:end], sliding=self.sliding[start:end])


@dataclass(frozen=True)
class Grid:
    """The legal shapes, and how many shapes of the space each rule removed that the rules before it had left."""

    planes: tuple[Plane, ...]
    num_shapes: int
    removed: dict[str, int]
    layers: tuple[int, ...]


@dataclass
class _Tally:
    """Sizes of one hidden size that are left, and what the rules removed so far, of all hidden sizes together."""

    removed: dict[str, int] = field(default_factory=dict)
    left: dict[str, Integers] = field(default_factory=dict)

    @property
    def num_shapes(self) -> int:
        return prod(sizes.shape[-1] for sizes in self.left.values())

    def keep(self, rule: str, part: str, mask: Any) -> None:
        """Keeps the sizes of a part that the mask has."""
        before = self.num_shapes
        if not mask.all():  # Otherwise planes share their arrays.
            self.left[part] = self.left[part][..., mask]
        self.removed[rule] = self.removed.get(rule, 0) + before - self.num_shapes


def grid(space: SearchSpace, teacher: Architecture) -> Grid:
    """Raises SpecError for a size that the teacher cannot give, an axis that it does not have, and a space without
    any legal shape or with too many to count."""
    if space.num_experts is not None and not teacher.num_experts:
        shown = space.num_experts.model_dump(mode="json", exclude_none=True)
        raise SpecError("space.num_experts", shown, "is no axis of a teacher without experts", "no num_experts")
    layers, pairs, experts = _layers(space, teacher), _pairs(space, teacher), _sizes(space, "num_experts", teacher)
    hidden, intermediate = _sizes(space, "hidden_size", teacher), _intermediate(space, teacher)
    factors = space.intermediate_size.times_hidden if space.intermediate_size else None
    _check_number("space.intermediate_size", len(hidden) * len(factors or ()), "sizes that depend on the hidden size")
    tally, planes, num_shapes = _Tally(), [], 0
    for hidden_size in hidden:
        tally.left = {
            "hidden_size": np.array([hidden_size]),
            "layers": layers,
            "intermediate_size": intermediate(hidden_size),
            "pairs": pairs,
            "num_experts": np.array(experts),
        }
        num_shapes += tally.num_shapes
        for rule, part, holds in _rules(space, teacher, hidden_size):
            tally.keep(rule, part, holds(tally.left[part]))
        if tally.num_shapes:
            planes.append(_plane(tally.left))
    _check(space, planes, tally.removed)
    removed = {rule: shapes for rule, shapes in tally.removed.items() if shapes}
    return Grid(tuple(planes), num_shapes, removed, tuple(planes[0].layers.tolist()))


def _rules(
    space: SearchSpace, teacher: Architecture, hidden_size: int
) -> Iterator[tuple[str, str, Callable[[Integers], Any]]]:
    """Every rule in turn: what it says, which part of a shape it is about, and which sizes of that part it leaves."""
    for axis, multiple in space.multiple_of.items():
        rule = f"{axis} as a multiple of {multiple}"
        part, row = _PART_OF.get(axis, (axis, ...))
        yield rule, part, partial(_is_multiple, multiple, row)
    largest = teacher.intermediate_size
    yield f"intermediate_size up to the teacher's {largest}", "intermediate_size", lambda sizes: sizes <= largest
    least = teacher.num_experts_per_tok
    yield f"num_experts of at least the {least} for each token", "num_experts", lambda sizes: sizes >= least
    yield "num_attention_heads as a multiple of num_key_value_heads", "pairs", lambda pairs: pairs[0] % pairs[1] == 0
    per_group = teacher.num_attention_heads // teacher.num_key_value_heads
    rule = f"at most {per_group} heads to a key-value head, as the teacher has"
    yield rule, "pairs", lambda pairs: pairs[0] <= per_group * pairs[1]
    fixed = teacher.model_dump()
    for constraint in family_named(teacher.family).constraints:

        def holds(pairs: Integers, constraint: Any = constraint) -> Any:
            sizes = {"hidden_size": hidden_size, "num_attention_heads": pairs[0], "num_key_value_heads": pairs[1]}
            return np.broadcast_to(constraint.holds({**fixed, **sizes}), pairs[0].shape)

        yield str(constraint), "pairs", holds


_PART_OF: dict[str, tuple[str, Any]] = {
    "num_hidden_layers": ("layers", 0),
    "num_attention_heads": ("pairs", 0),
    "num_key_value_heads": ("pairs", 1),
}
"""The axes that are not parts of their own, and their rows."""


def _is_multiple(multiple: int, row: Any, sizes: Integers) -> Any:
    return sizes[row] % multiple == 0


def _plane(left: dict[str, Integers]) -> Plane:
    return Plane(
        hidden_size=int(left["hidden_size"][0]),
        layers=left["layers"][0],
        sliding=left["layers"][1],
        intermediate=left["intermediate_size"],
        heads=left["pairs"][0],
        key_values=left["pairs"][1],
        experts=left["num_experts"],
    )


def _check(space: SearchSpace, planes: list[Plane], removed: dict[str, int]) -> None:
    if not planes:
        rules = "; ".join(f"{rule} (removed {count:,})" for rule, count in removed.items() if count)
        shown = space.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        raise SpecError("space", shown, "has no legal shape", rules)
    rows = sum(plane.num_shapes // max(len(plane.intermediate), 1) for plane in planes)
    if rows > MOST_ROWS:
        shapes = sum(plane.num_shapes for plane in planes)
        accepted = f"larger steps: up to {MOST_ROWS:,} besides the sizes of the MLP"
        raise SpecError("space", f"{shapes:,} shapes", "are too many to count", accepted)


def _check_number(field_name: str, number: int, what: str) -> None:
    if number > MOST_GIVEN:
        raise SpecError(field_name, f"{number:,} {what}", "are too many to count", f"up to {MOST_GIVEN:,}")


def _layers(space: SearchSpace, teacher: Architecture) -> Integers:
    """Layers, and those of them that attend to a window (2, counts)."""
    layers = _sizes(space, "num_hidden_layers", teacher)
    of_teacher = teacher.num_sliding_layers, teacher.num_hidden_layers
    return np.array([layers, [sliding_share(*of_teacher, remaining) for remaining in layers]])


def _pairs(space: SearchSpace, teacher: Architecture) -> Integers:
    """Heads and key-value heads (2, pairs), in the order of listing."""
    heads = _sizes(space, "num_attention_heads", teacher)
    if space.num_key_value_heads is None and teacher.num_key_value_heads == teacher.num_attention_heads:
        return np.array([heads, heads])
    key_values = _sizes(space, "num_key_value_heads", teacher)
    _check_number("space", len(heads) * len(key_values), "pairs of heads and key-value heads")
    return np.array([[h for h in heads for _ in key_values], [k for _ in heads for k in key_values]])


def _sizes(space: SearchSpace, axis: Axis, teacher: Architecture) -> list[int]:
    limit: int = getattr(teacher, axis)
    given = getattr(space, axis)
    if given is None:
        return [limit]
    field_name, shown = f"space.{axis}", given.model_dump(mode="json", exclude_none=True)
    if given.min is not None and ((given.max or limit) - given.min) // (given.step or 1) >= MOST_SIZES:
        raise SpecError(field_name, shown, "comes to too many sizes", f"a step that leaves at most {MOST_SIZES:,}")
    sizes: list[int] = given.of(limit, space.multiple_of.get(axis, 1))
    if not sizes:
        raise SpecError(field_name, shown, "holds no size", f"sizes up to {limit}")
    if sizes[0] > limit:
        raise SpecError(field_name, sizes[0], f"is more than the teacher's {limit}", f"sizes up to {limit}")
    return sizes


def _intermediate(space: SearchSpace, teacher: Architecture) -> Callable[[int], Integers]:
    """The sizes of the MLP for a hidden size."""
    given, multiple = space.intermediate_size, space.multiple_of.get("intermediate_size", 1)
    if given is None or given.times_hidden is None:
        sizes = np.array(_sizes(space, "intermediate_size", teacher))
        return lambda hidden_size: sizes
    most = max(1, LARGEST // multiple) * multiple  # For sizes that 64 bits do not hold; all as large are removed.

    def of_hidden(hidden_size: int) -> Integers:
        sizes = given.of_hidden(teacher.intermediate_size, hidden_size, multiple)
        return np.array([min(size, most) for size in sizes])

    return of_hidden
