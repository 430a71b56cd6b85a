"""Comparison of configurations in a table of results that was made elsewhere.

The numbers are those of a study: summary over repeats, differences from a baseline, conclusion. The
names of hyperparameters and metrics are the table's own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.study import Format
from kdtune.results import table_text
from kdtune.results.comparison import (
    MIN_REPEATS_FOR_MAX_T,
    SIGNIFICANCE_LEVEL,
    best_config,
    over_known,
)
from kdtune.results.pairs import Pair
from kdtune.results.table_columns import is_higher_better, scale_of
from kdtune.results.table_runs import CONFIG, Columns, Runs, read_runs
from kdtune.results.table_sources import read_table
from kdtune.statistics.intervals import MIN_REPEATS, mean_interval, unpaired_difference
from kdtune.statistics.multiplicity import max_t


def compare(
    frame: pd.DataFrame | str | Path,
    by: str | Sequence[str],
    repeat: str,
    metric: str,
    *,
    epoch: str | None = None,
    example: str | None = None,
    columns: Sequence[str] = (),
    baseline: Mapping[str, Value] | None = None,
    higher_is_better: bool | None = None,
    points: bool = False,
    pooled: bool = False,
    unpaired: bool = False,
    keep_incomplete: bool = False,
) -> "TableComparison":
    """Compare configurations in a table of results with a baseline.

        >>> frame = pandas.read_csv("results.csv")          # columns alpha, seed, acc
        >>> result = kdtune.compare(frame, by="alpha", repeat="seed", metric="acc")
        >>> print(result)                                   # the tables and the conclusion
        >>> result.comparisons[["label", "diff", "low", "high", "p_holm"]]

    Configurations with the same repeats are paired (paired t test); others are independent samples
    (Welch's t test).

    Args:
        frame: One row per run, or per run and epoch, or per run and example; or a file, see
            `table_sources.read_table`.
        by: Columns of the hyperparameters.
        repeat: Column of the random seed or of the number of the run.
        metric: Column that is compared.
        epoch: Column of the epoch; the last epoch of each run counts.
        example: Column of the example, where `metric` is a value per example such as correctness.
            Then differences hold for new repeats and new examples.
        columns: Other metrics of the summary.
        baseline: The best configuration with these values is the baseline. None: alpha = 1 if
            there is such a configuration, else nothing is compared.
        higher_is_better: None: False if the metric's name has a word such as loss or error.
        points: Whether the metric is a share, so that differences are percentage points, even if it
            is not named like an accuracy.
        pooled: Whether the summary is over all epochs of all runs.
        unpaired: Whether the same repeat does not mean the same random seed.
        keep_incomplete: Whether runs with fewer epochs than the others count.

    Raises:
        InputError: A column does not exist, rows contradict each other, or there is no such
            baseline.
    """
    notes: list[str] = []
    if not isinstance(frame, pd.DataFrame):
        frame, notes = read_table(str(frame), epoch=epoch)
    names = Columns(
        (by,) if isinstance(by, str) else tuple(by), repeat, metric, epoch, example, tuple(columns)
    )
    if pooled and epoch is None:
        raise InputError("pooled must be used with epoch, the column of the epochs to pool over")
    runs = read_runs(frame, names, keep_incomplete)
    runs.warnings[:0] = notes
    higher = is_higher_better(metric) if higher_is_better is None else higher_is_better
    given = higher_is_better is not None
    return TableComparison(runs, _baseline(runs, baseline), higher, given, points, pooled, unpaired)


def _baseline(runs: Runs, baseline: Mapping[str, Value] | None) -> dict[str, Value]:
    """Return the values of the baseline; {} for none.

    Raises InputError if there is no such configuration.
    """
    if baseline is None:
        has_plain = "alpha" in runs.columns.by and (runs.configs["alpha"] == 1).any()
        return {"alpha": 1} if has_plain else {}
    matches = pd.Series(True, index=runs.configs.index)
    for name, value in baseline.items():
        if name not in runs.columns.by:
            raise InputError(
                f"baseline must name columns of --by ({', '.join(runs.columns.by)}), but got {name}"
            )
        matches &= _equals(runs.configs[name], value)
    if not matches.any():
        known = "; ".join(
            f"{name}: {', '.join(dict.fromkeys(f'{v}' for v in runs.configs[name]))}"
            for name in baseline
        )
        got = ",".join(f"{name}={value}" for name, value in baseline.items())
        raise InputError(f"baseline must be a configuration of the table ({known}), but got {got}")
    return dict(baseline)


def _equals(column: pd.Series, value: Value) -> pd.Series:
    """Return where a column has a value; "1" of a command line is the number 1, too."""
    same = (column == value) | (column.astype(str) == str(value))
    try:
        return same | (pd.to_numeric(column, errors="coerce") == float(value))
    except ValueError:
        return same


@dataclass(frozen=True, repr=False)
class TableComparison:
    """A table of results: its summary, its comparisons and the conclusion.

    `text` and the printed form are for reading.
    """

    runs: Runs
    baseline: Mapping[str, Value]
    """Values of the baseline; {}: nothing is compared."""
    higher_is_better: bool
    direction_given: bool
    """Whether the user says which values are better; else the metric's name does."""
    points: bool
    """Whether the user says that the metric is a share."""
    pooled: bool
    unpaired: bool

    @property
    def columns(self) -> Columns:
        """Columns of the table, and what each is."""
        return self.runs.columns

    @property
    def warnings(self) -> list[str]:
        """What is wrong with the table, or may be."""
        return list(self.runs.warnings)

    @cached_property
    def scale(self) -> tuple[int, bool]:
        """Factor for the display of differences, and whether they are percentage points."""
        metric = self.columns.metric
        return scale_of(metric, self.runs.rows[metric], self.points)

    @property
    def sign(self) -> int:
        """1 if higher values are better, else -1."""
        return 1 if self.higher_is_better else -1

    @cached_property
    def values(self) -> pd.DataFrame:
        """The metric at the last epoch: a row per repeat, a column per configuration."""
        columns = self.columns
        return self.runs.values.pivot(index=columns.repeat, columns=CONFIG, values=columns.metric)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """One row per configuration: the columns `by`, label, and for each metric its mean.

        <metric>/mean, /std (ddof = 1), /n, and /low and /high, the ends of the 95 % t interval over
        repeats. Pooled, it is over all epochs of all runs, without an interval.
        """
        rows = self.runs.rows if self.pooled else self.runs.values
        table = []
        for config, names in self.runs.configs.iterrows():
            row: dict[str, Any] = dict(names)
            own = rows[rows[CONFIG] == config]
            for metric in self.columns.metrics:
                i = mean_interval(own[metric].dropna())
                row |= {f"{metric}/mean": i.mean, f"{metric}/std": i.sd, f"{metric}/n": i.n}
                if not self.pooled:
                    row |= {f"{metric}/low": i.low, f"{metric}/high": i.high}
            table.append(row)
        return pd.DataFrame(table)

    @cached_property
    def comparisons(self) -> pd.DataFrame:
        """The other configurations minus the baseline, best first.

        One row each; the columns are those of `Results.compare`: config_id, label, config/<name>,
        diff, sd, error, df, low, high (ends of the simultaneous 95 % t interval: Bonferroni over
        all rows), low_here, high_here (the same over repeats alone; equal to low and high without
        values per example), n, n_images, p, wins, ties, losses, p_better, baseline (its config_id),
        p_holm, p_max_t. Besides n_baseline (repeats of the baseline), paired, and why (if it is
        not). Empty without a baseline.
        """
        baseline = self.baseline_config
        others = [c for c in self.values if c not in self.candidates]
        if baseline is None or not others:
            return pd.DataFrame()
        pairs = {c: self._pair(c, baseline) for c in others}
        m = max(1, sum(min(len(a), len(b)) >= MIN_REPEATS for a, b, _, _ in pairs.values()))
        rows = [self._row(pair, 1 - SIGNIFICANCE_LEVEL / m) for pair in pairs.values()]
        table = pd.DataFrame(rows).assign(config_id=others, baseline=baseline)
        table["p_holm"] = over_known(table.p)
        table["p_max_t"] = self._max_t(others, baseline, table)
        configs = self.runs.configs.rename(columns=lambda c: c if c == "label" else f"config/{c}")
        table = configs.reset_index().merge(table, on="config_id")
        order = (self.sign * table["diff"]).sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)

    @cached_property
    def candidates(self) -> list[int]:
        """The configurations that may be the baseline."""
        if not self.baseline:
            return []
        configs = self.runs.configs
        matches = [_equals(configs[name], value) for name, value in self.baseline.items()]
        found = configs.index[np.logical_and.reduce(matches)]
        return [c for c in found if c in self.values]

    @cached_property
    def baseline_config(self) -> int | None:
        """The best configuration with the values of the baseline; None if there is none."""
        if not self.candidates:
            return None
        # best_config returns text, the numbers are those of the columns
        best = best_config(self.values[self.candidates].rename(columns=str), self.sign)
        return int(best)

    def _pair(self, config: int, baseline: int) -> tuple[pd.Series, pd.Series, str, Any]:
        """Return the samples of a configuration and the baseline, and why they are unpaired."""
        a, b = (self.values[c].dropna() for c in (config, baseline))
        common = a.index.intersection(b.index)
        if self.unpaired:
            return a, b, "--unpaired", None
        if len(common) <= min(len(a), len(b)) / 2:
            number = "no" if not len(common) else str(len(common))
            return a, b, f"{number} common {self.columns.repeat}", None
        examples = self._examples(config, baseline, common) if self.columns.example else None
        return a[common], b[common], "", examples

    def _examples(self, config: int, baseline: int, repeats: pd.Index) -> Any:
        """Return the differences [R, N] of the examples that all runs of a pair have."""
        columns, rows = self.columns, self.runs.rows
        if columns.epoch is not None:
            key = [CONFIG, columns.repeat]
            rows = rows[rows[columns.epoch] == rows.groupby(key)[columns.epoch].transform("max")]
        tables = [
            rows[rows[CONFIG] == c].pivot(
                index=columns.repeat, columns=columns.example, values=columns.metric
            )
            for c in (config, baseline)
        ]
        return (tables[0] - tables[1]).loc[repeats].dropna(axis=1).to_numpy()

    def _row(
        self, pair: tuple[pd.Series, pd.Series, str, Any], level: float
    ) -> dict[str, float | str | bool]:
        """Return the statistics of a comparison."""
        a, b, why, examples = pair
        scale, is_share = self.scale
        most = 100 / scale if is_share else math.inf
        row: dict[str, float | str | bool] = {"paired": not why, "why": why, "n_baseline": len(b)}
        if not why:
            x, y = a.to_numpy(), b.to_numpy()
            return row | Pair(x, y, examples).statistics(self.sign, level, most)
        welch = unpaired_difference(a, b, level)
        low, high = np.clip([welch.low, welch.high], -most, most).tolist()
        errors = (float(s.std(ddof=1)) / math.sqrt(len(s)) for s in (a, b))
        row |= {"diff": welch.difference, "sd": math.nan, "error": math.hypot(*errors)}
        row |= {"df": welch.df, "p": welch.p, "n": len(a), "n_images": math.nan}
        row |= {"low": low, "high": high, "low_here": low, "high_here": high}
        return row | dict.fromkeys(("wins", "ties", "losses", "p_better", "correlation"), math.nan)

    def _max_t(self, others: list[int], baseline: int, table: pd.DataFrame) -> list[float]:
        """Return max-T p values of paired comparisons that have all repeats; NaN for others."""
        paired = [c for c, is_paired in zip(others, table.paired, strict=True) if is_paired]
        differences = self.values[paired].sub(self.values[baseline], axis=0)
        counts = differences.count()
        full = differences[counts.index[counts == counts.max()]].dropna()
        if len(full) < MIN_REPEATS_FOR_MAX_T or len(paired) < len(others):
            return [math.nan] * len(others)
        adjusted = dict(zip(full.columns, max_t(full.to_numpy()), strict=True))
        return [adjusted.get(c, math.nan) for c in others]

    @property
    def verdict(self) -> str:
        """The conclusion in words."""
        return table_text.verdict(self)

    def text(self, format: Format = "md") -> str:
        """Return summary, comparisons and conclusion as Markdown; else the tables alone.

        "csv" and "latex" are the summary, "json" is summary and comparisons.
        """
        return table_text.text(self, format)

    def __repr__(self) -> str:
        return "\n\n".join([self.text(), *(f"warning: {warning}" for warning in self.warnings)])
