"""Scores x Architecture -> what of the teacher stays."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from nas.architecture import Architecture
from nas.calibration import HeadResidual, LayerChoice
from nas.compression.choose_layers import choose_layers
from nas.compression.scores import Scores


@dataclass(frozen=True)
class Kept:
    """What of the teacher stays, as ascending positions in the teacher.

    All but `layers` and `channels` have one tensor for each layer of the teacher, also for those that go. With
    experts, `neurons` of a layer is (experts of the teacher, neurons that stay). `folded` of a layer is (pairs, 2): a
    head that stays, and one of its group that goes and whose difference it takes in (`residual` says in which
    matrices).
    """

    layers: tuple[int, ...]
    channels: torch.Tensor
    heads: tuple[torch.Tensor, ...]
    groups: tuple[torch.Tensor, ...]
    neurons: tuple[torch.Tensor, ...]
    experts: tuple[torch.Tensor, ...]
    folded: tuple[torch.Tensor, ...] = ()
    residual: HeadResidual = "off"

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


def choose(
    scores: Scores,
    teacher: Architecture,
    student: Architecture,
    sliding: Sequence[bool] = (),
    layer_choice: LayerChoice | None = None,
    residual: HeadResidual = "off",
) -> Kept:
    """The most important units for the student's shape.

    Channels are ranked over the network, neurons in their layer or expert, experts in their layer, heads within their
    key-value group with the same number kept in each, so that every head that stays still reads its own keys and
    values; of the groups those stay whose remaining heads have the largest sum. Layers follow `layer_choice`;
    `sliding` says which of the teacher's layers attend to a window. Of equal scores the first stays. Positions are
    kept in order, so the whole teacher is cut to itself unchanged.
    """
    groups, per_group = student.num_key_value_heads, student.num_attention_heads // student.num_key_value_heads
    in_groups = [_top_in_groups(row, teacher.num_key_value_heads, groups, per_group) for row in scores.heads]
    return Kept(
        layers=choose_layers(scores, teacher, student, sliding, layer_choice or LayerChoice()),
        channels=top(scores.channels, student.hidden_size),
        heads=tuple(heads for heads, _ in in_groups),
        groups=tuple(kept_groups for _, kept_groups in in_groups),
        neurons=tuple(top(row, student.intermediate_size) for row in scores.neurons),
        experts=tuple(top(row, student.num_experts) for row in scores.experts),
        folded=tuple(
            folded_heads(row, kept_groups, teacher.num_key_value_heads, per_group)
            for row, (_, kept_groups) in zip(scores.heads, in_groups, strict=True)
        ),
        residual=residual,
    )


def top(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Ascending positions of the `count` highest scores of the last dimension."""
    return ranked(scores)[..., :count].sort(dim=-1).values


def ranked(scores: torch.Tensor) -> torch.Tensor:
    """Positions along the last dimension, the best first; of equal ones the first."""
    return torch.sort(scores, dim=-1, descending=True, stable=True).indices


def folded_heads(scores: torch.Tensor, groups: torch.Tensor, num_groups: int, keep: int) -> torch.Tensor:
    """(pairs, 2): heads that stay, each with the one that goes whose difference it takes in (P1, section 2.3).

    Of a group's `L` heads, best first, `K = keep` stay, and the `i`-th takes in the `(2K - i + 1)`-th. The paper lets
    `i` run from `2K - L` to `K`, where the first would have a partner that does not exist; it begins one later here,
    and not before 1: where more than half go, the last of them are dropped as they are. `groups` are those that stay.
    """
    order = ranked(scores.unflatten(0, (num_groups, -1)))[groups]
    size = order.shape[-1]
    pairs = min(keep, size - keep)
    stay, go = order[:, keep - pairs : keep], order[:, keep : keep + pairs].flip(-1)
    first = (groups * size)[:, None]
    return torch.stack([(first + stay).flatten(), (first + go).flatten()], dim=-1)


def _top_in_groups(
    scores: torch.Tensor, num_groups: int, keep: int, per_group: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Ascending positions of the heads that stay, and of their groups.

    `num_groups` equal runs of positions are the groups; `keep` of them stay, with `per_group` heads each.
    """
    by_group = scores.unflatten(0, (num_groups, -1))
    heads = top(by_group, per_group)
    groups = top(by_group.gather(1, heads).sum(dim=1), keep)
    size = by_group.shape[1]
    return (groups[:, None] * size + heads[groups]).flatten(), groups
