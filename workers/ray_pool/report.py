"""The process that looks at a Ray: `python -m workers.ray_pool.report [ADDRESS]` prints a Cluster as JSON."""

import sys

import ray

from nas.errors import TopiaryError
from workers.inspection import Cluster, Node
from workers.placement import Amounts
from workers.ray_pool.cluster import nodes
from workers.ray_pool.connection import connect

_TYPE = "accelerator_type:"


def main() -> int:
    """Says what is wrong in one line of standard error, and then returns 1."""
    address = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        connect(address, "topiary-doctor", None)
    except TopiaryError as error:
        print(error, file=sys.stderr)
        return 1
    print(Cluster(ray_version=ray.__version__, nodes=tuple(_node(each) for each in nodes().values())).model_dump_json())
    ray.shutdown()
    return 0


def _node(amounts: Amounts) -> Node:
    """Ray marks the types of what a node has by names of their own."""
    types = tuple(sorted(name.removeprefix(_TYPE) for name in amounts if name.startswith(_TYPE)))
    return Node(cpus=amounts.get("CPU", 0.0), gpus=amounts.get("GPU", 0.0), accelerators=types)


if __name__ == "__main__":
    sys.exit(main())
