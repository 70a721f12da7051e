"""Addresses of artifacts: which fields of jobs and results hold them, and where attempts write."""

from itertools import product
from pathlib import Path, PurePosixPath

import pytest

from nas.addresses import Artifact, attempt_folder, attempt_folder_of, is_url, mapped
from nas.border import Border
from nas.jobs import Calibrated, Continuation, DataFiles, DataPrepared, Exported, MergeScores, Trial
from nas.training_spec import TrainingSpec
from tests.nas.shapes import small_llama
from tests.nas.test_jobs import RESOURCES

FILES = DataFiles(train_file="t", validation_file="v", sequence_length=32, validation_sequences=4)
CALIBRATED = Calibrated(
    scores_file="s", importance_file=None, samples=1, loss=None, dtype="float32", teacher_sha256="a"
)
TRIAL = Trial(
    teacher="given",
    teacher_sha256="a",
    scores_file="s",
    architecture=small_llama(),
    data=FILES,
    training=TrainingSpec(tokens=1280, peak_learning_rate=1e-3),
    until_tokens=1280,
    seed=0,
    resources=RESOURCES,
    continues=Continuation(weights="w", tokens=1, first_sequence=1),
)


@pytest.mark.parametrize(
    ("content", "addresses"),
    [
        (DataPrepared(data=FILES, training_tokens=1, validation_tokens=1), {"t": (".json",), "v": (".json",)}),
        (CALIBRATED, {"s": ()}),
        (CALIBRATED.model_copy(update={"importance_file": "i"}), {"s": (), "i": ()}),
        (MergeScores(scores_files=("1", "2"), calibration=TRIAL.calibration), {"1": (), "2": ()}),
        (Exported(folder="m", parameters=1, loss=1.0), {"m": ()}),
        (TRIAL, {"t": (".json",), "v": (".json",), "s": (), "w": ()}),
    ],
)
def test_every_artifact_of_a_job_is_found_and_nothing_else(
    content: Border, addresses: dict[str, tuple[str, ...]]
) -> None:
    found: dict[str, tuple[str, ...]] = {}

    def change(address: str, mark: Artifact) -> str:
        found[address] = mark.beside
        return f"changed {address}"

    changed = mapped(content, change)
    assert found == addresses
    text = content.model_dump_json()
    for address in addresses:
        text = text.replace(f'"{address}"', f'"changed {address}"')
    assert changed.model_dump_json() == text
    assert mapped(content, lambda address, mark: address) == content


@pytest.mark.parametrize("root", [Path("/run"), "/run", "/run/", "s3://bucket", "s3://bucket/some/where/"])
def test_no_two_attempts_write_into_the_same_folder(root: Path | str) -> None:
    """Nor one below another's."""
    numbers = [1, 2, 11, 12, 111, 1_000_001]
    folders = [attempt_folder(root, job, attempt) for job, attempt in product(numbers, numbers)]
    assert len(set(folders)) == len(numbers) ** 2
    assert not any(f"{one}/".startswith(f"{other}/") for one, other in product(folders, folders) if one != other)
    assert all(folder.startswith(str(root).rstrip("/") + "/jobs/") for folder in folders)
    assert all(attempt_folder_of(f"{folder}/model/config.json") == (folder, "model/config.json") for folder in folders)


@pytest.mark.parametrize("given", ["/data/scores.safetensors", "/run/jobs/000001/attempt-1", "jobs/1/attempt-1/x", "w"])
def test_what_no_attempt_wrote_is_told_apart(given: str) -> None:
    assert attempt_folder_of(given) is None


def test_a_url_is_told_from_a_path() -> None:
    assert is_url("s3://bucket/x")
    assert not is_url(str(PurePosixPath("/run/a:b/x")))
