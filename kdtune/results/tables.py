"""Comparison of configurations in a table of results that was made elsewhere.

A table has one row per run, or one per run and epoch, or one per run and example. A run is a
configuration (the values of the columns `by`) in a repeat. The numbers and the sentences are those
of a study; the names of hyperparameters and metrics are the table's.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from kdtune.config.fields import Value
from kdtune.config.study import Format
from kdtune.config.task import Metric, Task, check_names
from kdtune.config.text import InputError, did_you_mean
from kdtune.results.comparison import (
    Criterion,
    best_config,
    best_first,
    compare_pairs,
    mean_columns,
    over_known,
)
from kdtune.results.design import Design, Pair, max_t_over_repeats
from kdtune.results.formatting import cell, comparison_rows, format_table, markdown, plus_minus
from kdtune.results.frames import group_label
from kdtune.results.sources import read_table
from kdtune.results.words import ComparisonContext, sentence, verdict

_LOWER_IS_BETTER = """
loss losses error err nll ce kl ece mse rmse mae mape bce xent perplexity ppl brier entropy
crossentropy divergence diff distance regret time latency runtime seconds cost wer cer fid
"""
"""Words in the names of metrics of which lower values are better."""
_SHARES = """
acc accuracy acc1 acc5 top1 top5 f1 auc auroc auprc agreement precision recall sensitivity
specificity iou miou dice error err ece correct
"""
"""Words in the names of metrics that are shares."""
_MAX_DIGITS = 4
"""Numbers with more significant digits than these were measured, not set."""
_MAX_LISTED = 5
"""Runs or configurations that a warning names."""
_CONFIG = "kdtune/config"
"""Column with the number of the configuration; a name that a table does not have."""


@dataclass(frozen=True)
class Columns:
    """Columns of a table of results, and what each is."""

    by: tuple[str, ...]
    """Hyperparameters: their values are the configuration."""
    repeat: str
    """Random seed or number of the run."""
    metric: str
    """The number that is compared."""
    epoch: str | None = None
    example: str | None = None
    """Image or example, if there is one row per run and example."""
    others: tuple[str, ...] = ()
    """Other metrics of the summary."""

    @property
    def metrics(self) -> list[str]:
        """The compared metric and the others, each once."""
        return list(dict.fromkeys([self.metric, *self.others]))

    @property
    def keys(self) -> list[str]:
        """Columns that tell the rows of a configuration apart."""
        return [name for name in (self.repeat, self.epoch, self.example) if name is not None]

    def check(self, frame: pd.DataFrame) -> None:
        """Raise InputError unless the table has rows and the columns, each with one role."""
        names = [str(c) for c in frame.columns]
        shown = f"of the table ({', '.join(names)})"
        if not self.by:
            raise InputError(f"by must name at least one column {shown}, but got none")
        used = [*self.by, *self.keys, self.metric]
        for name in [*used, *self.others]:
            if name not in names:
                hint = did_you_mean(name, names)
                raise InputError(f"each name must be a column {shown}, but got {name}{hint}")
            if used.count(name) > 1:
                raise InputError(f"each column must have one role, but {name} has two")
        if not len(frame):
            raise InputError("the table must have rows, but it holds column names only")


def is_higher_better(name: str) -> bool:
    """Return whether higher values of a metric are better, by its name."""
    words = _words_of(name)
    is_lower = bool(words.intersection(_LOWER_IS_BETTER.split()))
    return not is_lower and not any(w.endswith(("loss", "error")) for w in words)


def unit_of(name: str, values: pd.Series, points: bool) -> Literal["points", "percent", ""]:
    """Return the unit of a metric: a share is named like one, and lies in [0, 1] or [0, 100].

    Args:
        name: of the metric.
        values: all its values.
        points: whether the user says that it is a share.
    """
    is_share = points or _words_of(name).intersection(_SHARES.split())
    if not is_share or values.min() < 0 or values.max() > 100:
        return ""
    return "points" if values.max() <= 1 else "percent"


def _words_of(name: str) -> set[str]:
    """Return the words of a column's name, e.g. {"val", "top1"} for "val/top-1"."""
    joined = re.sub(r"(?i)top[-_ ]?(\d)", r"top\1", name)
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", joined)
    return {word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word}


