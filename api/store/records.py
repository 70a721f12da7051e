"""What the store returns: rows turned into domain values, detached from any session."""

from dataclasses import dataclass
from datetime import datetime

from nas.architecture import Architecture
from nas.jobs import JobProgress, JobResult, JobSpec
from nas.spec import SearchSpec
from nas.states import Intent, JobState, SearchState


@dataclass(frozen=True)
class SearchRecord:
    id: int
    name: str
    spec: SearchSpec
    teacher: Architecture
    teacher_dtype: str | None
    num_fitting: int
    state: SearchState
    intent: Intent
    reason: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate and its one trial; more seeds would be more trials."""

    id: int
    trial_id: int
    seed: int
    architecture: Architecture
    parameters: int
    non_embedding_parameters: int


@dataclass(frozen=True)
class JobRecord:
    """A job and its current attempt; `attempt` is 0 before the first."""

    id: int
    search_id: int
    trial_id: int | None
    promotion_id: int | None
    spec: JobSpec
    state: JobState
    attempt: int
    failures: int
    result: JobResult | None
    reason: str | None
    user_error: bool
    progress: JobProgress | None = None


@dataclass(frozen=True)
class AttemptRecord:
    """One try at a job of kind `kind`, of a trial or a promotion."""

    job_id: int
    kind: str
    trial_id: int | None
    promotion_id: int | None
    number: int
    folder: str
    started_at: datetime
    ended_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class LiveAttempt:
    """What runs according to the store, and until when it may stay silent."""

    job_id: int
    number: int
    lease_until: datetime


@dataclass(frozen=True)
class PromotionRecord:
    id: int
    trial_id: int


@dataclass(frozen=True)
class ModelRecord:
    id: int
    promotion_id: int
    folder: str
    parameters: int
    loss: float
    created_at: datetime
