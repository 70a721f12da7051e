"""Checkpoints of a training run: written whole, verified when read, the newest two kept."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from nas.durable import flush

_TENSORS, _STATE = "tensors.safetensors", "state.json"
_KEEP = 2


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on as if it had never stopped; `step` optimizer steps are behind it."""

    step: int
    tensors: dict[str, torch.Tensor]


def capture(step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """The state of `model` and `optimizer` as named tensors (`model.*`, `optimizer.<parameter>.*`)."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    return TrainingState(step, tensors)


def restore(state: TrainingState, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts a captured state back, bit for bit."""
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(state.tensors[f"model.{name}"])
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value.to(parameter.device)  # the step too: fused AdamW counts on the device
            for key, value in state.tensors.items()
            if key.startswith(prefix)
        }


def write_state(folder: Path, state: TrainingState) -> None:
    """Writes the state below `folder` and drops all but the newest two of that folder.

    A reader sees it whole or not at all: it is written and flushed beside its place, then renamed.
    """
    final = folder / f"step-{state.step:09d}"
    shutil.rmtree(final, ignore_errors=True)  # Of this step, but damaged, or it would have been resumed from.
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file({name: tensor.contiguous() for name, tensor in state.tensors.items()}, partial / _TENSORS)
        record = {"step": state.step, "sha256": _digest(partial / _TENSORS)}
        (partial / _STATE).write_text(json.dumps(record))
        for file in (partial / _TENSORS, partial / _STATE, partial):
            flush(file)
        partial.replace(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # On a full disk, not to be left to fill it.
        raise
    flush(folder)
    keep_newest(folder, _KEEP)


def keep_newest(folder: Path, count: int) -> None:
    """Drops all states of `folder` but the newest `count`."""
    for old in sorted(folder.glob("step-?????????"))[:-count]:
        shutil.rmtree(old)


def newest_state(folders: Iterable[Path]) -> TrainingState | None:
    """The state furthest along in any of `folders` (the attempts at a job) whose bytes are what was written."""
    candidates = [path for folder in folders for path in folder.glob("step-?????????")]
    for path in sorted(candidates, key=lambda p: p.name, reverse=True):
        try:
            record = json.loads((path / _STATE).read_text())
            if record["sha256"] == _digest(path / _TENSORS):
                return TrainingState(record["step"], load_file(path / _TENSORS))
        except (OSError, ValueError, KeyError):
            continue  # A damaged checkpoint is as good as none: the one before it serves.
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
