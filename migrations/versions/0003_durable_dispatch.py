"""Durable dispatch: what may be and what may change, retries, pausing, extensions, archiving"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_WHOLE_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

_NUMBERED = {"jobs": {"sqlite_autoincrement": True}}
"""SQLite alters a table by making it anew, and would number its rows anew as well."""

_LEGAL_MOVES = (
    "'queued to running', 'queued to cancelled', 'running to queued', 'running to succeeded', 'running to failed', "
    "'running to cancelled', 'failed to queued', 'cancelled to queued'"
)

_RULES = {
    # name: (table, of which statement, which rows it refuses, why)
    "jobs_moves": (
        "jobs",
        "UPDATE",
        f"OLD.state <> NEW.state AND (OLD.state || ' to ' || NEW.state) NOT IN ({_LEGAL_MOVES})",
        "a job cannot change its state like this",
    ),
    "jobs_succeeded": ("jobs", "UPDATE", "OLD.state = 'succeeded'", "a job that has succeeded does not change"),
    "attempts_ended": ("attempts", "UPDATE", "OLD.state <> 'running'", "an attempt that has ended does not change"),
    "measurements_fixed": ("measurements", "UPDATE", "TRUE", "a measurement does not change"),
    "sequence_losses_fixed": ("sequence_losses", "UPDATE", "TRUE", "a measurement does not change"),
    "decisions_fixed": ("decisions", "UPDATE", "TRUE", "a decision does not change"),
    "models_fixed": ("models", "UPDATE", "TRUE", "a model does not change"),
    "events_fixed": ("events", "UPDATE", "TRUE", "what has happened does not change"),
    "events_kept": ("events", "DELETE", "TRUE", "what has happened stays on record"),
}


def upgrade() -> None:
    _mend()
    _alter_searches()
    with op.batch_alter_table("promotions") as promotions:
        promotions.add_column(sa.Column("intent", sa.String(), nullable=False, server_default="run"))
        promotions.add_column(sa.Column("extensions", sa.JSON(), nullable=False, server_default="[]"))
        # Winners of before are not looked for again.
        promotions.add_column(sa.Column("num_retrained", _WHOLE_NUMBER, nullable=False, server_default=str(2**31)))
        promotions.create_check_constraint(op.f("ck_promotions_intent"), "intent IN ('run', 'pause', 'cancel')")
    with op.batch_alter_table("models") as models:
        models.add_column(sa.Column("segment", _WHOLE_NUMBER, nullable=False, server_default="0"))
        models.drop_constraint(op.f("uq_models_promotion_id"), type_="unique")
        models.create_unique_constraint(op.f("uq_models_promotion_id_segment"), ["promotion_id", "segment"])
    _alter_jobs()
    _alter_attempts()
    for table, columns in {
        "searches": ["extensions"],
        "promotions": ["intent", "extensions", "num_retrained"],
        "models": ["segment"],
        "jobs": ["losses", "segment"],
        "attempts": ["devices"],
    }.items():
        with op.batch_alter_table(table, table_kwargs=_NUMBERED.get(table, {})) as altered:
            for column in columns:
                altered.alter_column(column, server_default=None)
    # Last: SQLite alters a table by making it anew, without its triggers.
    for name, (table, statement, refused, why) in _RULES.items():
        _create_rule(name, table, statement, refused, why)


def downgrade() -> None:
    """Raises RuntimeError for searches that an older program cannot read, or would take for whole ones."""
    connection = op.get_bind()
    for table, problem, condition in (
        ("searches", "were extended", "CAST(extensions AS VARCHAR) <> '[]'"),
        ("promotions", "were extended", "CAST(extensions AS VARCHAR) <> '[]'"),
        ("searches", "are being deleted", "deleted_at IS NOT NULL"),
    ):
        if connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {condition}").scalar_one():
            raise RuntimeError(f"there are {table} that {problem}, which version 0002 cannot hold: delete them first")
    for name, (table, *_) in _RULES.items():
        _drop_rule(name, table)
    _restore_attempts()
    _restore_jobs()
    with op.batch_alter_table("models") as models:
        models.drop_constraint(op.f("uq_models_promotion_id_segment"), type_="unique")
        models.create_unique_constraint(op.f("uq_models_promotion_id"), ["promotion_id"])
        models.drop_column("segment")
    with op.batch_alter_table("promotions") as promotions:
        promotions.drop_constraint(op.f("ck_promotions_intent"), type_="check")
        promotions.drop_column("num_retrained")
        promotions.drop_column("extensions")
        promotions.drop_column("intent")
    _restore_searches()


def _mend() -> None:
    """Attempts that nothing runs under were left as running by versions before 0002."""
    current = (
        "SELECT 1 FROM jobs WHERE jobs.id = attempts.job_id AND jobs.attempt = attempts.number "
        "AND jobs.state = 'running'"
    )
    op.execute(
        "UPDATE attempts SET state = 'lost', ended_at = started_at "
        f"WHERE state = 'running' AND ended_at IS NULL AND NOT EXISTS ({current})"
    )


def _alter_searches() -> None:
    with op.batch_alter_table("searches") as searches:
        searches.add_column(sa.Column("extensions", sa.JSON(), nullable=False, server_default="[]"))
        searches.add_column(sa.Column("archived_at", sa.DateTime(timezone=True), nullable=True))
        searches.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        searches.drop_constraint(op.f("ck_searches_state"), type_="check")
        searches.drop_constraint(op.f("ck_searches_intent"), type_="check")
        searches.create_check_constraint(
            op.f("ck_searches_state"),
            "state IN ('running', 'paused', 'stopped', 'finished', 'failed', 'cancelled')",
        )
        searches.create_check_constraint(op.f("ck_searches_intent"), "intent IN ('run', 'pause', 'stop', 'cancel')")


def _restore_searches() -> None:
    """What waits for its user was cancelled before there was a word for it: taken up again, it goes on."""
    op.execute("UPDATE searches SET state = 'cancelled' WHERE state IN ('paused', 'stopped')")
    op.execute("UPDATE searches SET intent = 'cancel' WHERE intent IN ('pause', 'stop')")
    with op.batch_alter_table("searches") as searches:
        searches.drop_constraint(op.f("ck_searches_intent"), type_="check")
        searches.drop_constraint(op.f("ck_searches_state"), type_="check")
        searches.create_check_constraint(op.f("ck_searches_intent"), "intent IN ('run', 'cancel')")
        searches.create_check_constraint(
            op.f("ck_searches_state"), "state IN ('running', 'finished', 'failed', 'cancelled')"
        )
        for column in ("deleted_at", "archived_at", "extensions"):
            searches.drop_column(column)


def _alter_jobs() -> None:
    with op.batch_alter_table("jobs", table_kwargs=_NUMBERED["jobs"]) as jobs:
        jobs.add_column(sa.Column("losses", _WHOLE_NUMBER, nullable=False, server_default="0"))
        jobs.add_column(sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
        jobs.add_column(sa.Column("segment", _WHOLE_NUMBER, nullable=False, server_default="0"))
        jobs.create_check_constraint(op.f("ck_jobs_result"), "(state = 'succeeded') = (result IS NOT NULL)")
        jobs.create_check_constraint(op.f("ck_jobs_attempt"), "state <> 'running' OR attempt > 0")
    op.create_index(op.f("ix_jobs_search_id_state_id"), "jobs", ["search_id", "state", "id"])
    is_no_trial = sa.text("trial_id IS NULL")
    op.create_index("ix_jobs_no_trial", "jobs", ["search_id"], sqlite_where=is_no_trial, postgresql_where=is_no_trial)
    op.drop_index(op.f("ix_jobs_search_id"), table_name="jobs")


def _restore_jobs() -> None:
    op.create_index(op.f("ix_jobs_search_id"), "jobs", ["search_id"])
    op.drop_index("ix_jobs_no_trial", table_name="jobs")
    op.drop_index(op.f("ix_jobs_search_id_state_id"), table_name="jobs")
    with op.batch_alter_table("jobs", table_kwargs=_NUMBERED["jobs"]) as jobs:
        jobs.drop_constraint(op.f("ck_jobs_attempt"), type_="check")
        jobs.drop_constraint(op.f("ck_jobs_result"), type_="check")
        for column in ("segment", "not_before", "losses"):
            jobs.drop_column(column)


def _alter_attempts() -> None:
    with op.batch_alter_table("attempts") as attempts:
        attempts.add_column(sa.Column("node", sa.String(), nullable=True))
        attempts.add_column(sa.Column("devices", sa.Double(), nullable=False, server_default="1"))
        attempts.add_column(sa.Column("device_seconds", sa.Double(), nullable=True))
        attempts.drop_constraint(op.f("ck_attempts_state"), type_="check")
        attempts.create_check_constraint(
            op.f("ck_attempts_state"),
            "state IN ('running', 'succeeded', 'failed', 'lost', 'interrupted', 'cancelled')",
        )
        attempts.create_check_constraint(op.f("ck_attempts_ended"), "(state = 'running') = (ended_at IS NULL)")
    is_live = sa.text("state = 'running'")
    op.create_index(
        "uq_attempts_live", "attempts", ["job_id"], unique=True, sqlite_where=is_live, postgresql_where=is_live
    )


def _restore_attempts() -> None:
    op.drop_index("uq_attempts_live", table_name="attempts")
    op.execute("UPDATE attempts SET state = 'lost' WHERE state = 'interrupted'")
    with op.batch_alter_table("attempts") as attempts:
        attempts.drop_constraint(op.f("ck_attempts_ended"), type_="check")
        attempts.drop_constraint(op.f("ck_attempts_state"), type_="check")
        attempts.create_check_constraint(
            op.f("ck_attempts_state"), "state IN ('running', 'succeeded', 'failed', 'lost', 'cancelled')"
        )
        for column in ("device_seconds", "devices", "node"):
            attempts.drop_column(column)


def _create_rule(name: str, table: str, statement: str, refused: str, why: str) -> None:
    """A trigger that refuses the rows with an integrity error."""
    begins = f"BEFORE {statement} ON {table} FOR EACH ROW WHEN ({refused})"
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"CREATE TRIGGER {name} {begins} BEGIN SELECT RAISE(ABORT, '{why}'); END")
        return
    raises = f"RAISE EXCEPTION '{why}' USING ERRCODE = 'check_violation';"
    op.execute(f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {raises} END $$")
    op.execute(f"CREATE TRIGGER {name} {begins} EXECUTE FUNCTION {name}()")


def _drop_rule(name: str, table: str) -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(f"DROP TRIGGER {name}")
        return
    op.execute(f"DROP TRIGGER {name} ON {table}")
    op.execute(f"DROP FUNCTION {name}()")
