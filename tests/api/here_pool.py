"""A small real WorkerPool that does each job at once, in this process: what it takes is the work, not its start."""

from collections.abc import Collection, Sequence
from pathlib import Path

from nas.errors import UserError
from nas.pool import Assignment, Failure, Resources, Update
from workers.attempt import AttemptFolder
from workers.tasks import run_job


class HerePool:
    """Ends what it is handed before it returns; `ran` are the kinds of the jobs of all pools, in order."""

    def __init__(self, ran: list[str]) -> None:
        self.ran = ran
        self._ended: list[Update] = []

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        return True

    def obstacle(self, wanted: Resources) -> str | None:
        return None

    def submit(self, assignment: Assignment) -> None:
        self.ran.append(assignment.spec.kind)
        attempt = AttemptFolder(assignment)
        Path(assignment.folder).mkdir(parents=True)
        try:
            attempt.finish(run_job(attempt))
        except UserError as error:
            attempt.finish(Failure(reason=str(error), user_error=True))
        self._ended.append(attempt.outcome_or(Failure(reason="it left no result")))

    def adopt(self, assignment: Assignment) -> None:
        raise NotImplementedError("nothing outlives it")

    def poll(self) -> list[Update]:
        ended, self._ended = self._ended, []
        return ended

    def interrupt(self, job_id: int, attempt: int) -> None:
        """Nothing runs any more."""

    def cancel(self, job_id: int, attempt: int) -> None:
        """Nothing runs any more."""

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        """Nothing runs any more."""

    def release(self) -> None:
        self._ended = []

    def close(self) -> None:
        self.release()
