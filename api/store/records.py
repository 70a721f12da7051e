"""What the store returns: rows turned into domain values, detached from any session."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from pydantic import TypeAdapter

from nas.architecture import Architecture
from nas.extension import Extension, segment_ends, trial_segments
from nas.jobs import JobProgress, JobResult, JobSpec
from nas.model_folder import StoredDtype
from nas.spec import SearchSpec
from nas.states import AttemptState, Intent, JobState, SearchState
from nas.training_spec import TrialSpec

_JOB_SPEC: TypeAdapter[JobSpec] = TypeAdapter(JobSpec)
_JOB_RESULT: TypeAdapter[JobResult] = TypeAdapter(JobResult)


@dataclass(frozen=True)
class SearchRecord:
    """A search; spec and extensions are parsed when they are asked for."""

    id: int
    name: str
    spec_content: dict[str, Any]
    extensions_content: list[Any]
    teacher_content: dict[str, Any]
    teacher_dtype: StoredDtype | None
    num_fitting: int
    state: SearchState
    intent: Intent
    reason: str | None
    created_at: datetime
    finished_at: datetime | None
    archived_at: datetime | None

    @cached_property
    def spec(self) -> SearchSpec:
        """As it was submitted."""
        # Searches of before there was a choice were taught by logits alone, however deep the cut, and were exhaustive.
        before = {"distillation": {"hidden_states": []}, "strategy": {"kind": "exhaustive"}}
        return SearchSpec.model_validate({**before, **self.spec_content})

    @cached_property
    def extensions(self) -> tuple[Extension, ...]:
        """What was added since."""
        return tuple(Extension.model_validate(content) for content in self.extensions_content)

    @cached_property
    def teacher(self) -> Architecture:
        return Architecture.model_validate(self.teacher_content)

    @property
    def trial_segments(self) -> tuple[TrialSpec, ...]:
        """How each of its trials is retrained, one after another."""
        return trial_segments(self.spec, self.extensions)

    @property
    def trial_ends(self) -> tuple[int, ...]:
        """The tokens behind a trial at the end of each segment."""
        return segment_ends(self.trial_segments, self.spec.data.sequence_length)

    @property
    def ends_at_once(self) -> bool:
        """Whether its user, or what it may spend, wants that what runs ends with a checkpoint."""
        return self.intent is Intent.PAUSE or (self.intent is Intent.STOP and self.reason is not None)


@dataclass(frozen=True)
class TrialRecord:
    """The retraining of a candidate with one seed."""

    id: int
    seed: int
    stopped: str | None = None
    """Why the strategy gave it up, if it did."""


def seeds_of(candidates: "Sequence[CandidateRecord]") -> list[int]:
    """All seeds of a search, the spec's own first; candidates that were given up have not got the later ones."""
    return [trial.seed for trial in max((each.trials for each in candidates), key=len)]


@dataclass(frozen=True)
class CandidateRecord:
    """A candidate and its trials, that of the spec's own seed first."""

    id: int
    trials: tuple[TrialRecord, ...]
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
    losses: int
    segment: int
    result_content: dict[str, Any] | None
    reason: str | None
    user_error: bool
    not_before: datetime | None = None
    progress: JobProgress | None = None

    @property
    def run(self) -> object:
        """The same for all jobs that go on from each other's checkpoints; Attempts.of_run asks the store for it."""
        if self.trial_id is None and self.promotion_id is None:
            return self.id
        return self.kind, self.trial_id, self.promotion_id, self.segment

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
    node: str | None
    folder: str
    started_at: datetime
    ended_at: datetime | None
    reason: str | None


@dataclass(frozen=True)
class LiveAttempt:
    """What runs according to the store, and until when it may stay silent."""

    job_id: int
    number: int
    search_id: int
    promotion_id: int | None
    lease_until: datetime


@dataclass(frozen=True)
class PromotionRecord:
    """A promotion, decided once `num_retrained` trials were; `extensions` are the tokens added to the spec's."""

    id: int
    trial_id: int
    intent: Intent
    extensions: tuple[int, ...]
    num_retrained: int


@dataclass(frozen=True)
class ModelRecord:
    id: int
    promotion_id: int
    segment: int
    folder: str
    parameters: int
    loss: float
    created_at: datetime
