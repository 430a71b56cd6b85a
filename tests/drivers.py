"""Real drivers of studies, for tests that kill, freeze or starve them and what they start."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import own_functions
import pandas as pd
import psutil
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
        seconds: How long an epoch of `own_functions.steady` lasts.
        code: Lines of Python to run before the study, in the driver alone.
    """

    def __init__(self, study: Study, folder: Path, seconds: float = 0.1, code: str = ""):
        self.study, self._mark = study, uuid4().hex
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.err = folder / "out.txt", folder / "err.txt"
        experiment = folder / "experiment.py"
        experiment.write_text(f"{code}\nfrom kdtune import Run, Study\nstudy = {study!r}\n")
        self.temporary = Path(tempfile.mkdtemp(prefix="kd", dir="/tmp"))  # sockets: short
        own = {MARK: self._mark, "TMPDIR": str(self.temporary), "OMP_NUM_THREADS": "1"}
        env = os.environ | own | {"KDTUNE_TEST_SECONDS": str(seconds)}
        command = [sys.executable, "-m", "kdtune.search", str(experiment)]
        with self.out.open("ab") as out, self.err.open("ab") as err:
            streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
            self.process = subprocess.Popen(command, env=env, start_new_session=True, **streams)

    def __enter__(self) -> "Driver":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(30)

    def processes(self, text: str = "") -> dict[int, str]:
        """Return the command lines with a text, of the driver and all that it has started."""
        commands = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):  # it has ended
                command = " ".join(process.cmdline())
                if text in command and process.environ().get(MARK) == self._mark:
                    commands[process.pid] = command
        return commands

    def workers(self) -> list[int]:
        """Return the processes of trials."""
        return list(self.processes("ray::ImplicitFunc"))

    def epochs(self) -> int:
        return epochs(self.study.folder)

    def wait(self, seconds: float = 480) -> int:
        """Return the exit code of the driver."""
        return self.process.wait(seconds)

    def said(self) -> str:
        """Return what the driver has printed, errors last."""
        return "\n".join(file.read_text(errors="replace") for file in (self.out, self.err))

    def left(self) -> list[str]:
        """Return the processes and files that are left after its end, after a grace."""
        until = time.monotonic() + 60
        while names := [*self.processes().values(), *map(str, self.temporary.glob("kdtune-*"))]:
            if time.monotonic() > until:
                break
            time.sleep(0.2)
        return names


def epochs(folder: Path) -> int:
    """Return the number of epochs of all trials that are recorded."""
    lines = [line for line in read_lines(folder)[0] if line["kind"] == "epoch"]
    return len({(line["trial_id"], line["epoch"]) for line in lines})


def wait_until(holds: Callable[[], object], seconds: float = 480) -> None:
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
    frame = results.epochs.drop(columns="seconds")
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
