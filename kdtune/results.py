"""The study's records: written epoch by epoch, read back as tidy dataframes.

`epochs/NNNNN.jsonl` is the truth, a part for each start of the driver. A line is the start of a
trial, one epoch of one split, or the end of a trial; the last line counts where a trial was tried
again. All else in the folder follows from it. Nothing here unpickles.
"""

import json
import time
from array import array
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.files import written_aside
from kdtune.config.hyperparameters import HYPERPARAMETERS
from kdtune.config.run import Run
from kdtune.config.study import Study

METRICS = ("loss", "ce", "distill", "acc", "teacher_acc", "logit_diff", "agreement", "kl")
SCOPES = ("last", "best", "last-5-avg")
"""Which epoch counts: Ray Tune's names; "best" is that of the best val accuracy, optimistic."""
SPLITS = ("train", "val", "test")
STUDY = "study.json"
LOCK = ".lock"
PREDICTIONS = "predictions.parquet"
PROVENANCE = "provenance.json"
Line = dict[str, Any]


class Records:
    """Writer of the records of a study, a new part at each start and whenever it is told."""

    def __init__(self, folder: Path):
        self._parts = folder / "epochs"
        self._parts.mkdir(parents=True, exist_ok=True)
        self._file = self._new_part()

    def start(self, run: Run, attempt: int, phase: str = "search") -> Line:
        """A trial starts, in a phase of the search (see `ledger`)."""
        return self._write("start", run, attempt, config=run.config, epochs=run.epochs, phase=phase)

    def epoch(
        self,
        run: Run,
        attempt: int,
        epoch: int,
        seconds: float,
        splits: Mapping[str, Mapping[str, float | int | None]],
    ) -> list[Line]:
        """An epoch of a trial has ended: a line a split."""
        own = {"epoch": epoch, "seconds": seconds}
        return [
            self._write("epoch", run, attempt, split=split, **metrics, **own)
            for split, metrics in splits.items()
        ]

    def end(
        self,
        run: Run,
        attempt: int,
        status: str,
        error: str | None = None,
        node: str | None = None,
    ) -> Line:
        """A trial has ended, completed, pruned or failed, on the machine `node`."""
        return self._write("end", run, attempt, status=status, error=error, node=node)

    def roll(self) -> None:
        """Begin a new part, so that those before never change again."""
        if self._file.tell():
            self._file.close()
            self._file = self._new_part()

    def close(self) -> None:
        """No more lines."""
        self._file.close()

    def _new_part(self) -> TextIO:
        number = max((int(p.stem) for p in self._parts.glob("*.jsonl")), default=-1) + 1
        return (self._parts / f"{number:05d}.jsonl").open("x", encoding="utf-8")

    def _write(self, kind: str, run: Run, attempt: int, **values: Any) -> Line:
        names = {"trial_id": run.trial_id, "config_id": run.config_id, "repeat": run.repeat}
        line = {"kind": kind, **names, "attempt": attempt, "time": time.time(), **values}
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
        return line


@dataclass(frozen=True)
class Frames:
    """A study's records as dataframes."""

    epochs: pd.DataFrame
    """One row per trial, epoch, split: trial_id, config_id, config/*, repeat, epoch, split,
    n_examples, the metrics, seconds."""
    trials: pd.DataFrame
    """One row per trial: trial_id, config_id, config/*, repeat, phase (search, confirm or final),
    status (completed, pruned, failed, truncated or running), error, n_epochs, n_epochs_planned,
    val/<metric>@last, @best, @last-5-avg, test/<metric>@last, seconds, node."""
    torn: list[str]
    """Lines that could not be read, as file:line."""
    running: bool
    """Whether a process on this machine runs the study now."""
    time: float | None
    """Of the last record, in seconds since 1970, UTC."""


def read_study(folder: Path) -> Study:
    """The study of a folder; raises InputError where there is none."""
    file = folder / STUDY
    if not file.is_file():
        raise InputError(f"a study's folder must hold {STUDY}, but {folder} does not")
    try:
        return Study.from_json(file.read_text(encoding="utf-8"))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{file} is not a study of this version of kdtune ({error})") from None


