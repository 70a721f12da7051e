"""The tables. Rows are never response models; what crosses a border is converted in the repository.

What a row may become is held by triggers, which the migrations make: a job moves as nas.states.LEGAL_MOVES says, and
what has succeeded, ended, been measured, decided, exported or told never changes.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


# Token and parameter counts pass 2^31. SQLite's integers are wide anyway, and number rows only under this name.
_WHOLE_NUMBER = BigInteger().with_variant(Integer, "sqlite")


class UtcDateTime(TypeDecorator[datetime]):
    """A time with its zone, stored in UTC; SQLite would drop the zone."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is not None and value.tzinfo is None:
            raise ValueError(f"{value} has no time zone")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own form
        dict[str, Any]: JSON,
        list[Any]: JSON,
        datetime: UtcDateTime,
        int: _WHOLE_NUMBER,
    }


class ProjectRow(Base):
    __tablename__ = "projects"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)


class SearchRow(Base):
    __tablename__ = "searches"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        CheckConstraint("state IN ('running', 'paused', 'stopped', 'finished', 'failed', 'cancelled')", name="state"),
        CheckConstraint("intent IN ('run', 'pause', 'stop', 'cancel')", name="intent"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str]
    spec: Mapped[dict[str, Any]]
    teacher: Mapped[dict[str, Any]]
    teacher_dtype: Mapped[str | None]
    """Of its weights, and so of what students are stored in; not known of searches older than the column."""
    num_fitting: Mapped[int]
    """Shapes that fit the budget; with a sample size, more than there are candidates."""
    state: Mapped[str] = mapped_column(index=True)
    intent: Mapped[str]
    reason: Mapped[str | None]
    created_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    extensions: Mapped[list[Any]]
    """What was added to the spec since, an Extension each."""
    archived_at: Mapped[datetime | None]
    deleted_at: Mapped[datetime | None]
    """Since when it is being deleted; the row goes last, after the artifacts."""


