"""A whole search whose artifacts are in a store, with a worker killed in the middle; and what users see of it."""

import os
from pathlib import Path
from typing import Any

import pytest

from api.scheduler import Scheduler, utc_now
from api.services import files, outcome, viewing
from api.services.submission import submit
from api.store.database import Database
from nas.errors import CheckpointError, StoreError
from nas.jobs import Trial
from nas.pool import Assignment
from nas.spec import SearchSpec
from tests.api.conftest import new_sqlite
from tests.api.fork_pool import ForkPool
from tests.api.service import wait_for
from tests.api.test_service import assert_same
from workers import artifacts


@pytest.fixture(scope="module")
def searched(
    tmp_path_factory: pytest.TempPathFactory, store: str, whole: SearchSpec
) -> tuple[Database, list[Assignment]]:
    """The search at its end, and what was handed out for it. The first trial's first worker was killed."""
    root = f"{store}/search-{os.getpid()}"
    database = Database(new_sqlite(tmp_path_factory.mktemp("search")))
    submit(database, whole, utc_now())
    pool = ForkPool()
    scheduler = Scheduler(database, pool, root)

    def step_to_trial() -> Assignment | None:
        scheduler.step()
        return pool.submitted[-1] if isinstance(pool.submitted[-1].spec, Trial) else None

    trial = wait_for(step_to_trial)
    wait_for(lambda: any(name.endswith("/state.json") for name in artifacts.files(trial.folder)) or None)
    assert pool.process is not None
    pool.process.kill()
    pool.process.join()
    wait_for(lambda: None if scheduler.step() else True)
    scheduler.stop()
    return database, pool.submitted


def test_a_search_on_a_store_with_a_killed_worker_is_as_good_as_an_undisturbed_local_one(
    searched: tuple[Database, list[Assignment]], undisturbed: dict[str, Any]
) -> None:
    database, submitted = searched
    with database.reading() as session:
        assert_same(viewing.view(session, "tiny"), undisturbed)
    kinds = [(assignment.spec.kind, assignment.attempt) for assignment in submitted]
    trials = [("trial", 1), ("trial", 2), ("trial", 1)]
    assert kinds == [("prepare_data", 1), ("calibrate", 1), *trials, ("promotion", 1), ("export", 1)]
    killed, again = submitted[2:4]
    assert again.earlier_folders == (killed.folder,)
    assert "failure.json" not in artifacts.files(killed.folder)
    first = min(name for name in artifacts.files(again.folder) if name.startswith("checkpoints/"))
    assert first == "checkpoints/step-000000060/state.json"


def test_users_read_what_is_in_the_store(searched: tuple[Database, list[Assignment]]) -> None:
    database, submitted = searched
    with database.reading() as session:
        assert len(viewing.importance(session, "tiny").layers) == 3
        (model,) = outcome.models(session, "tiny")
        best = outcome.best(session, "tiny").checkpoint
    assert best is not None
    assert best.path == model.folder == f"{submitted[-1].folder}/model"
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {file.name for file in model.files}
    for file in model.files:
        path = files.verified(f"{model.folder}/{file.name}")
        assert path.read_bytes() == artifacts.read(f"{model.folder}/{file.name}")
        assert path.stat().st_size == file.size
    assert files.last_lines(f"{submitted[-1].folder}/log.txt", 9) == b""
    with pytest.raises(StoreError, match=r"artifacts cannot be read: .*nostore"):
        files.sizes("nostore://x")


def test_no_user_gets_what_is_not_what_was_written(searched: tuple[Database, list[Assignment]]) -> None:
    database, submitted = searched
    weights = f"{submitted[-1].folder}/model/model.safetensors"
    whole = artifacts.read(weights)
    artifacts.write(weights, whole[:-1] + bytes([whole[-1] ^ 1]))
    artifacts.write(f"{submitted[1].folder}/importance.json", b"{}")
    for copy in (Path(os.environ["TOPIARY_SCRATCH"]) / f"topiary-{os.getuid()}" / "cache").rglob("*.*"):
        if copy.is_file() and copy.suffix not in (".use", ".fetch"):
            copy.unlink()  # So that the store is asked again.
    with pytest.raises(CheckpointError, match=r"model\.safetensors: has SHA-256 \w+ where its manifest has \w+"):
        files.verified(weights)
    with (
        database.reading() as session,
        pytest.raises(CheckpointError, match=r"importance\.json: has 2 bytes where its"),
    ):
        viewing.importance(session, "tiny")
