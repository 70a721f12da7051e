"""What tests of pools share: one Ray for the whole run, and jobs that take as long as a test wants."""

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nas.calibration import CalibrationSpec
from nas.jobs import Calibrate, Calibrated, DataPrepared, JobSpec, PrepareData, Trial
from nas.model_folder import inspect_model_folder
from nas.pool import Assignment, Resources
from nas.training_spec import TrainingSpec
from tests.conftest import tiny_spec
from workers.attempt import AttemptFolder
from workers.ray_pool import RayPool
from workers.tasks import run_job

_numbers = itertools.count(1)


def assignment(spec: JobSpec, folder: Path, *, cpus: int = 1) -> Assignment:
    """The first attempt at a job of its own: its name is nobody else's in this run."""
    return Assignment(
        job_id=next(_numbers), attempt=1, spec=spec, folder=str(folder / "attempt-1"), resources=Resources(cpus=cpus)
    )


def following(earlier: Assignment) -> Assignment:
    """The next attempt, which may go on from what the earlier ones have left."""
    number = earlier.attempt + 1
    return earlier.model_copy(
        update={
            "attempt": number,
            "folder": str(Path(earlier.folder).with_name(f"attempt-{number}")),
            "earlier_folders": (*earlier.earlier_folders, earlier.folder),
        }
    )


def prepare_data(teacher: Path, text: Path, *, sequences: int = 4) -> PrepareData:
    """A job of a moment."""
    data = tiny_spec(teacher, text).data.model_copy(update={"validation_sequences": sequences})
    return PrepareData(teacher=str(teacher), data=data, training_tokens=2000)


@pytest.fixture(scope="session")
def trial(tmp_path_factory: pytest.TempPathFactory, teacher_folder: Path, text_file: Path) -> Callable[[int], Trial]:
    """Makes trials of so many tokens that are measured at five points; 100,000 tokens take some seconds."""
    folder = tmp_path_factory.mktemp("groundwork")

    def done(spec: JobSpec) -> object:
        path = folder / spec.kind
        path.mkdir()
        return run_job(AttemptFolder(assignment(spec, folder).model_copy(update={"folder": str(path)})))

    spec = tiny_spec(teacher_folder, text_file)
    prepared = done(prepare_data(teacher_folder, text_file))
    assert isinstance(prepared, DataPrepared)
    calibrated = done(
        Calibrate(
            teacher=str(teacher_folder),
            data=prepared.data,
            calibration=CalibrationSpec(samples=4),
            micro_batch_size=4,
            seed=0,
            resources=spec.resources,
        )
    )
    assert isinstance(calibrated, Calibrated)

    def of(tokens: int) -> Trial:
        return Trial(
            teacher=str(teacher_folder),
            teacher_sha256=calibrated.teacher_sha256,
            scores_file=calibrated.scores_file,
            architecture=inspect_model_folder(teacher_folder).architecture.model_copy(update={"num_hidden_layers": 2}),
            data=prepared.data,
            training=TrainingSpec(tokens=tokens, batch_size=4, warmup_steps=2, measurements=4),
            until_tokens=tokens,
            seed=0,
            resources=spec.resources,
        )

    return of


@pytest.fixture(scope="package")
def ray_of_the_run() -> Iterator[None]:
    """An embedded Ray of two cores that every RayPool of this process joins, for as long as these tests run.

    Its token is in the environment then, so that a `ray start` of a test and its drivers share it.
    """
    opened = RayPool(None, "tests", num_cpus=2)
    yield
    opened.close()
