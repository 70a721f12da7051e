"""The teacher of a run, live or as it was cached, and the job that caches it."""

from pathlib import Path

import torch

from nas.compression.answers_writer import AnswersWriter
from nas.compression.cached_teacher import Answers, CachedTeacher
from nas.compression.checkpoint import config_digest, load_model
from nas.compression.data import PackedTokens
from nas.compression.device import dtype_name
from nas.compression.head import SplitModel
from nas.compression.teacher import LiveTeacher, Teacher
from nas.jobs import CachedAnswers, CacheTeacher, DataFiles, JobProgress, Promotion, TeacherCached, Trial
from nas.model_folder import ModelFolder
from nas.teacher_answers import AnswersIdentity
from workers.attempt import ANSWERS, AttemptFolder
from workers.compute import compute, same_teacher, validation_of


def teacher_of(spec: Trial | Promotion, folder: ModelFolder, device: torch.device, dtype: torch.dtype) -> Teacher:
    """Raises CheckpointError for answers of another teacher, other tokens or another dtype."""
    answers = spec.answers if isinstance(spec, Trial) else None
    if answers is None:
        return LiveTeacher(SplitModel(load_model(folder, device), dtype, device), spec.distillation)
    identity = _identity(
        folder, spec.teacher_sha256, spec.data, answers, spec.seed, dtype, spec.distillation.temperature
    )
    return CachedTeacher(Answers(Path(answers.folder), identity), device)


def cache_teacher(spec: CacheTeacher, attempt: AttemptFolder) -> TeacherCached:
    """Whole files of earlier attempts are taken over."""
    device, dtype = compute(spec.resources)
    folder = same_teacher(spec)
    into = attempt.path / ANSWERS
    answers = CachedAnswers(
        folder=str(into),
        form=spec.form,
        per_token=spec.per_token,
        first_sequence=spec.first_sequence,
        num_sequences=spec.num_sequences,
    )
    writer = AnswersWriter(
        teacher=SplitModel(load_model(folder, device), dtype, device),
        data=PackedTokens(Path(spec.data.train_file), spec.data.sequence_length),
        validation=validation_of(spec.data, device),
        identity=_identity(folder, spec.teacher_sha256, spec.data, answers, spec.seed, dtype, spec.temperature),
        device=device,
        micro_batch_size=spec.micro_batch_size,
    )
    manifest = writer.write(
        into,
        [Path(earlier) / ANSWERS for earlier in attempt.assignment.earlier_folders],
        progress=lambda done, total: attempt.report_progress(
            JobProgress(done=done, total=total, unit="tokens"), may_end=False
        ),
        saved=attempt.checkpointed,
        interrupted=lambda: attempt.told_to_end is not None,
    )
    return TeacherCached(answers=answers, num_bytes=manifest.num_bytes, predicted_bytes=manifest.predicted_bytes)


def _identity(
    folder: ModelFolder,
    teacher_sha256: str,
    data: DataFiles,
    answers: CachedAnswers,
    seed: int,
    dtype: torch.dtype,
    temperature: float,
) -> AnswersIdentity:
    validation = PackedTokens(Path(data.validation_file), data.sequence_length)
    return AnswersIdentity(
        teacher_sha256=teacher_sha256,
        config_sha256=config_digest(folder),
        vocab_size=folder.architecture.vocab_size,
        train_sha256=PackedTokens(Path(data.train_file), data.sequence_length).sha256,
        validation_sha256=validation.sha256,
        sequence_length=data.sequence_length,
        seed=seed,
        first_sequence=answers.first_sequence,
        num_sequences=answers.num_sequences,
        validation_sequences=min(data.validation_sequences, validation.num_sequences),
        form=answers.form,
        per_token=answers.per_token,
        temperature=temperature,
        dtype=dtype_name(dtype),
    )
