"""Summary, comparisons and conclusion of a table of results, with the columns of a study's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.errors import InputError
from kdtune.config.fields import Value
from kdtune.config.study import Format
from kdtune.results import table_text
from kdtune.results.comparison import (
    SIGNIFICANCE_LEVEL,
    best_config,
    over_known,
)
from kdtune.results.pairs import Pair, max_t_over_repeats
from kdtune.results.table_columns import Columns, scale_of
from kdtune.results.table_runs import CONFIG, Runs, equals
from kdtune.statistics.intervals import MIN_REPEATS, mean_interval, unpaired_difference


@dataclass(frozen=True, repr=False)
class TableComparison:
    """A table of results: its summary, its comparisons and the conclusion.

    `text` and the printed form are for reading. Raises InputError if runs that are paired by
    example share none.
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

    def __post_init__(self) -> None:
        if self.columns.example is not None:
            _ = self.comparisons  # refuses runs that share no example

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
    def largest_difference(self) -> float:
        """The largest possible difference: 1 or 100 for a share, else infinite."""
        factor, is_share = self.scale
        return 100 / factor if is_share else math.inf

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
            row.setdefault("label", self.runs.labels[config])
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
        table["p_max_t"] = math.nan
        if table.paired.all():
            table["p_max_t"] = max_t_over_repeats(self.values, dict.fromkeys(others, baseline))
        configs = self.runs.configs.add_prefix("config/")
        configs.insert(0, "label", self.runs.labels)
        table = configs.rename_axis("config_id").reset_index().merge(table, on="config_id")
        order = (self.sign * table["diff"]).sort_values(ascending=False, kind="stable").index
        return table.loc[order].reset_index(drop=True)

    @cached_property
    def candidates(self) -> list[int]:
        """The configurations that may be the baseline."""
        if not self.baseline:
            return []
        configs = self.runs.configs
        matches = [equals(configs[name], value) for name, value in self.baseline.items()]
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
        if self.columns.example is None:
            return a[common], b[common], "", None
        tables = [self._by_example(c).loc[common] for c in (config, baseline)]
        shared = (tables[0] + tables[1]).dropna(axis=1).columns
        if not len(shared):
            raise InputError(self._no_shared_examples(config, baseline))
        one, other = (table[shared] for table in tables)
        # one example alone does not vary, so that the comparison is over repeats
        examples = (one - other).to_numpy() if len(shared) > 1 else None
        return one.mean(axis=1), other.mean(axis=1), "", examples

    def _no_shared_examples(self, config: int, baseline: int) -> str:
        example, labels = self.columns.example, self.runs.labels
        return (
            f"runs must share values of --example to be paired by them, but no {example} is in all "
            f"runs of {labels[config]} and of {labels[baseline]}. Name the column that is the same "
            f"in all runs, or use --unpaired to compare the means of runs."
        )

    def _by_example(self, config: int) -> pd.DataFrame:
        """Return a configuration's metric: a row per repeat, a column per example."""
        columns, rows = self.columns, self.runs.rows
        if columns.epoch is not None:
            key = [CONFIG, columns.repeat]
            rows = rows[rows[columns.epoch] == rows.groupby(key)[columns.epoch].transform("max")]
        return rows[rows[CONFIG] == config].pivot(
            index=columns.repeat, columns=columns.example, values=columns.metric
        )

    def _row(
        self, pair: tuple[pd.Series, pd.Series, str, Any], level: float
    ) -> dict[str, float | str | bool]:
        """Return the statistics of a comparison."""
        a, b, why, examples = pair
        most = self.largest_difference
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
