"""Costs against what torch counts and transformers allocates, sums over tensors and loops, and published figures."""

from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache, StaticCache

from nas.architecture import Architecture, sizes_of
from nas.cost import Cost, CostModel, Dtype, cost
from nas.families import family_named
from tests.nas.families.small import ALL, Variant, on_meta, outside, parsed, students
from tests.nas.shapes import LLAMA_8B, llamas, small_llama, transformers_llama

DTYPES: dict[Dtype, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float8": torch.float8_e4m3fn,
    "int8": torch.int8,
}
WITHOUT_WINDOWS = [v for v in ALL if not v.architecture.num_sliding_layers and not v.architecture.num_experts]
EXPERTS = [variant for variant in ALL if variant.architecture.num_experts]
CACHED = [variant for variant in ALL if variant.family.model_type in ("gemma2", "gemma3_text", "mistral", "llama")]

every_variant = pytest.mark.parametrize("variant", ALL, ids=str)


def costs_of(shape: Architecture, context: int = 1, batch_size: int = 1, dtype: Dtype = "bfloat16") -> Cost:
    return cost(shape, dtype=dtype, batch_size=batch_size, context=context)


# --- parameters and bytes of weights ----------------------------------------------------------------------------


@every_variant
def test_parameters_are_those_of_transformers(variant: Variant) -> None:
    model = on_meta(variant.config)
    total = sum(parameter.numel() for parameter in model.parameters())
    costs = costs_of(variant.architecture)
    assert costs.parameters == total
    assert costs.non_embedding_parameters == total - sum(parameter.numel() for parameter in outside(model))
    if not variant.architecture.num_experts:
        assert costs.active_parameters == total


@pytest.mark.parametrize("variant", EXPERTS, ids=str)
def test_a_token_passes_through_as_many_experts_as_are_chosen_for_it(variant: Variant) -> None:
    """And through the whole of everything else, the router among it."""
    shape, counted = variant.architecture, 0
    for name, parameter in on_meta(variant.config).named_parameters():
        if ".experts." in name:
            of_one, rest = divmod(parameter.numel(), shape.num_experts)
            assert rest == 0
            counted += of_one * shape.num_experts_per_tok
        else:
            counted += parameter.numel()
    costs = costs_of(shape)
    assert costs.active_parameters == counted
    assert costs.active_parameters < costs.parameters


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [True, False])
def test_weight_bytes_are_those_of_the_model_in_that_dtype(dtype: Dtype, tied: bool) -> None:
    shape = small_llama(tie_word_embeddings=tied)
    elements = [
        torch.empty(p.shape, dtype=DTYPES[dtype], device="meta") for p in transformers_llama(shape).parameters()
    ]
    expected = sum(tensor.numel() * tensor.element_size() for tensor in elements)
    assert costs_of(shape, dtype=dtype).weight_bytes == expected