def read_lines(folder: Path) -> tuple[list[Line], list[str]]:
    """All lines of a study in the order written, and where a torn one was skipped."""
    torn: list[str] = []
    return list(_lines(folder, torn)), torn


def read_frames(folder: Path, running: bool | None = None) -> Frames:
    """The records of a study's folder as dataframes.

    Args:
        folder: of the study.
        running: whether a process runs it, where that is known otherwise than by its lock.
    """
    torn: list[str] = []
    running = is_running(folder) if running is None else running
    starts: dict[str, Line] = {}
    ends: dict[str, Line] = {}
    epochs = _Epochs()
    last = None
    for line in _lines(folder, torn):
        last = line.get("time")
        if line["kind"] == "start":
            starts[line["trial_id"]] = line
            ends.pop(line["trial_id"], None)  # it runs again
        elif line["kind"] == "end":
            ends[line["trial_id"]] = line
        elif line["trial_id"] in starts:
            epochs.add(line)
    columns = ["trial_id", "config_id", *(f"config/{name}" for name in HYPERPARAMETERS), "repeat"]
    rows = [_config_columns(start) | {"phase": "search"} | start for start in starts.values()]
    named = pd.DataFrame(rows, columns=[*columns, "phase", "epochs"])
    frame = epochs.frame(named[columns])
    unended = "running" if running else "truncated"
    fate = pd.DataFrame([_fate(ends.get(trial), unended) for trial in starts], columns=FATE)
    trials = pd.concat([named, fate], axis=1).rename(columns={"epochs": "n_epochs_planned"})
    trials = trials.merge(_reduce(frame), on="trial_id", how="left")
    trials["n_epochs"] = trials.n_epochs.fillna(0).astype(int)
    scopes = [f"val/{m}@{s}" for m in METRICS for s in SCOPES]
    scopes += [f"test/{m}@last" for m in METRICS]
    own = ["phase", "status", "error", "n_epochs", "n_epochs_planned", *scopes, "seconds", "node"]
    trials = trials.reindex(columns=[*columns, *own])
    trials = trials.sort_values(["config_id", "repeat"], ignore_index=True)
    return Frames(frame, trials, torn, running, last)


def is_running(folder: Path) -> bool:
    """Whether a process of this machine holds the study's folder; False where it cannot be told."""
    try:
        import fcntl

        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows; a copied or a read-only folder
        return False
    return False


def write_frames(folder: Path, frames: Frames) -> None:
    """Write epochs.parquet, trials.parquet and, gathered from the trials, predictions.parquet."""
    predictions = gather_predictions(folder, frames.trials)
    for name, frame in (
        ("epochs.parquet", frames.epochs),
        ("trials.parquet", frames.trials),
        (PREDICTIONS, predictions),
    ):
        if len(frame.columns):
            with written_aside(folder / name) as aside:
                frame.to_parquet(aside, index=False)


def gather_predictions(folder: Path, trials: pd.DataFrame) -> pd.DataFrame:
    """Which images the trials got right at their last epoch: trial_id, split, example, correct.

    From the trials' own files, and of those whose file is gone, since the user has tidied up, or is
    damaged, from the study's. Without rows and columns where there are none.
    """
    found: dict[str, pd.DataFrame] = {}
    for trial in trials.trial_id:
        with suppress(OSError, ValueError):
            found[trial] = pd.read_parquet(folder / "trials" / trial / PREDICTIONS)
    if rest := set(trials.trial_id) - set(found):
        with suppress(OSError, ValueError):
            earlier = pd.read_parquet(folder / PREDICTIONS).groupby("trial_id")
            found |= {str(trial): own for trial, own in earlier if trial in rest}
    kept = [found[trial] for trial in trials.trial_id if trial in found]
    return pd.concat(kept, ignore_index=True) if kept else pd.DataFrame()


# -- from lines to frames --------------------------------------------------------------------------

FATE = ["status", "error", "node"]


