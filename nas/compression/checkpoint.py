"""Hugging Face folders: tensors read one by one, models built from tensors, folders written whole or not at all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PretrainedConfig

from nas.compression.training_state import flush_to_disk
from nas.errors import CheckpointError, FolderError
from nas.model_folder import ModelFolder

COPIED_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.model", "vocab.json",
    "merges.txt", "added_tokens.json", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
"""What is copied from the teacher: its tokenizer, and the generation config, which names what ends a text."""


def read_tensor(folder: ModelFolder, name: str) -> torch.Tensor:
    """One tensor in the dtype it is stored in; nothing else is loaded."""
    with safe_open(folder.files[name], framework="pt") as file:
        tensor: torch.Tensor = file.get_tensor(name)
        return tensor


def load_model(folder: ModelFolder, device: torch.device) -> torch.nn.Module:
    """The folder's model with float32 weights, in evaluation mode; no code of the folder is run."""
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(
        folder.path, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )
    return model.to(device).eval()


def build_model(config: dict[str, Any], tensors: Mapping[str, torch.Tensor], device: torch.device) -> torch.nn.Module:
    """A model of this config with these tensors as its float32 weights.

    Raises CheckpointError unless the tensors are exactly those of the config.
    """
    parsed = parse_config(config)
    model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(parsed)]
    model, report = model_class.from_pretrained(
        None,
        config=parsed,
        state_dict={name: tensor.float() for name, tensor in tensors.items()},
        dtype=torch.float32,
        output_loading_info=True,
    )
    wrong = {kind: sorted(map(str, names)) for kind, names in report.items() if names}
    if wrong:
        raise CheckpointError(f"a {config['model_type']}", f"does not fit its config: {wrong}")
    built: torch.nn.Module = model.to(device).eval()
    return built


def parse_config(config: dict[str, Any]) -> PretrainedConfig:
    """The config as transformers' own object."""
    fields = {key: value for key, value in config.items() if key != "model_type"}
    parsed: PretrainedConfig = AutoConfig.for_model(config["model_type"], **fields)
    return parsed


def write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """One safetensors file, flushed and renamed into place."""
    partial = path.with_name(path.name + ".partial")
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, metadata={"format": "pt"})
    flush_to_disk(partial)
    partial.replace(path)
    flush_to_disk(path.parent)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of one safetensors file; raises CheckpointError if it is damaged."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(path, f"cannot be read ({error})") from error


def write_model_folder(
    into: Path, config: dict[str, Any], tensors: Mapping[str, torch.Tensor], tokenizer_of: Path, provenance: object
) -> None:
    """Writes weights, config, tokenizer and `provenance.json`; the folder appears whole under its name.

    Raises FolderError if `into` exists and is not an earlier export.
    """
    if into.exists() and not (into / "provenance.json").exists():
        raise FolderError("into", str(into), "exists and is not an export of ours", "a folder that does not exist yet")
    partial = into.with_name(into.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_weights(partial / "model.safetensors", tensors)
    (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    for name in COPIED_FILES:
        if (tokenizer_of / name).exists():
            shutil.copyfile(tokenizer_of / name, partial / name)
    (partial / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n")
    shutil.rmtree(into, ignore_errors=True)
    partial.replace(into)
    flush_to_disk(into.parent)


def own_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The model's weights by their checkpoint names, a tied head left out."""
    return {name: parameter.detach() for name, parameter in model.named_parameters()}
