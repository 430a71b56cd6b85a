"""The machines that come and go while a study runs."""

import time
from collections.abc import Iterator
from typing import Any

import ray

from kdtune.config.errors import InputError
from kdtune.config.study import Study
from kdtune.raytune.machines import LOOK_SECONDS, Node, alive, changed
from kdtune.raytune.preflight import ask, reason, survey, too_few_gpus
from kdtune.storage.object_store import RETRY_TIMEOUT_SECONDS


class MachineMonitor:
    """Names the machines that come and go while a study runs, and looks at those that come.

    A look may have to wait for the store, or for a machine that is about to go: it is a task beside
    the study, which Tune's loop only asks whether it has ended.
    """

    def __init__(self, study: Study):
        self.study, self.nodes = study, alive()
        self._asked: dict[Node, Any] = {}
        self._last = time.monotonic()

    def tick(self) -> Iterator[str]:
        """A line for each change since the last look.

        Raises InputError where a machine has come that will not do: its runs would fail one after
        another, or be of other data.
        """
        if time.monotonic() - self._last < LOOK_SECONDS:
            return
        self._last = time.monotonic()
        now = alive()
        came, went = changed(self.nodes, now)
        self.nodes = now
        for node in went:
            self._asked.pop(node, None)
            yield f"{node} is gone; its runs go on from their last checkpoint, elsewhere"
        for node in came:
            both = [now[0], node]
            self._asked[node] = ask(now[0], survey, self.study, both, RETRY_TIMEOUT_SECONDS)
        for node in self._answered():
            yield from self._judge(node, self._asked.pop(node))

    def _answered(self) -> list[Node]:
        tasks = list(self._asked.values())
        done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=0) if tasks else ([], [])
        return [node for node, task in self._asked.items() if task in done]

    def _judge(self, node: Node, task: Any) -> Iterator[str]:
        """What a survey that has ended says of a machine."""
        try:
            looks, faults = ray.get(task)
        except ray.exceptions.RayError as error:  # here, not there: of memory, or of the store
            yield f"warning: {node} could not be looked at ({reason(error)})"
            return
        if own := faults.pop(node):
            raise InputError("\n".join(own))
        yield from (f"warning: {words}" for said in faults.values() for words in said)
        if looks[node].unseen:
            yield f"warning: {node} {looks[node].unseen}"
            return
        yield f"{node} has come"
        if words := too_few_gpus(node, looks[node]):
            yield f"warning: {words}"
