"""What happens to the teacher without some of its layers: loss, logits, answers to questions.

B sequences, T tokens, V vocabulary entries.
"""

from collections.abc import Callable, Collection, Iterator, Sequence

import torch

from nas.calibration import DepthMethod
from nas.compression.data import Batch
from nas.compression.importance.exact_sum import ExactSum
from nas.compression.importance.questions import Questions
from nas.compression.layerwise import Layers
from nas.compression.losses import cross_entropy_BT

Removal = frozenset[int]
"""The layers that are passed by."""

Tick = Callable[[int], None]
"""Told how many sequences have passed another layer."""


def stretch(start: int, length: int) -> Removal:
    return frozenset(range(start, start + length))


def without(
    layers: Layers, batches_BT: Sequence[torch.Tensor], removals: Collection[Removal], tick: Tick
) -> Iterator[tuple[Removal, int, torch.Tensor]]:
    """The residual stream after the last layer, for each removal and each batch of inputs, by its position.

    What several removals have in common is computed once: after layer `i`, only which layers up to it are gone
    matters. Each layer is loaded once.
    """
    states = {frozenset[int](): [layers.embed(inputs_BT) for inputs_BT in batches_BT]}
    for i in range(layers.num_layers):
        layer, after = layers.load(i), {}
        for gone in {frozenset(j for j in removal if j <= i) for removal in removals}:
            before = states[gone - {i}]
            after[gone] = before if i in gone else [layer(states_BTD) for states_BTD in before]
            tick(0 if i in gone else sum(map(len, before)))
        states = after
    for removal in removals:
        for position, states_BTD in enumerate(states[removal]):
            yield removal, position, states_BTD


def num_passes(num_layers: int, removals: Collection[Removal]) -> int:
    """How many layers a sequence passes in `without`."""
    states = ({frozenset(j for j in removal if j <= i) for removal in removals} for i in range(num_layers))
    return sum(i not in gone for i, of_layer in enumerate(states) for gone in of_layer)


class Damage:
    """Sums over the samples for each removal, and over what they are to be divided by.

    Of `perplexity` the loss in nats per token; of `logit_mse` the squared distance from the teacher's logits in
    proportion to their own squares (Nemotron Elastic, 2511.16664); of `accuracy` the share of wrong answers.
    """

    def __init__(self, method: DepthMethod, removals: Collection[Removal]) -> None:
        self.method = method
        self.sums = {removal: ExactSum.zeros() for removal in removals}
        self.whole = ExactSum.zeros()

    @torch.no_grad()
    def measure(
        self,
        layers: Layers,
        batch: Batch,
        micro_batch_size: int,
        tick: Tick,
        removals: Collection[Removal] | None = None,
    ) -> None:
        """Adds what a batch of text shows of some removals, or of all; what divides them comes with the first."""
        removals = self.sums if removals is None else removals
        is_first = next(iter(self.sums)) in removals
        batches = list(batch.split(micro_batch_size))
        inputs = [each.inputs_BT for each in batches]
        if self.method == "perplexity":
            for removal, position, states_BTD in without(layers, inputs, removals, tick):
                losses_BT = cross_entropy_BT(layers.logits(states_BTD), batches[position].targets_BT)
                self.sums[removal].add_each(losses_BT.double().sum(dim=-1).cpu())
            if is_first:
                self.whole.add(torch.tensor(batch.inputs_BT.numel(), dtype=torch.float64))
            return
        ends = [*without(layers, inputs, [*removals, Removal()], tick)]
        full = [states_BTD for removal, _, states_BTD in ends if not removal]
        for position, states_BTD in enumerate(full):
            full_BTV = layers.logits(states_BTD)
            if is_first:
                self.whole.add_each(full_BTV.double().square().sum(dim=(1, 2)).cpu())
            for removal, of_batch, changed_BTD in ends:
                if of_batch == position and removal:
                    change_BTV = layers.logits(changed_BTD).double() - full_BTV
                    self.sums[removal].add_each(change_BTV.square().sum(dim=(1, 2)).cpu())

    @torch.no_grad()
    def ask(
        self, layers: Layers, some: Questions, micro_batch_size: int, tick: Tick, removals: Collection[Removal]
    ) -> None:
        """Adds what questions show of some removals."""
        pieces = some.tokens_BT.split(micro_batch_size)
        losses: dict[Removal, list[torch.Tensor]] = {removal: [] for removal in removals}
        for removal, position, states_BTD in without(layers, pieces, removals, tick):
            logits_BTV = layers.logits(states_BTD)
            losses[removal].append(cross_entropy_BT(logits_BTV[:, :-1], pieces[position][:, 1:]))
        for removal, of_pieces in losses.items():
            self.sums[removal].add(torch.tensor(some.wrong_by(torch.cat(of_pieces)), dtype=torch.float64))
        if next(iter(self.sums)) in removals:
            self.whole.add(torch.tensor(len(some.questions), dtype=torch.float64))

    def of(self, removal: Removal) -> float:
        return float(self.sums[removal].value / self.whole.value)

    def table(self, num_layers: int) -> ExactSum:
        """(layers, layers): in row `n - 1`, column `i` the sum for the stretch of `n` from `i` on, NaN without one."""
        table = ExactSum(torch.full((num_layers, num_layers), torch.nan, dtype=torch.float64))
        for removal, total in self.sums.items():
            place = len(removal) - 1, min(removal)
            table.high[place], table.low[place] = total.high, total.low
        return table
