"""Comparison of configurations in a table of results that was made elsewhere: csv or parquet.

A table has one row per run, or one per run and epoch, or one per run and example. A run is a
configuration (the values of the columns `by`) in a repeat. The numbers and the sentences are those
of a study; the names of hyperparameters and metrics are the table's.
"""

import csv
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from kdtune.config.fields import Value
from kdtune.config.files import existing_file
from kdtune.config.study import Format
from kdtune.config.task import Metric, Task, check_names
from kdtune.config.text import InputError, did_you_mean, first_line, list_some
from kdtune.results import comparison, formatting
from kdtune.results.comparison import Criterion
from kdtune.results.design import Design, Pair, common_repeats, judge_rows, max_t_over_repeats
from kdtune.results.frames import group_label
from kdtune.results.words import ComparisonContext, sentence, verdict
from kdtune.statistics.intervals import MIN_REPEATS

# Files. A file is recognised by its content; nothing is unpickled, and no file is written.


def read_tables(places: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one or several files; of several, the column "file" has their names.

    Raises:
        InputError: A file does not exist or cannot be read.
    """
    if len(places) == 1:
        return read_table(places[0])
    frames = [read_table(place).assign(file=Path(place).stem) for place in places]
    return pd.concat(frames, ignore_index=True)


def read_table(place: str, subject: str = "a table of results") -> pd.DataFrame:
    """Return the table of a csv or parquet file; the subject says in errors what it is.

    Raises:
        InputError: The file does not exist or cannot be read.
    """
    file = existing_file(subject, "tables", place)
    data = file.read_bytes()
    try:
        frame = pd.read_parquet(file) if data.startswith(b"PAR1") else _parse_csv(data)
    except Exception as error:  # pandas and pyarrow have many
        raise InputError(
            f"{subject} must be a parquet file or a csv file in UTF-8, but {file} "
            f"cannot be read as one: {first_line(error)}. Save the table as CSV UTF-8."
        ) from error
    return frame if frame.index.name is None else frame.reset_index()


def _parse_csv(data: bytes) -> pd.DataFrame:
    """Return the table of a text with any usual delimiter, and decimal commas beside semicolons.

    Raises ValueError for columns of one name and for rows with more fields than there are names:
    pandas would rename the former, and take the first fields of the latter for an index.
    """
    is_utf_16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as Excel writes it
    text = data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    header = next(iter(text.splitlines()), "")
    delimiter = max(",;\t|", key=header.count)  # the comma if there is none
    if delimiter == ";":
        text = re.sub(r'(^|;)(\s*"?[-+]?\d+),(\d)', r"\1\2.\3", text, flags=re.MULTILINE)
    names = next(csv.reader([header], delimiter=delimiter), [])
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"several columns have the name {twice[0]}")
    frame = pd.read_csv(io.StringIO(text), sep=delimiter, skipinitialspace=True)
    if not isinstance(frame.index, pd.RangeIndex):
        raise ValueError(f"its first line has {len(names)} fields, but its rows have more")
    return frame.rename(columns=lambda name: str(name).strip())


# Columns: what each is, and what the name of a metric says about it.


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
_UNIT_GAP = 10
"""A share and a percentage of one metric differ by a factor of 100, values in one unit by less."""
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


Unit = Literal["points", "percent", ""]


def is_higher_better(name: str) -> bool:
    """Return whether higher values of a metric are better, by its name."""
    words = _words_of(name)
    is_lower = bool(words.intersection(_LOWER_IS_BETTER.split()))
    return not is_lower and not any(w.endswith(("loss", "error")) for w in words)


def unit_of(name: str, values: pd.Series, points: bool) -> Unit:
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

    def warn(self, key: str, rows: pd.DataFrame | None = None, **slots: object) -> None:
        """Add a warning, a sentence of sentences.toml; rows are those of runs that it names."""
        if rows is not None:
            slots["runs"] = list_some(self.names(rows), _MAX_LISTED, "; ")
        self.warnings.append(sentence(key, **slots))

    def names(self, rows: pd.DataFrame) -> list[str]:
        """Return the runs of rows in words, e.g. ["alpha = 0.5, seed = 1"]."""
        runs = rows[self.key].drop_duplicates().itertuples(index=False)
        return [f"{self.labels[c]}, {self.columns.repeat} = {formatting.cell(r)}" for c, r in runs]


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
        numbers = pd.to_numeric(frame[name], errors="coerce").astype(float)
        frame[name] = numbers.where(np.isfinite(numbers))
    by = list(columns.by)
    frame[_CONFIG] = frame.groupby(by, dropna=False).ngroup()
    configs = frame.drop_duplicates(_CONFIG).set_index(_CONFIG)[by].sort_index()
    labels = [group_label(row, by) for row in configs.astype(object).to_dict("records")]
    runs = Runs(columns, configs, pd.Series(labels, configs.index), frame)
    _drop_missing(runs)
    _drop_duplicates(runs)
    _find_other_hyperparameters(runs)
    if columns.epoch is not None:
        _check_epochs(runs, columns.epoch, keep_incomplete)
    if columns.example is not None:
        counts = runs.rows.groupby(runs.key)[columns.example].nunique()
        if len(fewer := counts[counts < runs.rows[columns.example].nunique()].reset_index()):
            runs.warn("fewer examples", fewer, example=columns.example)
    runs.values = runs.last.groupby(runs.key)[columns.metrics].mean().reset_index()
    _check_units(runs)
    counts = runs.values.groupby(_CONFIG).size().reindex(configs.index, fill_value=0)
    if fewer := [f"{runs.labels[c]}: {n}" for c, n in counts.items() if n < counts.max()]:
        runs.warn("fewer repeats", most=counts.max(), configs=list_some(fewer, _MAX_LISTED, "; "))
    return runs


def _drop_missing(runs: Runs) -> None:
    """Leave out rows without a key or a finite number as the metric, with a warning."""
    for name in [*runs.columns.keys, runs.columns.metric]:
        missing = runs.rows[name].isna()
        if missing.all():
            raise InputError(f"{name} must have values, but no row of the table has a valid one")
        if missing.any():
            numbers = {"count": missing.sum(), "total": len(missing)}
            runs.warn("without a value", runs.rows[missing], name=name, **numbers)
            runs.rows = runs.rows[~missing]


def _drop_duplicates(runs: Runs) -> None:
    """Leave out rows that say the same twice, with a warning.

    Raises InputError for rows of the same run (and epoch, and example) with different values.
    """
    columns, frame = runs.columns, runs.rows
    keys = [_CONFIG, *columns.keys]
    rows = frame.drop_duplicates([*keys, columns.metric])
    if len(clash := rows[rows.duplicated(keys, keep=False)]):
        rows = clash[(clash[keys] == clash[keys].iloc[0]).all(axis=1)]
        values = ", ".join(f"{v:.6g}" for v in rows[columns.metric][:4])
        others = rows.columns.difference([*keys, *columns.by, *columns.metrics], sort=False)
        differ = [str(c) for c in others if rows[c].nunique(dropna=False) > 1]
        hint = f" (they differ in {', '.join(differ[:_MAX_LISTED])})" if differ else ""
        raise InputError(
            f"each run must have one value of {columns.metric}, but {runs.names(rows)[0]} has "
            f"{len(rows)}: {values}. Name the column that tells them apart with --by, --repeat, "
            f"--epoch or --example{hint}."
        )
    if len(rows) < len(frame):
        numbers = {"count": len(frame) - len(rows), "total": len(frame)}
        runs.warn("repeated rows", frame[frame.duplicated(keys)], **numbers)
    runs.rows = rows


def _find_other_hyperparameters(runs: Runs) -> None:
    """Warn of columns that look like hyperparameters and differ within a configuration.

    A column looks like one if it holds texts or numbers of few digits, as people set them, is
    constant in each run, and has half as many values as there are runs or fewer. One that follows
    from the repeat, such as the fold of a seed, is none. Columns that differ between configurations
    only cannot be told from the hyperparameters: these are `Runs.confounded`.
    """
    columns, frame = runs.columns, runs.rows
    n_runs = len(frame.drop_duplicates(runs.key))
    used = [*columns.by, *columns.keys, *columns.metrics, _CONFIG]
    for name in frame.columns.difference(used, sort=False):
        values = frame[name]
        if not pd.api.types.is_float_dtype(values):
            values = values.astype(str)  # a list has no hash
        elif not all(float(f"{v:.{_MAX_DIGITS}g}") == v for v in values.dropna().unique()):
            continue
        of_config, of_run, of_repeat = (
            values.groupby([frame[key] for key in keys]).nunique(dropna=False).max()
            for keys in ([_CONFIG], runs.key, [columns.repeat])
        )
        n = values.nunique(dropna=False)
        if of_config == 1 and n > 1:
            runs.confounded.append(name)
        elif of_config > 1 and of_run == 1 and of_repeat > 1 and n <= n_runs / 2:
            runs.warn("possible hyperparameter", name=name)


def _check_units(runs: Runs) -> None:
    """Warn of metrics that look like a share in some runs and like a percentage in the others."""
    for name in runs.columns.metrics:
        values = runs.values[name]
        is_share, low = values <= 1, values[values > 1].min()
        if unit_of(name, values, False) == "percent" and low > _UNIT_GAP * values[is_share].max():
            numbers = {"low": low, "count": is_share.sum(), "total": len(values)}
            runs.warn("mixed units", runs.values[is_share], name=name, **numbers)


def _check_epochs(runs: Runs, epoch: str, keep_incomplete: bool) -> None:
    """Warn of runs with fewer epochs, and leave incomplete ones out.

    A run is incomplete if others of its configuration go on. Where most runs end before the last
    epoch, as with early stopping, none is left out.
    """
    counts = runs.rows.groupby(runs.key)[epoch].agg(n="nunique", last="max").reset_index()
    of_config = counts.groupby(_CONFIG)
    most, end = of_config["n"].transform("max"), of_config["last"].transform("max")
    short = counts["last"] < end
    most_are_short = short.mean() > 0.5
    if most_are_short or end.nunique() > 1:
        ends = {"first": counts["last"].min(), "last": end.max()}
        runs.warn("different ends", epoch=epoch, **ends)
    if most_are_short or not short.any():
        return
    names = zip(runs.names(counts[short]), counts["n"][short], most[short], strict=True)
    text = list_some([f"{name} ({n} of {of} epochs)" for name, n, of in names], _MAX_LISTED, "; ")
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
    margin: float | None = None
    """Largest loss with which a configuration may replace the baseline, in the metric's unit."""

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
                row |= comparison.mean_columns(metric, rows.loc[rows[_CONFIG] == config, metric])
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
        table = table.join(comparison.compare_samples(pairs, self.criterion))
        p_holm = comparison.holm_without_nan(table.p)
        table = table.assign(baseline=baseline, p_holm=p_holm, p_max_t=math.nan)
        if table.paired.all():
            table["p_max_t"] = max_t_over_repeats(self.values, dict.fromkeys(others, baseline))
        return comparison.best_first(table, self.criterion.sign)

    @cached_property
    def replacements(self) -> pd.DataFrame:
        """Whether each other configuration may replace the baseline, in the order of `comparisons`.

        One row each: label, is_one_run (with fewer than three common repeats of paired examples:
        then the runs are fixed, and examples alone are the sample), n, n_images, and the columns
        diff to positive_flips_high of `kdtune.Results.replaces`; flips if all values are 0 or 1.
        Empty without a margin.
        """
        if self.margin is None or not len(self.comparisons):
            return pd.DataFrame()
        self.criterion.check_margin("margin", self.margin)
        limits = (self.margin, self.criterion.sign, self.criterion.largest_difference)
        rows, values = [], set(self.runs.rows[self.columns.metric].unique())
        for config in self.comparisons.config_id:
            pair = self._pair(config, int(self.comparisons.baseline[0]))
            is_one_run = pair.sides is not None and pair.n < MIN_REPEATS
            make = partial(Pair.of, repeats=(), design=pair.design, is_one_run=is_one_run)
            row: dict[str, Any] = {"label": self.runs.labels[config], "is_one_run": is_one_run}
            row |= {"n": pair.n, "n_images": pair.n_images}
            of = pair.sides and judge_rows(*pair.sides, make, limits, values <= {0, 1})
            rows.append(row | (of or pair.judge(*limits)))
        return pd.DataFrame(rows)

    @cached_property
    def baseline_config(self) -> int | None:
        """The best configuration with the values of the baseline; None if there is none."""
        if not self.candidates:
            return None
        # best_config returns text, the numbers are those of the columns
        values = self.values[self.candidates].rename(columns=str)
        return int(comparison.best_config(values, self.criterion.sign))

    def _pair(self, config: int, baseline: int) -> Pair:
        """Return a configuration and the baseline in their common repeats, or unpaired."""
        columns = self.columns
        a, b = (self.values[c].dropna() for c in (config, baseline))
        common, why = common_repeats(a, b, columns.repeat)
        why = "--unpaired" if self.unpaired else why
        if not why and columns.example is None:
            return Pair(a[common].to_numpy(), b[common].to_numpy())
        if not why:
            x, y = (self._by_example(c).loc[common] for c in (config, baseline))
            shared = (x + y).dropna(axis=1).columns
            if len(shared):
                x, y = x[shared], y[shared]
                # one example alone does not vary, so that the comparison is over repeats
                examples = (x - y).to_numpy() if len(shared) > 1 else None
                sides = None if examples is None else (list(x.to_numpy()), list(y.to_numpy()))
                means = (x.mean(axis=1).to_numpy(), y.mean(axis=1).to_numpy())
                return Pair(*means, examples, sides=sides)
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
        return ComparisonContext(
            baseline=str(self.runs.labels[self.baseline_config]) if self.candidates else "",
            planned=0,
            images=int(images.max()) if len(images) else None,
            why_these_images=sentence("these examples", example=columns.example),
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
            tables |= {"replacements": self.replacements} if self.margin is not None else {}
            return formatting.as_json(tables | {"verdict": self.verdict})
        if format != "md":
            slashes = {c: c.replace("/", ".") for c in self.columns.by if format == "latex"}
            return formatting.format_table(self.summary.rename(columns=slashes), format)
        columns, metric = self.columns, self.criterion.label
        note = sentence("pooled" if self.pooled else "means of runs", columns=columns)
        parts = [note, formatting.markdown(*self._summary_rows())]
        if len(self.comparisons):
            rows = formatting.comparison_rows(self.comparisons, columns.by, self.criterion)
            head = self.context.sentence("difference of runs", metric=metric, columns=columns)
            parts += [head, formatting.markdown(*rows), " ".join(self._method())]
        judged = (row for _, row in self.replacements.iterrows())
        parts += [self.verdict, *(sentence("replacing runs", t=self, row=row) for row in judged)]
        return "\n\n".join(parts)

    def _summary_rows(self) -> tuple[list[str], list[list[str]]]:
        """Return head and rows of the summary; pooled, with the six decimals that papers print."""
        columns, rows = self.columns, []
        for _, row in self.summary.iterrows():
            n = max(row[f"{metric}/n"] for metric in columns.metrics)
            cells = [*(formatting.cell(row[name]) for name in columns.by), f"{n:.0f}"]
            for metric in columns.metrics:
                mean, sd = row[f"{metric}/mean"], row[f"{metric}/std"]
                exact = self.pooled and math.isfinite(sd)
                cells.append(f"{mean:.6f} ± {sd:.6f}" if exact else formatting.plus_minus(mean, sd))
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
            yield sentence("direction", metric=self.columns.metric, is_higher=is_higher)

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
    margin: float | None = None,
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
        +3.3, p = 0.016, n = 4 repeats). 4 more repeats would narrow the interval from ±1.3 to
        ±0.68.
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
        margin: Largest loss with which a configuration may replace the baseline, in the unit of the
            column; see `TableComparison.replacements`.

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
    higher = is_higher_better(metric) if by_name else bool(higher_is_better)
    criterion = _criterion(metric, unit_of(metric, runs.rows[metric], points), higher)
    how = (by_name, pooled, unpaired, margin)
    return TableComparison(runs, criterion, _candidates(runs, baseline), *how)


def _criterion(metric: str, unit: Unit, higher: bool) -> Criterion:
    """Return the criterion of a table, whose task has one metric and no hyperparameters."""
    declared = Metric(metric, metric, unit, "higher" if higher else "lower", comparable=True)
    task = Task({}, {metric: declared}, metric, {}, (metric,), examples="examples")
    return Criterion(task=task, split="")


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
    same = column.astype(str) == str(value)
    if str(value).lower() in ("none", "nan", "-"):
        return same | column.isna()
    return same | (pd.to_numeric(column, errors="coerce") == pd.to_numeric(value, errors="coerce"))
