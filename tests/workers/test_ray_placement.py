"""Where RayPool places attempts on a real Ray cluster of several nodes; their GPUs are declared, not there."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster

from nas.jobs import DataPrepared, Trial
from nas.pool import Assignment, Resources, Update
from tests.api.service import wait_for
from tests.contracts.conftest import assignment, prepare_data
from workers.ray_pool import RayPool
from workers.ray_pool.cluster import groups

NAMESPACE = "placement"
TYPED = Resources(cpus=1, accelerator_type="H100")
LICENSED = Resources(cpus=1, gpus=0, custom=(("licence", 1.0),))
ONE, FOUR = (Resources(cpus=number, gpus=number) for number in (1, 4))
FOREVER = 10**9  # tokens
PREEMPTION = 2
"""Of Ray's reasons to drain a node."""


@dataclass(frozen=True)
class Nodes:
    """A head without GPUs, and two nodes with two each: one says of which type, the other has a licence."""

    ray: Cluster
    typed: str
    licensed: str

    def pool(self) -> RayPool:
        return RayPool(self.ray.address, NAMESPACE)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Nodes]:
    """A process has one Ray: the pools of the tests join this one."""
    assert not ray.is_initialized()
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    typed = nodes.add_node(num_cpus=4, num_gpus=2, resources={"accelerator_type:H100": 1})
    licensed = nodes.add_node(num_cpus=4, num_gpus=2, resources={"licence": 1})
    cluster = Nodes(nodes, typed.node_id, licensed.node_id)
    opened = cluster.pool()
    yield cluster
    opened.close()
    nodes.shutdown()


@pytest.fixture
def pool(cluster: Nodes) -> Iterator[RayPool]:
    """One for which the cluster is empty."""
    pool = cluster.pool()
    yield pool
    pool.keep_only([])
    wait_for(lambda: pool.has_room(FOUR, [LICENSED]) or None)


@pytest.fixture
def job(tmp_path: Path, trial: Callable[[int], Trial]) -> Callable[..., Assignment]:
    """Makes attempts at jobs that do not end."""

    def of(wanted: Resources, *avoid_nodes: str) -> Assignment:
        made = assignment(trial(FOREVER), tmp_path)
        folder = str(tmp_path / f"job-{made.job_id}")
        return made.model_copy(update={"folder": folder, "resources": wanted, "avoid_nodes": avoid_nodes})

    return of


def test_a_job_runs_where_there_is_what_it_asks_for(
    cluster: Nodes, pool: RayPool, job: Callable[..., Assignment]
) -> None:
    typed, licensed = job(TYPED), job(LICENSED)
    for each in (typed, licensed):
        assert pool.has_room(each.resources, [])
        pool.submit(each)
    assert not pool.has_room(LICENSED, []), "there is one licence, and it is taken"
    assert nodes_of(pool, typed, licensed) == [cluster.typed, cluster.licensed]
    assert pool.has_room(TYPED, []), "there is a second GPU"

    unknown = Resources(cpus=1, accelerator_type="A100")
    assert not pool.has_room(unknown, [])
    assert pool.obstacle(LICENSED) is None
    told = pool.obstacle(unknown)
    assert told is not None
    assert told.startswith("no node has a GPU of type A100; the cluster has 1 node with ")
    assert "1 node with 4 CPUs and 2 GPUs of type H100" in told


def test_the_next_attempt_runs_on_another_node_if_there_is_one_for_it(
    cluster: Nodes, pool: RayPool, job: Callable[..., Assignment]
) -> None:
    elsewhere = job(ONE, cluster.typed, "gone")
    nowhere_else = job(ONE, cluster.typed, cluster.licensed)
    pool.submit(elsewhere)
    assert nodes_of(pool, elsewhere) == [cluster.licensed]
    assert pool.has_room(ONE, [], avoid_nodes=[cluster.typed])
    full = job(Resources(cpus=1, gpus=1, custom=(("licence", 1.0),)))
    pool.submit(full)
    assert nodes_of(pool, full) == [cluster.licensed]
    assert pool.has_room(ONE, [])
    assert not pool.has_room(ONE, [], avoid_nodes=[cluster.typed]), "it waits for the other"
    assert pool.has_room(ONE, [], avoid_nodes=nowhere_else.avoid_nodes)
    pool.submit(nowhere_else)
    assert nodes_of(pool, nowhere_else) == [cluster.typed]


