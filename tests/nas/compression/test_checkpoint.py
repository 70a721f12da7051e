"""Folders written whole, and models built from exactly the tensors of their config."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from nas.compression.checkpoint import build_model, load_model, own_tensors, read_tensor, write_model_folder
from nas.errors import CheckpointError, FolderError
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
    write_model_folder(into, teacher.config, tensors_of(teacher), teacher.path, {"search": "x"})
    written = inspect_model_folder(into)
    assert written.architecture == teacher.architecture
    assert written.dtype == "bfloat16"
    assert all(torch.equal(read_tensor(written, name), tensor) for name, tensor in tensors_of(teacher).items())
    assert json.loads((into / "provenance.json").read_text()) == {"search": "x"}
    assert (into / "tokenizer.json").read_bytes() == (teacher.path / "tokenizer.json").read_bytes()


def test_a_folder_that_is_there_is_not_overwritten(teacher: ModelFolder, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("keep me")
    with pytest.raises(FolderError, match="exists already"):
        write_model_folder(tmp_path, teacher.config, tensors_of(teacher), teacher.path, {})
    assert (tmp_path / "precious.txt").read_text() == "keep me"


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


def test_tied_head_is_not_stored(teacher: ModelFolder) -> None:
    assert "lm_head.weight" not in own_tensors(load_model(teacher, CPU))
