"""Attempts on artifacts in a store: as good as on local paths, and nothing that is damaged is taken for whole."""

import shutil
from pathlib import Path

import pytest

from nas.addresses import attempt_folder
from nas.calibration import CalibrationSpec
from nas.jobs import Calibrate, Calibrated, DataPrepared, JobSpec, Measurement, Trained, Trial
from nas.model_folder import inspect_model_folder
from nas.pool import Assignment, Failure, Resources, Update
from nas.training_spec import TrainingSpec
from tests.conftest import tiny_spec
from tests.contracts.conftest import prepare_data
from tests.contracts.test_worker_pool import wait_for_outcome
from workers import artifacts
from workers.artifacts_attempt import MirroredAttempt, attempt_at_work
from workers.artifacts_scratch import local_copy, scratch
from workers.attempt import AttemptFolder, make_folder
from workers.ray_pool import RayPool
from workers.run_attempt import run

NOTHING = Failure(reason="it left nothing")


def attempt_at(root: Path | str, job_id: int, spec: JobSpec, *, number: int = 1) -> Assignment:
    return Assignment(
        job_id=job_id,
        attempt=number,
        spec=spec,
        folder=attempt_folder(root, job_id, number),
        resources=Resources(cpus=1),
        earlier_folders=tuple(attempt_folder(root, job_id, each) for each in range(1, number)),
    )


def done(assignment: Assignment) -> Update:
    """Runs an attempt in this process; returns all that a pool learns of it once the process is gone."""
    make_folder(assignment)
    run(attempt_at_work(assignment))
    return AttemptFolder(assignment).outcome_or(NOTHING)


def trial_on(root: Path | str, teacher: Path, text: Path, *, steps: int = 8) -> Trial:
    """Prepares text and scores at the root, as jobs 1 and 2; a trial that saves its state after every step."""
    prepared = done(attempt_at(root, 1, prepare_data(teacher, text))).result
    assert isinstance(prepared, DataPrepared)
    resources = tiny_spec(teacher, text).resources
    calibrate = Calibrate(
        teacher=str(teacher),
        data=prepared.data,
        calibration=CalibrationSpec(samples=4),
        micro_batch_size=4,
        seed=0,
        resources=resources,
    )
    calibrated = done(attempt_at(root, 2, calibrate)).result
    assert isinstance(calibrated, Calibrated)
    tokens = steps * 4 * 32
    return Trial(
        teacher=str(teacher),
        teacher_sha256=calibrated.teacher_sha256,
        scores_file=calibrated.scores_file,
        architecture=inspect_model_folder(teacher).architecture.model_copy(update={"num_hidden_layers": 2}),
        data=prepared.data,
        training=TrainingSpec(tokens=tokens, batch_size=4, warmup_steps=2, measurements=4, checkpoint_seconds=0),
        until_tokens=tokens,
        seed=0,
        resources=resources,
    )


@pytest.fixture
def trial_there(root: str, teacher_folder: Path, text_file: Path) -> Trial:
    return trial_on(root, teacher_folder, text_file)


