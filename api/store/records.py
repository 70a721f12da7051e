"""What the store returns: rows turned into domain values, detached from any session."""

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from nas.architecture import Architecture
from nas.jobs import JobProgress, JobResult, JobSpec
from nas.model_folder import StoredDtype
from nas.spec import SearchSpec
from nas.states import AttemptState, Intent, JobState, SearchState

_JOB_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
_JOB_RESULT: TypeAdapter[JobResult] = TypeAdapter(JobResult)


@dataclass(frozen=True)
class SearchRecord:
    id: int
    name: str
    spec: SearchSpec
    teacher: Architecture
    teacher_dtype: StoredDtype | None
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
    """A job and its current attempt; `attempt` is 0 before the first.

    Spec and result are parsed when they are asked for: most readers of many jobs want neither.
    """

    id: int
    search_id: int
    trial_id: int | None
    promotion_id: int | None
    kind: str
    spec_content: dict[str, Any]
    state: JobState
    attempt: int
    failures: int
    result_content: dict[str, Any] | None
    reason: str | None
    user_error: bool
    progress: JobProgress | None = None

    @cached_property
    def spec(self) -> JobSpec:
        return _JOB_SPEC.validate_python(self.spec_content)

    @cached_property
    def result(self) -> JobResult | None:
        return None if self.result_content is None else _JOB_RESULT.validate_python(self.result_content)


@dataclass(frozen=True)
class AttemptRecord:
    """One try at a job of kind `kind`, of a trial or a promotion."""

    job_id: int
    kind: str
    trial_id: int | None
    promotion_id: int | None
    number: int
    state: AttemptState
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
