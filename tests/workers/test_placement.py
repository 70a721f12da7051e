"""What a job occupies on a cluster, where jobs find room, and why one finds none."""

from collections.abc import Sequence

import pytest

from nas.pool import Resources
from workers.placement import Amounts, Share, fits, obstacle, share_of

TYPE = "accelerator_type:"


def node(cpus: float = 0, gpus: float = 0, **more: float) -> Amounts:
    return {"CPU": cpus, "GPU": gpus, **more}


def bundle(cpus: float = 0, gpus: float = 0, **more: float) -> Amounts:
    return {name: amount for name, amount in node(cpus, gpus, **more).items() if amount}


def named(nodes: Sequence[Amounts]) -> dict[str, Amounts]:
    return {f"node {number}": amounts for number, amounts in enumerate(nodes)}


def one(*bundles: Amounts) -> Share:
    return Share(bundles)


def spread(*bundles: Amounts) -> Share:
    return Share(bundles, one_node=False)


CPU_NODE, GPU_NODE, FAT_NODE = node(64), node(8, 2), node(16, 8)
H100_NODE = node(8, 4, memory=1e12, **{f"{TYPE}H100": 1})
LICENSED = node(4, 0, memory=1e9, licence=3)


@pytest.mark.parametrize(
    ("wanted", "nodes", "share"),
    [
        (Resources(cpus=2), [CPU_NODE], one(bundle(2))),  # left open: none where there is none
        (Resources(cpus=2), [CPU_NODE, GPU_NODE], one(bundle(2, 1))),  # one where any node has one
        (Resources(cpus=2), [node(4, 0.5)], one(bundle(2, 0.5))),
        (Resources(cpus=2, gpus=0), [GPU_NODE], one(bundle(2))),
        (Resources(cpus=2, gpus=0.25), [GPU_NODE], one(bundle(2, 0.25))),
        (Resources(cpus=2, gpus=1.5), [GPU_NODE], one(bundle(1, 1), bundle(1, 1))),  # more than one are whole ones
        (Resources(cpus=2, gpus=4), [GPU_NODE], one(bundle(1, 1), bundle(1, 1))),  # never more than there are
        (Resources(cpus=2, gpus=1), [CPU_NODE], one(bundle(2))),
        (Resources(cpus=99), [CPU_NODE], one(bundle(64))),
        (Resources(cpus=99, gpus=1), [CPU_NODE, GPU_NODE, FAT_NODE], one(bundle(16, 1))),  # cores of a node with GPUs
        (Resources(cpus=99, gpus=4), [CPU_NODE, GPU_NODE, FAT_NODE], one(*[bundle(4, 1)] * 4)),
        (Resources(cpus=99, gpus=0), [CPU_NODE, GPU_NODE, FAT_NODE], one(bundle(64))),
        (Resources(cpus=4), [], one(bundle(1))),  # which fits nowhere, so it waits for a node
        (Resources(cpus=4), [node()], one(bundle(1))),
        # Several GPUs: on one node where one has as many, else on several; the first have what cores are left over.
        (Resources(cpus=3, gpus=2), [GPU_NODE, GPU_NODE], one(bundle(2, 1), bundle(1, 1))),
        (Resources(cpus=1, gpus=2), [GPU_NODE], one(bundle(1, 1), bundle(0, 1))),
        (Resources(cpus=4, gpus=3), [GPU_NODE, GPU_NODE], spread(bundle(2, 1), bundle(1, 1), bundle(1, 1))),
        (Resources(cpus=99, gpus=4), [GPU_NODE, GPU_NODE, CPU_NODE], spread(*[bundle(4, 1)] * 4)),
        (Resources(cpus=12, gpus=12), [GPU_NODE, FAT_NODE], spread(*[bundle(2, 1)] * 2, *[bundle(1, 1)] * 8)),
        # Memory, a type of GPU and what is custom are as wanted, and go with the first bundle; the type, with each.
        (
            Resources(cpus=2, accelerator_type="H100", memory_bytes=7),
            [FAT_NODE, H100_NODE],
            one(bundle(2, 1, memory=7, **{f"{TYPE}H100": 0.001})),
        ),
        (
            Resources(cpus=2, gpus=2, accelerator_type="H100", memory_bytes=7),
            [FAT_NODE, H100_NODE],
            one(bundle(1, 1, memory=7, **{f"{TYPE}H100": 0.001}), bundle(1, 1, **{f"{TYPE}H100": 0.001})),
        ),
        (Resources(cpus=9, custom=(("licence", 2.0),)), [CPU_NODE, LICENSED], one(bundle(4, licence=2))),
        (Resources(cpus=9, gpus=1, memory_bytes=8), [LICENSED, CPU_NODE], one(bundle(4, memory=8))),
    ],
)
def test_what_a_job_occupies(wanted: Resources, nodes: list[Amounts], share: Share) -> None:
    assert share_of(wanted, named(nodes)) == share


