"""The machines of a Ray cluster: what they have, what may be added, how many trials fit."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ray
import yaml

from kdtune.config.errors import InputError, RayLostError
from kdtune.config.study import Study
from kdtune.streams.resources import (
    check_gpus,
    check_precision,
    count_gpus,
    device_of,
    local_cpus,
    trials_on_gpus,
)

CLUSTER_FILE = Path("~/ray_bootstrap_config.yaml")
"""`ray up` leaves the cluster's file there, on the head node, for the autoscaler. Ray 2.60 has no
other way to learn what the autoscaler may add: `get_max_resources_from_cluster_config` is None."""
POLL_SECONDS = 2.0
"""Time between two requests for the list of machines."""
JOIN_TIMEOUT_SECONDS = 180.0
"""Time to wait for the machines of the cluster's file (min_workers); `ray up` returns as soon as
the head node is up."""
Amounts = Mapping[str, float]
"""Amounts of CPU, GPU and the other resources that Ray counts."""


@dataclass(frozen=True)
class Node:
    """A machine that has joined the cluster."""

    id: str
    name: str
    """Address and host name."""
    resources: Amounts

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.name


class NodeChanges(NamedTuple):
    """The difference between two lists of machines."""

    joined: list[Node]
    lost: list[Node]


class TrialResources(NamedTuple):
    """What one trial takes."""

    cpu: int
    gpu: float


def alive_nodes() -> list[Node]:
    """Return the machines of the cluster, that of the driver first.

    Raises RayLostError if there is none, not even that of the driver.
    """
    own = ray.get_runtime_context().get_node_id()
    nodes = [_node(n) for n in ray.nodes() if n["Alive"]]
    if not nodes:
        raise RayLostError("no machine of Ray is alive; run the same command again to resume")
    return sorted(nodes, key=lambda node: (node.id != own, node.name))


def find_changes(before: list[Node], after: list[Node]) -> NodeChanges:
    """Return the machines that joined and those that were lost; a restarted one is in both."""
    old, new = {node.id for node in before}, {node.id for node in after}
    return NodeChanges(
        [n for n in after if n.id not in old], [n for n in before if n.id not in new]
    )


def potential_workers(cluster_file: Mapping[str, Any] | None) -> list[Amounts]:
    """Return the resources of the workers that the autoscaler may start, the largest first.

    The file of a cluster of type "local" does not state resources; its workers have none here
    until they have joined.
    """
    if cluster_file is None:
        return []
    types = sorted(
        cluster_file["available_node_types"].values(),
        key=lambda kind: (kind["resources"].get("GPU", 0), kind["resources"].get("CPU", 0)),
        reverse=True,
    )
    workers = [kind["resources"] for kind in types for _ in range(kind.get("max_workers", 0))]
    return workers[: cluster_file["max_workers"]]


def count_trials(machine: Amounts, trial: TrialResources) -> int:
    """Return how many trials fit on a machine; a share of a GPU is never split over two GPUs."""
    counts = [machine.get("CPU", 0) // trial.cpu]
    if trial.gpu:
        counts.append(trials_on_gpus(int(machine.get("GPU", 0)), trial.gpu))
    return int(min(counts))


def trial_resources(study: Study, machines: Sequence[Amounts]) -> TrialResources:
    """Return what one trial takes, the same on all machines.

    If the study leaves the CPU cores open and takes GPUs, the cores of each machine are divided by
    the number of trials that its GPUs run at a time; the smallest share of a machine counts.

    Args:
        study: Says what a trial needs, as far as it is given.
        machines: Those that there are and may be.
    """
    takes_gpu = study.may_use_gpus and _count_gpus(machines) > 0
    gpu = study.gpus_per_trial if takes_gpu else 0.0
    if study.cpus_per_trial is not None or not takes_gpu:
        return TrialResources(study.cpus_per_trial or 1, gpu)
    counts = [(m.get("CPU", 0), trials_on_gpus(int(m.get("GPU", 0)), gpu)) for m in machines]
    shares = [int(cores // count) for cores, count in counts if count]
    return TrialResources(max(1, min(shares, default=1)), gpu)


class Capacity:
    """The number of trials of a study that fit on the cluster, with what the autoscaler may add.

    The constructor waits for the machines that the cluster's file demands (min_workers).

    Args:
        study: Says what a trial needs, and the most GPUs that it may use together.
        tell: Called with a line if machines are waited for.

    Raises:
        InputError: The study asks for more GPUs than there are or may be, or a trial fits on no
            machine.
    """

    def __init__(self, study: Study, tell: Callable[[str], None]):
        path = CLUSTER_FILE.expanduser()
        on_head = study.address is not None and path.exists()
        self._file = yaml.safe_load(path.read_text()) if on_head else None
        self.study = study
        self._concurrent, self._counted = 0, -POLL_SECONDS
        self._limits: list[tuple[frozenset[str], int]] = []
        self._wait_for_minimum(tell)
        now = [node.resources for node in alive_nodes()]
        workers = potential_workers(self._file)
        gpus = max(_count_gpus(now), _count_gpus([now[0], *workers]))
        if (study.gpus or 0) > gpus:
            raise InputError(
                f"--gpus must be at most {gpus} on this cluster, which has {_count_gpus(now)} now, "
                f"but got --gpus {study.gpus}. Use --gpus {gpus}"
            )
        self.trial = trial_resources(study, [*now, *workers])
        if not any(count_trials(machine, self.trial) for machine in [*now, *workers]):
            raise InputError(
                f"a trial takes {self.trial.cpu} CPU cores and {self.trial.gpu:g} GPUs, but no "
                f"machine of the cluster has these; --cpus-per-trial, --gpus-per-trial"
            )

    def concurrent_trials(self) -> int:
        """Return how many trials may run now; at least one, which waits for a machine."""
        if time.monotonic() - self._counted >= POLL_SECONDS:
            self._concurrent, self._counted = self._count(), time.monotonic()
        return min([self._concurrent, *(limit for _, limit in self._limits)])

    def lower(self, count: int, trial_ids: Iterable[str]) -> int:
        """Let fewer trials run at a time from now on; return how many, at least 1.

        Args:
            count: How many.
            trial_ids: Of the runs one of which is the cause.
        """
        self._limits.append((frozenset(trial_ids), max(1, count)))
        return min(limit for _, limit in self._limits)

    def restore(self, trial_id: str) -> bool:
        """Drop the limits of which a run may be the cause; return True if there are any."""
        kept = [(causes, limit) for causes, limit in self._limits if trial_id not in causes]
        dropped = len(kept) < len(self._limits)
        self._limits = kept
        return dropped

    def _count(self) -> int:
        nodes = [node.resources for node in alive_nodes()]
        now = sum(map(self._fitting, nodes))
        later = self._fitting(nodes[0]) + sum(map(self._fitting, potential_workers(self._file)))
        count = max(1, now, later)
        if self.study.gpus and self.trial.gpu:
            limit = {"GPU": self.study.gpus, "CPU": count}
            count = min(count, count_trials(limit, TrialResources(1, self.trial.gpu)))
        return count

    def _fitting(self, machine: Amounts) -> int:
        return count_trials(machine, self.trial)

    def _wait_for_minimum(self, tell: Callable[[str], None]) -> None:
        types = self._file["available_node_types"].values() if self._file else ()
        count = 1 + sum(kind.get("min_workers", 0) for kind in types)
        until = time.monotonic() + JOIN_TIMEOUT_SECONDS
        if (have := len(alive_nodes())) < count:
            tell(f"{have} of {count} machines have joined, waiting for the others")
        while len(alive_nodes()) < count and time.monotonic() < until:
            time.sleep(1.0)


def check_local_resources(study: Study, ray_init: Mapping[str, Any] | None) -> None:
    """Raise InputError if a study on this machine alone asks for more than the machine has.

    Args:
        study: Names the GPUs, and what one trial takes.
        ray_init: Arguments of `ray.init` that say what Ray may use, if they are given.
    """
    gpus, cpus = count_gpus(study), local_cpus()
    if ray_init is not None:
        gpus, cpus = ray_init.get("num_gpus", 0), ray_init.get("num_cpus", cpus)
    check_gpus(study, gpus)
    if (study.cpus_per_trial or 1) > cpus:
        raise InputError(
            f"--cpus-per-trial must be at most the {cpus} cores of this machine, but got "
            f"--cpus-per-trial {study.cpus_per_trial}"
        )
    taken = gpus if study.gpus is None else study.gpus
    device = device_of(study, taken)
    if device.type != "cpu" and study.gpus_per_trial > taken:
        raise InputError(
            f"--gpus-per-trial must be at most the {taken} GPUs of the study, but got "
            f"--gpus-per-trial {study.gpus_per_trial:g}"
        )
    check_precision(study.run, device)


def _count_gpus(machines: Sequence[Amounts]) -> int:
    return int(sum(machine.get("GPU", 0) for machine in machines))


def _node(entry: Mapping[str, Any]) -> Node:
    address, host = entry["NodeManagerAddress"], entry["NodeManagerHostname"]
    return Node(entry["NodeID"], f"{address} ({host})", entry["Resources"])
