"""The jobs of a calibration: those of a search, and those that the commands run by themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from api import words
from api.one_job import JobFailed, Jobs
from nas.architecture import Architecture
from nas.calibration import CalibrationSpec
from nas.errors import TeacherError
from nas.importance_view import ImportanceView
from nas.jobs import Calibrate, Calibrated, DataPrepared, MergeScores, PrepareData, ScoresMerged
from nas.spec import SearchSpec

DRAWN_FROM = 16
"""Samples are drawn from so many times their tokens: not only the first documents speak, nor need all be tokenised."""

_OPTION_OF = {"known": "--into", "scores_file": "--scores"}


def calibration_tokens(spec: SearchSpec) -> int:
    """Of the training text, for all samples."""
    return spec.calibration.samples * spec.data.sequence_length


def search_tokens(spec: SearchSpec, trial_tokens: int | None = None) -> int:
    """Of the training text, for a whole search whose trials see so many; left out, as many as its spec says.

    A promotion goes on after the trial's tokens, so it sees new text for as long as there is any.
    """
    length = spec.data.sequence_length
    trial = spec.trial.actual_tokens(length) if trial_tokens is None else trial_tokens
    promotion = spec.promotion.actual_tokens(length) if spec.promotion.winners else 0
    correction = 0 if spec.correction is None else spec.correction.actual_tokens(length)
    return max(trial + promotion, correction, calibration_tokens(spec))


def calibrate_jobs(
    spec: SearchSpec, teacher: Architecture, data: DataPrepared, depths: Sequence[int], corrected: str | None = None
) -> list[Calibrate]:
    """One job for each shard of a calibration, for students of so many layers.

    `corrected` is the folder of the corrected teacher; None for the user's own.
    """
    num_shards = spec.calibration.shards
    return [
        Calibrate(
            teacher=spec.teacher,
            corrected=corrected,
            data=data.data,
            calibration=spec.calibration,
            depths=tuple(sorted(set(depths), reverse=True)),
            shard=(number, num_shards),
            micro_batch_size=spec.trial.fitting_micro_batch(spec.data.sequence_length, teacher.vocab_size),
            seed=spec.seed,
            resources=spec.resources,
        )
        for number in range(num_shards)
    ]


def merge_job(spec: SearchSpec, shards: Sequence[Calibrated]) -> MergeScores:
    """Raises TeacherError for shards that found different weights: they ran at different moments."""
    if len({shard.teacher_sha256 for shard in shards}) > 1:
        problem = "had other weights for one shard of the calibration than for another"
        raise TeacherError("teacher", spec.teacher, problem, "weights that nobody changes, under another name")
    return MergeScores(scores_files=tuple(shard.scores_file for shard in shards), calibration=spec.calibration)


def method(calibration: CalibrationSpec) -> str:
    """`units by activation (mean over a sequence, l2 over samples), layers by block_influence`."""
    aggregated = f" ({calibration.over_sequence} over a sequence, {calibration.over_batch} over samples)"
    listens = calibration.width in ("activation", "wanda")
    together = ", next to one another" if calibration.contiguous else ""
    return f"units by {calibration.width}{aggregated if listens else ''}, layers by {calibration.depth}{together}"


# --- run by a command ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scored:
    """What a calibration came to; `loss` is the teacher's, where it was measured."""

    scores_file: Path
    importance: ImportanceView
    samples: int
    loss: float | None


def prepare(jobs: Jobs, spec: SearchSpec) -> DataPrepared:
    """What the samples are drawn from, and what losses are measured on. Raises JobFailed."""
    tokens = DRAWN_FROM * calibration_tokens(spec)
    job = PrepareData(teacher=spec.teacher, data=spec.data, training_tokens=tokens)
    return jobs.run_one(job, DataPrepared, words.PHASES[job.kind])


def score(
    jobs: Jobs,
    spec: SearchSpec,
    teacher: Architecture,
    data: DataPrepared,
    depths: Sequence[int],
    known: Path | None = None,
) -> Scored:
    """Scores for students of so many layers; from the file of `known` ones, if they are the same. Raises JobFailed."""
    shards = calibrate_jobs(spec, teacher, data, depths)
    if known is not None:
        # Nothing is measured then, so there is nothing to divide.
        shards = [shards[0].model_copy(update={"known": str(known), "shard": (0, 1)})]
    said = f"scoring a teacher of {teacher.label}: {method(spec.calibration)}"
    calibrated = jobs.run(shards, Calibrated, f"{said}, in {len(shards)} shards" if len(shards) > 1 else said)
    whole: Calibrated | ScoresMerged = calibrated[0]
    if len(shards) > 1:
        whole = jobs.run_one(merge_job(spec, calibrated), ScoresMerged, words.PHASES["merge_scores"])
    return Scored(
        scores_file=Path(whole.scores_file),
        importance=ImportanceView.model_validate_json(Path(str(whole.importance_file)).read_text(encoding="utf-8")),
        samples=sum(shard.samples for shard in calibrated),
        loss=calibrated[0].loss,
    )


def in_options(failed: JobFailed) -> JobFailed:
    """The same failure in the words of a command: a job names the field of a file, its user gave it by an option."""
    reason = failed.failure.reason
    for field, option in _OPTION_OF.items():
        if reason.startswith(f"{field}: "):
            reason = reason.replace(field, option, 1)
    return JobFailed(failed.failure.model_copy(update={"reason": reason}))