class CandidateRow(Base):
    __tablename__ = "candidates"
    __table_args__ = (UniqueConstraint("search_id", "position"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    position: Mapped[int]
    architecture: Mapped[dict[str, Any]]
    parameters: Mapped[int]
    non_embedding_parameters: Mapped[int]


class TrialRow(Base):
    __tablename__ = "trials"
    __table_args__ = (UniqueConstraint("candidate_id", "seed"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    candidate_id: Mapped[int] = mapped_column(ForeignKey("candidates.id"))
    seed: Mapped[int]


class DecisionRow(Base):
    """What a strategy said, in the order in which it said it."""

    __tablename__ = "decisions"
    __table_args__ = (
        CheckConstraint("action IN ('advance', 'stop')", name="action"),
        UniqueConstraint("trial_id", "until_tokens"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), index=True)
    action: Mapped[str]
    until_tokens: Mapped[int | None]
    reason: Mapped[str | None]
    made_at: Mapped[datetime]


class PromotionRow(Base):
    __tablename__ = "promotions"
    __table_args__ = (CheckConstraint("intent IN ('run', 'pause', 'cancel')", name="intent"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int] = mapped_column(ForeignKey("trials.id"), unique=True)
    intent: Mapped[str]
    extensions: Mapped[list[Any]]
    """Tokens that were added to the spec's since, one number each."""
    num_retrained: Mapped[int]
    """How many trials had ended well when it was decided: with more, winners are looked for again."""


_IS_NO_TRIAL = text("trial_id IS NULL")


class JobRow(Base):
    __tablename__ = "jobs"
    __table_args__ = (
        CheckConstraint("state IN ('queued', 'running', 'succeeded', 'failed', 'cancelled')", name="state"),
        CheckConstraint("(state = 'succeeded') = (result IS NOT NULL)", name="result"),
        CheckConstraint("state <> 'running' OR attempt > 0", name="attempt"),
        Index(None, "search_id", "state", "id"),
        # The few jobs of a search that are no trials, among thousands.
        Index("ix_jobs_no_trial", "search_id", sqlite_where=_IS_NO_TRIAL, postgresql_where=_IS_NO_TRIAL),
        {"sqlite_autoincrement": True},  # A number names a folder, so none is given out twice.
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    search_id: Mapped[int] = mapped_column(ForeignKey("searches.id"))
    trial_id: Mapped[int | None] = mapped_column(ForeignKey("trials.id"), index=True)
    promotion_id: Mapped[int | None] = mapped_column(ForeignKey("promotions.id"), index=True)
    kind: Mapped[str]
    spec: Mapped[dict[str, Any]]
    state: Mapped[str] = mapped_column(index=True)
    attempt: Mapped[int]
    failures: Mapped[int]
    losses: Mapped[int]
    """How often its worker was lost since it last came further."""
    not_before: Mapped[datetime | None]
    """When it may be tried again, after a failure."""
    segment: Mapped[int]
    """Of its trial or promotion: 0, and one more for every extension by tokens."""
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None]
    user_error: Mapped[bool]
    """Whether it failed for something that the user gave, which another attempt would meet again."""


_IS_LIVE = text("state = 'running'")


class AttemptRow(Base):
    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("job_id", "number"),
        CheckConstraint(
            "state IN ('running', 'succeeded', 'failed', 'lost', 'interrupted', 'cancelled')", name="state"
        ),
        CheckConstraint("(state = 'running') = (ended_at IS NULL)", name="ended"),
        Index("uq_attempts_live", "job_id", unique=True, sqlite_where=_IS_LIVE, postgresql_where=_IS_LIVE),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    job_id: Mapped[int] = mapped_column(ForeignKey("jobs.id"))
    number: Mapped[int]
    state: Mapped[str]
    folder: Mapped[str]
    node: Mapped[str | None]
    """Where it runs, as the pool names its nodes; None until it is known."""
    devices: Mapped[float]
    """What it counts for in device hours."""
    device_seconds: Mapped[float | None]
    """What it came to; None while it runs, and of attempts older than the column."""
    lease_until: Mapped[datetime]
    """Until when its worker may stay silent before it is given up as lost."""
    progress: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    reason: Mapped[str | None]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]


class MeasurementRow(Base):
    """A point of the curve of a trial, or of a promotion."""

    __tablename__ = "measurements"
    __table_args__ = (
        UniqueConstraint("trial_id", "tokens"),
        UniqueConstraint("promotion_id", "tokens"),
        CheckConstraint("(trial_id IS NULL) <> (promotion_id IS NULL)", name="one_run"),
    )
    id: Mapped[int] = mapped_column(primary_key=True)
    trial_id: Mapped[int | None] = mapped_column(ForeignKey("trials.id"))
    promotion_id: Mapped[int | None] = mapped_column(ForeignKey("promotions.id"))
    tokens: Mapped[int]
    loss: Mapped[float]
    kl_to_teacher: Mapped[float]


class SequenceLossesRow(Base):
    """The loss of every validation sequence at a measurement, little-endian float32; apart, since lists skip it."""

    __tablename__ = "sequence_losses"
    measurement_id: Mapped[int] = mapped_column(ForeignKey("measurements.id"), primary_key=True)
    losses: Mapped[bytes] = mapped_column(LargeBinary)


class ModelRow(Base):
    """What a promotion ended in; an extended one ends again."""

    __tablename__ = "models"
    __table_args__ = (UniqueConstraint("promotion_id", "segment"),)
    id: Mapped[int] = mapped_column(primary_key=True)
    promotion_id: Mapped[int] = mapped_column(ForeignKey("promotions.id"))
    segment: Mapped[int]
    folder: Mapped[str]
    parameters: Mapped[int]
    loss: Mapped[float]
    created_at: Mapped[datetime]


class EventRow(Base):
    """One thing that happened; rows are only ever added.

    Named by search, not tied to its row: what happened stays on record when a search gives way to a mended spec.
    """

    __tablename__ = "events"
    __table_args__ = (Index(None, "search", "id"), {"sqlite_autoincrement": True})
    id: Mapped[int] = mapped_column(primary_key=True)
    project_id: Mapped[int] = mapped_column(ForeignKey("projects.id"))
    search: Mapped[str]
    at: Mapped[datetime]
    kind: Mapped[str]
    candidate_id: Mapped[int | None]
    job_id: Mapped[int | None]
    data: Mapped[dict[str, Any]]


class LeaseRow(Base):
    """Who may act; `term` counts the changes of holder."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    term: Mapped[int]
    until: Mapped[datetime]


class InstallationRow(Base):
    """The one row that tells this store from any other on the same Ray cluster."""

    __tablename__ = "installation"
    id: Mapped[str] = mapped_column(primary_key=True)
