"""Jobs: the pieces of work that are dispatched, and what comes of them; who does them stands in pool.py.

Specs carry addresses, never connections or tensors. Every job reads artifacts of earlier jobs and writes only
below the folder of its own attempt. `teacher` is the user's; where a search has `corrected` it, that folder is meant.
"""

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from nas.addresses import Address, TokenFile
from nas.architecture import Architecture
from nas.border import Border, Number
from nas.calibration import CalibrationSpec
from nas.cost import Phase
from nas.data_spec import DataSpec
from nas.distillation_spec import DistillationSpec
from nas.evaluation import Evaluate as Evaluate
from nas.evaluation import Evaluated as Evaluated
from nas.latency import BlockShape, TimedDtype
from nas.reports import JobProgress as JobProgress
from nas.reports import Measurement as Measurement
from nas.spec import ResourcesSpec
from nas.teacher_answers import CachedForm
from nas.training_record import Rollback, SweptRate, TextSample
from nas.training_spec import RunSpec, TrainingSpec


def _on_logits_alone() -> DistillationSpec:
    """What records of before there was a choice were taught by, however deep their cut."""
    return DistillationSpec(hidden_states=())


class DataFiles(Border):
    """Token files and how they are read.

    `train_file` and `validation_file` are folders of sources; records of before there were several name one file each.
    """

    train_file: TokenFile
    validation_file: TokenFile
    sequence_length: int
    validation_sequences: int


# --- what is to be done -------------------------------------------------------------------------------------


class PrepareData(Border):
    """Tokenise the text once, for every later job."""

    kind: Literal["prepare_data"] = "prepare_data"
    teacher: str
    data: DataSpec
    training_tokens: int


class CorrectTeacher(Border):
    """Train the teacher on the text itself; `seed` is that of an order which no retraining sees."""

    kind: Literal["correct_teacher"] = "correct_teacher"
    teacher: str
    data: DataFiles
    training: RunSpec
    seed: int
    resources: ResourcesSpec


class Calibrate(Border):
    """Score the teacher's layers, heads, neurons, experts and channels, and measure its own loss.

    `depths` are the numbers of layers that students will have. `shard` is (number, of how many), from 0: the job sees
    that part of the samples, and the first measures the loss. `known` is a file of scores of the whole: it is taken if
    it is of exactly this calibration, and refused, with what differs, if not.
    """

    kind: Literal["calibrate"] = "calibrate"
    teacher: str
    corrected: Address | None = None
    data: DataFiles
    calibration: CalibrationSpec
    depths: tuple[int, ...] = ()
    shard: tuple[int, int] = (0, 1)
    known: str | None = None
    micro_batch_size: int
    seed: int
    resources: ResourcesSpec

    @model_validator(mode="before")
    @classmethod
    def _of_before_there_were_methods(cls, given: Any) -> Any:
        """Records of then say how many samples, and nothing else."""
        if isinstance(given, dict) and "samples" in given:
            given = {"calibration": {"samples": given["samples"]}, **given}
            del given["samples"]
        return given


class MergeScores(Border):
    """Add up what all shards of one calibration measured."""

    kind: Literal["merge_scores"] = "merge_scores"
    scores_files: tuple[Address, ...]
    calibration: CalibrationSpec
    resources: ResourcesSpec = Field(default_factory=lambda: ResourcesSpec(gpus=0))


class Prune(Border):
    """Cut a student out of the teacher and write it as a Hugging Face folder, untrained, and measure its loss."""

    kind: Literal["prune"] = "prune"
    teacher: str
    scores_file: Address
    architecture: Architecture
    calibration: CalibrationSpec
    data: DataFiles
    micro_batch_size: int
    seed: int
    resources: ResourcesSpec
    provenance: dict[str, JsonValue]


class Continuation(Border):
    """Where an extension begins: the final weights of what went before, the tokens they have seen, and what stays.

    `first_sequence` is the place in the training text at which it goes on.
    """

    weights: Address
    tokens: int
    first_sequence: int
    kept_layers: tuple[int, ...] = ()


