"""What stays of a teacher, written and read again, or refused."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from nas.compression.choose import Kept, choose
from nas.compression.importance.weights import random_scores
from nas.compression.kept_file import load_kept, save_kept
from nas.errors import CheckpointError
from tests.nas.families.small import ALL

OF_LAYERS = ("heads", "groups", "neurons", "experts", "folded")
BY_NAME = {str(variant): variant.architecture for variant in ALL}


def kept_of(name: str) -> Kept:
    teacher = BY_NAME[name]
    sizes = {"num_hidden_layers": 2, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 1}
    sizes |= {"num_experts": 3} if teacher.num_experts else {}
    scores = random_scores(teacher, seed=3)
    return choose(scores, teacher, teacher.resized(**sizes), residual="query_and_output")


@pytest.mark.parametrize("name", ["llama-0", "mixtral-0"])
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    kept, file = kept_of(name), tmp_path / "kept.safetensors"
    # After rounds, layers that went early have more units left than others; some are views of larger tensors.
    kept = replace(kept, heads=(torch.arange(6)[:5], *kept.heads[1:]))
    save_kept(file, kept)
    found = load_kept(file)
    assert (found.layers, found.residual) == (kept.layers, "query_and_output")
    assert torch.equal(found.channels, kept.channels)
    for axis in OF_LAYERS:
        ours, theirs = getattr(kept, axis), getattr(found, axis)
        assert len(ours) == len(theirs) == 4
        assert all(torch.equal(*both) and both[0].dtype == both[1].dtype for both in zip(ours, theirs, strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["kept.safetensors"]


def test_heads_that_take_in_none_are_read_as_none(tmp_path: Path) -> None:
    save_kept(tmp_path / "kept", replace(kept_of("llama-0"), folded=(), residual="off"))
    found = load_kept(tmp_path / "kept")
    assert (found.folded, found.residual) == ((), "off")


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "kept.safetensors"
    save_kept(file, kept_of("llama-0"))
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match=r"kept\.safetensors: cannot be read"):
        load_kept(file)


@pytest.mark.parametrize(
    ("names", "about"),
    [
        (["channels", "heads.0", "heads.2"], '{"layers": [0, 1], "residual": "off"}'),
        (["heads.0"], '{"layers": [0, 1], "residual": "off"}'),
        (["channels"], '{"layers": [0, 1], "residual": "some"}'),
        (["channels"], "{}"),
    ],
    ids=["layer", "channels", "residual", "layers"],
)
def test_a_file_of_something_else_is_refused(names: list[str], about: str, tmp_path: Path) -> None:
    save_file({name: torch.arange(3) for name in names}, tmp_path / "kept", metadata={"about": about})
    with pytest.raises(CheckpointError, match="does not say what stays of a teacher"):
        load_kept(tmp_path / "kept")