# The runs of a table: one value per run from its rows, and warnings.


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
    values: pd.DataFrame = field(default_factory=pd.DataFrame)
    """A row per run, at its last epoch, mean over examples: its key and the metrics."""
    confounded: list[str] = field(default_factory=list)
    """Other columns that differ between configurations."""
    warnings: list[str] = field(default_factory=list)

    @property
    def key(self) -> list[str]:
        """Columns that tell runs apart: the number of the configuration, and the repeat."""
        return [_CONFIG, self.columns.repeat]

    @property
    def last(self) -> pd.DataFrame:
        """The rows at the last epoch of each run."""
        epoch = self.columns.epoch
        if epoch is None:
            return self.rows
        return self.rows[self.rows[epoch] == self.rows.groupby(self.key)[epoch].transform("max")]

    def warn(self, key: str, **slots: object) -> None:
        """Add a warning, a sentence of sentences.toml."""
        self.warnings.append(sentence(key, **slots))

    def names(self, rows: pd.DataFrame) -> list[str]:
        """Return the runs of rows in words, e.g. ["alpha = 0.5, seed = 1"]."""
        runs = rows[self.key].drop_duplicates().itertuples(index=False)
        return [f"{self.labels[c]}, {self.columns.repeat} = {cell(r)}" for c, r in runs]


def read_runs(frame: pd.DataFrame, columns: Columns, keep_incomplete: bool = False) -> Runs:
    """Return the runs of a table.

    Args:
        frame: the table.
        columns: what its columns are.
        keep_incomplete: whether runs with fewer epochs than the others count.

    Raises:
        InputError: The table is empty, lacks a column, or contradicts itself.
    """
    columns.check(frame)
    frame = frame.reset_index(drop=True)
    for name in filter(None, (*columns.metrics, columns.epoch)):
        frame[name] = _numbers(frame[name], name)
    by = list(columns.by)
    frame[_CONFIG] = frame.groupby(by, dropna=False).ngroup()
    configs = frame.drop_duplicates(_CONFIG).set_index(_CONFIG)[by].sort_index()
    labels = [group_label(row, by) for row in configs.astype(object).to_dict("records")]
    runs = Runs(columns, configs, pd.Series(labels, configs.index), frame)
    _drop_missing(runs)
    _drop_duplicates(runs)
    _compare_other_columns(runs)
    if columns.epoch is not None:
        _check_epochs(runs, columns.epoch, keep_incomplete)
    if columns.example is not None:
        counts = runs.rows.groupby(runs.key)[columns.example].nunique()
        if len(fewer := counts[counts < runs.rows[columns.example].nunique()].reset_index()):
            names = _some(runs.names(fewer))
            runs.warn("fewer examples", example=columns.example, runs=names)
    runs.values = runs.last.groupby(runs.key)[columns.metrics].mean().reset_index()
    counts = runs.values.groupby(_CONFIG).size().reindex(configs.index, fill_value=0)
    if fewer := [f"{runs.labels[c]}: {n}" for c, n in counts.items() if n < counts.max()]:
        runs.warn("fewer repeats", most=counts.max(), configs=_some(fewer))
    return runs


def _numbers(values: pd.Series, name: str) -> pd.Series:
    """Return a column as numbers; raise InputError for text."""
    parsed = pd.to_numeric(values, errors="coerce")
    wrong = values[parsed.isna() & values.notna()]
    if len(wrong):
        raise InputError(
            f"{name} must be a column of numbers, but row {int(wrong.index[0]) + 1} holds "
            f"{wrong.iloc[0]!r} ({len(wrong)} of {len(values)} rows are no numbers)"
        )
    return parsed.astype(float)


def _some(names: Sequence[str]) -> str:
    """Return the first names, and how many there are besides."""
    more = len(names) - _MAX_LISTED
    text = "; ".join(names[:_MAX_LISTED])
    return f"{text}; and {more} more" if more > 0 else text


