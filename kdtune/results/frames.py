"""Dataframes of a study's records: one row per epoch and one row per trial.

If a trial was started more than once, its last attempt counts (see `storage.records`).
"""

from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pandas as pd

from kdtune.config.files import PREDICTIONS, atomic_write
from kdtune.config.hyperparameters import complete
from kdtune.config.study import Scope, Study
from kdtune.config.task import DISTILLATION, Task
from kdtune.results.labels import PREFIX, config_columns, distinguishing, label_by_config
from kdtune.results.predictions import read_predictions
from kdtune.storage.correctness import CORRECT
from kdtune.storage.records import is_running, iter_lines
from kdtune.storage.rounds import FINALISTS, Round
from kdtune.storage.schema import Line

SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Epoch selections. "last" and "last-5-avg" are Ray Tune's; "best" is the epoch with the best val
accuracy, which is optimistic."""
SPLITS = ("train", "val", "test")
LINE = ("kind", "trial_id", "config_id", "repeat", "attempt", "time", "split", CORRECT)
"""What a record of an epoch holds besides its number, its seconds and its metrics."""
ENDING = ["status", "error", "node"]


@dataclass(frozen=True)
class Frames:
    """A study's records as dataframes."""

    epochs: pd.DataFrame
    """One row per trial, epoch and split: trial_id, config_id, label, config/*, repeat, epoch,
    split, n_examples, the recorded metrics, seconds. A metric that was not recorded is NaN."""
    trials: pd.DataFrame
    """One row per trial: trial_id, config_id, label, config/*, repeat, phase (search, confirm or
    final), status (completed, pruned, failed, truncated, running or dropped), error (of a dropped
    run the reason), n_epochs, n_epochs_planned, val/<metric>@last, @best, @last-5-avg,
    test/<metric>@last, seconds, node.
    An inactive hyperparameter is None or NaN, and one that is unset and stands for the value of
    another has that one's (teacher_temperature that of temperature); the label, e.g. "alpha = 0.5,
    T = 4", never is."""
    incomplete: list[str]
    """Records that could not be read, as file:line."""
    running: bool
    """Whether a process runs the study now."""
    last_record_time: float | None
    """Seconds since 1970, UTC."""
    round: Round | None = None
    """The last round of final repeats; None if there is none, or its finalists were not recorded
    (schema 3 and older)."""
    metrics: tuple[str, ...] = DISTILLATION.recorded
    """The metrics that the trials record."""


def read_frames(folder: Path, running: bool | None = None, study: Study | None = None) -> Frames:
    """Read the records of a study's folder.

    Args:
        folder: of the study.
        running: whether a process runs the study. None: read it from the lock in the folder.
        study: names the hyperparameters of the labels and the metrics. None: a study with the
            defaults of `Study`.
    """
    given, study = study, study or Study()
    incomplete: list[str] = []
    running = is_running(folder) if running is None else running
    starts: dict[str, Line] = {}
    ends: dict[str, Line] = {}
    dropped: dict[str, Line] = {}
    epochs = _Epochs(study.task)
    last, round_ = None, None
    for line in iter_lines(folder, incomplete, given):
        last = line.get("time")
        if line["kind"] == FINALISTS:
            round_ = Round.from_line(line)
        elif line["kind"] == "start":
            starts[line["trial_id"]] = line
            ends.pop(line["trial_id"], None)  # another attempt has begun
            epochs.begin(line["trial_id"])
            dropped.pop(line["trial_id"], None)
        elif line["kind"] == "end":
            ends[line["trial_id"]] = line
        elif line["kind"] == "drop":
            dropped[line["trial_id"]] = line
        elif line["kind"] == "restore":
            dropped.pop(line["trial_id"], None)
        elif line["kind"] == "epoch" and line["trial_id"] in starts:
            epochs.add(line)
    named = _started(starts, study)
    frame = epochs.frame(named.drop(columns=["phase", "epochs"]))
    unended = "running" if running else "truncated"
    endings = [_ending(ends.get(t), unended, dropped.get(t)) for t in starts]
    trials = pd.concat([named, pd.DataFrame(endings, columns=ENDING)], axis=1)
    metrics = study.task.with_metrics(epochs.metrics)
    table = _trials(trials, frame, metrics)
    return Frames(frame, table, incomplete, running, last, round_, metrics.recorded)


