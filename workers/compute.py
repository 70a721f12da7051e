"""What jobs that compute begin with: device and dtype, the teacher that was meant, the text to measure on."""

from pathlib import Path

import torch

from nas.compression.checkpoint import (
    weights_digest,
)
from nas.compression.data import Batch, PackedTokens
from nas.compression.device import default_device, resolve_dtype
from nas.errors import TeacherError
from nas.hub import weights_folder
from nas.jobs import (
    CacheTeacher,
    Calibrate,
    DataFiles,
    Evaluate,
    Export,
    Promotion,
    Trial,
)
from nas.model_folder import ModelFolder, inspect_model_folder
from nas.spec import ResourcesSpec


def compute(resources: ResourcesSpec) -> tuple[torch.device, torch.dtype]:
    torch.set_num_threads(resources.cpus)
    device = default_device()
    return device, resolve_dtype(resources.dtype, device)


def validation_of(data: DataFiles, device: torch.device) -> Batch:
    return PackedTokens(Path(data.validation_file), data.sequence_length).first(data.validation_sequences).to(device)


def teacher_folder(spec: Calibrate | CacheTeacher | Trial | Evaluate | Promotion | Export) -> ModelFolder:
    """The teacher that counts: as the search has corrected it, else as the user gave it."""
    return inspect_model_folder(weights_folder(spec.teacher) if spec.corrected is None else Path(spec.corrected))


def same_teacher(spec: CacheTeacher | Trial | Evaluate | Promotion | Export) -> ModelFolder:
    """The teacher, if its weights are still those that the search was calibrated with."""
    folder = teacher_folder(spec)
    if weights_digest(folder) != spec.teacher_sha256:
        problem = "has other weights than when the search began"
        raise TeacherError("teacher", spec.teacher, problem, "the weights it was calibrated with, or a new search")
    return folder
