"""Scores of every family against a plain recomputation in float64, from modules that are named here by hand."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from nas.compression.checkpoint import build_model, own_tensors
from nas.compression.data import Batch
from nas.compression.importance import Scores, calibrate
from tests.nas.families.small import ALL, Variant, built

TOKENS = torch.randint(0, 40, (6, 10), generator=torch.Generator().manual_seed(1))
MIXTURES = [variant for variant in ALL if variant.architecture.num_experts]
DENSE = [variant for variant in ALL if not variant.architecture.num_experts]


@dataclass(frozen=True)
class Places:
    """The layers, and in each what takes the heads' outputs and the neurons', and the norms that count."""

    layers: str = "model.layers"
    from_heads: str = "self_attn.o_proj"
    from_neurons: str = "mlp.down_proj"
    norms: tuple[str, ...] = ("input_layernorm", "post_attention_layernorm")
    final_norm: str = "model.norm"


_GEMMA = Places(norms=("input_layernorm", "pre_feedforward_layernorm"))
PLACES = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": Places(norms=("post_attention_layernorm", "post_feedforward_layernorm")),
    "starcoder2": Places(from_neurons="mlp.c_proj"),
    "gpt_neox": Places(
        "gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h", final_norm="gpt_neox.final_layer_norm"
    ),
    "gpt2": Places("transformer.h", "attn.c_proj", "mlp.c_proj", ("ln_1", "ln_2"), "transformer.ln_f"),
}


@torch.no_grad()
def watched(variant: Variant, model: Any) -> dict[str, list[torch.Tensor]]:
    """What went through the model, one entry for each layer; of the stream, one more."""
    places = PLACES.get(variant.family.model_type, Places())
    seen: dict[str, list[torch.Tensor]] = defaultdict(list)
    handles = [model.get_submodule(places.final_norm).register_forward_hook(_input_into(seen["end"]))]
    for layer in model.get_submodule(places.layers):
        handles.append(layer.get_submodule(places.from_heads).register_forward_hook(_input_into(seen["heads"])))
        if variant.architecture.num_experts:
            handles.append(layer.mlp.register_forward_hook(_input_into(seen["mlp"])))
        else:
            handles.append(layer.get_submodule(places.from_neurons).register_forward_hook(_input_into(seen["neurons"])))
        for norm in filter(None, (getattr(layer, name, None) for name in places.norms)):
            handles.append(norm.register_forward_hook(lambda _, __, output: seen["norms"].append(output)))
    stream = model(TOKENS, use_cache=False, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    # transformers gives the last state after the final norm; before it, it is what the last layer made.
    seen["stream"] = [*stream[:-1], *seen.pop("end")]
    return seen


def _input_into(into: list[torch.Tensor]) -> Any:
    return lambda _, inputs, __: into.append(inputs[0])


def l2_of_means(values_BTX: torch.Tensor) -> torch.Tensor:
    """The L2 norm over samples of the mean of absolute values over tokens, in float64."""
    assert values_BTX.dtype == torch.float64
    return values_BTX.abs().mean(dim=1).square().sum(dim=0).sqrt()


@torch.no_grad()
def mixture_by_hand(
    variant: Variant, tensors: dict[str, torch.Tensor], layer: int, x: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Neurons (B, T, E, N) and what each expert adds (B, T, E, D), both weighted by the router, and their sum."""
    module, gate, up, down = (
        ("block_sparse_moe", "w1", "w3", "w2")
        if variant.family.model_type == "mixtral"
        else ("mlp", "gate_proj", "up_proj", "down_proj")
    )
    prefix = f"model.layers.{layer}.{module}."
    chances = (x @ tensors[f"{prefix}gate.weight"].T).softmax(-1)
    weights = torch.zeros_like(chances)
    best = chances.topk(variant.config["num_experts_per_tok"], dim=-1).indices
    weights.scatter_(-1, best, chances.gather(-1, best))
    if variant.config.get("norm_topk_prob", variant.family.model_type == "mixtral"):
        weights = weights / weights.sum(-1, keepdim=True)
    neurons, added = [], []
    for expert in range(variant.architecture.num_experts):
        of = {name: tensors[f"{prefix}experts.{expert}.{name}.weight"] for name in (gate, up, down)}
        gated = x @ of[gate].T
        neurons.append(gated / (1 + torch.exp(-gated)) * (x @ of[up].T) * weights[..., expert, None])
        added.append(neurons[-1] @ of[down].T)
    return torch.stack(neurons, dim=2), torch.stack(added, dim=2), sum(added, start=torch.zeros_like(x))


