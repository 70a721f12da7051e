"""One plain function per job kind: addresses in, artifacts below the attempt's folder out."""

import importlib.metadata
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import JsonValue

from nas.compression.checkpoint import (
    load_model,
    read_weights,
    weights_digest,
    write_model_folder,
    write_weights,
)
from nas.compression.choose import Kept
from nas.compression.data import (
    Batch,
    PackedTokens,
    load_tokenizer,
    training_documents,
    validation_documents,
    write_token_file,
)
from nas.compression.device import default_device, dtype_name, resolve_dtype
from nas.compression.evaluate import Evaluation, evaluate
from nas.compression.kept_file import load_kept, save_kept
from nas.compression.latency import Bench, measure
from nas.compression.prune import cut
from nas.compression.student import Distillation
from nas.compression.teacher import LiveTeacher
from nas.compression.train import Progress
from nas.compression.training_state import keep_newest
from nas.compression.weight_files import open_tensors
from nas.data_spec import DataSpec
from nas.errors import CheckpointError, DataError, TeacherError
from nas.hub import config_folder, weights_folder
from nas.jobs import (
    Calibrate,
    DataFiles,
    DataPrepared,
    Export,
    Exported,
    JobProgress,
    JobResult,
    Latency,
    LatencyMeasured,
    Measurement,
    MergeScores,
    PrepareData,
    Promotion,
    Prune,
    Trained,
    Trial,
)
from nas.latency import write_table
from nas.model_folder import ModelFolder, inspect_config_folder, inspect_model_folder
from nas.spec import ResourcesSpec
from workers.attempt import KEPT, AttemptFolder
from workers.importance_tasks import kept_for, run_calibrate, run_merge_scores, run_prune

logger = logging.getLogger(__name__)


def run_job(attempt: AttemptFolder) -> JobResult:
    """Does what the attempt's assignment says; raises whatever goes wrong."""
    spec = attempt.assignment.spec
    match spec:
        case PrepareData():
            return prepare_data(spec, attempt)
        case Calibrate():
            return run_calibrate(spec, attempt)
        case MergeScores():
            return run_merge_scores(spec, attempt)
        case Prune():
            return run_prune(spec, attempt)
        case Trial():
            return trial(spec, attempt)
        case Promotion():
            return promotion(spec, attempt)
        case Export():
            return export(spec, attempt)
        case Latency():
            return latency(spec, attempt)


def prepare_data(spec: PrepareData, attempt: AttemptFolder) -> DataPrepared:
    """Tokenises validation first, so that no document of it can enter training."""
    folder = inspect_model_folder(weights_folder(spec.teacher))
    if folder.end_of_text is None:
        raise TeacherError(
            "teacher", spec.teacher, "has no eos_token_id in config.json", "a token that ends a document"
        )
    tokenizer = load_tokenizer(folder)
    data, length = spec.data, spec.data.sequence_length
    train, validation = attempt.path / "train.bin", attempt.path / "validation.bin"
    digests: set[bytes] = set()
    wanted = data.validation_sequences * length + 1
    written = write_token_file(
        validation, validation_documents(data, digests), tokenizer, folder.end_of_text, max_tokens=wanted
    )
    if written["tokens"] < wanted:
        raise _too_little_validation(data, written["tokens"])

    def progress(tokens: int) -> None:
        attempt.report_progress(
            JobProgress(done=min(tokens, spec.training_tokens), total=spec.training_tokens, unit="tokens")
        )

    written_train = write_token_file(
        train,
        training_documents(data, without=frozenset(digests)),
        tokenizer,
        folder.end_of_text,
        max_tokens=spec.training_tokens + 1,
        progress=progress,
    )
    files = DataFiles(
        train_file=str(train),
        validation_file=str(validation),
        sequence_length=length,
        validation_sequences=data.validation_sequences,
    )
    if written_train["tokens"] <= length:
        raise DataError(
            "data.train",
            data.train,
            f"holds {written_train['tokens']} tokens besides the validation text",
            f"at least one sequence, {length + 1} tokens",
        )
    return DataPrepared(data=files, training_tokens=written_train["tokens"], validation_tokens=written["tokens"])


