"""Reports of a trial to Tune. Imports neither torch nor a trial's own libraries."""

import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ray import tune

from kdtune.config.base_run import BaseRun
from kdtune.config.files import atomic_write
from kdtune.config.study import Study
from kdtune.statistics.early_stopping import rungs
from kdtune.storage.correctness import CORRECT
from kdtune.storage.mirror import Mirror
from kdtune.storage.unusable_folder import MARK, describe_fault, find_fault

REPORT_SECONDS = 0.5
"""Shorter epochs are reported together: a report costs 5 ms of CPU time in all."""

MAX_ERROR = 2000
"""Letters of an error that the records keep; the trial's error.txt has it whole."""


@dataclass(frozen=True)
class EpochReport:
    """Results of one epoch."""

    number: int
    """0, 1, 2, ..."""
    seconds: float
    """Wall time."""
    splits: Mapping[str, Mapping[str, float | int | None]]
    """Metrics by split, and n_examples."""
    correct: str | None = None
    """In the last epoch: the correctness of each example of val, see `storage.correctness`."""


def make_run(study: Study, config: Mapping[str, Any]) -> Any:
    """Return the study's run with the values of a sample of its space, see `Study.base_run`."""
    return study.base_run.sample(**config)


def shown_names(study: Study) -> list[str]:
    """Return the hyperparameters that name a configuration on the terminal."""
    return study.searched or list(study.task.baseline) or list(study.space)[:1]


class Reporter:
    """Reports the epochs of a trial to Tune, several at a time if they are short."""

    def __init__(self, study: Study, run: BaseRun):
        planned = run.planned_epochs
        prunes = study.stop_early and run.repeat == 0 and planned is not None
        self._rungs = rungs(planned) if prunes and planned is not None else []
        self._unreported: list[EpochReport] = []
        self._warnings: list[str] = []
        self._last = time.monotonic()

    def add(self, epoch: EpochReport) -> None:
        """Report the epoch now if the trial may be pruned after it, else with later ones."""
        self._unreported.append(epoch)
        at_rung = epoch.number + 1 in self._rungs
        if at_rung or time.monotonic() - self._last >= REPORT_SECONDS:
            self.report()

    def warn(self, sentence: str) -> None:
        """Have a sentence about the trial's machine or files shown with the next report."""
        self._warnings.append(sentence)

    def report(self, error: str | None = None) -> None:
        """Report the epochs that have not been reported, and why the trial failed, if it did."""
        tune.report(as_report(self._unreported, error) | {"warnings": self._warnings})
        self._unreported, self._warnings, self._last = [], [], time.monotonic()


def as_report(epochs: Sequence[EpochReport], error: str | None = None) -> dict[str, Any]:
    """Return the report to Tune: all of the epochs, and the last one's metrics for TensorBoard."""
    last = epochs[-1].splits if epochs else {}
    curves = {
        split: {name: value for name, value in metrics.items() if value is not None}
        for split, metrics in last.items()
    }
    return {"epochs": [_values(epoch) for epoch in epochs], "error": error, **curves}


def _values(epoch: EpochReport) -> dict[str, Any]:
    """Return what is recorded of an epoch."""
    values = {"number": epoch.number, "seconds": epoch.seconds, "splits": epoch.splits}
    return values if epoch.correct is None else values | {CORRECT: epoch.correct}


def describe_failure(error: Exception, mirror: Mirror, place: str) -> str:
    """Return what is reported of an exception; write its traceback into the trial's folder."""
    folder = mirror.folder / place
    fault = find_fault(error, mirror.folder)  # before a folder that is gone is made again
    with suppress(OSError):  # perhaps the disk or the store is what failed
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "error.txt") as part:
            part.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        mirror.push(f"{place}/error.txt")
    if fault is not None:
        return MARK + describe_fault(fault, mirror.folder)
    return _as_text(error)


def _as_text(error: Exception) -> str:
    """Return the class and message of what a trial has raised, as the records keep it."""
    try:
        text = str(error)
    except Exception:  # a class of the user's may raise here as well
        text = "without a message"
    # the names of files may hold bytes that are no text
    text = text[:MAX_ERROR].encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{type(error).__name__}: {text}"
