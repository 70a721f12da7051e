"""RayPool: attempts on a Ray cluster."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import ActorUnavailableError, RayError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from nas.pool import Assignment, Failure, Resources, Update
from workers.attempt import AttemptFolder, make_folder
from workers.placement import CPU, GPU, MEMORY, Amounts, Share, fits, minus, obstacle, share_of
from workers.ray_pool import cluster
from workers.ray_pool.cluster import Group, is_name, name_of
from workers.ray_pool.connection import check_answers, connect
from workers.ray_pool.shell import SHELL, failure_of, one_line

_LEAVING_SECONDS = 2.0
"""How often it is asked whether nodes are about to leave."""


@dataclass
class _Live:
    """An attempt with an actor. `node` is empty until the actor has first answered."""

    folder: AttemptFolder
    actor: Any
    share: Share
    group: PlacementGroup | None = None
    node: str = ""
    question: Any = None

    @property
    def key(self) -> tuple[int, int]:
        return self.folder.assignment.job_id, self.folder.assignment.attempt

    def places(self, groups: dict[str, Group]) -> Sequence[tuple[str, Amounts]]:
        """What it occupies on which nodes; nothing while that is not known."""
        if self.group is not None:
            group = groups.get(name_of(*self.key))
            return group.places if group else ()
        return [(self.node, self.share.total)] if self.node else ()


class RayPool:
    """Runs attempts on a Ray cluster, or on an embedded Ray that ends with this process.

    `address` is None for an embedded Ray of `num_cpus` cores, all by default; else "auto" or the host:port of a running
    cluster, whose nodes must see the same files and have Topiary installed. All attempts whose actors stand in
    `namespace` are taken for this pool's: two services on one cluster need two. A process has one Ray: where it is
    connected already, the pool joins that and leaves it open.

    Raises SettingError for an address of another form, ServiceError where no Ray answers.
    """

    def __init__(self, address: str | None, namespace: str, num_cpus: int | None = None) -> None:
        self._namespace = namespace
        self._embedded = address is None
        self._live: list[_Live] = []
        self._adopted: list[AttemptFolder] = []
        self._left_at = 0.0
        self._opened = not ray.is_initialized()
        if self._opened:
            connect(address, namespace, num_cpus)

    # --- where there is room ---

    def has_room(self, wanted: Resources, claimed: Sequence[Resources], avoid_nodes: Collection[str] = ()) -> bool:
        """Whether nodes have what it occupies free now; what others occupy on the cluster counts.

        What that is, and which nodes it avoids, placement.share_of says. Nodes that are about to leave have no room.
        """
        nodes = cluster.nodes()
        free, waiting = self._free(nodes)
        shares = {resources: share_of(resources, nodes) for resources in set(claimed)}
        return fits([*waiting, *(shares[each] for each in claimed), share_of(wanted, nodes, avoid_nodes)], free)

    def _free(self, nodes: dict[str, Amounts]) -> tuple[dict[str, Amounts], list[Share]]:
        """What is free on each node, and what was handed out but has no node yet."""
        leaving = cluster.draining()
        free = {node: has for node, has in nodes.items() if node not in leaving}
        waiting = []
        groups = self._groups()
        for live in self._live:
            places = live.places(groups)
            if not places:
                waiting.append(live.share)
            for node, taken in places:
                if node in free:
                    free[node] = minus(free[node], taken)
        if not self._embedded:  # Ray's own count lags a little, so what we know to be taken is taken in any case.
            now = cluster.available()
            free = {
                node: {name: min(amount, now.get(node, {}).get(name, 0.0)) for name, amount in has.items()}
                for node, has in free.items()
            }
        return free, waiting

    def _groups(self) -> dict[str, Group]:
        return cluster.groups(self._namespace) if any(live.group is not None for live in self._live) else {}

    def obstacle(self, wanted: Resources) -> str | None:
        return obstacle(wanted, list(cluster.nodes().values()))

    # --- attempts ---

    def submit(self, assignment: Assignment) -> None:
        make_folder(assignment)
        share = share_of(assignment.resources, cluster.nodes(), assignment.avoid_nodes)
        group = None
        try:
            group = self._make_group(assignment, share) if len(share.bundles) > 1 else None
            # Its name is taken once this returns, whether or not the actor runs yet.
            actor = SHELL.options(
                name=name_of(assignment.job_id, assignment.attempt),
                namespace=self._namespace,
                lifetime="detached",
                max_restarts=0,
                enable_task_events=False,
                **_options(share, group),
            ).remote(assignment.model_dump_json(), GPU in share.bundles[0])
        except (RayError, ValueError) as error:
            if group is not None:
                remove_placement_group(group)
            raise OSError(f"Ray did not take it: {one_line(error)}") from error
        self._live.append(_Live(AttemptFolder(assignment), actor, share, group))

    def _make_group(self, assignment: Assignment, share: Share) -> PlacementGroup:
        group: PlacementGroup = placement_group(
            [dict(bundle) for bundle in share.bundles],
            strategy="STRICT_PACK" if share.one_node else "PACK",
            name=f"{self._namespace}/{name_of(assignment.job_id, assignment.attempt)}",
            lifetime="detached",
            bundle_label_selector=[_elsewhere(share) for _ in share.bundles] if share.avoid else None,
        )
        return group

    def adopt(self, assignment: Assignment) -> None:
        name = name_of(assignment.job_id, assignment.attempt)
        actor = self._find(name)
        if actor is None:
            self._adopted.append(AttemptFolder(assignment))
            return
        share = share_of(assignment.resources, cluster.nodes(), assignment.avoid_nodes)
        group = cluster.groups(self._namespace).get(name) if (assignment.resources.gpus or 0) > 1 else None
        self._live.append(_Live(AttemptFolder(assignment), actor, share, group.handle if group else None))

    def poll(self) -> list[Update]:
        """Raises ServiceError once the cluster that it connected to is gone: a new pool finds another in its place."""
        if not self._embedded:
            check_answers()  # Before anything else is asked of it, in which this process would hang.
        self._leave_nodes()
        gone = Failure(reason="its worker is no longer there", lost=True)
        updates = [folder.outcome_or(gone) for folder in self._adopted]
        self._adopted = []
        for live in self._live:
            if live.question is None:
                live.question = live.actor.news.remote(live.folder.num_received)
        answered = self._answered()
        for live in list(self._live):
            if live.question not in answered:
                continue  # The actor is starting, or stopped, or out of reach: no sign of life.
            update = self._answer(live)
            if update is not None:
                updates.append(update)
        return updates

    def _leave_nodes(self) -> None:
        """Interrupts what runs on nodes that are about to go."""
        if time.monotonic() < self._left_at + _LEAVING_SECONDS:
            return
        self._left_at = time.monotonic()
        if leaving := cluster.draining():
            groups = self._groups()
            for live in self._live:
                if any(node in leaving for node, _ in live.places(groups)):
                    live.actor.interrupt.remote("its node is about to be taken away")

    def _answered(self) -> set[Any]:
        questions = [live.question for live in self._live]
        return set(ray.wait(questions, num_returns=len(questions), timeout=0)[0]) if questions else set()

    def _answer(self, live: _Live) -> Update | None:
        question, live.question = live.question, None
        try:
            answer: tuple[str, Update] = ray.get(question)
        except ActorUnavailableError:
            return None  # It may come back; asked again at the next poll.
        except RayError as error:
            self._end(live)
            update = live.folder.outcome_or(failure_of(error))
            return update.model_copy(update={"node": live.node or None})
        is_known = live.node != ""
        live.node, update = answer
        live.folder.num_received += len(update.measurements)
        if update.result is not None or update.failure is not None:
            self._end(live)  # Its cores are free once it is gone.
        elif is_known:
            return update
        return update.model_copy(update={"node": live.node})

    def interrupt(self, job_id: int, attempt: int) -> None:
        """One that waits for a node is told once it is there."""
        for live in self._live:
            if live.key == (job_id, attempt):
                live.actor.interrupt.remote("told to end")

    def cancel(self, job_id: int, attempt: int) -> None:
        self._adopted = [
            folder
            for folder in self._adopted
            if (folder.assignment.job_id, folder.assignment.attempt) != (job_id, attempt)
        ]
        known = [live for live in self._live if live.key == (job_id, attempt)]
        for live in known:
            self._end(live)
        if not known:
            self._end_by_name({name_of(job_id, attempt)})

    def keep_only(self, current: Collection[tuple[int, int]]) -> None:
        """A group without an actor is one whose scheduler died before it started that."""
        actors = {
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if actor["namespace"] == self._namespace and is_name(actor["name"])
        }
        found = actors | cluster.groups(self._namespace).keys()
        self._end_by_name(found - {name_of(*key) for key in current})
        self._live = [live for live in self._live if live.key in current]

    def release(self) -> None:
        """The actors of a cluster go on; nobody else could find those of an embedded Ray."""
        if self._embedded and self._opened:
            for live in list(self._live):
                self._end(live)
        self._live, self._adopted = [], []

    def close(self) -> None:
        self.release()
        if self._opened:
            self._opened = False
            ray.shutdown()

    def _end(self, live: _Live) -> None:
        self._live.remove(live)
        ray.kill(live.actor)
        if live.group is not None:
            remove_placement_group(live.group)

    def _end_by_name(self, names: Collection[str]) -> None:
        groups = cluster.groups(self._namespace) if names else {}
        for name in names:
            if (actor := self._find(name)) is not None:
                ray.kill(actor)
            if name in groups:
                remove_placement_group(groups[name].handle)

    def _find(self, name: str) -> Any:
        try:
            return ray.get_actor(name, namespace=self._namespace)
        except ValueError:  # Ray's way to say that there is none.
            return None


def _options(share: Share, group: PlacementGroup | None) -> dict[str, Any]:
    """What Ray is to give the actor; of a group, all of the first bundle. A job computes on one GPU as yet."""
    rest = dict(share.bundles[0])
    options: dict[str, Any] = {"num_cpus": rest.pop(CPU, 0.0), "num_gpus": rest.pop(GPU, 0.0)}
    if MEMORY in rest:
        options["memory"] = rest.pop(MEMORY)
    options["resources"] = rest
    if group is not None:
        # Whatever else the job starts is to be in the group, too.
        options["scheduling_strategy"] = PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
    elif share.avoid:
        options["label_selector"] = _elsewhere(share)
    return options


def _elsewhere(share: Share) -> dict[str, str]:
    """Any node but those to avoid: if the one that Ray picks dies first, it picks another."""
    return {"ray.io/node-id": f"!in({','.join(sorted(share.avoid))})"}