def tapped_norms(variant: Variant) -> list[str]:
    """The weights of all norms that the family listens to and that this checkpoint has."""
    tensors = dict(variant.family.tensors(variant.architecture))
    layers = range(variant.architecture.num_hidden_layers)
    listed = [f"{norm}.weight".format(i=i) for norm in variant.family.taps.norms for i in layers]
    return [name for name in listed if name in tensors]


def calibrated(variant: Variant, model: Any, micro_batch_size: int = 4) -> Scores:
    batch = Batch(TOKENS, TOKENS)
    return calibrate(model, variant.family, variant.architecture, batch, micro_batch_size=micro_batch_size)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To what float32 leaves of a mean, in which scores are computed."""
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_layers_heads_and_channels_are_scored_by_their_definition(variant: Variant) -> None:
    model = built(variant.config)
    scores, seen, shape = calibrated(variant, model), watched(variant, model), variant.architecture
    for i in range(shape.num_hidden_layers):
        heads_BTHC = seen["heads"][i].unflatten(-1, (shape.num_attention_heads, shape.head_dim))
        close(scores.heads[i], l2_of_means(heads_BTHC.square().sum(-1).sqrt()))
        before, after = seen["stream"][i], seen["stream"][i + 1]
        cosines = (before * after).sum(-1) / (before.square().sum(-1) * after.square().sum(-1)).sqrt()
        torch.testing.assert_close(scores.layers[i], 1 - cosines.mean(), rtol=0, atol=1e-7)
    close(scores.channels, sum((l2_of_means(norm) for norm in seen["norms"]), start=torch.zeros(shape.hidden_size)))
    assert len(seen["norms"]) == len(tapped_norms(variant))


@pytest.mark.parametrize("variant", DENSE, ids=str)
def test_neurons_are_scored_by_what_they_contribute(variant: Variant) -> None:
    model = built(variant.config)
    scores, seen = calibrated(variant, model), watched(variant, model)
    assert scores.experts.shape == (variant.architecture.num_hidden_layers, 0)
    close(scores.neurons, torch.stack([l2_of_means(neurons) for neurons in seen["neurons"]]))


@pytest.mark.parametrize("variant", MIXTURES, ids=str)
def test_experts_and_their_neurons_are_scored_by_what_they_add(variant: Variant) -> None:
    model = built(variant.config)
    scores, tensors = calibrated(variant, model), own_tensors(model)
    for i, x in enumerate(watched(variant, model)["mlp"]):
        neurons_BTEN, added_BTED, summed_BTD = mixture_by_hand(variant, tensors, i, x)
        # The router of transformers rounds to float32.
        torch.testing.assert_close(summed_BTD, model.model.layers[i].mlp(x), rtol=1e-5, atol=1e-6)
        close(scores.experts[i], l2_of_means(added_BTED.square().sum(-1).sqrt()))
        close(scores.neurons[i], torch.stack([l2_of_means(neurons) for neurons in neurons_BTEN.unbind(2)]))


@pytest.mark.parametrize("variant", MIXTURES, ids=str)
def test_batches_and_the_way_experts_run_do_not_change_the_scores(variant: Variant) -> None:
    model = built(variant.config)
    expected = calibrated(variant, model, micro_batch_size=1)
    other = calibrated(variant, model, micro_batch_size=6)
    # As it is loaded by default, in float32.
    loaded = build_model(variant.config, own_tensors(model), torch.device("cpu"))
    in_float32 = calibrated(variant, loaded)
    for name, values in vars(expected).items():
        torch.testing.assert_close(getattr(other, name), values, rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(getattr(in_float32, name), values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", MIXTURES, ids=str)
@torch.no_grad()
def test_experts_that_are_one_by_one_on_disk_are_fused_again(variant: Variant) -> None:
    model = built(variant.config).float()
    tensors = own_tensors(model)
    assert tensors.keys() == dict(variant.family.tensors(variant.architecture)).keys()
    again = build_model(variant.config, tensors, torch.device("cpu"))
    theirs, ours = model.state_dict(), again.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    torch.testing.assert_close(again(TOKENS).logits, model(TOKENS).logits, rtol=1e-4, atol=1e-4)
