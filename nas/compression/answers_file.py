"""One file of a teacher's answers: sequences one after another, read from any of them on.

sampled: counts (S, T) uint8; entropy (S, T) float16; entries (E, 3 or 4) uint8, packed as sparse_targets.py says.
top_k: ids (S, T, K), uint16 where the vocabulary allows, else uint32; log_p (S, T, K) and log_tail (S, T) float16.
S sequences, T tokens, K largest, E entries kept of all tokens.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nas.compression.sparse_targets import Sampled, TopK, pack, unpack
from nas.errors import CheckpointError

Arrays = dict[str, NDArray[Any]]
"""What is kept of one sequence, by the names above."""


def id_dtype(vocab_size: int) -> np.dtype[Any]:
    """What holds an id of a top-K entry."""
    return np.dtype(np.uint16 if vocab_size <= 1 << 16 else np.uint32)


def arrays_of_top_k(pieces: Sequence[TopK], length: int, vocab_size: int) -> list[Arrays]:
    """The pieces of whole sequences of so many tokens each, sequence by sequence."""
    ids_NK = torch.cat([each.ids_NK for each in pieces]).cpu().numpy().astype(id_dtype(vocab_size))
    log_p_NK = torch.cat([each.log_p_NK for each in pieces]).cpu().numpy().astype(np.float16)
    log_tail_N = torch.cat([each.log_tail_N for each in pieces]).cpu().numpy().astype(np.float16)
    sequences = [slice(start, start + length) for start in range(0, len(ids_NK), length)]
    return [
        {"ids": ids_NK[None, each], "log_p": log_p_NK[None, each], "log_tail": log_tail_N[None, each]}
        for each in sequences
    ]


def arrays_of_sampled(pieces: Sequence[Sampled], length: int, entry_bytes: int) -> list[Arrays]:
    """The pieces of whole sequences of so many tokens each, sequence by sequence."""
    counts_N = torch.cat([each.counts_N for each in pieces]).cpu().numpy().astype(np.uint8)
    entropy_N = torch.cat([each.entropy_N for each in pieces]).cpu().numpy().astype(np.float16)
    ids_E, draws_E = (torch.cat([getattr(each, name) for each in pieces]) for name in ("ids_E", "draws_E"))
    entries = pack(ids_E, draws_E, entry_bytes).numpy()
    ends = np.cumsum(counts_N, dtype=np.int64)
    found: list[Arrays] = []
    for start in range(0, len(counts_N), length):
        begin, end = (int(ends[start - 1]) if start else 0), int(ends[start + length - 1])
        rows = slice(start, start + length)
        found.append({"counts": counts_N[None, rows], "entropy": entropy_N[None, rows], "entries": entries[begin:end]})
    return found


def write_shard(path: Path, sequences: Sequence[Arrays]) -> None:
    save_file({name: np.concatenate([each[name] for each in sequences]) for name in sequences[0]}, path)
    path.chmod(0o644)  # safetensors leaves it to its owner alone.


class ShardReader:
    """A file of answers; only what is asked for is read. Raises CheckpointError where it cannot be."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: Any = _open(path)
            self._is_sampled = "counts" in set(self._file.keys())
            if self._is_sampled:
                per_sequence = self._file.get_tensor("counts").sum(axis=1, dtype=np.int64)
                self._ends = np.concatenate([[0], np.cumsum(per_sequence)])
        except (OSError, SafetensorError) as error:
            raise CheckpointError(path, f"cannot be read ({error})") from error

    def read(self, first: int, count: int) -> Sampled | TopK:
        """Of `count` sequences from the `first` on, their tokens one after another."""
        if not self._is_sampled:
            ids = self._slice("ids", first, count).astype(np.int64)
            log_p, log_tail = (self._slice(name, first, count).astype(np.float32) for name in ("log_p", "log_tail"))
            return TopK(_flat(ids), _flat(log_p), _flat(log_tail))
        begin, end = int(self._ends[first]), int(self._ends[first + count])
        ids_E, draws_E = unpack(torch.from_numpy(self._slice("entries", begin, end - begin)))
        counts = self._slice("counts", first, count).astype(np.int64)
        entropy = self._slice("entropy", first, count).astype(np.float32)
        return Sampled(torch.from_numpy(counts.ravel()), ids_E, draws_E, torch.from_numpy(entropy.ravel()))

    def _slice(self, name: str, first: int, count: int) -> NDArray[Any]:
        found: NDArray[Any] = self._file.get_slice(name)[first : first + count]
        return found


def _open(path: Path) -> Any:
    return safe_open(path, framework="numpy")


def _flat(values: NDArray[Any]) -> torch.Tensor:
    return torch.from_numpy(values).flatten(0, 1)
