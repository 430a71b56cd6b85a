"""Real drivers of studies, for tests that kill, freeze or starve them and what they start."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import own_functions
import pandas as pd
import pytest

import kdtune
from kdtune.config.study import Study
from kdtune.storage.records import read_lines

MARK = "KDTUNE_TEST_DRIVER"
"""In the environment of a driver and of all that it starts, by which they are found."""


class Driver:
    """A process that runs `python -m kdtune.search` on a study of this test.

    Its Ray is in a temporary folder of its own, and its output in files. A context manager: at the
    end all processes of it are killed.

    Args:
        study: The study; a training function of it is given by name.
        folder: For its experiment and its output.
        environment: Further variables of its environment.
        code: Lines of Python to run before the study, in the driver alone.
    """

    def __init__(
        self,
        study: Study,
        folder: Path,
        environment: Mapping[str, str] | None = None,
        code: str = "",
    ):
        self.study, self._mark = study, uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        experiment = folder / "experiment.py"
        experiment.write_text(f"{code}\nfrom kdtune import Run, Study\nstudy = {study!r}\n")
        self.temporary = Path(tempfile.mkdtemp(prefix="kd", dir="/tmp"))  # sockets: short
        own = {MARK: self._mark, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        with self.out.open("ab") as out, self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kdtune.search", str(experiment)],
                env={**os.environ, **own, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.pids():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)

    def pids(self, name: str = "") -> list[int]:
        """Return the processes of the driver, itself included, whose command line has a text."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"{MARK}={self._mark}".encode() in (place / "environ").read_bytes():
                    words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if name in words and words:
                        found.append(int(place.name))
        return sorted(found)

    def workers(self) -> list[int]:
        """Return the processes of trials."""
        return self.pids("ray::ImplicitFunc")

    def epochs(self) -> int:
        """Return the number of epochs that are recorded."""
        return len(epochs(self.study.folder))

    def wait(self, seconds: float = 240) -> int:
        """Return the exit code of the driver."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """Return what the driver has printed, errors last."""
        texts = (self.out.read_text(errors="replace"), self.err.read_text(errors="replace"))
        return "\n".join(texts)

    def left(self, seconds: float = 60) -> list[str]:
        """Return the processes and files that are left after its end, after a grace."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            names = [f"process {pid}: {command(pid)}" for pid in self.pids()]
            names += [str(path) for path in self.temporary.glob("kdtune-*")]
            if not names:
                return []
            time.sleep(0.2)
        return names


def command(pid: int) -> str:
    """Return the command line of a process."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:200]
    return ""


def epochs(folder: Path) -> set[tuple[str, int]]:
    """Return which epochs of which trials are recorded."""
    lines = read_lines(folder)[0]
    return {(line["trial_id"], line["epoch"]) for line in lines if line["kind"] == "epoch"}


def wait_until(holds: Callable[[], object], seconds: float = 240) -> None:
    """Wait until something is so; fail if it takes too long."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it did not come about in time"
        time.sleep(0.05)


def recomputed_epochs(folder: Path) -> dict[str, list[float]]:
    """Return the seconds of each epoch that was computed twice, by trial.

    A trial that resumes reports its past epochs again, with their original times: an epoch with
    two different times was computed twice.
    """
    times: dict[tuple[str, int], list[float]] = defaultdict(list)
    for line in read_lines(folder)[0]:
        if line["kind"] == "epoch" and line["split"] == "val":
            times[line["trial_id"], line["epoch"]].append(line["seconds"])
    again: dict[str, list[float]] = defaultdict(list)
    for (trial, _), seconds in times.items():
        again[trial] += list(dict.fromkeys(seconds))[:-1]
    return again


def numbers(folder: Path) -> pd.DataFrame:
    """Return every metric of each epoch, sorted; all runs must be completed."""
    results = kdtune.load(folder)
    assert set(results.trials.status) == {"completed"}
    frame = results.epochs.drop(columns=["seconds", "time"], errors="ignore")
    return frame.sort_values(["trial_id", "epoch", "split"], ignore_index=True)


def check_steady(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare each epoch of a complete study of `own_functions.steady` with the function alone."""
    monkeypatch.setenv("KDTUNE_TEST_SECONDS", "0")
    trials, val = kdtune.load(study.folder).trials, numbers(study.folder).query("split == 'val'")
    assert len(trials) == len(study.space["alpha"]) * study.repeats
    for trial in trials.to_dict("records"):
        alone = tmp_path / "alone" / trial["trial_id"]
        alone.mkdir(parents=True)
        config = {"alpha": trial["config/alpha"]}
        expected = [one["val/acc"] for one in own_functions.steady(config, trial["repeat"], alone)]
        assert val[val.trial_id == trial["trial_id"]].acc.tolist() == expected, trial["trial_id"]