# --- cache ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", CACHED, ids=str)
@pytest.mark.parametrize(("batch_size", "context"), [(1, 1), (3, 2), (1, 3), (2, 4), (3, 9)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_cache_is_as_large_as_the_one_transformers_allocates(
    variant: Variant, batch_size: int, context: int, dtype: Dtype
) -> None:
    """All of these windows are of 3 tokens: shorter, just as long, and longer contexts."""
    shape = variant.architecture
    cache: Any = StaticCache(config=parsed(variant.config), max_cache_len=context)
    cache.early_initialization(
        batch_size=batch_size,
        num_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        dtype=DTYPES[dtype],
        device=torch.device("meta"),
    )
    allocated = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    expected = sum(tensor.numel() * tensor.element_size() for tensor in allocated)
    assert costs_of(shape, context, batch_size, dtype).kv_cache_bytes == expected


@st.composite
def windowed(draw: st.DrawFn) -> Architecture:
    """A small Llama, of whose layers any number attend to a window."""
    shape = draw(llamas())
    window = draw(st.integers(1, 6))
    sliding = draw(st.integers(0, shape.num_hidden_layers))
    return shape.model_copy(update={"num_sliding_layers": sliding, "sliding_window": window if sliding else 0})


@settings(derandomize=True, deadline=None, max_examples=60)
@given(windowed(), st.integers(1, 9), st.integers(1, 3))
def test_each_layer_keeps_a_key_and_a_value_for_every_token_it_may_attend_to(
    shape: Architecture, context: int, batch_size: int
) -> None:
    elements = 0
    for _sequence in range(batch_size):
        for layer in range(shape.num_hidden_layers):
            kept = min(context, shape.sliding_window) if layer < shape.num_sliding_layers else context
            for _token in range(kept):
                elements += 2 * shape.num_key_value_heads * shape.head_dim
    assert costs_of(shape, context, batch_size, "float16").kv_cache_bytes == 2 * elements


# --- FLOPs ------------------------------------------------------------------------------------------------------


def decoded(variant: Variant, length: int) -> list[int]:
    """What torch counts for each token of a sequence, so that no product with a masked position is counted."""
    # A quarter of these small heads would be a single rotary entry, which transformers turns into two.
    config = {**variant.config, **({"partial_rotary_factor": 0.5} if variant.family.model_type == "stablelm" else {})}
    model, cache, totals = on_meta(config), DynamicCache(), [0]
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counted:
        for _position in range(length):
            model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
            totals.append(counted.get_total_flops())
    return [after - before for before, after in pairwise(totals)]


@pytest.mark.parametrize("variant", WITHOUT_WINDOWS, ids=str)
def test_flops_are_what_torch_counts_when_a_sequence_is_decoded(variant: Variant) -> None:
    of_tokens = decoded(variant, 3)
    for length in (1, 3):
        costs = costs_of(variant.architecture, length)
        assert costs.decode_flops_per_token == of_tokens[length - 1]
        assert costs.prefill_flops_per_token * length == sum(of_tokens[:length])


def multiply_adds(shape: Architecture, position: int, matrices: list[int]) -> int:
    """Of one token with every matrix of a layer and the head, and with one earlier position after another."""
    total = 0
    for layer in range(shape.num_hidden_layers):
        total += sum(matrices)
        slides = layer < shape.num_sliding_layers
        for attended in range(position + 1):
            if slides and attended <= position - shape.sliding_window:
                continue
            for _head in range(shape.num_attention_heads):
                total += shape.head_dim  # its score
                total += shape.head_dim  # its value, weighted
    return total + shape.hidden_size * shape.vocab_size


def attention_matrices(shape: Architecture) -> list[int]:
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    return [shape.hidden_size * width for width in (queries, keys, keys, queries)]


@settings(derandomize=True, deadline=None, max_examples=60)
@given(windowed(), st.integers(1, 9))
def test_flops_are_two_per_multiply_add_of_a_causal_sequence(shape: Architecture, length: int) -> None:
    matrices = [*attention_matrices(shape), *3 * [shape.hidden_size * shape.intermediate_size]]
    of_tokens = [2 * multiply_adds(shape, position, matrices) for position in range(length)]
    costs = costs_of(shape, length)
    assert round(costs.prefill_flops_per_token * length) == sum(of_tokens)
    assert costs.decode_flops_per_token == of_tokens[-1]


@pytest.mark.parametrize("variant", EXPERTS, ids=str)
def test_a_token_is_multiplied_with_the_router_and_the_chosen_experts(variant: Variant) -> None:
    shape = variant.architecture
    router = shape.hidden_size * shape.num_experts
    experts = [3 * shape.hidden_size * shape.intermediate_size for _ in range(shape.num_experts_per_tok)]
    matrices = [*attention_matrices(shape), router, *experts]
    for length in (1, 4):
        of_tokens = [2 * multiply_adds(shape, position, matrices) for position in range(length)]
        costs = costs_of(shape, length)
        assert costs.prefill_flops_per_token * length == sum(of_tokens)
        assert costs.decode_flops_per_token == of_tokens[-1]


# --- shapes cut out of a teacher --------------------------------------------------------------------------------


@every_variant
@settings(derandomize=True, deadline=None, max_examples=8)
@given(data=st.data())
def test_a_teachers_cost_model_holds_for_all_that_is_cut_out_of_it(variant: Variant, data: st.DataObject) -> None:
    student = data.draw(students(variant))
    of_teacher, sizes = CostModel(variant.architecture), sizes_of(student)
    costs = costs_of(student, 5, 2, "int8")
    assert of_teacher.parameters("total").at(sizes) == costs.parameters
    assert of_teacher.parameters("non_embedding").at(sizes) == costs.non_embedding_parameters
    assert of_teacher.parameters("active").at(sizes) == costs.active_parameters
    assert of_teacher.weight_bytes("int8").at(sizes) == costs.weight_bytes
    assert of_teacher.cache_bytes("int8", 2, 5).at(sizes) == costs.kv_cache_bytes
    assert of_teacher.prefill_flops(5).at(sizes) == round(costs.prefill_flops_per_token * 5)
    assert of_teacher.decode_flops(5).at(sizes) == costs.decode_flops_per_token


@every_variant
def test_every_cost_is_of_the_first_degree_in_each_size(variant: Variant) -> None:
    """Counting along lines rests on it; `along` raises ValueError otherwise."""
    model = CostModel(variant.architecture)
    costs = [model.weight_bytes("int8"), model.cache_bytes("int8", 2, 5), model.prefill_flops(5), model.decode_flops(5)]
    for each in [*costs, model.parameters("active"), model.parameters("non_embedding")]:
        for name, size in sizes_of(variant.architecture).items():
            intercept, slope = each.along(name)
            sizes = sizes_of(variant.architecture)
            assert intercept.at(sizes) + slope.at(sizes) * size == each.at(sizes)


# --- published --------------------------------------------------------------------------------------------------


def test_llama_8b_costs_what_is_published() -> None:
    """128 KiB of cache per token in bfloat16, as for every model of 32 layers with 8 groups of 128."""
    costs = costs_of(LLAMA_8B)
    assert costs.parameters == costs.active_parameters == 8_030_261_248
    assert costs.non_embedding_parameters == 6_979_588_096
    assert costs.weight_bytes == 16_060_522_496
    assert costs.kv_cache_bytes == 131_072
    assert costs_of(LLAMA_8B, context=8192, batch_size=4).kv_cache_bytes == 4 * 2**30


NEMOTRON = {"model_type": "nemotron", "vocab_size": 256_000, "num_hidden_layers": 32, "head_dim": 128}


@pytest.mark.parametrize(
    ("hidden", "ffn", "heads", "billions"),
    [(6144, 24_576, 48, 15.629), (4096, 16_384, 48, 8.272), (3072, 9216, 24, 4.191)],
)
def test_minitron_and_its_teacher_cost_what_is_published(hidden: int, ffn: int, heads: int, billions: float) -> None:
    sizes = {"hidden_size": hidden, "intermediate_size": ffn, "num_attention_heads": heads, "num_key_value_heads": 8}
    attention = 2 * hidden * heads * 128 + 2 * hidden * 8 * 128
    by_hand = 32 * (attention + 2 * hidden * ffn + 4 * hidden) + 2 * 256_000 * hidden + 2 * hidden
    parameters = costs_of(family_named("nemotron").architecture({**NEMOTRON, **sizes})).parameters
    assert (parameters, round(parameters / 1e9, 3)) == (by_hand, billions)


MIXTRAL = {
    "model_type": "mixtral",
    "vocab_size": 32_000,
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "vocab_size": 151_936,
    "num_hidden_layers": 48,
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}


@pytest.mark.parametrize(
    ("config", "total", "active", "billions"),
    [
        (MIXTRAL, 46_702_792_704, 12_879_925_248, (46.7, 12.9)),
        (QWEN3_30B, 30_532_122_624, 3_353_032_704, (30.5, 3.3)),
    ],
)
def test_mixtures_of_experts_cost_what_is_published(
    config: dict[str, Any], total: int, active: int, billions: tuple[float, float]
) -> None:
    """Mixtral-8x7B and Qwen3-30B-A3B, whose 3.35 billion are given as 3.3."""
    shape = family_named(config["model_type"]).architecture(config)
    costs = costs_of(shape)
    assert (costs.parameters, costs.active_parameters) == (total, active)
    idle = shape.num_experts - shape.num_experts_per_tok
    assert total - active == shape.num_hidden_layers * idle * 3 * shape.hidden_size * shape.intermediate_size
    assert (total / 1e9, active / 1e9) == pytest.approx(billions, abs=0.06)


def test_a_longer_context_costs_more_only_in_attention_and_cache() -> None:
    shape = small_llama()
    shorter, longer = costs_of(shape, 64), costs_of(shape, 65)
    scores_and_values = 2 * 2 * 6 * 8
    assert longer.decode_flops_per_token - shorter.decode_flops_per_token == 3 * scores_and_values
    assert longer.prefill_flops_per_token - shorter.prefill_flops_per_token == 3 * scores_and_values / 2
    assert longer.kv_cache_bytes - shorter.kv_cache_bytes == 3 * 2 * 2 * 8 * 2
    same = ("parameters", "non_embedding_parameters", "active_parameters", "weight_bytes")
    assert [getattr(longer, name) for name in same] == [getattr(shorter, name) for name in same]
