"""What a user sees of a search: the same objects on the command line, in JSON, and later over REST."""

from datetime import datetime
from typing import Literal

from nas.architecture import Architecture
from nas.border import Border
from nas.cost import Cost
from nas.jobs import JobProgress
from nas.ranking import Standing

SearchState = Literal["running", "finished", "failed"]


class CurvePoint(Border):
    """Loss in nats per token after `tokens` tokens."""

    tokens: int
    loss: float
    kl_to_teacher: float


class EnumerationView(Border):
    """What a spec's space and budget leave of a teacher; starts nothing."""

    teacher: Architecture
    teacher_cost: Cost
    candidates: "tuple[CandidateView, ...]"
    num_illegal: int
    num_outside_budget: int


class CandidateView(Border):
    """A candidate before anything is spent on it."""

    architecture: Architecture
    cost: Cost
    share_of_teacher: float


class JobView(Border):
    """A job that is not done: queued, running or failed."""

    job_id: int
    kind: str
    candidate_id: int | None
    state: str
    attempt: int
    progress: JobProgress | None
    reason: str | None


class PromotionView(Border):
    """The full distillation of a candidate, and the folder of the model it ended in.

    `exported_loss` is that of the folder itself, its weights rounded to the dtype they are stored in.
    """

    candidate_id: int
    architecture: Architecture
    curve: tuple[CurvePoint, ...]
    state: str
    folder: str | None
    parameters: int | None
    exported_loss: float | None


class SearchView(Border):
    """A search as it stands. `tokens_done` counts all retraining, of `tokens_total`, promotions included.

    `user_error` says that it failed for something in its spec, teacher or text.
    """

    id: int
    name: str
    state: SearchState
    reason: str | None
    user_error: bool
    created_at: datetime
    finished_at: datetime | None
    teacher: Architecture
    teacher_parameters: int
    teacher_loss: float | None
    tokens_done: int
    tokens_total: int
    leaderboard: tuple[Standing, ...]
    promotions: tuple[PromotionView, ...]
    jobs: tuple[JobView, ...]
