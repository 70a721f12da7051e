"""What a user sees of searches: the same objects on the command line, over REST, and in the Python client."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, JsonValue

from nas.architecture import Architecture
from nas.border import Border
from nas.cost import Cost
from nas.distillation_spec import DistillationSpec
from nas.extension import Extension
from nas.jobs import JobProgress
from nas.rank_stability import RankMovement
from nas.ranking import CurvePoint, Standing
from nas.spec import SpendingSpec
from nas.states import AttemptState, Intent, JobState, PromotionState, SearchState, TrialState
from nas.training_cost import TrainingCost
from nas.training_record import Rollback, TextSample
from nas.training_views import CorrectionView, SweepView

# --- before anything is spent -------------------------------------------------------------------------------


class CandidateView(Border):
    """A candidate before anything is spent on it: what it costs to store and to serve, and what its trial takes.

    `budgeted` is what the enumeration's `limits` are held against, in their order. `milliseconds` of a forward pass are
    there where the spec's budget names a table of measured latency.
    """

    architecture: Architecture
    cost: Cost
    trial: TrainingCost
    share_of_teacher: float
    budgeted: tuple[float, ...]
    milliseconds: float | None = None


class Removal(Border):
    """A rule or limit, and how many shapes it removed of those that the ones before it had left."""

    rule: str
    shapes: int


class LimitView(Border):
    """A limit of the budget: its field, and what it says."""

    field: str
    rule: str


class EnumerationView(Border):
    """What a spec's space and budget leave of a teacher; starts nothing.

    Of `num_shapes` in the space, `removed` were left out and `num_fitting` fit; `limits` are the budget's.
    `num_candidates` of those that fit are what a search would retrain: all, or the spec's sample; `candidates` is a
    page of these. `weights_checked`: the teacher's tensors were held against its config, else there was only a config.
    """

    teacher: Architecture
    teacher_dtype: str
    teacher_cost: Cost
    teacher_milliseconds: float | None = None
    weights_checked: bool
    num_shapes: int
    removed: tuple[Removal, ...]
    limits: tuple[LimitView, ...]
    num_fitting: int
    num_candidates: int
    candidates: tuple[CandidateView, ...]


# --- a search -----------------------------------------------------------------------------------------------


class JobView(Border):
    """A job that is not done: queued, running, failed or cancelled.

    `reason` says what became of an earlier attempt, or what a queued one waits for; `not_before` is when a job that has
    failed may be tried again.
    """

    job_id: int
    kind: str
    candidate_id: int | None
    state: JobState
    attempt: int
    not_before: datetime | None
    progress: JobProgress | None
    reason: str | None


class PromotionView(Border):
    """The full distillation of a candidate, and the folder of the model it ended in.

    `intent` is what its user wants of it; `extensions` are the tokens that were added to the spec's. `accuracy` is that
    of its trial, where the spec has a gate.
    `exported_loss` is that of the folder itself, its weights rounded to the dtype they are stored in.
    """

    id: int
    candidate_id: int
    architecture: Architecture
    curve: tuple[CurvePoint, ...]
    state: PromotionState
    intent: Intent
    extensions: tuple[int, ...]
    model_id: int | None
    folder: str | None
    parameters: int | None
    exported_loss: float | None
    accuracy: float | None = None


class Spent(Border):
    """What a search has used: `tokens` of retraining, `device_hours` of all attempts, what these cost where a device
    has a price, and the hours from its submission to its end.
    """

    tokens: int
    device_hours: float
    money: float | None
    wall_hours: float


class SearchSummary(Border):
    """A search in a list. `intent` is what its user wants of it, and what a running one is being brought to.

    `tokens_done` counts all retraining, of `tokens_total`, promotions included. `best` is the first of its leaderboard.
    """

    id: int
    name: str
    state: SearchState
    intent: Intent
    created_at: datetime
    finished_at: datetime | None
    teacher: Architecture
    archived_at: datetime | None
    num_candidates: int
    num_retrained: int
    tokens_done: int
    tokens_total: int
    best: Standing | None


class SearchView(Border):
    """A search as it stands; see SearchSummary for the fields they share.

    `reason` says why it failed, what has stopped it, or why a finished one has promoted nobody. `extensions` are what
    was added since it was submitted, `spending` is what stops it now. `correction` is there once its teacher is
    corrected, `sweep` once the rate of its trials is chosen, if its spec asks for that; `teacher_loss` is then the
    corrected one's.
    `user_error` says that it failed for something in its spec, teacher or text. `tokens_per_second` sums the running
    trials and promotions; `seconds_left` follows from it, where it can be told. `rank_movements` say how much the order
    has changed from measurement to measurement.
    """

    id: int
    name: str
    state: SearchState
    intent: Intent
    reason: str | None
    user_error: bool
    created_at: datetime
    finished_at: datetime | None
    archived_at: datetime | None
    extensions: tuple[Extension, ...]
    spending: SpendingSpec
    spent: Spent
    teacher: Architecture
    teacher_parameters: int
    teacher_loss: float | None
    num_fitting: int
    correction: CorrectionView | None = None
    sweep: SweepView | None = None
    tokens_done: int
    tokens_total: int
    tokens_per_second: float
    seconds_left: float | None
    leaderboard: tuple[Standing, ...]
    rank_movements: tuple[RankMovement, ...] = ()
    promotions: tuple[PromotionView, ...]
    jobs: tuple[JobView, ...]

    def is_same_but_for_time(self, other: object) -> bool:
        """Whether nothing has changed but what time alone changes: what is spent."""
        return isinstance(other, SearchView) and self == other.model_copy(update={"spent": self.spent})


class AttemptView(Border):
    """One try at a job; `reason` says why it ended without a result, `node` where it ran, `folder` where it wrote."""

    job_id: int
    kind: str
    number: int
    state: AttemptState
    started_at: datetime
    ended_at: datetime | None
    reason: str | None
    node: str | None
    folder: str


class TrialView(Border):
    """The retraining of a candidate with one seed."""

    seed: int
    state: TrialState
    curve: tuple[CurvePoint, ...]


class RetrainingView(Border):
    """A trial or promotion that has ended, or a part of it that an extension added.

    `rollbacks` are where it went back to a checkpoint, `samples` what teacher and student write at its end.
    """

    job_id: int
    kind: Literal["trial", "promotion"]
    rollbacks: tuple[Rollback, ...]
    samples: tuple[TextSample, ...]


class SourcePoint(Border):
    """The loss on one source, in nats per token, after `tokens` tokens: the mean over the trials measured there."""

    tokens: int
    loss: float
    num_seeds: int = 1


class SourceCurve(Border):
    """A candidate's loss on the validation sequences of one of several sources, while its trials and promotion ran."""

    name: str
    validation_sequences: int
    trial: tuple[SourcePoint, ...]
    promotion: tuple[SourcePoint, ...]


