"""Spaces as plain loops, for what the grid and the enumeration of shapes have to come to."""

from collections.abc import Mapping
from itertools import product

from nas.architecture import AXES, Architecture

Sizes = dict[str, int]
"""One size along each of AXES."""


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
