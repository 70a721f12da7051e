"""Engines and transactions, and the migrations that build the tables."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, DataError, IntegrityError
from sqlalchemy.orm import Session

from nas.errors import StoreError

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
VERSION_TABLE = "topiary_alembic_version"
"""Our own, so that another program in the same database keeps its."""

_SQLITE_BUSY_SECONDS = 30


class Database:
    """One database by URL; `transaction()` is the only way in."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._engine = create_engine(url)
        if self._engine.dialect.name == "sqlite":
            _prepare_sqlite(self._engine)

    def migrate(self) -> None:
        """Brings the tables to the newest version."""
        with self._failures(), self._engine.connect() as connection:
            command.upgrade(alembic_config(connection), "head")

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A session that commits at the end, or rolls back on any exception.

        Raises StoreError where the database itself is what fails.
        """
        with self._failures(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except (IntegrityError, DataError):
            raise  # Of a statement, not of the database.
        except DatabaseError as error:
            raise StoreError(f"the database {self._engine.url} cannot be used: {error.orig}") from error

    def close(self) -> None:
        self._engine.dispose()


def alembic_config(connection: Connection) -> Config:
    """What Alembic's commands need to work on this connection."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    return config


def _prepare_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # pysqlite would begin transactions of its own.
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute(f"PRAGMA busy_timeout={_SQLITE_BUSY_SECONDS * 1000}")

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        # A transaction that reads first and writes later could not wait for another writer: it would fail.
        connection.exec_driver_sql("BEGIN IMMEDIATE")
