"""What the doctor finds, each time with something that is really so; it waits for nothing and changes nothing."""

import json
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
from alembic import command
from filelock import FileLock
from sqlalchemy import create_engine, text

from api.doctor import (
    LEAST_BYTES,
    LITTLE_BYTES,
    Check,
    Finding,
    Verdict,
    artifacts,
    database,
    dtype,
    findings,
    free_space,
    ray,
    runs,
)
from api.doctor import used as used_devices
from api.scheduler import LEASE, utc_now
from api.settings import Settings
from api.store.database import Database, alembic_config
from api.store.store import Store
from tests.ray_head import free_port
from workers.inspection import Device, Machine


def settings_of(tmp_path: Path, **given: str) -> Settings:
    return Settings(runs_folder=tmp_path / "runs").replaced(**given)


def told(found: list[Finding]) -> dict[str, tuple[Verdict, str]]:
    """By check; whoever is not all right is told what to do."""
    assert all(bool(each.advice) is (each.verdict is not Verdict.OK) for each in found)
    return {each.check: (each.verdict, each.found) for each in found}


# --- the database -------------------------------------------------------------------------------------------


def test_a_database_of_either_kind_that_is_fit_for_use(database_url: str, tmp_path: Path) -> None:
    found = told(database(settings_of(tmp_path, database_url=database_url)))
    assert [verdict for verdict, _ in found.values()] == [Verdict.OK] * 3
    assert found["database"][1].startswith("SQLite" if database_url.startswith("sqlite") else "PostgreSQL")
    assert found["database"][1].endswith("can be read and written")
    assert "up to date" in found["tables"][1]
    assert found["scheduler"][1] == "none acts on this database now"


def test_a_scheduler_at_work_is_seen_and_not_disturbed(database_url: str, tmp_path: Path) -> None:
    store, now = Database(database_url), utc_now()
    with store.transaction() as session:
        before = Store(session).leases.take(LEASE, "somebody", now=now, seconds=60)
    assert before is not None
    found = told(database(settings_of(tmp_path, database_url=database_url)))
    assert found["scheduler"] == (Verdict.OK, "one acts on this database")
    with store.transaction() as session:
        assert Store(session).leases.take(LEASE, "somebody", now=now + timedelta(seconds=1), seconds=60) == before
    store.close()


def test_a_database_that_is_not_there_yet_is_not_made(tmp_path: Path) -> None:
    found = told(database(settings_of(tmp_path)))
    assert found == {"database": (Verdict.WARNING, f"there is no {tmp_path / 'runs' / 'topiary.db'} yet")}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("version", ["0001", None])
def test_tables_of_an_older_version(database_url: str, tmp_path: Path, version: str | None) -> None:
    store = Database(database_url)
    with store._engine.connect() as connection:
        command.downgrade(alembic_config(connection), version or "base")
    store.close()
    found = database(settings_of(tmp_path, database_url=database_url))
    verdict, says = told(found)["tables"]
    assert says.startswith(f"version {version or 'none'}, and this program needs ")
    by_itself = database_url.startswith("sqlite")
    assert verdict is (Verdict.WARNING if by_itself else Verdict.PROBLEM)
    assert ("`topiary serve`" if by_itself else "`topiary migrate`") in found[-1].advice


