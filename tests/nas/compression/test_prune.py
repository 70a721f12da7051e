"""A student must be the teacher with the cut parts masked, computed by transformers itself, in float64."""

import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from nas.architecture import Architecture
from nas.compression.choose import Kept, choose
from nas.compression.importance.weights import random_scores
from nas.compression.prune import Cut, Index, cut, cut_folder
from nas.compression.weight_files import open_tensors, write_tensors
from nas.families.llama import LLAMA
from nas.model_folder import ModelFolder, inspect_model_folder
from tests.nas.compression.small_llama import small_llama, tokens


def cut_model(teacher: LlamaForCausalLM, whole: Architecture, student: Architecture, kept: Kept) -> LlamaForCausalLM:
    tensors = dict(cut(teacher.state_dict().__getitem__, whole, student, kept))
    model = LlamaForCausalLM(LlamaConfig(**LLAMA.config(teacher.config.to_dict(), student, kept.layers)))
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
        {"num_attention_heads": 3, "num_key_value_heads": 1},
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


def test_heads_are_chosen_within_their_key_value_group() -> None:
    _, whole = small_llama(tied=True, biased=False)
    scores = random_scores(whole, seed=0)
    # All heads of the second group outrank all of the first; each group still keeps its best two.
    scores.heads[:] = torch.tensor([0.1, 0.3, 0.2, 5.0, 7.0, 6.0])
    kept = choose(scores, whole, whole.model_copy(update={"num_attention_heads": 4}))
    assert all(row.tolist() == [1, 2, 4, 5] for row in kept.heads)


def test_the_groups_stay_whose_remaining_heads_have_the_largest_sum() -> None:
    _, whole = small_llama(tied=True, biased=False)
    scores = random_scores(whole, seed=0)
    one_group = whole.resized(num_key_value_heads=1, num_attention_heads=1)
    two_heads = whole.resized(num_key_value_heads=1, num_attention_heads=2)
    # The second group has the largest sum; the first has the best single head and the best two.
    scores.heads[:] = torch.tensor([9.0, 1.0, 8.0, 7.0, 8.0, 8.0])
    for student, heads in ((one_group, [0]), (two_heads, [0, 2])):
        kept = choose(scores, whole, student)
        assert all(row.tolist() == heads for row in kept.heads)
        assert all(row.tolist() == [0] for row in kept.groups)


def test_layers_that_attend_to_a_window_are_ranked_by_themselves() -> None:
    _, whole = small_llama(tied=True, biased=False)
    scores = random_scores(whole, seed=0)
    scores.layers[:] = torch.tensor([4.0, 1.0, 3.0, 2.0])
    both = whole.model_copy(update={"num_sliding_layers": 2, "sliding_window": 8})
    student = both.resized(num_hidden_layers=2)
    assert choose(scores, both, student, [True, False, True, False]).layers == (0, 3)
    assert choose(scores, both, student, [False, False, True, True]).layers == (0, 2)
    one_type = whole.resized(num_hidden_layers=2)
    for sliding in ([True] * 4, [False] * 4, []):
        assert choose(scores, whole, one_type, sliding).layers == (0, 2)


def test_experts_are_ranked_in_their_layer_and_neurons_in_their_expert() -> None:
    _, llama = small_llama(tied=True, biased=False)
    whole = llama.model_copy(update={"num_experts": 3, "num_experts_per_tok": 1, "intermediate_size": 4})
    scores = random_scores(whole, seed=0)
    scores.experts[1] = torch.tensor([2.0, 9.0, 5.0])
    scores.neurons[1, 2] = torch.tensor([3.0, 1.0, 4.0, 2.0])
    kept = choose(scores, whole, whole.resized(num_experts=2, intermediate_size=2))
    assert kept.experts[1].tolist() == [1, 2]
    assert kept.unit("num_experts", 1, 0) == 1
    units = kept.units("intermediate_size", 1, expert=2)
    assert units is not None
    assert units.tolist() == [0, 2]


def test_equal_scores_keep_the_first_in_order() -> None:
    _, whole = small_llama(tied=True, biased=False)
    scores = random_scores(whole, seed=0)
    scores.channels[:] = 1.0
    scores.layers[:] = torch.tensor([1.0, 2.0, 1.0, 2.0])
    kept = choose(scores, whole, whole.model_copy(update={"hidden_size": 6, "num_hidden_layers": 3}))
    assert kept.channels.tolist() == [0, 1, 2, 3, 4, 5]
    assert kept.layers == (0, 1, 3)


@pytest.mark.parametrize(
    ("stay", "partners"),
    [
        ((torch.tensor([0, 4]), None), (None, None)),
        ((None, torch.tensor([2, 3])), (None, None)),
        ((torch.tensor([-1, 0]), None), (None, None)),
        ((torch.tensor([0, 1]), None), (torch.tensor([-1, 4]), None)),
        ((torch.tensor([0, 1]), None), (torch.tensor([-2, 3]), None)),
    ],
)
def test_what_the_teacher_does_not_have_cannot_stay(stay: tuple[Index, ...], partners: tuple[Index, ...]) -> None:
    with pytest.raises(ValueError, match=r"entries from .* of a dimension that has [34]"):
        Cut(torch.rand(4, 3), stay, partners, 0.0, 1.0)


def test_what_it_has_may_stay_all_or_none_of_it() -> None:
    whole = torch.rand(4, 3)
    cut_out = Cut(whole, (torch.tensor([0, 3]), torch.tensor([2])), (torch.tensor([-1, 2]), None), 0.0, 1.0)
    expected = torch.stack([whole[0, 2:], 2 * whole[3, 2:] - whole[2, 2:]])
    torch.testing.assert_close(cut_out[:], expected)
    assert Cut(whole, (torch.tensor([], dtype=torch.int64), None), (None, None), 0.0, 1.0)[:].shape == (0, 3)


