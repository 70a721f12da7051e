"""The first tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_WHOLE_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "projects",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_projects")),
        sa.UniqueConstraint("name", name=op.f("uq_projects_name")),
    )
    op.create_table(
        "searches",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("project_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("teacher", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("finished_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint("state IN ('running', 'finished', 'failed')", name=op.f("ck_searches_state")),
        sa.ForeignKeyConstraint(["project_id"], ["projects.id"], name=op.f("fk_searches_project_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_searches")),
        sa.UniqueConstraint("project_id", "name", name=op.f("uq_searches_project_id_name")),
    )
    op.create_table(
        "candidates",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("search_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("position", _WHOLE_NUMBER, nullable=False),
        sa.Column("architecture", sa.JSON(), nullable=False),
        sa.Column("parameters", _WHOLE_NUMBER, nullable=False),
        sa.Column("non_embedding_parameters", _WHOLE_NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_candidates_search_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_candidates")),
        sa.UniqueConstraint("search_id", "position", name=op.f("uq_candidates_search_id_position")),
    )
    op.create_table(
        "trials",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("candidate_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("seed", _WHOLE_NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["candidate_id"], ["candidates.id"], name=op.f("fk_trials_candidate_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_trials")),
        sa.UniqueConstraint("candidate_id", "seed", name=op.f("uq_trials_candidate_id_seed")),
    )
    op.create_table(
        "decisions",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("trial_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("until_tokens", _WHOLE_NUMBER, nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("action IN ('advance', 'stop')", name=op.f("ck_decisions_action")),
        sa.UniqueConstraint("trial_id", "until_tokens", name=op.f("uq_decisions_trial_id_until_tokens")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_decisions_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_decisions")),
    )
    op.create_index(op.f("ix_decisions_trial_id"), "decisions", ["trial_id"], unique=False)

    op.create_table(
        "promotions",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("trial_id", _WHOLE_NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_promotions_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_promotions")),
        sa.UniqueConstraint("trial_id", name=op.f("uq_promotions_trial_id")),
    )
    op.create_table(
        "jobs",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("search_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("trial_id", _WHOLE_NUMBER, nullable=True),
        sa.Column("promotion_id", _WHOLE_NUMBER, nullable=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("spec", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("attempt", _WHOLE_NUMBER, nullable=False),
        sa.Column("failures", _WHOLE_NUMBER, nullable=False),
        sa.Column("result", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("user_error", sa.Boolean(), nullable=False),
        sa.CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed')", name=op.f("ck_jobs_state")),
        sa.ForeignKeyConstraint(["promotion_id"], ["promotions.id"], name=op.f("fk_jobs_promotion_id")),
        sa.ForeignKeyConstraint(["search_id"], ["searches.id"], name=op.f("fk_jobs_search_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_jobs_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_jobs")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_jobs_search_id"), "jobs", ["search_id"], unique=False)
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)

    op.create_table(
        "measurements",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("trial_id", _WHOLE_NUMBER, nullable=True),
        sa.Column("promotion_id", _WHOLE_NUMBER, nullable=True),
        sa.Column("tokens", _WHOLE_NUMBER, nullable=False),
        sa.Column("loss", sa.Double(), nullable=False),
        sa.Column("kl_to_teacher", sa.Double(), nullable=False),
        sa.CheckConstraint("(trial_id IS NULL) <> (promotion_id IS NULL)", name=op.f("ck_measurements_one_run")),
        sa.ForeignKeyConstraint(["promotion_id"], ["promotions.id"], name=op.f("fk_measurements_promotion_id")),
        sa.ForeignKeyConstraint(["trial_id"], ["trials.id"], name=op.f("fk_measurements_trial_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_measurements")),
        sa.UniqueConstraint("promotion_id", "tokens", name=op.f("uq_measurements_promotion_id_tokens")),
        sa.UniqueConstraint("trial_id", "tokens", name=op.f("uq_measurements_trial_id_tokens")),
    )
    op.create_table(
        "models",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("promotion_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("folder", sa.String(), nullable=False),
        sa.Column("parameters", _WHOLE_NUMBER, nullable=False),
        sa.Column("loss", sa.Double(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["promotion_id"], ["promotions.id"], name=op.f("fk_models_promotion_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_models")),
        sa.UniqueConstraint("promotion_id", name=op.f("uq_models_promotion_id")),
    )
    op.create_table(
        "attempts",
        sa.Column("id", _WHOLE_NUMBER, nullable=False),
        sa.Column("job_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("number", _WHOLE_NUMBER, nullable=False),
        sa.Column("progress", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("reason", sa.String(), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_attempts_job_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attempts")),
        sa.UniqueConstraint("job_id", "number", name=op.f("uq_attempts_job_id_number")),
    )
    op.create_table(
        "sequence_losses",
        sa.Column("measurement_id", _WHOLE_NUMBER, nullable=False),
        sa.Column("losses", sa.LargeBinary(), nullable=False),
        sa.ForeignKeyConstraint(
            ["measurement_id"], ["measurements.id"], name=op.f("fk_sequence_losses_measurement_id")
        ),
        sa.PrimaryKeyConstraint("measurement_id", name=op.f("pk_sequence_losses")),
    )


def downgrade() -> None:
    op.drop_table("sequence_losses")
    op.drop_table("attempts")
    op.drop_table("models")
    op.drop_table("measurements")
    op.drop_index(op.f("ix_jobs_state"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_search_id"), table_name="jobs")

    op.drop_table("jobs")
    op.drop_table("promotions")
    op.drop_index(op.f("ix_decisions_trial_id"), table_name="decisions")

    op.drop_table("decisions")
    op.drop_table("trials")
    op.drop_table("candidates")
    op.drop_table("searches")
    op.drop_table("projects")
