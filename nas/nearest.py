"""The candidate that is nearest to given sizes, found without listing the space."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas.architecture import AXES, Axis
from nas.counting import Block, block
from nas.enumeration import Enumeration
from nas.polynomial import Integers

Sizes = tuple[int, ...]
"""Of one shape, along AXES."""

Floats = NDArray[np.float64]

_MLP = AXES.index("intermediate_size")


def nearest(
    found: Enumeration, target: Mapping[Axis, float], seen: Collection[Sizes], depths: Collection[int] | None = None
) -> Sizes | None:
    """The sizes along AXES of the candidate nearest to a target, not one of the `seen`; None if there is no other.

    The distance is the sum of |log(size / target)| over the target's axes; of equally near ones, the first of the
    enumeration is taken. With `depths`, only candidates of so many layers count.
    """
    if found.listed is not None:
        return _of_list(found.listed, target, seen, depths)
    best: tuple[float, Sizes] | None = None
    for bound, layer, column in _by_bound(found, target, depths):
        if best is not None and bound > best[0]:
            break
        own = _of_block(block(found.grid.planes[column], layer, found.limits), bound, target, seen)
        if own is not None and (best is None or _comes_before(own, best)):
            best = own
    return None if best is None else best[1]


def _comes_before(one: tuple[float, Sizes], other: tuple[float, Sizes]) -> bool:
    """Whether it is nearer, or as near and earlier in the enumeration, where sizes descend."""
    return one[0] < other[0] or (one[0] == other[0] and one[1] > other[1])


def _away(sizes: Any, axis: Axis, target: Mapping[Axis, float]) -> Any:
    """What an axis adds to the distance of each size; nothing, if the target says nothing of it."""
    return np.abs(np.log(sizes) - np.log(target[axis])) if axis in target else np.zeros(np.shape(sizes))


def _of_list(
    listed: Integers, target: Mapping[Axis, float], seen: Collection[Sizes], depths: Collection[int] | None
) -> Sizes | None:
    distances = sum(
        (_away(sizes, axis, target) for axis, sizes in zip(AXES, listed.T, strict=True)), np.zeros(len(listed))
    )
    if depths is not None:
        distances[~np.isin(listed[:, 0], list(depths))] = np.inf
    for sizes in seen:
        distances[(listed == sizes).all(axis=1)] = np.inf
    place = int(np.argmin(distances))
    return tuple(listed[place].tolist()) if np.isfinite(distances[place]) else None


def _by_bound(
    found: Enumeration, target: Mapping[Axis, float], depths: Collection[int] | None
) -> list[tuple[float, int, int]]:
    """(what layers and hidden size add to the distance, and positions of both) where there are candidates, nearest
    first."""
    layers = np.array(found.grid.layers)
    by_layers = _away(layers, "num_hidden_layers", target)
    by_hidden = _away(np.array([plane.hidden_size for plane in found.grid.planes]), "hidden_size", target)
    bounds = by_layers[:, None] + by_hidden
    return sorted(
        (float(bounds[layer, column]), layer, column)
        for layer, column in np.argwhere(found.counted.of_block).tolist()
        if depths is None or found.grid.layers[layer] in depths
    )


def _of_block(
    within: Block, bound: float, target: Mapping[Axis, float], seen: Collection[Sizes]
) -> tuple[float, Sizes] | None:
    """The distance and sizes of the nearest in a block that is not seen.

    Each row's distance is at first that of the nearest MLP it allows, seen or not. Rows that are nearest by that are
    looked through one by one, until only such are left.
    """
    rows, empty = within.rows, within.start >= within.end
    beside = np.full(len(within.start), bound)
    for axis in ("num_attention_heads", "num_key_value_heads", "num_experts"):
        beside = beside + _away(rows.sizes[axis], axis, target)
    by_mlp = _away(rows.values, "intermediate_size", target)
    distances = np.where(empty, np.inf, beside + _least(by_mlp, within))
    chosen: dict[int, Sizes] = {}
    while np.isfinite(least := distances.min()):
        tied = np.flatnonzero(distances == least).tolist()
        if all(row in chosen for row in tied):
            return float(least), max(chosen[row] for row in tied)
        for row in tied:
            distances[row] = np.inf
            unseen = _unseen(within, row, seen)
            if len(unseen):
                position = int(unseen[np.argmin(by_mlp[unseen])])
                distances[row], chosen[row] = beside[row] + by_mlp[position], _sizes(within, row, position)
    return None


def _least(by_mlp: Floats, within: Block) -> Floats:
    """For each row, the least of what the MLP sizes that it allows add: from the least of all, it only grows."""
    middle = int(np.argmin(by_mlp))
    return np.asarray(by_mlp[np.clip(middle, within.start, np.maximum(within.end - 1, within.start)) % len(by_mlp)])


def _unseen(within: Block, row: int, seen: Collection[Sizes]) -> Integers:
    """The positions of the row's MLP sizes that make no shape that is seen, from the largest size on."""
    values = within.rows.values[within.start[row] : within.end[row]]
    first = _sizes(within, row, int(within.start[row]))
    taken = [sizes[_MLP] for sizes in seen if (*sizes[:_MLP], first[_MLP], *sizes[_MLP + 1 :]) == first]
    return np.flatnonzero(~np.isin(values, taken))[::-1] + int(within.start[row])


def _sizes(within: Block, row: int, position: int) -> Sizes:
    rows = within.rows
    sizes = {name: int(np.broadcast_to(each, within.start.shape)[row]) for name, each in rows.sizes.items()}
    sizes[rows.along] = int(rows.values[position])
    return tuple(sizes[axis] for axis in AXES)
