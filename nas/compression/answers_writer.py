"""Writing a teacher's answers: once for all candidates of a search, in files that a further attempt takes over.

FOLDER/000000.safetensors, ...   the training order, so many sequences each, position by position
FOLDER/000000.json, ...          that the file beside it is whole, and its digest
FOLDER/validation.safetensors    the validation sequences, always at temperature 1
FOLDER/answers.json              what all this is of, written last

N tokens, V vocabulary entries, D channels.
"""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from nas.border import Border
from nas.compression.answers_file import Arrays, arrays_of_sampled, arrays_of_top_k, id_dtype, write_shard
from nas.compression.data import Batch, PackedTokens
from nas.compression.head import SplitModel
from nas.compression.order import generator
from nas.compression.sparse_targets import draw, entry_bytes, expected_entries, largest
from nas.durable import beside, write_text
from nas.errors import FolderError, Interrupted
from nas.teacher_answers import MANIFEST, AnswersIdentity, AnswersManifest, AnswersShard

logger = logging.getLogger(__name__)

_SHARD_TOKENS = 1 << 20
"""About 40 MB, and minutes of a large teacher: what is lost when a job ends in between."""

_PROBED_SEQUENCES = 8
_TRAINING, _VALIDATION = 1 << 62, 1 << 61
"""The first random streams of both kinds of sequences; see order.py for the others."""


class _Whole(Border):
    """What stands beside a shard that is whole."""

    identity: AnswersIdentity
    shard: AnswersShard


