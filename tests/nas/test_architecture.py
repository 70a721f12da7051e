"""The shape of one model."""

import pytest
from pydantic import ValidationError

from nas.architecture import AXES, Architecture
from tests.nas.shapes import LLAMA_8B, small_llama

SIZES = (*AXES, "vocab_size", "num_key_value_heads", "head_dim")


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


@pytest.mark.parametrize("field", ["num_experts", "name"])
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


def test_the_label_reads_layers_hidden_intermediate_heads() -> None:
    assert LLAMA_8B.label == "32 x 4096 x 14336 x 32"
    assert small_llama().axes == (3, 24, 14, 6)