def _drop_missing(runs: Runs) -> None:
    """Leave out rows without a key or a finite metric, with a warning."""
    metric, rows = runs.columns.metric, runs.rows
    rows = rows.assign(**{metric: rows[metric].where(np.isfinite(rows[metric]))})
    for name in [*runs.columns.keys, metric]:
        missing = rows[name].isna()
        if missing.all():
            raise InputError(f"{name} must have values, but no row of the table has one")
        if missing.any():
            numbers = {"count": missing.sum(), "total": len(rows)}
            names = _some(runs.names(rows[missing]))
            runs.warn("without a value", name=name, runs=names, **numbers)
            rows = rows[~missing]
    runs.rows = rows


def _drop_duplicates(runs: Runs) -> None:
    """Leave out rows that say the same twice, with a warning.

    Raises InputError for rows of the same run (and epoch, and example) with different values.
    """
    columns, frame = runs.columns, runs.rows
    keys = [_CONFIG, *columns.keys]
    repeated = frame[frame.duplicated(keys, keep=False)]
    if not len(repeated):
        return
    spread = repeated.groupby(keys)[columns.metric].nunique()
    if len(clash := spread[spread > 1]):
        rows = frame[(frame[keys] == list(clash.index[0])).all(axis=1)]
        values = ", ".join(f"{v:.6g}" for v in rows[columns.metric].unique()[:4])
        others = frame.columns.difference([*keys, *columns.by, *columns.metrics], sort=False)
        differ = [str(c) for c in others if rows[c].nunique(dropna=False) > 1]
        hint = f" (they differ in {', '.join(differ[:_MAX_LISTED])})" if differ else ""
        raise InputError(
            f"each run must have one value of {columns.metric}, but {runs.names(rows)[0]} has "
            f"{len(rows)}: {values}. Name the column that tells them apart with --by, --repeat, "
            f"--epoch or --example{hint}."
        )
    runs.rows = frame[~frame.duplicated(keys)]
    numbers = {"count": len(frame) - len(runs.rows), "total": len(frame)}
    runs.warn("repeated rows", runs=_some(runs.names(repeated)), **numbers)


def _compare_other_columns(runs: Runs) -> None:
    """Warn of columns that look like hyperparameters and differ within a configuration.

    A column looks like one if it holds texts or numbers of few digits, as people set them, is
    constant in each run, and has half as many values as there are runs or fewer. One that follows
    from the repeat, such as the fold of a seed, is none. Columns that differ between configurations
    only cannot be told from the hyperparameters: these are `Runs.confounded`.
    """
    columns, frame = runs.columns, runs.rows
    used = [*columns.by, *columns.keys, *columns.metrics, _CONFIG]
    others = [c for c in frame.columns.difference(used, sort=False) if _was_set(frame[c])]
    if not others:
        return

    def most(*keys: str) -> pd.Series:
        """Return the largest number of values of each column in a group."""
        return frame.groupby(list(keys))[others].nunique(dropna=False).max()

    n, is_constant = frame[others].nunique(dropna=False), most(_CONFIG) == 1
    runs.confounded = n.index[(n > 1) & is_constant].tolist()
    n_runs = len(frame.drop_duplicates(runs.key))
    is_of_run = (most(*runs.key) == 1) & (most(columns.repeat) > 1)
    for name in n.index[~is_constant & is_of_run & (n <= n_runs / 2)]:
        runs.warn("possible hyperparameter", name=name)


def _was_set(column: pd.Series) -> bool:
    """Return whether the values are texts, truth values or numbers of few digits."""
    values = column.dropna()
    if not pd.api.types.is_float_dtype(values):
        return not values.map(lambda value: isinstance(value, list | dict)).any()
    return all(float(f"{v:.{_MAX_DIGITS}g}") == v for v in values.unique())


