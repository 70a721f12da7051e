"""What the repository returns: rows turned into domain values, detached from any session."""

from dataclasses import dataclass
from datetime import datetime

from nas.architecture import Architecture
from nas.jobs import JobProgress, JobResult, JobSpec, JobState
from nas.spec import SearchSpec
from nas.views import SearchState


@dataclass(frozen=True)
class SearchRecord:
    id: int
    name: str
    spec: SearchSpec
    teacher: Architecture
    state: SearchState
    reason: str | None
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate and its one trial; more seeds would be more trials."""

    id: int
    trial_id: int
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
class PromotionRecord:
    id: int
    trial_id: int


@dataclass(frozen=True)
class ModelRecord:
    promotion_id: int
    folder: str
    parameters: int
    loss: float
