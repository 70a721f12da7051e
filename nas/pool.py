"""Attempts at jobs, what they occupy and report, and what any pool of workers must do."""

from collections.abc import Collection, Sequence
from typing import Protocol

from nas.border import Border
from nas.jobs import JobProgress, JobResult, JobSpec, Measurement, PrepareData
from nas.spec import ResourcesSpec


class Resources(Border):
    """What an attempt occupies. `gpus` left open: one where the workers have any, else none.

    `custom` are amounts of what nodes declare besides, by name.
    """

    cpus: int
    gpus: float | None = None
    memory_bytes: int = 0
    accelerator_type: str | None = None
    custom: tuple[tuple[str, float], ...] = ()


def resources_of(spec: JobSpec) -> Resources:
    """What an attempt at the job occupies; preparing the text takes one core."""
    if isinstance(spec, PrepareData):
        return Resources(cpus=1, gpus=0)
    return reserved(spec.resources)


def reserved(wanted: ResourcesSpec) -> Resources:
    """What a job of such resources occupies."""
    return Resources(
        cpus=wanted.cpus,
        gpus=wanted.gpus,
        memory_bytes=wanted.memory_bytes,
        accelerator_type=wanted.accelerator_type,
        custom=tuple(sorted(wanted.custom.items())),
    )


class Assignment(Border):
    """One attempt at a job: it writes below `folder` only, and may go on from what `earlier_folders` hold.

    `avoid_nodes` are those on which earlier ones broke; it runs there only if it can run nowhere else.
    """

    job_id: int
    attempt: int
    spec: JobSpec
    folder: str
    resources: Resources
    earlier_folders: tuple[str, ...] = ()
    avoid_nodes: tuple[str, ...] = ()


class Failure(Border):
    """Why an attempt ended without a result.

    `lost`: its worker, its node, or whoever ran them died: that is counted apart from what the job itself does wrong.
    `interrupted`: it was told to end, and did so in order: that is not counted. `user_error`: the same input would fail
    again, so it is not tried again.
    """

    reason: str
    lost: bool = False
    interrupted: bool = False
    user_error: bool = False


class Update(Border):
    """What is new of one attempt; with nothing else in it, that the attempt is alive.

    `result` or `failure` ends the attempt, and then comes with its last measurements. `node` is where it runs, as the
    pool names it, once that is known.
    """

    job_id: int
    attempt: int
    node: str | None = None
    progress: JobProgress | None = None
    measurements: tuple[Measurement, ...] = ()
    result: JobResult | None = None
    failure: Failure | None = None


class WorkerPool(Protocol):
    """Runs assignments. It remembers nothing that the folders of the attempts do not hold."""

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        """Whether an assignment of `wanted` can start now, besides those of `claimed`, not submitted yet.

        Nodes of `avoid_nodes` count only where no other could ever hold it.
        """
        ...

    def obstacle(self, wanted: Resources) -> str | None:
        """Why no node could ever start it, even when all are empty, in a sentence; None if one could."""
        ...

    def submit(self, assignment: Assignment) -> None:
        """Starts an attempt; returns at once. Raises OSError where it cannot be started."""
        ...

    def adopt(self, assignment: Assignment) -> None:
        """Takes over an attempt that an earlier pool submitted.

        Where it still runs it is followed on; else its outcome is told, or that it is lost.
        """
        ...

    def poll(self) -> list[Update]:
        """What happened since the last call, oldest first; does not wait. An attempt in no update gave no sign."""
        ...

    def interrupt(self, job_id: int, attempt: int) -> None:
        """Tells an attempt to save its state and end; returns at once, and told again, nothing changes.

        What it comes to is polled: an interrupted failure, or whatever came first.
        """
        ...

    def cancel(self, job_id: int, attempt: int) -> None:
        """Ends an attempt for good, if it runs; no update of it follows."""
        ...

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        """Ends every attempt, of whatever pool before this one, whose (job, attempt) is not among `current`."""
        ...

    def release(self) -> None:
        """Lets go of all attempts, for another scheduler to adopt; those that nobody could adopt are ended."""
        ...

    def close(self) -> None:
        """Frees what the pool itself holds, after a release."""
        ...
