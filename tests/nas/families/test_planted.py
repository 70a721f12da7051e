"""What is planted in a model as far more important than the rest must survive the cut, in every family."""

from typing import Any

import pytest
import torch

from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import own_tensors
from nas.compression.choose import choose
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, calibrate
from nas.compression.layerwise import LayersInMemory
from nas.compression.scores import Scores
from tests.nas.families.small import ALL, Variant, built

TOKENS = torch.randint(0, 40, (4, 9), generator=torch.Generator().manual_seed(3))
LAYER, PLANTED = 2, 3
POST_NORMS = ("post_attention_layernorm", "post_feedforward_layernorm")


def layers_of(model: Any) -> Any:
    """The list of the model's layers, wherever it is."""
    decoder = model.get_decoder()
    return decoder.h if hasattr(decoder, "h") else decoder.layers


def scores_of(variant: Variant, model: Any) -> Scores:
    shape, spec = variant.architecture, CalibrationSpec()
    layers = LayersInMemory(model, variant.family, shape.num_hidden_layers)
    source = Source(layers, own_tensors(model).__getitem__, torch.device("cpu"))
    samples = Batch(TOKENS[:, :-1], TOKENS[:, 1:])
    return calibrate(Plan(shape, spec), source, samples, Origin("", "", "", 0)).scores(spec)


def linear_maps(module: torch.nn.Module) -> list[Any]:
    """Weights and biases below a module, without those of norms."""
    return [parameter for name, parameter in module.named_parameters() if "norm" not in name]


@torch.no_grad()
def plant_neuron(variant: Variant, model: Any) -> None:
    mlp = layers_of(model)[LAYER].mlp
    if variant.architecture.num_experts:
        mlp.experts.gate_up_proj[:, variant.architecture.intermediate_size + PLANTED] *= 5000  # Few tokens each.
    elif variant.family.model_type == "phi3":
        mlp.gate_up_proj.weight[variant.architecture.intermediate_size + PLANTED] *= 50
    elif variant.family.model_type == "gpt2":
        mlp.c_fc.weight[:, PLANTED] *= 50
    else:
        first = [getattr(mlp, name) for name in ("up_proj", "c_fc", "dense_h_to_4h") if hasattr(mlp, name)]
        first[0].weight[PLANTED] *= 50


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_planted_neuron_survives(variant: Variant) -> None:
    model, whole = built(variant.config), variant.architecture
    plant_neuron(variant, model)
    scores = scores_of(variant, model)
    kept = choose(scores, whole, whole.resized(intermediate_size=1))
    used = scores.neurons[LAYER].sum(dim=-1) > 0  # No token may come to an expert.
    assert kept.neurons[LAYER][used].unique().tolist() == [PLANTED]


@pytest.mark.parametrize("variant", ALL, ids=str)
@torch.no_grad()
def test_planted_channel_survives(variant: Variant) -> None:
    model, whole = built(variant.config), variant.architecture
    tapped = [norm.format(i=i) + ".weight" for norm in variant.family.taps.norms for i in range(4)]
    for name, parameter in model.named_parameters():
        if name in tapped:
            parameter[PLANTED] += 40
    kept = choose(scores_of(variant, model), whole, whole.model_copy(update={"hidden_size": 1}))
    assert kept.channels.tolist() == [PLANTED]


@pytest.mark.parametrize("variant", ALL, ids=str)
@torch.no_grad()
def test_planted_head_survives(variant: Variant) -> None:
    model, whole = built(variant.config), variant.architecture
    group, size = 1, whole.head_dim
    layer = layers_of(model)[LAYER]
    attention = next(getattr(layer, name) for name in ("self_attn", "attention", "attn") if hasattr(layer, name))
    # The heads of a group share their values, so all of them are planted together.
    values = slice(group * size, (group + 1) * size)
    if hasattr(attention, "v_proj"):
        attention.v_proj.weight[values] *= 50
    elif hasattr(attention, "qkv_proj"):
        first = (whole.num_attention_heads + whole.num_key_value_heads) * size
        attention.qkv_proj.weight[first + values.start : first + values.stop] *= 50
    elif hasattr(attention, "query_key_value"):
        attention.query_key_value.weight[(3 * group + 2) * size : (3 * group + 3) * size] *= 50
    else:
        first = 2 * whole.hidden_size
        attention.c_attn.weight[:, first + values.start : first + values.stop] *= 50
    per_group = whole.num_attention_heads // whole.num_key_value_heads
    student = whole.model_copy(update={"num_key_value_heads": 1, "num_attention_heads": per_group})
    kept = choose(scores_of(variant, model), whole, student)
    assert kept.groups[LAYER].tolist() == [group]
    assert kept.heads[LAYER].tolist() == list(range(group * per_group, (group + 1) * per_group))


@pytest.mark.parametrize("variant", ALL, ids=str)
@torch.no_grad()
def test_planted_layer_survives(variant: Variant) -> None:
    model, whole = built(variant.config), variant.architecture
    for i, layer in enumerate(layers_of(model)):
        factor = 1.0 if i == LAYER else 0.01
        norms = [getattr(layer, name) for name in POST_NORMS if hasattr(layer, "post_feedforward_layernorm")]
        for norm in norms:  # They take back whatever the matrices before them are multiplied with.
            norm.weight.fill_(factor - variant.family.model_type.startswith("gemma"))
        for parameter in [] if norms else linear_maps(layer):
            parameter *= factor
    kept = choose(
        scores_of(variant, model), whole, whole.model_copy(update={"num_hidden_layers": 1, "num_sliding_layers": 0})
    )
    assert kept.layers == (LAYER,)


@pytest.mark.parametrize("variant", [variant for variant in ALL if variant.architecture.num_experts], ids=str)
@torch.no_grad()
def test_planted_expert_survives(variant: Variant) -> None:
    model, whole = built(variant.config), variant.architecture
    chosen = layers_of(model)[LAYER].mlp.experts
    chosen.down_proj[PLANTED] *= 200
    kept = choose(
        scores_of(variant, model), whole, whole.model_copy(update={"num_experts": 1, "num_experts_per_tok": 1})
    )
    assert kept.experts[LAYER].tolist() == [PLANTED]
