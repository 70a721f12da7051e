"""Scores of every family against a plain recomputation in float64, from modules that are named here by hand."""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from nas.calibration import Aggregation, CalibrationSpec
from nas.compression.checkpoint import build_model, own_tensors
from nas.compression.data import Batch
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate, merge
from nas.compression.importance.listening import Recording, neuron_taps
from nas.compression.layerwise import LayersInMemory
from nas.compression.scores import Scores
from tests.nas.families.small import ALL, Variant, built

TOKENS = torch.randint(0, 40, (6, 11), generator=torch.Generator().manual_seed(1))
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
    up: str = "up_proj"
    gate_and_up: str | None = None


_GEMMA = Places(norms=("input_layernorm", "pre_feedforward_layernorm"))
PLACES = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": Places(norms=("post_attention_layernorm", "post_feedforward_layernorm")),
    "phi3": Places(gate_and_up="gate_up_proj"),
    "starcoder2": Places(from_neurons="mlp.c_proj", up="c_fc"),
    "gpt_neox": Places(
        "gpt_neox.layers",
        "attention.dense",
        "mlp.dense_4h_to_h",
        final_norm="gpt_neox.final_layer_norm",
        up="dense_h_to_4h",
    ),
    "gpt2": Places("transformer.h", "attn.c_proj", "mlp.c_proj", ("ln_1", "ln_2"), "transformer.ln_f", up="c_fc"),
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
            handles.append(
                layer.get_submodule(places.from_neurons).register_forward_hook(_input_into(seen["down_input"]))
            )
            handles += _outputs_of_first_matrices(layer.mlp, places, seen)
        for norm in filter(None, (getattr(layer, name, None) for name in places.norms)):
            handles.append(norm.register_forward_hook(lambda _, __, output: seen["norms"].append(output)))
    stream = model(TOKENS[:, :-1], use_cache=False, output_hidden_states=True).hidden_states
    for handle in handles:
        handle.remove()
    # transformers gives the last state after the final norm; before it, it is what the last layer made.
    seen["stream"] = [*stream[:-1], *seen.pop("end")]
    return seen


def _outputs_of_first_matrices(mlp: Any, places: Places, seen: dict[str, list[torch.Tensor]]) -> list[Any]:
    """What comes out of gate_proj and up_proj, or of whichever matrices are in their place."""
    if places.gate_and_up is not None:

        def halves(_: Any, __: Any, output: torch.Tensor) -> None:
            num_neurons = output.shape[-1] // 2
            seen["gate_output"].append(output[..., :num_neurons])
            seen["up_output"].append(output[..., num_neurons:])

        return [mlp.get_submodule(places.gate_and_up).register_forward_hook(halves)]
    up, gate = mlp.get_submodule(places.up), getattr(mlp, "gate_proj", None)
    handles = [up.register_forward_hook(lambda _, __, output: seen["up_output"].append(output))]
    if gate is not None:
        handles.append(gate.register_forward_hook(lambda _, __, output: seen["gate_output"].append(output)))
    return handles


def _input_into(into: list[torch.Tensor]) -> Any:
    return lambda _, inputs, __: into.append(inputs[0])


def by_definition(values_BTX: torch.Tensor, sequence: Aggregation, batch: Aggregation) -> torch.Tensor:
    """(X,): the paper's aggregations, over the tokens and then over the samples, in float64."""
    assert values_BTX.dtype == torch.float64

    def over(values: torch.Tensor, how: Aggregation, dim: int) -> torch.Tensor:
        if how == "mean":
            return values.abs().mean(dim)
        return values.square().sum(dim).sqrt() if how == "l2" else values.var(dim, correction=0)

    return over(over(values_BTX, sequence, 1), batch, 0)


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


AGGREGATIONS: tuple[Aggregation, ...] = ("mean", "l2", "var")
PAIRS = [(sequence, batch) for sequence in AGGREGATIONS for batch in AGGREGATIONS]
ORIGIN = Origin("teacher", "config", "tokens", seed=0)


def measured(
    variant: Variant, model: Any, micro_batch_size: int = 4, shard: tuple[int, int] = (0, 1), **spec: Any
) -> Statistics:
    """With everything that hooks can take down, and every stretch of layers."""
    shape, family = variant.architecture, variant.family
    collect = Recording(AGGREGATIONS, neuron_taps(family))
    asked = CalibrationSpec.model_validate({"contiguous": True, **spec})
    plan = Plan(shape, asked, depths=(1, 2, 3), collect=collect, shard=shard)
    layers = LayersInMemory(model, family, shape.num_hidden_layers)
    source = Source(layers, own_tensors(model).__getitem__, torch.device("cpu"), micro_batch_size)
    return calibrate(plan, source, Batch(TOKENS[:, :-1], TOKENS[:, 1:]), ORIGIN)


