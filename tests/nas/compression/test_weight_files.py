"""Weights written piece by piece must be what safetensors itself reads, and nothing else may come in their place."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from nas.compression.weight_files import write_tensors
from nas.errors import CheckpointError

SHAPES = {"a": (3, 5), "large": (700, 1024), "b": (4,), "c": (2, 2)}
"""One of them takes several pieces."""

Tensors = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def _several_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def random_bits(dtype: torch.dtype) -> Tensors:
    """Every bit pattern, NaNs with their payloads among them."""
    generator = torch.Generator().manual_seed(0)
    whole = {name: torch.randint(256, (*shape, dtype.itemsize), generator=generator) for name, shape in SHAPES.items()}
    return {name: tensor.to(torch.uint8).view(dtype).reshape(SHAPES[name]) for name, tensor in whole.items()}


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    as_bytes = (one.contiguous().view(torch.uint8), other.contiguous().view(torch.uint8))
    return one.dtype == other.dtype and torch.equal(*as_bytes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_safetensors_reads_what_was_written_bit_by_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    tensors = random_bits(dtype)
    write_tensors(tmp_path, SHAPES, dtype, tensors.items())
    (file,) = tmp_path.iterdir()
    assert file.name == "model.safetensors"
    loaded = load_file(file)
    assert loaded.keys() == tensors.keys()
    assert all(same_bits(loaded[name], tensors[name]) for name in tensors)
    with safe_open(file, framework="pt") as opened:
        assert opened.metadata() == {"format": "pt"}
    header_length = int.from_bytes(file.read_bytes()[:8], "little")
    assert header_length % 8 == 0
    assert file.stat().st_size == 8 + header_length + sum(tensor.nbytes for tensor in tensors.values())


def test_tensors_may_be_views_and_come_in_any_order(tmp_path: Path) -> None:
    tensors = random_bits(torch.float32)
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    write_tensors(tmp_path / "one", SHAPES, torch.float32, tensors.items())
    transposed = {name: tensor.T.contiguous().T if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    write_tensors(tmp_path / "other", SHAPES, torch.float32, reversed(transposed.items()))
    one, other = (tmp_path / name / "model.safetensors" for name in ("one", "other"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(
    ("limit", "files"),
    [
        (10**7, [["a", "large", "b", "c"]]),
        (700 * 1024 * 4, [["a"], ["large"], ["b", "c"]]),
        (60, [["a"], ["large"], ["b", "c"]]),
        (1, [["a"], ["large"], ["b"], ["c"]]),
    ],
)
def test_files_are_no_larger_than_the_limit_unless_a_tensor_is(
    limit: int, files: list[list[str]], tmp_path: Path
) -> None:
    tensors = random_bits(torch.float32)
    write_tensors(tmp_path, SHAPES, torch.float32, tensors.items(), shard_bytes=limit)
    names = [f"model-{number:05}-of-{len(files):05}.safetensors" for number in range(1, len(files) + 1)]
    if len(files) == 1:
        names = ["model.safetensors"]
    else:
        index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
        assert index["metadata"] == {"total_size": sum(tensor.nbytes for tensor in tensors.values())}
        assert index["weight_map"] == {each: name for name, held in zip(names, files, strict=True) for each in held}
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == names
    for name, held in zip(names, files, strict=True):
        loaded = load_file(tmp_path / name)
        assert sorted(loaded) == sorted(held)
        assert all(same_bits(loaded[each], tensors[each]) for each in held)


def test_progress_is_told_in_bytes(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    tensors = random_bits(torch.float16)
    write_tensors(
        tmp_path, SHAPES, torch.float16, tensors.items(), progress=lambda done, total: told.append((done, total))
    )
    sizes = [30, 700 * 1024 * 2, 8, 8]
    assert told == [(sum(sizes[: number + 1]), sum(sizes)) for number in range(4)]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"b": None}, "has no b"),
        ({"b": None, "large": None}, "has no b"),
        ({"d": torch.ones(4)}, "has d where none belongs"),
        ({"b": torch.ones(5)}, r"has b as \(5,\) of torch.float32 where \(4,\) of torch.float32 belongs"),
        ({"a": torch.ones(5, 3)}, r"has a as \(5, 3\) of torch.float32 where \(3, 5\) of torch.float32 belongs"),
        ({"c": torch.ones(2, 2).bfloat16()}, r"has c as \(2, 2\) of torch.bfloat16 where \(2, 2\) of torch.float32"),
    ],
)
def test_other_tensors_are_refused_by_name(
    changes: dict[str, torch.Tensor | None], problem: str, tmp_path: Path
) -> None:
    changed = {**random_bits(torch.float32), **changes}
    tensors = {name: tensor for name, tensor in changed.items() if tensor is not None}
    with pytest.raises(CheckpointError, match=problem):
        write_tensors(tmp_path, SHAPES, torch.float32, tensors.items())


def test_a_tensor_that_comes_twice_is_refused(tmp_path: Path) -> None:
    tensors = [*random_bits(torch.float32).items()]
    with pytest.raises(CheckpointError, match="has b twice"):
        write_tensors(tmp_path, SHAPES, torch.float32, [*tensors[:3], tensors[2]])


@contextmanager
def files_no_larger_than(size: int) -> Iterator[None]:
    """As on a full disk, writing more is an error of the system."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("size", [10, 100_000])
def test_where_no_more_can_be_written_the_systems_error_passes(size: int, tmp_path: Path) -> None:
    tensors = random_bits(torch.float32)
    with files_no_larger_than(size), pytest.raises(OSError, match="File too large"):
        write_tensors(tmp_path, SHAPES, torch.float32, tensors.items())
