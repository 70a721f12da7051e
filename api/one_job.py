"""Jobs of a command that needs no service: on a pool of their own, in a folder that goes with the command."""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from api.exit_codes import BAD_INPUT, FAILURE
from api.services.submission import check_texts
from nas.addresses import attempt_folder
from nas.border import Border
from nas.durable import flush
from nas.errors import FolderError, SpecError
from nas.hub import inspect_teacher
from nas.jobs import JobProgress, JobResult, JobSpec
from nas.model_folder import ModelFolder
from nas.pool import Assignment, Failure, Update, WorkerPool, resources_of
from nas.spec import SearchSpec
from workers.local import LocalPool

Result = TypeVar("Result", bound=Border)

_POLL_SECONDS = 0.2
_LOG_LINES = 50


class JobFailed(Exception):
    """A job ended without a result; the end of its log is printed, unless what the user gave is to blame."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure
        super().__init__(failure.reason)

    def told(self, what: str) -> int:
        """Prints that `what` failed, and why; returns the exit code that says so."""
        print(f"topiary: {what} failed: {self.failure.reason}", file=sys.stderr)
        return BAD_INPUT if self.failure.user_error else FAILURE


@contextmanager
def jobs_beside(into: Path, ray_address: str | None) -> Iterator["Jobs"]:
    """Runs jobs for what is to be at `into`: on this machine, or on a Ray cluster that sees the folder of `into`.

    Whatever ends the block ends the jobs, and takes away all that they wrote and nobody has moved elsewhere.
    """
    with tempfile.TemporaryDirectory(prefix=f".{into.name}.", dir=into.parent) as folder, _pool(ray_address) as pool:
        yield Jobs(pool, Path(folder))


@contextmanager
def _pool(ray_address: str | None) -> Iterator[WorkerPool]:
    pool: WorkerPool
    if ray_address is None:
        pool = LocalPool()
    else:
        from workers.ray_pool import RayPool  # Here: nobody else should wait for Ray.

        pool = RayPool(ray_address, f"topiary-command-{os.getpid()}-{time.time_ns()}")
    try:
        yield pool
    finally:
        pool.close()


@dataclass
class Jobs:
    """Runs jobs on `pool`, each in a folder of its own below `folder`; each is tried once."""

    pool: WorkerPool
    folder: Path
    _last_id: int = 0

    def run_one(self, spec: JobSpec, gives: type[Result], said: str) -> Result:
        """As `run`, of one job."""
        (result,) = self.run([spec], gives, said)
        return result

    def run(self, specs: Sequence[JobSpec], gives: type[Result], said: str) -> list[Result]:
        """The results of all, in their order; they run at once as far as the pool has room.

        What is `said` of them goes to standard error, with a bar in a terminal. Raises JobFailed for the first that
        fails; whatever interrupts this ends them all.
        """
        waiting = [self._assignment(spec) for spec in specs]
        for assignment in waiting:
            if (obstacle := self.pool.obstacle(assignment.resources)) is not None:
                raise JobFailed(Failure(reason=obstacle, user_error=True))  # It would wait without end.
        running: dict[int, Assignment] = {}
        results: dict[int, JobResult] = {}
        with _progress(said, len(specs)) as show:
            try:
                while len(results) < len(specs):
                    while waiting and self.pool.has_room(waiting[0].resources, ()):
                        running[waiting[0].job_id] = waiting[0]
                        self.pool.submit(waiting.pop(0))
                    time.sleep(_POLL_SECONDS)
                    for update in self.pool.poll():
                        show(update)
                        if update.failure is not None:
                            raise _failed(running[update.job_id], update.failure)
                        if update.result is not None:
                            results[update.job_id] = update.result
            finally:
                for assignment in running.values():
                    self.pool.cancel(assignment.job_id, assignment.attempt)
        return [gives.model_validate(results[job_id]) for job_id in sorted(results)]

    def _assignment(self, spec: JobSpec) -> Assignment:
        self._last_id += 1
        place = attempt_folder(self.folder, self._last_id, 1)
        return Assignment(job_id=self._last_id, attempt=1, spec=spec, folder=place, resources=resources_of(spec))


def _failed(assignment: Assignment, failure: Failure) -> JobFailed:
    """The folder goes, and with it what the worker printed."""
    log = Path(assignment.folder) / "log.txt"
    if not failure.user_error and log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        print(*lines[-_LOG_LINES:], sep="\n", file=sys.stderr)
    return JobFailed(failure)


@contextmanager
def _progress(said: str, num_jobs: int) -> Iterator[Callable[[Update], None]]:
    """One line, and in a terminal a bar of all jobs together; those that have not begun count as much as the others."""
    console = Console(stderr=True)
    console.print(Text(said), soft_wrap=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    told: dict[int, JobProgress] = {}
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)

        def show(update: Update) -> None:
            if update.progress is not None:
                told[update.job_id] = update.progress
                done, total = sum(each.done for each in told.values()), sum(each.total for each in told.values())
                bar.update(task, completed=done, total=total * num_jobs // len(told), description=update.progress.unit)

        yield show


def move(made: Path, place: Path) -> None:
    """Moves what a job has made to its place beside the jobs' folder, where it appears whole.

    Raises FolderError if that cannot be, such as for something that is there by now, which stays as it is; what was
    made is kept beside it, under a name that the error tells.
    """
    flush(made)
    try:
        if made.is_dir():
            made.rename(place)
        else:
            os.link(made, place)  # Unlike a renaming, it never takes the place of another file.
            made.unlink()
    except OSError as error:
        kept = place.with_name(f"{place.name}.kept-{os.getpid()}")
        made.rename(kept)
        problem = f"cannot be written ({error.strerror}); what was to be there is kept as {kept}"
        raise FolderError("--into", str(place), problem, "a place where nothing is yet") from error
    finally:
        flush(place.parent)


# --- what is looked at before anything long begins ----------------------------------------------------------


def new_place(option: str, given: Path, what: str) -> Path:
    """The absolute path of a file or folder that can be made, and is not there yet. Raises FolderError."""
    place = writable_place(option, given, what)
    if place.exists() or place.is_symlink():
        raise FolderError(option, str(place), "exists already", f"a {what} that does not exist yet")
    return place


def writable_place(option: str, given: Path, what: str) -> Path:
    """The absolute path of a file or folder that is there or can be made. Raises FolderError."""
    place = given.absolute()
    if not (place.parent.is_dir() and os.access(place.parent, os.W_OK)):
        raise FolderError(option, str(place), "is in no folder that can be written to", f"a {what} in such a folder")
    return place


def checked_teacher(spec: SearchSpec) -> ModelFolder:
    """The spec's teacher. Raises UserError for one that cannot be used, and for text that is not there."""
    teacher = inspect_teacher(spec.teacher)
    length, positions = spec.data.sequence_length, teacher.max_positions
    if positions is not None and length > positions:
        problem = f"is longer than the teacher's {positions} positions"
        raise SpecError("data.sequence_length", length, problem, f"2 to {positions}")
    check_texts(spec)
    return teacher
