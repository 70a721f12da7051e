"""The store: built by its migrations, and refusing what may not be."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine, inspect, select
from sqlalchemy.exc import IntegrityError

from api.services.submission import submit
from api.store.database import VERSION_TABLE, Database, alembic_config
from api.store.repository import Repository
from api.store.tables import Base, MeasurementRow, SequenceLossesRow
from nas.errors import ConflictError, IllegalMove
from nas.jobs import JobState, Measurement, PrepareData
from tests.conftest import tiny_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path / 'topiary.db'}")
    database.migrate()
    yield database
    database.close()


def test_migrations_build_exactly_the_tables(database: Database) -> None:
    engine = create_engine(database.url)
    with engine.connect() as connection:
        options = {"compare_type": True, "version_table": VERSION_TABLE}
        assert compare_metadata(MigrationContext.configure(connection, opts=options), Base.metadata) == []
    engine.dispose()


def test_migrations_go_down_to_nothing_and_up_again(database: Database) -> None:
    engine = create_engine(database.url)
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == [VERSION_TABLE]
    database.migrate()
    with engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, VERSION_TABLE}
    engine.dispose()


def test_a_transaction_that_fails_leaves_nothing(database: Database, teacher_folder: Path, text_file: Path) -> None:
    with pytest.raises(KeyError), database.transaction() as session:
        submit(session, tiny_spec(teacher_folder, text_file), NOW)
        raise KeyError
    with database.transaction() as session:
        assert Repository(session).searches() == []


def test_a_search_is_read_as_it_was_written(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    local = datetime(2026, 11, 22, 14, tzinfo=timezone(timedelta(hours=2)))
    with database.transaction() as session:
        search_id = submit(session, spec, local)
    with database.transaction() as session:
        search = Repository(session).search(search_id)
        candidates = Repository(session).candidates(search_id)
    assert search.spec == spec
    assert search.created_at == NOW
    assert [candidate.architecture.label for candidate in candidates] == [
        "3 x 36 x 64 x 4", "3 x 36 x 32 x 4", "2 x 48 x 64 x 4", "2 x 48 x 32 x 4"
    ]  # fmt: skip


def test_the_same_spec_is_the_same_search_and_another_is_refused(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    with database.transaction() as session:
        first = submit(session, tiny_spec(teacher_folder, text_file), NOW)
        assert submit(session, tiny_spec(teacher_folder, text_file), NOW) == first
        with pytest.raises(ConflictError, match=r"name: tiny names a search that was begun with another seed;"):
            submit(session, tiny_spec(teacher_folder, text_file, seed=1), NOW)


def test_the_first_measurement_of_a_point_stays(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    with database.transaction() as session:
        repository = Repository(session)
        search_id = submit(session, spec, NOW)
        trial_id = repository.candidates(search_id)[0].trial_id
        repository.add_job(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1), trial_id=trial_id)
        (job,) = repository.jobs(search_id)
        losses = (1.25, 2.75)
        repository.record_measurement(
            job, Measurement(tokens=64, loss=2.0, kl_to_teacher=0.5, loss_per_sequence=losses)
        )
        repository.record_measurement(
            job, Measurement(tokens=64, loss=9.0, kl_to_teacher=9.0, loss_per_sequence=(9.0, 9.0))
        )
        (point,) = repository.curves(search_id).of_trial[trial_id]
        assert (point.tokens, point.loss, point.kl_to_teacher) == (64, 2.0, 0.5)
        stored = session.scalars(select(SequenceLossesRow.losses)).one()
        assert np.frombuffer(stored, dtype="<f4").tolist() == list(losses)


def test_illegal_moves_are_refused(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    with database.transaction() as session:
        repository = Repository(session)
        search_id = submit(session, spec, NOW)
        repository.add_job(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1))
        (job,) = repository.jobs_in(JobState.QUEUED)
        assert repository.start_attempt(job.id, NOW).attempt == 1
        with pytest.raises(IllegalMove, match=f"job {job.id} cannot go from running to running"):
            repository.start_attempt(job.id, NOW)


def test_a_measurement_belongs_to_one_run(database: Database, teacher_folder: Path, text_file: Path) -> None:
    with pytest.raises(IntegrityError, match="one_run"), database.transaction() as session:
        submit(session, tiny_spec(teacher_folder, text_file), NOW)
        session.add(MeasurementRow(tokens=1, loss=1.0, kl_to_teacher=0.0))
