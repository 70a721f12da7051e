"""Token files of one or several sources as batches that are found again by position.

FOLDER/sources.json   the names and weights of the sources
FOLDER/NAME/          the shards of one (token_files.py)

B sequences in a batch, T tokens in a sequence.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from nas.border import Border
from nas.compression.order import TrainingOrder
from nas.compression.token_files import TokenShards
from nas.compression.token_files import load_tokenizer as load_tokenizer
from nas.compression.token_files import write_token_file as write_token_file
from nas.data_spec import divided
from nas.durable import write_text
from nas.errors import CheckpointError

_SOURCES = "sources.json"


@dataclass(frozen=True)
class Batch:
    """`inputs_BT` and, one token later, `targets_BT`.

    `first` is the position of its first sequence in the training order; the others follow it.
    """

    inputs_BT: torch.Tensor
    targets_BT: torch.Tensor
    first: int = 0

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.inputs_BT.to(device), self.targets_BT.to(device), self.first)

    def split(self, size: int) -> Iterator["Batch"]:
        """Micro-batches of at most `size` sequences, in order."""
        for start in range(0, len(self.inputs_BT), size):
            end = start + size
            yield Batch(self.inputs_BT[start:end], self.targets_BT[start:end], self.first + start)


class WeightedSource(Border):
    """A source by the name of its folder; weights are in proportion to one another."""

    name: str
    weight: float


class _Sources(Border):
    sources: tuple[WeightedSource, ...]


def write_sources(folder: Path, sources: Sequence[WeightedSource]) -> None:
    """Says which sources a folder holds, and in what proportion they are read."""
    write_text(folder / _SOURCES, _Sources(sources=tuple(sources)).model_dump_json(indent=2) + "\n")


class PackedTokens:
    """Token files cut into sequences of T tokens, addressed by number; memory-mapped.

    `path` is one token file, or a folder of sources. Numbers go through the sources one after the other.
    """

    def __init__(self, path: Path, sequence_length: int) -> None:
        """Raises CheckpointError for files that are not whole, or too short for a sequence."""
        sources = _sources_of(path)
        self._tokens = [TokenShards(place) for place in sources]
        self.weights = tuple(sources.values())
        self.sequence_length = sequence_length
        # A sequence needs one token more than its length, as the target of its last input.
        counts = [(len(tokens) - 1) // sequence_length for tokens in self._tokens]
        for place, tokens, count in zip(sources, self._tokens, counts, strict=True):
            if count < 1:
                raise CheckpointError(place, f"has {len(tokens)} tokens, fewer than {sequence_length + 1}")
        self.num_sequences = sum(counts)
        self._order = TrainingOrder(counts, self.weights)
        self._ends = np.cumsum(counts)

    @property
    def sha256(self) -> str:
        """Of the tokens of the only source, or of those of all with their weights."""
        if len(self._tokens) == 1:
            return self._tokens[0].sha256
        all_of_them = [(tokens.sha256, weight) for tokens, weight in zip(self._tokens, self.weights, strict=True)]
        return hashlib.sha256(json.dumps(all_of_them).encode()).hexdigest()

    def sequences(self, numbers: NDArray[np.int64]) -> Batch:
        """The sequences with these numbers, in the order of `numbers`, as int64."""
        window_BT1 = np.empty((len(numbers), self.sequence_length + 1), dtype=np.int64)
        for row, number in zip(window_BT1, numbers.tolist(), strict=True):
            source = int(np.searchsorted(self._ends, number, side="right"))
            number -= int(self._ends[source - 1]) if source else 0
            row[:] = self._tokens[source].window(number * self.sequence_length, self.sequence_length + 1)
        tokens_BT1 = torch.from_numpy(window_BT1)
        return Batch(tokens_BT1[:, :-1], tokens_BT1[:, 1:])

    def first(self, count: int) -> Batch:
        """The first `count` sequences, or all there are; of several sources, of each its share, one after the other."""
        return self.sequences(self._order.first(self._divided(count)))

    def spread(self, count: int) -> Batch:
        """`count` sequences (or all there are) evenly spaced over the files, so that every part of them speaks."""
        count = min(count, self.num_sequences)
        return self.sequences(np.arange(count) * self.num_sequences // count)

    def sample(self, count: int, seed: int) -> Batch:
        """`count` different sequences (or all there are) drawn at random, of each source its share."""
        return self.sequences(self._order.sample(self._divided(count), seed))

    def training_batch(self, first: int, count: int, seed: int) -> Batch:
        """Positions `first` to `first + count` of the endless shuffled order that `seed` gives.

        Any position is found again without having walked there. Every block of 1,000 holds of each source just its
        share, and each epoch of a source is a permutation of its own.
        """
        return replace(self.sequences(self._order.numbers(first, count, seed)), first=first)

    def _divided(self, count: int) -> tuple[int, ...]:
        return divided(max(count, len(self.weights)), self.weights)


def _sources_of(path: Path) -> dict[Path, float]:
    """The weight of each source, by its place. Raises CheckpointError."""
    if not path.is_dir():
        return {path: 1.0}
    try:
        said = _Sources.model_validate_json((path / _SOURCES).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(path, f"is not a folder of ours with token files ({error})") from error
    return {path / source.name: source.weight for source in said.sources}
