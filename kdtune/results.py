"""The study's records: written epoch by epoch, read back as tidy dataframes.

`epochs/NNNNN.jsonl` is the truth, a part for each start of the driver. A line is the start of a
trial, one epoch of one split, or the end of a trial; the last line counts where a trial was tried
again. All else in the folder follows from it. Nothing here unpickles.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune.config import HYPERPARAMETERS, InputError, Run, Study

METRICS = ("loss", "ce", "distill", "acc", "teacher_acc", "logit_diff", "agreement", "kl")
STUDY = "study.json"
Line = dict[str, Any]


class Records:
    """Writer of the records of a study, one new part a start."""

    def __init__(self, folder: Path):
        parts = folder / "epochs"
        parts.mkdir(parents=True, exist_ok=True)
        number = max((int(p.stem) for p in parts.glob("*.jsonl")), default=-1) + 1
        self._file = (parts / f"{number:05d}.jsonl").open("x", encoding="utf-8")

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

    def close(self) -> None:
        """No more lines."""
        self._file.close()

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
    status (completed, pruned, failed or truncated), error, n_epochs, n_epochs_planned,
    val/<metric>@last, @best, @last-5-avg, test/<metric>@last, seconds, node."""
    torn: list[str]
    """Lines that could not be read, as file:line."""


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
    lines, torn = [], []
    for file in sorted((folder / "epochs").glob("*.jsonl")):
        texts = file.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
                line["kind"], line["trial_id"]
            except (ValueError, KeyError, TypeError):
                torn.append(f"{file.name}:{number}")
                continue
            lines.append(line)
    return lines, torn


def read_frames(folder: Path) -> Frames:
    """The records of a study's folder as dataframes."""
    lines, torn = read_lines(folder)
    starts = {line["trial_id"]: line for line in lines if line["kind"] == "start"}
    ends = {line["trial_id"]: line for line in lines if line["kind"] in ("start", "end")}
    rows = {
        (line["trial_id"], line["epoch"], line["split"]): line
        for line in lines
        if line["kind"] == "epoch" and line["trial_id"] in starts
    }
    columns = ["trial_id", "config_id", *(f"config/{name}" for name in HYPERPARAMETERS), "repeat"]
    configs = {trial: _config_columns(start) for trial, start in starts.items()}
    epochs = pd.DataFrame(
        [configs[row["trial_id"]] | row for row in rows.values()],
        columns=[*columns, "epoch", "split", "n_examples", *METRICS, "seconds"],
    )
    for name in METRICS:
        epochs[name] = epochs[name].astype(float)
    by_trial = dict(list(epochs.groupby("trial_id")))
    trials = [
        configs[trial]
        | {"phase": "search"}
        | start
        | _end(ends[trial])
        | _reduce(by_trial.get(trial, epochs[:0]))
        for trial, start in starts.items()
    ]
    scopes = [f"val/{m}@{s}" for m in METRICS for s in ("last", "best", "last-5-avg")]
    scopes += [f"test/{m}@last" for m in METRICS]
    own = ["phase", "status", "error", "n_epochs", "n_epochs_planned", *scopes, "seconds", "node"]
    frame = pd.DataFrame(trials).rename(columns={"epochs": "n_epochs_planned"})
    frame = frame.reindex(columns=[*columns, *own])
    return Frames(epochs, frame.sort_values(["config_id", "repeat"], ignore_index=True), torn)


def write_frames(folder: Path, frames: Frames) -> None:
    """Write epochs.parquet, trials.parquet and, gathered from the trials, predictions.parquet."""
    frames.epochs.to_parquet(folder / "epochs.parquet", index=False)
    frames.trials.to_parquet(folder / "trials.parquet", index=False)
    files = [folder / "trials" / trial / "predictions.parquet" for trial in frames.trials.trial_id]
    found = [pd.read_parquet(file) for file in files if file.exists()]
    if found:
        pd.concat(found).to_parquet(folder / "predictions.parquet", index=False)


def _config_columns(start: Line) -> Line:
    return {f"config/{name}": start["config"].get(name) for name in HYPERPARAMETERS}


def _end(last: Line) -> Line:
    """Status and error of a trial; one without an end is truncated: it runs, or was cut off."""
    if last["kind"] == "start":
        return {"status": "truncated", "error": None, "node": None}
    return {name: last[name] for name in ("status", "error", "node")}


def _reduce(epochs: pd.DataFrame) -> Line:
    """From the epochs of one trial to one number a metric and scope."""
    val = epochs[epochs.split == "val"].sort_values("epoch")
    values: Line = {"n_epochs": len(val), "seconds": float(val.seconds.sum())}
    if len(val):
        values |= _scopes(val)
        test = epochs[epochs.split == "test"]
        if len(test):
            values |= {f"test/{m}@last": float(test.iloc[-1][m]) for m in METRICS}
    return values


def _scopes(val: pd.DataFrame) -> Line:
    best = val.loc[val.acc.idxmax()]
    rows: Iterable[tuple[str, pd.Series]] = (
        ("last", val.iloc[-1]),
        ("best", best),  # optimistic: the epoch is chosen by the accuracy that is reported
        ("last-5-avg", val[list(METRICS)].tail(5).mean()),
    )
    return {f"val/{m}@{scope}": float(row[m]) for scope, row in rows for m in METRICS}