def add_derived(epochs: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the frame of epochs with a column for each derived metric."""
    derived = {name: metric.derived for name, metric in task.metrics.items() if metric.derived}
    return epochs.assign(**derived)


def write_frames(folder: Path, frames: Frames) -> None:
    """Write epochs.parquet, trials.parquet and the trials' predictions.parquet into one folder."""
    predictions = read_predictions(folder, list(frames.trials.trial_id))
    for name, frame in (
        ("epochs.parquet", frames.epochs),
        ("trials.parquet", frames.trials),
        (PREDICTIONS, predictions),
    ):
        if len(frame.columns):
            with atomic_write(folder / name) as part:
                _with_one_type(frame).to_parquet(part, index=False)


def _with_one_type(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame with text in columns of numbers and text, which parquet cannot hold."""
    columns = [c for c in frame if c.startswith(PREFIX) and frame[c].dtype == object]
    mixed = [c for c in columns if frame[c].dropna().map(type).nunique() > 1]
    return frame.assign(**{c: frame[c].map(str, na_action="ignore") for c in mixed})


class _Epochs:
    """Epoch records as columns: a million dictionaries would not fit into memory."""

    def __init__(self, task: Task):
        self.trial: list[str] = []
        self.split = array("b")
        names = ("epoch", "n_examples", *task.recorded, "seconds")
        self.numbers = {name: array("d") for name in names}
        self._is_open = not task.is_distillation
        self._begun: dict[str, bool] = {}
        self._superseded: list[tuple[int, str, int]] = []

    @property
    def metrics(self) -> list[str]:
        """The metrics of the records."""
        return [name for name in self.numbers if name not in ("epoch", "n_examples", "seconds")]

    def begin(self, trial_id: str) -> None:
        """Note that an attempt of a trial begins: its first epoch and later ones replace others."""
        self._begun[trial_id] = trial_id in self._begun

    def add(self, line: Line) -> None:
        if self._begun.get(line["trial_id"]):
            self._superseded.append((len(self.trial), line["trial_id"], line["epoch"]))
            self._begun[line["trial_id"]] = False
        for name in self._new_metrics(line) if self._is_open else ():
            self.numbers[name] = array("d", [np.nan] * len(self.trial))
        self.trial.append(line["trial_id"])
        self.split.append(SPLITS.index(line["split"]))
        for name, column in self.numbers.items():
            value = line.get(name)
            column.append(np.nan if value is None else value)

    def _new_metrics(self, line: Line) -> list[str]:
        """Return the names of metrics that a training function had not reported before."""
        return [n for n in line if n not in self.numbers and n not in LINE]

    def frame(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Return one row per trial, epoch and split, from its last record, with trial columns."""
        which = pd.Index(trials.trial_id).get_indexer(pd.Index(self.trial, dtype=object))
        numbers = pd.DataFrame({name: np.frombuffer(c) for name, c in self.numbers.items()})
        numbers.insert(1, "split", np.array(SPLITS, dtype=object)[np.frombuffer(self.split, "b")])
        numbers = numbers.fillna({"n_examples": 0}).astype({"epoch": int, "n_examples": int})
        keys = pd.DataFrame({"trial": which, "epoch": numbers.epoch, "split": self.split})
        last = ~keys.duplicated(keep="last").to_numpy()
        for count, trial_id, first in self._superseded:
            position = trials.index[trials.trial_id == trial_id][0]
            before = np.arange(len(last)) < count
            last &= ~(before & (which == position) & (numbers.epoch.to_numpy() >= first))
        own = trials.take(which[last]).reset_index(drop=True)
        return pd.concat([own, numbers[last].reset_index(drop=True)], axis=1)


def _started(starts: dict[str, Line], study: Study) -> pd.DataFrame:
    """Return trial_id, config_id, label, config/*, repeat, phase and epochs of each start."""
    own = [f"{PREFIX}{name}" for name in study.task.names]
    columns = ["trial_id", "config_id", "label", *own, "repeat", "phase", "epochs"]
    rows = [
        _config_columns(start, study) | {"phase": "search"} | start for start in starts.values()
    ]
    trials = pd.DataFrame(rows, columns=columns)
    labels = label_by_config(trials, distinguishing(trials, study.searched))
    return trials.assign(label=trials.config_id.map(labels))


def _config_columns(start: Line, study: Study) -> Line:
    config = start["config"]
    if study.task.is_distillation:
        # with numbers in place of None that stands for the value of another hyperparameter
        config = study.task.resolved(complete(config, dict(study.run.study_values)))
    return {f"{PREFIX}{name}": config[name] for name in study.task.names}


def _ending(end: Line | None, unended: str, dropped: Line | None) -> Line:
    """Return status, error and node of a trial; the status is `unended` if it has no end."""
    ending = {"status": unended, "error": None, "node": None}
    if end is not None:
        ending = {name: end[name] for name in ENDING}
    return ending if dropped is None else ending | {"status": "dropped", "error": dropped["reason"]}


def _trials(trials: pd.DataFrame, epochs: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the trials with a number for each metric and epoch selection, sorted."""
    trials = trials.rename(columns={"epochs": "n_epochs_planned"})
    trials = trials.merge(_select_epochs(epochs, task), on="trial_id", how="left")
    trials["n_epochs"] = trials.n_epochs.fillna(0).astype(int)
    metrics = [f"val/{m}@{s}" for m in task.recorded for s in SCOPES]
    metrics += [f"test/{m}@last" for m in task.recorded]
    first = ["trial_id", *config_columns(trials), "repeat", "phase", "status", "error", "n_epochs"]
    first += ["n_epochs_planned"]
    trials = trials.reindex(columns=[*first, *metrics, "seconds", "node"])
    return trials.sort_values(["config_id", "repeat"], ignore_index=True)


def _select_epochs(epochs: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return one row per trial with a number for each metric and epoch selection."""
    metrics = list(task.recorded)
    epochs = epochs.sort_values(["trial_id", "epoch"], kind="stable")
    val = epochs[epochs.split == "val"]
    groups = val.groupby("trial_id", sort=False)
    known = val[val[task.score].notna()]
    scores = task.sign * known[task.score]
    best = known.loc[scores.groupby(known.trial_id, sort=False).idxmax()]
    parts = [
        groups.agg(n_epochs=("epoch", "size"), seconds=("seconds", "sum")),
        _named(groups.tail(1).set_index("trial_id")[metrics], "val/{}@last"),
        _named(best.set_index("trial_id")[metrics], "val/{}@best"),
        _named(groups.tail(5).groupby("trial_id")[metrics].mean(), "val/{}@last-5-avg"),
    ]
    ends = epochs.trial_id.map(val.groupby("trial_id").epoch.max())
    test = epochs[(epochs.split == "test") & (epochs.epoch == ends)]
    parts.append(_named(test.set_index("trial_id")[metrics], "test/{}@last"))
    return pd.concat(parts, axis=1).rename_axis("trial_id").reset_index()


def _named(frame: pd.DataFrame, pattern: str) -> pd.DataFrame:
    return frame.rename(columns=pattern.format)
