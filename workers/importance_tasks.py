"""The jobs that score a teacher and cut it: calibrate, merge_scores, prune; and what a trial's student keeps of it."""

from pathlib import Path
from typing import Any

import torch

from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.compression.choose import Kept
from nas.compression.data import PackedTokens, load_tokenizer
from nas.compression.device import computing_in, default_device, dtype_name, resolve_dtype
from nas.compression.importance import Origin, Plan, Source, Statistics, calibrate, load_scores, merge
from nas.compression.importance.identity import Identity
from nas.compression.importance.questions import Question, read_questions
from nas.compression.importance.removal import Damage, Removal
from nas.compression.importance.rounds import choose_in_rounds
from nas.compression.importance.view import view_of
from nas.compression.prune import cut_folder
from nas.durable import write_text
from nas.errors import CheckpointError, SettingError
from nas.hub import weights_folder
from nas.jobs import Calibrate, Calibrated, DataFiles, JobProgress, MergeScores, Prune, Pruned, ScoresMerged, Trial
from nas.model_folder import ModelFolder, inspect_model_folder
from workers.attempt import AttemptFolder
from workers.compute import teacher_folder


def run_calibrate(spec: Calibrate, attempt: AttemptFolder) -> Calibrated:
    """Scores every axis by the job's shard of the samples; the first shard measures the teacher's loss too."""
    torch.set_num_threads(spec.resources.cpus)
    dtype = resolve_dtype(spec.resources.dtype, default_device())
    folder = teacher_folder(spec)
    tokens = PackedTokens(Path(spec.data.train_file), spec.data.sequence_length)
    samples = tokens.sample(spec.calibration.samples, spec.seed)
    plan = Plan(folder.architecture, spec.calibration, spec.depths, folder.sliding_layers, shard=spec.shard)
    origin = Origin.of(folder, tokens, spec.seed, _questions_file(spec.calibration))
    scores_file = attempt.path / "scores.safetensors"
    if spec.known is not None:
        statistics, scores_file = _known(spec.known, plan.identity(origin, samples, default_device())), Path(spec.known)
        loss = None
    else:
        source = _source(folder, spec.calibration, spec.micro_batch_size)
        questions = _questions(folder, spec.calibration)
        statistics = calibrate(plan, source, samples, origin, questions=questions, progress=_telling(attempt))
        statistics.save(scores_file)
        loss = _loss(source, spec.data, folder.architecture, dtype) if spec.shard[0] == 0 else None
    is_whole = statistics.identity.shard[1] == 1
    return Calibrated(
        scores_file=str(scores_file),
        importance_file=_write_view(attempt, statistics, spec.calibration) if is_whole else None,
        samples=len(samples.inputs_BT[plan.of_shard(len(samples.inputs_BT))]),
        loss=loss,
        dtype=dtype_name(dtype),
        teacher_sha256=origin.teacher_sha256,
    )


def run_merge_scores(spec: MergeScores, attempt: AttemptFolder) -> ScoresMerged:
    statistics = merge([Statistics.load(Path(file)) for file in spec.scores_files])
    scores_file = attempt.path / "scores.safetensors"
    statistics.save(scores_file)
    view = _write_view(attempt, statistics, spec.calibration)
    return ScoresMerged(scores_file=str(scores_file), importance_file=view)


def run_prune(spec: Prune, attempt: AttemptFolder) -> Pruned:
    """Cuts from disk to disk, reads what it wrote, and measures its loss."""
    torch.set_num_threads(spec.resources.cpus)
    folder = inspect_model_folder(weights_folder(spec.teacher))
    statistics = _of_the_same(spec, folder)
    kept = kept_for(spec, folder, attempt, micro_batch_size=spec.micro_batch_size)
    into = attempt.path / "model"
    provenance = {**spec.provenance, "kept_layers": list(kept.layers)}
    cut_folder(folder, spec.architecture, kept, into, provenance, progress=_telling(attempt, "bytes"))
    written = inspect_model_folder(into)
    source = _source(written, spec.calibration, spec.micro_batch_size)
    # In the dtype that the teacher's loss is measured in, to compare with it.
    dtype = resolve_dtype(spec.resources.dtype, source.device)
    loss = _loss(source, spec.data, spec.architecture, dtype)
    parameters = written.family.count(spec.architecture)
    return Pruned(
        folder=str(into),
        importance_file=_write_view(attempt, statistics, spec.calibration),
        parameters=parameters,
        loss=loss,
        kept_layers=kept.layers,
    )