class CandidateDetails(Border):
    """All that is on record of one candidate: its row, its curves, and every attempt at its jobs.

    `cost` is not known of searches that were begun before the teacher's dtype was kept. `kept_layers` are the teacher's
    layers that it came from, None until its trial has ended, or where they were not kept on record. `curve` is the mean
    of its `trials`' curves, one for each seed. `retrainings` are those that have ended, the newest last. `sources` are
    empty where the text is one source. `distillation` is the spec's, with `auto` decided for this candidate, and
    `targets` those of its trials. `accuracy` is the share of the gate's questions that it has answered rightly, None if
    it was not asked.
    """

    search: str
    standing: Standing
    cost: Cost | None
    share_of_teacher: float
    kept_layers: tuple[int, ...] | None = None
    distillation: DistillationSpec = Field(default_factory=DistillationSpec)
    targets: str = "live"
    curve: tuple[CurvePoint, ...]
    trials: tuple[TrialView, ...]
    sources: tuple[SourceCurve, ...] = ()
    accuracy: float | None = None
    promotion: PromotionView | None
    attempts: tuple[AttemptView, ...]
    retrainings: tuple[RetrainingView, ...] = ()


class Checkpoint(Border):
    """Weights of a candidate as they are on disk.

    A `model` is a whole Hugging Face folder, what promotion ended in; `trial` weights are one safetensors file in
    float32, to be used with the config that comes with them. `loss` is measured on these weights.
    """

    kind: Literal["model", "trial"]
    path: str
    model_id: int | None
    tokens: int
    loss: float


