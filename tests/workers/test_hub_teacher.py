"""A worker whose teacher is on the Hub, in a process of its own, as a pool starts it."""

import subprocess
import sys
from pathlib import Path

import pytest

from nas.jobs import DataPrepared, PrepareData
from nas.pool import Assignment, Resources, Update
from tests.conftest import tiny_spec
from tests.nas.hub_client import environment_of
from tests.nas.hub_server import COMMIT, serving
from workers.attempt import AttemptFolder

TOKEN = "hf_secret"


def attempt(folder: Path, environment: dict[str, str], text: Path, teacher: str) -> Update:
    """The news of an attempt at preparing the text, once its process has ended."""
    folder.mkdir()
    data = tiny_spec(folder, text).data
    spec = PrepareData(teacher=teacher, data=data, training_tokens=999)
    assignment = Assignment(job_id=1, attempt=1, spec=spec, folder=str(folder), resources=Resources(cpus=1))
    (folder / "assignment.json").write_text(assignment.model_dump_json())
    command = [sys.executable, "-P", "-m", "workers.run_attempt", str(folder)]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=log, stderr=log, env=environment)
        with process:  # Standard input stays open: the end of it would end the worker.
            process.wait(timeout=120)
    news = AttemptFolder(assignment).news()
    assert news is not None
    return news


@pytest.fixture
def teacher() -> str:
    return f"hf://org/teacher@{COMMIT}"


def test_a_worker_fetches_its_teacher_and_keeps_the_token_to_itself(
    teacher_folder: Path, text_file: Path, tmp_path: Path, teacher: str
) -> None:
    with serving() as hub:
        hub.repositories["org/teacher"], hub.token = teacher_folder, TOKEN
        environment = environment_of(hub.url, tmp_path / "home", HF_TOKEN=TOKEN)
        done = attempt(tmp_path / "attempt", environment, text_file, teacher)
        assert isinstance(done.result, DataPrepared), done.failure
        assert hub.of_files("model.safetensors")
        refused = attempt(tmp_path / "refused", environment_of(hub.url, tmp_path / "empty"), text_file, teacher)
    assert refused.failure is not None
    assert refused.failure.user_error
    assert refused.failure.reason.startswith(
        f"teacher: {teacher} is not there, or may not be read (the Hub answers 401"
    )
    written = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(written) > 10
    assert not any(TOKEN.encode() in file.read_bytes() for file in written)
    assert (tmp_path / "attempt" / "log.txt").read_bytes() == b""


def test_a_worker_fails_and_may_try_again_while_the_hub_is_out_of_reach(
    text_file: Path, tmp_path: Path, teacher: str
) -> None:
    environment = environment_of("http://127.0.0.1:9", tmp_path / "home", HF_HUB_OFFLINE="1")
    failure = attempt(tmp_path / "attempt", environment, text_file, teacher).failure
    assert failure is not None
    assert not failure.user_error
    assert failure.reason.startswith(f"ServiceError: {teacher} cannot be fetched from the Hub (HF_HUB_OFFLINE is set")