@pytest.mark.parametrize(
    ("wanted", "nodes", "avoided"),
    [
        (Resources(cpus=2), [CPU_NODE, CPU_NODE], True),
        (Resources(cpus=2), [CPU_NODE], False),  # nowhere else to go
        (Resources(cpus=64, gpus=0), [CPU_NODE, GPU_NODE], False),  # the other could not hold it, even when it is empty
        (Resources(cpus=99, gpus=0), [CPU_NODE, GPU_NODE], False),
        (Resources(cpus=2, gpus=1), [GPU_NODE, CPU_NODE], False),
        (Resources(cpus=2, accelerator_type="H100"), [H100_NODE, FAT_NODE], False),
        (Resources(cpus=1, gpus=0, memory_bytes=9), [LICENSED, CPU_NODE], False),
        (Resources(cpus=2, gpus=4), [FAT_NODE, GPU_NODE, GPU_NODE], True),  # on several others
    ],
)
def test_the_first_node_is_avoided_if_others_could_hold_the_job(
    wanted: Resources, nodes: list[Amounts], avoided: bool
) -> None:
    share = share_of(wanted, named(nodes), avoid_nodes=["node 0", "one that is gone"])
    assert ("node 0" in share.avoid) == avoided
    assert share.total == share_of(wanted, named(nodes)).total
    assert fits([share], named(nodes))
    full = {**named(nodes), **{name: node() for name in named(nodes) if name != "node 0"}}
    assert fits([share], full) != avoided, "it waits for one of the others"


@pytest.mark.parametrize(
    ("shares", "free", "expected"),
    [
        ([one(bundle(2))], [node(1), node(1)], False),  # a job does not spread over nodes
        ([one(bundle(1)), one(bundle(1))], [node(1), node(1)], True),
        ([one(bundle(1)), one(bundle(1)), one(bundle(1))], [node(1), node(1)], False),
        ([one(bundle(1, 1))], [node(8)], False),
        ([one(bundle(1, 0.5)), one(bundle(1, 0.5))], [node(2, 1)], True),
        ([one(bundle(1, 0.5)), one(bundle(1, 0.75))], [node(2, 1)], False),
        ([one(bundle(1, 0.1))] * 10, [node(10, 1)], True),
        ([one(bundle(1))], [node(-1)], False),
        ([one(bundle(1))], [], False),
        ([one(bundle(1, 1), bundle(1, 1))], [node(2, 1), node(2, 1)], False),  # a group that is to be on one node
        ([spread(bundle(1, 1), bundle(1, 1))], [node(2, 1), node(2, 1)], True),
        ([spread(bundle(1, 1), bundle(1, 1)), one(bundle(1, 1))], [node(2, 1), node(2, 1)], False),
        ([one(bundle(1, licence=2)), one(bundle(1, licence=2))], [node(4, licence=3)], False),
        ([one(bundle(1, memory=6)), one(bundle(1, memory=6))], [node(4, memory=10)], False),
    ],
)
def test_jobs_fit_if_each_finds_its_nodes(shares: list[Share], free: list[Amounts], expected: bool) -> None:
    assert fits(shares, named(free)) == expected


@pytest.mark.parametrize(
    ("wanted", "nodes", "told"),
    [
        (Resources(cpus=999, gpus=9), [CPU_NODE], None),  # less will do
        (Resources(cpus=1, accelerator_type="H100"), [H100_NODE], None),
        (Resources(cpus=1), [], "no node has a CPU; the cluster has no node"),
        (
            Resources(cpus=1, accelerator_type="H100"),
            [node(4), node(4)],
            "no node has a GPU of type H100; the cluster has 2 nodes with 4 CPUs and no GPU",
        ),
        (
            Resources(cpus=1, accelerator_type="A100", memory_bytes=2 * 10**12),
            [H100_NODE, CPU_NODE],
            "no node has a GPU of type A100 and 2,000 GB of memory; the cluster has 1 node with 8 CPUs, 4 GPUs of type "
            "H100 and 1,000 GB of memory, 1 node with 64 CPUs, no GPU and 0 GB of memory",
        ),
        (
            Resources(cpus=1, custom=(("licence", 4.0),)),
            [LICENSED, node(1), node(2), node(3), node(5), node(5)],
            "no node has 4 of licence; the cluster has 2 nodes with 5 CPUs, no GPU and no licence, "
            "1 node with 4 CPUs, no GPU and 3 of licence, 1 node with 1 CPU, no GPU and no licence, 2 others",
        ),
    ],
)
def test_what_no_node_could_ever_start_is_told(wanted: Resources, nodes: list[Amounts], told: str | None) -> None:
    assert obstacle(wanted, nodes) == told
    assert fits([share_of(wanted, named(nodes))], named(nodes)) == (told is None)
