"""WorkerPool on this machine: one child process for each attempt, on whole cores.

Child processes, since two one-thread trials in one interpreter would wait for one another's lock.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from nas.durable import write_text
from nas.jobs import Assignment, Failure, Update
from workers.attempt import AttemptFolder


@dataclass
class _Live:
    folder: AttemptFolder
    process: subprocess.Popen[bytes]
    cpus: int


class LocalPool:
    """Runs as many attempts at once as there are cores for; all of them end with this process."""

    def __init__(self, num_cpus: int | None = None) -> None:
        self._num_cpus = num_cpus or _available_cpus()
        self._live: list[_Live] = []
        self._adopted: list[AttemptFolder] = []

    def has_room(self, cpus: int, claimed_cpus: int) -> bool:
        """Jobs get whole cores; one that wants more than the machine has runs alone."""
        busy = sum(live.cpus for live in self._live) + claimed_cpus
        return busy == 0 or busy + cpus <= self._num_cpus

    def submit(self, assignment: Assignment) -> None:
        folder = Path(assignment.folder)
        folder.mkdir(parents=True)  # Never one that is there: what another attempt left must not pass for this one's.
        write_text(folder / "assignment.json", assignment.model_dump_json())
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                # -P: packages of the user's, in the folder the command is run from, are not to be imported.
                [sys.executable, "-P", "-m", "workers.run_attempt", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **_threads(assignment.cpus)},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its children.
            )
        self._live.append(_Live(AttemptFolder(assignment), process, assignment.cpus))

    def adopt(self, assignment: Assignment) -> None:
        """The process that ran the attempt died with its parent; what it wrote is still there."""
        self._adopted.append(AttemptFolder(assignment))

    def poll(self) -> list[Update]:
        died_with_parent = Failure(reason="its process died with the one that had started it", lost=True)
        updates = [folder.outcome_or(died_with_parent) for folder in self._adopted]
        self._adopted = []
        for live in list(self._live):
            ended = live.process.poll() is not None
            if ended:
                self._live.remove(live)
                self._close(live)
                updates.append(live.folder.outcome_or(Failure(reason=_reason(live.process.returncode))))
            elif (news := live.folder.news()) is not None:
                # The outcome waits for the end of the process: only then are its cores free.
                updates.append(news.model_copy(update={"result": None, "failure": None}))
        return updates

    def close(self) -> None:
        for live in self._live:
            live.process.kill()
        for live in self._live:
            live.process.wait()
            self._close(live)
        self._live = []

    @staticmethod
    def _close(live: _Live) -> None:
        if live.process.stdin is not None:
            live.process.stdin.close()


def _threads(cpus: int) -> dict[str, str]:
    """Holds torch and the tokenizers to the cores of the job."""
    return {"OMP_NUM_THREADS": str(cpus), "RAYON_NUM_THREADS": str(cpus), "TOKENIZERS_PARALLELISM": "true"}


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reason(returncode: int) -> str:
    if returncode < 0:
        return f"its process was ended by signal {-returncode}"
    return f"its process ended with exit code {returncode} and left no result"
