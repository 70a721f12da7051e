"""Engines and transactions, and the migrations that build the tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, create_engine, event, func, inspect, make_url, select
from sqlalchemy.exc import ArgumentError, DataError, DBAPIError, IntegrityError, SQLAlchemyError, TimeoutError
from sqlalchemy.orm import Session

from api.store.events import Events
from api.store.tables import LeaseRow
from nas.errors import SettingError, StoreError

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
VERSION_TABLE = "topiary_alembic_version"
"""Our own, so that another program in the same database keeps its."""

LOCK_SECONDS = 10
"""A table that others hold for longer is not waited for by a migration: all who come after would wait as well."""

_SQLITE_BUSY_SECONDS = 30
_ACCEPTED = "an SQLAlchemy URL such as sqlite:////path/topiary.db or postgresql://user:password@host/name"


class Database:
    """One database by URL, SQLite or PostgreSQL; `reading()` and `transaction()` are the only ways in.

    Raises SettingError for a URL of anything else.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        self.url = self._engine.url.render_as_string(hide_password=False)
        self.is_sqlite = self._engine.dialect.name == "sqlite"
        # A reader sees one moment of the store, and keeps no writer waiting.
        options: dict[str, Any] = {"topiary_reads_only": True}
        if not self.is_sqlite:
            options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
        self._reader = self._engine.execution_options(**options)

    @property
    def sqlite_file(self) -> Path:
        """Where an SQLite database is."""
        return Path(self._engine.url.database or "").resolve()

    def migrate(self, *, lock_seconds: float = LOCK_SECONDS) -> None:
        """Brings the tables to the newest version.

        Raises StoreError, among the rest if PostgreSQL does not get hold of a table for so many seconds.
        """
        with self._migrating() as connection:
            command.upgrade(alembic_config(connection, lock_seconds), "head")

    def step_down(self) -> None:
        """Brings the tables to the version before theirs.

        Raises StoreError, also for what that could not hold, for the first version, and while a scheduler acts.
        """
        with self._migrating() as connection:
            config = alembic_config(connection)
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            found = context.get_current_revision()
            before = None if found is None else ScriptDirectory.from_config(config).get_revision(found).down_revision
            if before is None:
                raise StoreError(f"the database {self._engine.url} has no version before {found or 'none'}")
            if inspect(connection).has_table(LeaseRow.__tablename__):
                until = connection.scalar(select(func.max(LeaseRow.until)))
                if until is not None and until > datetime.now(UTC):
                    raise StoreError(f"a service works on the database {self._engine.url}: stop it first")
            connection.rollback()
            command.downgrade(config, "-1")

    @contextmanager
    def _migrating(self) -> Iterator[Connection]:
        try:
            with self._engine.connect() as connection:
                yield connection
        except DBAPIError as error:
            is_locked = "lock timeout" in str(error.orig)
            advice = ": stop what else uses the database, then migrate again" if is_locked else ""
            problem = " ".join(str(error.orig).split())
            raise StoreError(f"the database {self._engine.url} cannot be migrated: {problem}{advice}") from error
        except RuntimeError as error:
            raise StoreError(f"the database {self._engine.url} cannot be migrated: {error}") from error

    def check_version(self) -> None:
        """Raises StoreError unless the tables are of the version that this program needs."""
        if self.is_sqlite and not self.sqlite_file.exists():
            raise StoreError(f"there is no database {self.sqlite_file}: `topiary serve` or `topiary migrate` makes one")
        with self._failures(), self._engine.connect() as connection:
            newest = ScriptDirectory.from_config(alembic_config(connection)).get_current_head()
            context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
            found = context.get_current_revision()
        if found != newest:
            raise StoreError(
                f"the database {self._engine.url} has tables of version {found or 'none'}, "
                f"this program needs {newest}: run `topiary migrate` with the same database"
            )

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end, events last, or rolls back on any exception.

        Raises StoreError where the database itself is what fails.
        """
        with self._failures(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session
            Events(session).write()

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one moment of the store and changes nothing. Raises StoreError like `transaction`."""
        with self._failures(), Session(self._reader) as session:
            yield session

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise  # Of a statement, not of the database.
        except DBAPIError as error:
            raise StoreError(f"the database {self._engine.url} cannot be used: {error.orig}") from error
        except TimeoutError as error:
            raise StoreError(f"the database {self._engine.url} has no connection free: {error}") from error

    def close(self) -> None:
        self._engine.dispose()


def alembic_config(connection: Connection, lock_seconds: float = LOCK_SECONDS) -> Config:
    """What Alembic's commands need to work on this connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    config.attributes["lock_seconds"] = lock_seconds
    return config


def _engine(url: str) -> Engine:
    try:
        parsed = make_url(url)
        if parsed.drivername in ("postgresql", "postgres"):
            parsed = parsed.set(drivername="postgresql+psycopg")
        if parsed.get_backend_name() not in ("sqlite", "postgresql"):
            raise SettingError("TOPIARY_DATABASE", parsed.get_backend_name(), "is not a store Topiary knows", _ACCEPTED)
        # One connection for each thread that a web server's handlers may run in, and some for everything else.
        if parsed.get_backend_name() == "sqlite" and parsed.database in (None, "", ":memory:"):
            raise SettingError("TOPIARY_DATABASE", url, "names no file", _ACCEPTED)
        engine = create_engine(parsed, pool_pre_ping=True, pool_size=10, max_overflow=40)
    except (ArgumentError, SQLAlchemyError) as error:
        raise SettingError("TOPIARY_DATABASE", url, "is not the URL of a database", _ACCEPTED) from error
    if engine.dialect.name == "sqlite":
        _prepare_sqlite(engine)
    return engine


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # pysqlite would begin transactions of its own.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_SECONDS * 1000}")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # A transaction that reads first and writes later could not wait for another writer: it would fail.
        reads_only = connection.get_execution_options().get("topiary_reads_only", False)
        connection.exec_driver_sql("BEGIN" if reads_only else "BEGIN IMMEDIATE")
