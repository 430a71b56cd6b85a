"""One study of a soak: drawn, run under its faults until it is complete, and compared."""

import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from typing import Literal

from soak_comparison import compare
from soak_faults import ENDING, FAULTS, Broken, applicable, stop
from soak_processes import end, remaining, send
from soak_studies import Scene, said_by, statuses

SILENT_SECONDS = 300.0
"""A driver that neither records nor prints for so long hangs."""
MOST_CALLS_AFTER_FAULTS = 6
"""Calls after the last fault; a study that is then not complete never will be."""
LEFT_SECONDS = 30.0
"""Time that Ray's processes have to end after their driver."""
AGENTS = re.compile(r"ray::(DashboardAgent|RuntimeEnvAgent)")
"""Processes of Ray that end by themselves, 60 s after a gcs_server that was killed."""
WANTED_CODES = (0, 130, 143, -1, -2, -9, -15)
"""Exit codes of a driver that is complete, interrupted, or ended by a signal of the soak."""


@dataclass(frozen=True)
class Event:
    """A fault and its time."""

    fault: str
    after: Literal["start", "epochs"]
    """What it waits for: the last call or fault, or the epochs that are recorded since."""
    amount: float
    """Seconds after the start, or number of epochs."""
    seed: int
    """Of what the fault draws."""


@dataclass
class Outcome:
    """What became of a study."""

    number: int
    kind: str
    place: str
    events: list[Event]
    faults: Counter[str] = field(default_factory=Counter)
    """Faults that have hit something."""
    missed: Counter[str] = field(default_factory=Counter)
    """Faults that found nothing to hit, or whose time never came."""
    calls: int = 0
    codes: list[int] = field(default_factory=list)
    """Exit codes of the calls."""
    seconds: float = 0.0
    epochs_twice: int = 0
    epochs_lost: int = 0
    sentences: int = 0
    """Calls that ended with exit code 1 and one sentence, as for a full disk or a lost Ray."""
    failed_trials: int = 0
    """Trials that were recorded as failed, and were run again by the next call."""
    differences: list[str] = field(default_factory=list)
    """From the reference, and whatever else makes the study wrong."""
    found: list[str] = field(default_factory=list)
    """What is no difference but ought to be looked at: tracebacks, processes left, exit codes."""

    def as_dict(self) -> dict[str, object]:
        """Return the outcome for JSON."""
        return vars(self) | {"events": [asdict(event) for event in self.events]}


def draw_events(rng: Random, place: str, has_root: bool) -> list[Event]:
    """Draw the faults of a study and their times."""
    names = rng.choices(applicable(place, has_root), k=rng.randint(3, 6))
    # those that come when the study is complete come last
    names.sort(key=lambda name: FAULTS[name].moment == "complete")
    return [_event(rng, name) for name in names]


def _event(rng: Random, name: str) -> Event:
    if rng.random() < 0.3:
        return Event(name, "start", round(rng.uniform(0, 15), 1), rng.randrange(2**32))
    return Event(name, "epochs", rng.randint(1, 300), rng.randrange(2**32))


