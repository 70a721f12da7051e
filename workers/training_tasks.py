"""The jobs that retrain: a trial cuts its student first, a promotion goes on from a trial's weights."""

import logging
from collections.abc import Callable
from pathlib import Path

import torch

from nas.compression.checkpoint import (
    build_model,
    load_model,
    read_weights,
    write_weights,
)
from nas.compression.choose import Kept
from nas.compression.data import PackedTokens
from nas.compression.device import dtype_name
from nas.compression.evaluate import Evaluation
from nas.compression.kept_file import load_kept, save_kept
from nas.compression.prune import cut
from nas.compression.samples import continuations, max_positions, prompts, text_samples
from nas.compression.student import Distillation
from nas.compression.teacher import LiveTeacher
from nas.compression.telemetry import Progress
from nas.compression.token_files import load_tokenizer
from nas.compression.training_state import keep_newest
from nas.compression.weight_files import open_tensors
from nas.errors import CheckpointError
from nas.jobs import (
    JobProgress,
    Measurement,
    Promotion,
    Trained,
    Trial,
)
from nas.model_folder import ModelFolder
from nas.training_record import Rollback, TextSample
from workers.attempt import KEPT, AttemptFolder
from workers.compute import compute, same_teacher, validation_of
from workers.importance_tasks import kept_for
from workers.teacher_tasks import teacher_of

logger = logging.getLogger(__name__)


def trial(spec: Trial, attempt: AttemptFolder) -> Trained:
    """Cuts the student and retrains it; what it measures at 0 tokens is its loss after pruning.

    One that continues starts from the weights so far, and counts on from their tokens.
    """
    folder = same_teacher(spec)
    if spec.continues is not None:
        return _distil(
            spec,
            attempt,
            folder,
            read_weights(Path(spec.continues.weights)),
            kept_layers=spec.continues.kept_layers,
            first_sequence=spec.continues.first_sequence,
            until_tokens=spec.until_tokens,
            first_tokens=spec.continues.tokens,
        )
    micro_batch_size = spec.training.fitting_micro_batch(spec.data.sequence_length, folder.architecture.vocab_size)
    kept = _kept(spec, folder, attempt, micro_batch_size)
    with open_tensors(folder) as read:
        weights = dict(cut(read, folder.architecture, spec.architecture, kept))
    return _distil(
        spec,
        attempt,
        folder,
        weights,
        kept_layers=kept.layers,
        first_sequence=0,
        until_tokens=spec.until_tokens,
        first_tokens=0,
    )


def _kept(spec: Trial, folder: ModelFolder, attempt: AttemptFolder, micro_batch_size: int) -> Kept:
    """What stays: as an earlier attempt has chosen, for its checkpoints are of that choice, else chosen now."""
    kept = _kept_earlier(attempt) or kept_for(spec, folder, attempt, micro_batch_size=micro_batch_size)
    save_kept(attempt.path / KEPT, kept)
    return kept


def _kept_earlier(attempt: AttemptFolder) -> Kept | None:
    """A damaged file is as good as none: an attempt that was cut off in writing it has no checkpoint of that choice."""
    for earlier in reversed(attempt.assignment.earlier_folders):
        file = Path(earlier) / KEPT
        if file.exists():
            try:
                return load_kept(file)
            except CheckpointError as error:
                logger.warning("%s", error)
    return None


def promotion(spec: Promotion, attempt: AttemptFolder) -> Trained:
    """Goes on from a trial's final weights, on the tokens that come after the trial's."""
    folder = same_teacher(spec)
    return _distil(
        spec,
        attempt,
        folder,
        read_weights(Path(spec.weights)),
        kept_layers=spec.kept_layers,
        first_sequence=spec.first_sequence,
        until_tokens=spec.training.actual_tokens(spec.data.sequence_length),
        first_tokens=spec.first_tokens,
    )