# --- folders ------------------------------------------------------------------------------------------------


def teacher_in(folder: Path, max_shard_size: str = "5GB") -> ModelFolder:
    model, _ = small_llama(tied=False, biased=True)
    model.bfloat16().save_pretrained(folder, max_shard_size=max_shard_size)
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 0}))
    return inspect_model_folder(folder)


def small_cut(teacher: ModelFolder) -> tuple[Architecture, Kept]:
    whole = teacher.architecture
    student = whole.resized(num_hidden_layers=3, hidden_size=20, intermediate_size=11, num_attention_heads=4)
    return student, choose(random_scores(whole, seed=5), whole, student, residual="query_and_output")


def test_a_teacher_in_shards_is_cut_as_one_in_one_file(tmp_path: Path) -> None:
    written = []
    for name, size in (("whole", "5GB"), ("shards", "5KB")):
        teacher = teacher_in(tmp_path / name, size)
        assert (len(set(teacher.files.values())) == 1) == (name == "whole")
        student, kept = small_cut(teacher)
        cut_folder(teacher, student, kept, tmp_path / f"{name}-cut", {"of": "both"})
        written.append({file.name: file.read_bytes() for file in (tmp_path / f"{name}-cut").iterdir()})
    assert written[0] == written[1]
    files = {"config.json", "generation_config.json", "model.safetensors", "provenance.json", "tokenizer.json"}
    assert written[0].keys() == files


def test_a_student_in_shards_is_the_one_in_memory_and_plain_transformers_loads_it(tmp_path: Path) -> None:
    teacher = teacher_in(tmp_path / "teacher")
    student, kept = small_cut(teacher)
    told: list[tuple[int, int]] = []
    into = tmp_path / "student"
    cut_folder(teacher, student, kept, into, {}, lambda *progress: told.append(progress), shard_bytes=4000)
    with open_tensors(teacher) as read:
        expected = dict(cut(read, teacher.architecture, student, kept))
    size = sum(tensor.nbytes for tensor in expected.values())
    assert told[-1] == (size, size)
    assert len(told) == len(expected)
    weight_map = json.loads((into / "model.safetensors.index.json").read_text())["weight_map"]
    assert weight_map.keys() == expected.keys()
    assert len(set(weight_map.values())) > 3
    for name, file in weight_map.items():
        with safe_open(into / file, framework="pt") as opened:
            assert same_bits(opened.get_tensor(name), expected[name])
    loaded: Any = AutoModelForCausalLM.from_pretrained(into, dtype="auto", output_loading_info=True)
    model, report = loaded
    assert not any(report.values()), report
    assert model.state_dict().keys() == expected.keys()
    assert all(same_bits(tensor, expected[name]) for name, tensor in model.state_dict().items())


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype == torch.bfloat16 and torch.equal(one.view(torch.int16), other.view(torch.int16))


def test_a_cut_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    teacher = teacher_in(tmp_path / "teacher")
    student, kept = small_cut(teacher)

    def interrupt(done: int, total: int) -> None:
        if done > total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut_folder(teacher, student, kept, tmp_path / "student", {}, interrupt)
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_bits_that_are_no_number_are_kept(tmp_path: Path) -> None:
    """Of NaNs there are many."""
    teacher = teacher_in(tmp_path / "teacher")
    stored = load_file(tmp_path / "teacher" / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    for tensor in stored.values():
        tensor.view(torch.int16).random_(-(2**15), 2**15, generator=generator)
    save_file(stored, tmp_path / "teacher" / "model.safetensors", metadata={"format": "pt"})
    whole = teacher.architecture
    kept = choose(random_scores(whole, seed=5), whole, whole)
    cut_folder(teacher, whole, kept, tmp_path / "itself", {})
    written = load_file(tmp_path / "itself" / "model.safetensors")
    assert all(same_bits(written[name], tensor) for name, tensor in stored.items())
    student = whole.resized(hidden_size=12)
    kept = choose(random_scores(whole, seed=5), whole, student)
    cut_folder(teacher, student, kept, tmp_path / "student", {})
    written = load_file(tmp_path / "student" / "model.safetensors")
    assert all(
        same_bits(written[name], tensor[..., kept.channels]) for name, tensor in stored.items() if "norm" in name
    )


def test_memory_does_not_grow_with_the_tensors(tmp_path: Path) -> None:
    """Of numpy's arrays, which everything that is selected goes through; benchmarks.pruning looks at all memory."""
    config = {"model_type": "llama", "vocab_size": 12_000, "num_hidden_layers": 1, "hidden_size": 1024}
    config |= {"intermediate_size": 1024, "num_attention_heads": 8, "num_key_value_heads": 8, "dtype": "bfloat16"}
    whole, folder = LLAMA.architecture(config), tmp_path / "teacher"
    folder.mkdir()
    shapes = dict(LLAMA.tensors(whole))
    write_tensors(folder, shapes, torch.bfloat16, ((name, torch.ones(s).bfloat16()) for name, s in shapes.items()))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0}}}))
    teacher, student = inspect_model_folder(folder), whole.resized(hidden_size=1000)
    kept = choose(random_scores(whole, seed=0), whole, student)
    tracemalloc.start()
    cut_folder(teacher, student, kept, tmp_path / "student", {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    largest = 12_000 * 1000 * 2
    assert 10**6 < peak < largest / 3
