"""A monitor of the machines that join the cluster or are lost while a study runs."""

import time
from collections.abc import Iterator
from typing import Any

import ray

from kdtune.config.errors import NodeMismatchError
from kdtune.config.study import Study
from kdtune.raytune.machines import POLL_SECONDS, Node, TrialResources, alive_nodes, find_changes
from kdtune.raytune.node_status import find_missing_gpus
from kdtune.raytune.preflight import describe_ray_error, inspect_nodes, start_on
from kdtune.storage.object_store import RETRY_TIMEOUT_SECONDS


class MachineMonitor:
    """A monitor that names the machines that join or are lost, and inspects those that join.

    An inspection may have to wait for the store, or for a machine that is about to be lost. So it
    is a task beside the study: Tune's loop only asks whether the task has ended. A context manager:
    leaving it cancels the inspections that have not ended.

    Args:
        study: Whose trials run on the machines.
        trial: What one trial takes.
    """

    def __init__(self, study: Study, trial: TrialResources):
        self.study, self.trial = study, trial
        self.nodes = alive_nodes()
        self._inspections: dict[Node, Any] = {}
        self._last = time.monotonic()

    def __enter__(self) -> "MachineMonitor":
        return self

    def __exit__(self, *_: object) -> None:
        for task in self._inspections.values():
            ray.cancel(task)
        self._inspections = {}

    def poll(self) -> Iterator[str]:
        """Yield a line for each change since the last call.

        Raises:
            NodeMismatchError: A machine has joined that cannot run the study's trials: they would
                fail one after another, or train on other data.
        """
        if time.monotonic() - self._last < POLL_SECONDS:
            return
        self._last = time.monotonic()
        now = alive_nodes()
        joined, lost = find_changes(self.nodes, now)
        self.nodes = now
        for node in lost:
            self._inspections.pop(node, None)
            yield f"{node} was lost; its runs resume from their last checkpoint on other machines"
        for node in joined:
            arguments = (self.study, [now[0], node], self.trial, RETRY_TIMEOUT_SECONDS)
            self._inspections[node] = start_on(now[0], inspect_nodes, *arguments)
        for node in self._inspected():
            yield from self._report(node, self._inspections.pop(node))

    def _inspected(self) -> list[Node]:
        tasks = list(self._inspections.values())
        ended, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0) if tasks else ([], [])
        return [node for node, task in self._inspections.items() if task in ended]

    def _report(self, node: Node, task: Any) -> Iterator[str]:
        """Yield the lines that an inspection of a machine gives; raise NodeMismatchError."""
        try:
            statuses, faults = ray.get(task)
        except ray.exceptions.RayError as error:  # of the driver's machine: memory, or the store
            yield f"warning: {node} could not be inspected ({describe_ray_error(error)})"
            return
        if own := faults.pop(node):
            raise NodeMismatchError("\n".join(own))
        yield from (f"warning: {sentence}" for found in faults.values() for sentence in found)
        if statuses[node].no_answer:
            yield f"warning: {node} {statuses[node].no_answer}"
            return
        yield f"{node} has joined"
        if sentence := find_missing_gpus(node, statuses[node]):
            yield f"warning: {sentence}"
