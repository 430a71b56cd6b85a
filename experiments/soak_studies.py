"""The studies of a soak: what they search, where they live, and the calls of their drivers."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from soak_comparison import Told
from soak_processes import Process, below
from tiny_run import TINY

from kdtune.config.study import Study
from kdtune.storage.records import Line, read_lines

ROOT = Path(__file__).parent.parent
RUN = replace(TINY, teacher_epochs=5, student="factories:dropout_student", epochs=80)
"""A run of one or two seconds. Its student has dropout and batch norm, so that a state that is
restored in part gives other numbers."""
_SPACE = {"alpha": (0.0, 1.0), "lr": (1e-2, 3e-3)}
_SHORT = replace(RUN, epochs=40)
"""Of kinds that run one trial at a time."""
KINDS = {
    "grid": Study(run=RUN, space={"alpha": (0.0, 0.5, 1.0)}, repeats=3, gpus=0),
    "race": Study(run=_SHORT, space=_SPACE, repeats=3, policy="race", confirm=1, gpus=0),
    "auto": Study(run=_SHORT, space=_SPACE, repeats=2, until_decided=True, budget="20runs", gpus=0),
}
ADAPTIVE = ("race", "auto")
"""Kinds whose trials depend on results. They run one trial at a time: see soak.py."""
PLACES = ("folder", "s3", "hosts")
DISK = "64m"
"""Size of the disk that a study may fill."""


class Scene:
    """A study that is run and disturbed; of a folder on this machine.

    Args:
        kind: What it searches, of `KINDS`.
        home: Its logs are there, and the study with its cache.
        environment: Variables of its drivers.
    """

    place = "folder"

    def __init__(self, kind: str, home: Path, environment: dict[str, str]):
        self.kind, self.home = kind, home
        home.mkdir(parents=True)
        self.cache = home / "cache"
        self.cache.mkdir()
        self.environment = os.environ | environment
        self.study = self.make_study()
        self.file = home / "experiment.py"
        self.file.write_text(f"from kdtune import Run, Study\nstudy = {self.study!r}\n")
        self.driver: subprocess.Popen[bytes] | None = None
        self.kept: Callable[[], Collection[int]] = tuple
        """Returns processes that serve all studies, to which no fault of this one may come."""
        self.calls = 0
        self.damaged: set[Told] = set()
        """Records of epochs that a fault has damaged."""
        self._mounted: list[Path] = []
        self._log: IO[str] = (home / "log").open("a", buffering=1)
        self._began = time.monotonic()

    def make_study(self) -> Study:
        """Return the study at its place."""
        out = self.home / "runs"
        out.mkdir()
        return replace(KINDS[self.kind], name=self.kind, out=str(out), cache=str(self.cache))

    @property
    def folder(self) -> Path:
        """The study's folder, as this machine sees it; of a store the working folder."""
        return self.study.folder

    def tell(self, text: str) -> None:
        """Write a line into the study's log, with the seconds since its beginning."""
        self._log.write(f"{time.monotonic() - self._began:7.1f} {text}\n")

    def command(self) -> list[str]:
        """Return the command of a driver, the same for each call."""
        one = ["taskset", "-c", str(min(os.sched_getaffinity(0)))] if self.kind in ADAPTIVE else []
        return [*one, sys.executable, "-m", "kdtune.search", str(self.file)]

    def begin(self) -> None:
        """Start the driver."""
        self.driver = self.start(self.home / f"driver-{self.calls:02d}.log", self.environment)
        self.calls += 1

    def start(self, log: Path, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
        """Start the study's command with its output in a file."""
        with log.open("wb") as file:
            return subprocess.Popen(
                self.command(),
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    @property
    def is_running(self) -> bool:
        """Whether the driver runs."""
        return self.driver is not None and self.driver.poll() is None

    @property
    def driver_pid(self) -> int:
        """The driver's process, as this machine counts."""
        assert self.driver is not None
        return self.driver.pid

    def processes(self, name: str) -> list[Process]:
        """Return Ray's processes by a pattern of their command without its flags."""
        own = below(os.getpid(), self.kept())
        return [p for p in own if re.search(name, p.command.partition(" --")[0])]

    def leftovers(self) -> list[Process]:
        """Return what may outlive a driver that is killed: all processes of its Ray."""
        return self.processes("ray")

    def lines(self) -> list[Line]:
        """Return the records so far."""
        with suppress(OSError):  # of a store: the driver replaces its working folder
            return read_lines(self.folder)[0]
        return []

    def epochs(self) -> int:
        """Return the number of records of epochs."""
        return sum(line["kind"] == "epoch" for line in self.lines())

    def unfinished(self) -> list[str]:
        """Return the trials that have started and not ended, in the order of their ids."""
        lines = self.lines()
        ended = {line["trial_id"] for line in lines if line["kind"] == "end"}
        started = {line["trial_id"] for line in lines if line["kind"] == "start"}
        return sorted(started - ended)

    def mount_disks(self) -> None:
        """Put the study and its cache on small disks of their own, in memory; needs root."""
        for place in (self.cache, self.folder.parent):
            place.mkdir(parents=True, exist_ok=True)
            disk = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "soak", str(place)]
            subprocess.run(disk, check=True)
            self._mounted.append(place)

    def result(self) -> Path:
        """Return the folder of the complete study."""
        return self.folder

    def close(self) -> None:
        """Free what the study holds; keep its records and logs."""
        for place in self._mounted:
            copy = self.home / f"{place.name}-kept"
            if place != self.cache:
                shutil.copytree(place, copy, ignore=shutil.ignore_patterns("tune"))
            subprocess.run(["umount", "-l", str(place)], check=True)
        self._mounted = []
        self._log.close()
        shutil.rmtree(self.cache, ignore_errors=True)


def said_by(log: Path) -> str:
    """Return what a driver has printed."""
    return log.read_text(errors="replace")


def statuses(lines: list[Line]) -> dict[str, str]:
    """Return how the last attempt of each trial ended; "running" without an end."""
    found: dict[str, str] = {}
    for line in lines:
        if line["kind"] == "start":
            found[line["trial_id"]] = "running"
        elif line["kind"] == "end":
            found[line["trial_id"]] = line["status"]
    return found


def as_json(values: object) -> str:
    """Return JSON for people."""
    return json.dumps(values, indent=2) + "\n"
