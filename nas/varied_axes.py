"""Along which axes candidates differ."""

from collections.abc import Sequence
from math import gcd

from nas.architecture import AXES, Architecture, Axis


def varied_axes(architectures: Sequence[Architecture]) -> tuple[Axis, ...]:
    """The axes along which any two differ, in the order of AXES.

    Of axes whose sizes follow from one another, as key-value heads often do from heads, the first stands for all.
    """
    found: dict[tuple[int, ...], Axis] = {}
    for axis in AXES:
        groups: dict[int, int] = {}
        # Which candidates share a size, whatever the sizes are: the same for two axes that only vary together.
        pattern = tuple(groups.setdefault(getattr(each, axis), len(groups)) for each in architectures)
        if len(groups) > 1:
            found.setdefault(pattern, axis)
    return tuple(found.values())


def size_steps(sizes: Sequence[int]) -> int:
    """The largest step from the smallest size that meets all others; 1 where there is only one."""
    return gcd(*(size - min(sizes) for size in sizes)) or 1