def _too_little_validation(data: DataSpec, tokens: int) -> DataError:
    wanted = f"{data.validation_sequences} sequences of {data.sequence_length}"
    fitting = max(0, tokens - 1) // data.sequence_length
    fewer = f"data.validation_sequences up to {fitting}, " if fitting else ""
    if data.validation is not None:
        problem = f"holds {tokens:,} tokens, too few for {wanted}"
        return DataError("data.validation", data.validation, problem, f"{fewer}or more text")
    problem = f"leaves {tokens:,} tokens for validation (each document whole), too few for {wanted}"
    accepted = f"{fewer}a larger data.validation_fraction, more documents, or a text of its own as data.validation"
    return DataError("data.train", data.train, problem, accepted)


def trial(spec: Trial, attempt: AttemptFolder) -> Trained:
    """Cuts the student and retrains it; what it measures at 0 tokens is its loss after pruning.

    One that continues starts from the weights so far, and counts on from their tokens.
    """
    folder = _same_teacher(spec)
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
    folder = _same_teacher(spec)
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


def export(spec: Export, attempt: AttemptFolder) -> Exported:
    """Writes the folder in the teacher's dtype, reads it back, holds it against its own claim, and measures it."""
    device, _ = _compute(spec.resources)
    teacher = _same_teacher(spec)
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
    exported = LiveTeacher(model, torch.float32, device)
    loss = evaluate(exported, _validation(spec.data, device), micro_batch_size=spec.micro_batch_size).loss
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


def _same_teacher(spec: Trial | Promotion | Export) -> ModelFolder:
    """The teacher, if its weights are still those that the search began with."""
    folder = inspect_model_folder(weights_folder(spec.teacher))
    if weights_digest(folder) != spec.teacher_sha256:
        problem = "has other weights than when the search began"
        raise TeacherError("teacher", spec.teacher, problem, "the weights it was calibrated with, or a new search")
    return folder


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
    device, dtype = _compute(spec.resources)
    distillation = Distillation(
        config=folder.family.config(folder.config, spec.architecture, kept_layers),
        teacher=LiveTeacher(load_model(folder, device), dtype, device),
        data=PackedTokens(Path(spec.data.train_file), spec.data.sequence_length),
        validation=_validation(spec.data, device),
        training=spec.training,
        until_tokens=until_tokens,
        first_sequence=first_sequence,
        seed=spec.seed,
        device=device,
        dtype=dtype,
    )
    for earlier in attempt.assignment.earlier_folders:
        attempt.inherit_measurements(Path(earlier))
    retrained, tokens = distillation.run(
        weights,
        checkpoints=attempt.path / "checkpoints",
        earlier_checkpoints=tuple(Path(earlier) / "checkpoints" for earlier in attempt.assignment.earlier_folders),
        record=_record_into(attempt, first_tokens),
        progress=_progress_into(attempt, first_tokens),
        interrupted=lambda: attempt.told_to_end is not None,
        saved=attempt.checkpointed,
    )
    weights_file = attempt.path / "weights.safetensors"
    write_weights(weights_file, retrained)
    keep_newest(attempt.path / "checkpoints", 1)
    return Trained(
        kind=spec.kind, weights=str(weights_file), kept_layers=kept_layers, tokens=tokens, dtype=dtype_name(dtype)
    )


def _record_into(attempt: AttemptFolder, first_tokens: int) -> Callable[[int, Evaluation], None]:
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


def _progress_into(attempt: AttemptFolder, first_tokens: int) -> Callable[[Progress], None]:
    def progress(now: Progress) -> None:
        attempt.report_progress(
            JobProgress(
                done=first_tokens + now.tokens,
                total=first_tokens + now.total_tokens,
                unit="tokens",
                per_second=now.tokens_per_second,
                training_loss=now.training_loss,
            ),
            may_end=False,  # The training loop saves its state first.
        )

    return progress


def _compute(resources: ResourcesSpec) -> tuple[torch.device, torch.dtype]:
    torch.set_num_threads(resources.cpus)
    device = default_device()
    return device, resolve_dtype(resources.dtype, device)


def _validation(data: DataFiles, device: torch.device) -> Batch:
    return PackedTokens(Path(data.validation_file), data.sequence_length).first(data.validation_sequences).to(device)


def _versions() -> dict[str, JsonValue]:
    """Of what computed the weights."""
    packages = ("topiary-nas", "torch", "transformers", "tokenizers", "safetensors")
    return {name: importlib.metadata.version(name) for name in packages}
