"""Checkpoints that are damaged, half written or old."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas.compression import training_state
from nas.compression.training_state import TrainingState, newest_state, write_state
from nas.errors import CheckpointError


def state(step: int) -> TrainingState:
    return TrainingState(step, {"model.w": torch.full((3,), float(step))})


def test_the_newest_two_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_state(tmp_path, state(step))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000003", "step-000000010"]


def test_as_many_are_kept_as_wanted(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        write_state(tmp_path, state(step), keep=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000002", "step-000000003", "step-000000010"]
    write_state(tmp_path, state(11), keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000011"]


@pytest.mark.parametrize("damage", ["other bits", "cut short"])
def test_what_cannot_be_read_back_never_passes_for_a_checkpoint(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes what it is given and keeps something else."""
    write_state(tmp_path, state(1))

    def save(tensors: dict[str, torch.Tensor], path: Path) -> None:
        save_file(tensors, path)
        written = bytearray(path.read_bytes())
        written[-1] ^= 1
        path.write_bytes(written if damage == "other bits" else written[:-4])

    monkeypatch.setattr(training_state, "save_file", save)
    with pytest.raises(CheckpointError, match=r"does not hold what was written: model\.w differs|cannot be read back"):
        write_state(tmp_path, state(2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-000000001"]
    found = newest_state([tmp_path])
    assert found is not None
    assert found.step == 1


def test_the_newest_of_all_attempts_is_found(tmp_path: Path) -> None:
    write_state(tmp_path / "attempt-1", state(7))
    write_state(tmp_path / "attempt-2", state(4))
    found = newest_state([tmp_path / "attempt-2", tmp_path / "attempt-1", tmp_path / "attempt-3"])
    assert found is not None
    assert found.step == 7
    assert found.tensors["model.w"].tolist() == [7.0, 7.0, 7.0]


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path: Path) -> None:
    write_state(tmp_path, state(1))
    write_state(tmp_path, state(2))
    tensors = tmp_path / "step-000000002" / "tensors.safetensors"
    damaged = bytearray(tensors.read_bytes())
    damaged[-1] ^= 1
    tensors.write_bytes(damaged)
    found = newest_state([tmp_path])
    assert found is not None
    assert found.step == 1


def test_a_half_written_checkpoint_is_not_seen_and_is_written_anew(tmp_path: Path) -> None:
    (tmp_path / "step-000000005.partial").mkdir()
    (tmp_path / "step-000000005.partial" / "tensors.safetensors").write_bytes(b"half")
    assert newest_state([tmp_path]) is None
    write_state(tmp_path, state(5))
    found = newest_state([tmp_path])
    assert found is not None
    assert found.step == 5
