"""One plain function per job kind: addresses in, artifacts below the attempt's folder out."""

import importlib.metadata
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from nas.compression.checkpoint import (
    load_model,
    read_weights,
    write_model_folder,
)
from nas.compression.device import default_device
from nas.compression.evaluate import evaluate
from nas.compression.head import SplitModel
from nas.compression.latency import Bench, measure
from nas.errors import CheckpointError
from nas.hub import config_folder
from nas.jobs import (
    CacheTeacher,
    Calibrate,
    CorrectTeacher,
    Evaluate,
    Export,
    Exported,
    JobProgress,
    JobResult,
    Latency,
    LatencyMeasured,
    MergeScores,
    PrepareData,
    Promotion,
    Prune,
    Sweep,
    Trial,
)
from nas.latency import write_table
from nas.model_folder import inspect_config_folder, inspect_model_folder
from workers.attempt import AttemptFolder
from workers.compute import compute, same_teacher, validation_of
from workers.correction_tasks import correct_teacher
from workers.data_tasks import prepare_data
from workers.evaluation_tasks import answer_questions
from workers.importance_tasks import run_calibrate, run_merge_scores, run_prune
from workers.sweep_tasks import sweep
from workers.teacher_tasks import cache_teacher
from workers.training_tasks import promotion, trial


def run_job(attempt: AttemptFolder) -> JobResult:
    """Does what the attempt's assignment says; raises whatever goes wrong."""
    spec = attempt.assignment.spec
    match spec:
        case PrepareData():
            return prepare_data(spec, attempt)
        case CorrectTeacher():
            return correct_teacher(spec, attempt)
        case Calibrate():
            return run_calibrate(spec, attempt)
        case MergeScores():
            return run_merge_scores(spec, attempt)
        case Prune():
            return run_prune(spec, attempt)
        case CacheTeacher():
            return cache_teacher(spec, attempt)
        case Sweep():
            return sweep(spec, attempt)
        case Trial():
            return trial(spec, attempt)
        case Evaluate():
            return answer_questions(spec, attempt)
        case Promotion():
            return promotion(spec, attempt)
        case Export():
            return export(spec, attempt)
        case Latency():
            return latency(spec, attempt)


def export(spec: Export, attempt: AttemptFolder) -> Exported:
    """Writes the folder in the teacher's dtype, reads it back, holds it against its own claim, and measures it."""
    device, _ = compute(spec.resources)
    teacher = same_teacher(spec)
    stored: torch.dtype = getattr(torch, teacher.dtype)
    tensors = {name: tensor.to(stored) for name, tensor in read_weights(Path(spec.weights)).items()}
    into = attempt.path / "model"
    attempt.end_if_told()
    config = teacher.family.config(teacher.config, spec.architecture, spec.kept_layers)
    write_model_folder(into, config, tensors.items(), teacher, {**spec.provenance, "versions": _versions()})
    written = inspect_model_folder(into)
    attempt.end_if_told()
    model: Any = load_model(written, device)
    promised, found = written.family.count(spec.architecture), model.num_parameters()
    if written.architecture != spec.architecture or promised != found:
        problem = f"has {found} parameters as {written.architecture.label} where {promised} were promised"
        raise CheckpointError(into, problem)
    exported = SplitModel(model, torch.float32, device)
    loss = evaluate(exported, validation_of(spec.data, device), micro_batch_size=spec.micro_batch_size).loss
    return Exported(folder=str(into), parameters=found, loss=loss)


def latency(spec: Latency, attempt: AttemptFolder) -> LatencyMeasured:
    """Times blocks with random weights: of the teacher, only its config is read."""
    torch.set_num_threads(spec.resources.cpus)
    bench = Bench(
        teacher=inspect_config_folder(config_folder(spec.teacher)),
        device=default_device(),
        dtype=spec.dtype,
        batch_size=spec.batch_size,
        context=spec.context,
        phases=spec.phases,
        seconds=spec.seconds,
    )

    def progress(done: int, total: int) -> None:
        attempt.report_progress(JobProgress(done=done, total=total, unit="models"))

    table = measure(bench, spec.blocks, spec.checks, progress)
    file = attempt.path / "latency.json"
    write_table(file, table)
    return LatencyMeasured(table=str(file))


def _versions() -> dict[str, JsonValue]:
    """Of what computed the weights."""
    packages = ("topiary-nas", "torch", "transformers", "tokenizers", "safetensors")
    return {name: importlib.metadata.version(name) for name in packages}
