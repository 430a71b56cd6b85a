"""The machines of a Ray cluster: what they have, what more may come, which came and went."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from kdtune.config.errors import InputError
from kdtune.config.study import Study

BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")
"""`ray up` leaves the cluster's file there, on the head, for the autoscaler. That of Ray 2.60
tells nobody what it may bring: `get_max_resources_from_cluster_config` is None."""
LOOK_SECONDS = 2.0
JOIN_SECONDS = 180.0
"""Machines that the cluster's file promises (min_workers) are waited for so long: `ray up` returns
when the head is there."""
Amounts = Mapping[str, float]
"""Of CPU, GPU and what else Ray counts."""


@dataclass(frozen=True)
class Node:
    """A machine that has joined."""

    id: str
    name: str
    """Address and host name."""
    resources: Amounts

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.name


def alive() -> list[Node]:
    """The machines of now, the driver's own first."""
    own = ray.get_runtime_context().get_node_id()
    nodes = [_node(n) for n in ray.nodes() if n["Alive"]]
    return sorted(nodes, key=lambda node: (node.id != own, node.name))


def changed(before: list[Node], after: list[Node]) -> tuple[list[Node], list[Node]]:
    """The machines that came and those that went; one that was restarted did both."""
    old, new = {node.id for node in before}, {node.id for node in after}
    return [n for n in after if n.id not in old], [n for n in before if n.id not in new]


def promised(file: Mapping[str, Any] | None) -> list[Amounts]:
    """What the workers have that a cluster's file may bring, the best first.

    Of the kind "local" the file does not know: they have nothing here until they have joined.
    """
    if file is None:
        return []
    kinds = sorted(
        file["available_node_types"].values(),
        key=lambda kind: (kind["resources"].get("GPU", 0), kind["resources"].get("CPU", 0)),
        reverse=True,
    )
    workers = [kind["resources"] for kind in kinds for _ in range(kind.get("max_workers", 0))]
    return workers[: file["max_workers"]]


def fit(machine: Amounts, cpus: float, gpus: float) -> int:
    """Trials that fit on a machine; a share of a GPU is never split over two."""
    counts = [machine.get("CPU", 0) // cpus]
    if gpus:
        have = int(machine.get("GPU", 0))
        counts.append(have * int(1 / gpus) if gpus < 1 else have // gpus)
    return int(min(counts))


class Capacity:
    """How many trials of a study fit on the cluster: now, and with what the autoscaler may bring.

    Waits first for the machines that the cluster's file promises.

    Args:
        study: says what a trial needs, and the most GPUs it takes.
        say: is told what is waited for.

    Raises:
        InputError: more GPUs are asked for than there are or may come, or one trial fits nowhere.
    """

    def __init__(self, study: Study, say: Callable[[str], None]):
        path = BOOTSTRAP.expanduser()
        on_head = study.address is not None and path.exists()
        self._file = yaml.safe_load(path.read_text()) if on_head else None
        self.study = study
        self._trials, self._counted = 0, -LOOK_SECONDS
        self._await(say)
        now = [node.resources for node in alive()]
        gpus = max(_gpus(now), _gpus([now[0], *promised(self._file)]))
        if (study.gpus or 0) > gpus:
            raise InputError(
                f"{study.gpus} GPUs are asked for, but the cluster has {_gpus(now)} and may have "
                f"at most {gpus}; --gpus {gpus}"
            )
        self.needs = {
            "cpu": study.cpus_per_trial,
            "gpu": study.gpus_per_trial if gpus and study.gpus != 0 else 0,
        }
        if not any(self._fit(machine) for machine in [*now, *promised(self._file)]):
            raise InputError(
                f"a trial takes {self.needs['cpu']} CPU cores and {self.needs['gpu']:g} GPUs, but "
                f"no machine of the cluster has these; --cpus-per-trial, --gpus-per-trial"
            )

    def trials(self) -> int:
        """Trials at a time, as things are; at least one, which waits for a machine."""
        if time.monotonic() - self._counted >= LOOK_SECONDS:
            self._trials, self._counted = self._count(), time.monotonic()
        return self._trials

    def _count(self) -> int:
        nodes = [node.resources for node in alive()]
        now = sum(map(self._fit, nodes))
        may = self._fit(nodes[0]) + sum(map(self._fit, promised(self._file)))
        most = max(1, now, may)
        if self.study.gpus and self.needs["gpu"]:
            most = min(most, fit({"GPU": self.study.gpus, "CPU": most}, 1, self.needs["gpu"]))
        return most

    def _fit(self, machine: Amounts) -> int:
        return fit(machine, self.needs["cpu"], self.needs["gpu"])

    def _await(self, say: Callable[[str], None]) -> None:
        kinds = self._file["available_node_types"].values() if self._file else ()
        count = 1 + sum(kind.get("min_workers", 0) for kind in kinds)
        until = time.monotonic() + JOIN_SECONDS
        if (have := len(alive())) < count:
            say(f"{have} of {count} machines have joined, waiting for the others")
        while len(alive()) < count and time.monotonic() < until:
            time.sleep(1.0)


def _gpus(machines: list[Amounts]) -> int:
    return int(sum(machine.get("GPU", 0) for machine in machines))


def _node(entry: Mapping[str, Any]) -> Node:
    address, host = entry["NodeManagerAddress"], entry["NodeManagerHostname"]
    return Node(entry["NodeID"], f"{address} ({host})", entry["Resources"])
