"""The states of everything that has one, and how a job may go from one to another."""

from enum import StrEnum

from nas.errors import IllegalMove


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


LEGAL_MOVES: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED}),
    # Back to queued: the attempt was lost with its worker, or failed and may be tried again.
    JobState.RUNNING: frozenset({JobState.QUEUED, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED}),
    JobState.SUCCEEDED: frozenset(),
    # A user may ask for a search to be taken up again: a failed one once the cause is mended, a cancelled one any time.
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
}


def check_move(job_id: int, old: JobState, new: JobState) -> None:
    """Raises IllegalMove unless a job may go from `old` to `new`."""
    if new not in LEGAL_MOVES[old]:
        raise IllegalMove(f"job {job_id} cannot go from {old} to {new}")


class AttemptState(StrEnum):
    """`failed` counts against its job; `lost`, with whoever ran it, is counted apart; `interrupted` is not counted."""

    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    LOST = "lost"
    INTERRUPTED = "interrupted"
    CANCELLED = "cancelled"


class TrialState(StrEnum):
    """Derived from the trial's newest job and what the strategy said: `waiting` before the first, and at a rung.

    `succeeded` at its end; `stopped` where the strategy gave it up.
    """

    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    STOPPED = "stopped"
    FAILED = "failed"
    CANCELLED = "cancelled"


class PromotionState(StrEnum):
    """Derived from the promotion's jobs, first it is distilled, then exported, and from what the user wants of it."""

    DISTILLING = "distilling"
    EXPORTING = "exporting"
    PAUSED = "paused"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class SearchState(StrEnum):
    """`paused` and `stopped` wait for their user; neither has anything running."""

    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Intent(StrEnum):
    """What the user wants of a search, or of a promotion; the scheduler brings its state there.

    `pause`: what runs ends with a checkpoint. `stop`: nothing new is started. `cancel`: what runs ends now.
    """

    RUN = "run"
    PAUSE = "pause"
    STOP = "stop"
    CANCEL = "cancel"
