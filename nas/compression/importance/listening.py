"""What passes through a layer's heads, neurons, experts and norms, taken down while it runs.

B sequences, T tokens, H heads, N neurons, D channels, E experts, K of them for each of M tokens, R tokens of an expert.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from nas.architecture import Architecture
from nas.calibration import Aggregation, NeuronTap
from nas.compression.importance.aggregation import Moments, exact_enough, over_sequence, over_sparse_sequence
from nas.compression.layerwise import Layer
from nas.families import Family

Hook = Callable[..., None]


@dataclass(frozen=True)
class Recording:
    """What is taken down: for every aggregation over sequences, and for every place where neurons show, its own."""

    over_sequence: tuple[Aggregation, ...] = ("mean",)
    neurons: tuple[NeuronTap, ...] = ("down_input",)


@dataclass
class Recorder:
    """Moments of every unit, by what they are of, `AXIS.AGGREGATION` (of neurons `neurons.TAP.AGGREGATION`), and by
    layer; of channels by norm."""

    recording: Recording
    moments: dict[str, dict[str, Moments]] = field(default_factory=dict)

    def add(self, name: str, place: str, values_BTX: torch.Tensor) -> None:
        """Values of X units at each token."""
        for aggregation in self.recording.over_sequence:
            self.add_numbers(f"{name}.{aggregation}", place, over_sequence(values_BTX, aggregation))

    def add_numbers(self, name: str, place: str, numbers: torch.Tensor) -> None:
        """(B, units...): one number for each sequence."""
        of_name = self.moments.setdefault(name, {})
        if place not in of_name:
            of_name[place] = Moments.zeros(*numbers.shape[1:], device=numbers.device)
        of_name[place].add(numbers)


def neuron_taps(family: Family) -> tuple[NeuronTap, ...]:
    """Where the family's neurons can be listened to, the default first.

    The paper scores a neuron before the activation function; a gated MLP has no single such value, so there it is
    what enters down_proj.
    """
    if family.taps.gate_output_of is not None or family.has_experts:
        return ("down_input", "gate_output", "up_output")
    return ("up_output", "down_input")


@contextmanager
def listening(
    layer: Layer, family: Family, architecture: Architecture, number: int, num_tokens: int, recorder: Recorder
) -> Iterator[None]:
    """Hooks on the taps of a layer, the teacher's `number`-th, for as long as the context lasts."""
    taps, place = family.taps, str(number)
    present = {name for name, _ in family.tensors(architecture)}
    heads = layer.submodule(taps.heads_input_of)
    handles = [heads.register_forward_pre_hook(_head_hook(recorder, place, architecture.head_dim))]
    for norm in taps.norms:
        if f"{norm}.weight".format(i=number) in present:
            hook = _channel_hook(recorder, norm.format(i=number))
            handles.append(layer.submodule(norm).register_forward_hook(hook))
    for tap in recorder.recording.neurons if taps.experts is None else ():
        handles.append(_listen_to_neurons(layer, family, tap, place, recorder))
    if taps.experts is not None:
        hook = _expert_hook(recorder, place, num_tokens)
        handles.append(layer.submodule(taps.experts).register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _head_hook(recorder: Recorder, place: str, head_dim: int) -> Hook:
    def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # F_head: the L2 norm of a head's output at each token.
        outputs_BTHC = exact_enough(inputs[0]).unflatten(-1, (-1, head_dim))
        recorder.add("heads", place, torch.linalg.vector_norm(outputs_BTHC, dim=-1))

    return hook


def _channel_hook(recorder: Recorder, norm: str) -> Hook:
    def hook(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output_BTD: torch.Tensor) -> None:
        # F_emb: the norm's output, its learned scale included.
        recorder.add("channels", norm, output_BTD)

    return hook


def _listen_to_neurons(layer: Layer, family: Family, tap: NeuronTap, place: str, recorder: Recorder) -> Any:
    """The handle of a hook where the values of this tap pass."""
    taps, name = family.taps, f"neurons.{tap}"
    if tap == "down_input":

        def before(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            recorder.add(name, place, inputs[0])

        return layer.submodule(str(taps.neurons_input_of)).register_forward_pre_hook(before)
    is_fused = taps.gate_output_of == taps.up_output_of

    def after(_: torch.nn.Module, __: tuple[torch.Tensor, ...], output_BTN: torch.Tensor) -> None:
        if is_fused:
            output_BTN = output_BTN.chunk(2, dim=-1)[0 if tap == "gate_output" else 1]
        recorder.add(name, place, output_BTN)

    module = taps.gate_output_of if tap == "gate_output" else taps.up_output_of
    return layer.submodule(str(module)).register_forward_hook(after)


def _expert_hook(recorder: Recorder, place: str, num_tokens: int) -> Hook:
    """Computed again, expert by expert, each on its own tokens: what the module hands on is already summed over them.

    F_expert is the L2 norm of what an expert adds at each token, 0 at those that the router does not send to it;
    its neurons count with the router's weight.
    """

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden_MD, chosen_MK, weights_MK = inputs
        num_sequences = len(hidden_MD) // num_tokens
        numbers: dict[str, list[torch.Tensor]] = {}
        for expert in range(len(module.gate_up_proj)):
            is_chosen_MK = chosen_MK == expert
            rows_R = is_chosen_MK.any(dim=-1).nonzero().flatten()
            weight_R1 = (weights_MK * is_chosen_MK)[rows_R].sum(dim=-1, keepdim=True)
            gate_RN, up_RN = F.linear(hidden_MD[rows_R], module.gate_up_proj[expert]).chunk(2, dim=-1)
            contribution_RN = module.act_fn(gate_RN) * up_RN * weight_R1
            added_RD = exact_enough(F.linear(contribution_RN, module.down_proj[expert]))
            neurons = {
                "down_input": contribution_RN,
                "gate_output": gate_RN * weight_R1,
                "up_output": up_RN * weight_R1,
            }
            values = {f"neurons.{tap}": neurons[tap] for tap in recorder.recording.neurons}
            values["experts"] = torch.linalg.vector_norm(added_RD, dim=-1, keepdim=True)
            for aggregation in recorder.recording.over_sequence:
                for name, of_rows in values.items():
                    sequence_R = rows_R // num_tokens
                    number_BX = over_sparse_sequence(of_rows, sequence_R, num_sequences, num_tokens, aggregation)
                    numbers.setdefault(f"{name}.{aggregation}", []).append(number_BX)
        for name, of_experts in numbers.items():
            stacked_BEX = torch.stack(of_experts, dim=1)
            recorder.add_numbers(name, place, stacked_BEX[..., 0] if name.startswith("experts") else stacked_BEX)

    return hook
