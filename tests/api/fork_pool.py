"""A small real WorkerPool whose workers are processes of their own, at once: they are forked where torch is loaded."""

import multiprocessing
from collections.abc import Collection, Sequence
from multiprocessing.process import BaseProcess

from nas.pool import Assignment, Failure, Resources, Update
from workers.artifacts_attempt import attempt_at_work
from workers.attempt import AttemptFolder, make_folder
from workers.run_attempt import run

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["workers.tasks", "transformers.models.llama.modeling_llama"])


class ForkPool:
    """Knows of its workers what their attempts' folders say, and whether they live; one runs at a time."""

    def __init__(self) -> None:
        self.submitted: list[Assignment] = []
        self.process: BaseProcess | None = None

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        return self.process is None and not claimed

    def obstacle(self, wanted: Resources) -> str | None:
        return None

    def submit(self, assignment: Assignment) -> None:
        make_folder(assignment)
        self.submitted.append(assignment)
        self.process = _FORKS.Process(target=_work, args=(assignment.model_dump_json(),), daemon=True)
        self.process.start()

    def adopt(self, assignment: Assignment) -> None:
        raise NotImplementedError("nothing outlives it")

    def poll(self) -> list[Update]:
        if self.process is None:
            return []
        assignment = self.submitted[-1]
        if self.process.is_alive():
            return [Update(job_id=assignment.job_id, attempt=assignment.attempt)]
        self.process = None
        return [AttemptFolder(assignment).outcome_or(Failure(reason="it was killed"))]

    def interrupt(self, job_id: int, attempt: int) -> None:
        """Nobody asks for that."""

    def cancel(self, job_id: int, attempt: int) -> None:
        self.release()

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        """Its own one is current."""

    def release(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
        self.process = None

    def close(self) -> None:
        self.release()


def _work(assignment: str) -> None:
    run(attempt_at_work(Assignment.model_validate_json(assignment)))
