"""A student must be the teacher with the cut parts masked, computed by transformers itself, in float64."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils.hooks import RemovableHandle
from transformers import LlamaConfig, LlamaForCausalLM

from nas.architecture import Architecture
from nas.compression.checkpoint import read_tensor
from nas.compression.importance import Scores
from nas.compression.prune import Kept, choose, cut
from nas.families.llama import LLAMA
from nas.model_folder import inspect_model_folder
from tests.nas.compression.small_llama import small_llama, tokens


def random_scores(architecture: Architecture, seed: int) -> Scores:
    generator = torch.Generator().manual_seed(seed)

    def rand(*size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64)

    layers = architecture.num_hidden_layers
    return Scores(
        layers=rand(layers),
        heads=rand(layers, architecture.num_attention_heads),
        neurons=rand(layers, architecture.intermediate_size),
        channels=rand(architecture.hidden_size),
    )


def cut_model(teacher: LlamaForCausalLM, whole: Architecture, student: Architecture, kept: Kept) -> LlamaForCausalLM:
    tensors = dict(cut(teacher.state_dict().__getitem__, whole, student, kept))
    model = LlamaForCausalLM(LlamaConfig(**LLAMA.config(teacher.config.to_dict(), student)))
    model.double().eval()
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    assert not unexpected
    assert set(missing) == ({"lm_head.weight"} if student.tie_word_embeddings else set())
    return model


def norms_in_float64(model: LlamaForCausalLM, channel_mask: torch.Tensor) -> list[RemovableHandle]:
    """Computes the model's norms over the masked channels only, and in float64; transformers' own are float32."""

    def norm(module: torch.nn.Module, inputs: tuple[torch.Tensor], _: torch.Tensor) -> torch.Tensor:
        x = inputs[0] * channel_mask
        mean_square = x.square().sum(-1, keepdim=True) / channel_mask.sum()
        return x * torch.rsqrt(mean_square + module.variance_epsilon) * module.weight  # type: ignore[operator]

    return [module.register_forward_hook(norm) for name, module in model.named_modules() if name.endswith("norm")]


@contextmanager
def masked(teacher: LlamaForCausalLM, whole: Architecture, kept: Kept) -> Iterator[None]:
    """Within, the teacher computes without what was cut; its norms average over the kept channels only."""
    channel_mask = torch.zeros(whole.hidden_size, dtype=torch.float64)
    channel_mask[kept.channels] = 1
    handles = norms_in_float64(teacher, channel_mask)

    def keep_only(indices: torch.Tensor, block: int) -> Callable[..., tuple[torch.Tensor]]:
        def hook(_: torch.nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
            mask = torch.zeros(inputs[0].shape[-1] // block, dtype=torch.float64)
            mask[indices] = 1
            return (inputs[0] * mask.repeat_interleave(block),)

        return hook

    for i, layer in enumerate(teacher.model.layers):
        handles.append(layer.self_attn.o_proj.register_forward_pre_hook(keep_only(kept.heads[i], whole.head_dim)))
        handles.append(layer.mlp.down_proj.register_forward_pre_hook(keep_only(kept.neurons[i], 1)))
        if i not in kept.layers:
            handles.append(layer.register_forward_hook(lambda _, inputs, __: inputs[0]))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    "sizes",
    [
        {"num_hidden_layers": 2},
        {"hidden_size": 18},
        {"intermediate_size": 7},
        {"num_attention_heads": 2},
        {"num_hidden_layers": 3, "hidden_size": 12, "intermediate_size": 11, "num_attention_heads": 4},
    ],
)
@torch.no_grad()
def test_student_equals_masked_teacher(tied: bool, biased: bool, sizes: dict[str, int]) -> None:
    teacher, whole = small_llama(tied=tied, biased=biased)
    student = whole.model_copy(update=sizes)
    kept = choose(random_scores(whole, seed=3), whole, student)
    inputs = tokens(3, 9)
    cut_student = cut_model(teacher, whole, student, kept)
    norms_in_float64(cut_student, torch.ones(student.hidden_size, dtype=torch.float64))
    logits = cut_student(inputs).logits
    unmasked = teacher(inputs).logits
    with masked(teacher, whole, kept):
        expected = teacher(inputs).logits
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)
    assert (expected - unmasked).abs().max() > 1e-3, "the mask must change something, or the test proves nothing"


def test_teacher_cut_to_its_own_shape_is_bit_identical(teacher_folder: Path) -> None:
    folder = inspect_model_folder(teacher_folder)
    scores = random_scores(folder.architecture, seed=5)
    kept = choose(scores, folder.architecture, folder.architecture)
    tensors = dict(cut(lambda name: read_tensor(folder, name), folder.architecture, folder.architecture, kept))
    assert set(tensors) == set(folder.files)
    for name, tensor in tensors.items():
        original = read_tensor(folder, name)
        assert tensor.dtype == original.dtype == torch.bfloat16
        assert torch.equal(tensor.view(torch.int16), original.view(torch.int16)), name


def test_heads_are_chosen_within_their_key_value_group() -> None:
    _, whole = small_llama(tied=True, biased=False)
    scores = random_scores(whole, seed=0)
    # All heads of the second group outrank all of the first; each group still keeps its best two.
    scores.heads[:] = torch.tensor([0.1, 0.3, 0.2, 5.0, 7.0, 6.0])
    kept = choose(scores, whole, whole.model_copy(update={"num_attention_heads": 4}))
    assert all(row.tolist() == [1, 2, 4, 5] for row in kept.heads)


def test_equal_scores_keep_the_first_in_order() -> None:
    _, whole = small_llama(tied=True, biased=False)
    scores = random_scores(whole, seed=0)
    scores.channels[:] = 1.0
    scores.layers[:] = torch.tensor([1.0, 2.0, 1.0, 2.0])
    kept = choose(scores, whole, whole.model_copy(update={"hidden_size": 6, "num_hidden_layers": 3}))
    assert kept.channels.tolist() == [0, 1, 2, 3, 4, 5]
    assert kept.layers == (0, 1, 3)
