"""What a Ray cluster says of itself: its nodes, what is free there, which of them are leaving, and groups."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ray
from ray._private.state import available_resources_per_node, state
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table

from workers.placement import Amounts

# Ray has types for none of these.
_listed: Callable[[], list[dict[str, Any]]] = ray.nodes
_available: Callable[[], dict[str, Amounts]] = available_resources_per_node
_draining: Callable[[], dict[str, int]] = state.get_draining_nodes
_table: Callable[[], dict[str, dict[str, Any]]] = placement_group_table

_NAME = re.compile(r"attempt-\d{6,}-\d+")


def name_of(job_id: int, attempt: int) -> str:
    """Of the actor and the group of an attempt, within a namespace."""
    return f"attempt-{job_id:06d}-{attempt}"


def is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def nodes() -> dict[str, Amounts]:
    """What every node has when it is empty."""
    return {node["NodeID"]: node["Resources"] for node in _listed() if node["Alive"]}


def available() -> dict[str, Amounts]:
    """What is free on every node by Ray's own count, which lags a little."""
    return _available()


def draining() -> set[str]:
    """The nodes that are about to go: Ray starts nothing there any more."""
    return set(_draining())


@dataclass(frozen=True)
class Group:
    """A placement group: what Ray keeps free for one attempt, on one node or several."""

    name: str
    handle: PlacementGroup
    places: tuple[tuple[str, Amounts], ...]
    """Each bundle's node, and what it holds there; none as long as the group waits for room."""


def groups(namespace: str) -> dict[str, Group]:
    """The groups of the attempts in a namespace, by their names there. Ray's own names of groups know no namespace."""
    found = {}
    for content in _table().values():
        prefix, _, name = content["name"].rpartition("/")
        if prefix == namespace and is_name(name) and content["state"] != "REMOVED":
            handle = PlacementGroup(PlacementGroupID(bytes.fromhex(content["placement_group_id"])))
            nodes_of, bundles = content["bundles_to_node_id"], content["bundles"]
            places = tuple((node, bundles[number]) for number, node in nodes_of.items() if node)
            found[name] = Group(name, handle, places)
    return found