def _distil(
    spec: Trial | Promotion,
    attempt: AttemptFolder,
    folder: ModelFolder,
    weights: dict[str, torch.Tensor],
    *,
    kept_layers: tuple[int, ...],
    first_sequence: int,
    until_tokens: int,
    first_tokens: int,
) -> Trained:
    """Retrains `weights` in a run of its own; what it tells counts on from `first_tokens`, what it returns does not."""
    attempt.end_if_told()
    device, dtype = compute(spec.resources)
    teacher = teacher_of(spec, folder, device, dtype)
    distillation = Distillation(
        config=folder.family.config(folder.config, spec.architecture, kept_layers),
        teacher=teacher,
        runs_live=isinstance(teacher, LiveTeacher),
        teacher_shape=folder.architecture,
        losses=spec.distillation,
        data=PackedTokens(Path(spec.data.train_file), spec.data.sequence_length),
        validation=validation_of(spec.data, device),
        training=spec.training,
        until_tokens=until_tokens,
        first_sequence=first_sequence,
        seed=spec.seed,
        device=device,
        dtype=dtype,
    )
    for earlier in attempt.assignment.earlier_folders:
        attempt.inherit_measurements(Path(earlier))
    rollbacks = list[Rollback]()
    retrained, tokens = distillation.run(
        weights,
        checkpoints=attempt.path / "checkpoints",
        earlier_checkpoints=tuple(Path(earlier) / "checkpoints" for earlier in attempt.assignment.earlier_folders),
        record=record_into(attempt, first_tokens),
        progress=progress_into(attempt, first_tokens),
        interrupted=lambda: attempt.told_to_end is not None,
        saved=attempt.checkpointed,
        rolled_back=rollbacks.append,
    )
    weights_file = attempt.path / "weights.safetensors"
    write_weights(weights_file, retrained)
    keep_newest(attempt.path / "checkpoints", 1)
    return Trained(
        kind=spec.kind,
        weights=str(weights_file),
        kept_layers=kept_layers,
        tokens=tokens,
        dtype=dtype_name(dtype),
        rollbacks=tuple(rollbacks),
        samples=_samples(folder, distillation, retrained),
    )


def _samples(
    folder: ModelFolder, distillation: Distillation, weights: dict[str, torch.Tensor]
) -> tuple[TextSample, ...]:
    """What teacher and student write, from the beginnings of validation sequences.

    None where there is no room for that: a trial on cached answers may have none for a teacher, and is not to be lost.
    """
    count, device = distillation.training.text_samples, distillation.device
    if count == 0:
        return ()
    live = distillation.teacher
    try:
        teacher = live.model if isinstance(live, LiveTeacher) else load_model(folder, device)
        student = build_model(distillation.config, weights, device)
        given = prompts(distillation.validation, count, max_positions(student))
        by_teacher, by_student = (
            continuations(model, given, folder.end_of_text, distillation.dtype, device) for model in (teacher, student)
        )
    except (torch.OutOfMemoryError, MemoryError) as error:
        logger.warning("no texts are written: there is no room for teacher and student (%s)", error)
        return ()
    return text_samples(given, by_teacher, by_student, load_tokenizer(folder))


def record_into(attempt: AttemptFolder, first_tokens: int) -> Callable[[int, Evaluation], None]:
    def record(tokens: int, evaluation: Evaluation) -> None:
        attempt.report_measurement(
            Measurement(
                tokens=first_tokens + tokens,
                loss=evaluation.loss,
                kl_to_teacher=evaluation.kl_to_teacher or 0.0,
                loss_per_sequence=tuple(evaluation.loss_per_sequence.tolist()),
            )
        )

    return record


def progress_into(attempt: AttemptFolder, first_tokens: int) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        attempt.report_progress(
            JobProgress(
                done=first_tokens + now.tokens,
                total=first_tokens + now.total_tokens,
                unit="tokens",
                per_second=now.tokens_per_second,
                training_loss=now.training_loss,
                flops_per_second=now.flops_per_second,
                data_wait=now.data_wait,
                memory_bytes=now.peak_memory_bytes,
                seconds_left=now.seconds_left,
            ),
            may_end=False,  # The training loop saves its state first.
        )

    return progress