def kept_for(spec: Trial | Prune, folder: ModelFolder, attempt: AttemptFolder, *, micro_batch_size: int) -> Kept:
    """What of the teacher stays: by the scores of the job's file, and, in further rounds, by those of what is left."""
    tokens = PackedTokens(Path(spec.data.train_file), spec.data.sequence_length)
    return choose_in_rounds(
        folder,
        spec.architecture,
        spec.calibration,
        load_scores(Path(spec.scores_file), spec.calibration),
        tokens.sample(spec.calibration.samples, spec.seed),
        spec.seed,
        device=default_device(),
        micro_batch_size=micro_batch_size,
        questions=_questions(folder, spec.calibration) if spec.calibration.rounds > 1 else (),
        progress=_telling(attempt),
    )


# --- what they share ----------------------------------------------------------------------------------------


def _questions_file(calibration: CalibrationSpec) -> Path | None:
    return Path(calibration.questions) if calibration.questions and calibration.depth == "accuracy" else None


def _questions(folder: ModelFolder, calibration: CalibrationSpec) -> list[Question]:
    file = _questions_file(calibration)
    if file is None:
        return []
    return read_questions(file, load_tokenizer(folder), folder.max_positions)


def _known(path: str, wanted: Identity) -> Statistics:
    """The file's statistics. Raises SettingError, with all that differs, unless it is of exactly this calibration."""
    known = _given("known", path)
    _refuse("known", path, known.identity.differences(wanted.model_copy(update={"shard": (0, 1)})))
    return known


def _of_the_same(spec: Prune, folder: ModelFolder) -> Statistics:
    """The statistics that a student is to be cut by. Raises SettingError unless the job would measure the same."""
    given = _given("scores_file", spec.scores_file)
    tokens = PackedTokens(Path(spec.data.train_file), spec.data.sequence_length)
    plan = Plan(folder.architecture, spec.calibration, (spec.architecture.num_hidden_layers,), folder.sliding_layers)
    origin = Origin.of(folder, tokens, spec.seed, _questions_file(spec.calibration))
    wanted = plan.identity(origin, tokens.sample(spec.calibration.samples, spec.seed), default_device())
    _refuse("scores_file", spec.scores_file, given.identity.lacking(wanted))
    return given


def _refuse(field: str, path: str, differing: dict[str, tuple[Any, Any]]) -> None:
    if differing:
        told = ", ".join(_difference(name, *values) for name, values in differing.items())
        accepted = "a file of exactly this calibration" + (", or one that is not there yet" if field == "known" else "")
        raise SettingError(field, path, f"holds scores of another calibration: {told}", accepted)


def _difference(name: str, theirs: object, ours: object) -> str:
    """Digests say nothing to a reader."""
    if name == "code" or name.endswith("_sha256"):
        return name.removesuffix("_sha256")
    there, here = (", ".join(map(str, each)) or "none" if isinstance(each, tuple) else each for each in (theirs, ours))
    return f"{name} ({there} there, {here} here)"


def _given(field: str, path: str) -> Statistics:
    """The user's own file."""
    try:
        return Statistics.load(Path(path))
    except CheckpointError as error:
        raise SettingError(field, path, error.problem, "a file of scores that `topiary importance` wrote") from error


def _source(folder: ModelFolder, calibration: CalibrationSpec, micro_batch_size: int) -> Source:
    layer_by_layer = calibration.layer_by_layer
    return Source.of(folder, default_device(), micro_batch_size=micro_batch_size, layer_by_layer=layer_by_layer)


def _loss(source: Source, data: DataFiles, shape: Architecture, dtype: torch.dtype) -> float:
    """On the validation sequences, in nats per token."""
    packed = PackedTokens(Path(data.validation_file), data.sequence_length)
    whole = Damage("perplexity", [Removal()])
    with computing_in(dtype, source.device):
        for portion in source.portions(packed.first(data.validation_sequences), 1, shape.hidden_size):
            whole.measure(source.layers, portion, source.micro_batch_size, lambda passed: None)
    return whole.of(Removal())


def _write_view(attempt: AttemptFolder, statistics: Statistics, calibration: CalibrationSpec) -> str:
    view = view_of(statistics.scores(calibration), statistics.architecture, calibration)
    path = attempt.path / "importance.json"
    write_text(path, view.model_dump_json())
    return str(path)


def _telling(attempt: AttemptFolder, unit: str = "layer passes") -> Any:
    def progress(done: int, total: int) -> None:
        attempt.report_progress(JobProgress(done=done, total=total, unit=unit))

    return progress
