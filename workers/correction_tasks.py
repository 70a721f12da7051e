"""The job that corrects a teacher: its fine-tuning on the text, and the folder that all later jobs read."""

from pathlib import Path

import torch

from nas.compression.checkpoint import weights_digest, write_model_folder
from nas.compression.correction import Correction
from nas.compression.data import PackedTokens
from nas.compression.device import dtype_name
from nas.compression.training_state import keep_newest
from nas.hub import weights_folder
from nas.jobs import CorrectTeacher, TeacherCorrected
from nas.model_folder import inspect_model_folder
from nas.training_record import Rollback
from workers.attempt import AttemptFolder
from workers.attempt_part import AttemptPart
from workers.compute import compute, validation_of
from workers.training_tasks import progress_into, record_into

FOLDER = "teacher"


def correct_teacher(spec: CorrectTeacher, attempt: AttemptFolder) -> TeacherCorrected:
    """Goes on from the newest checkpoint of earlier attempts. What it measures stays in its folder."""
    device, dtype = compute(spec.resources)
    teacher = inspect_model_folder(weights_folder(spec.teacher))
    tokens = spec.training.actual_tokens(spec.data.sequence_length)
    part = AttemptPart(attempt, 1, spec, behind=0, total=tokens)
    earlier_folders = tuple(Path(earlier) for earlier in part.assignment.earlier_folders)
    for earlier in earlier_folders:
        part.inherit_measurements(earlier)
    attempt.end_if_told()
    correction = Correction(
        teacher=teacher,
        data=PackedTokens(Path(spec.data.train_file), spec.data.sequence_length),
        validation=validation_of(spec.data, device),
        training=spec.training,
        seed=spec.seed,
        device=device,
        dtype=dtype,
    )
    rollbacks = list[Rollback]()
    weights = correction.run(
        checkpoints=part.path / "checkpoints",
        earlier_checkpoints=tuple(earlier / "checkpoints" for earlier in earlier_folders),
        record=record_into(part, 0),
        progress=progress_into(part, 0),
        interrupted=lambda: attempt.told_to_end is not None,
        saved=attempt.checkpointed,
        rolled_back=rollbacks.append,
    )
    into = attempt.path / FOLDER
    provenance = {"teacher": spec.teacher, "teacher_sha256": weights_digest(teacher), "job": spec.model_dump()}
    stored: torch.dtype = getattr(torch, teacher.dtype)
    tensors = ((name, tensor.to(stored)) for name, tensor in weights.items())
    write_model_folder(into, dict(teacher.config), tensors, teacher, provenance)
    keep_newest(part.path / "checkpoints", 1)
    return TeacherCorrected(
        folder=str(into),
        teacher_sha256=weights_digest(inspect_model_folder(into)),
        tokens=tokens,
        loss_before=part.measured[0].loss,
        loss=part.measured[tokens].loss,
        dtype=dtype_name(dtype),
        rollbacks=tuple(rollbacks),
    )
