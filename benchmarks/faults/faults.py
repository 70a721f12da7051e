"""The ways to break a service. Each is made at once, and says what was broken and when that is over."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import psutil

from benchmarks.faults.stage import Stage, Worker, wait_for

_VICTIM_SECONDS = 120
_LONGEST_OUTAGE_SECONDS = 5.0


@dataclass(frozen=True)
class Made:
    """A fault that was made. `is_over`: whether the service has noticed it and put in place what was lost."""

    told: str
    is_over: Callable[[], bool]


Fault = Callable[[Stage, Random], Made]


def kill_http(stage: Stage, random: Random) -> Made:
    return _kill_child(stage, "http")


def kill_scheduler(stage: Stage, random: Random) -> Made:
    return _kill_child(stage, "scheduler")


def _kill_child(stage: Stage, name: str) -> Made:
    victim = wait_for(lambda: _killed(stage.child(name)), _VICTIM_SECONDS, f"there is a process of {name} to kill")

    def is_over() -> bool:
        process = stage.child(name)
        return process is not None and process != victim

    return Made(f"process {victim.pid}", is_over)


def kill_worker(stage: Stage, random: Random) -> Made:
    victim = _some_worker(stage, random)
    while _killed(victim.process) is None:
        victim = _some_worker(stage, random)  # The other has just ended by itself.
    return Made(str(victim.attempt), lambda: _has_ended(stage, [victim]))


def kill_raylet(stage: Stage, random: Random) -> Made:
    """Its workers end with it; another node takes its place."""
    raylet = _some_worker(stage, random).raylet
    below = [worker for worker in stage.workers() if worker.raylet == raylet]
    psutil.Process(raylet).kill()
    stage.cluster.forget_node(raylet)
    stage.cluster.add_node()
    told = f"process {raylet} with {', '.join(str(worker.attempt) for worker in below) or 'nothing on it'}"
    return Made(told, lambda: _has_ended(stage, below))


def crash_postgresql(stage: Stage, random: Random) -> Made:
    num_processes = stage.postgresql.crash()
    seconds = random.uniform(0.5, _LONGEST_OUTAGE_SECONDS)
    time.sleep(seconds)
    stage.postgresql.recover()
    return Made(f"{num_processes} processes, for {seconds:.1f} s", lambda: stage.look() is not None)


def fill_disk(stage: Stage, random: Random) -> Made:
    seconds = random.uniform(1, _LONGEST_OUTAGE_SECONDS)
    used = stage.disk.used_bytes
    stage.disk.be_full(seconds)
    return Made(f"for {seconds:.1f} s, besides {used / 1e6:.0f} MB", lambda: True)


FAULTS: dict[str, Fault] = {
    "http": kill_http,
    "scheduler": kill_scheduler,
    "worker": kill_worker,
    "raylet": kill_raylet,
    "postgresql": crash_postgresql,
    "disk": fill_disk,
}


def _killed(process: psutil.Process | None) -> psutil.Process | None:
    """The process, killed with signal 9; None if it was not there any more."""
    if process is None:
        return None
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return None
    return process


def _some_worker(stage: Stage, random: Random) -> Worker:
    workers = wait_for(lambda: stage.workers() or None, _VICTIM_SECONDS, "there is a worker")
    return random.choice(workers)


def _has_ended(stage: Stage, workers: list[Worker]) -> bool:
    """Whether the store knows of the end of what these ran."""
    seen = stage.look()
    gone = {(worker.attempt.job_id, worker.attempt.number) for worker in workers}
    return seen is not None and not gone & {(attempt.job_id, attempt.number) for attempt in seen.live}