def _check_epochs(runs: Runs, epoch: str, keep_incomplete: bool) -> None:
    """Warn of runs with fewer epochs, and leave incomplete ones out.

    A run is incomplete if others of its configuration go on. Where most runs end before the last
    epoch, as with early stopping, none is left out.
    """
    counts = runs.rows.groupby(runs.key)[epoch].agg(n="nunique", last="max").reset_index()
    of_config = counts.groupby(_CONFIG)
    most, end = of_config["n"].transform("max"), of_config["last"].transform("max")
    short, whole = counts["last"] < end, counts["last"].max()
    if short.sum() > len(counts) / 2:
        runs.warn("different ends", epoch=epoch, first=counts["last"].min(), last=whole)
        return
    ends = of_config["last"].max()
    if early := [f"{runs.labels[c]} ({last:g})" for c, last in ends.items() if last < whole]:
        runs.warn("early ends", epoch=epoch, last=whole, configs=_some(early))
    if not short.any():
        return
    names = zip(runs.names(counts[short]), counts["n"][short], most[short], strict=True)
    text = _some([f"{name} ({n} of {of} epochs)" for name, n, of in names])
    runs.warn("fewer epochs", runs=text, keep_incomplete=keep_incomplete)
    if not keep_incomplete:
        runs.rows = runs.rows.merge(counts.loc[~short, runs.key], on=runs.key)


# Summary, comparisons and conclusion of a table, with the columns of a study's.


