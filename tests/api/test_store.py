"""The store: built by its migrations, and refusing what may not be."""

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta, timezone
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Engine, TextClause, create_engine, inspect, select, text
from sqlalchemy.exc import IntegrityError

from api.scheduler import Scheduler
from api.services.extending import extend
from api.services.submission import enumerate_spec, submit
from api.services.viewing import view
from api.store.database import VERSION_TABLE, Database, alembic_config
from api.store.store import Store
from api.store.tables import Base, MeasurementRow, SequenceLossesRow
from nas.errors import ConflictError, SettingError, SpecError, StoreError
from nas.extension import Extension
from nas.jobs import Measurement, PrepareData
from nas.pool import Resources
from nas.states import LEGAL_MOVES, AttemptState, Intent, JobState
from nas.views import EventKind
from tests.api.conftest import new_sqlite
from tests.api.instant_pool import InstantPool, succeed
from tests.conftest import tiny_spec

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


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


def test_a_database_of_another_version_is_told(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'topiary.db'}")
    with pytest.raises(StoreError, match=r"there is no database .*: `topiary serve` or `topiary migrate` makes one"):
        database.check_version()
    (tmp_path / "topiary.db").touch()
    with pytest.raises(StoreError, match=r"has tables of version none, this program needs \d+: run `topiary migrate`"):
        database.check_version()
    database.migrate()
    database.check_version()
    database.close()


