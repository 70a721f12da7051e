"""Where artifacts are to be: what is given, what follows from it, and what is refused before anything starts."""

from pathlib import Path

import pytest

from api.cli import main
from api.run_folder import check_numbering
from api.settings import Settings
from nas.errors import FolderError
from workers import artifacts


def test_artifacts_are_with_the_runs_unless_they_are_given_a_place(tmp_path: Path) -> None:
    settings = Settings(runs_folder=tmp_path / "runs")
    assert settings.artifacts == str(tmp_path / "runs")
    for given, found in {
        "s3://bucket/topiary/": "s3://bucket/topiary",
        f"file://{tmp_path}/a": f"{tmp_path}/a",
        f"{tmp_path}/a/": f"{tmp_path}/a",
        "relative": str(Path("relative").resolve()),
    }.items():
        told = settings.replaced(artifacts_url=given)
        assert told.artifacts == found
        assert told.environment["TOPIARY_ARTIFACTS"] == found


def test_a_child_process_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in Settings(runs_folder=tmp_path, artifacts_url="s3://b").environment.items():
        monkeypatch.setenv(name, value)
    assert Settings.from_environment().artifacts == "s3://b"


def test_jobs_in_a_store_without_their_database_are_refused(root: str, tmp_path: Path) -> None:
    artifacts.write(f"{root}/jobs/000001/attempt-1/log.txt", b"")
    with pytest.raises(FolderError, match=r"^--artifacts: .* holds jobs whose database is gone"):
        check_numbering(root, tmp_path / "topiary.db", option="--artifacts")
    (tmp_path / "topiary.db").touch()
    check_numbering(root, tmp_path / "topiary.db", option="--artifacts")


def test_a_service_does_not_start_on_a_store_that_has_no_driver(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--runs", str(tmp_path), "--port", "0", "--artifacts", "gs://bucket"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("topiary: TOPIARY_ARTIFACTS: gs://bucket/jobs needs a driver")
    assert "pip install 'topiary-nas[s3]'" in told
