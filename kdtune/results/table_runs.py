"""Checks of a table of results made elsewhere, and one value per run from its rows.

A table has one row per run, or one per run and epoch, or one per run and example. A run is a
configuration (the values of the columns `by`) in a repeat.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.results.labels import config_label
from kdtune.results.table_columns import (
    Columns,
    check_columns,
    constant_in_configs,
    differing_columns,
    numbers,
)
from kdtune.results.tables import cell

MAX_LISTED = 5
"""Runs or configurations that a warning names."""
CONFIG = "kdtune/config"
"""Column with the number of the configuration; a name that a table does not have."""


@dataclass
class Runs:
    """The runs of a table."""

    columns: Columns
    configs: pd.DataFrame
    """A row per configuration, indexed by its number: the columns `by`."""
    labels: pd.Series
    """Configurations in words, by number."""
    rows: pd.DataFrame
    """Rows of the table that count, with the number of their configuration."""
    values: pd.DataFrame
    """A row per run, at its last epoch, mean over examples: the configuration's number, the repeat
    and the metrics."""
    confounded: list[str] = field(default_factory=list)
    """Other columns that differ between configurations."""
    warnings: list[str] = field(default_factory=list)

    def name(self, row: Mapping[str, Any]) -> str:
        """Return a run in words, e.g. "alpha = 0.5, seed = 1"."""
        repeat = self.columns.repeat
        return f"{self.labels[row[CONFIG]]}, {repeat} = {cell(row[repeat])}"


def read_runs(frame: pd.DataFrame, columns: Columns, keep_incomplete: bool = False) -> Runs:
    """Return the runs of a table.

    Args:
        frame: the table.
        columns: what its columns are.
        keep_incomplete: whether runs with fewer epochs than the others count.

    Raises:
        InputError: The table is empty, lacks a column, or contradicts itself.
    """
    check_columns(frame, columns)
    frame = frame.reset_index(drop=True)
    frame = frame.assign(**{c: numbers(frame[c], c, "metric") for c in columns.metrics})
    if columns.epoch is not None:
        frame = frame.assign(**{columns.epoch: numbers(frame[columns.epoch], columns.epoch, "")})
    frame[CONFIG] = frame.groupby(list(columns.by), dropna=False).ngroup()
    configs = frame.drop_duplicates(CONFIG).set_index(CONFIG)[list(columns.by)].sort_index()
    labels = [_label(row, columns.by) for row in configs.to_dict("records")]
    runs = Runs(columns, configs, pd.Series(labels, configs.index), frame, frame)
    frame = _without_missing(frame, runs)
    frame = _without_duplicates(frame, runs)
    runs.rows = frame
    runs.warnings += differing_columns(frame, columns.by, columns.keys, columns.metrics, CONFIG)
    runs.confounded = constant_in_configs(frame, columns, CONFIG)
    runs.values = _last(frame, runs)
    _check_epochs(runs, keep_incomplete)
    _check_examples(runs)
    runs.warnings += _about_repeats(runs)
    return runs


def _label(row: Mapping[Any, Any], by: Sequence[str]) -> str:
    plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in row.items()}
    label = config_label(plain, by, prefix="")
    return label if label != "the configuration" else ", ".join(f"{name} = -" for name in by)


def _without_missing(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return the rows with all keys and a finite metric; warn of the others."""
    columns = runs.columns
    for key in columns.keys:
        missing = frame[key].isna()
        if missing.any():
            runs.warnings.append(
                f"{missing.sum()} of {len(frame)} rows have no {key} and are left out"
            )
            frame = frame[~missing]
    finite = np.isfinite(frame[columns.metric])
    if not finite.all():
        wrong = _some(_run_names(frame[~finite], runs))
        runs.warnings.append(
            f"{(~finite).sum()} of {len(frame)} rows have no finite {columns.metric} and are left "
            f"out ({wrong}); a run that diverged is a result, which the means then lack"
        )
    if not finite.any():
        raise InputError(f"metric {columns.metric} must have numbers, but no row has one")
    return frame[finite]


def _run_names(rows: pd.DataFrame, runs: Runs) -> list[str]:
    found = rows.drop_duplicates([CONFIG, runs.columns.repeat])
    return [runs.name(row) for row in found.to_dict("records")]


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many there are besides."""
    more = len(names) - MAX_LISTED
    text = "; ".join(names[:MAX_LISTED])
    return f"{text}; and {more} more" if more > 0 else text


def _without_duplicates(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return the rows without those that say the same twice.

    Raises InputError for rows of the same run (and epoch, and example) with different values.
    """
    columns = runs.columns
    keys = [CONFIG, *columns.keys]
    repeated = frame[frame.duplicated(keys, keep=False)]
    if not len(repeated):
        return frame
    spread = repeated.groupby(keys)[columns.metric].nunique()
    if (spread > 1).any():
        raise InputError(_conflict(frame, runs, spread[spread > 1].index[0], keys))
    extra = int(frame.duplicated(keys).sum())
    runs.warnings.append(
        f"{extra} of {len(frame)} rows repeat another one ({_some(_run_names(repeated, runs))}); "
        f"each counts once"
    )
    return frame[~frame.duplicated(keys)]