class CachedAnswers(Border):
    """What a teacher has left of `num_sequences` from `first_sequence` on; see nas/teacher_answers.py."""

    folder: Address
    form: CachedForm
    per_token: int
    first_sequence: int
    num_sequences: int


class CacheTeacher(Border):
    """Ask the teacher once about all that the trials of a seed will see, and about the validation text."""

    kind: Literal["cache_teacher"] = "cache_teacher"
    teacher: str
    corrected: Address | None = None
    teacher_sha256: str
    data: DataFiles
    form: CachedForm
    per_token: int
    temperature: Number
    first_sequence: int
    num_sequences: int
    micro_batch_size: int
    seed: int
    resources: ResourcesSpec


class Trial(Border):
    """Cut a student out of the teacher and retrain it until it has seen `until_tokens`.

    The schedule always spans `training.tokens`: stopping earlier is a point on the same curve. An extension begins at
    `continues`, with a schedule of its own over `training.tokens` more; `until_tokens` counts from there, and
    measurements go on counting. With `answers` the teacher itself is not run.
    """

    kind: Literal["trial"] = "trial"
    teacher: str
    corrected: Address | None = None
    teacher_sha256: str
    scores_file: Address
    calibration: CalibrationSpec = Field(default_factory=CalibrationSpec)
    architecture: Architecture
    data: DataFiles
    training: TrainingSpec
    distillation: DistillationSpec = Field(default_factory=_on_logits_alone)
    until_tokens: int
    seed: int
    resources: ResourcesSpec
    continues: Continuation | None = None
    answers: CachedAnswers | None = None


class Sweep(Border):
    """Retrain one candidate at each of several peak rates, as `trial` says but for its rate, before there are trials.

    The minimum rate keeps its proportion to the peak.
    """

    kind: Literal["sweep"] = "sweep"
    trial: Trial
    rates: tuple[Number, ...]

    @property
    def resources(self) -> ResourcesSpec:
        return self.trial.resources


class Promotion(Border):
    """Distil a trial's final weights further, with a fresh optimizer and schedule.

    An extension begins at the weights of the promotion so far, and its measurements count on from `first_tokens`.
    """

    kind: Literal["promotion"] = "promotion"
    teacher: str
    corrected: Address | None = None
    teacher_sha256: str
    weights: Address
    architecture: Architecture
    kept_layers: tuple[int, ...] = ()
    data: DataFiles
    training: TrainingSpec
    distillation: DistillationSpec = Field(default_factory=_on_logits_alone)
    first_sequence: int
    first_tokens: int = 0
    seed: int
    resources: ResourcesSpec


class Export(Border):
    """Write a Hugging Face folder that any program loads: weights, config, tokenizer, provenance."""

    kind: Literal["export"] = "export"
    teacher: str
    corrected: Address | None = None
    teacher_sha256: str
    weights: Address
    architecture: Architecture
    kept_layers: tuple[int, ...] = ()
    data: DataFiles
    micro_batch_size: int
    resources: ResourcesSpec
    provenance: dict[str, JsonValue]


class Latency(Border):
    """Time blocks of the teacher's kind, and the models of `checks` as wholes, on the worker's device.

    For `batch_size` sequences of `context` tokens, each pass for at least so many `seconds`. No search has such a job.
    """

    kind: Literal["latency"] = "latency"
    teacher: str
    blocks: tuple[BlockShape, ...]
    checks: tuple[Architecture, ...]
    phases: tuple[Phase, ...]
    batch_size: int
    context: int
    dtype: TimedDtype
    seconds: float
    resources: ResourcesSpec


JobSpec = Annotated[
    PrepareData | CorrectTeacher | Calibrate | MergeScores | CacheTeacher | Sweep | Trial | Promotion | Export
    | Evaluate | Prune | Latency,
    Field(discriminator="kind"),
]  # fmt: skip

