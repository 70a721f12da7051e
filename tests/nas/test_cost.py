"""Costs against loops over the sums they stand for, and against what torch counts and transformers caches."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode
from transformers import DynamicCache

from nas.architecture import Architecture
from nas.cost import cost, forward_flops_per_token, kv_cache_bytes_per_token
from tests.nas.shapes import LLAMA_8B, llamas, small_llama, transformers_llama

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def multiply_adds(shape: Architecture, sequence_length: int) -> int:
    """Of one causal sequence, one vector-matrix product, and one pair of positions, at a time."""
    hidden, ffn = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
    products = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    products += [(hidden, ffn), (hidden, ffn), (ffn, hidden)]
    total = 0
    for position in range(sequence_length):
        for _layer in range(shape.num_hidden_layers):
            total += sum(width * height for width, height in products)
            for _head in range(shape.num_attention_heads):
                for _attended in range(position + 1):
                    total += shape.head_dim  # its score
                    total += shape.head_dim  # its value, weighted
        total += hidden * shape.vocab_size
    return total


@settings(derandomize=True, deadline=None, max_examples=40)
@given(llamas(), st.integers(1, 9))
def test_forward_flops_are_two_per_multiply_add_of_a_causal_sequence(shape: Architecture, length: int) -> None:
    assert forward_flops_per_token(shape, length) * length == 2 * multiply_adds(shape, length)


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_flops_and_cache_are_what_torch_counts_when_a_sequence_is_decoded(changes: dict[str, bool]) -> None:
    """Decoded token by token, so that no product with a masked position is counted."""
    shape, length = small_llama(**changes), 5
    model = transformers_llama(shape).to(torch.bfloat16)
    cache: Any = DynamicCache()
    with torch.no_grad(), torch.device("meta"), FlopCounterMode(display=False) as counted:
        for _position in range(length):
            model(torch.zeros(1, 1, dtype=torch.long), past_key_values=cache, use_cache=True)
    cached = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    assert forward_flops_per_token(shape, length) * length == counted.get_total_flops()
    assert kv_cache_bytes_per_token(shape, "bfloat16") * length == sum(t.numel() * t.element_size() for t in cached)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tied", [True, False])
def test_weight_bytes_are_those_of_the_model_in_that_dtype(dtype: str, tied: bool) -> None:
    shape = small_llama(tie_word_embeddings=tied)
    model = transformers_llama(shape).to(DTYPES[dtype])
    expected = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    assert cost(shape, dtype=dtype, sequence_length=4).weight_bytes == expected


@pytest.mark.parametrize(("dtype", "bytes_per_element"), [("float32", 4), ("bfloat16", 2), ("float16", 2)])
@settings(derandomize=True, deadline=None, max_examples=20)
@given(shape=llamas())
def test_the_cache_holds_a_key_and_a_value_of_every_group_in_every_layer(
    dtype: str, bytes_per_element: int, shape: Architecture
) -> None:
    elements = 0
    for _layer in range(shape.num_hidden_layers):
        for _group in range(shape.num_key_value_heads):
            elements += shape.head_dim
            elements += shape.head_dim
    assert kv_cache_bytes_per_token(shape, dtype) == elements * bytes_per_element


def test_llama_8b_costs_what_is_published() -> None:
    """128 KiB of cache per token in bfloat16, as for every model of 32 layers with 8 groups of 128."""
    costs = cost(LLAMA_8B, dtype="bfloat16", sequence_length=1)
    assert costs.parameters == 8_030_261_248
    assert costs.non_embedding_parameters == 6_979_588_096
    assert costs.weight_bytes == 16_060_522_496
    assert costs.kv_cache_bytes_per_token == 131_072


def test_a_longer_sequence_costs_more_only_in_attention() -> None:
    shape = small_llama()
    costs = [cost(shape, dtype="float32", sequence_length=length) for length in (64, 65)]
    a_key_and_a_value = 2 * 6 * 8
    assert costs[1].forward_flops_per_token - costs[0].forward_flops_per_token == 3 * a_key_and_a_value
    assert costs[0].model_copy(update={"forward_flops_per_token": 0}) == costs[1].model_copy(
        update={"forward_flops_per_token": 0}
    )
