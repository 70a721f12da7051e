"""Gradient checkpointing of every family: the same gradients, of fewer tensors kept."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from nas.compression.data import Batch
from nas.compression.gradients import accumulate
from nas.compression.head import SplitModel
from nas.compression.hidden_states import HiddenStates, Projection
from nas.compression.objective import DistillationObjective
from nas.compression.recompute import layers_recomputed
from nas.compression.teacher import LiveTeacher
from nas.distillation_spec import DistillationSpec
from nas.families import FAMILIES
from nas.training_cost import activation_bytes_per_token
from tests.nas.families.small import ALL, Variant, built
from tests.nas.test_training_cost import ESTIMATED, SIZES

CPU = torch.device("cpu")


class Kept:
    """Counts the bytes that autograd keeps, weights left out."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self._tensors: dict[int, torch.Tensor] = {}

    def pack(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in self._weights:
            self._tensors[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    @property
    def num_bytes(self) -> int:
        return sum(tensor.untyped_storage().nbytes() for tensor in self._tensors.values())


def gradients(model: Any, inputs: torch.Tensor, *, recomputed: bool) -> tuple[dict[str, torch.Tensor], int]:
    model.zero_grad()
    kept = Kept(model)
    with layers_recomputed(model) if recomputed else nullcontext():
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
            loss = model(inputs, use_cache=False).logits.logsumexp(-1).sum()
        loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}, kept.num_bytes


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_gradients_are_the_same_and_less_is_kept(variant: Variant) -> None:
    """Dropout, which every config that has it is given here, stays off."""
    torch.manual_seed(0)
    dropout = dict.fromkeys(("attention_dropout", "attn_pdrop", "resid_pdrop", "hidden_dropout"), 0.5)
    model = built({**variant.config, **dropout}).float().eval()
    inputs = torch.randint(0, 40, (2, 12))
    expected, kept = gradients(model, inputs, recomputed=False)
    found, kept_then = gradients(model, inputs, recomputed=True)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert kept_then < kept / 2
    _, kept_again = gradients(model, inputs, recomputed=False)
    assert kept_again == kept
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "gpt2", "qwen3_moe"])
def test_what_is_kept_of_a_token_is_what_the_estimate_says(model_type: str) -> None:
    more, _ = ESTIMATED[model_type]
    tokens = {"vocab_size": 97, "pad_token_id": None, "eos_token_id": 0, "bos_token_id": None}
    config = {"model_type": model_type, **tokens, **SIZES, **more}
    architecture = FAMILIES[model_type].architecture(config)
    model: Any = built(config).float().eval()

    def kept(length: int) -> int:
        counted = Kept(model)
        with layers_recomputed(model), torch.autograd.graph.saved_tensors_hooks(counted.pack, lambda tensor: tensor):
            model.get_decoder()(torch.zeros(1, length, dtype=torch.long), use_cache=False)
        return counted.num_bytes

    # The layer that is computed again is there in the backward pass only.
    one_layer = activation_bytes_per_token(architecture.resized(num_hidden_layers=1), 64)
    estimated = activation_bytes_per_token(architecture, 64, recomputed=True) - one_layer
    assert estimated <= (kept(128) - kept(64)) / 64 <= 2 * estimated


@pytest.mark.parametrize("hidden_weight", [None, 0.5])
def test_losses_on_hidden_states_have_the_same_gradients_too(hidden_weight: float | None) -> None:
    """Some of them are within a layer that is computed again, and a balanced term goes back a second time."""
    torch.manual_seed(0)
    teacher, model = (built(ALL[0].config).float().eval() for _ in range(2))
    size = model.config.hidden_size
    projection = Projection(size, size, seed=0)
    student = SplitModel(model, torch.float32, CPU)
    spec = DistillationSpec(hidden_states=("embedding", "block_output", "mlp_input"), hidden_weight=hidden_weight)
    hidden = HiddenStates(spec.named_terms, [(3, 2), (1, 1)], "cosine", projection)
    objective = DistillationObjective(student, LiveTeacher(SplitModel(teacher, torch.float32, CPU), spec), spec, hidden)
    tokens = torch.randint(0, 40, (4, 12))
    parameters = [*model.parameters(), *projection.parameters()]
    found = []
    for manager in (nullcontext(), layers_recomputed(model)):
        for parameter in parameters:
            parameter.grad = None
        with manager:
            loss = accumulate(objective, Batch(tokens, tokens), 2, tokens.numel(), parameters)
        found.append((loss, [parameter.grad for parameter in parameters]))
    (loss, expected), (again, gradients_again) = found
    assert again == loss
    assert all(
        one is not None and torch.equal(one, other) for one, other in zip(expected, gradients_again, strict=True)
    )
