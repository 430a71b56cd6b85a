"""The study's records: written epoch by epoch, read back as tidy dataframes.

`epochs/NNNNN.jsonl` is the truth, a part for each start of the driver. A line is the start of a
trial, one epoch of one split, or the end of a trial; the last line counts where a trial was tried
again. All else in the folder follows from it. Nothing here unpickles.
"""

from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from kdtune.config.files import PREDICTIONS, atomic_write
from kdtune.config.hyperparameters import HYPERPARAMETERS, complete
from kdtune.results.predictions import gather_predictions
from kdtune.storage.records import Line, is_running, iter_lines

METRICS = ("loss", "ce", "distill", "acc", "teacher_acc", "logit_diff", "agreement", "kl")


SCOPES = ("last", "best", "last-5-avg")
"""Which epoch counts: Ray Tune's names; "best" is that of the best val accuracy, optimistic."""


SPLITS = ("train", "val", "test")


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
    for line in iter_lines(folder, torn):
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


def write_frames(folder: Path, frames: Frames) -> None:
    """Write epochs.parquet, trials.parquet and, gathered from the trials, predictions.parquet."""
    predictions = gather_predictions(folder, frames.trials)
    for name, frame in (
        ("epochs.parquet", frames.epochs),
        ("trials.parquet", frames.trials),
        (PREDICTIONS, predictions),
    ):
        if len(frame.columns):
            with atomic_write(folder / name) as aside:
                frame.to_parquet(aside, index=False)


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


def _config_columns(start: Line) -> Line:
    config = complete(start["config"])
    return {f"config/{name}": config[name] for name in HYPERPARAMETERS}


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
