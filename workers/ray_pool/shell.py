"""The actor of one attempt, and why one is gone.

It is a shell: a thread of it runs the attempt as a local child process would, and what it writes into the attempt's
folder is what counts. So the attempt depends on nobody who asks about it and outlives the scheduler.
"""

import os
import threading
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import (
    ActorUnschedulableError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
)

from nas.pool import Assignment, Failure, Update
from workers.artifacts_attempt import attempt_at_work
from workers.attempt import AttemptFolder
from workers.run_attempt import TERMINATED, run, threads_environment
from workers.termination import on_termination


class _Shell:
    """What runs on a Ray worker. Its methods return at once, also while the attempt computes in its thread."""

    def __init__(self, assignment: str, has_gpu: bool) -> None:
        self._attempt = attempt_at_work(Assignment.model_validate_json(assignment))
        on_termination(lambda: self._attempt.tell_to_end(TERMINATED))
        os.environ.update(threads_environment(self._attempt.assignment.resources.cpus))
        if not has_gpu:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from an actor that asked for none.
        _print_into(self._attempt.path / "log.txt")
        self._reader = AttemptFolder(self._attempt.assignment, self._attempt.path)
        self._node = ray.get_runtime_context().get_node_id()
        threading.Thread(target=_run_or_die, args=(self._attempt,), daemon=True).start()

    def news(self, num_received: int) -> tuple[str, Update]:
        """The node that this runs on, and what is new to a pool that has received so many measurements."""
        self._reader.num_received = num_received
        assignment = self._reader.assignment
        nothing = Update(job_id=assignment.job_id, attempt=assignment.attempt)
        return self._node, self._reader.news() or nothing

    def interrupt(self, why: str) -> None:
        self._attempt.tell_to_end(why)


def _run_or_die(attempt: AttemptFolder) -> None:
    try:
        run(attempt)
    finally:
        if not attempt.has_outcome:
            os._exit(1)  # An actor that lives on without its work would be waited for without end.


def _print_into(log: Path) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)


SHELL: Any = ray.remote(_Shell)


def failure_of(error: RayError) -> Failure:
    """Why the actor is gone: a process, a node or a Ray that died makes the attempt lost; others are the job's own."""
    own = isinstance(error, RayTaskError | OutOfMemoryError | RuntimeEnvSetupError | ActorUnschedulableError)
    own = own or (isinstance(error, RayActorError) and error.actor_init_failed)
    return Failure(reason=f"its worker died: {one_line(error)}", lost=not own)


def one_line(error: Exception) -> str:
    """The sentence of Ray's message that says what happened, without the table before it and the advice after it."""
    if "Worker unexpectedly exits" in str(error):
        return "its process ended without a word: it was killed, or the machine ran out of memory"
    told = (str(error).strip().splitlines() or [type(error).__name__])[-1]
    told = told.split(" Some common causes")[0].strip().removeprefix("The actor is dead because ")
    return told if len(told) <= 300 else told[:297] + "..."
