"""What is asked of Llama's table alone: published counts, refusals, selections, taps; the rest is in `families`."""

import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRMSNorm

from nas.architecture import Architecture
from nas.errors import TeacherError
from nas.families import FAMILIES, family_named
from tests.nas.shapes import LLAMA_8B, LLAMA_CONFIG, llamas, small_llama, transformers_llama

LLAMA = family_named("llama")
REQUIRED = ("vocab_size", "num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")


def config_of(shape: Architecture, **changes: Any) -> dict[str, Any]:
    return {**LLAMA.config(LLAMA_CONFIG, shape, tuple(range(shape.num_hidden_layers))), **changes}


PUBLISHED = [
    (LLAMA_8B, 8_030_261_248, 6_979_588_096),
    (LLAMA_8B.model_copy(update={"hidden_size": 3072, "intermediate_size": 9216}), 4_512_746_496, 3_724_741_632),
    (LLAMA_8B.model_copy(update={"num_hidden_layers": 16}), 4_540_469_248, 3_489_796_096),
]
"""Llama-3.1-8B, and Llama-3.1-Minitron-4B in width (published as 4.51 B, 3.7 B) and in depth (4.54 B)."""


@pytest.mark.parametrize(("shape", "total", "non_embedding"), PUBLISHED)
def test_published_models_are_counted_to_the_last_parameter(
    shape: Architecture, total: int, non_embedding: int
) -> None:
    hidden, ffn, layers = shape.hidden_size, shape.intermediate_size, shape.num_hidden_layers
    by_hand = layers * hidden * (2 * 32 * 128 + 2 * 8 * 128 + 3 * ffn + 2) + hidden
    assert (LLAMA.count(shape), LLAMA.count(shape, embedding=False)) == (total, non_embedding)
    assert (by_hand + 2 * 128_256 * hidden, by_hand) == (total, non_embedding)


@pytest.mark.parametrize("field", REQUIRED)
@pytest.mark.parametrize("value", [None, "absent"])
def test_a_config_without_a_size_is_refused_by_its_name(field: str, value: object) -> None:
    config = config_of(small_llama(), **{field: None})
    if value == "absent":
        del config[field]
    with pytest.raises(TeacherError) as caught:
        LLAMA.architecture(config)
    assert str(caught.value) == f"teacher: config.json has no {field}; accepted: a complete llama config."


IMPOSSIBLE = [
    ({"hidden_size": -1}, "hidden_size: -1 should be greater than 0"),
    ({"num_attention_heads": 0, "head_dim": None}, "num_attention_heads: 0 should be greater than 0"),
    ({"num_attention_heads": 5}, "num_attention_heads: 5 is not a multiple of the 2 key-value heads"),
    ({"num_hidden_layers": [3]}, "num_hidden_layers: [3] should be a valid integer"),
    ({"hidden_size": 4, "num_attention_heads": 6, "head_dim": None}, "head_dim: 0 should be greater than 0"),
    ({"hidden_size": [24], "head_dim": None}, "hidden_size: [24] should be a valid integer"),
]


@pytest.mark.parametrize(("changes", "reason"), IMPOSSIBLE)
def test_a_config_with_an_impossible_size_is_refused_in_one_sentence(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(TeacherError) as caught:
        LLAMA.architecture(config_of(small_llama(), **changes))
    assert str(caught.value) == f"teacher: config.json is not a legal shape ({reason}); accepted: a legal config."


@pytest.mark.parametrize("model_type", ["t5", "", None, 5, ["llama"]])
def test_an_unsupported_model_type_is_answered_with_the_supported_ones(model_type: object) -> None:
    with pytest.raises(TeacherError) as caught:
        family_named(model_type)
    shown = "''" if model_type == "" else model_type
    supported = ", ".join(FAMILIES)
    expected = f"teacher: {shown} is not a supported model_type; accepted: a folder whose model_type is {supported}."
    assert str(caught.value) == expected


@settings(derandomize=True, deadline=None, max_examples=30)
@given(llamas(), st.data())
def test_selections_take_each_tensor_from_the_kept_layer_in_order(teacher: Architecture, data: st.DataObject) -> None:
    layers = st.sets(st.integers(0, teacher.num_hidden_layers - 1), min_size=1).map(sorted)
    kept = tuple(data.draw(layers))
    student = teacher.model_copy(update={"num_hidden_layers": len(kept)})
    selections = list(LLAMA.selections(student, kept, lambda axis, layer, position: position))
    assert [selection.name for selection in selections] == [name for name, _ in LLAMA.tensors(student)]
    assert {selection.unit for selection in selections} == {None}
    for selection in selections:
        layer = re.search(r"layers\.(\d+)\.", selection.name)
        source_layer = None if layer is None else kept[int(layer[1])]
        assert selection.source_layer == source_layer
        assert selection.source == re.sub(r"layers\.\d+\.", f"layers.{source_layer}.", selection.name)
    assert {selection.source for selection in selections} <= set(dict(LLAMA.tensors(teacher)))


def test_selections_take_each_expert_from_the_kept_one_of_its_layer() -> None:
    config = {
        "model_type": "mixtral", "vocab_size": 11, "num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 14,
        "num_attention_heads": 6, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2,
    }  # fmt: skip
    mixtral = family_named("mixtral")
    teacher = mixtral.architecture(config)
    kept_experts = {0: (1, 4), 2: (0, 3)}
    asked = []

    def unit_of(axis: str, layer: int | None, position: int) -> int:
        asked.append(axis)
        assert layer is not None
        return kept_experts[layer][position]

    student = teacher.resized(num_hidden_layers=2, num_experts=2)
    sources = {each.name: each.source for each in mixtral.selections(student, (0, 2), unit_of)}
    experts = "model.layers.{}.block_sparse_moe.experts.{}.w1.weight"
    for layer, source_layer in enumerate((0, 2)):
        for position, expert in enumerate(kept_experts[source_layer]):
            assert sources[experts.format(layer, position)] == experts.format(source_layer, expert)
    assert set(asked) == {"num_experts"}


def test_the_taps_are_modules_with_the_axes_they_stand_for() -> None:
    shape = small_llama()
    model = transformers_llama(shape)
    for layer in range(shape.num_hidden_layers):
        block = model.get_submodule(LLAMA.taps.block.format(i=layer))
        heads = model.get_submodule(LLAMA.taps.heads_input_of.format(i=layer))
        neurons = model.get_submodule(str(LLAMA.taps.neurons_input_of).format(i=layer))
        norms = [model.get_submodule(norm.format(i=layer)) for norm in LLAMA.taps.norms]
        assert isinstance(block, LlamaDecoderLayer)
        assert norms == [module for module in block.modules() if isinstance(module, LlamaRMSNorm)]
        assert isinstance(heads, torch.nn.Linear)
        assert isinstance(neurons, torch.nn.Linear)
        assert heads is block.self_attn.o_proj
        assert neurons is block.mlp.down_proj
