"""A database with one search of four candidates, submitted; of both kinds where a test is marked so."""

from pathlib import Path

import pytest

from api.services.submission import submit
from api.store.database import Database
from nas.spec import SearchSpec
from tests.api.conftest import new_sqlite
from tests.api.lifecycle.turns import START
from tests.conftest import tiny_spec


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both where the statements or their locks are of another kind; for the rest one will do."""
    if "database" in metafunc.fixturenames:
        both = metafunc.definition.get_closest_marker("on_both_databases") is not None
        metafunc.parametrize("database_url", ["sqlite", "postgresql"] if both else ["sqlite"], indirect=True)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return (
        str(request.getfixturevalue("postgresql_database")) if request.param == "postgresql" else new_sqlite(tmp_path)
    )


@pytest.fixture
def spec(teacher_folder: Path, text_file: Path) -> SearchSpec:
    return tiny_spec(teacher_folder, text_file)


@pytest.fixture
def database(database: Database, spec: SearchSpec) -> Database:
    submit(database, spec, START)
    return database
