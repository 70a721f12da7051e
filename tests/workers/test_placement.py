"""The rules by which jobs are given cores and GPUs; no GPU is needed to check them."""

import pytest

from nas.jobs import Resources
from workers.placement import Share, fits, share_of

CPU_NODE, GPU_NODE, FAT_NODE = Share(64, 0), Share(8, 2), Share(16, 8)


@pytest.mark.parametrize(
    ("wanted", "nodes", "share"),
    [
        (Resources(cpus=2), [CPU_NODE], Share(2, 0)),  # left open: none where there is none
        (Resources(cpus=2), [CPU_NODE, GPU_NODE], Share(2, 1)),  # one where any node has one
        (Resources(cpus=2), [Share(4, 0.5)], Share(2, 0.5)),
        (Resources(cpus=2, gpus=0), [GPU_NODE], Share(2, 0)),
        (Resources(cpus=2, gpus=0.25), [GPU_NODE], Share(2, 0.25)),
        (Resources(cpus=2, gpus=1.5), [GPU_NODE], Share(2, 2)),  # more than one are whole ones
        (Resources(cpus=2, gpus=4), [GPU_NODE], Share(2, 2)),  # never more than a node has
        (Resources(cpus=2, gpus=1), [CPU_NODE], Share(2, 0)),
        (Resources(cpus=99), [CPU_NODE], Share(64, 0)),
        (Resources(cpus=99, gpus=1), [CPU_NODE, GPU_NODE, FAT_NODE], Share(16, 1)),  # cores of a node with the GPUs
        (Resources(cpus=99, gpus=4), [CPU_NODE, GPU_NODE, FAT_NODE], Share(16, 4)),
        (Resources(cpus=99, gpus=0), [CPU_NODE, GPU_NODE, FAT_NODE], Share(64, 0)),
        (Resources(cpus=4), [], Share(1, 0)),  # which fits nowhere, so it waits for a node
        (Resources(cpus=4), [Share(0, 0)], Share(1, 0)),
    ],
)
def test_a_job_occupies_what_it_wants_but_never_more_than_a_node_has(
    wanted: Resources, nodes: list[Share], share: Share
) -> None:
    assert share_of(wanted, nodes) == share


@pytest.mark.parametrize(
    ("shares", "free", "fitting"),
    [
        ([Share(2, 0)], [Share(1, 0), Share(1, 0)], False),  # a job does not spread over nodes
        ([Share(1, 0), Share(1, 0)], [Share(1, 0), Share(1, 0)], True),
        ([Share(1, 0), Share(1, 0), Share(1, 0)], [Share(1, 0), Share(1, 0)], False),
        ([Share(1, 1)], [Share(8, 0)], False),
        ([Share(1, 0.5), Share(1, 0.5)], [Share(2, 1)], True),
        ([Share(1, 0.5), Share(1, 0.75)], [Share(2, 1)], False),
        ([Share(1, 0)], [Share(-1, 0)], False),
        ([Share(1, 0)], [], False),
        ([], [], True),
    ],
)
def test_jobs_fit_if_each_finds_a_node(shares: list[Share], free: list[Share], fitting: bool) -> None:
    assert fits(shares, free) is fitting
