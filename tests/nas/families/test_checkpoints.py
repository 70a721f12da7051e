"""Checkpoints as transformers saves them, as it once did, and as students are written: read, cut, loaded again."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nas.architecture import Architecture
from nas.compression.checkpoint import build_model, load_model, own_tensors, read_tensor
from nas.compression.choose import Kept, choose
from nas.compression.importance.weights import random_scores
from nas.compression.prune import cut, cut_folder
from nas.compression.weight_files import open_tensors
from nas.errors import TeacherError
from nas.model_folder import ModelFolder, inspect_model_folder
from tests.nas.families.small import ALL, Variant, built, legal_hidden_sizes

CPU = torch.device("cpu")
INPUTS = torch.arange(14).view(2, 7)
TOKENIZER = {"model": {"type": "BPE", "vocab": {"a": 0, "b": 39}, "merges": []}, "added_tokens": []}
Tensors = dict[str, torch.Tensor]


class Heard(logging.Handler):
    """What transformers logs as a warning, such as of weights that it misses or does not use."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@pytest.fixture
def heard() -> Iterator[list[str]]:
    handler = Heard()
    logging.getLogger("transformers").addHandler(handler)
    yield handler.messages
    logging.getLogger("transformers").removeHandler(handler)


def save(variant: Variant, folder: Path) -> ModelFolder:
    """A small model in bfloat16, by transformers itself."""
    built(variant.config).bfloat16().save_pretrained(folder)
    (folder / "tokenizer.json").write_text(json.dumps(TOKENIZER))
    return inspect_model_folder(folder)


def small_student(variant: Variant) -> Architecture:
    """Every axis is cut."""
    teacher = variant.architecture
    groups, per_group = (
        max(teacher.num_key_value_heads - 1, 1),
        teacher.num_attention_heads // teacher.num_key_value_heads,
    )
    heads = groups * max(per_group - 1, 1)
    hidden = [size for size in legal_hidden_sizes(variant, heads) if size < teacher.hidden_size][-1]
    sizes = {"num_hidden_layers": 3, "intermediate_size": 7, "num_attention_heads": heads}
    experts = {"num_experts": teacher.num_experts - 1} if teacher.num_experts else {}
    return teacher.resized(num_key_value_heads=groups, hidden_size=hidden, **sizes, **experts)


def cut_out(folder: ModelFolder, shape: Architecture) -> tuple[Tensors, Kept]:
    scores = random_scores(folder.architecture, seed=7)
    kept = choose(scores, folder.architecture, shape, folder.sliding_layers)
    with open_tensors(folder) as read:
        return dict(cut(read, folder.architecture, shape, kept)), kept


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype == torch.bfloat16 and torch.equal(one.view(torch.int16), other.view(torch.int16))


@pytest.mark.parametrize("variant", ALL, ids=str)
def test_what_transformers_saves_is_cut_to_itself_bit_by_bit(variant: Variant, tmp_path: Path) -> None:
    folder = save(variant, tmp_path)
    assert (folder.architecture, folder.dtype, folder.stored_as) == (variant.architecture, "bfloat16", {})
    stored = load_file(tmp_path / "model.safetensors")
    tensors, kept = cut_out(folder, folder.architecture)
    assert kept.layers == (0, 1, 2, 3)
    cut_folder(folder, folder.architecture, kept, tmp_path / "itself", {})
    written = load_file(tmp_path / "itself" / "model.safetensors")
    assert tensors.keys() == written.keys() == stored.keys() == folder.files.keys()
    for name, tensor in stored.items():
        assert same_bits(tensors[name], tensor), name
        assert same_bits(written[name], tensor), name


@pytest.mark.parametrize("variant", ALL, ids=str)
@torch.no_grad()
def test_a_student_is_written_loaded_and_built_as_the_model_that_was_cut(
    variant: Variant, tmp_path: Path, heard: list[str]
) -> None:
    teacher = save(variant, tmp_path / "teacher")
    shape = small_student(variant)
    tensors, kept = cut_out(teacher, shape)
    config = teacher.family.config(teacher.config, shape, kept.layers)
    heard.clear()
    cut_folder(teacher, shape, kept, tmp_path / "student", {})
    written = inspect_model_folder(tmp_path / "student")
    assert (written.architecture, written.dtype) == (shape, "bfloat16")
    loaded: Any = load_model(written, CPU)
    assert loaded.num_parameters() == teacher.family.count(shape)
    built_again = build_model(config, tensors, CPU)
    for model in (loaded, built_again):
        own = own_tensors(model)
        assert own.keys() == tensors.keys()
        assert all(torch.equal(own[name], tensor.float()) for name, tensor in tensors.items())
    assert torch.equal(loaded(INPUTS).logits, built_again(INPUTS).logits)
    assert heard == []


# --- old checkpoints ----------------------------------------------------------------------------------------


