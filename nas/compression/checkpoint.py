"""Hugging Face folders: tensors read one by one, models built from tensors, folders written whole or not at all."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from nas.architecture import Architecture
from nas.compression.kernels import kernels, parse_config
from nas.compression.weight_files import SHARD_BYTES, Rows, write_tensors
from nas.durable import beside, flush, write_text
from nas.errors import CheckpointError, FolderError, TeacherError
from nas.families.parameter import HIDDEN, VOCAB
from nas.hub import OTHER_FILES
from nas.model_folder import ModelFolder, inspect_model_folder

COPIED_FILES = ("tokenizer.json", *OTHER_FILES)
"""What is copied from the teacher: its tokenizer, and the generation config, which names what ends a text."""

_ROWS_AT_ONCE = 4096
"""How many rows of two tensors are compared at once."""


def read_tensor(folder: ModelFolder, name: str) -> torch.Tensor:
    """One tensor in the dtype it is stored in; nothing else is loaded."""
    with safe_open(folder.files[name], framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(folder.stored_as.get(name, name))
        return tensor


def weights_digest(folder: ModelFolder) -> str:
    """What identifies the folder's weights: one SHA-256 over the names and contents of its files."""
    digest = hashlib.sha256()
    for path in sorted(set(folder.files.values())):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def config_digest(folder: ModelFolder) -> str:
    """What identifies how the folder's weights are computed with: one SHA-256 over its config, in any order."""
    return hashlib.sha256(json.dumps(folder.config, sort_keys=True).encode()).hexdigest()


def load_model(folder: ModelFolder, device: torch.device) -> torch.nn.Module:
    """The folder's model with float32 weights, in evaluation mode; no code of the folder is run.

    Raises TeacherError as `check_head` does.
    """
    check_head(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder.path,
        config=parse_config(folder.config),
        dtype=torch.float32,
        **kernels(folder.config, torch.float32),
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    loaded: torch.nn.Module = model.to(device).eval()
    return loaded


def check_head(folder: ModelFolder) -> None:
    """Raises TeacherError if a head is stored that differs from the embedding it should be.

    transformers would use it, and no student would have it.
    """
    names = [each.name for each in folder.family.parameters if each.dimensions == (VOCAB, HIDDEN)]
    if not folder.architecture.tie_word_embeddings or not folder.files.keys() >= set(names):
        return
    embedding, head = (read_tensor(folder, name).split(_ROWS_AT_ONCE) for name in names)
    # In float32, which holds all of the stored dtypes: the head's need not be the embedding's.
    if not all(torch.equal(one.float(), other.float()) for one, other in zip(embedding, head, strict=True)):
        problem = "stores a head of its own where its config ties it to the embedding"
        raise TeacherError("teacher", str(folder.path), problem, "tie_word_embeddings false, or no such head")


def build_model(
    config: dict[str, Any],
    tensors: Mapping[str, torch.Tensor],
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    *,
    copy: bool = True,
) -> torch.nn.Module:
    """A model of this config with these tensors as its weights in `dtype`, in evaluation mode.

    transformers takes tensors as they are: unless they are copied, those in `dtype` become the model's own, and
    training changes the caller's. Raises CheckpointError unless they are exactly those of the config.
    """
    parsed = parse_config(config)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(parsed)]
    model, report = model_class.from_pretrained(
        None,
        config=parsed,
        state_dict={name: tensor.to(dtype, copy=copy) for name, tensor in tensors.items()},
        dtype=dtype,
        **kernels(config, dtype),
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise CheckpointError(f"a {config['model_type']}", f"does not fit its config: {wrong}")
    built: torch.nn.Module = model.to(device).eval()
    return built


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor], about: Mapping[str, str] | None = None) -> None:
    """One safetensors file, with what else is to be said `about` its tensors."""
    metadata = {"format": "pt", **(about or {})}
    with beside(path) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata=metadata)
        partial.chmod(0o644)  # safetensors leaves it to its owner alone.


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file; raises CheckpointError if it is damaged."""
    return read_described(path)[0]


def read_described(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As `read_weights`, with what else the file says about them."""
    try:
        with safe_open(path, framework="pt") as file:
            # It has no iterator of its own.
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read ({error})") from error


def write_model_folder(
    into: Path,
    config: dict[str, Any],
    tensors: Iterable[tuple[str, Rows]],
    teacher: ModelFolder,
    provenance: object,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes weights and config of a student, its teacher's tokenizer and `provenance.json`.

    The folder appears whole under its name or not at all. The tensors, in any order, are written as they come, in the
    teacher's dtype; `progress` is told their bytes done, of how many. Raises FolderError if `into` exists, and
    CheckpointError unless the tensors are exactly those of the config.
    """
    if into.exists():
        raise FolderError("into", str(into), "exists already", "a folder that does not exist yet")
    partial = into.with_name(into.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        shape = teacher.family.architecture(config, source=f"the config for {into}")
        shapes = dict(teacher.family.tensors(shape))
        write_tensors(partial, shapes, _dtype(teacher), tensors, progress, shard_bytes=shard_bytes)
        write_text(partial / "config.json", json.dumps(config, indent=2) + "\n")
        write_text(partial / "provenance.json", json.dumps(provenance, indent=2) + "\n")
        for name in COPIED_FILES:
            if (teacher.path / name).exists():
                shutil.copyfile(teacher.path / name, partial / name)
                flush(partial / name)
        _check_written(partial, shape, teacher)
        flush(partial)
        partial.replace(into)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    flush(into.parent)


def _dtype(folder: ModelFolder) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, folder.dtype)
    return dtype


def _check_written(folder: Path, shape: Architecture, teacher: ModelFolder) -> None:
    """Raises CheckpointError unless the folder is read as what it was meant to be."""
    try:
        written = inspect_model_folder(folder)
    except TeacherError as error:  # Of our own making, not the user's.
        raise CheckpointError(folder, str(error)) from error
    if (written.architecture, written.dtype) != (shape, teacher.dtype):
        problem = f"is {written.architecture.label} in {written.dtype} where {shape.label} in {teacher.dtype} was meant"
        raise CheckpointError(folder, problem)


def own_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights as a checkpoint has them, a tied head left out: experts, fused in memory, are one by one."""
    in_memory = {name: parameter.detach() for name, parameter in model.named_parameters()}
    tensors: dict[str, torch.Tensor] = revert_weight_conversion(model, in_memory)  # type: ignore[arg-type]
    return tensors
