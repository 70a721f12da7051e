"""Running one attempt in this process, and the child process of one: `python -m workers.run_attempt FOLDER`.

The child ends when its parent does: the parent holds the other end of standard input; whatever kills the parent closes
it.
"""

import contextlib
import gc
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from nas.durable import is_full
from nas.errors import Interrupted, UserError
from nas.jobs import JobResult
from nas.pool import Assignment, Failure
from workers.artifacts_attempt import local_artifacts
from workers.attempt import AttemptFolder
from workers.parent import end_with_parent
from workers.termination import on_termination

TERMINATED = "its process was told to end (SIGTERM)"


def threads_environment(cpus: int) -> dict[str, str]:
    """Holds torch and the tokenizers to the cores of the job, if set before either is imported."""
    return {"OMP_NUM_THREADS": str(cpus), "RAYON_NUM_THREADS": str(cpus), "TOKENIZERS_PARALLELISM": "true"}


def run(attempt: AttemptFolder) -> None:
    """Does what the assignment says and writes its outcome; raises only where that cannot be written."""
    attempt.start_heartbeat()
    try:
        # Loaded here: torch takes seconds, and even an import that fails is an outcome to report.
        run_job = _load()
        attempt.end_if_told()
        with local_artifacts(attempt):
            attempt.finish(run_job(attempt))
    except Interrupted as error:
        attempt.finish(Failure(reason=f"{attempt.told_to_end}; {error}", interrupted=True))
    except UserError as error:
        attempt.finish(Failure(reason=str(error), user_error=True))
    except Exception as error:  # noqa: BLE001 - the border of the process: every failure becomes a record
        with contextlib.suppress(OSError):  # The log may be on a disk that is full.
            traceback.print_exc()
        # A full disk is not of the job's making.
        attempt.finish(Failure(reason=f"{type(error).__name__}: {error}", lost=is_full(error)))


def _load() -> Callable[[AttemptFolder], JobResult]:
    """Loads torch and what does the jobs; returns the latter.

    All of it stays to the end of the process. Looking for garbage in it, again and again while it is loaded and once
    more at the end, would take a fifth of the time of a short job.
    """
    gc.disable()
    try:
        from transformers.utils import logging

        from workers.tasks import run_job
    finally:
        gc.enable()
    gc.freeze()
    logging.disable_progress_bar()
    return run_job


def main(folder: Path) -> None:
    """The child process: runs the assignment in `folder`."""
    end_with_parent()
    attempt = AttemptFolder(Assignment.model_validate_json((folder / "assignment.json").read_text()))
    on_termination(lambda: attempt.tell_to_end(TERMINATED))
    run(attempt)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
