"""Tensors from and to safetensors files one by one, so that a checkpoint may be larger than memory."""

import json
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from io import FileIO
from math import prod
from pathlib import Path
from typing import Protocol

import torch
from safetensors import safe_open

from nas.durable import write_text
from nas.errors import CheckpointError
from nas.model_folder import INDEX, WHOLE, ModelFolder

SHARD_BYTES = 5_000_000_000
"""How large a file of weights becomes before another is begun; a tensor that is larger has one to itself."""

_PIECE_BYTES = 2**20
"""How much of a tensor is computed and written at once by each thread: what stays in the cache is fast."""

Shape = tuple[int, ...]
_DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


class Rows(Protocol):
    """A tensor, or what computes one as its rows are asked for, by several threads."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> torch.dtype: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor: ...


@contextmanager
def open_tensors(folder: ModelFolder) -> Iterator[Callable[[str], torch.Tensor]]:
    """What reads a tensor by the family table's name for it, in the dtype it is stored in.

    Every file is opened once. A tensor is its file mapped into memory: it takes none of its own, and is not to be
    written to.
    """
    with ExitStack() as stack:
        files = {path: stack.enter_context(safe_open(path, framework="pt")) for path in set(folder.files.values())}

        def read(name: str) -> torch.Tensor:
            tensor: torch.Tensor = files[folder.files[name]].get_tensor(folder.stored_as.get(name, name))
            return tensor

        yield read


def write_tensors(
    folder: Path,
    shapes: Mapping[str, Shape],
    dtype: torch.dtype,
    tensors: Iterable[tuple[str, Rows]],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Writes a folder's weights as they come, one tensor held at a time; what is written would survive a power cut.

    Files are laid out as `shapes` are ordered; the tensors may come in another order. `progress` is told the bytes
    done, of how many. Raises CheckpointError unless the tensors are exactly those of `shapes`, in `dtype`.
    """
    shards = _shards(shapes, dtype.itemsize, shard_bytes)
    total, done, missing = sum(_sizes(shapes, dtype.itemsize).values()), 0, set(shapes)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(torch.get_num_threads()))
        file_of: dict[str, _File] = {}
        for file_name, names in shards.items():
            opened = stack.enter_context((folder / file_name).open("wb", buffering=0))
            file_of.update(dict.fromkeys(names, _File(opened, {name: shapes[name] for name in names}, dtype)))
        for name, tensor in tensors:
            if name not in missing:
                raise CheckpointError(folder, f"has {name} {'twice' if name in shapes else 'where none belongs'}")
            if (tuple(tensor.shape), tensor.dtype) != (shapes[name], dtype):
                found = f"{tuple(tensor.shape)} of {tensor.dtype}"
                raise CheckpointError(folder, f"has {name} as {found} where {shapes[name]} of {dtype} belongs")
            missing.remove(name)
            done += file_of[name].write(name, tensor, pool)
            progress(done, total)
    if missing:
        raise CheckpointError(folder, f"has no {min(missing)}")
    if len(shards) > 1:
        weight_map = {name: file_name for file_name, names in shards.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_text(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _sizes(shapes: Mapping[str, Shape], itemsize: int) -> dict[str, int]:
    """Bytes of every tensor."""
    return {name: torch.Size(shape).numel() * itemsize for name, shape in shapes.items()}


def _shards(shapes: Mapping[str, Shape], itemsize: int, limit: int) -> dict[str, list[str]]:
    """File names, and which tensors each file holds."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in _sizes(shapes, itemsize).items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {WHOLE: shards[0]}
    return {f"model-{number:05}-of-{len(shards):05}.safetensors": names for number, names in enumerate(shards, 1)}


class _File:
    """One safetensors file: its header is written first, every tensor at the place that the header says.

    The format: the header's length as 8 bytes, little-endian; the header, JSON, filled up with spaces to a multiple of
    8; the tensors.
    """

    def __init__(self, file: FileIO, shapes: Mapping[str, Shape], dtype: torch.dtype) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        offsets, end = {}, 0
        for name, size in _sizes(shapes, dtype.itemsize).items():
            offsets[name] = end
            end += size
            header[name] = {"dtype": _DTYPES[dtype], "shape": shapes[name], "data_offsets": (offsets[name], end)}
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        self._file = file
        self._places = {name: 8 + len(text) + offset for name, offset in offsets.items()}
        self._write_at(0, memoryview(struct.pack("<Q", len(text)) + text))

    def write(self, name: str, tensor: Rows, pool: Executor) -> int:
        """Computes and writes a tensor in pieces; returns its bytes. With the last tensor the file is closed."""
        place = self._places.pop(name)
        num_rows, row_bytes = tensor.shape[0], prod(tensor.shape[1:]) * tensor.dtype.itemsize
        height = max(1, _PIECE_BYTES // row_bytes)

        def write_piece(start: int) -> None:
            piece = tensor[start : start + height].detach().cpu().contiguous()
            # Bytes as they lie in memory: numpy knows no bfloat16.
            self._write_at(place + start * row_bytes, piece.view(torch.uint8).numpy().data.cast("B"))

        for _ in pool.map(write_piece, range(0, num_rows, height)):
            pass
        if not self._places:
            os.fsync(self._file.fileno())
            self._file.close()
        return num_rows * row_bytes

    def _write_at(self, place: int, left: memoryview) -> None:
        while left:
            written = os.pwrite(self._file.fileno(), left, place)
            place, left = place + written, left[written:]
