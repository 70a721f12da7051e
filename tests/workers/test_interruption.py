"""An attempt that is told to end, in its own process: what it leaves, whatever kind of job it is."""

from pathlib import Path

import pytest

from nas.errors import Interrupted
from nas.jobs import JobProgress, PrepareData
from nas.pool import Assignment, Resources
from tests.conftest import tiny_spec
from workers.attempt import AttemptFolder
from workers.run_attempt import run


@pytest.fixture
def attempt(tmp_path: Path, teacher_folder: Path, text_file: Path) -> AttemptFolder:
    spec = PrepareData(teacher=str(teacher_folder), data=tiny_spec(teacher_folder, text_file).data, training_tokens=999)
    folder = tmp_path / "attempt-1"
    folder.mkdir()
    return AttemptFolder(Assignment(job_id=1, attempt=1, spec=spec, folder=str(folder), resources=Resources(cpus=1)))


def test_a_job_that_trains_nothing_ends_at_its_next_report(
    attempt: AttemptFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to say why is believed."""
    report = attempt.report_progress

    def told_as_it_reports(progress: JobProgress) -> None:
        attempt.tell_to_end("told to end")
        attempt.tell_to_end("told again")
        report(progress)

    monkeypatch.setattr(attempt, "report_progress", told_as_it_reports)
    run(attempt)
    news = AttemptFolder(attempt.assignment).news()
    assert news is not None
    assert news.failure is not None
    assert news.failure.interrupted
    assert news.failure.reason == "told to end; nothing was saved"
    assert news.progress is None


def test_a_report_of_what_saves_its_state_itself_does_not_end_it(attempt: AttemptFolder) -> None:
    now = JobProgress(done=1, total=1, unit="tokens")
    attempt.tell_to_end("told to end")
    attempt.report_progress(now, may_end=False)
    with pytest.raises(Interrupted):
        attempt.report_progress(now)
    news = AttemptFolder(attempt.assignment).news()
    assert news is not None
    assert news.progress == now