class BestView(Border):
    """The best architecture so far, with a config.json that transformers loads, and its best weights if there are any.

    `final`: the search is finished, so nothing can overtake it. `config` is None while it depends on which of the
    teacher's layers stay, and the trial has not ended. `costs` are what constraints are held against, by name;
    milliseconds are there where a constraint is on them.
    """

    search: str
    final: bool
    standing: Standing
    costs: dict[str, float] = Field(default_factory=dict)
    config: dict[str, JsonValue] | None
    checkpoint: Checkpoint | None


class ModelFile(Border):
    name: str
    size: int


class ModelView(Border):
    """What a promotion ended in: a Hugging Face folder, and its files."""

    id: int
    search: str
    candidate_id: int
    promotion_id: int
    architecture: Architecture
    parameters: int
    loss: float
    folder: str
    created_at: datetime
    files: tuple[ModelFile, ...]


# --- what happened ------------------------------------------------------------------------------------------


class EventKind(StrEnum):
    SEARCH_CREATED = "search_created"
    SEARCH_PAUSING = "search_pausing"
    SEARCH_STOPPING = "search_stopping"
    SEARCH_CANCELLING = "search_cancelling"
    SEARCH_RESUMED = "search_resumed"
    SEARCH_PAUSED = "search_paused"
    SEARCH_STOPPED = "search_stopped"
    SEARCH_ENDED = "search_ended"
    SEARCH_EXTENDED = "search_extended"
    SEARCH_ARCHIVED = "search_archived"
    SEARCH_UNARCHIVED = "search_unarchived"
    SEARCH_DELETED = "search_deleted"
    JOB_QUEUED = "job_queued"
    JOB_STARTED = "job_started"
    JOB_ENDED = "job_ended"
    MEASURED = "measured"
    DECIDED = "decided"
    PROMOTED = "promoted"
    PROMOTION_PAUSING = "promotion_pausing"
    PROMOTION_CANCELLING = "promotion_cancelling"
    PROMOTION_RESUMED = "promotion_resumed"
    PROMOTION_EXTENDED = "promotion_extended"
    EXPORTED = "exported"


class EventView(Border):
    """One thing that happened, once; ids grow in the order in which events became visible.

    What `data` holds, by kind:
    search_created: candidates, fitting; search_stopping, search_paused, search_stopped: reason, if it was not the user;
    search_extended: candidates, tokens, seeds, spending, those that were given; promotion_*: promotion_id, and of
    promotion_extended tokens; search_ended: state, reason; job_queued: job_kind, reason (of the attempt that
    ended without a result, if one did); job_started: job_kind, attempt; job_ended: job_kind, attempt, state, reason;
    measured: run (trial or promotion), tokens, loss, kl_to_teacher; decided: action, until_tokens, reason;
    promoted: promotion_id; exported: model_id, loss.
    """

    id: int
    at: datetime
    kind: EventKind
    search: str
    candidate_id: int | None = None
    job_id: int | None = None
    data: dict[str, JsonValue] = Field(default_factory=dict)


class ProgressView(Border):
    """How far a running search is, in tokens of all its retraining, and its running jobs; not kept."""

    search: str
    tokens_done: int
    tokens_total: int
    jobs: tuple[JobView, ...]


class HealthView(Border):
    """Whether the service works: its version, and when its scheduler last took a turn (None: never)."""

    version: str
    scheduler_seen_at: datetime | None
    scheduler_alive: bool


class ErrorView(Border):
    """An error as REST tells it; `message` is the sentence that the command line prints."""

    kind: str
    message: str
    field: str | None = None
    value: str | None = None
    problem: str | None = None
    accepted: str | None = None
    also: tuple["ErrorView", ...] = ()