# --- what came of it ----------------------------------------------------------------------------------------


class SourcePrepared(Border):
    """What one source came to: whole documents, and how many of the validation sequences are its own.

    `per_block` is how many of every 1,000 training sequences come from it.
    """

    name: str
    per_block: int
    documents: int
    tokens: int
    validation_documents: int
    validation_tokens: int
    validation_sequences: int


class DataPrepared(Border):
    """Tokens of all sources together, and of each; records of before there were several have no `sources`."""

    kind: Literal["prepare_data"] = "prepare_data"
    data: DataFiles
    training_tokens: int
    validation_tokens: int
    sources: tuple[SourcePrepared, ...] = ()


class TeacherCorrected(Border):
    """`folder` is a Hugging Face folder in the teacher's dtype. Losses are of the validation sequences, computed in
    `dtype`, before the first step and behind the last, when weights are float32 still.
    """

    kind: Literal["correct_teacher"] = "correct_teacher"
    folder: Address
    teacher_sha256: str
    tokens: int
    loss_before: Number
    loss: Number
    dtype: str
    rollbacks: tuple[Rollback, ...] = ()


class Calibrated(Border):
    """`loss` is the teacher's on the validation sequences, in nats per token, computed in `dtype`; the first shard's.

    `scores_file` is what the shard measured, or the job's `known` one if that is the same, and `importance_file` an
    ImportanceView of it, where it is the only one. Scores are always computed in float32. `dtype` is what every later
    job of the search computes in, and `teacher_sha256` what the teacher's weights must still be then.
    """

    kind: Literal["calibrate"] = "calibrate"
    scores_file: Address
    importance_file: Address | None = None
    samples: int
    loss: float | None
    dtype: str
    teacher_sha256: str


class ScoresMerged(Border):
    kind: Literal["merge_scores"] = "merge_scores"
    scores_file: Address
    importance_file: Address


class TeacherCached(Border):
    """`predicted_bytes` was said before the first was written."""

    kind: Literal["cache_teacher"] = "cache_teacher"
    answers: CachedAnswers
    num_bytes: int
    predicted_bytes: int


class Swept(Border):
    """`chosen` is the rate with the lowest loss, of equal ones the lowest; `tokens` those of all rates together."""

    kind: Literal["sweep"] = "sweep"
    rates: tuple[SweptRate, ...]
    chosen: Number
    tokens: int


class Trained(Border):
    """`weights` is a safetensors file in float32; `kept_layers` are the teacher's layers that it came from.

    Records of before they were kept have none; there the layers of a model were all alike. `rollbacks` are those that
    it took, whichever attempt's; `samples` are texts that teacher and student write on.
    """

    kind: Literal["trial", "promotion"]
    weights: Address
    kept_layers: tuple[int, ...] = ()
    tokens: int
    dtype: str
    rollbacks: tuple[Rollback, ...] = ()
    samples: tuple[TextSample, ...] = ()


class Exported(Border):
    """`loss` is measured on the folder itself, in the dtype that its weights are stored in."""

    kind: Literal["export"] = "export"
    folder: Address
    parameters: int
    loss: Number


class Pruned(Border):
    """`folder` is a Hugging Face folder, in the dtype of the teacher; `loss` is its own, in nats per token.

    `importance_file` is an ImportanceView of the scores that it was cut by, those of the first round.
    """

    kind: Literal["prune"] = "prune"
    folder: Address
    importance_file: Address
    parameters: int
    loss: Number
    kept_layers: tuple[int, ...]


class LatencyMeasured(Border):
    """`table` is a file with a LatencyTable."""

    kind: Literal["latency"] = "latency"
    table: Address


JobResult = Annotated[
    DataPrepared | TeacherCorrected | Calibrated | ScoresMerged | TeacherCached | Swept | Trained | Exported
    | Evaluated | Pruned | LatencyMeasured,
    Field(discriminator="kind"),
]  # fmt: skip
