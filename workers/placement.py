"""Where jobs fit on a cluster: plain rules over what its nodes have, so that nothing is handed out that must wait."""

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from nas.pool import Resources

Amounts = Mapping[str, float]
"""By the names that Ray has for them: of a node, what it has or what is free there; of a job, what it occupies."""

CPU, GPU, MEMORY = "CPU", "GPU", "memory"
_TYPE = "accelerator_type:"
_OF_A_TYPE = 0.001
"""What a job takes of the amount 1 by which a node says that it has GPUs of a type; as Ray does it."""
_ROUNDING = 1e-9
_KINDS_TOLD = 3


@dataclass(frozen=True)
class Share:
    """What one job occupies: bundles, each of one node, and with `one_node` all of the same; of none in `avoid`."""

    bundles: tuple[Amounts, ...]
    one_node: bool = True
    avoid: frozenset[str] = frozenset()

    @property
    def total(self) -> dict[str, float]:
        names = {name for bundle in self.bundles for name in bundle}
        return {name: sum(bundle.get(name, 0.0) for bundle in self.bundles) for name in names}


def share_of(wanted: Resources, nodes: Mapping[str, Amounts], avoid_nodes: Collection[str] = ()) -> Share:
    """What a job occupies on a cluster of these nodes: no more cores and GPUs than there are when all is empty.

    GPUs left open are one where a node has any, else none. More than one are whole ones, each in a bundle of its own
    with its part of the cores; they are on one node where one has as many, else on several. A job larger than that gets
    the most that there is, GPUs first: asking for more, it would wait for ever. Memory, the type of GPU and custom
    resources are never less than wanted, so a job may have to wait for a node that has them.

    Nodes to avoid are avoided if the others, when they are empty, could hold as much.
    """
    share = _largest(wanted, list(nodes.values()))
    others = {name: has for name, has in nodes.items() if name not in avoid_nodes}
    if len(others) < len(nodes):
        elsewhere = _largest(wanted, list(others.values()))
        if elsewhere.total == share.total and fits([elsewhere], others):
            return replace(elsewhere, avoid=frozenset(avoid_nodes))
    return share


def fits(shares: Iterable[Share], free: Mapping[str, Amounts]) -> bool:
    """Whether all shares find their place in what is free, each on the first nodes that hold it."""
    left = dict(free)
    for share in shares:
        for piece in [share.total] if share.one_node else share.bundles:
            place = next((name for name in left if name not in share.avoid and _holds(left[name], piece)), None)
            if place is None:
                return False
            left[place] = minus(left[place], piece)
    return True


def minus(amounts: Amounts, taken: Amounts) -> Amounts:
    """What is left of `amounts`; below 0 where more is taken than there was."""
    return {name: amount - taken.get(name, 0.0) for name, amount in amounts.items()}


def _holds(amounts: Amounts, wanted: Amounts) -> bool:
    return all(amount <= amounts.get(name, 0.0) + _ROUNDING for name, amount in wanted.items())


def _largest(wanted: Resources, nodes: Sequence[Amounts]) -> Share:
    """The most of what is wanted that these nodes could hold when they are empty."""
    fixed = {MEMORY: float(wanted.memory_bytes), **dict(wanted.custom)}
    of_type = {f"{_TYPE}{wanted.accelerator_type}": _OF_A_TYPE} if wanted.accelerator_type else {}
    typed = [node for node in nodes if _holds(node, of_type)]
    able = [node for node in typed if _holds(node, fixed)]
    num_gpus = _num_gpus(wanted, able, typed)
    together = [node for node in able if node.get(GPU, 0.0) >= num_gpus]
    if together or num_gpus <= 1:
        most_cpus = max((node.get(CPU, 0.0) for node in together), default=0.0)
        return Share(_bundles(max(1.0, min(wanted.cpus, most_cpus)), num_gpus, fixed, of_type))
    places = {str(number): node for number, node in enumerate(nodes)}
    num_there = int(sum(node.get(CPU, 0.0) for node in typed))
    for num_cpus in range(min(wanted.cpus, num_there), 1, -1):
        share = Share(_bundles(num_cpus, num_gpus, fixed, of_type), one_node=False)
        if fits([share], places):
            return share
    return Share(_bundles(1, num_gpus, fixed, of_type), one_node=False)