class _Epochs:
    """The epoch lines as columns: a large study has a million, too many to keep as dictionaries."""

    def __init__(self) -> None:
        self.trial: list[str] = []
        self.split = array("b")
        self.numbers = {name: array("d") for name in ("epoch", "n_examples", *METRICS, "seconds")}

    def add(self, line: Line) -> None:
        self.trial.append(line["trial_id"])
        self.split.append(SPLITS.index(line["split"]))
        for name, column in self.numbers.items():
            value = line.get(name)
            column.append(np.nan if value is None else value)

    def frame(self, trials: pd.DataFrame) -> pd.DataFrame:
        """One row per trial, epoch, split, the last line of each; the trials' columns before."""
        which = pd.Index(trials.trial_id).get_indexer(pd.Index(self.trial, dtype=object))
        numbers = pd.DataFrame({name: np.frombuffer(c) for name, c in self.numbers.items()})
        numbers.insert(1, "split", np.array(SPLITS, dtype=object)[np.frombuffer(self.split, "b")])
        numbers = numbers.astype({"epoch": int, "n_examples": int})
        keys = pd.DataFrame({"trial": which, "epoch": numbers.epoch, "split": self.split})
        last = ~keys.duplicated(keep="last").to_numpy()
        own = trials.take(which[last]).reset_index(drop=True)
        return pd.concat([own, numbers[last].reset_index(drop=True)], axis=1)


def _lines(folder: Path, torn: list[str]) -> Iterator[Line]:
    """The lines of a study in the order written; names in `torn` those that cannot be read.

    The end of a run that says completed while its last epochs are lost is left out: the run was cut
    off, for the tables as for the search that goes on.
    """
    planned: dict[str, int] = {}
    seen: dict[str, int] = {}
    for line in _whole_lines(folder, torn):
        trial, kind = line["trial_id"], line["kind"]
        if kind == "start":
            planned[trial] = line["epochs"]
        elif kind == "epoch":
            seen[trial] = line["epoch"] + 1
        elif line["status"] == "completed" and seen.get(trial, 0) < planned.get(trial, 0):
            continue
        yield line


def _whole_lines(folder: Path, torn: list[str]) -> Iterator[Line]:
    for file in sorted((folder / "epochs").glob("*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as texts:
            for number, text in enumerate(texts, 1):
                try:
                    line = json.loads(text)
                    line["kind"], line["trial_id"]
                except (ValueError, KeyError, TypeError):
                    torn.append(f"{file.name}:{number}")
                else:
                    yield line


def _config_columns(start: Line) -> Line:
    return {f"config/{name}": start["config"].get(name) for name in HYPERPARAMETERS}


def _fate(end: Line | None, unended: str) -> Line:
    """Status, error and node of a trial; one without an end runs, or was cut off."""
    if end is None:
        return {"status": unended, "error": None, "node": None}
    return {name: end[name] for name in FATE}


def _reduce(epochs: pd.DataFrame) -> pd.DataFrame:
    """From epochs to one number a trial, metric and scope: a row a trial."""
    metrics = list(METRICS)
    epochs = epochs.sort_values(["trial_id", "epoch"], kind="stable")
    val = epochs[epochs.split == "val"]
    groups = val.groupby("trial_id", sort=False)
    known = val[val.acc.notna()]
    best = known.loc[known.groupby("trial_id", sort=False).acc.idxmax()]
    parts = [
        groups.agg(n_epochs=("epoch", "size"), seconds=("seconds", "sum")),
        _named(groups.tail(1).set_index("trial_id")[metrics], "val/{}@last"),
        _named(best.set_index("trial_id")[metrics], "val/{}@best"),
        _named(groups.tail(5).groupby("trial_id")[metrics].mean(), "val/{}@last-5-avg"),
    ]
    test = epochs[epochs.split == "test"].groupby("trial_id").tail(1)
    parts.append(_named(test.set_index("trial_id")[metrics], "test/{}@last"))
    return pd.concat(parts, axis=1).rename_axis("trial_id").reset_index()


def _named(frame: pd.DataFrame, pattern: str) -> pd.DataFrame:
    return frame.rename(columns=pattern.format)
