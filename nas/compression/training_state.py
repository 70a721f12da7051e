"""Checkpoints of a training run: written whole, verified when written and when read, the newest kept."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from nas.durable import flush
from nas.errors import CheckpointError
from nas.training_record import Rollback

_TENSORS, _STATE = "tensors.safetensors", "state.json"


@dataclass(frozen=True)
class TrainingState:
    """Everything a run needs to go on as if it had never stopped; `step` optimizer steps are behind it.

    `rollbacks` are those that it took to come there.
    """

    step: int
    tensors: dict[str, torch.Tensor]
    rollbacks: tuple[Rollback, ...] = ()


def capture(
    step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rollbacks: tuple[Rollback, ...] = ()
) -> TrainingState:
    """The state of `model` and `optimizer` as named tensors (`model.*`, `optimizer.<parameter>.*`)."""
    tensors = {f"model.{name}": parameter.detach() for name, parameter in model.named_parameters()}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    return TrainingState(step, tensors, rollbacks)


def restore(state: TrainingState, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Puts a captured state back, bit for bit."""
    for name, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.copy_(state.tensors[f"model.{name}"])
        prefix = f"optimizer.{name}."
        optimizer.state[parameter] = {
            # The step too: fused AdamW counts on the device. A copy, for on a CPU it would stay mapped to the file.
            key.removeprefix(prefix): value.to(parameter.device, copy=True)
            for key, value in state.tensors.items()
            if key.startswith(prefix)
        }


def write_state(folder: Path, state: TrainingState, *, keep: int = 2) -> None:
    """Writes the state below `folder` and drops all but the newest `keep` of that folder.

    A reader sees it whole or not at all: it is written, flushed and read back beside its place, then renamed. Raises
    CheckpointError if what is read back is not what was to be written.
    """
    final = folder / f"step-{state.step:09d}"
    shutil.rmtree(final, ignore_errors=True)  # Of this step, but damaged, or it would have been resumed from.
    partial = folder / f"{final.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        tensors = {name: tensor.contiguous().cpu() for name, tensor in state.tensors.items()}
        save_file(tensors, partial / _TENSORS)
        flush(partial / _TENSORS)
        _check_written(partial / _TENSORS, tensors)
        rollbacks = [each.model_dump(mode="json") for each in state.rollbacks]
        record = {"step": state.step, "sha256": _digest(partial / _TENSORS), "rollbacks": rollbacks}
        (partial / _STATE).write_text(json.dumps(record))
        for file in (partial / _STATE, partial):
            flush(file)
        partial.replace(final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)  # On a full disk, not to be left to fill it.
        raise
    flush(folder)
    keep_newest(folder, keep)


def _check_written(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """The digest that is kept beside the file says only that it has not changed since."""
    try:
        with safe_open(path, framework="pt") as file:
            wrong = [name for name, tensor in tensors.items() if not torch.equal(file.get_tensor(name), tensor)]
    except SafetensorError as error:
        raise CheckpointError(path, f"cannot be read back ({error})") from error
    if wrong:
        raise CheckpointError(path, f"does not hold what was written: {wrong[0]} differs")


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
                rollbacks = tuple(Rollback.model_validate(each) for each in record.get("rollbacks", ()))
                return TrainingState(record["step"], load_file(path / _TENSORS), rollbacks)
        except (OSError, ValueError, KeyError):
            continue  # A damaged checkpoint is as good as none: the one before it serves.
    return None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
