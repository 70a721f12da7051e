"""Alembic's entry point. The connection comes from api.store.database, the tables from api.store.tables."""

from alembic import context

from api.store.database import VERSION_TABLE
from api.store.tables import Base

MIGRATING = 0x70BB  # Any number: two that migrate at once wait for one another.

connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
    transaction_per_migration=False,
)
is_sqlite = connection.dialect.name == "sqlite"
if is_sqlite:
    # SQLite alters a table by making it anew: dropping the old one must not touch the rows that refer to it.
    # Within a transaction the pragma would do nothing, so it goes to the driver before one begins.
    connection.connection.driver_connection.execute("PRAGMA foreign_keys=OFF")
try:
    with context.begin_transaction():
        if not is_sqlite:
            milliseconds = int(1000 * context.config.attributes["lock_seconds"])
            connection.exec_driver_sql(f"SET LOCAL lock_timeout = {milliseconds}")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({MIGRATING})")
        context.run_migrations()
        if is_sqlite and (broken := connection.exec_driver_sql("PRAGMA foreign_key_check").all()):
            raise RuntimeError(f"the migration would leave rows without what they refer to: {broken}")
    connection.commit()
finally:
    if is_sqlite:
        connection.rollback()
        connection.connection.driver_connection.execute("PRAGMA foreign_keys=ON")
