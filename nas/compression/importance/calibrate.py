"""One calibration: the samples go through the teacher, layer by layer, and every axis is scored."""

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
from nas.errors import SpecError
from nas.model_folder import ModelFolder

STATES_BYTES = 2**32
"""Of hidden states that wait for the next layer, where a teacher is read layer by layer: more are fewer readings."""


@dataclass(frozen=True)
class Source:
    """The teacher as calibration needs it: its layers, on `device`, and single tensors of it by name.

    `states_bytes` bounds the hidden states that are held while another layer is loaded; at 0 one micro-batch at a time
    goes through all layers, which suits a teacher in memory.
    """

    layers: Layers
    read: Read
    device: torch.device
    micro_batch_size: int = 8
    states_bytes: int = 0

    @classmethod
    def of(
        cls, folder: ModelFolder, device: torch.device, *, micro_batch_size: int = 8, layer_by_layer: bool = False
    ) -> "Source":
        """Of a checkpoint: the whole model in memory, or one layer of it at a time."""

        def read(name: str) -> torch.Tensor:
            return read_tensor(folder, name)

        if layer_by_layer:
            return cls(LayersOnDisk(folder, device), read, device, micro_batch_size, STATES_BYTES)
        layers = LayersInMemory(load_model(folder, device), folder.family, folder.architecture.num_hidden_layers)
        return cls(layers, read, device, micro_batch_size)

    def groups(self, batch: Batch, copies: int, hidden_size: int) -> Iterator[Batch]:
        """As many sequences at once as their states may be held of, `copies` of each, but at least a micro-batch."""
        if not len(batch.inputs_BT):
            return
        bytes_each = max(1, copies * batch.inputs_BT.shape[1] * hidden_size * 4)
        for group in batch.split(max(self.micro_batch_size, self.states_bytes // bytes_each)):
            yield group.to(self.device)


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
    neurons that are to be listened to where the family has none, and for a shard without samples.
    """
    identity = plan.identity(origin, samples)
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
    if plan.one_by_one and plan.lengths:
        order = _remove_one_by_one(plan, source, some, tick)
    elif plan.removals:
        found = Damage(plan.spec.depth, plan.removals)
        _try(found, plan, source, some, asked, tick)
        damage, tried = found.table(num_layers), found.whole
    tick.finish()
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
    if plan.one_by_one and plan.lengths:
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
    for group in source.groups(samples, copies, shape.hidden_size):
        states = [source.layers.embed(batch.inputs_BT) for batch in group.split(source.micro_batch_size)]
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
    if plan.spec.depth == "accuracy":
        for batch in in_batches(asked, source.micro_batch_size, source.device):
            damage.ask(source.layers, batch, tick)
        return
    for group in source.groups(some, 1 + len(damage.sums), plan.architecture.hidden_size):
        damage.measure(source.layers, group, source.micro_batch_size, tick)


def _remove_one_by_one(plan: Plan, source: Source, some: Batch, tick: Callable[[int], None]) -> torch.Tensor:
    """(layers,): when each layer went, from 0, if always that one goes whose loss changes the logits least.

    NaN for those that stay to the end. Of equal ones the last goes.
    """
    num_layers = plan.architecture.num_hidden_layers
    order = torch.full((num_layers,), torch.nan, dtype=torch.float64)
    first, last = plan.spec.protect_first_layers, plan.spec.protect_last_layers
    gone = Removal()
    for when in range(plan.lengths[0]):
        candidates = [i for i in range(first, num_layers - last) if i not in gone]
        if not candidates:
            break
        damage = Damage(plan.spec.depth, [gone | {i} for i in candidates])
        _try(damage, plan, source, some, (), tick)
        goes = min(candidates, key=lambda i: (damage.of(gone | {i}), -i))
        order[goes] = when
        gone |= {goes}
    return order


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
