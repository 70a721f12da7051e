"""Scores x Architecture -> student weights: choose what stays, and cut every tensor along its named axes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nas.architecture import Architecture
from nas.compression.importance import Scores
from nas.families import Dimension, family_named
from nas.families.parameter import Rescale


@dataclass(frozen=True)
class Kept:
    """What of the teacher stays, as ascending positions in the teacher.

    All but `layers` and `channels` have one tensor for each layer of the teacher, also for those that go. With
    experts, `neurons` of a layer is (experts of the teacher, neurons that stay).
    """

    layers: tuple[int, ...]
    channels: torch.Tensor
    heads: tuple[torch.Tensor, ...]
    groups: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    experts: tuple[torch.Tensor, ...]

    def units(self, axis: str, layer: int | None, expert: int | None = None) -> torch.Tensor | None:
        """The units of an axis that stay, or None for an axis that is never cut."""
        if axis == "hidden_size":
            return self.channels
        of_layers = {
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.groups,
            "intermediate_size": self.neurons,
            "num_experts": self.experts,
        }
        if axis not in of_layers or layer is None:
            return None
        units = of_layers[axis][layer]
        return units[expert] if axis == "intermediate_size" and expert is not None else units

    def unit(self, axis: str, layer: int | None, position: int) -> int:
        """Which unit of the teacher the student's unit at `position` is."""
        units = self.units(axis, layer)
        return position if units is None else int(units[position])


def choose(scores: Scores, teacher: Architecture, student: Architecture, sliding: Sequence[bool] = ()) -> Kept:
    """The most important units for the student's shape.

    Layers and channels are ranked over the network, neurons in their layer or expert, experts in their layer, heads
    within their key-value group with the same number kept in each, so that every head that stays still reads its own
    keys and values; of the groups those stay whose remaining heads have the largest sum. `sliding` says which of the
    teacher's layers attend to a window: where there are both types, each is ranked by itself. Of equal scores the
    first stays. Positions are kept in order, so the whole teacher is cut to itself unchanged.
    """
    groups, per_group = student.num_key_value_heads, student.num_attention_heads // student.num_key_value_heads
    in_groups = [_top_in_groups(row, teacher.num_key_value_heads, groups, per_group) for row in scores.heads]
    return Kept(
        layers=_top_layers(scores.layers, student, sliding),
        channels=_top(scores.channels, student.hidden_size),
        heads=tuple(heads for heads, _ in in_groups),
        groups=tuple(kept_groups for _, kept_groups in in_groups),
        neurons=tuple(_top(row, student.intermediate_size) for row in scores.neurons),
        experts=tuple(_top(row, student.num_experts) for row in scores.experts),
    )


def cut(
    read: Callable[[str], torch.Tensor], teacher: Architecture, student: Architecture, kept: Kept
) -> Iterator[tuple[str, torch.Tensor]]:
    """The student's tensors by name, in the teacher's dtype; `read` gives a tensor of the teacher by name.

    One tensor is held at a time.
    """
    for selection in family_named(teacher.family).selections(student, kept.layers, kept.unit):
        parameter = selection.parameter
        expert = selection.unit if parameter.each == "num_experts" else None
        tensor = read(selection.source)
        for position, dimension in enumerate(parameter.dimensions):
            index = _kept_entries(dimension, teacher, kept, selection.source_layer, expert)
            if index is not None:
                tensor = tensor.index_select(position, index.to(tensor.device))
        if parameter.rescale is not None:
            tensor = _rescaled(tensor, parameter.rescale, teacher, student)
        yield selection.name, tensor


def _kept_entries(
    dimension: Dimension, teacher: Architecture, kept: Kept, layer: int | None, expert: int | None
) -> torch.Tensor | None:
    """Which entries of a dimension stay, its spans one after another, or None where all do."""
    units_of_spans = [kept.units(span.axis, layer, expert) for span in dimension]
    if all(units is None for units in units_of_spans):
        return None
    entries, offset = [], 0
    for span, units in zip(dimension, units_of_spans, strict=True):
        width, size = span.unit_size(teacher), span.size(teacher)
        of_span = torch.arange(size) if units is None else (units[:, None] * width + torch.arange(width)).flatten()
        entries.append(offset + of_span)
        offset += size
    return torch.cat(entries)


def _rescaled(tensor: torch.Tensor, rescale: Rescale, teacher: Architecture, student: Architecture) -> torch.Tensor:
    """The values that follow a cut, computed in float64 and rounded once; unchanged where nothing was cut."""
    factor = rescale.factor(teacher, student)
    if factor == 1.0:
        return tensor
    return ((tensor.double() + rescale.offset) * factor - rescale.offset).to(tensor.dtype)


def _top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending positions of the `count` highest scores of the last dimension."""
    order = torch.sort(scores, dim=-1, descending=True, stable=True).indices
    return order[..., :count].sort(dim=-1).values


def _top_layers(scores: torch.Tensor, student: Architecture, sliding: Sequence[bool]) -> tuple[int, ...]:
    """The layers that stay; where some attend to a window and others do not, the best of each type."""
    if all(sliding) or not any(sliding):
        return tuple(_top(scores, student.num_hidden_layers).tolist())
    in_window = torch.tensor(sliding).nonzero().flatten()
    full = torch.tensor([not each for each in sliding]).nonzero().flatten()
    kept = torch.cat([
        in_window[_top(scores[in_window], student.num_sliding_layers)],
        full[_top(scores[full], student.num_hidden_layers - student.num_sliding_layers)],
    ])  # fmt: skip
    return tuple(kept.sort().values.tolist())


def _top_in_groups(
    scores: torch.Tensor, num_groups: int, keep: int, per_group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending positions of the heads that stay, and of their groups.

    `num_groups` equal runs of positions are the groups; `keep` of them stay, with `per_group` heads each.
    """
    by_group = scores.unflatten(0, (num_groups, -1))
    heads = _top(by_group, per_group)
    groups = _top(by_group.gather(1, heads).sum(dim=1), keep)
    size = by_group.shape[1]
    return (groups[:, None] * size + heads[groups]).flatten(), groups