def flip(address: str) -> None:
    """One bit in the middle of a file."""
    content = bytearray(artifacts.read(address))
    content[len(content) // 2] ^= 1
    artifacts.write(address, bytes(content))


def weights_of(update: Update) -> bytes:
    assert isinstance(update.result, Trained), update.failure
    with local_copy(update.result.weights) as copy:
        return copy.read_bytes()


def test_a_run_on_a_store_is_that_of_a_path_to_the_last_bit(
    root: str, tmp_path: Path, trial_there: Trial, teacher_folder: Path, text_file: Path
) -> None:
    here = done(attempt_at(tmp_path, 3, trial_on(tmp_path, teacher_folder, text_file)))
    there = done(attempt_at(root, 3, trial_there))
    assert there.measurements == here.measurements
    assert len(there.measurements) == 5
    assert weights_of(there) == weights_of(here)

    folder = attempt_folder(root, 3, 1)
    assert isinstance(there.result, Trained)
    assert there.result.weights == f"{folder}/weights.safetensors"
    local = {name for name in artifacts.files(attempt_folder(tmp_path, 3, 1)) if name != "log.txt"}
    assert set(artifacts.files(folder)) == local - {"heartbeat", "progress.json"}
    # Of both, the one checkpoint that a finished run keeps.
    assert {name for name in local if name.startswith("checkpoints/")} == {
        "checkpoints/step-000000008/state.json",
        "checkpoints/step-000000008/tensors.safetensors",
    }
    left = {file.name for file in (scratch() / "own").rglob("*") if file.is_file() and file.suffix != ".lock"}
    assert left <= {"heartbeat", "progress.json", "artifacts.json", "result.json"} | {f"{n:06d}.json" for n in range(5)}


def test_a_folder_that_is_not_empty_is_no_other_attempts(root: str, trial_there: Trial) -> None:
    assignment = attempt_at(root, 3, trial_there)
    artifacts.write(f"{assignment.folder}/result.json", b"{}")
    attempt = attempt_at_work(assignment)
    run(attempt)
    assert artifacts.files(assignment.folder) == {"result.json": 2}
    update = AttemptFolder(assignment, attempt.path).outcome_or(NOTHING)
    assert update.failure is not None
    assert update.failure.reason == f"FileExistsError: {assignment.folder} holds files already"


@pytest.mark.parametrize(
    ("place", "file"),
    [("path", "jobs/000001/attempt-1/train/train/00000.bin"), ("store", "jobs/000002/attempt-1/scores.safetensors")],
)
def test_no_job_starts_on_a_damaged_artifact(
    file: str, place: str, root: str, tmp_path: Path, teacher_folder: Path, text_file: Path
) -> None:
    where = str(tmp_path) if place == "path" else root
    trial = trial_on(where, teacher_folder, text_file)
    flip(f"{where}/{file}")
    shutil.rmtree(scratch())  # Another node, which has no copy.
    update = done(attempt_at(where, 3, trial))
    assert update.failure is not None
    assert update.measurements == ()
    assert update.failure.reason.startswith(f"CheckpointError: {where}/{file}: has SHA-256 ")


class EndingEarly(MirroredAttempt):
    """Is told to end once it has saved so many states, that of the beginning included."""

    left = 6

    def checkpointed(self) -> None:
        super().checkpointed()
        self.left -= 1
        if self.left == 0:
            self.tell_to_end("enough")


def test_the_checkpoint_before_a_damaged_one_serves(
    root: str, trial_there: Trial, caplog: pytest.LogCaptureFixture
) -> None:
    whole = done(attempt_at(root, 3, trial_there))
    first = attempt_at(root, 4, trial_there)
    run(EndingEarly(first))
    ended = AttemptFolder(first).outcome_or(NOTHING)
    assert ended.failure == Failure(reason="enough; saved at step 5", interrupted=True)
    states = [name for name in artifacts.files(first.folder) if name.endswith("state.json")]
    assert states == [f"checkpoints/step-{step:09d}/state.json" for step in (4, 5)]

    flip(f"{first.folder}/checkpoints/step-000000005/tensors.safetensors")
    # And one whose upload was cut short, before the file that would have made it one.
    artifacts.write(f"{first.folder}/checkpoints/step-000000006/tensors.safetensors", b"half")
    again = done(attempt_at(root, 4, trial_there, number=2))
    assert again.measurements == whole.measurements
    assert weights_of(again) == weights_of(whole)
    (message,) = caplog.messages
    assert message == f"a checkpoint cannot be used: {first.folder}/checkpoints/step-000000005: is not what was written"


def test_an_outcome_whose_upload_was_cut_short_is_not_there(root: str, trial_there: Trial) -> None:
    assignment = attempt_at(root, 3, trial_there)
    assert AttemptFolder(assignment).outcome_or(NOTHING).failure == NOTHING
    point = Measurement(tokens=0, loss=1.0, kl_to_teacher=0.0, loss_per_sequence=(1.0,)).model_dump_json().encode()
    artifacts.write(f"{assignment.folder}/measurements/000000.json", point)
    artifacts.write(f"{assignment.folder}/measurements/000001.json", point[:-9])
    artifacts.write(f"{assignment.folder}/weights.safetensors", b"half")
    artifacts.write(f"{assignment.folder}/result.json", b'{"kind": "trial", "weights": "')
    update = AttemptFolder(assignment).outcome_or(NOTHING)
    assert (update.failure, update.result) == (NOTHING, None)
    assert [each.tokens for each in update.measurements] == [0]


def test_a_store_that_is_gone_loses_an_attempt_and_stops_no_pool(trial_there: Trial) -> None:
    assignment = attempt_at("nostore://bucket", 3, trial_there)
    update = AttemptFolder(assignment).outcome_or(NOTHING)
    assert update.failure is not None
    assert update.failure.lost
    assert update.failure.reason.startswith("it left nothing, and what it left cannot be read: ")


@pytest.mark.usefixtures("ray_of_the_run")
def test_a_worker_on_ray_leaves_everything_in_the_store(root: str, teacher_folder: Path, text_file: Path) -> None:
    job = attempt_at(root, 900_001, prepare_data(teacher_folder, text_file))  # No other test on this Ray has so many.
    pool = RayPool(None, "tests")
    pool.submit(job)
    update = wait_for_outcome(pool)
    assert isinstance(update.result, DataPrepared), update.failure
    assert update.result.data.train_file == f"{job.folder}/train"
    names = artifacts.files(job.folder)
    token_files = {"train/sources.json", "train/train/00000.bin", "train/train/manifest.json"}
    assert {*token_files, "log.txt", "artifacts.json", "result.json", "assignment.json"} <= set(names)
    pool.release()

    successor = RayPool(None, "tests")
    successor.adopt(job)
    assert wait_for_outcome(successor).result == update.result
    successor.release()
