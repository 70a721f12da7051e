"""A teacher's answers in place of the teacher: read by position, for losses on logits only."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

import torch

from nas.compression.answers_file import ShardReader
from nas.compression.chunked_loss import TokenLosses
from nas.compression.data import Batch
from nas.compression.hidden_states import Heard
from nas.compression.losses import LossAndGradient
from nas.compression.room import Room
from nas.compression.sparse_targets import Sampled, TopK, sampled_loss, top_k_loss
from nas.compression.teacher import Divergences, Teacher
from nas.distillation_spec import HiddenTerm
from nas.errors import CheckpointError
from nas.teacher_answers import MANIFEST, AnswersIdentity, AnswersManifest, AnswersShard


class Answers:
    """Answers that are there, by position in the training order, or by number of the validation sequence."""

    def __init__(self, folder: Path, identity: AnswersIdentity) -> None:
        """Raises CheckpointError, naming what differs, for those of another teacher, other tokens or another form."""
        try:
            self.manifest = AnswersManifest.model_validate_json((folder / MANIFEST).read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(folder, f"holds no teacher's answers ({error})") from error
        theirs, ours = self.manifest.identity.model_dump(), identity.model_dump()
        if differing := [name for name in ours if ours[name] != theirs[name]]:
            said = ", ".join(f"{name} {theirs[name]} where {ours[name]} is wanted" for name in differing)
            raise CheckpointError(folder, f"are a teacher's answers of other things: {said}")
        self._folder = folder
        self._opened: tuple[str, ShardReader] | None = None

    def training(self, first: int, count: int) -> Sampled | TopK:
        """Of the sequences at positions `first` to `first + count`, their tokens one after another."""
        identity, size = self.manifest.identity, self.manifest.sequences_per_shard
        first -= identity.first_sequence
        if first < 0 or first + count > identity.num_sequences:
            problem = f"has {identity.num_sequences} sequences, none at {first + count - 1}"
            raise CheckpointError(self._folder, problem)
        pieces = []
        while count:
            shard, at = divmod(first, size)
            here = min(count, size - at)
            pieces.append(self._shard(self.manifest.shards[shard]).read(at, here))
            first, count = first + here, count - here
        return pieces[0] if len(pieces) == 1 else _joined(pieces)

    def validation(self, first: int, count: int) -> Sampled | TopK:
        return self._shard(self.manifest.validation).read(first, count)

    def _shard(self, told: AnswersShard) -> ShardReader:
        if self._opened is None or self._opened[0] != told.file:
            self._opened = (told.file, ShardReader(self._folder / told.file))
        return self._opened[1]


class CachedTeacher(Teacher):
    """Forward KL to what a teacher left: unbiased where it was sampled, of the k and their tail where not."""

    def __init__(self, answers: Answers, device: torch.device) -> None:
        self._answers = answers
        self._device = device
        self._room = Room()

    def targets(self, batch: Batch, listen_to: Sequence[tuple[HiddenTerm, int]]) -> tuple[TokenLosses, Heard]:
        if listen_to:
            raise ValueError("a teacher's answers are of its logits: there are no hidden states among them")
        found = _Chunks(self._answers.training(batch.first, len(batch.inputs_BT)), self._device)
        identity = self._answers.manifest.identity
        temperature, num_draws = identity.temperature, identity.per_token

        def losses(student_NV: torch.Tensor, rows: slice) -> LossAndGradient:
            if temperature == 1.0:
                return self._loss(student_NV, found[rows], num_draws)
            losses_N, gradient_NV = self._loss(student_NV / temperature, found[rows], num_draws)
            return losses_N, gradient_NV.div_(temperature)

        return losses, {}

    def divergences(self, batch: Batch) -> Divergences:
        """Estimates, exact in the mean: of validation the answers are always samples."""
        found = _Chunks(self._answers.validation(batch.first, len(batch.inputs_BT)), self._device)
        num_draws = self._answers.manifest.identity.validation_draws
        return lambda student_NV, rows: self._loss(student_NV, found[rows], num_draws)[0]

    def _loss(self, student_NV: torch.Tensor, found: Sampled | TopK, num_draws: int) -> LossAndGradient:
        if isinstance(found, TopK):
            return top_k_loss(student_NV, found)
        return sampled_loss(student_NV, found, num_draws, self._room)


class _Chunks:
    """Answers to N tokens, of which any stretch can be had."""

    def __init__(self, found: Sampled | TopK, device: torch.device) -> None:
        self._found = type(found)(**{each.name: getattr(found, each.name).to(device) for each in fields(found)})
        if isinstance(self._found, Sampled):
            ends = self._found.counts_N.cumsum(0).tolist()
            self._ends = [0, *ends]

    def __getitem__(self, rows: slice) -> Sampled | TopK:
        found = self._found
        if isinstance(found, TopK):
            return TopK(found.ids_NK[rows], found.log_p_NK[rows], found.log_tail_N[rows])
        entries = slice(self._ends[rows.start], self._ends[rows.stop])
        return Sampled(found.counts_N[rows], found.ids_E[entries], found.draws_E[entries], found.entropy_N[rows])


def _joined(pieces: Sequence[Sampled | TopK]) -> Sampled | TopK:
    names = [each.name for each in fields(pieces[0])]
    return type(pieces[0])(**{name: torch.cat([getattr(each, name) for each in pieces]) for name in names})
