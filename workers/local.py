"""WorkerPool on this machine: one child process for each attempt, on whole cores.

Child processes, since two one-thread trials in one interpreter would wait for one another's lock.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nas.pool import Assignment, Failure, Resources, Update
from workers.attempt import AttemptFolder, make_folder
from workers.run_attempt import threads_environment

_SILENCE_SECONDS = 15.0


@dataclass
class _Live:
    folder: AttemptFolder
    process: subprocess.Popen[bytes]
    last_beat: int | None = None
    beat_seen: float = field(default_factory=time.monotonic)

    @property
    def key(self) -> tuple[int, int]:
        return self.folder.assignment.job_id, self.folder.assignment.attempt

    def silent_seconds(self) -> float:
        """Since the heartbeat was last seen to change, or since the start. By our clock: the other may be set."""
        beat = self.folder.last_beat()
        if beat != self.last_beat:
            self.last_beat, self.beat_seen = beat, time.monotonic()
        return time.monotonic() - self.beat_seen

    def reap(self) -> None:
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class LocalPool:
    """Runs as many attempts at once as there are cores for; all of them end with this process.

    GPUs and memory are not counted: jobs that run at the same time share what the machine has. Types of GPUs and custom
    resources are not declared here, so a job that asks for any waits without end. A child whose heartbeat has stood
    still for `silence_seconds` (it is stopped, say) gives no sign of life any more.
    """

    def __init__(self, num_cpus: int | None = None, *, silence_seconds: float = _SILENCE_SECONDS) -> None:
        self._num_cpus = num_cpus or _available_cpus()
        self._silence_seconds = silence_seconds
        self._live: list[_Live] = []
        self._adopted: list[AttemptFolder] = []

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        """Jobs get whole cores; one that wants more than the machine has runs alone."""
        if self.obstacle(wanted) is not None:
            return False
        live = [live.folder.assignment.resources for live in self._live]
        busy = sum(resources.cpus for resources in (*live, *claimed))
        return busy == 0 or busy + wanted.cpus <= self._num_cpus

    def obstacle(self, wanted: Resources) -> str | None:
        asked = [f"a GPU of type {wanted.accelerator_type}"] if wanted.accelerator_type else []
        asked += [f"{amount:g} of {name}" for name, amount in wanted.custom]
        return f"it asks for {' and '.join(asked)}, which only nodes of a Ray cluster declare" if asked else None

    def submit(self, assignment: Assignment) -> None:
        make_folder(assignment)
        folder = Path(assignment.folder)
        with (folder / "log.txt").open("ab") as log:
            process = subprocess.Popen(
                # -P: packages of the user's, in the folder the command is run from, are not to be imported.
                [sys.executable, "-P", "-m", "workers.run_attempt", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env={**os.environ, **threads_environment(assignment.resources.cpus)},
                start_new_session=True,  # Ctrl-C is for the parent, which then ends its children.
            )
        self._live.append(_Live(AttemptFolder(assignment), process))

    def adopt(self, assignment: Assignment) -> None:
        """The process that ran the attempt died with its parent; what it wrote is still there."""
        self._adopted.append(AttemptFolder(assignment))

    def poll(self) -> list[Update]:
        died_with_parent = Failure(reason="its process died with the one that had started it", lost=True)
        updates = [folder.outcome_or(died_with_parent) for folder in self._adopted]
        self._adopted = []
        for live in list(self._live):
            if live.process.poll() is not None:
                self._live.remove(live)
                live.reap()
                updates.append(live.folder.outcome_or(_failure(live.process.returncode)))
            elif (update := self._news(live)) is not None:
                updates.append(update)
        return updates

    def _news(self, live: _Live) -> Update | None:
        silent = live.silent_seconds() > self._silence_seconds
        if (news := live.folder.news()) is not None:
            # The outcome waits for the end of the process: only then are its cores free.
            return news.model_copy(update={"result": None, "failure": None})
        job_id, attempt = live.key
        return None if silent else Update(job_id=job_id, attempt=attempt)

    def interrupt(self, job_id: int, attempt: int) -> None:
        for live in self._live:
            if live.key == (job_id, attempt):
                live.process.terminate()

    def cancel(self, job_id: int, attempt: int) -> None:
        self._end([live for live in self._live if live.key == (job_id, attempt)])
        self._adopted = [
            folder
            for folder in self._adopted
            if (folder.assignment.job_id, folder.assignment.attempt) != (job_id, attempt)
        ]

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        """Children of an earlier pool died with it, so only this pool's own can be left over."""
        self._end([live for live in self._live if live.key not in current])

    def release(self) -> None:
        """Nobody could adopt a child process, so all of them end."""
        self._end(list(self._live))
        self._adopted = []

    def close(self) -> None:
        self.release()

    def _end(self, ending: list[_Live]) -> None:
        for live in ending:
            live.process.kill()
        for live in ending:
            live.reap()
            self._live.remove(live)


def _available_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _failure(returncode: int) -> Failure:
    """Of a process that left no outcome. Once it listens to SIGTERM, that no longer ends it."""
    if returncode == -signal.SIGTERM:
        return Failure(reason="its process was told to end (SIGTERM) before it had begun", interrupted=True)
    if returncode < 0:
        return Failure(reason=f"its process was ended by signal {-returncode}", lost=True)
    return Failure(reason=f"its process ended with exit code {returncode} and left no result", lost=True)
