"""A watch over the processes of a study's trials and teachers, which Ray does not have.

Ray notices a process that ends, not one that is frozen (SIGSTOP, a frozen cgroup): its trial would
be waited for as long as the study lives. Frozen is a process none of whose threads uses CPU time.
One that waits for a GPU that never answers is not noticed, since Ray's threads in it go on, nor is
one that loops for ever.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import psutil
import ray
from ray import tune
from ray._private import state

from kdtune.raytune.lost_ray import check_local_ray
from kdtune.raytune.machines import Node, alive_nodes
from kdtune.raytune.preflight import start_on

SILENT_SECONDS = 60.0
"""A trial that has reported no epoch for so long is looked at."""
LOOK_SECONDS = 60.0
"""Time between two looks at it. The threads of a Ray worker that is alive use several 10 ms of CPU
time in it, also while its trial waits for a disk or for another process that builds a stream."""
POLL_SECONDS = 2.0
AWAY_SECONDS = 30.0
"""A driver that has not polled for so long was suspended or busy itself."""


class Sign(NamedTuple):
    """What tells one look at a process from the next."""

    created: float
    """When the process began: the system gives its number to others later."""
    cpu_seconds: float
    """CPU time that it has used so far."""


@dataclass
class Look:
    """What is known of the process of a silent trial."""

    node: Node
    pid: int
    task: Any = None
    """The Ray task that looks now; None between two looks."""
    before: Sign | None = None
    at: float = 0.0
    """When the last look began."""


class ProcessWatch:
    """Kills the process of a Ray actor that is frozen; Ray or Tune then starts it in another one.

    Frozen is a process that uses no CPU time from one look to the next while its run is silent.
    Long epochs, slow disks and streams that are being built are therefore no fault.

    Args:
        describe: Returns the name of a run for people.
        say: Gets a line about each process that is killed.
    """

    def __init__(self, describe: Callable[[Any], str], say: Callable[[str], None]):
        self._describe, self._say = describe, say
        self._running: dict[str, Any] = {}
        self._heard: dict[str, float] = {}
        self._looks: dict[str, Look] = {}
        self._polled = time.monotonic()

    def begin(self, name: str, run: Any) -> None:
        """Begin to watch a run."""
        self._running[name] = run
        self.hear(name)

    def hear(self, name: str) -> None:
        """Note that a run is alive."""
        self._heard[name] = time.monotonic()
        self._looks.pop(name, None)

    def forget(self, name: str) -> None:
        """Watch a run no longer, until it begins again."""
        for own in (self._running, self._heard, self._looks):
            own.pop(name, None)

    def poll(self) -> None:
        """Look at the processes of silent runs; called all the time.

        Raises:
            RayLostError: A process of the local Ray itself has ended.
        """
        now = time.monotonic()
        if now - self._polled < POLL_SECONDS:
            return
        check_local_ray()
        was_away = now - self._polled > AWAY_SECONDS
        self._polled = now
        if was_away:  # the driver was suspended or busy: what has been reported is not read yet
            for name in self._running:
                self.hear(name)
        for name in [n for n, at in self._heard.items() if now - at >= SILENT_SECONDS]:
            self._look(name, now)

    def _actor(self, run: Any) -> Any:
        """Return the actor of a run; None if it has none now."""
        return run

    def _look(self, name: str, now: float) -> None:
        """Begin a look at the process of a run, or read the one that has ended."""
        look = self._looks.get(name)
        if look is None:
            if (found := find_process(self._actor(self._running[name]))) is None:
                self.hear(name)
                return
            look = self._looks[name] = Look(*found)
        if look.task is not None:
            self._read(name, look)
        elif look.before is None or now - look.at >= LOOK_SECONDS:
            look.task, look.at = start_on(look.node, sign_of, look.pid), now

    def _read(self, name: str, look: Look) -> None:
        """Read what a look has found, if it has ended; kill the process if it is frozen."""
        if not ray.wait([look.task], timeout=0)[0]:
            return
        try:
            sign = ray.get(look.task)
        except ray.exceptions.RayError:  # the machine is lost, or has no memory for a task
            sign = None
        look.task = None
        if sign is None or look.before not in (None, sign):
            self.hear(name)
        elif look.before is None:
            look.before = sign
        else:
            seconds = time.monotonic() - self._heard[name]
            self._say(
                f"{self._describe(self._running[name])}: no epoch for {seconds:.0f} s, and its "
                f"process {look.pid} on {look.node} uses no CPU time, so it is killed; the run "
                f"resumes from its last checkpoint"
            )
            start_on(look.node, kill, look.pid, sign.created)
            self.hear(name)


class WorkerWatch(ProcessWatch, tune.Callback):
    """Tune callback that watches the trials."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks for a restore that never happens

    def _actor(self, run: Any) -> Any:
        return run.temporary_state.ray_actor

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Begin to watch a trial."""
        self.begin(trial.trial_id, trial)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Note that the trial is alive."""
        self.hear(trial.trial_id)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Watch the trial no longer."""
        self.forget(trial.trial_id)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Watch the trial no longer, until it starts again."""
        self.forget(trial.trial_id)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Watch the trial no longer."""
        self.forget(trial.trial_id)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Look at the processes of silent trials; Tune calls this all the time."""
        self.poll()


def find_process(actor: Any) -> tuple[Node, int] | None:
    """Return the machine and the process of an actor; None if Ray does not know them (any more)."""
    known = {} if actor is None else state.actors(actor_id=actor._actor_id.hex())
    nodes = {node.id: node for node in alive_nodes()}
    node = nodes.get(known.get("Address", {}).get("NodeID", ""))
    return None if node is None else (node, known["Pid"])


def sign_of(pid: int) -> Sign | None:
    """Return the sign of a process of this machine; None if it is gone or a debugger holds it."""
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        if process.status() != psutil.STATUS_TRACING_STOP:
            times = process.cpu_times()
            return Sign(process.create_time(), times.user + times.system)
    return None


def kill(pid: int, created: float) -> None:
    """Kill a process of this machine, unless its number belongs to another one by now."""
    with suppress(psutil.Error, ProcessLookupError):
        if psutil.Process(pid).create_time() == created:
            os.kill(pid, signal.SIGKILL)
