"""Along which axes candidates differ, and in which steps."""

import pytest

from nas.varied_axes import size_steps, varied_axes
from tests.nas.shapes import small_llama


def test_axes_of_one_size_are_left_out_and_key_value_heads_that_follow_the_heads() -> None:
    shapes = [
        small_llama(num_hidden_layers=layers, num_attention_heads=heads, num_key_value_heads=heads // 2)
        for layers in (1, 2, 3)
        for heads in (2, 4)
    ]
    assert varied_axes(shapes) == ("num_hidden_layers", "num_attention_heads")
    more = [*shapes, small_llama(num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=1)]
    assert varied_axes(more) == ("num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    assert varied_axes(shapes[:1]) == varied_axes([]) == ()


@pytest.mark.parametrize(("sizes", "step"), [([8, 2, 5], 3), ([4, 6, 9], 1), ([7, 7], 1), ([512, 256, 384, 320], 64)])
def test_steps_meet_every_size(sizes: list[int], step: int) -> None:
    assert size_steps(sizes) == step
