"""The machines of a Ray cluster: what they have, what more may come, which came and went."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""`ray up` leaves the cluster's file there, on the head; its autoscaler reads it. The autoscaler of
Ray 2.60 reports to nobody what it may bring (`get_max_resources_from_cluster_config` is None)."""
LOOK_SECONDS = 2.0
JOIN_SECONDS = 180.0
"""Machines that the cluster's file promises (min_workers) are waited for so long: `ray up` returns
when the head is there, the others took 28 to 39 s in all in the lab."""


@dataclass(frozen=True)
class Node:
    """A machine that has joined."""

    id: str
    name: str
    """Address and host name."""
    resources: Mapping[str, float]

    def __str__(self) -> str:
        return self.name


def alive() -> list[Node]:
    """The machines of now, the driver's own first."""
    own = ray.get_runtime_context().get_node_id()
    nodes = [_node(n) for n in ray.nodes() if n["Alive"]]
    return sorted(nodes, key=lambda node: (node.id != own, node.name))


def promised() -> dict[str, Any] | None:
    """The cluster's file, on the head of one that `ray up` made; else None."""
    file = BOOTSTRAP.expanduser()
    return dict(yaml.safe_load(file.read_text())) if file.exists() else None


def most(resource: str, file: Mapping[str, Any] | None) -> float:
    """How much of a resource ("GPU", "CPU") the cluster has, or may have by its file.

    The machines with the most of it first, since the limit of a kind and that of all bind.
    """
    now = float(ray.cluster_resources().get(resource, 0))
    if file is None:
        return now
    kinds, head = file["available_node_types"], file["head_node_type"]
    may = float(kinds[head]["resources"].get(resource, 0))
    left = file["max_workers"]
    others = [(k["resources"].get(resource, 0), k.get("max_workers", 0)) for k in kinds.values()]
    for amount, limit in sorted(others, reverse=True):
        count = min(left, limit)
        may += count * amount
        left -= count
    return max(now, may)


def expected(file: Mapping[str, Any] | None) -> int:
    """Machines that the cluster's file promises, the head among them."""
    kinds = file["available_node_types"].values() if file else ()
    return 1 + sum(int(kind.get("min_workers", 0)) for kind in kinds)


def changed(before: list[Node], after: list[Node]) -> tuple[list[Node], list[Node]]:
    """The machines that came and those that went; one that was restarted did both."""
    old, new = {node.id for node in before}, {node.id for node in after}
    return [n for n in after if n.id not in old], [n for n in before if n.id not in new]


def wait_for(count: int) -> int:
    """Wait until so many machines have joined, but not for ever; how many have."""
    until = time.monotonic() + JOIN_SECONDS
    while len(alive()) < count and time.monotonic() < until:
        time.sleep(1.0)
    return len(alive())


def _node(entry: Mapping[str, Any]) -> Node:
    address, host = entry["NodeManagerAddress"], entry["NodeManagerHostname"]
    return Node(entry["NodeID"], f"{address} ({host})", entry["Resources"])