def test_tables_of_a_newer_version(database_url: str, tmp_path: Path) -> None:
    engine = create_engine(database_url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE topiary_alembic_version SET version_num = '9999'"))
    engine.dispose()
    verdict, says = told(database(settings_of(tmp_path, database_url=database_url)))["tables"]
    assert verdict is Verdict.PROBLEM
    assert says.startswith("version 9999, newer than this program's ")


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    url = f"postgresql://somebody:secret@127.0.0.1:{free_port()}/topiary"
    verdict, says = told(database(settings_of(tmp_path, database_url=url)))["database"]
    assert verdict is Verdict.PROBLEM
    assert "cannot be used" in says
    assert "secret" not in says
    assert "\n" not in says


@pytest.mark.parametrize("url", ["oracle://somewhere", "no url", "sqlite:////proc/version", "sqlite:////proc"])
def test_what_is_no_database_of_ours(tmp_path: Path, url: str) -> None:
    assert told(database(settings_of(tmp_path, database_url=url)))["database"][0] is Verdict.PROBLEM


# --- where artifacts go -------------------------------------------------------------------------------------


def test_a_folder_of_runs_in_use_stays_so(tmp_path: Path) -> None:
    settings = settings_of(tmp_path)
    assert told(runs(settings))["runs"][1].startswith(f"{settings.runs_folder}, which is not there yet: ")
    settings.runs_folder.mkdir()
    with FileLock(settings.runs_folder / "lock"):
        assert told(runs(settings))["runs"][1].endswith("; a service that runs here has it")
    verdict, says = told(runs(settings))["runs"]
    assert verdict is not Verdict.PROBLEM
    assert says.startswith(f"{settings.runs_folder}: ")
    assert "service" not in says
    assert [file.name for file in settings.runs_folder.iterdir()] == ["lock"]


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    settings = settings_of(tmp_path, artifacts_url=str(tmp_path / "file" / "artifacts"))
    settings = settings.replaced(runs_folder=tmp_path / "file" / "runs")
    says = f"{tmp_path / 'file'} cannot be written (Not a directory)"
    assert told(runs(settings)) == {"runs": (Verdict.PROBLEM, says)}
    assert told(artifacts(settings)) == {"artifacts": (Verdict.PROBLEM, says)}


def test_little_space_is_told_before_there_is_none() -> None:
    sizes = (LITTLE_BYTES, LITTLE_BYTES - 1, LEAST_BYTES, LEAST_BYTES - 1)
    verdicts = [free_space("runs", "/runs", free, 1e12).verdict for free in sizes]
    assert verdicts == [Verdict.OK, Verdict.WARNING, Verdict.WARNING, Verdict.PROBLEM]
    assert told([free_space("runs", "/runs", 8.2e9, 252e9)])["runs"][1] == "/runs: 8.20 GB free of 252 GB"


def test_a_store_of_artifacts_is_written_and_left_as_it_was(tmp_path: Path) -> None:
    assert told(artifacts(settings_of(tmp_path))) == {"artifacts": (Verdict.OK, "with the runs")}
    elsewhere = settings_of(tmp_path, artifacts_url=str(tmp_path / "elsewhere"))
    assert told(artifacts(elsewhere))["artifacts"][1].startswith(f"{tmp_path / 'elsewhere'}, which is not there yet: ")
    for url, verdict in (("memory://store", Verdict.OK), ("nothing-like-it://store", Verdict.PROBLEM)):
        assert told(artifacts(settings_of(tmp_path, artifacts_url=url)))["artifacts"][0] is verdict
    assert not list(tmp_path.iterdir())


# --- what computes ------------------------------------------------------------------------------------------


def test_devices_that_jobs_do_not_use_are_told() -> None:
    cpu, gpu = (
        Device(kind="cpu", name="8 cores", memory_bytes=10**10),
        Device(kind="mps", name="GPU", memory_bytes=10**10),
    )
    plain = Machine(torch_version="2.13", devices=(cpu,), used="cpu", auto_dtype="bfloat16")
    assert told([used_devices(plain), dtype(plain)]) == {
        "devices": (Verdict.OK, "torch 2.13: cpu (8 cores, 10.0 GB)"),
        "dtype": (Verdict.OK, "bfloat16 is native on the cpu: `auto` means that"),
    }
    other = plain.model_copy(update={"devices": (gpu, cpu), "auto_dtype": "float32"})
    found = told([used_devices(other), dtype(other)])
    assert [verdict for verdict, _ in found.values()] == [Verdict.WARNING] * 2
    assert found["devices"][1].endswith("; jobs compute on the cpu")


def test_a_ray_of_its_own_starts(tmp_path: Path) -> None:
    verdict, says = told(ray(settings_of(tmp_path)))["ray"]
    assert verdict is Verdict.OK
    assert "one of its own starts here: 1 node" in says


# --- the whole ----------------------------------------------------------------------------------------------


def test_a_check_that_hangs_holds_up_nothing(tmp_path: Path) -> None:
    def hangs(settings: Settings) -> list[Finding]:
        time.sleep(30)
        return []

    began = time.monotonic()
    found = list(findings(settings_of(tmp_path), [Check("slow", hangs, 0.2), Check("runs", runs, 10)]))
    assert time.monotonic() - began < 10
    assert told(found)["slow"] == (Verdict.PROBLEM, "no answer within 0.2 s")
    assert told(found)["runs"][0] is Verdict.OK


def test_the_command_prints_all_findings_and_fails_for_a_problem(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    arguments = ["--runs", str(tmp_path), "--ray-address", address, "--json"]
    ended = subprocess.run(
        [sys.executable, "-m", "api.cli", "doctor", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (1, "")
    found = told([Finding(**{**each, "verdict": Verdict(each["verdict"])}) for each in json.loads(ended.stdout)])
    assert list(found) == ["database", "runs", "artifacts", "devices", "dtype", "ray"]
    assert found["devices"][1].startswith("torch ")
    assert found["ray"][0] is Verdict.PROBLEM
    assert address in found["ray"][1]