def scores_of(statistics: Statistics, sequence: Aggregation = "mean", batch: Aggregation = "l2", **spec: Any) -> Scores:
    return statistics.scores(CalibrationSpec(over_sequence=sequence, over_batch=batch, contiguous=True, **spec))


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """To what float64 leaves; a variance is a small difference of squares."""
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13 * float(expected.abs().max().clamp(min=1)))


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_heads_and_channels_are_scored_by_their_definition(variant: Variant) -> None:
    model, shape = built(variant.config), variant.architecture
    statistics, seen = measured(variant, model), watched(variant, model)
    assert len(seen["norms"]) == len(tapped_norms(variant))
    for sequence, batch in PAIRS:
        scores = scores_of(statistics, sequence, batch)
        for i in range(shape.num_hidden_layers):
            heads_BTHC = seen["heads"][i].unflatten(-1, (shape.num_attention_heads, shape.head_dim))
            close(scores.heads[i], by_definition(heads_BTHC.square().sum(-1).sqrt(), sequence, batch))
        of_norms = [by_definition(norm, sequence, batch) for norm in seen["norms"]]
        close(scores.channels, sum(of_norms, start=torch.zeros(shape.hidden_size)))


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_layers_and_stretches_are_scored_by_how_far_they_turn_the_stream(variant: Variant) -> None:
    model, num_layers = built(variant.config), variant.architecture.num_hidden_layers
    scores, stream = scores_of(measured(variant, model)), watched(variant, model)["stream"]
    for length in range(1, num_layers):
        for first in range(num_layers - length + 1):
            before, after = stream[first], stream[first + length]
            cosines = (before * after).sum(-1) / (before.square().sum(-1) * after.square().sum(-1)).sqrt()
            close(scores.stretches[length - 1, first], 1 - cosines.mean())
    assert torch.equal(scores.layers, scores.stretches[0])


@pytest.mark.parametrize("variant", DENSE, ids=str)
def test_neurons_are_scored_where_the_spec_listens(variant: Variant) -> None:
    model = built(variant.config)
    statistics, seen = measured(variant, model), watched(variant, model)
    for sequence, batch in PAIRS:
        for tap in neuron_taps(variant.family):
            scores = scores_of(statistics, sequence, batch, neurons=tap)
            assert scores.experts.shape == (variant.architecture.num_hidden_layers, 0)
            close(scores.neurons, torch.stack([by_definition(values, sequence, batch) for values in seen[tap]]))
    is_gated = "gate_output" in neuron_taps(variant.family)
    default = scores_of(statistics).neurons
    expected = scores_of(statistics, neurons="down_input" if is_gated else "up_output").neurons
    assert torch.equal(default, expected)


@pytest.mark.parametrize("variant", MIXTURES, ids=str)
def test_experts_and_their_neurons_are_scored_by_what_they_add(variant: Variant) -> None:
    model = built(variant.config)
    statistics, tensors = measured(variant, model), own_tensors(model)
    for i, x in enumerate(watched(variant, model)["mlp"]):
        neurons_BTEN, added_BTED, summed_BTD = mixture_by_hand(variant, tensors, i, x)
        # The router of transformers rounds to float32, and so do weights that come from it.
        torch.testing.assert_close(summed_BTD, model.model.layers[i].mlp(x), rtol=1e-5, atol=1e-6)
        for sequence, batch in PAIRS:
            scores = scores_of(statistics, sequence, batch)
            of_experts = by_definition(added_BTED.square().sum(-1).sqrt(), sequence, batch)
            torch.testing.assert_close(scores.experts[i], of_experts, rtol=1e-5, atol=1e-9)
            of_neurons = [by_definition(neurons, sequence, batch) for neurons in neurons_BTEN.unbind(2)]
            torch.testing.assert_close(scores.neurons[i], torch.stack(of_neurons), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("variant", [variant for variant in ALL if variant.number == 0], ids=str)
def test_neither_batches_nor_shards_change_the_scores(variant: Variant) -> None:
    model = built(variant.config)
    one_by_one = measured(variant, model, micro_batch_size=1)
    at_once = measured(variant, model, micro_batch_size=5)
    shards = [measured(variant, model, micro_batch_size=1, shard=(number, 3)) for number in (2, 0, 1)]
    merged = merge(shards)
    assert merged.identity == one_by_one.identity
    for sequence, batch in PAIRS:
        whole = vars(scores_of(one_by_one, sequence, batch))
        for name, values in vars(scores_of(merged, sequence, batch)).items():
            assert torch.equal(values.nan_to_num(), whole[name].nan_to_num()), name
        for name, values in vars(scores_of(at_once, sequence, batch)).items():
            # transformers computes norms in float32.
            torch.testing.assert_close(values, whole[name], rtol=1e-5, atol=1e-7, equal_nan=True)


@pytest.mark.parametrize("variant", MIXTURES, ids=str)
def test_the_way_experts_run_does_not_change_the_scores(variant: Variant) -> None:
    model = built(variant.config)
    # As it is loaded by default, in float32, experts all at once.
    loaded = build_model(variant.config, own_tensors(model), torch.device("cpu"))
    in_float32 = scores_of(measured(variant, loaded))
    for name, values in vars(scores_of(measured(variant, model))).items():
        torch.testing.assert_close(getattr(in_float32, name), values, rtol=1e-4, atol=1e-5, equal_nan=True)


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