def _conflict(frame: pd.DataFrame, runs: Runs, key: tuple[Any, ...], keys: list[str]) -> str:
    """Return the error for rows of one run with different values, with the way out."""
    columns = runs.columns
    same = (frame[keys] == list(key)).all(axis=1)
    rows = frame[same]
    row = rows.to_dict("records")[0]
    where = runs.name(row) + "".join(f", {k} = {row[k]:g}" for k in [columns.epoch] if k)
    values = ", ".join(f"{v:.6g}" for v in rows[columns.metric].unique()[:4])
    used = {*keys, *columns.by, *columns.metrics}
    apart = [c for c in frame if c not in used and rows[c].nunique(dropna=False) > 1]
    way = "Name the column that tells them apart with --by, --repeat, --epoch or --example"
    if apart:
        way += f" (they differ in {', '.join(map(str, apart[:MAX_LISTED]))})"
    return (
        f"each run must have one value of {columns.metric}, but {where} has {len(rows)}: {values}. "
        f"{way}."
    )


def _last(frame: pd.DataFrame, runs: Runs) -> pd.DataFrame:
    """Return `Runs.values`."""
    columns = runs.columns
    key = [CONFIG, columns.repeat]
    if columns.epoch is not None:
        frame = frame[frame[columns.epoch] == frame.groupby(key)[columns.epoch].transform("max")]
    return frame.groupby(key)[columns.metrics].mean().reset_index()


def _check_epochs(runs: Runs, keep_incomplete: bool) -> None:
    """Warn of runs with fewer epochs, and leave incomplete ones out.

    A run is incomplete if others of its configuration go on. Where most runs end before the last
    epoch, as with early stopping, none is left out.
    """
    columns = runs.columns
    if columns.epoch is None:
        return
    key = [CONFIG, columns.repeat]
    counts = runs.rows.groupby(key)[columns.epoch].agg(n="nunique", last="max").reset_index()
    of_config = counts.groupby(CONFIG)
    counts["most"], counts["end"] = (
        of_config["n"].transform("max"),
        of_config["last"].transform("max"),
    )
    short, end = counts["last"] < counts["end"], counts["last"].max()
    if short.sum() > len(counts) / 2:
        runs.warnings.append(
            f"the runs end at different epochs ({columns.epoch} {counts['last'].min():g} to "
            f"{end:g}); the last epoch of each counts"
        )
        return
    early = counts[counts["end"] < end].drop_duplicates(CONFIG)
    if len(early):
        names = [f"{runs.labels[r[CONFIG]]} ({r['end']:g})" for r in early.to_dict("records")]
        runs.warnings.append(
            f"configurations whose runs end before {columns.epoch} {end:g}: {_some(names)}"
        )
    gaps = ~short & (counts["n"] < counts["most"])
    if gaps.any():
        runs.warnings.append(
            f"epochs are missing before the last one in {_epochs(counts[gaps], runs)}"
        )
    if short.any():
        fate = "They count, with the last epoch that they have"
        if not keep_incomplete:
            fate = "They are left out (--keep-incomplete: the last epoch that they have counts)"
            kept = counts.loc[~short, key]
            runs.values, runs.rows = (t.merge(kept, on=key) for t in (runs.values, runs.rows))
        runs.warnings.append(
            f"runs with fewer epochs than the others: {_epochs(counts[short], runs)}. {fate}"
        )


def _epochs(counts: pd.DataFrame, runs: Runs) -> str:
    """Return runs with their numbers of epochs in words."""
    rows = counts.to_dict("records")
    return _some([f"{runs.name(row)} ({row['n']} of {row['most']} epochs)" for row in rows])


def _check_examples(runs: Runs) -> None:
    """Warn of runs with other examples than the rest."""
    columns = runs.columns
    if columns.example is None:
        return
    counts = runs.rows.groupby([CONFIG, columns.repeat])[columns.example].nunique()
    fewer = counts[counts < runs.rows[columns.example].nunique()].reset_index()
    if len(fewer):
        names = [runs.name(row) for row in fewer.to_dict("records")]
        runs.warnings.append(
            f"runs without all values of {columns.example}: {_some(names)}. A difference is over "
            f"the examples that all its runs have"
        )


def _about_repeats(runs: Runs) -> Iterator[str]:
    """Yield a warning of configurations with fewer repeats than the others."""
    counts = runs.values.groupby(CONFIG).size().reindex(runs.configs.index, fill_value=0)
    fewer = counts[counts < counts.max()]
    if len(fewer):
        names = [f"{runs.labels[c]}: {n}" for c, n in fewer.items()]
        yield f"configurations with fewer than {counts.max()} repeats: {_some(names)}"


def equals(column: pd.Series, value: Value) -> pd.Series:
    """Return where a column has a value.

    The text "1" is the number 1, too, and "none" is a value that is missing.
    """
    same = (column == value) | (column.astype(str) == str(value))
    if str(value).lower() in ("none", "nan", "-"):
        return same | column.isna()
    try:
        return same | (pd.to_numeric(column, errors="coerce") == float(value))
    except ValueError:
        return same
