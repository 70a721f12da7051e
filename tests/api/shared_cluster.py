"""A small real cluster: attempts live in it, and any number of pools hand them out, adopt them and ask for news."""

import threading
from collections.abc import Callable, Collection, Sequence

from nas.pool import Assignment, Failure, Resources, Update
from tests.api.instant_pool import Outcome

Key = tuple[int, int]
Hook = Callable[[str], None]


class SharedCluster:
    """What runs, and what has ended, by job and attempt; ended ones are remembered as their folders would be."""

    def __init__(self, outcome: Outcome, *, num_cpus: int = 2) -> None:
        self.outcome = outcome
        self.num_cpus = num_cpus
        self.lock = threading.Lock()
        self.running: dict[Key, Assignment] = {}
        self.ended: dict[Key, Update] = {}
        self.started: list[Key] = []
        self.interrupted: list[Key] = []

    def end(self, key: Key) -> None:
        assignment = self.running.pop(key)
        self.ended[key] = _interrupted(key) if key in self.interrupted else self.outcome(assignment)


class ClusterPool:
    """One scheduler's view of a cluster. `hook` is told whenever the scheduler is about to do something with it."""

    def __init__(self, cluster: SharedCluster, hook: Hook = lambda _: None) -> None:
        self.hook = hook
        self._cluster = cluster
        self._mine: set[Key] = set()
        self._lost: list[Key] = []

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        self.hook("within the transaction")
        with self._cluster.lock:
            return (
                len(self._cluster.running) + sum(each.cpus for each in claimed) + wanted.cpus <= self._cluster.num_cpus
            )

    def obstacle(self, wanted: Resources) -> str | None:
        return None

    def submit(self, assignment: Assignment) -> None:
        self.hook("between commit and submit")
        key = (assignment.job_id, assignment.attempt)
        with self._cluster.lock:
            if key in self._cluster.started:
                raise OSError(f"attempt {key} was started before")
            self._cluster.started.append(key)
            self._cluster.running[key] = assignment
            self._mine.add(key)

    def adopt(self, assignment: Assignment) -> None:
        key = (assignment.job_id, assignment.attempt)
        with self._cluster.lock:
            known = key in self._cluster.running or key in self._cluster.ended
        (self._mine.add if known else self._lost.append)(key)

    def poll(self) -> list[Update]:
        with self._cluster.lock:
            lost, self._lost = self._lost, []
            updates = [_lost(key) for key in lost]
            for key in sorted(self._mine):
                if key in self._cluster.running:
                    self._cluster.end(key)
                updates.append(self._cluster.ended.get(key) or _lost(key))
            self._mine = set()
        self.hook("between poll and transaction")
        return updates

    def interrupt(self, job_id: int, attempt: int) -> None:
        with self._cluster.lock:
            self._cluster.interrupted.append((job_id, attempt))

    def cancel(self, job_id: int, attempt: int) -> None:
        with self._cluster.lock:
            self._cluster.running.pop((job_id, attempt), None)
            self._mine.discard((job_id, attempt))

    def keep_only(self, current: Collection[Key]) -> None:
        with self._cluster.lock:
            for key in [key for key in self._cluster.running if key not in current]:
                del self._cluster.running[key]

    def release(self) -> None:
        self._mine, self._lost = set(), []

    def close(self) -> None:
        self.release()


def _lost(key: Key) -> Update:
    return Update(job_id=key[0], attempt=key[1], failure=Failure(reason="lost", lost=True))


def _interrupted(key: Key) -> Update:
    return Update(job_id=key[0], attempt=key[1], failure=Failure(reason="told to end", interrupted=True))
