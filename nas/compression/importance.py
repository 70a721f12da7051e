"""Importance of layers, heads, neurons and embedding channels from one forward-only pass.

B sequences, T tokens, H heads, N neurons, D channels. Aggregation is the paper's choice (P1, section 2.2, table 13):
the mean of absolute values over a sequence, then the L2 norm over sequences. Sums are float64, so the order of
batches does not show.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F

from nas.architecture import Architecture
from nas.compression.checkpoint import read_weights, write_weights
from nas.compression.data import Batch
from nas.errors import CheckpointError
from nas.families import Family


@dataclass(frozen=True)
class Scores:
    """Importance along every axis, float64; higher is more important.

    `layers` (layers,), `heads` (layers, heads), `neurons` (layers, neurons), `channels` (hidden,).
    """

    layers: torch.Tensor
    heads: torch.Tensor
    neurons: torch.Tensor
    channels: torch.Tensor

    def save(self, path: Path) -> None:
        write_weights(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "Scores":
        tensors = read_weights(path)
        if set(tensors) != {"layers", "heads", "neurons", "channels"}:
            raise CheckpointError(path, "is not a scores file")
        return cls(**tensors)


@dataclass
class _Sums:
    """Running sums over sequences of squared sequence means, and of cosines over tokens."""

    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    neurons: dict[int, torch.Tensor] = field(default_factory=dict)
    channels: dict[str, torch.Tensor] = field(default_factory=dict)
    cosines: dict[int, float] = field(default_factory=dict)
    tokens: int = 0


@torch.no_grad()
def calibrate(
    model: torch.nn.Module,
    family: Family,
    architecture: Architecture,
    samples: Batch,
    *,
    micro_batch_size: int = 8,
    progress: Callable[[int], None] = lambda done: None,
) -> Scores:
    """Runs the samples through the model's decoder once (the head is not needed) and scores all axes.

    `progress` is told the number of sequences done.
    """
    sums = _Sums()
    decoder = model.get_decoder()  # type: ignore[operator]
    done = 0
    with _listening(model, family, architecture, sums):
        for batch in samples.split(micro_batch_size):
            decoder(batch.inputs_BT, use_cache=False)
            sums.tokens += batch.inputs_BT.numel()
            done += len(batch.inputs_BT)
            progress(done)
    layers = range(architecture.num_hidden_layers)
    return Scores(
        layers=torch.tensor([1 - sums.cosines[i] / sums.tokens for i in layers], dtype=torch.float64),
        heads=torch.stack([sums.heads[i].sqrt() for i in layers]).cpu(),
        neurons=torch.stack([sums.neurons[i].sqrt() for i in layers]).cpu(),
        # One residual stream runs through all norms, so their scores add up to one ranking of its channels.
        channels=torch.stack([squares.sqrt() for squares in sums.channels.values()]).sum(dim=0).cpu(),
    )


def square_of_sequence_mean(score_BTX: torch.Tensor) -> torch.Tensor:
    """Sum over the batch of the squared sequence mean of |score|: (B, T, X) -> (X,) float64."""
    return score_BTX.float().abs().mean(dim=1).double().square().sum(dim=0)


@contextmanager
def _listening(model: torch.nn.Module, family: Family, architecture: Architecture, sums: _Sums) -> Iterator[None]:
    """Hooks on the family's taps for as long as the context lasts."""
    handles = []
    for i in range(architecture.num_hidden_layers):
        taps = family.taps
        heads = model.get_submodule(taps.heads_input_of.format(i=i))
        neurons = model.get_submodule(taps.neurons_input_of.format(i=i))
        block = model.get_submodule(taps.block.format(i=i))
        handles += [
            heads.register_forward_pre_hook(_head_hook(sums, i, architecture)),
            neurons.register_forward_pre_hook(_neuron_hook(sums, i)),
            block.register_forward_hook(_block_hook(sums, i)),
            *(
                model.get_submodule(norm.format(i=i)).register_forward_hook(_channel_hook(sums, norm.format(i=i)))
                for norm in taps.norms
            ),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _head_hook(sums: _Sums, layer: int, architecture: Architecture) -> Callable[..., None]:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # F_head: the L2 norm of a head's output at each token.
        norm_BTH = inputs[0].float().unflatten(-1, (-1, architecture.head_dim)).norm(dim=-1)
        sums.heads[layer] = sums.heads.get(layer, 0) + square_of_sequence_mean(norm_BTH)

    return hook


def _neuron_hook(sums: _Sums, layer: int) -> Callable[..., None]:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # A gated MLP has no single pre-activation; what enters down_proj is what a neuron contributes.
        sums.neurons[layer] = sums.neurons.get(layer, 0) + square_of_sequence_mean(inputs[0])

    return hook


def _channel_hook(sums: _Sums, norm: str) -> Callable[..., None]:
    def hook(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output_BTD: torch.Tensor) -> None:
        # F_emb: the norm's output, its learned scale included.
        sums.channels[norm] = sums.channels.get(norm, 0) + square_of_sequence_mean(output_BTD)

    return hook


def _block_hook(sums: _Sums, layer: int) -> Callable[..., None]:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        # Block Influence (ShortGPT): 1 - the mean cosine between a block's input and output at each token.
        cosine_BT = F.cosine_similarity(inputs[0].float(), output.float(), dim=-1)
        sums.cosines[layer] = sums.cosines.get(layer, 0.0) + cosine_BT.double().sum().item()

    return hook
