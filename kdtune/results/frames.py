"""Dataframes of a study's records: epochs, trials, predictions, labels."""

import re
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from kdtune.config.files import PREDICTIONS, TRIALS, atomic_write
from kdtune.config.run import DISTILLATION, LIKE, OF_STUDY, complete
from kdtune.config.study import Scope, Study
from kdtune.config.task import Metric, Task
from kdtune.config.text import short
from kdtune.statistics.intervals import by_group
from kdtune.storage.records import CORRECT, FINALISTS, Line, Round, is_running, iter_lines

# Readable labels of configurations, e.g. "alpha = 0.5, T = 4".

PREFIX = "config/"
"""Of the columns of hyperparameters."""


def config_columns(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a dataframe that describe a configuration."""
    return ["config_id", "label", *(c for c in frame if c.startswith(PREFIX))]


def _hyperparameters_of(frame: pd.DataFrame) -> list[str]:
    """Return the hyperparameters of a dataframe with config/*."""
    return [c.removeprefix(PREFIX) for c in frame if c.startswith(PREFIX)]


def distinguishing(trials: pd.DataFrame, searched: Sequence[str]) -> list[str]:
    """Return the hyperparameters that tell the configurations apart.

    They are those of `searched` that differ between trials, in that order; otherwise all that
    differ; the first of `searched` if none does, else alpha.
    """
    # a teacher is inactive without distillation, which does not make it a second one
    varied = [
        name
        for name in _hyperparameters_of(trials)
        if trials[f"config/{name}"].nunique(dropna=name in OF_STUDY) > 1
    ]
    others = [name for name in varied if not _is_copy(name, trials)]
    names = _hyperparameters_of(trials)
    first = [*searched, *(["alpha"] if "alpha" in names else names)][:1]
    return [n for n in searched if n in varied] or others or first


def _is_copy(name: str, trials: pd.DataFrame) -> bool:
    """Return True if a hyperparameter is everywhere equal to the one whose value it has if unset.

    For example teacher_temperature to temperature in a study that does not search it.
    """
    other = LIKE.get(name)
    if other is None:
        return False
    values = trials[f"config/{name}"].dropna()
    return bool(values.equals(trials.loc[values.index, f"config/{other}"]))


def short_model(name: str) -> str:
    """Return a model's name without its module or library: "net" for "my_models:net"."""
    return "+".join(re.split("[:/]", member)[-1] for member in name.split("+"))


def config_label(
    row: Mapping[str, Any], by: Sequence[str], prefix: str = "config/", full: bool = False
) -> str:
    """Return a configuration as text; inactive hyperparameters are left out.

    Args:
        row: with a value per hyperparameter.
        by: hyperparameters to show; numbers have four significant digits.
        prefix: of the hyperparameters' names in the row.
        full: whether models have their full names, see `short_model`, and numbers all digits.
    """
    parts = []
    for name in by:
        value = row[f"{prefix}{name}"]
        if not pd.isna(value):
            shown = _number(value, full) if isinstance(value, int | float) else str(value)
            if name in ("student", "teacher") and not full:
                shown = short_model(shown)
            parts.append(f"{_short_name(name)} = {shown}")
    return ", ".join(parts) or "the configuration"


def regularisers(task: Task, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the hyperparameters of a configuration that are off by default and on in it, in words.

    For example {"label_smoothing": "label smoothing 0.1"}: these are what training without a
    teacher is improved by.
    """
    neutral = {name: setting.neutral for name, setting in task.hyperparameters.items()}
    on = {n: value for n, value in config.items() if neutral.get(n) == 0 and value != 0}
    return {name: f"{name.replace('_', ' ')} {_number(value, False)}" for name, value in on.items()}


def group_label(row: Mapping[str, Any], by: Sequence[str]) -> str:
    """Return the label of a row of a summary; "T = -" where no hyperparameter of `by` is active."""
    if all(pd.isna(row[name]) for name in by):
        return ", ".join(f"{_short_name(name)} = -" for name in by)
    return config_label(row, by, prefix="")


def _short_name(name: str) -> str:
    return {"temperature": "T", "teacher_temperature": "teacher T"}.get(name, name)


def _number(value: float, full: bool) -> str:
    """Return a number with four digits, see `short`; whole ones and those in full with all."""
    if isinstance(value, bool):
        return str(value)
    is_whole = float(value).is_integer() and abs(value) < 1e6
    return f"{value:.0f}" if is_whole else f"{value:.15g}" if full else short(value, 4)


def label_by_config(trials: pd.DataFrame, by: Sequence[str]) -> dict[str, str]:
    """Return the label of each config_id of the trials; models have full names if need be."""
    configs = trials.drop_duplicates("config_id")
    rows = configs[["config_id", *(f"config/{name}" for name in by)]].to_dict("records")
    short = {row["config_id"]: config_label(row, by) for row in rows}
    if len(set(short.values())) == len(short):
        return short
    return {row["config_id"]: config_label(row, by, full=True) for row in rows}


# Predictions of a study's trials on val and test, one row per example.


GROUP = "group"
"""Column with the name of an example's group."""
_NUMBERS = ["trial_id", "split", "example", "label", "predicted", "p_label", "teacher", "correct"]
_NUMBERS += ["kl", "logit_diff", GROUP]
"""Columns that metrics per example are computed from. Files of older versions lack some."""
_UNREADABLE = (ImportError, OSError, ValueError)
"""Errors of a missing or damaged file, and of pandas without pyarrow, which reads no parquet."""


def read_predictions(
    folder: Path, trial_ids: Sequence[str], columns: Sequence[str] | None = None
) -> pd.DataFrame:
    """Return the predictions of trials at their last epoch, in the order of the trials.

    Columns: trial_id, split, example (index in the split), file (relative to the data's folder),
    label, predicted, p_predicted, p_label, teacher (the teacher's class), kl, logit_diff, correct;
    group (name), if the data have groups.
    Studies of version 0.1 have trial_id, split, example and correct only; those of schema 2 and 3
    lack kl and logit_diff.

    A trial's predictions come from its own folder. The study's predictions.parquet is used for
    trials whose file was deleted or is damaged. A trial that neither file holds has no rows.

    Args:
        folder: of the study.
        trial_ids: trials to read.
        columns: columns to read; None for all.
    """
    names = None if columns is None else ["trial_id", *columns]
    tables = list(prediction_tables(folder, trial_ids, names).values())
    if not tables:
        return pd.DataFrame()
    import pyarrow as pa

    # permissive: trials recorded by version 0.1 lack columns
    return pa.concat_tables(tables, promote_options="permissive").to_pandas()


def of_trials(folder: Path, trials: pd.DataFrame, split: str) -> pd.DataFrame:
    """Return the predictions of the completed trials on a split, with their configurations.

    Args:
        folder: of the study.
        trials: rows of `Frames.trials`.
        split: "val" or "test".

    Returns:
        trial_id, config_id, configuration (its readable label), repeat, then the columns of
        `read_predictions`. Empty if no predictions were kept.
    """
    trials = trials[trials.status == "completed"]
    frame = read_predictions(folder, list(trials.trial_id))
    if not len(frame):
        return frame
    trials = trials[["trial_id", "config_id", "label", "repeat"]]
    trials = trials.rename(columns={"label": "configuration"})
    return trials.merge(frame[frame.split == split], on="trial_id").reset_index(drop=True)


def read_examples(
    folder: Path, trial_ids: Sequence[str], metric: Metric, split: str, has_groups: bool = False
) -> dict[str, NDArray[np.float64]]:
    """Return a metric of each example of a split at the last epoch, (N,), by trial.

    Of data with groups it is that of each group, (G,), see `intervals.by_group`.

    A trial whose predictions are missing, or do not give the metric, is left out; see
    `config.task.Metric.of_example`.
    """
    of_example, by_trial = metric.of_example, {}
    if of_example is None:
        return {}
    for trial, table in prediction_tables(folder, trial_ids, [*_NUMBERS, metric.name]).items():
        # predictions of an older version lack columns, those without a teacher values
        with suppress(KeyError, TypeError, ValueError):
            frame = table.to_pandas()
            rows = frame[frame.split == split].sort_values("example")
            values = np.asarray(of_example(rows), dtype=float)
            grouped = has_groups and len(rows)
            by_trial[trial] = by_group(values, rows[GROUP].astype(str)) if grouped else values
    finite = {t: v for t, v in by_trial.items() if len(v) and np.isfinite(v).all()}
    # trials of a training function may be of other examples: they are not paired
    return finite if len({len(values) for values in finite.values()}) < 2 else {}


def prediction_tables(
    folder: Path, trial_ids: Sequence[str], names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the predictions of trials as pyarrow tables, in the order of the trials."""
    tables: dict[str, Any] = {}
    for trial in trial_ids:
        with suppress(*_UNREADABLE):
            tables[trial] = _read(folder / TRIALS / trial / PREDICTIONS, names)
    if missing := [trial for trial in trial_ids if trial not in tables]:
        with suppress(*_UNREADABLE):
            tables |= _split(_read(folder / PREDICTIONS, names), missing)
    return {trial: tables[trial] for trial in trial_ids if trial in tables}


def _read(file: Path, columns: Sequence[str] | None) -> Any:
    """Return a parquet file as a pyarrow table."""
    from pyarrow import parquet

    with parquet.ParquetFile(file) as source:
        return source.read(columns)


def _split(table: Any, trial_ids: Sequence[str]) -> dict[str, Any]:
    """Return the rows of each trial that the table holds."""
    codes = table["trial_id"].combine_chunks().dictionary_encode()
    indices, wanted = codes.indices.to_numpy(), set(trial_ids)
    if (np.diff(indices) < 0).any():  # the rows of a trial need not be together in the file
        order = np.argsort(indices, kind="stable")
        table, indices = table.take(order), indices[order]
    starts = np.flatnonzero(np.diff(indices, prepend=-1))
    parts = {}
    for start, end in zip(starts, [*starts[1:], len(indices)], strict=True):
        if (trial := codes.dictionary[int(indices[start])].as_py()) in wanted:
            parts[trial] = table.slice(start, end - start)
    return parts


# Dataframes of a study's records: one row per epoch and one row per trial.
#
# If a trial was started more than once, its last attempt counts (see `storage.records`).


SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Epoch selections. "last" and "last-5-avg" are Ray Tune's; "best" is the epoch with the best val
accuracy, which is optimistic."""
_SPLITS = ("train", "val", "test")
_LINE = ("kind", "trial_id", "config_id", "repeat", "attempt", "time", "split", CORRECT)
"""What a record of an epoch holds besides its number, its seconds and its metrics."""
_ENDING = ["status", "error", "node"]
INCONSISTENT = "inconsistent"
"""Status of a trial that has ended and whose predictions contradict its records."""


@dataclass(frozen=True)
class Frames:
    """A study's records as dataframes."""

    epochs: pd.DataFrame
    """One row per trial, epoch and split: trial_id, config_id, label, config/*, repeat, epoch,
    split, n_examples, the recorded metrics, seconds. A metric that was not recorded is NaN."""
    trials: pd.DataFrame
    """One row per trial: trial_id, config_id, label, config/*, repeat, phase (search, confirm or
    final), status (completed, pruned, failed, truncated, inconsistent, running or dropped), error
    (of a dropped run the reason), n_epochs, n_epochs_planned, val/<metric>@last, @best,
    @last-5-avg, test/<metric>@last, seconds, node.
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
    recorded_study, study = study, study or Study()
    incomplete: list[str] = []
    running = is_running(folder) if running is None else running
    starts, ends, drops = dict[str, Line](), dict[str, Line](), dict[str, Line]()
    of_kind = {"start": starts, "end": ends, "drop": drops}
    epochs = _Epochs(study.task)
    last, round_ = None, None
    for line in iter_lines(folder, incomplete, recorded_study):
        last, kind, trial = line.get("time"), line["kind"], line.get("trial_id", "")
        if kind == FINALISTS:
            round_ = Round.from_line(line)
        elif kind == "epoch" and trial in starts:
            epochs.add(line)
        elif kind in of_kind:
            of_kind[kind][trial] = line
        if kind == "start":  # of another attempt, perhaps
            ends.pop(trial, None)
            epochs.begin(trial)
        if kind in ("start", "restore"):
            drops.pop(trial, None)
    started = _started(starts, study)
    frame = epochs.frame(started.drop(columns=["phase", "epochs"]))
    unended = "running" if running else "truncated"
    endings = [_ending(ends.get(t), unended, drops.get(t)) for t in starts]
    trials = pd.concat([started, pd.DataFrame(endings, columns=_ENDING)], axis=1)
    names = [name for name in epochs.numbers if name not in ("epoch", "n_examples", "seconds")]
    metrics = study.task.with_metrics(names)
    trials = _trials(trials, frame, metrics)
    return Frames(frame, trials, incomplete, running, last, round_, metrics.recorded)


def add_derived(epochs: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Return the frame of epochs with a column for each derived metric."""
    derived = {name: metric.derived for name, metric in task.metrics.items() if metric.derived}
    return epochs.assign(**derived)


def write_frames(folder: Path, frames: Frames) -> None:
    """Write epochs.parquet, trials.parquet and the trials' predictions.parquet into one folder."""
    usable = frames.trials[frames.trials.status != INCONSISTENT]
    predictions = read_predictions(folder, list(usable.trial_id))
    named = {"epochs.parquet": frames.epochs, "trials.parquet": frames.trials}
    for name, frame in {**named, PREDICTIONS: predictions}.items():
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

    def begin(self, trial_id: str) -> None:
        """Note that an attempt of a trial begins: its first epoch and later ones replace others."""
        self._begun[trial_id] = trial_id in self._begun

    def add(self, line: Line) -> None:
        if self._begun.get(line["trial_id"]):
            self._superseded.append((len(self.trial), line["trial_id"], line["epoch"]))
            self._begun[line["trial_id"]] = False
        if self._is_open:  # a training function reports what it likes
            for name in [n for n in line if n not in self.numbers and n not in _LINE]:
                self.numbers[name] = array("d", [np.nan] * len(self.trial))
        self.trial.append(line["trial_id"])
        self.split.append(_SPLITS.index(line["split"]))
        for name, column in self.numbers.items():
            value = line.get(name)
            column.append(np.nan if value is None else value)

    def frame(self, trials: pd.DataFrame) -> pd.DataFrame:
        """Return one row per trial, epoch and split, from its last record, with trial columns."""
        which = pd.Index(trials.trial_id).get_indexer(pd.Index(self.trial, dtype=object))
        numbers = pd.DataFrame({name: np.frombuffer(c) for name, c in self.numbers.items()})
        numbers.insert(1, "split", np.array(_SPLITS, dtype=object)[np.frombuffer(self.split, "b")])
        numbers = numbers.fillna({"n_examples": 0}).astype({"epoch": int, "n_examples": int})
        keys = pd.DataFrame({"trial": which, "epoch": numbers.epoch, "split": self.split})
        last = ~keys.duplicated(keep="last").to_numpy()
        for count, trial_id, first in self._superseded:
            position = trials.index[trials.trial_id == trial_id][0]
            before = np.arange(len(last)) < count
            last &= ~(before & (which == position) & (numbers.epoch.to_numpy() >= first))
        of_trial = trials.take(which[last]).reset_index(drop=True)
        return pd.concat([of_trial, numbers[last].reset_index(drop=True)], axis=1)


def _started(starts: dict[str, Line], study: Study) -> pd.DataFrame:
    """Return trial_id, config_id, label, config/*, repeat, phase and epochs of each start."""
    hyperparameters = [f"{PREFIX}{name}" for name in study.task.names]
    columns = ["trial_id", "config_id", "label", *hyperparameters, "repeat", "phase", "epochs"]
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
        ending = {name: end[name] for name in _ENDING}
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
    scored = val[val[task.score].notna()]
    scores = task.sign * scored[task.score]
    best = scored.loc[scores.groupby(scored.trial_id, sort=False).idxmax()]
    parts = [
        groups.agg(n_epochs=("epoch", "size"), seconds=("seconds", "sum")),
        groups.tail(1).set_index("trial_id")[metrics].rename(columns="val/{}@last".format),
        best.set_index("trial_id")[metrics].rename(columns="val/{}@best".format),
        groups.tail(5)
        .groupby("trial_id")[metrics]
        .mean()
        .rename(columns="val/{}@last-5-avg".format),
    ]
    ends = epochs.trial_id.map(val.groupby("trial_id").epoch.max())
    test = epochs[(epochs.split == "test") & (epochs.epoch == ends)]
    parts.append(test.set_index("trial_id")[metrics].rename(columns="test/{}@last".format))
    return pd.concat(parts, axis=1).rename_axis("trial_id").reset_index()