@pytest.mark.parametrize("url", ["mysql://host/name", "no url", "postgres+nothing://x"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(SettingError, match=r"TOPIARY_DATABASE: .*accepted: an SQLAlchemy URL"):
        Database(url)


def test_searches_of_before_the_service_survive_its_migration(
    database_url: str, teacher_folder: Path, text_file: Path
) -> None:
    """Down to the first version and up again, with a finished search in the store."""
    database = Database(database_url)
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    turns = Scheduler(database, InstantPool(succeed), Path("/run"), clock=lambda: NOW)
    while turns.step():
        pass
    with database.reading() as session:
        before = view(session, "tiny")
    engine = create_engine(database.url)
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0001")
    engine.dispose()
    database.migrate()
    with database.reading() as session:
        assert view(session, "tiny") == before
        assert Store(session).searches.named("tiny").teacher_dtype is None
    database.close()


def test_a_transaction_that_fails_leaves_nothing(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    with pytest.raises(KeyError), database.transaction() as session:
        Store(session).searches.add(spec, enumerate_spec(spec), NOW)
        raise KeyError
    with database.reading() as session:
        assert Store(session).searches.newest_first() == []
        assert Store(session).events.newest() == 0


def test_a_reader_sees_one_moment_and_keeps_no_writer_waiting(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    with database.reading() as session:
        assert Store(session).searches.find("tiny") is None
        submit(database, spec, NOW)
        assert Store(session).searches.find("tiny") is None
    with database.reading() as session:
        assert Store(session).searches.named("tiny").spec == spec


def test_a_search_is_read_as_it_was_written(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    local = datetime(2026, 11, 22, 14, tzinfo=timezone(timedelta(hours=2)))
    submit(database, spec, local)
    with database.reading() as session:
        store = Store(session)
        search = store.searches.named("tiny")
        candidates = store.candidates.of_search(search.id)
    assert search.spec == spec
    assert search.created_at == NOW
    assert (search.teacher_dtype, search.num_fitting) == ("bfloat16", 4)
    assert [candidate.architecture.label for candidate in candidates] == [
        "3 x 36 x 64 x 4/2", "3 x 36 x 32 x 4/2", "2 x 48 x 64 x 4/2", "2 x 48 x 32 x 4/2"
    ]  # fmt: skip


def test_the_same_spec_is_the_same_search_and_another_is_refused(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    first = submit(database, tiny_spec(teacher_folder, text_file), NOW)
    again = submit(database, tiny_spec(teacher_folder, text_file), NOW)
    assert (first.created, again.created, again.search_id) == (True, False, first.search_id)
    with pytest.raises(ConflictError, match=r"name: tiny names a search that was begun with another seed;"):
        submit(database, tiny_spec(teacher_folder, text_file, seed=1), NOW)


def test_more_than_256_shapes_need_a_sample_size(database: Database, teacher_folder: Path, text_file: Path) -> None:
    space = {"hidden_size": [48, 44, 40, 36], "intermediate_size": list(range(1, 65)), "num_hidden_layers": [3, 2]}
    wide: dict[str, object] = {"budget": {"parameters": 40_000, "tolerance": 0.9}, "space": space}
    assert enumerate_spec(tiny_spec(teacher_folder, text_file, **wide)).num_fitting == 512
    with pytest.raises(
        SpecError, match="sample_size: nothing is given, but 512 shapes fit the budget; accepted: a num"
    ):
        submit(database, tiny_spec(teacher_folder, text_file, **wide), NOW)
    submit(database, tiny_spec(teacher_folder, text_file, **wide, sample_size=20), NOW)
    with database.reading() as session:
        search = Store(session).searches.named("tiny")
        assert search.num_fitting == 512
        assert len(Store(session).candidates.of_search(search.id)) == 20


def test_the_first_measurement_of_a_point_stays(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    search_id = submit(database, spec, NOW).search_id
    losses = (1.25, 2.75)
    with database.transaction() as session:
        store = Store(session)
        trial_id = store.candidates.of_search(search_id)[0].trials[0].id
        store.jobs.add(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1), NOW, trial_id=trial_id)
        (job,) = store.jobs.of_search(search_id)
        store.curves.record(job, Measurement(tokens=64, loss=2.0, kl_to_teacher=0.5, loss_per_sequence=losses), NOW)
        store.curves.record(job, Measurement(tokens=64, loss=9.0, kl_to_teacher=9.0, loss_per_sequence=(9.0,)), NOW)
        (point,) = store.curves.of_search(search_id).of_trial[trial_id]
        assert (point.tokens, point.loss, point.kl_to_teacher) == (64, 2.0, 0.5)
        stored = session.scalars(select(SequenceLossesRow.losses)).one()
        assert np.frombuffer(stored, dtype="<f4").tolist() == list(losses)
    with database.reading() as session:
        told = Store(session).events.after(0, search="tiny", limit=99)
    assert [event.data["loss"] for event in told if event.kind is EventKind.MEASURED] == [2.0], "told once"


def test_a_job_is_started_once(database: Database, teacher_folder: Path, text_file: Path) -> None:
    spec = tiny_spec(teacher_folder, text_file)
    search_id = submit(database, spec, NOW).search_id
    with database.transaction() as session:
        store = Store(session)
        store.jobs.add(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1), NOW)
        (job,) = store.jobs.queued(search_id, NOW)
        started = store.jobs.start_attempt(job, "/f", NOW, NOW)
        assert started is not None
        assert started.attempt == 1
        assert store.jobs.start_attempt(job, "/f", NOW, NOW) is None
        assert store.jobs.start_attempt(started, "/f", NOW, NOW) is None


def test_a_measurement_belongs_to_one_run(database: Database, teacher_folder: Path, text_file: Path) -> None:
    with pytest.raises(IntegrityError, match="one_run"), database.transaction() as session:
        session.add(MeasurementRow(tokens=1, loss=1.0, kl_to_teacher=0.0))
        session.flush()


def test_events_of_a_transaction_that_is_rolled_back_are_not_told(
    database: Database, teacher_folder: Path, text_file: Path
) -> None:
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    with database.reading() as session:
        before = Store(session).events.newest()
    with pytest.raises(KeyError), database.transaction() as session:
        store = Store(session)
        store.searches.ask(store.searches.named("tiny").id, Intent.CANCEL, NOW)
        raise KeyError
    with database.reading() as session:
        assert Store(session).events.newest() == before


# --- what may be, and what may change -----------------------------------------------------------------------


@pytest.fixture
def finished(database: Database, teacher_folder: Path, text_file: Path) -> Database:
    """With one search that went through all its jobs."""
    submit(database, tiny_spec(teacher_folder, text_file), NOW)
    turns = Scheduler(database, InstantPool(succeed), Path("/run"), clock=lambda: NOW)
    while turns.step():
        pass
    return database


REFUSED = {
    "UPDATE jobs SET reason = 'x' WHERE kind = 'export'": "a job that has succeeded does not change",
    "UPDATE attempts SET folder = '/x' WHERE id = 1": "an attempt that has ended does not change",
    "UPDATE attempts SET state = 'running', ended_at = NULL WHERE id = 1": "an attempt that has ended does not change",
    "UPDATE measurements SET loss = 0.1": "a measurement does not change",
    "UPDATE sequence_losses SET losses = ''": "a measurement does not change",
    "UPDATE decisions SET until_tokens = 1": "a decision does not change",
    "UPDATE models SET loss = 0.1": "a model does not change",
    "UPDATE events SET kind = 'promoted'": "what has happened does not change",
    "DELETE FROM events": "what has happened stays on record",
    "UPDATE searches SET state = 'lost'": "ck_searches_state",
    "UPDATE searches SET intent = 'sleep'": "ck_searches_intent",
    "UPDATE promotions SET intent = 'stop'": "ck_promotions_intent",
}


def test_what_is_finished_does_not_change(finished: Database) -> None:
    for statement, why in REFUSED.items():
        with pytest.raises(IntegrityError, match=why), finished.transaction() as session:
            session.execute(text(statement))


@pytest.fixture
def job_id(database: Database, teacher_folder: Path, text_file: Path) -> int:
    spec = tiny_spec(teacher_folder, text_file)
    search_id = submit(database, spec, NOW).search_id
    with database.transaction() as session:
        store = Store(session)
        store.jobs.add(search_id, PrepareData(teacher="t", data=spec.data, training_tokens=1), NOW)
        return store.jobs.of_search(search_id)[0].id


def test_a_job_moves_as_its_table_says(database: Database, job_id: int) -> None:
    """The database holds to nas.states, whoever writes to it."""
    for old, new in product(JobState, JobState):
        with database.transaction() as session:
            for state in _path(old):
                session.execute(_to(state))
            allowed = new in LEGAL_MOVES[old] or (new is old and old is not JobState.SUCCEEDED)
            with nullcontext() if allowed else pytest.raises(IntegrityError), session.begin_nested():
                session.execute(_to(new))
            session.rollback()


def _to(state: JobState) -> TextClause:
    result = "'{}'" if state is JobState.SUCCEEDED else "NULL"
    return text(f"UPDATE jobs SET state = '{state}', attempt = 1, result = {result}")


def _path(state: JobState) -> list[JobState]:
    """The moves from the queue to a state."""
    if state is JobState.QUEUED:
        return []
    return [JobState.RUNNING] if state is JobState.RUNNING else [JobState.RUNNING, state]


def test_a_state_comes_with_what_it_means(database: Database, job_id: int) -> None:
    for change, why in {"state = 'running'": "ck_jobs_attempt", "result = '{}'": "ck_jobs_result"}.items():
        with pytest.raises(IntegrityError, match=why), database.transaction() as session:
            session.execute(text(f"UPDATE jobs SET {change}"))


def test_one_attempt_at_a_job_is_live(database: Database, job_id: int) -> None:
    with database.transaction() as session:
        Store(session).attempts.begin(job_id, 1, "/1", Resources(cpus=1), NOW, NOW)
    with pytest.raises(IntegrityError, match=r"uq_attempts_live|attempts\.job_id"), database.transaction() as session:
        Store(session).attempts.begin(job_id, 2, "/2", Resources(cpus=1), NOW, NOW)
    with database.transaction() as session:
        Store(session).attempts.end(job_id, 1, AttemptState.LOST, "gone", NOW + timedelta(hours=1))
        Store(session).attempts.begin(job_id, 2, "/2", Resources(cpus=1, gpus=0.5), NOW, NOW)
        assert Store(session).attempts.device_seconds(1, NOW + timedelta(hours=2)) == 3600 + 0.5 * 7200
    with pytest.raises(IntegrityError, match="ck_attempts_ended"), database.transaction() as session:
        session.execute(text("UPDATE attempts SET state = 'failed' WHERE number = 2"))


# --- migrations ---------------------------------------------------------------------------------------------


def test_the_migrations_make_every_constraint_of_the_tables(database: Database, tmp_path: Path) -> None:
    """Alembic compares no checks, nor what an index is of: so a store is made from the tables, and both are read."""
    made = create_engine(database.url)
    if made.dialect.name == "sqlite":
        expected = create_engine(f"sqlite:///{tmp_path / 'expected.db'}")
    else:
        with made.begin() as connection:
            connection.execute(text("CREATE SCHEMA expected"))
        expected = create_engine(database.url, connect_args={"options": "-c search_path=expected"})
    Base.metadata.create_all(expected)
    for table in Base.metadata.tables:
        assert _constraints(made, table) == _constraints(expected, table)
    made.dispose()
    expected.dispose()


def _constraints(engine: Engine, table: str) -> dict[str, object]:
    found = inspect(engine)
    return {
        "columns": {each["name"]: (str(each["type"]), each["nullable"]) for each in found.get_columns(table)},
        "checks": {each["name"]: "".join(each["sqltext"].split()) for each in found.get_check_constraints(table)},
        "unique": {each["name"]: each["column_names"] for each in found.get_unique_constraints(table)},
        "indexes": {
            each["name"]: (
                each["column_names"],
                each["unique"],
                {key: str(value) for key, value in each.get("dialect_options", {}).items()},
            )
            for each in found.get_indexes(table)
        },
        "references": {each["name"]: each["referred_table"] for each in found.get_foreign_keys(table)},
    }


def test_a_step_down_and_up_again_keeps_what_is_on_record(finished: Database) -> None:
    """What has no word in the older version waits there as cancelled."""
    with finished.transaction() as session:
        session.execute(text("UPDATE searches SET state = 'paused', intent = 'pause'"))
    with finished.reading() as session:
        before = view(session, "tiny", NOW)
    finished.step_down()
    engine = create_engine(finished.url)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT state, intent FROM searches")).one() == ("cancelled", "cancel")
    engine.dispose()
    finished.migrate()
    with finished.reading() as session:
        after = view(session, "tiny", NOW)
    changed = {"state": before.state, "intent": before.intent, "spent": before.spent}
    assert (after.state, after.intent) == ("cancelled", "cancel")
    assert after.spent.device_hours == 0, "what devices were used for is forgotten"
    assert after.model_copy(update=changed) == before


def test_no_step_down_with_searches_that_the_older_version_cannot_hold(finished: Database) -> None:
    extend(finished, "tiny", Extension(seeds=1), NOW)
    with pytest.raises(StoreError, match="cannot be migrated: there are searches that were extended"):
        finished.step_down()
    finished.check_version()
    with finished.reading() as session:
        assert len(view(session, "tiny").leaderboard) == 4


def test_a_migration_gives_up_on_a_table_that_others_hold(
    postgresql_database: str,
) -> None:
    database = Database(postgresql_database)
    engine = create_engine(database.url)
    with engine.connect() as connection:
        command.downgrade(alembic_config(connection), "0002")
    with engine.connect() as holder:
        holder.execute(text("SELECT count(*) FROM jobs"))  # Within a transaction that stays open.
        with pytest.raises(StoreError, match="lock timeout: stop what else uses the database, then migrate again"):
            database.migrate(lock_seconds=0.2)
    database.migrate()
    database.check_version()
    engine.dispose()
    database.close()


def test_no_step_down_from_the_first_version_or_under_a_service(tmp_path: Path) -> None:
    database = Database(new_sqlite(tmp_path))
    with database.transaction() as session:
        Store(session).leases.take("scheduler", "me", now=datetime.now(UTC), seconds=60)
    with pytest.raises(StoreError, match=r"a service works on the database .*: stop it first"):
        database.step_down()
    with database.transaction() as session:
        Store(session).leases.vacate("scheduler", now=datetime.now(UTC))
    database.step_down()
    database.step_down()
    with pytest.raises(StoreError, match="has no version before 0001"):
        database.step_down()
    database.migrate()
    database.close()