@dataclass(frozen=True, repr=False)
class TableComparison:
    """A table of results: its summary, its comparisons and the conclusion.

    `text` and the printed form are for reading.
    """

    runs: Runs
    criterion: Criterion
    """What is compared: the metric, its unit, and which values are better."""
    candidates: list[int]
    """The configurations that may be the baseline; []: nothing is compared."""
    direction_by_name: bool
    """Whether the metric's name says which values are better; else the user does."""
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
    def values(self) -> pd.DataFrame:
        """The metric at the last epoch: a row per repeat, a column per configuration."""
        columns = self.columns
        return self.runs.values.pivot(index=columns.repeat, columns=_CONFIG, values=columns.metric)

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
            for metric in self.columns.metrics:
                row |= mean_columns(metric, rows.loc[rows[_CONFIG] == config, metric])
            table.append(row)
        summary = pd.DataFrame(table)
        ends = [f"{metric}/{end}" for metric in self.columns.metrics for end in ("low", "high")]
        return summary.drop(columns=ends) if self.pooled else summary

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
        pairs = [self._pair(config, baseline) for config in others]
        table = self.runs.labels.to_frame("label").join(self.runs.configs.add_prefix("config/"))
        table = table.loc[others].rename_axis("config_id").reset_index()
        table["paired"] = [not pair.why_unpaired for pair in pairs]
        table["why"] = [pair.why_unpaired for pair in pairs]
        table["n_baseline"] = [len(pair.b) for pair in pairs]
        table = table.join(compare_pairs(pairs, self.criterion)).assign(baseline=baseline)
        table["p_holm"] = over_known(table.p)
        table["p_max_t"] = math.nan
        if table.paired.all():
            table["p_max_t"] = max_t_over_repeats(self.values, dict.fromkeys(others, baseline))
        return best_first(table, self.criterion.sign)

    @cached_property
    def baseline_config(self) -> int | None:
        """The best configuration with the values of the baseline; None if there is none."""
        if not self.candidates:
            return None
        # best_config returns text, the numbers are those of the columns
        values = self.values[self.candidates].rename(columns=str)
        return int(best_config(values, self.criterion.sign))

    def _pair(self, config: int, baseline: int) -> Pair:
        """Return a configuration and the baseline in their common repeats, or unpaired."""
        columns = self.columns
        a, b = (self.values[c].dropna() for c in (config, baseline))
        common = a.index.intersection(b.index)
        if self.unpaired:
            why = "--unpaired"
        elif len(common) <= min(len(a), len(b)) / 2:
            why = f"{len(common) or 'no'} common {columns.repeat}"
        elif columns.example is None:
            return Pair(a[common].to_numpy(), b[common].to_numpy())
        else:
            x, y = (self._by_example(c).loc[common] for c in (config, baseline))
            shared = (x + y).dropna(axis=1).columns
            if len(shared):
                x, y = x[shared], y[shared]
                # one example alone does not vary, so that the comparison is over repeats
                examples = (x - y).to_numpy() if len(shared) > 1 else None
                return Pair(x.mean(axis=1).to_numpy(), y.mean(axis=1).to_numpy(), examples)
            why = f"no common {columns.example}"
        return Pair(a.to_numpy(), b.to_numpy(), why_unpaired=why)

    def _by_example(self, config: int) -> pd.DataFrame:
        """Return the metric of a configuration: a row per repeat, a column per example."""
        columns, rows = self.columns, self.runs.last
        return rows[rows[_CONFIG] == config].pivot(
            index=columns.repeat, columns=columns.example, values=columns.metric
        )

    @property
    def context(self) -> ComparisonContext:
        """The baseline in words, with the sentences about the comparison."""
        table, columns = self.comparisons, self.columns
        images = table.n_images.dropna() if len(table) else pd.Series(dtype=float)
        why = "there is no row per run and example, --example"
        if columns.example is not None:
            why = f"no comparison is paired by several values of {columns.example}"
        return ComparisonContext(
            baseline=str(self.runs.labels[self.baseline_config]) if self.candidates else "",
            planned=0,
            images=int(images.max()) if len(images) else None,
            why_these_images=why,
            design=Design(has_teacher=False, examples="examples"),
            split="",
            repeat=columns.repeat,
            is_one_study=False,
        )

    @property
    def verdict(self) -> str:
        """The conclusion in words; see `words.verdict`."""
        if not self.candidates:
            name = f"--baseline {self.columns.by[0]}=VALUE"
            return sentence("no baseline named", name=name)
        return verdict(self.comparisons, self.criterion, None, self.context)

    def text(self, format: Format = "md") -> str:
        """Return summary, comparisons and conclusion as Markdown; else the tables alone.

        "csv" and "latex" are the summary, "json" is summary and comparisons.
        """
        if format == "json":
            tables = {"summary": self.summary, "comparisons": self.comparisons}
            parsed = {name: json.loads(format_table(t, "json")) for name, t in tables.items()}
            return json.dumps(parsed | {"verdict": self.verdict}, indent=2)
        if format != "md":
            slashes = {c: c.replace("/", ".") for c in self.columns.by if format == "latex"}
            return format_table(self.summary.rename(columns=slashes), format)
        epoch, example = self.columns.epoch, self.columns.example
        over = f", each the mean over {example}" if example is not None else ""
        at = f", last {epoch} of each run" if epoch is not None else ""
        note = f"Mean ± SD (ddof = 1) over n runs ({self.columns.repeat}){over}{at}"
        parts = [sentence("pooled") if self.pooled else note, markdown(*self._summary_rows())]
        if len(self.comparisons):
            at = ", at the last epoch" if epoch is not None else ""
            rows = comparison_rows(self.comparisons, self.columns.by, self.criterion)
            parts.append(f"Difference in {self.criterion.label} from {self.context.baseline}{at}:")
            parts += [markdown(*rows), " ".join(self._method())]
        return "\n\n".join([*parts, self.verdict])

    def _summary_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return head and rows of the summary; pooled, with the six decimals that papers print."""
        columns, rows = self.columns, []
        for _, row in self.summary.iterrows():
            n = max(row[f"{metric}/n"] for metric in columns.metrics)
            cells = [*(cell(row[name]) for name in columns.by), f"{n:.0f}"]
            for metric in columns.metrics:
                mean, sd = row[f"{metric}/mean"], row[f"{metric}/std"]
                exact = self.pooled and math.isfinite(sd)
                cells.append(f"{mean:.6f} ± {sd:.6f}" if exact else plus_minus(mean, sd))
            rows.append(cells)
        return [*columns.by, "epochs" if self.pooled else "n", *columns.metrics], rows

    def _method(self) -> Iterator[str]:
        """Yield how the differences were computed, and what was assumed about the columns."""
        table = self.comparisons
        if table.paired.any():
            yield from self.context.method()
            yield sentence("same seeds", repeat=self.columns.repeat)
        if not table.paired.all():
            why = ", ".join(sorted(set(table.why[~table.paired])))
            yield from replace(self.context, images=None, why_these_images="").method(why)
        if (n := len(self.candidates)) > 1:
            yield sentence("selected baseline", n=n)
        if self.runs.confounded:
            yield sentence("confounded", columns=", ".join(self.runs.confounded[:_MAX_LISTED]))
        if self.direction_by_name:
            is_higher = self.criterion.sign > 0
            word, other = ("Higher", "lower") if is_higher else ("Lower", "higher")
            flag = f"--{other}-is-better"
            yield sentence("direction", word=word, metric=self.columns.metric, flag=flag)

    def __repr__(self) -> str:
        return "\n\n".join([self.text(), *(f"warning: {warning}" for warning in self.warnings)])


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
) -> TableComparison:
    """Compare configurations in a table of results with a baseline.

        >>> rows = {"alpha": [0.5] * 4 + [1] * 4, "seed": [0, 1, 2, 3] * 2}
        >>> frame = pd.DataFrame(rows | {"acc": [80, 82, 81, 79, 78, 80, 78, 78]})  # or a csv file
        >>> result = kdtune.compare(frame, by="alpha", repeat="seed", metric="acc")
        >>> print(result)
        Mean ± SD (ddof = 1) over n runs (seed)
        <BLANKLINE>
        | alpha |  n |        acc |
        | ----: | -: | ---------: |
        |   0.5 |  4 | 80.5 ± 1.3 |
        |     1 |  4 | 78.5 ± 1.0 |
        ...
        alpha = 0.5 improved acc by 2.0 percentage points compared with alpha = 1 (95% CI +0.7 to
        +3.3, p = 0.016, n = 4 repeats).
        >>> result.comparisons[["label", "diff", "low", "high", "p_holm"]].round(3)
                 label  diff    low   high  p_holm
        0  alpha = 0.5   2.0  0.701  3.299   0.016

    Configurations with the same repeats are paired (paired t test); others are independent samples
    (Welch's t test).

    Args:
        frame: One row per run, or per run and epoch, or per run and example; or a csv or parquet
            file.
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
        InputError: A column does not exist, rows contradict each other, runs share no example,
            or there is no such baseline.
    """
    if not isinstance(frame, pd.DataFrame):
        frame = read_table(str(frame))
    by = (by,) if isinstance(by, str) else tuple(by)
    if pooled and epoch is None:
        raise InputError("pooled must be used with epoch, the column of the epochs to pool over")
    names = Columns(by, repeat, metric, epoch, example, tuple(columns))
    runs = read_runs(frame, names, keep_incomplete)
    by_name = higher_is_better is None
    higher = is_higher_better(metric) if by_name else higher_is_better
    unit = unit_of(metric, runs.rows[metric], points)
    declared = Metric(metric, metric, unit, "higher" if higher else "lower", comparable=True)
    task = Task({}, {metric: declared}, metric, {}, (metric,), examples="examples")
    candidates = _candidates(runs, baseline)
    criterion = Criterion(task=task, split="")
    return TableComparison(runs, criterion, candidates, by_name, pooled, unpaired)


def _candidates(runs: Runs, baseline: Mapping[str, Value] | None) -> list[int]:
    """Return the configurations that may be the baseline; [] for none.

    Raises InputError if there is no such configuration.
    """
    by, configs = runs.columns.by, runs.configs
    values = ({"alpha": 1} if "alpha" in by else {}) if baseline is None else baseline
    check_names("baseline", values, by)
    matches = pd.Series(bool(values), index=configs.index)
    for name, value in values.items():
        matches &= _equals(configs[name], value)
    if baseline and not matches.any():
        choices = "; ".join(f"{n}: {', '.join(map(str, configs[n].unique()))}" for n in baseline)
        text = ",".join(f"{name}={value}" for name, value in baseline.items())
        raise InputError(
            f"baseline must be a configuration of the table ({choices}), but got {text}"
        )
    return [c for c in configs.index[matches] if c in set(runs.values[_CONFIG])]


def _equals(column: pd.Series, value: Value) -> pd.Series:
    """Return where a column has a value.

    The text "1" is the number 1, too, and "none" is a value that is missing.
    """
    same = (column == value) | (column.astype(str) == str(value))
    if str(value).lower() in ("none", "nan", "-"):
        return same | column.isna()
    return same | (pd.to_numeric(column, errors="coerce") == pd.to_numeric(value, errors="coerce"))
