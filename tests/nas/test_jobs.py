"""Jobs: the moves between their states, and specs and results that survive JSON."""

import math
from itertools import product

import pytest
from pydantic import TypeAdapter, ValidationError

from nas.calibration import CalibrationSpec
from nas.data_spec import DataSpec
from nas.errors import IllegalMove
from nas.jobs import (
    Calibrate,
    Calibrated,
    CorrectTeacher,
    DataFiles,
    DataPrepared,
    Evaluate,
    Evaluated,
    Export,
    Exported,
    JobProgress,
    JobResult,
    JobSpec,
    Measurement,
    MergeScores,
    PrepareData,
    Promotion,
    Prune,
    Pruned,
    ScoresMerged,
    Sweep,
    Swept,
    TeacherCorrected,
    Trained,
    Trial,
)
from nas.pool import Assignment, Failure, Resources, Update, resources_of
from nas.spec import ResourcesSpec
from nas.states import LEGAL_MOVES, JobState, check_move
from nas.training_record import Rollback, SweptRate, TextSample
from nas.training_spec import RunSpec, TrainingSpec
from tests.nas.shapes import small_llama

FILES = DataFiles(train_file="t.bin", validation_file="v.bin", sequence_length=32, validation_sequences=4)
TRAINING = TrainingSpec(tokens=1280, peak_learning_rate=1e-3)
RESOURCES = ResourcesSpec(cpus=2, dtype="float32")
CALIBRATION = CalibrationSpec(depth="perplexity", shards=4)
TRIAL = Trial(
    teacher="t",
    teacher_sha256="d",
    scores_file="s",
    architecture=small_llama(),
    data=FILES,
    training=TRAINING,
    until_tokens=640,
    seed=3,
    resources=RESOURCES,
)
SPECS: list[JobSpec] = [
    PrepareData(teacher="t", data=DataSpec(train="x"), training_tokens=1280),
    CorrectTeacher(teacher="t", data=FILES, training=RunSpec(tokens=640), seed=5, resources=RESOURCES),
    Calibrate(
        teacher="t",
        corrected="c",
        data=FILES,
        calibration=CALIBRATION,
        depths=(3, 2),
        shard=(1, 4),
        micro_batch_size=4,
        seed=3,
        resources=RESOURCES,
    ),
    MergeScores(scores_files=("s", "t"), calibration=CALIBRATION),
    Sweep(trial=TRIAL, rates=(1e-3, 2e-3)),
    TRIAL,
    Promotion(
        teacher="t",
        teacher_sha256="d",
        weights="w",
        architecture=small_llama(),
        data=FILES,
        training=TRAINING,
        first_sequence=40,
        seed=3,
        resources=RESOURCES,
    ),
    Evaluate(
        teacher="t",
        teacher_sha256="d",
        weights="w",
        architecture=small_llama(),
        kept_layers=(0, 2),
        questions="q",
        micro_batch_size=4,
        resources=RESOURCES,
    ),
    Export(
        teacher="t",
        teacher_sha256="d",
        weights="w",
        architecture=small_llama(),
        data=FILES,
        micro_batch_size=4,
        resources=RESOURCES,
        provenance={"losses": [1.5, None], "by": {"a": 1}},
    ),
    Prune(
        teacher="t",
        scores_file="s",
        architecture=small_llama(),
        calibration=CALIBRATION,
        data=FILES,
        micro_batch_size=4,
        seed=3,
        resources=RESOURCES,
        provenance={},
    ),
]
RESULTS: list[JobResult] = [
    DataPrepared(data=FILES, training_tokens=1280, validation_tokens=128),
    TeacherCorrected(folder="c", teacher_sha256="d", tokens=640, loss_before=2.5, loss=2.25, dtype="float32"),
    Calibrated(scores_file="s", samples=8, loss=2.5, dtype="float32", teacher_sha256="d"),
    Calibrated(scores_file="s", samples=8, loss=None, dtype="float32", teacher_sha256="d"),
    ScoresMerged(scores_file="s", importance_file="i"),
    Swept(
        rates=(SweptRate(rate=1e-3, loss=2.5), SweptRate(rate=2e-3, problem="the training loss is nan")),
        chosen=1e-3,
        tokens=960,
    ),
    Trained(kind="trial", weights="w", kept_layers=(0, 2), tokens=640, dtype="float32"),
    Trained(
        kind="promotion",
        weights="w",
        tokens=1280,
        dtype="bfloat16",
        rollbacks=(Rollback(step=5, first_sequence=20, quantity="the training loss", value="-inf", to_step=3),),
        samples=(TextSample(prompt="import", teacher=" os", student=" re"),),
    ),
    Evaluated(num_right=3, num_questions=5, questions_sha256="d"),
    Exported(folder="f", parameters=5, loss=2.25),
    Pruned(folder="f", importance_file="i", parameters=5, loss=2.25, kept_layers=(0, 2)),
]
MOVES = {
    ("queued", "running"),
    ("running", "queued"),
    ("running", "succeeded"),
    ("running", "failed"),
    ("failed", "queued"),
    ("queued", "cancelled"),
    ("running", "cancelled"),
    ("cancelled", "queued"),
}