class Disturbed:
    """A study while it is disturbed.

    Args:
        scene: The study.
        outcome: Gets what happens.
        kept: Returns the processes that are not the study's own.
    """

    def __init__(self, scene: Scene, outcome: Outcome, kept: Callable[[], set[int]]):
        self.scene, self.outcome, self._kept = scene, outcome, kept

    def run(self, reference: Path) -> None:
        """Run the study under its faults until it is complete, and compare it."""
        began = time.monotonic()
        try:
            self._disturb()
            self._complete()
            for event in self.outcome.events:
                if FAULTS[event.fault].moment == "complete":
                    self._inject(event)
                    self._call_again()
                    self._wait(lambda: False)
            self._compare(reference)
        except Broken as fault:
            self.outcome.differences.append(str(fault))
            self.scene.tell(f"BROKEN {fault}")
        finally:
            stop(self.scene)
            self.outcome.seconds = time.monotonic() - began
            self.outcome.calls = self.scene.calls

    def _disturb(self) -> None:
        self._call_again()
        for event in self.outcome.events:
            moment = FAULTS[event.fault].moment
            if moment == "complete":
                continue
            if self._is_complete():
                self._miss(event, "the study is complete")
                continue
            if not self.scene.is_running:
                self._call_again()
            self._wait(self._has_come(event))
            if not self.scene.is_running:
                self._note_end()
                if self._is_complete():
                    self._miss(event, "the study is complete")
                    continue
                if moment == "running":
                    self._call_again()
            if moment == "stopped":
                self._stop(event)
            self._inject(event)

    def _stop(self, event: Event) -> None:
        """End the driver, if it runs, before something happens between two calls."""
        if self.scene.is_running:
            name = Random(event.seed).choice(ENDING)
            hit = FAULTS[name].inject(self.scene, Random(event.seed))
            self.outcome.faults[name] += hit is not None
            self.scene.tell(f"{name}: {hit}")
            self._wait(lambda: False)
            self._note_end()

    def _inject(self, event: Event) -> None:
        began = time.monotonic()
        hit = FAULTS[event.fault].inject(self.scene, Random(event.seed))
        if hit is None:
            self._miss(event, "nothing to hit")
            return
        self.outcome.faults[event.fault] += 1
        self.scene.tell(f"{event.fault}: {hit} ({time.monotonic() - began:.1f} s)")

    def _miss(self, event: Event, why: str) -> None:
        self.outcome.missed[event.fault] += 1
        self.scene.tell(f"{event.fault}: not done, {why}")

    def _has_come(self, event: Event) -> Callable[[], bool]:
        """Return the function that says whether the time of a fault has come."""
        began, before = time.monotonic(), self.scene.epochs()
        if event.after == "start":
            return lambda: time.monotonic() - began >= event.amount
        return lambda: self.scene.epochs() - before >= event.amount

    def _complete(self) -> None:
        """Give the same command until the study is complete."""
        for _ in range(MOST_CALLS_AFTER_FAULTS):
            if self.scene.is_running:
                self._wait(lambda: False)
            if self._is_complete():
                self._note_end()
                return
            self._note_end()
            self._call_again()
        self._wait(lambda: False)
        if not self._is_complete():
            raise Broken(f"not complete after {MOST_CALLS_AFTER_FAULTS} more calls")

    def _call_again(self) -> None:
        self._note_end()
        self.scene.begin()
        self.scene.tell(f"call {self.scene.calls - 1}")

    def _is_complete(self) -> bool:
        """Return True if the last call has ended well and each trial is completed."""
        driver = self.scene.driver
        if driver is None or driver.poll() != 0:
            return False
        return set(statuses(self.scene.lines()).values()) == {"completed"}

    def _note_end(self) -> None:
        """Look at a call that has ended, once: its exit code, its words, and what it has left."""
        driver = self.scene.driver
        if driver is None or driver.poll() is None or len(self.outcome.codes) == self.scene.calls:
            return
        code, log = driver.returncode, self.scene.home / f"driver-{self.scene.calls - 1:02d}.log"
        self.outcome.codes.append(code)
        self.outcome.failed_trials += sum(
            status == "failed" for status in statuses(self.scene.lines()).values()
        )
        self.scene.tell(f"call {self.scene.calls - 1} has ended with exit code {code}")
        if code == 1 and _last_line(log).startswith("error: "):
            self.outcome.sentences += 1
            self.scene.tell(_last_line(log))
        elif code not in WANTED_CODES:
            self._find(f"{log.name}: exit code {code}: {_last_line(log)}")
        for error in tracebacks(said_by(log)):
            self._find(f"{log.name}: Traceback: {error[:200]}")
        left = remaining(self._kept(), LEFT_SECONDS, AGENTS)
        if left:
            shown = "; ".join(f"{p.pid} {p.command[:60]}" for p in left[:4])
            self._find(
                f"{log.name}: {len(left)} processes are left {LEFT_SECONDS:g} s after: {shown}"
            )
            end(left)

    def _find(self, text: str) -> None:
        self.outcome.found.append(text)
        self.scene.tell(f"FOUND {text}")

    def _wait(self, has_come: Callable[[], bool]) -> None:
        """Wait until something has come or the driver has ended; raise Broken if it hangs."""
        log = self.scene.home / f"driver-{self.scene.calls - 1:02d}.log"
        seen, since = (0, 0), time.monotonic()
        while self.scene.is_running and not has_come():
            now = (self.scene.epochs(), log.stat().st_size)
            if now != seen:
                seen, since = now, time.monotonic()
            if time.monotonic() - since > SILENT_SECONDS:
                send(self.scene.driver_pid, signal.SIGABRT)  # its log then has its stacks
                time.sleep(1)
                raise Broken(f"{log.name}: nothing is recorded or said for {SILENT_SECONDS:g} s")
            time.sleep(0.3)

    def _compare(self, reference: Path) -> None:
        found = compare(self.scene.result(), reference, self.scene.damaged)
        self.outcome.epochs_twice = found.epochs_twice
        self.outcome.epochs_lost = found.epochs_lost
        self.outcome.differences += found.differences
        for difference in found.differences:
            self.scene.tell(f"DIFFERENCE {difference}")


def tracebacks(text: str) -> list[str]:
    """Return the errors of the tracebacks that a driver has printed.

    Without those that Ray Tune logs of a worker that has died, which name the trial.
    """
    pattern = r"([^\n]*)\n?^Traceback [^\n]*\n(?:[ \t][^\n]*\n)*([^\n]*)"
    found = re.findall(pattern, text, flags=re.MULTILINE)
    return [error for before, error in found if "Trial task failed" not in before]


def _last_line(log: Path) -> str:
    lines = said_by(log).strip().splitlines()
    return lines[-1][:300] if lines else ""
