"""Where jobs fit on a cluster: plain rules over what its nodes have, so that nothing is handed out that must wait."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nas.jobs import Resources


class Share(NamedTuple):
    """CPU cores and GPUs: of a node, what is free there, or what one job occupies."""

    cpus: float
    gpus: float

    def minus(self, other: "Share") -> "Share":
        return Share(self.cpus - other.cpus, self.gpus - other.gpus)

    def holds(self, other: "Share") -> bool:
        return other.cpus <= self.cpus and other.gpus <= self.gpus


def share_of(wanted: Resources, nodes: Sequence[Share]) -> Share:
    """What a job occupies on a cluster of these nodes: never more than one of them has when it is empty.

    GPUs left open are one where any node has one, else none. More than one GPU are whole ones. A job larger than every
    node gets the node that has most, GPUs first: asking for more, it would wait for ever.
    """
    most_gpus = max((node.gpus for node in nodes), default=0.0)
    gpus = float(most_gpus > 0) if wanted.gpus is None else wanted.gpus
    gpus = min(math.ceil(gpus) if gpus > 1 else gpus, most_gpus)
    most_cpus = max((node.cpus for node in nodes if node.gpus >= gpus), default=0.0)
    return Share(max(1.0, min(wanted.cpus, most_cpus)), gpus)


def fits(shares: Iterable[Share], free: Sequence[Share]) -> bool:
    """Whether all shares find their place in what is free, each on the first node that holds it."""
    left = list(free)
    for share in shares:
        place = next((number for number, node in enumerate(left) if node.holds(share)), None)
        if place is None:
            return False
        left[place] = left[place].minus(share)
    return True
