"""Scores of weights alone, against loops over a model's own modules; and scores by chance."""

import math

import pytest
import torch

from nas.calibration import CalibrationSpec
from nas.compression.checkpoint import own_tensors
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, calibrate
from nas.compression.importance.weights import magnitudes, random_scores, reader_norms
from nas.compression.layerwise import LayersInMemory
from tests.nas.families.small import ALL, Variant, built

BY_NAME = {str(variant): variant for variant in ALL}


def norm(*tensors: torch.Tensor) -> float:
    return math.sqrt(sum(tensor.square().sum().item() for tensor in tensors))


def test_magnitudes_of_a_llama_are_those_of_its_units() -> None:
    variant = BY_NAME["llama-1"]  # With biases.
    model, shape = built(variant.config), variant.architecture
    found = magnitudes(own_tensors(model).__getitem__, shape)
    layer = model.model.layers[1]
    mlp, attention = layer.mlp, layer.self_attn
    for n in (0, 7):
        biases = (mlp.gate_proj.bias[n], mlp.up_proj.bias[n])
        expected = norm(mlp.gate_proj.weight[n], mlp.up_proj.weight[n], mlp.down_proj.weight[:, n], *biases)
        assert found.neurons[1, n].item() == pytest.approx(expected)
    head = slice(2 * shape.head_dim, 3 * shape.head_dim)
    expected = norm(attention.q_proj.weight[head], attention.q_proj.bias[head], attention.o_proj.weight[:, head])
    assert found.heads[1, 2].item() == pytest.approx(expected)
    assert found.layers[1].item() == pytest.approx(norm(*layer.parameters()))
    # Of the matrices all but o_proj and down_proj have channels along their columns.
    channel = [
        parameter[5]
        if parameter.dim() == 1 or name.endswith(("o_proj.weight", "down_proj.weight"))
        else parameter[:, 5]
        for name, parameter in model.named_parameters()
        if not name.endswith(("q_proj.bias", "k_proj.bias", "v_proj.bias", "gate_proj.bias", "up_proj.bias"))
    ]
    assert found.channels[5].item() == pytest.approx(norm(*channel))


@pytest.mark.parametrize("name", ["llama-0", "gpt2-0", "phi3-0", "gpt_neox-0", "stablelm-1"])
def test_readers_are_the_matrices_that_a_unit_is_multiplied_with(name: str) -> None:
    variant = BY_NAME[name]
    model, shape = built(variant.config), variant.architecture
    found = reader_norms(own_tensors(model).__getitem__, shape)
    for i in (0, 3):
        down, out = (
            model.get_submodule(str(tap).format(i=i)).weight
            for tap in (variant.family.taps.neurons_input_of, variant.family.taps.heads_input_of)
        )
        if name.startswith("gpt2"):  # Stored as (what is read, what is written).
            down, out = down.T, out.T
        torch.testing.assert_close(found.neurons[i], down.norm(dim=0))
        of_heads = out.unflatten(1, (shape.num_attention_heads, shape.head_dim)).square().sum((0, 2)).sqrt()
        torch.testing.assert_close(found.heads[i], of_heads)
    inner = [
        weight.T if name.startswith("gpt2") else weight
        for parameter_name, weight in model.named_parameters()
        if weight.dim() == 2
        and any(
            part in parameter_name
            for part in (
                "q_proj",
                "k_proj",
                "v_proj",
                "qkv",
                "query_key",
                "c_attn",
                "gate",
                "up_proj",
                "c_fc",
                "dense_h_to",
            )
        )
    ]
    expected = torch.cat(inner).norm(dim=0)
    torch.testing.assert_close(found.channels, expected)


def test_experts_have_the_magnitude_of_all_of_theirs_and_of_their_router() -> None:
    variant = BY_NAME["mixtral-0"]
    tensors = own_tensors(built(variant.config))
    prefix = "model.layers.2.block_sparse_moe."
    of_expert = [tensors[f"{prefix}experts.3.{name}.weight"] for name in ("w1", "w2", "w3")]
    found = magnitudes(tensors.__getitem__, variant.architecture)
    assert found.experts[2, 3].item() == pytest.approx(norm(*of_expert, tensors[f"{prefix}gate.weight"][3]))
    w1, w2, w3 = of_expert
    assert found.neurons[2, 3, 4].item() == pytest.approx(norm(w1[4], w2[:, 4], w3[4]))
    readers = reader_norms(tensors.__getitem__, variant.architecture)
    torch.testing.assert_close(readers.neurons[2, 3], w2.norm(dim=0))
    assert torch.equal(readers.experts, torch.ones_like(readers.experts))


@pytest.mark.parametrize("variant", [BY_NAME["llama-0"], BY_NAME["mixtral-0"]], ids=str)
def test_wanda_is_activation_times_the_norm_of_what_reads_it(variant: Variant) -> None:
    model = built(variant.config)
    tokens = torch.randint(0, 40, (3, 8), generator=torch.Generator().manual_seed(0))
    source = Source(LayersInMemory(model, variant.family, 4), own_tensors(model).__getitem__, torch.device("cpu"))

    def scores(width: str) -> dict[str, torch.Tensor]:
        spec = CalibrationSpec.model_validate({"width": width})
        plan = Plan(variant.architecture, spec)
        return vars(calibrate(plan, source, Batch(tokens, tokens), Origin("", "", "", 0)).scores(spec))

    activation, wanda = scores("activation"), scores("wanda")
    readers = vars(reader_norms(source.read, variant.architecture))
    for axis in ("heads", "neurons", "experts", "channels"):
        torch.testing.assert_close(wanda[axis], activation[axis] * readers[axis], rtol=1e-14, atol=0)
    assert torch.equal(wanda["layers"], activation["layers"])


def test_chance_follows_from_the_seed() -> None:
    shape = ALL[0].architecture
    first, again, other = random_scores(shape, 1), random_scores(shape, 1), random_scores(shape, 2)
    assert torch.equal(first.neurons, again.neurons)
    assert not torch.equal(first.neurons, other.neurons)
    assert first.heads.min() >= 0
