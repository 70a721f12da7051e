"""Scores x Architecture -> student weights: choose what stays, and cut every tensor along its named axes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from nas.architecture import Architecture
from nas.compression.importance import Scores
from nas.families import Dimension, family_named


@dataclass(frozen=True)
class Kept:
    """What of the teacher stays, as ascending positions in the teacher.

    `heads` and `neurons` have one tensor for each layer of the teacher, also for those that go.
    """

    layers: tuple[int, ...]
    channels: torch.Tensor
    heads: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]


def choose(scores: Scores, teacher: Architecture, student: Architecture) -> Kept:
    """The most important units for the student's shape.

    Layers and channels are ranked over the network, neurons in their layer, heads within their key-value group
    with the same number kept in each, so that every head that stays still reads its own keys and values. Of
    equal scores the first stays. Positions are kept in order, so the whole teacher is cut to itself unchanged.
    """
    groups = teacher.num_key_value_heads
    return Kept(
        layers=tuple(_top(scores.layers, student.num_hidden_layers).tolist()),
        channels=_top(scores.channels, student.hidden_size),
        heads=tuple(_top_in_groups(row, groups, student.num_attention_heads // groups) for row in scores.heads),
        neurons=tuple(_top(row, student.intermediate_size) for row in scores.neurons),
    )


def cut(
    read: Callable[[str], torch.Tensor], teacher: Architecture, student: Architecture, kept: Kept
) -> Iterator[tuple[str, torch.Tensor]]:
    """The student's tensors by name, in the teacher's dtype; `read` gives a tensor of the teacher by name.

    One tensor is held at a time.
    """
    for selection in family_named(teacher.family).selections(student, kept.layers):
        tensor = read(selection.source)
        for position, dimension in enumerate(selection.parameter.dimensions):
            index = _kept_entries(dimension, teacher, kept, selection.source_layer)
            if index is not None:
                tensor = tensor.index_select(position, index.to(tensor.device))
        yield selection.name, tensor


def _kept_entries(dimension: Dimension, teacher: Architecture, kept: Kept, layer: int | None) -> torch.Tensor | None:
    """Which entries of a dimension stay, or None where all do."""
    if dimension.axis == "hidden_size":
        units = kept.channels
    elif dimension.axis == "intermediate_size" and layer is not None:
        units = kept.neurons[layer]
    elif dimension.axis == "num_attention_heads" and layer is not None:
        units = kept.heads[layer]
    else:
        return None
    block = dimension.block_size(teacher)
    return (units[:, None] * block + torch.arange(block)).flatten()


def _top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending positions of the `count` highest scores."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def _top_in_groups(scores: torch.Tensor, groups: int, per_group: int) -> torch.Tensor:
    """Ascending positions of the `per_group` highest scores of each of `groups` equal runs of positions."""
    size = len(scores) // groups
    return torch.cat([_top(scores[g * size : (g + 1) * size], per_group) + g * size for g in range(groups)])
