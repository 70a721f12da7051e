"""The record as it is kept: one array of losses, compact enough for the repository."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nas.architecture import Architecture

FILE = Path(__file__).parents[1] / "results" / "search_record.npz"


@dataclass(frozen=True)
class Kept:
    """C candidates, S seeds, M measurements at `tokens_M`, the first before any retraining, Q validation sequences.

    `losses_CSMQ` are cross-entropies in nats per token, `kl_CSM` the means of the divergence from the teacher.
    """

    candidates: tuple[Architecture, ...]
    parameters_C: NDArray[np.int64]
    """That are not embeddings."""
    seeds: tuple[int, ...]
    tokens_M: NDArray[np.int64]
    losses_CSMQ: NDArray[np.float32]
    kl_CSM: NDArray[np.float32]


def write(kept: Kept, file: Path = FILE) -> None:
    """Replaces the file in one move."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".partial.npz")
    np.savez_compressed(
        partial,
        candidates=np.array([each.model_dump_json() for each in kept.candidates]),
        parameters=kept.parameters_C,
        seeds=np.array(kept.seeds),
        tokens=kept.tokens_M,
        losses=kept.losses_CSMQ,
        kl=kept.kl_CSM,
    )
    partial.replace(file)


def read(file: Path = FILE) -> Kept:
    """Raises FileNotFoundError where no record was made yet."""
    with np.load(file, allow_pickle=False) as arrays:
        return Kept(
            candidates=tuple(Architecture.model_validate_json(str(each)) for each in arrays["candidates"]),
            parameters_C=arrays["parameters"],
            seeds=tuple(int(seed) for seed in arrays["seeds"]),
            tokens_M=arrays["tokens"],
            losses_CSMQ=arrays["losses"],
            kl_CSM=arrays["kl"],
        )


@dataclass(frozen=True)
class KeptRun:
    """One run of the record: M measurements of Q sequences."""

    tokens_M: NDArray[np.int64]
    losses_MQ: NDArray[np.float32]
    kl_M: NDArray[np.float32]

    def write(self, file: Path) -> None:
        """Replaces the file in one move."""
        partial = file.with_suffix(".partial.npz")
        np.savez(partial, tokens=self.tokens_M, losses=self.losses_MQ, kl=self.kl_M)
        partial.replace(file)

    @classmethod
    def read(cls, file: Path) -> "KeptRun":
        with np.load(file, allow_pickle=False) as arrays:
            return cls(arrays["tokens"], arrays["losses"], arrays["kl"])


def together(runs: Sequence[Sequence[KeptRun]]) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """tokens_M, losses_CSMQ and kl_CSM of runs by candidate and seed."""
    losses = np.array([[run.losses_MQ for run in of_candidate] for of_candidate in runs])
    kl = np.array([[run.kl_M for run in of_candidate] for of_candidate in runs])
    return runs[0][0].tokens_M, losses, kl
