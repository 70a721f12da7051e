"""Importance of layers, heads, neurons, experts and embedding channels from one forward-only pass.

B sequences, T tokens, H heads, N neurons, D channels, E experts, K of them for each token. Aggregation is the paper's
choice (P1, section 2.2, table 13): the mean of absolute values over a sequence, then the L2 norm over sequences. Sums
are float64, so the order of batches does not show.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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

    `layers` (layers,), `heads` (layers, heads), `neurons` (layers, neurons) or (layers, experts, neurons), `experts`
    (layers, experts), with none where the MLP is one, `channels` (hidden,).
    """

    layers: torch.Tensor
    heads: torch.Tensor
    neurons: torch.Tensor
    experts: torch.Tensor
    channels: torch.Tensor

    def save(self, path: Path) -> None:
        write_weights(path, vars(self))

    @classmethod
    def load(cls, path: Path) -> "Scores":
        tensors = read_weights(path)
        if "layers" in tensors:  # Files of before there were experts have none.
            tensors.setdefault("experts", torch.zeros(len(tensors["layers"]), 0, dtype=torch.float64))
        if set(tensors) != set(cls.__annotations__):
            raise CheckpointError(path, "is not a scores file")
        return cls(**tensors)


@dataclass
class _Sums:
    """Running sums over sequences of squared sequence means, and of cosines over tokens."""

    heads: dict[int, torch.Tensor] = field(default_factory=dict)
    neurons: dict[int, torch.Tensor] = field(default_factory=dict)
    experts: dict[int, torch.Tensor] = field(default_factory=dict)
    channels: dict[str, torch.Tensor] = field(default_factory=dict)
    cosines: dict[int, float] = field(default_factory=dict)
    tokens: int = 0
    sequence_length: int = 0


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
        sums.sequence_length = samples.inputs_BT.shape[1]
        for batch in samples.split(micro_batch_size):
            decoder(batch.inputs_BT, use_cache=False)
            sums.tokens += batch.inputs_BT.numel()
            done += len(batch.inputs_BT)
            progress(done)
    layers = range(architecture.num_hidden_layers)
    none = torch.zeros(0, dtype=torch.float64)
    return Scores(
        layers=torch.tensor([1 - sums.cosines[i] / sums.tokens for i in layers], dtype=torch.float64),
        heads=torch.stack([sums.heads[i].sqrt() for i in layers]).cpu(),
        neurons=torch.stack([sums.neurons[i].sqrt() for i in layers]).cpu(),
        experts=torch.stack([sums.experts.get(i, none).sqrt() for i in layers]).cpu(),
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
    present = {name for name, _ in family.tensors(architecture)}
    for i in range(architecture.num_hidden_layers):
        taps = family.taps
        heads = model.get_submodule(taps.heads_input_of.format(i=i))
        block = model.get_submodule(taps.block.format(i=i))
        handles += [
            heads.register_forward_pre_hook(_head_hook(sums, i, architecture)),
            block.register_forward_hook(_block_hook(sums, i)),
        ]
        for norm in (norm.format(i=i) for norm in taps.norms):
            if f"{norm}.weight" in present:
                handles.append(model.get_submodule(norm).register_forward_hook(_channel_hook(sums, norm)))
        if taps.neurons_input_of is not None:
            neurons = model.get_submodule(taps.neurons_input_of.format(i=i))
            handles.append(neurons.register_forward_pre_hook(_neuron_hook(sums, i)))
        if taps.experts is not None:
            experts = model.get_submodule(taps.experts.format(i=i))
            handles.append(experts.register_forward_pre_hook(_expert_hook(sums, i)))
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


def _expert_hook(sums: _Sums, layer: int) -> Callable[..., None]:
    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        # Computed again, expert by expert: what the module hands on is already summed over them. F_expert is the L2
        # norm of what an expert adds at each token, 0 at those that the router does not send to it.
        hidden, chosen, weights = inputs
        neurons_EN, experts_E = [], []
        for expert in range(len(module.gate_up_proj)):
            weight = (weights * (chosen == expert)).sum(dim=-1, keepdim=True)
            gate, up = F.linear(hidden, module.gate_up_proj[expert]).chunk(2, dim=-1)
            neurons_BTN = (module.act_fn(gate) * up * weight).unflatten(0, (-1, sums.sequence_length))
            added_BT = F.linear(neurons_BTN, module.down_proj[expert]).float().norm(dim=-1)
            neurons_EN.append(square_of_sequence_mean(neurons_BTN))
            experts_E.append(square_of_sequence_mean(added_BT[..., None])[0])
        sums.neurons[layer] = sums.neurons.get(layer, 0) + torch.stack(neurons_EN)
        sums.experts[layer] = sums.experts.get(layer, 0) + torch.stack(experts_E)

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
