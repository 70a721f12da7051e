"""What passes through a layer's heads, neurons, experts and norms, taken down while it runs.

B sequences, T tokens, H heads, N neurons, D channels, E experts, K of them for each token.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

from nas.architecture import Architecture
from nas.calibration import Aggregation, NeuronTap
from nas.compression.importance.aggregation import Moments, exact_enough, over_sequence
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
    """Computed again, expert by expert: what the module hands on is already summed over them.

    F_expert is the L2 norm of what an expert adds at each token, 0 at those that the router does not send to it;
    its neurons count with the router's weight.
    """

    def hook(module: Any, inputs: tuple[torch.Tensor, ...]) -> None:
        hidden, chosen, weights = inputs
        numbers: dict[str, list[torch.Tensor]] = {}
        for expert in range(len(module.gate_up_proj)):
            weight = (weights * (chosen == expert)).sum(dim=-1, keepdim=True)
            gate, up = F.linear(hidden, module.gate_up_proj[expert]).chunk(2, dim=-1)
            contribution = module.act_fn(gate) * up * weight
            values = {"down_input": contribution, "gate_output": gate * weight, "up_output": up * weight}
            added_BT1 = torch.linalg.vector_norm(
                exact_enough(F.linear(contribution, module.down_proj[expert])), dim=-1, keepdim=True
            ).unflatten(0, (-1, num_tokens))
            for aggregation in recorder.recording.over_sequence:
                numbers.setdefault(f"experts.{aggregation}", []).append(over_sequence(added_BT1, aggregation)[:, 0])
                for tap in recorder.recording.neurons:
                    values_BTN = values[tap].unflatten(0, (-1, num_tokens))
                    of_neurons = numbers.setdefault(f"neurons.{tap}.{aggregation}", [])
                    of_neurons.append(over_sequence(values_BTN, aggregation))
        for name, of_experts in numbers.items():
            recorder.add_numbers(name, place, torch.stack(of_experts, dim=1))

    return hook