@pytest.mark.parametrize(("old", "new"), list(product(JobState, JobState)))
def test_a_job_moves_only_as_its_table_allows(old: JobState, new: JobState) -> None:
    if (old.value, new.value) in MOVES:
        check_move(5, old, new)
    else:
        with pytest.raises(IllegalMove, match=f"^job 5 cannot go from {old.value} to {new.value}$"):
            check_move(5, old, new)


def test_every_state_has_its_row_and_a_final_state_leads_to_no_other_ending() -> None:
    assert set(LEGAL_MOVES) == set(JobState)
    assert {state for state in JobState if state.is_final} == {JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}
    for state in JobState:
        if state.is_final:
            assert LEGAL_MOVES[state] <= {JobState.QUEUED}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_a_job_spec_survives_json_as_its_own_kind(spec: JobSpec) -> None:
    adapter: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
    assert adapter.validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize("result", RESULTS, ids=lambda result: result.kind)
def test_a_job_result_survives_json_as_its_own_kind(result: JobResult) -> None:
    adapter: TypeAdapter[JobResult] = TypeAdapter(JobResult)
    assert adapter.validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize("kind", ["training", "", None])
def test_an_unknown_kind_of_job_is_refused(kind: str | None) -> None:
    adapter: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
    kinds = (
        "'prepare_data', 'correct_teacher', 'calibrate', 'merge_scores', 'cache_teacher', 'sweep', 'trial', 'promotion'"
    )
    with pytest.raises(ValidationError, match=kinds):
        adapter.validate_python({**TRIAL.model_dump(), "kind": kind})


def test_a_job_occupies_what_its_spec_says_and_preparing_and_adding_up_no_gpu() -> None:
    assert {spec.kind: resources_of(spec) for spec in SPECS} == {
        **dict.fromkeys(
            ("correct_teacher", "calibrate", "sweep", "trial", "promotion", "evaluate", "export", "prune"),
            Resources(cpus=2),
        ),
        **dict.fromkeys(("prepare_data", "merge_scores"), Resources(cpus=1, gpus=0)),
    }


def test_a_field_that_no_job_has_is_refused() -> None:
    with pytest.raises(ValidationError, match="connection"):
        Trial.model_validate({**TRIAL.model_dump(), "connection": "sqlite://"})


def test_an_assignment_survives_json() -> None:
    assignment = Assignment(
        job_id=1, attempt=2, spec=TRIAL, folder="f", resources=Resources(cpus=2, gpus=0.5), earlier_folders=("e", "d")
    )
    assert Assignment.model_validate_json(assignment.model_dump_json()) == assignment


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_measurement_that_is_not_finite_is_refused(bad: float) -> None:
    """Databases disagree on what it is, and no order holds it."""
    with pytest.raises(ValidationError):
        Measurement(tokens=1, loss=bad, kl_to_teacher=0.5, loss_per_sequence=(1.5,))


def test_losses_survive_json_to_the_last_bit() -> None:
    losses = (0.1, 1 / 3, 2.0**-1074, 5.432109876543211)
    measured = Measurement(tokens=1, loss=0.1 + 0.2, kl_to_teacher=1e-17, loss_per_sequence=losses)
    assert Measurement.model_validate_json(measured.model_dump_json()) == measured


def test_an_update_survives_json() -> None:
    progress = JobProgress(done=3, total=9, unit="tokens", per_second=1.5, training_loss=2.0)
    measured = Measurement(tokens=3, loss=2.0, kl_to_teacher=0.5, loss_per_sequence=(2.0,))
    update = Update(
        job_id=1, attempt=2, progress=progress, measurements=(measured,), failure=Failure(reason="lost", lost=True)
    )
    assert Update.model_validate_json(update.model_dump_json()) == update
