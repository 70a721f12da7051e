"""The endless order in which the sequences of several sources are trained on, found again from any position.

B positions in a batch.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from nas.data_spec import divided

BLOCK = 1000
"""Sequences in which every source has exactly its share, in thousandths."""

_OF_SOURCE = 1 << 32
"""Random streams of one source; more than it has epochs."""

_OF_BLOCKS = 1 << 63
_OF_SAMPLES = (1 << 64) - 1
"""Down from here, one for each source: streams that no epoch has, so that calibration does not see just what training
begins with."""


class TrainingOrder:
    """Numbers of sequences: those of the first source begin at 0, those of the next where the former end."""

    def __init__(self, num_sequences: Sequence[int], weights: Sequence[float]) -> None:
        self.num_sequences = tuple(num_sequences)
        self.per_block = divided(BLOCK, weights)
        self._offsets: tuple[int, ...] = (0, *np.cumsum(num_sequences).tolist())
        # Of what was last asked for: a permutation of a billion sequences is not made for every batch.
        self._epochs: dict[int, tuple[tuple[int, int], NDArray[np.int64]]] = {}
        self._blocks: dict[tuple[int, int], tuple[NDArray[np.int64], NDArray[np.int64]]] = {}

    def numbers(self, first: int, count: int, seed: int) -> NDArray[np.int64]:
        """Which sequences stand at positions `first` to `first + count` of the order that `seed` gives."""
        positions_B = np.arange(first, first + count)
        numbers_B = np.empty(count, dtype=np.int64)
        for block in np.unique(positions_B // BLOCK):
            here = positions_B // BLOCK == block
            source_of, rank_of = (each[positions_B[here] % BLOCK] for each in self._block(int(block), seed))
            found = np.empty(len(source_of), dtype=np.int64)
            for source in np.unique(source_of):
                mine = source_of == source
                places = int(block) * self.per_block[source] + rank_of[mine]
                found[mine] = self._numbers_of(int(source), places, seed)
            numbers_B[here] = found
        return numbers_B

    def sample(self, counts: Sequence[int], seed: int) -> NDArray[np.int64]:
        """So many different sequences of each source, or all it has, drawn at random."""
        drawn = [
            self._offsets[source] + generator(seed, _OF_SAMPLES - source).permutation(available)[:count]
            for source, (available, count) in enumerate(zip(self.num_sequences, counts, strict=True))
        ]
        return np.concatenate(drawn)

    def first(self, counts: Sequence[int]) -> NDArray[np.int64]:
        """The first so many sequences of each source, or all it has."""
        taken = [
            self._offsets[source] + np.arange(min(available, count))
            for source, (available, count) in enumerate(zip(self.num_sequences, counts, strict=True))
        ]
        return np.concatenate(taken)

    def _block(self, block: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The source of every position of a block, and how many of that source come before it in the block.

        The places of a source are spread over the block, each at random within its equal part of it.
        """
        if (block, seed) not in self._blocks:
            random = generator(seed, _OF_BLOCKS + block)
            places = [(np.arange(count) + random.random(count)) / count for count in self.per_block]
            order = np.argsort(np.concatenate(places), kind="stable")
            sources = np.repeat(np.arange(len(self.per_block)), self.per_block)
            ranks = np.concatenate([np.arange(count) for count in self.per_block])
            self._blocks = {(block, seed): (sources[order], ranks[order])}
        return self._blocks[block, seed]

    def _numbers_of(self, source: int, places: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
        """What stands at these places of a source's own endless order: epochs, each a permutation of its own."""
        available = self.num_sequences[source]
        numbers = np.empty(len(places), dtype=np.int64)
        for epoch in np.unique(places // available):
            here = places // available == epoch
            numbers[here] = self._epoch(source, int(epoch), seed)[places[here] % available]
        return self._offsets[source] + numbers

    def _epoch(self, source: int, epoch: int, seed: int) -> NDArray[np.int64]:
        known = self._epochs.get(source)
        if known is not None and known[0] == (epoch, seed):
            return known[1]
        random = generator(seed, source * _OF_SOURCE + epoch)
        order: NDArray[np.int64] = random.permutation(self.num_sequences[source])
        self._epochs[source] = (epoch, seed), order
        return order


def generator(seed: int, stream: int) -> np.random.Generator:
    """Random numbers that follow from both alone, whichever others were drawn before."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, stream], dtype=np.uint64)))