def test_several_gpus_are_a_group_that_ends_with_its_attempt(
    cluster: Nodes, pool: RayPool, tmp_path: Path, teacher_folder: Path, text_file: Path
) -> None:
    """It computes as one without GPUs would: those here are declared only."""
    together = assignment(prepare_data(teacher_folder, text_file), tmp_path)
    wanted = Resources(cpus=2, gpus=2, memory_bytes=10**8, custom=(("licence", 1.0),))
    pool.submit(together.model_copy(update={"resources": wanted, "avoid_nodes": (cluster.typed,)}))
    assert not pool.has_room(FOUR, [])
    assert [group.handle.bundle_count for group in groups(NAMESPACE).values()] == [2]
    outcome = outcome_of(pool)
    assert isinstance(outcome.result, DataPrepared), outcome.failure
    assert outcome.node == cluster.licensed
    wait_for(lambda: pool.has_room(FOUR, []) or None)
    assert groups(NAMESPACE) == {}


def test_a_group_over_several_nodes_is_found_again_and_no_group_is_left(
    cluster: Nodes, pool: RayPool, job: Callable[..., Assignment]
) -> None:
    spread = job(FOUR)
    assert pool.has_room(FOUR, [])
    assert not pool.has_room(FOUR, [ONE])
    pool.submit(spread)
    (node,) = nodes_of(pool, spread)
    ((_, group),) = groups(NAMESPACE).items()
    assert sorted(place for place, _ in group.places) == sorted([cluster.typed, cluster.licensed] * 2)
    assert node == group.places[0][0]

    later = cluster.pool()  # as of a scheduler that comes after one that died
    later.adopt(spread)
    assert nodes_of(later, spread) == [node]
    assert not later.has_room(ONE, [])
    assert later.has_room(LICENSED, []), "the cores that are left over are free"
    ray.util.placement_group([{"CPU": 1}], name=f"{NAMESPACE}/attempt-009999-1", lifetime="detached")
    ray.util.placement_group([{"CPU": 1}], name="another/attempt-009999-1", lifetime="detached")
    later.keep_only([(spread.job_id, 1)])
    wait_for(lambda: len(groups(NAMESPACE)) == 1 or None)
    later.cancel(spread.job_id, 1)
    wait_for(lambda: later.has_room(FOUR, []) or None)
    assert groups(NAMESPACE) == {}
    assert len(groups("another")) == 1


def test_attempts_leave_a_node_that_is_about_to_go(
    cluster: Nodes, pool: RayPool, job: Callable[..., Assignment]
) -> None:
    going = cluster.ray.add_node(num_cpus=2, resources={"accelerator_type:going": 1})
    wanted = Resources(cpus=1, gpus=0, accelerator_type="going")
    leaving, staying = job(wanted), job(LICENSED)
    for each in (leaving, staying):
        pool.submit(each)
    assert nodes_of(pool, leaving, staying) == [going.node_id, cluster.licensed]
    assert pool.has_room(wanted, [])
    driver: Any = ray._private.worker.global_worker
    accepted, _ = driver.gcs_client.drain_node(
        going.node_id, PREEMPTION, "it is taken away", int(time.time() * 1000) + 60_000
    )
    assert accepted
    assert not pool.has_room(wanted, [])
    left = outcome_of(pool)
    assert left.job_id == leaving.job_id
    assert left.failure is not None
    assert left.failure.interrupted, left.failure
    assert left.failure.reason.startswith("its node is about to be taken away; ")


def nodes_of(pool: RayPool, *attempts: Assignment) -> list[str]:
    """Where attempts run, as soon as all of them have said so; it is told once."""
    told: dict[int, str] = {}

    def all_told() -> bool | None:
        for update in pool.poll():
            assert update.failure is None, update.failure
            if update.node is not None:
                told[update.job_id] = update.node
        return all(attempt.job_id in told for attempt in attempts) or None

    wait_for(all_told)
    return [told[attempt.job_id] for attempt in attempts]


def outcome_of(pool: RayPool) -> Update:
    """The first that any attempt comes to."""
    return wait_for(lambda: next((update for update in pool.poll() if update.result or update.failure), None))
