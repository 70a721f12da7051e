"""The service: events, leases, intents, cancelling"""

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_WHOLE_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_LONG_AGO = "1970-01-01 00:00:00"


def upgrade() -> None:
    _alter_searches()
    _alter_jobs("'queued', 'running', 'succeeded', 'failed', 'cancelled'")
    op.create_index(op.f("ix_searches_state"), "searches", ["state"])
    op.create_index(op.f("ix_jobs_trial_id"), "jobs", ["trial_id"])
    op.create_index(op.f("ix_jobs_promotion_id"), "jobs", ["promotion_id"])
    with op.batch_alter_table("attempts") as attempts:
        # Attempts of before had no column for their folder: it followed from their numbers.
        attempts.add_column(sa.Column("folder", sa.String(), nullable=False, server_default=""))
        attempts.add_column(
            sa.Column("lease_until", sa.DateTime(timezone=True), nullable=False, server_default=_LONG_AGO)
        )
        attempts.add_column(sa.Column("state", sa.String(), nullable=False, server_default="running"))
    op.execute("UPDATE attempts SET state = 'succeeded' WHERE ended_at IS NOT NULL AND reason IS NULL")
    op.execute("UPDATE attempts SET state = 'failed' WHERE ended_at IS NOT NULL AND reason IS NOT NULL")
    with op.batch_alter_table("attempts") as attempts:
        attempts.alter_column("folder", server_default=None)
        attempts.alter_column("lease_until", server_default=None)
        attempts.alter_column("state", server_default=None)
        attempts.create_check_constraint(
            op.f("ck_attempts_state"), "state IN ('running', 'succeeded', 'failed', 'lost', 'cancelled')"
        )
    op.create_table(
        "events",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("project_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("search", sa.String(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("candidate_id", _WHOLE_NUMBER, nullable=True),
        sa.Column("job_id", _WHOLE_NUMBER, nullable=True),
        sa.Column("data", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_events_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_events_search_id"), "events", ["search", "id"])
    leases = op.create_table(
        "leases",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("holder", sa.String(), nullable=False),
        sa.Column("term", _WHOLE_NUMBER, nullable=False),
        sa.Column("until", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_leases")),
    )
    op.execute(leases.insert().values(name="scheduler", holder="", term=0, until=sa.text(f"'{_LONG_AGO}'")))
    installation = op.create_table(
        "installation",
        sa.Column("id", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_installation")),
    )
    op.execute(installation.insert().values(id=secrets.token_hex(8)))


def downgrade() -> None:
    """What is cancelled was failed before there was a word for it."""
    op.drop_table("installation")
    op.drop_table("leases")
    op.drop_index(op.f("ix_events_search_id"), table_name="events")
    op.drop_table("events")
    with op.batch_alter_table("attempts") as attempts:
        attempts.drop_constraint(op.f("ck_attempts_state"), type_="check")
        attempts.drop_column("state")
        attempts.drop_column("lease_until")
        attempts.drop_column("folder")
    op.drop_index(op.f("ix_jobs_promotion_id"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_trial_id"), table_name="jobs")
    op.drop_index(op.f("ix_searches_state"), table_name="searches")
    for table in ("searches", "jobs"):
        op.execute(f"UPDATE {table} SET state = 'failed', reason = 'cancelled' WHERE state = 'cancelled'")
    _alter_jobs("'queued', 'running', 'succeeded', 'failed'")
    with op.batch_alter_table("searches") as searches:
        searches.drop_constraint(op.f("ck_searches_intent"), type_="check")
        searches.drop_constraint(op.f("ck_searches_state"), type_="check")
        searches.create_check_constraint(op.f("ck_searches_state"), "state IN ('running', 'finished', 'failed')")
        searches.drop_column("num_fitting")
        searches.drop_column("teacher_dtype")
        searches.drop_column("intent")


def _alter_searches() -> None:
    with op.batch_alter_table("searches") as searches:
        searches.add_column(sa.Column("intent", sa.String(), nullable=False, server_default="run"))
        searches.add_column(sa.Column("teacher_dtype", sa.String(), nullable=True))
        searches.add_column(sa.Column("num_fitting", _WHOLE_NUMBER, nullable=False, server_default="0"))
    # Nothing was ever left out before: all that fitted are candidates.
    op.execute(
        "UPDATE searches SET num_fitting = (SELECT count(*) FROM candidates WHERE candidates.search_id = searches.id)"
    )
    with op.batch_alter_table("searches") as searches:
        searches.alter_column("intent", server_default=None)
        searches.alter_column("num_fitting", server_default=None)
        searches.drop_constraint(op.f("ck_searches_state"), type_="check")
        searches.create_check_constraint(
            op.f("ck_searches_state"), "state IN ('running', 'finished', 'failed', 'cancelled')"
        )
        searches.create_check_constraint(op.f("ck_searches_intent"), "intent IN ('run', 'cancel')")


def _alter_jobs(states: str) -> None:
    with op.batch_alter_table("jobs", table_kwargs={"sqlite_autoincrement": True}) as jobs:
        jobs.drop_constraint(op.f("ck_jobs_state"), type_="check")
        jobs.create_check_constraint(op.f("ck_jobs_state"), f"state IN ({states})")
