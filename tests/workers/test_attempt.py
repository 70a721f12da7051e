"""The folder between attempts: what a later one takes over from an earlier one."""

from pathlib import Path

from nas.data_spec import DataSpec
from nas.jobs import Measurement, PrepareData
from nas.pool import Assignment, Resources
from workers.attempt import AttemptFolder


def attempt(folder: Path, number: int) -> AttemptFolder:
    path = folder / f"attempt-{number}"
    path.mkdir()
    spec = PrepareData(teacher="t", data=DataSpec(train="x"), training_tokens=1)
    return AttemptFolder(Assignment(job_id=1, attempt=number, spec=spec, folder=str(path), resources=Resources(cpus=1)))


def point(tokens: int, loss: float) -> Measurement:
    return Measurement(tokens=tokens, loss=loss, kl_to_teacher=0.5, loss_per_sequence=(loss,))


def test_points_of_earlier_attempts_are_told_again_and_none_twice(tmp_path: Path) -> None:
    """A checkpoint may lie behind points that no pool came to read; the attempt that goes on there reports them."""
    first, second = attempt(tmp_path, 1), attempt(tmp_path, 2)
    for measured in (point(0, 4.0), point(64, 3.0)):
        first.report_measurement(measured)
    second.report_measurement(point(0, 4.0))
    second.inherit_measurements(first.path)
    second.report_measurement(point(128, 2.0))
    news = AttemptFolder(second.assignment).news()
    assert news is not None
    assert news.measurements == (point(0, 4.0), point(64, 3.0), point(128, 2.0))
