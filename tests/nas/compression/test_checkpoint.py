"""Folders written whole, and models built from exactly the tensors of their config."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from nas.compression.checkpoint import (
    COPIED_FILES,
    build_model,
    check_head,
    load_model,
    own_tensors,
    read_tensor,
    write_model_folder,
)
from nas.compression.choose import choose
from nas.compression.importance.weights import random_scores
from nas.compression.prune import cut_folder
from nas.errors import CheckpointError, FolderError, TeacherError
from nas.model_folder import ModelFolder, inspect_model_folder

CPU = torch.device("cpu")
INPUTS = torch.arange(12).view(2, 6)


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> ModelFolder:
    return inspect_model_folder(teacher_folder)


def tensors_of(folder: ModelFolder) -> dict[str, torch.Tensor]:
    return {name: read_tensor(folder, name) for name in folder.files}


@torch.no_grad()
def test_model_built_from_tensors_equals_the_one_loaded_by_transformers(teacher: ModelFolder) -> None:
    expected = AutoModelForCausalLM.from_pretrained(teacher.path, dtype=torch.float32)(INPUTS).logits
    assert torch.equal(build_model(teacher.config, tensors_of(teacher), CPU)(INPUTS).logits, expected)
    assert torch.equal(load_model(teacher, CPU)(INPUTS).logits, expected)


def test_a_missing_tensor_is_refused(teacher: ModelFolder) -> None:
    tensors = tensors_of(teacher)
    del tensors["model.norm.weight"]
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        build_model(teacher.config, tensors, CPU)


def test_written_folder_is_the_teacher_again(teacher: ModelFolder, tmp_path: Path) -> None:
    into = tmp_path / "model"
    write_model_folder(into, teacher.config, tensors_of(teacher).items(), teacher, {"search": "x"})
    written = inspect_model_folder(into)
    assert written.architecture == teacher.architecture
    assert written.dtype == "bfloat16"
    assert all(torch.equal(read_tensor(written, name), tensor) for name, tensor in tensors_of(teacher).items())
    assert json.loads((into / "provenance.json").read_text()) == {"search": "x"}
    assert (into / "tokenizer.json").read_bytes() == (teacher.path / "tokenizer.json").read_bytes()


def test_a_folder_that_is_there_is_not_overwritten(teacher: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(FolderError, match="exists already"):
        write_model_folder(tmp_path, teacher.config, tensors_of(teacher).items(), teacher, {})
    assert (tmp_path / "precious.txt").read_text() == "keep me"


def test_a_write_that_ends_early_leaves_nothing(teacher: ModelFolder, tmp_path: Path) -> None:
    def tensors() -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(tensors_of(teacher).items())[:5]
        assert (tmp_path / "model.partial").is_dir()
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        write_model_folder(tmp_path / "model", teacher.config, tensors(), teacher, {})
    assert list(tmp_path.iterdir()) == []


def test_what_an_earlier_process_left_is_no_obstacle(teacher: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "model.partial").mkdir()
    (tmp_path / "model.partial" / "model-00001-of-00002.safetensors").write_bytes(b"half")
    write_model_folder(tmp_path / "model", teacher.config, tensors_of(teacher).items(), teacher, {})
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    copied = {name for name in COPIED_FILES if (teacher.path / name).exists()}
    own = {"config.json", "model.safetensors", "provenance.json"}
    assert {path.name for path in (tmp_path / "model").iterdir()} == own | copied


@pytest.mark.parametrize(
    ("name", "tensor", "problem"),
    [
        ("model.norm.weight", None, r"has no model\.norm\.weight"),
        ("model.norm.bias", torch.ones(48).bfloat16(), r"has model\.norm\.bias where none belongs"),
        ("model.norm.weight", torch.ones(47).bfloat16(), r"has model\.norm\.weight as \(47,\)"),
        ("model.norm.weight", torch.ones(48), r"has model\.norm\.weight as \(48,\) of torch\.float32"),
    ],
)
def test_tensors_that_are_not_those_of_the_config_are_refused(
    name: str, tensor: torch.Tensor | None, problem: str, teacher: ModelFolder, tmp_path: Path
) -> None:
    tensors = {**tensors_of(teacher), name: tensor}
    given = [(each, value) for each, value in tensors.items() if value is not None]
    with pytest.raises(CheckpointError, match=problem):
        write_model_folder(tmp_path / "model", teacher.config, given, teacher, {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_would_not_be_read_again_is_not_left_behind(teacher: ModelFolder, tmp_path: Path) -> None:
    shutil.copytree(teacher.path, tmp_path / "teacher")
    inspected = inspect_model_folder(tmp_path / "teacher")
    (tmp_path / "teacher" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"has no tokenizer\.json"):
        write_model_folder(tmp_path / "model", inspected.config, tensors_of(inspected).items(), inspected, {})
    assert [path.name for path in tmp_path.iterdir()] == ["teacher"]


def test_a_config_cannot_choose_the_code_that_runs(teacher: ModelFolder, tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    shutil.copytree(teacher.path, folder)
    chosen = {
        "attn_implementation": "someone/kernel",
        "_attn_implementation": "someone/kernel",
        "auto_map": {"AutoModelForCausalLM": "evil.Model"},
    }
    (folder / "config.json").write_text(json.dumps({**teacher.config, **chosen}))
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint was run')")
    inspected = inspect_model_folder(folder)
    assert not set(chosen) & set(inspected.config)
    model: Any = load_model(inspected, CPU)
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(model(INPUTS).logits, load_model(teacher, CPU)(INPUTS).logits)


def with_head(teacher: ModelFolder, folder: Path, change: float, dtype: torch.dtype) -> ModelFolder:
    """The teacher, which ties its head, with a stored one whose last entry is changed."""
    shutil.copytree(teacher.path, folder)
    tensors = tensors_of(teacher)
    head = tensors["model.embed_tokens.weight"].to(dtype, copy=True)
    head[-1, -1] += change
    save_file({**tensors, "lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
    return inspect_model_folder(folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_a_stored_head_is_the_embedding_that_it_is_tied_to(
    dtype: torch.dtype, teacher: ModelFolder, tmp_path: Path
) -> None:
    check_head(with_head(teacher, tmp_path / "same", 0.0, dtype))
    other = with_head(teacher, tmp_path / "other", 1.0, dtype)
    shape = teacher.architecture
    kept = choose(random_scores(shape, seed=0), shape, shape)
    uses: tuple[Callable[[], object], ...] = (
        lambda: check_head(other),
        lambda: load_model(other, CPU),
        lambda: cut_folder(other, shape, kept, tmp_path / "student", {}),
    )
    for use in uses:
        with pytest.raises(TeacherError, match="stores a head of its own where its config ties it to the embedding"):
            use()
    assert not (tmp_path / "student").exists()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_model_has_its_dtype_and_the_tensors_themselves_only_if_asked(
    dtype: torch.dtype, teacher: ModelFolder
) -> None:
    tensors = {name: tensor.to(dtype) for name, tensor in tensors_of(teacher).items()}
    for copy in (True, False):
        norm = build_model(teacher.config, tensors, CPU, dtype, copy=copy).get_parameter("model.norm.weight")
        assert norm.dtype == dtype
        assert (norm.data_ptr() == tensors["model.norm.weight"].data_ptr()) == (not copy)


def test_tied_head_is_not_stored(teacher: ModelFolder) -> None:
    assert "lm_head.weight" not in own_tensors(load_model(teacher, CPU))
