"""One calibration: the samples go through the teacher, layer by layer, and every axis is scored."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from nas.compression.checkpoint import load_model, read_tensor
from nas.compression.data import Batch
from nas.compression.importance.aggregation import Moments
from nas.compression.importance.block_influence import Turns
from nas.compression.importance.exact_sum import ExactSum
from nas.compression.importance.listening import Recorder, Recording, listening
from nas.compression.importance.plan import Origin, Plan
from nas.compression.importance.questions import Question, in_batches
from nas.compression.importance.removal import Damage, Removal, num_passes
from nas.compression.importance.statistics import Statistics
from nas.compression.importance.weights import Read, magnitudes, reader_norms
from nas.compression.layerwise import Layers, LayersInMemory, LayersOnDisk
from nas.errors import SpecError, TeacherError
from nas.model_folder import ModelFolder

STATES_BYTES = 2**32
"""Of hidden states that wait for the next layer, where a teacher is read layer by layer: more are fewer readings."""


@dataclass(frozen=True)
class Source:
    """The teacher as calibration needs it: its layers, on `device`, and single tensors of it by name.

    `states_bytes` bounds the hidden states that are held between two layers. `layer_by_layer`, as many sequences as
    that holds wait for the next layer to be loaded; else one micro-batch at a time goes through all.
    """

    layers: Layers
    read: Read
    device: torch.device
    micro_batch_size: int = 8
    layer_by_layer: bool = False
    states_bytes: int = STATES_BYTES

    @classmethod
    def of(
        cls, folder: ModelFolder, device: torch.device, *, micro_batch_size: int = 8, layer_by_layer: bool = False
    ) -> "Source":
        """Of a checkpoint: the whole model in memory, or one layer of it at a time."""

        def read(name: str) -> torch.Tensor:
            return read_tensor(folder, name)

        if layer_by_layer:
            return cls(LayersOnDisk(folder, device), read, device, micro_batch_size, layer_by_layer=True)
        layers = LayersInMemory(load_model(folder, device), folder.family, folder.architecture.num_hidden_layers)
        return cls(layers, read, device, micro_batch_size)

    def sequences_at_once(self, copies: int, entries: int) -> int:
        """How many go through a layer together, `copies` of each of `entries` float32; at least a micro-batch."""
        fitting = self.states_bytes // (4 * copies * entries) if self.layer_by_layer else 0
        return max(self.micro_batch_size, fitting)

    def portions(self, batch: Batch, copies: int, hidden_size: int) -> Iterator[Batch]:
        """The batch in portions that go through a layer together."""
        if len(batch.inputs_BT):
            size = self.sequences_at_once(copies, batch.inputs_BT.shape[1] * hidden_size)
            yield from (portion.to(self.device) for portion in batch.split(size))

    def removals_at_once(self, removals: Sequence[Removal], entries: int) -> Iterator[Sequence[Removal]]:
        """The removals in portions whose states fit, of a micro-batch with `entries` for each sequence.

        What enters a layer and what leaves it are both there for a while.
        """
        fitting = self.states_bytes // (2 * 4 * self.micro_batch_size * entries) - 1
        for first in range(0, len(removals), max(1, fitting)):
            yield removals[first : first + max(1, fitting)]


@torch.no_grad()
def calibrate(
    plan: Plan,
    source: Source,
    samples: Batch,
    origin: Origin,
    *,
    questions: Sequence[Question] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Statistics:
    """Statistics of the plan's shard of all `samples`.

    `progress` is told how often a sequence has passed a layer, and how often one will have to. Raises SpecError for
    neurons that are to be listened to where the family has none, and for a shard without samples, and TeacherError for
    a teacher whose values are not finite.
    """
    identity = plan.identity(origin, samples, source.device)
    mine, some = plan.samples_of_shard(samples)
    if not len(mine.inputs_BT):
        problem = f"are more than the {len(samples.inputs_BT)} samples"
        raise SpecError("calibration.shards", plan.shard[1], problem, "no more shards than samples")
    asked = questions[plan.of_shard(len(questions))]
    num_layers = plan.architecture.num_hidden_layers
    tick = _Progress(progress, _layer_passes(plan, len(mine.inputs_BT), len(some.inputs_BT), asked))
    nothing = ExactSum(torch.full((num_layers, num_layers), torch.nan, dtype=torch.float64))
    damage, tried, order = nothing, ExactSum.zeros(), torch.full((num_layers,), torch.nan, dtype=torch.float64)
    moments: dict[str, Moments] = {}
    if plan.listens:
        moments, turns = _listen(plan, source, mine, tick)
        if turns.lengths:
            damage, tried = turns.table(), ExactSum(torch.tensor(float(turns.tokens), dtype=torch.float64))
    if plan.spec.one_by_one and plan.lengths:
        order = _remove_one_by_one(plan, source, some, tick)
    elif plan.removals:
        found = Damage(plan.spec.depth, plan.removals)
        _try(found, plan, source, some, asked, tick)
        damage, tried = found.table(num_layers), found.whole
    tick.finish()
    _check_finite(plan, moments, damage)
    return Statistics(
        identity=identity,
        architecture=plan.architecture,
        sequences=len(mine.inputs_BT),
        moments=moments,
        damage=damage,
        tried=tried,
        order=order,
        weights=_of_weights(plan, source.read),
    )


@dataclass
class _Progress:
    """Counts sequences through layers, the unit that all methods share."""

    tell: Callable[[int, int], None]
    total: int
    done: int = 0

    def __call__(self, passed: int) -> None:
        self.done = min(self.done + passed, self.total)
        self.tell(self.done, self.total)

    def finish(self) -> None:
        """The total is an estimate where layers go one by one: what is shared depends on which go."""
        self(self.total)


def _layer_passes(plan: Plan, num_samples: int, num_tried: int, asked: Sequence[Question]) -> int:
    """How often a sequence will pass a layer."""
    num_layers = plan.architecture.num_hidden_layers
    total = num_samples * num_layers if plan.listens else 0
    if plan.spec.one_by_one and plan.lengths:
        for gone in range(plan.lengths[0]):
            others = [frozenset({*range(gone), each}) for each in range(gone, num_layers)]
            total += num_tried * num_passes(num_layers, [*others, Removal()])
    elif plan.removals:
        sequences = sum(len(question.choices) for question in asked) if plan.spec.depth == "accuracy" else num_tried
        with_full = [Removal()] if plan.spec.depth == "logit_mse" else []
        total += sequences * num_passes(num_layers, [*plan.removals, *with_full])
    return total


def _listen(
    plan: Plan, source: Source, samples: Batch, tick: Callable[[int], None]
) -> tuple[dict[str, Moments], Turns]:
    """Everything that one pass shows: units by hooks, Block Influence by what enters and leaves the layers."""
    shape, num_tokens = plan.architecture, samples.inputs_BT.shape[1]
    recorder = Recorder(plan.recording or Recording((), ()))
    turns = Turns(shape.num_hidden_layers, plan.lengths if plan.spec.depth == "block_influence" else ())
    copies = 1 + max(turns.lengths, default=0)
    for portion in source.portions(samples, copies, shape.hidden_size):
        states = [source.layers.embed(batch.inputs_BT) for batch in portion.split(source.micro_batch_size)]
        passes = [turns.begin(states_BTD) for states_BTD in states]
        for i in range(shape.num_hidden_layers):
            layer = source.layers.load(i)
            with listening(layer, plan.family, shape, i, num_tokens, recorder):
                for position, states_BTD in enumerate(states):
                    states[position] = layer(states_BTD)
                    passes[position].through(states[position])
                    tick(len(states_BTD))
    stacked = {name: Moments.stacked(list(of_layer.values())) for name, of_layer in recorder.moments.items()}
    return stacked, turns


def _try(
    damage: Damage, plan: Plan, source: Source, some: Batch, asked: Sequence[Question], tick: Callable[[int], None]
) -> None:
    """What every removal does to the samples, or to the questions."""
    hidden_size = plan.architecture.hidden_size
    if plan.spec.depth == "accuracy":
        num_tokens = max((len(tokens) for question in asked for tokens, _ in question.choices), default=1)
        most_choices = max((len(question.choices) for question in asked), default=1)
    else:
        num_tokens = some.inputs_BT.shape[1]
    for removals in source.removals_at_once(list(damage.sums), num_tokens * hidden_size):
        copies = 2 * (len(removals) + 1)
        if plan.spec.depth == "accuracy":
            at_once = source.sequences_at_once(copies, num_tokens * hidden_size) // most_choices
            for batch in in_batches(asked, max(1, at_once), source.device):
                damage.ask(source.layers, batch, source.micro_batch_size, tick, removals)
        else:
            for portion in source.portions(some, copies, hidden_size):
                damage.measure(source.layers, portion, source.micro_batch_size, tick, removals)


def _remove_one_by_one(plan: Plan, source: Source, some: Batch, tick: Callable[[int], None]) -> torch.Tensor:
    """(layers,): when each layer went, from 0, if always that one goes whose loss changes the logits least.

    NaN for those that stay to the end. Of equal ones the last goes.
    """
    order = torch.full((plan.architecture.num_hidden_layers,), torch.nan, dtype=torch.float64)
    gone = Removal()
    for when in range(plan.lengths[0]):
        candidates = plan.may_go(gone)
        if not candidates:
            break
        damage = Damage(plan.spec.depth, [gone | {i} for i in candidates])
        _try(damage, plan, source, some, (), tick)
        if bad := [i for i in candidates if not math.isfinite(damage.of(gone | {i}))]:
            problem = f"computes logits that are not finite without layers {sorted(gone | {bad[0]})}"
            raise TeacherError(
                "teacher", plan.architecture.label, problem, "weights with which it computes finite ones"
            )
        goes = min(candidates, key=lambda i: (damage.of(gone | {i}), -i))
        order[goes] = when
        gone |= {goes}
    return order


def _check_finite(plan: Plan, moments: dict[str, Moments], damage: ExactSum) -> None:
    """Raises TeacherError for what would rank as most important, or as never tried, for not being a number."""
    accepted = "weights with which it computes finite values"
    for name, of_name in moments.items():
        axis = name.split(".")[0]
        bad = (~of_name.second.value.isfinite()).flatten(1).any(dim=1).nonzero()
        if len(bad):
            place = f"norm {int(bad[0])}" if axis == "channels" else f"layer {int(bad[0])}"
            problem = f"computes {axis} in {place} that are not finite"
            raise TeacherError("teacher", plan.architecture.label, problem, accepted)
    turned = plan.lengths if plan.spec.depth == "block_influence" else ()
    num_layers = plan.architecture.num_hidden_layers
    tried = {(n, start) for n in turned for start in range(num_layers - n + 1)}
    tried |= {(len(removal), min(removal)) for removal in plan.removals}
    for length, start in sorted(tried):
        if not damage.value[length - 1, start].isfinite():
            problem = f"computes values that are not finite around layers {start} to {start + length - 1}"
            raise TeacherError("teacher", plan.architecture.label, problem, accepted)


def _of_weights(plan: Plan, read: Read) -> dict[str, torch.Tensor]:
    """Scores that weights alone give, where the method has any."""
    found: dict[str, torch.Tensor] = {}
    if plan.spec.width == "wanda":
        norms = vars(reader_norms(read, plan.architecture))
        found = {axis: norms[axis] for axis in ("heads", "neurons", "experts", "channels")}
    if "magnitude" in (plan.spec.width, plan.spec.depth):
        sizes = vars(magnitudes(read, plan.architecture))
        axes = ("layers", "heads", "neurons", "experts", "channels") if plan.spec.width == "magnitude" else ("layers",)
        found |= {axis: sizes[axis] for axis in axes}
    return found
