"""Writing a teacher's answers: once for all candidates of a search, in files that a further attempt takes over.

FOLDER/000000.safetensors, ...   the training order, so many sequences each, position by position
FOLDER/000000.json, ...          that the file beside it is whole, and its digest
FOLDER/validation.safetensors    the validation sequences, always at temperature 1
FOLDER/answers.json              what all this is of, written last

N tokens, V vocabulary entries, D channels.
"""

import errno
import hashlib
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
from nas.errors import Interrupted
from nas.teacher_answers import MANIFEST, AnswersIdentity, AnswersManifest, AnswersShard

_SHARD_TOKENS = 1 << 20
"""About 40 MB, and minutes of a large teacher: what is lost, at most, when a job ends in between."""

_FEWEST_SHARDS = 64
"""Of a shorter run a 64th at most is lost."""

_PROBED_SEQUENCES = 32
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
        """Of all files but their headers: exact for top_k; for samples from a few sequences, spread over the order."""
        identity, length = self.identity, self.identity.sequence_length
        probed = min(_PROBED_SEQUENCES, identity.num_sequences)
        places = [identity.first_sequence + i * identity.num_sequences // probed for i in range(probed)]
        training = (self.data.training_batch(place, 1, identity.seed).to(self.device) for place in places)
        validation = list(self.validation.split(1))
        spread = [validation[i] for i in range(0, len(validation), -(-len(validation) // _PROBED_SEQUENCES))]
        of_validation = self._sampled_bytes(spread, identity.validation_draws, 1.0)
        if identity.form == "top_k":
            of_training: float = identity.per_token * (id_dtype(identity.vocab_size).itemsize + 2) + 2
        else:
            of_training = self._sampled_bytes(training, identity.per_token, identity.temperature)
        num_training, num_validation = identity.num_sequences * length, identity.validation_sequences * length
        return round(num_training * of_training + num_validation * of_validation)

    def _sampled_bytes(self, batches: Iterable[Batch], num_draws: int, temperature: float) -> float:
        """Of a token of these, in the mean."""
        entries, num_tokens = 0.0, 0
        for batch in batches:
            num_tokens += batch.inputs_BT.numel()
            for logits_NV in self._logits(batch, temperature):
                entries += expected_entries(logits_NV, num_draws).double().sum().item()
        return 3 + entries / num_tokens * entry_bytes(self.identity.vocab_size, num_draws)

    def write(
        self,
        folder: Path,
        earlier: Sequence[Path] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
        saved: Callable[[], None] = lambda: None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> AnswersManifest:
        """Writes what neither `folder` nor the `earlier` ones have.

        `progress` is told tokens done, of how many, and `saved` that another file is there. Raises OSError where the
        disk has too little room for what is predicted, and Interrupted before the next micro-batch once `interrupted`
        says so: whole files are kept.
        """
        predicted, identity = self.predicted_bytes(), self.identity
        folder.mkdir(parents=True, exist_ok=True)
        _check_room([folder, *earlier], predicted)
        print(f"the teacher's answers will take about {predicted:,} bytes", flush=True)
        size, shards = _sequences_per_shard(identity), []
        total = identity.num_sequences * identity.sequence_length

        def go_on(sequences_done: int) -> None:
            if interrupted():
                raise Interrupted
            progress(sequences_done * identity.sequence_length, total)

        for number, first in enumerate(range(0, identity.num_sequences, size)):
            count = min(size, identity.num_sequences - first)
            answers = partial(self._training, first, count, go_on)
            shards.append(self._shard(folder, f"{number:06d}", earlier, answers))
            saved()
        go_on(identity.num_sequences)
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
        self, folder: Path, name: str, earlier: Sequence[Path], answers: Callable[[], list[Arrays]]
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

    def _training(self, first: int, count: int, go_on: Callable[[int], None]) -> list[Arrays]:
        """What is kept of so many sequences; `go_on` is asked before each micro-batch, and may raise."""
        identity, found = self.identity, []
        for start in range(first, first + count, self.micro_batch_size):
            go_on(start)
            here, place = min(self.micro_batch_size, first + count - start), identity.first_sequence + start
            batch = self.data.training_batch(place, here, identity.seed).to(self.device)
            if identity.form == "top_k":
                kept = [largest(each, identity.per_token) for each in self._logits(batch, identity.temperature)]
                found += arrays_of_top_k(kept, identity.sequence_length, identity.vocab_size)
            else:
                found += self._sampled(batch, identity.per_token, identity.temperature, _TRAINING + place)
        return found

    def _of_validation(self) -> list[Arrays]:
        """Always sampled, and more finely: a KL is estimated from it, which is not to be biased."""
        batches = self.validation.split(self.micro_batch_size)
        found = [
            self._sampled(batch, self.identity.validation_draws, 1.0, _VALIDATION + batch.first) for batch in batches
        ]
        return [sequence for batch in found for sequence in batch]

    def _sampled(self, batch: Batch, num_draws: int, temperature: float, first_stream: int) -> list[Arrays]:
        length, count = self.identity.sequence_length, len(batch.inputs_BT)
        streams = range(first_stream, first_stream + count)
        starts_N = np.concatenate([generator(self.identity.seed, stream).random(length) for stream in streams])
        drawn, at = [], 0
        for logits_NV in self._logits(batch, temperature):
            drawn.append(draw(logits_NV, starts_N[at : at + len(logits_NV)], num_draws))
            at += len(logits_NV)
        return arrays_of_sampled(drawn, length, entry_bytes(self.identity.vocab_size, num_draws))

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


def _sequences_per_shard(identity: AnswersIdentity) -> int:
    fitting = min(identity.num_sequences // _FEWEST_SHARDS, _SHARD_TOKENS // identity.sequence_length)
    return max(1, fitting)


def _check_room(places: Sequence[Path], wanted: int) -> None:
    """Raises OSError as a write to a full disk would: the attempt is tried again, when there may be room.

    The first of the places is written to; what any of them holds on its disk is not written again.
    """
    disk = places[0].stat().st_dev
    files = [file.stat() for place in places for file in place.glob("*.safetensors")]
    there = sum({each.st_ino: each.st_size for each in files if each.st_dev == disk}.values())
    free = shutil.disk_usage(places[0]).free
    if free + there < wanted:
        full, more = os.strerror(errno.ENOSPC), wanted - there
        raise OSError(f"{full}: {places[0]} has {free:,} bytes where the teacher's answers take about {more:,} more")


def digest(file: Path) -> str:
    """The file's SHA-256."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
