"""Cutting in several rounds, each with scores of what the one before has left (P1, section 2.2, table 14)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import build_model, read_tensor
from nas.compression.choose import Kept, choose, folded_heads, ranked
from nas.compression.data import Batch
from nas.compression.importance.calibrate import Source, calibrate
from nas.compression.importance.plan import Origin, Plan, size_after
from nas.compression.importance.questions import Question
from nas.compression.importance.weights import Read
from nas.compression.layerwise import LayersInMemory
from nas.compression.prune import cut
from nas.compression.scores import Scores
from nas.families import family_named
from nas.model_folder import ModelFolder


@dataclass(frozen=True)
class Stage:
    """A model between two rounds: its shape, its config, and its tensors by name, all at hand but the teacher's."""

    architecture: Architecture
    config: Mapping[str, Any]
    read: Read
    tensors: Mapping[str, torch.Tensor] = field(default_factory=dict)

    @property
    def sliding(self) -> tuple[bool, ...]:
        """For every layer, whether it attends to a window only."""
        rules = family_named(self.architecture.family).rules
        return rules.sliding_layers(self.config, self.architecture.num_hidden_layers)


Measure = Callable[[Stage, Architecture], Scores]
"""Scores of a stage, from which it can be cut to the shape."""


def shape_after(teacher: Architecture, student: Architecture, done: int, rounds: int) -> Architecture:
    """The shape after some of the rounds: every size has gone the same part of its way.

    Where the family does not allow that, as few channels or heads more as it does.
    """
    if done in (0, rounds):
        return student if done else teacher

    def size(axis: str) -> int:
        return size_after(getattr(teacher, axis), getattr(student, axis), done, rounds)

    before = shape_after(teacher, student, done - 1, rounds)
    groups = size("num_key_value_heads")
    of_group = [shape.num_attention_heads // shape.num_key_value_heads for shape in (teacher, student)]
    fewer = (groups * size_after(of_group[0], of_group[1], done, rounds), groups)
    others = {axis: size(axis) for axis in ("num_hidden_layers", "intermediate_size", "num_experts")}
    for heads, groups in (fewer, (before.num_attention_heads, before.num_key_value_heads)):
        for hidden_size in range(min(size("hidden_size"), before.hidden_size), before.hidden_size + 1):
            sizes = {"hidden_size": hidden_size, "num_attention_heads": heads, "num_key_value_heads": groups}
            shape = teacher.resized(**others, **sizes)
            if family_named(teacher.family).is_legal(shape):
                return shape
    return before.resized(**others)


def choose_in_rounds(
    teacher: ModelFolder,
    student: Architecture,
    spec: CalibrationSpec,
    scores: Scores,
    samples: Batch,
    seed: int,
    *,
    device: torch.device,
    micro_batch_size: int,
    questions: Sequence[Question] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Kept:
    """What of the teacher stays: by its `scores`, and in further rounds by those of what is left, in memory."""
    family = teacher.family
    first = Stage(teacher.architecture, teacher.config, lambda name: read_tensor(teacher, name))

    def measure(stage: Stage, target: Architecture) -> Scores:
        if stage is first:
            return scores
        num_layers = stage.architecture.num_hidden_layers
        once = spec.model_copy(update={"rounds": 1, "shards": 1})
        plan = Plan(stage.architecture, once, (target.num_hidden_layers,), stage.sliding)
        layers = LayersInMemory(build_model(dict(stage.config), stage.tensors, device), family, num_layers)
        source = Source(layers, stage.read, device, micro_batch_size)
        # Nobody else will ever see this stage, or ask where its scores are from.
        nowhere = Origin("", "", "", seed)
        return calibrate(plan, source, samples, nowhere, questions=questions, progress=progress).scores(once)

    return cut_in_rounds(first, student, spec, measure)


def cut_in_rounds(teacher: Stage, student: Architecture, spec: CalibrationSpec, measure: Measure) -> Kept:
    """What of the teacher stays after all rounds; with one round what `choose` says.

    A round that rounding leaves nothing to is passed over. Only the last cut folds heads, by an order in which those
    that went in an earlier round come after those of a later one.
    """
    left, stage = _Left(teacher.architecture), teacher
    for done in range(spec.rounds):
        target = shape_after(teacher.architecture, student, done + 1, spec.rounds)
        if target == stage.architecture:
            continue
        scores = measure(stage, target)
        kept = choose(scores, stage.architecture, target, stage.sliding, spec.layer_choice)
        left.score(scores.heads, spec.rounds - 1 - done)
        left.keep(kept)
        if target == student:
            break
        stage = _cut(stage, target, kept)
    return left.kept(student, spec)


def _cut(stage: Stage, target: Architecture, kept: Kept) -> Stage:
    family = family_named(stage.architecture.family)
    tensors = dict(cut(stage.read, stage.architecture, target, kept))
    return Stage(target, family.config(stage.config, target, kept.layers), tensors.__getitem__, tensors)


class _Left:
    """Which of the teacher's units are left, and what its heads were worth when they were last scored.

    Per layer of the teacher; `neurons` of a layer has one row for each expert, or one row.
    """

    def __init__(self, teacher: Architecture) -> None:
        self._teacher = teacher
        layers, rows = range(teacher.num_hidden_layers), max(1, teacher.num_experts)
        self._layers = list(layers)
        self._channels = torch.arange(teacher.hidden_size)
        self._heads = [torch.arange(teacher.num_attention_heads) for _ in layers]
        self._groups = [torch.arange(teacher.num_key_value_heads) for _ in layers]
        self._experts = [torch.arange(teacher.num_experts) for _ in layers]
        self._neurons = [torch.arange(teacher.intermediate_size).repeat(rows, 1) for _ in layers]
        self._worth_of_heads = [torch.zeros(teacher.num_attention_heads, dtype=torch.float64) for _ in layers]

    def score(self, heads: torch.Tensor, rounds_left: int) -> None:
        """Scores (layers that are left, heads that are left) of one round.

        Before the last round only their order counts, below everything that is scored later.
        """
        for position, layer in enumerate(self._layers):
            worth = heads[position]
            if rounds_left:
                worth = -rounds_left - ranked(worth).argsort().double() / len(worth)
            self._worth_of_heads[layer][self._heads[layer]] = worth

    def keep(self, kept: Kept) -> None:
        """Of what is left, by positions among it, what stays."""
        for position in kept.layers:
            layer = self._layers[position]
            self._heads[layer] = self._heads[layer][kept.heads[position]]
            self._groups[layer] = self._groups[layer][kept.groups[position]]
            neurons = kept.neurons[position]
            self._neurons[layer] = self._neurons[layer].gather(1, neurons if neurons.dim() == 2 else neurons[None])
            if self._teacher.num_experts:
                self._experts[layer] = self._experts[layer][kept.experts[position]]
                self._neurons[layer] = self._neurons[layer][kept.experts[position]]
        self._layers = [self._layers[position] for position in kept.layers]
        self._channels = self._channels[kept.channels]

    def kept(self, student: Architecture, spec: CalibrationSpec) -> Kept:
        per_group = student.num_attention_heads // student.num_key_value_heads
        everything = range(self._teacher.num_hidden_layers)
        num_groups = self._teacher.num_key_value_heads
        return Kept(
            layers=tuple(self._layers),
            channels=self._channels,
            heads=tuple(self._heads),
            groups=tuple(self._groups),
            neurons=tuple(self._neurons_of(layer) for layer in everything),
            experts=tuple(self._experts),
            folded=tuple(
                folded_heads(self._worth_of_heads[layer], self._groups[layer], num_groups, per_group)
                for layer in everything
            ),
            residual=spec.head_residual,
        )

    def _neurons_of(self, layer: int) -> torch.Tensor:
        """As `Kept` has them: with experts, a row for each of the teacher's, also for those that went."""
        rows = self._neurons[layer]
        if not self._teacher.num_experts:
            return rows[0]
        of_all = rows.new_zeros(self._teacher.num_experts, rows.shape[1])
        of_all[self._experts[layer]] = rows
        return of_all