def _num_gpus(wanted: Resources, able: Sequence[Amounts], typed: Sequence[Amounts]) -> float:
    """`able` are the nodes that could hold the first bundle, `typed` those that could hold the others."""
    gpus = 1.0 if wanted.gpus is None else wanted.gpus
    most = max((node.get(GPU, 0.0) for node in able), default=0.0)
    if gpus <= 1 or most < 1:
        return min(gpus, most)
    return min(math.ceil(gpus), sum(int(node.get(GPU, 0.0)) for node in typed))


def _bundles(num_cpus: float, num_gpus: float, fixed: Amounts, of_type: Amounts) -> tuple[Amounts, ...]:
    """One, or one for each of several GPUs; the first, in which the job's process is, has what is not of a GPU."""
    if num_gpus <= 1:
        return (_without_zeros({CPU: float(num_cpus), GPU: num_gpus, **fixed, **of_type}),)
    each, more = divmod(int(num_cpus), int(num_gpus))
    bundles = [{CPU: float(each + (number < more)), GPU: 1.0, **of_type} for number in range(int(num_gpus))]
    return tuple(_without_zeros({**bundle, **(fixed if bundle is bundles[0] else {})}) for bundle in bundles)


def _without_zeros(amounts: Amounts) -> Amounts:
    return {name: amount for name, amount in amounts.items() if amount}


# --- why a job waits ----------------------------------------------------------------------------------------


def obstacle(wanted: Resources, nodes: Sequence[Amounts]) -> str | None:
    """Why no cluster of these nodes could ever start the job, in a sentence; None if one could."""
    if fits([_largest(wanted, nodes)], {str(number): node for number, node in enumerate(nodes)}):
        return None
    asked = [f"a GPU of type {wanted.accelerator_type}"] if wanted.accelerator_type else []
    asked += [_memory(wanted.memory_bytes)] if wanted.memory_bytes else []
    asked += [f"{amount:g} of {name}" for name, amount in wanted.custom]
    kinds = Counter(_described(node, wanted) for node in nodes).most_common()
    told = [f"{_count(number, 'node')} with {kind}" for kind, number in kinds[:_KINDS_TOLD]]
    told += [f"{sum(number for _, number in kinds[_KINDS_TOLD:])} others"] if kinds[_KINDS_TOLD:] else []
    return f"no node has {_and(asked or ['a CPU'])}; the cluster has {', '.join(told) or 'no node'}"


def _described(node: Amounts, wanted: Resources) -> str:
    """What a node has of everything that matters to the job."""
    types = [name.removeprefix(_TYPE) for name in sorted(node) if name.startswith(_TYPE)]
    parts = [_count(node.get(CPU, 0.0), "CPU"), _count(node.get(GPU, 0.0), "GPU")]
    parts[1] += f" of type {' or '.join(types)}" if types else ""
    parts += [_memory(node.get(MEMORY, 0.0))] if wanted.memory_bytes else []
    parts += [f"{node[name]:g} of {name}" if name in node else f"no {name}" for name, _ in wanted.custom]
    return _and(parts)


def _count(number: float, what: str) -> str:
    return f"{number:g} {what}{'' if number == 1 else 's'}" if number else f"no {what}"


def _memory(num_bytes: float) -> str:
    gigabytes = num_bytes / 1e9
    return f"{gigabytes:,.0f} GB of memory" if gigabytes >= 10 else f"{gigabytes:.3g} GB of memory"


def _and(parts: Sequence[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)