@dataclass(frozen=True)
class AnswersWriter:
    """Asks the teacher about the training order and the validation sequences, and keeps what it says."""

    teacher: SplitModel
    data: PackedTokens
    validation: Batch
    identity: AnswersIdentity
    device: torch.device
    micro_batch_size: int

    def predicted_bytes(self) -> int:
        """Of all files: exact for top_k; for samples as measured of a few sequences that are spread over the order."""
        identity, form = self.identity, self.identity.form
        num_sequences = identity.num_sequences + identity.validation_sequences
        num_tokens = num_sequences * identity.sequence_length
        if form == "top_k":
            return num_tokens * (identity.per_token * (id_dtype(identity.vocab_size).itemsize + 2) + 2)
        probed = min(_PROBED_SEQUENCES, identity.num_sequences)
        places = [identity.first_sequence + i * identity.num_sequences // probed for i in range(probed)]
        entries = 0.0
        for place in places:
            batch = self.data.training_batch(place, 1, identity.seed).to(self.device)
            for logits_NV in self._logits(batch, identity.temperature):
                entries += expected_entries(logits_NV, identity.per_token).double().sum().item()
        per_token = entries / (probed * identity.sequence_length)
        return round(num_tokens * (3 + per_token * entry_bytes(identity.vocab_size, identity.per_token)))

    def write(
        self,
        folder: Path,
        earlier: Iterable[Path] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> AnswersManifest:
        """Writes what neither `folder` nor the `earlier` ones have; `progress` is told tokens done, of how many.

        Raises FolderError where the disk has too little room for what is predicted, and Interrupted between two files
        once `interrupted` says so: what is written is kept.
        """
        predicted, identity = self.predicted_bytes(), self.identity
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(folder, predicted)
        logger.info("the teacher's answers will take about %.3f GB", predicted / 1e9)
        size = max(1, _SHARD_TOKENS // identity.sequence_length)
        shards, total = [], identity.num_sequences * identity.sequence_length
        for number, first in enumerate(range(0, identity.num_sequences, size)):
            progress(first * identity.sequence_length, total)
            if interrupted():
                raise Interrupted
            count = min(size, identity.num_sequences - first)
            shards.append(self._shard(folder, f"{number:06d}", earlier, partial(self._training, first, count)))
        progress(total, total)
        manifest = AnswersManifest(
            identity=identity,
            sequences_per_shard=size,
            shards=tuple(shards),
            validation=self._shard(folder, "validation", earlier, self._of_validation),
            predicted_bytes=predicted,
        )
        write_text(folder / MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        return manifest

    def _shard(
        self, folder: Path, name: str, earlier: Iterable[Path], answers: Callable[[], list[Arrays]]
    ) -> AnswersShard:
        """What the folder has of this name, or an earlier attempt's, or else a new file of what the teacher answers."""
        file, told = folder / f"{name}.safetensors", folder / f"{name}.json"
        for place in (folder, *earlier):
            if (whole := _whole(place, name, self.identity)) is not None:
                if place != folder:
                    _take_over(place / file.name, file)
                    _tell(told, self.identity, whole)
                return whole
        sequences = answers()
        with beside(file) as unfinished:
            write_shard(unfinished, sequences)
        shard = AnswersShard(
            file=file.name, num_sequences=len(sequences), num_bytes=file.stat().st_size, sha256=digest(file)
        )
        _tell(told, self.identity, shard)
        return shard

    def _training(self, first: int, count: int) -> list[Arrays]:
        identity, found = self.identity, []
        first += identity.first_sequence
        for start in range(first, first + count, self.micro_batch_size):
            here = min(self.micro_batch_size, first + count - start)
            batch = self.data.training_batch(start, here, identity.seed).to(self.device)
            found += self._answers(batch, identity.temperature, [_TRAINING + start + i for i in range(here)])
        return found

    def _of_validation(self) -> list[Arrays]:
        return [
            each
            for batch in self.validation.split(self.micro_batch_size)
            for each in self._answers(batch, 1.0, [_VALIDATION + batch.first + i for i in range(len(batch.inputs_BT))])
        ]

    def _answers(self, batch: Batch, temperature: float, streams: Sequence[int]) -> list[Arrays]:
        """What is kept of each sequence of a batch; the same whatever the size of the batch and of chunks."""
        identity, length = self.identity, self.identity.sequence_length
        if identity.form == "top_k":
            kept = [largest(logits_NV, identity.per_token) for logits_NV in self._logits(batch, temperature)]
            return arrays_of_top_k(kept, length, identity.vocab_size)
        starts_N = np.concatenate([generator(identity.seed, stream).random(length) for stream in streams])
        drawn, at = [], 0
        for logits_NV in self._logits(batch, temperature):
            drawn.append(draw(logits_NV, starts_N[at : at + len(logits_NV)], identity.per_token))
            at += len(logits_NV)
        return arrays_of_sampled(drawn, length, entry_bytes(identity.vocab_size, identity.per_token))

    @torch.no_grad()
    def _logits(self, batch: Batch, temperature: float) -> Iterator[torch.Tensor]:
        """The teacher's logits at this temperature, chunk by chunk."""
        states_ND = self.teacher.states(batch.inputs_BT).flatten(0, 1)
        head = self.teacher.head.prepared()
        for rows in head.chunks(len(states_ND)):
            yield head.logits(states_ND[rows]).div_(temperature)


def _whole(folder: Path, name: str, identity: AnswersIdentity) -> AnswersShard | None:
    """What is said of a shard of exactly this, if it is there and its bytes are what was written."""
    try:
        said = _Whole.model_validate_json((folder / f"{name}.json").read_text())
        if said.identity != identity or digest(folder / said.shard.file) != said.shard.sha256:
            return None
    except (OSError, ValueError):
        return None  # Not there, or not whole: it is written anew.
    return said.shard


def _tell(path: Path, identity: AnswersIdentity, shard: AnswersShard) -> None:
    write_text(path, _Whole(identity=identity, shard=shard).model_dump_json() + "\n")


def _take_over(file: Path, into: Path) -> None:
    """The same file of an earlier attempt: by a further name where the file system can, else as a copy."""
    with beside(into) as unfinished:
        try:
            os.link(file, unfinished)
        except OSError:
            shutil.copyfile(file, unfinished)


def _check_room(folder: Path, wanted: int) -> None:
    there = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    free = shutil.disk_usage(folder).free + there
    if free < wanted:
        problem = f"has {free / 1e9:,.1f} GB free where the teacher's answers take about {wanted / 1e9:,.1f} GB"
        raise FolderError("trial.targets", str(folder), problem, "live, fewer targets_per_token, or more room")


def digest(file: Path) -> str:
    """The file's SHA-256."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
