"""Along which axes candidates differ."""

from collections.abc import Sequence
from math import gcd

from nas.architecture import AXES, Architecture, Axis


def varied_axes(architectures: Sequence[Architecture]) -> tuple[Axis, ...]:
    """The axes along which any two differ, in the order of AXES.

    Key-value heads are left out where they follow from the heads, as many for each.
    """
    found = [axis for axis in AXES if len({getattr(each, axis) for each in architectures}) > 1]
    ratios = {(each.num_attention_heads, each.num_key_value_heads) for each in architectures}
    heads = {each.num_attention_heads for each in architectures}
    return tuple(axis for axis in found if axis != "num_key_value_heads" or len(ratios) > len(heads))


def size_steps(sizes: Sequence[int]) -> int:
    """The largest step from the smallest size that meets all others; 1 where there is only one."""
    return gcd(*(size - min(sizes) for size in sizes)) or 1
