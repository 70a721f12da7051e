"""The shape of one model."""

from fractions import Fraction
from itertools import product

import pytest
from pydantic import ValidationError

from nas.architecture import AXES, Architecture
from tests.nas.shapes import LLAMA_8B, small_llama

SIZES = (*(axis for axis in AXES if axis != "num_experts"), "vocab_size", "head_dim")
EXPERTS = {"family": "mixtral", "num_experts": 8, "num_experts_per_tok": 2}


@pytest.mark.parametrize("field", SIZES)
@pytest.mark.parametrize("value", [0, -8])
def test_a_size_below_one_is_refused(field: str, value: int) -> None:
    with pytest.raises(ValidationError) as caught:
        small_llama(**{field: value})
    assert [details["loc"] for details in caught.value.errors()] == [(field,)]


@pytest.mark.parametrize("heads", [1, 3, 5])
def test_heads_that_do_not_fill_the_key_value_groups_are_refused(heads: int) -> None:
    with pytest.raises(
        ValidationError, match=f"num_attention_heads: {heads} is not a multiple of the 2 key-value heads"
    ):
        small_llama(num_attention_heads=heads)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"num_experts": 3, "num_experts_per_tok": 4}, "num_experts_per_tok: 4 is more than the 3 num_experts"),
        ({"num_experts_per_tok": 1}, "num_experts_per_tok: 1 is more than the 0 num_experts"),
        ({"num_sliding_layers": 4}, "num_sliding_layers: 4 is more than the 3 num_hidden_layers"),
        ({"num_experts": -1}, "num_experts"),
    ],
)
def test_a_part_that_is_more_than_the_whole_is_refused(changes: dict[str, int], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        small_llama(**changes)


@pytest.mark.parametrize("field", ["num_local_experts", "name"])
def test_an_unknown_field_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        small_llama(**{field: 1})


def test_an_architecture_never_changes() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        LLAMA_8B.hidden_size = 1


def test_equal_shapes_are_equal_and_hash_alike() -> None:
    assert len({small_llama(), small_llama(), small_llama(head_dim=10)}) == 2


def test_an_architecture_survives_json() -> None:
    shape = small_llama(tie_word_embeddings=True, mlp_bias=True)
    assert Architecture.model_validate_json(shape.model_dump_json()) == shape


def test_the_label_reads_layers_hidden_intermediate_heads_and_groups_or_experts_where_there_are_any() -> None:
    assert LLAMA_8B.label == "32 x 4096 x 14336 x 32/8"
    assert small_llama(num_key_value_heads=6).label == "3 x 24 x 14 x 6"
    assert small_llama(**EXPERTS).label == "3 x 24 x 14 x 6/2 x 8 experts"
    assert small_llama().axes == (3, 24, 14, 6, 2, 0)
    assert small_llama(**EXPERTS).axes == (3, 24, 14, 6, 2, 8)


def test_a_resized_shape_differs_only_along_the_axes_named() -> None:
    shape = small_llama(tie_word_embeddings=True)
    assert shape.resized(hidden_size=12, num_attention_heads=4) == small_llama(
        tie_word_embeddings=True, hidden_size=12, num_attention_heads=4
    )
    with pytest.raises(ValueError, match="num_attention_heads: 3 is not a multiple of the 2 key-value heads"):
        shape.resized(num_attention_heads=3)


def test_heads_with_keys_and_values_of_their_own_keep_them() -> None:
    own = small_llama(num_key_value_heads=6)
    assert own.resized(num_attention_heads=4) == small_llama(num_attention_heads=4, num_key_value_heads=4)
    assert own.resized(num_attention_heads=4, num_key_value_heads=2) == small_llama(num_attention_heads=4)


@pytest.mark.parametrize(("sliding", "layers", "remaining"), list(product((0, 1, 3, 5, 6), (6,), range(1, 7))))
def test_layers_of_each_type_keep_their_share(sliding: int, layers: int, remaining: int) -> None:
    shape = small_llama(num_hidden_layers=layers, num_sliding_layers=sliding, sliding_window=8)
    assert shape.has_layer_types == (sliding in (1, 3, 5))
    kept = shape.resized(num_hidden_layers=remaining)
    exact = Fraction(sliding * remaining, layers)
    assert abs(kept.num_sliding_layers - exact) <= Fraction(1, 2) or kept.num_sliding_layers in (1, remaining - 1)
    assert kept.has_layer_types == (shape.has_layer_types and remaining > 1)
    if exact.denominator == 1 and 0 < exact < remaining:
        assert kept.num_sliding_layers == exact


def test_a_half_is_rounded_up() -> None:
    shape = small_llama(num_hidden_layers=4, num_sliding_layers=2, sliding_window=8)
    assert [shape.resized(num_hidden_layers=layers).num_sliding_layers for layers in (1, 2, 3, 4)] == [1, 1, 2, 2]
