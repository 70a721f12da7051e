"""Alembic's entry point. The connection comes from api.store.database, the tables from api.store.tables."""

from alembic import context

from api.store.database import VERSION_TABLE
from api.store.tables import Base

connection = context.config.attributes["connection"]
context.configure(
    connection=connection, target_metadata=Base.metadata, version_table=VERSION_TABLE, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
connection.commit()