def buffers(name: str) -> Callable[[int], Tensors]:
    """A causal mask as attention once stored it, and the value that it put in for what is masked."""
    mask = torch.ones(32, 32, dtype=torch.uint8).tril()[None, None]
    return lambda i: {name.format(i=i) + "bias": mask.clone(), name.format(i=i) + "masked_bias": torch.tensor(-1e9)}


def without_prefix(tensors: Tensors) -> Tensors:
    layers = [buffers("h.{i}.attn.")(i) for i in range(4)]
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    return {**bare, **{name: tensor for layer in layers for name, tensor in layer.items()}}


def with_masks(tensors: Tensors) -> Tensors:
    layers = [buffers("transformer.h.{i}.attn.")(i) for i in range(4)]
    return {**tensors, **{name: tensor for layer in layers for name, tensor in layer.items()}}


def with_frequencies(tensors: Tensors) -> Tensors:
    return {**tensors, **{f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(4)}}


def with_neox_buffers(tensors: Tensors) -> Tensors:
    layers = [buffers("gpt_neox.layers.{i}.attention.")(i) for i in range(4)]
    frequencies = {f"gpt_neox.layers.{i}.attention.rotary_emb.inv_freq": torch.ones(4) for i in range(4)}
    return {**tensors, **frequencies, **{name: tensor for layer in layers for name, tensor in layer.items()}}


def with_renamed_head(tensors: Tensors) -> Tensors:
    return {name.replace("embed_out", "lm_head"): tensor for name, tensor in tensors.items()}


def with_stored_head(tensors: Tensors) -> Tensors:
    """Of a model that ties it."""
    (embedding,) = (name for name in tensors if name.endswith(("embed_in.weight", "wte.weight", "embed_tokens.weight")))
    return {**tensors, "lm_head.weight": tensors[embedding].clone()}


OLD = [
    ("gpt2-0", without_prefix),
    ("gpt2-1", without_prefix),
    ("gpt2-0", with_masks),
    ("gpt2-0", with_stored_head),
    ("llama-0", with_frequencies),
    ("llama-1", with_stored_head),
    ("gpt_neox-0", with_neox_buffers),
    ("gpt_neox-1", with_neox_buffers),
    ("gpt_neox-0", with_renamed_head),
    ("gpt_neox-1", with_stored_head),
]


@pytest.mark.parametrize(("name", "aged"), OLD)
@torch.no_grad()
def test_an_old_checkpoint_is_read_as_the_same_model(
    name: str, aged: Callable[[Tensors], Tensors], tmp_path: Path
) -> None:
    variant = next(each for each in ALL if str(each) == name)
    new = save(variant, tmp_path)
    expected, logits = {name: read_tensor(new, name) for name in new.files}, load_model(new, CPU)(INPUTS).logits
    stored = aged(load_file(tmp_path / "model.safetensors"))
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    old = inspect_model_folder(tmp_path)
    assert (old.architecture, old.dtype) == (variant.architecture, "bfloat16")
    assert {table: stored_as for table, stored_as in old.stored_as.items() if stored_as not in stored} == {}
    for table_name, tensor in expected.items():
        assert same_bits(read_tensor(old, table_name), tensor), table_name
    assert torch.equal(load_model(old, CPU)(INPUTS).logits, logits)
    student = small_student(variant)
    from_old, kept = cut_out(old, student)
    config = old.family.config(old.config, student, kept.layers)
    assert own_tensors(build_model(config, from_old, CPU)).keys() == dict(old.family.tensors(student)).keys()


@pytest.mark.parametrize("name", ["gpt2-0", "llama-1", "gpt_neox-1"])
def test_a_head_that_is_not_the_embedding_it_should_be_is_refused(name: str, tmp_path: Path) -> None:
    """transformers would use it, and every student would have another."""
    variant = next(each for each in ALL if str(each) == name)
    save(variant, tmp_path)
    stored = with_stored_head(load_file(tmp_path / "model.safetensors"))
    stored["lm_head.weight"][3, 5] += 1
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    folder = inspect_model_folder(tmp_path)
    with pytest.raises(TeacherError) as caught:
        load_model(folder, CPU)
    assert str(caught.value) == (
        f"teacher: {tmp_path} stores a head of its own where its config ties it to the embedding; "
        "accepted: tie_word_embeddings false, or no such head."
    )


def test_what_old_checkpoints_of_one_family_carry_is_unexpected_in_another(tmp_path: Path) -> None:
    variant = next(each for each in ALL if str(each) == "granite-0")
    save(variant, tmp_path)
    stored = with_frequencies(load_file(tmp_path / "model.safetensors"))
    save_file(stored, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TeacherError, match=r"has an unexpected tensor model\.layers\.0\.self_attn\.rotary_emb\.inv_fr"):
        inspect_model_folder(tmp_path)
