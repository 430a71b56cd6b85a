"""Comparison of configurations in a table of results that was made elsewhere."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdtune.config.fields import Value
from kdtune.config.study import Format
from kdtune.config.text import InputError
from kdtune.results.comparison import (
    DEFAULT,
    SIGNIFICANCE_LEVEL,
    amount,
    best_config,
    cell,
    difference_and_interval,
    format_table,
    have_enough_repeats,
    interval_text,
    interval_words,
    markdown,
    over_known,
    plus_minus,
)
from kdtune.results.design import (
    Pair,
    exact_test,
    find_outcome,
    in_every_repeat,
    max_t_over_repeats,
    p_text,
    p_value,
    since_interval,
)
from kdtune.results.frames import config_label
from kdtune.results.sources import DIRECTIONS, read_table
from kdtune.results.words import count_comparisons, detectable, with_unit
from kdtune.statistics.intervals import MIN_REPEATS, mean_interval, unpaired_difference

# Columns of a table of results: their roles, and what their names and values tell.
#
# The rules are simple and stand in the output: a metric is better if it is lower where its name
# has a
# word such as loss or error; it is a share where it is named like an accuracy and lies in [0, 1].


_LOWER = """
loss losses error err nll ce kl ece mse rmse mae mape bce xent perplexity ppl brier entropy
crossentropy divergence diff distance regret time latency runtime seconds cost wer cer fid
"""
LOWER_IS_BETTER = frozenset(_LOWER.split())
"""Words in the names of metrics of which lower values are better."""
_SHARES = """
acc accuracy acc1 acc5 top1 top5 f1 auc auroc auprc agreement precision recall sensitivity
specificity iou miou dice error err ece correct
"""
SHARES = frozenset(_SHARES.split())
"""Words in the names of metrics that are shares."""
MAX_DIGITS = 4
"""Numbers with more significant digits than these were measured, not set."""


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
        return [c for c in (self.repeat, self.epoch, self.example) if c is not None]


def check_columns(frame: pd.DataFrame, columns: Columns) -> None:
    """Raise InputError unless the table has rows and the columns, each with one role."""
    known = [str(c) for c in frame.columns]
    asked = [("by", c) for c in columns.by]
    asked += [("repeat", columns.repeat), ("metric", columns.metric)]
    asked += [("epoch", columns.epoch)] if columns.epoch is not None else []
    asked += [("example", columns.example)] if columns.example is not None else []
    if not columns.by:
        raise InputError(
            f"by must name at least one column, the hyperparameters that were varied; the columns "
            f"are {', '.join(known)}"
        )
    for role, name in [*asked, *(("columns", c) for c in columns.others)]:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            if set(name.split(",")) <= set(known):
                hint = f"; separate names by spaces ({name.replace(',', ' ')})"
            raise InputError(
                f"--{role} must be a column of the table ({', '.join(known)}), but got {name}{hint}"
            )
    seen: dict[str, str] = {}
    for role, name in asked:
        if name in seen:
            raise InputError(
                f"each column must have one role, but {name} is given for {seen[name]} and {role}"
            )
        seen[name] = role
    if not len(frame):
        raise InputError("the table must have rows, but it holds column names only")


def numbers(values: pd.Series, name: str, role: str) -> pd.Series:
    """Return a column as numbers; raise InputError for text."""
    found = pd.to_numeric(values, errors="coerce")
    wrong = values[found.isna() & values.notna()]
    if len(wrong):
        what = f"{role} {name}".strip()
        raise InputError(
            f"{what} must be a column of numbers, but row {int(wrong.index[0]) + 1} holds "
            f"{wrong.iloc[0]!r} ({len(wrong)} of {len(values)} rows are no numbers)"
        )
    return found.astype(float)


def words_of(name: str) -> set[str]:
    """Return the words of a column's name, e.g. {"val", "top1"} for "val/top-1"."""
    joined = re.sub(r"(?i)top[-_ ]?(\d)", r"top\1", name)
    spaced = re.sub(r"([a-z])([A-Z])", r"\1 \2", joined)
    return {word for word in re.split(r"[^a-z0-9]+", spaced.lower()) if word}


def is_higher_better(name: str) -> bool:
    """Return whether higher values of a metric are better, by its name."""
    words = words_of(name)
    return not words & LOWER_IS_BETTER and not any(w.endswith(("loss", "error")) for w in words)


def scale_of(name: str, values: pd.Series, points: bool) -> tuple[int, bool]:
    """Return the factor for display of a metric's differences, and whether they are points.

    Args:
        name: of the metric.
        values: all its values.
        points: whether the user says that it is a share.
    """
    if not (points or words_of(name) & SHARES) or values.min() < 0:
        return 1, False
    if values.max() <= 1:
        return 100, True
    return 1, bool(values.max() <= 100)


def differing_columns(
    frame: pd.DataFrame, by: Sequence[str], keys: Sequence[str], metrics: Sequence[str], config: str
) -> Iterator[str]:
    """Yield warnings of columns that look like hyperparameters and differ within a configuration.

    A column looks like one if it is constant in each run, has half as many values as there are
    runs or fewer, and these are texts or numbers of few digits, as people set them. One that
    follows from the repeat, such as the fold of a seed, is none.

    Args:
        frame: rows of the table.
        by: hyperparameters; the column `config` numbers their combinations.
        keys: repeat, epoch and example, as far as there are; the repeat first.
        metrics: metrics that are used.
        config: see `by`.
    """
    repeat = keys[0]
    runs = frame.groupby([config, repeat])
    n = runs.ngroups
    for name in frame.columns.difference([*by, *keys, *metrics, config], sort=False):
        column = frame[name]
        if column.dtype == object and column.map(_is_nested).any():
            continue
        number = column.nunique(dropna=False)
        if not 2 <= number <= n / 2 or not _was_set(column):
            continue
        if runs[name].nunique(dropna=False).max() > 1:
            continue
        if frame.groupby(repeat)[name].nunique(dropna=False).max() == 1:
            continue
        if (within := frame.groupby(config)[name].nunique(dropna=False)).max() > 1:
            values = column[frame[config] == within.idxmax()].unique()
            shown = ", ".join(str(v) for v in values[:4])
            yield (
                f"column {name} differs between repeats of one configuration ({shown}); if it is a "
                f"hyperparameter, add it to --by"
            )


def constant_in_configs(frame: pd.DataFrame, columns: Columns, config: str) -> list[str]:
    """Return the other columns that look set, and differ between configurations but not within.

    An effect of one of them cannot be told from that of the hyperparameters.
    """
    used = [*columns.by, *columns.keys, *columns.metrics, config]
    others = frame.columns.difference(used, sort=False)
    configs = frame.groupby(config)
    return [
        name
        for name in others
        if not (frame[name].dtype == object and frame[name].map(_is_nested).any())
        and frame[name].nunique(dropna=False) > 1
        and configs[name].nunique(dropna=False).max() == 1
        and _was_set(frame[name])
    ]


def _is_nested(value: object) -> bool:
    return isinstance(value, list | dict)


def _was_set(column: pd.Series) -> bool:
    """Return whether the values are texts, truth values or numbers of few digits."""
    known = column.dropna()
    if not pd.api.types.is_float_dtype(known):
        return True
    return all(float(f"{v:.{MAX_DIGITS}g}") == v for v in known.unique())


# Wording of the comparison in a table of results, no stronger than its numbers allow.


POOLED = (
    "Pooled: mean ± SD over all epochs of all runs. That SD mixes the learning curve with the "
    "differences between runs; it is not the uncertainty of a result."
)


def text(result: TableComparison, format: Format = "md") -> str:
    """Return the tables and the conclusion; see `TableComparison.text`."""
    summary = result.summary
    if format == "json":
        tables = {"summary": summary, "comparisons": result.comparisons}
        parsed = {name: json.loads(format_table(t, "json")) for name, t in tables.items()}
        return json.dumps(parsed | {"verdict": result.verdict}, indent=2)
    if format == "csv":
        return format_table(summary, "csv")
    if format == "latex":
        slashes = {c: c.replace("/", ".") for c in result.columns.by}
        return format_table(summary.rename(columns=slashes), "latex")
    parts = [summary_note(result), markdown(*summary_rows(result))]
    if len(result.comparisons):
        at = "at the last epoch, " if result.columns.epoch is not None else ""
        parts += [f"Difference from {baseline(result)}, {at}{number_of_runs(result)}:"]
        parts += [markdown(*comparison_rows(result)), method(result)]
    return "\n\n".join([*parts, result.verdict])


def summary_note(result: TableComparison) -> str:
    """Return what the numbers of the summary are."""
    columns = result.columns
    if result.pooled:
        return POOLED
    at = f", last {columns.epoch} of each run" if columns.epoch is not None else ""
    examples = f", each the mean over {columns.example}" if columns.example is not None else ""
    return f"Mean ± SD (ddof = 1) over n runs ({columns.repeat}){examples}{at}"


def summary_rows(result: TableComparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the summary; pooled numbers have six decimals, as papers print."""
    columns = result.columns
    rows = []
    for _, row in result.summary.iterrows():
        n = [row[f"{metric}/n"] for metric in columns.metrics]
        cells = [*(cell(row[name]) for name in columns.by), f"{max(n):.0f}"]
        for metric in columns.metrics:
            mean, sd = row[f"{metric}/mean"], row[f"{metric}/std"]
            pooled = result.pooled and math.isfinite(sd)
            cells.append(f"{mean:.6f} ± {sd:.6f}" if pooled else plus_minus(mean, sd))
        rows.append(cells)
    return [*columns.by, "epochs" if result.pooled else "n", *columns.metrics], rows


def baseline(result: TableComparison) -> str:
    """Return the baseline in words."""
    config = result.baseline_config
    return "" if config is None else str(result.runs.labels[config])


def number_of_runs(result: TableComparison) -> str:
    """Return whether the runs are paired."""
    paired = result.comparisons.paired
    if paired.all():
        return f"paired by {result.columns.repeat}"
    return "unpaired" if not paired.any() else "paired where possible"


def comparison_rows(result: TableComparison) -> tuple[list[str], list[list[str]]]:
    """Return head and rows of the comparisons with the baseline."""
    table, (scale, is_share) = result.comparisons, result.scale
    unit = "points" if is_share else result.columns.metric
    two_way = _is_two_way(table)
    head = [*result.columns.by, f"difference ({unit})", interval_name(table)]
    head += ["for these examples"] * two_way + ["n"]
    head += ["p (Holm)" if count(table) > 1 else "p"]
    with_max_t, paired = bool(table.p_max_t.notna().any()), bool(table.paired.any())
    head += ["p (max-T)"] * with_max_t + ["wins/ties/losses"] * paired
    head += ["repeats"] * (paired and not bool(table.paired.all()))
    rows = []
    for _, row in table.iterrows():
        cells = [cell(row[f"config/{name}"]) for name in result.columns.by]
        cells += difference_and_interval(row, scale)
        if two_way:
            cells.append(interval_text(row.low_here, row.high_here, scale))
        cells += [_n(row), p_value(row.p_holm)]
        cells += [p_value(row.p_max_t)] if with_max_t else []
        wins = f"{row.wins:.0f}/{row.ties:.0f}/{row.losses:.0f}" if row.paired else "-"
        cells += [wins] if paired else []
        cells += ["paired" if row.paired else f"unpaired: {row.why}"] if "repeats" in head else []
        rows.append(cells)
    return head, rows


def _n(row: pd.Series) -> str:
    return f"{row.n:.0f}" if row.paired else f"{row.n:.0f} and {row.n_baseline:.0f}"


def count(table: pd.DataFrame) -> int:
    """Return the number of comparisons with a p value."""
    return int(table.p_holm.notna().sum()) if len(table) else 0


def interval_name(table: pd.DataFrame) -> str:
    """Return the kind of the interval."""
    return "95% CI (simultaneous)" if count(table) > 1 else "95% CI"


def method(result: TableComparison) -> str:
    """Return how the differences were computed, and what was assumed about the columns."""
    return " ".join(_method(result))


def _method(result: TableComparison) -> Iterator[str]:
    table, columns = result.comparisons, result.columns
    if table.paired.any():
        two_way = "t test over repeats and examples" if _is_two_way(table) else "paired t test"
        yield (
            f"Paired by {columns.repeat} ({two_way}); this assumes that the same {columns.repeat} "
            f"means the same random seed, otherwise use --unpaired."
        )
    if not table.paired.all():
        why = ", ".join(sorted(set(table.why[~table.paired])))
        yield f"Unpaired ({why}): runs are independent samples, Welch's t test."
    if (m := count(table)) > 1:
        yield f"CI Bonferroni-adjusted and p Holm-adjusted for the {m} comparisons."
    if _is_two_way(table):
        yield "CI over repeats and examples; for these examples: the same over repeats alone."
    if len(candidates := result.candidates) > 1:
        yield (
            f"The baseline is the best of {len(candidates)} configurations; p does not account for "
            f"its selection."
        )
    if found := result.runs.confounded:
        yield f"Columns that differ with the configuration, too: {', '.join(found[:5])}."
    if (metric := columns.metric) and not result.direction_given:
        other = "--lower-is-better" if result.higher_is_better else "--higher-is-better"
        word = "Higher" if result.higher_is_better else "Lower"
        yield f"{word} {metric} is taken to be better, by its name ({other}: the opposite)."


def _is_two_way(table: pd.DataFrame) -> bool:
    return bool(table.n_images.notna().any())


def verdict(result: TableComparison) -> str:
    """Return the conclusion.

    As for a study, a difference is significant if its Holm-adjusted p value is below the level and
    its simultaneous interval excludes 0. Conclusions are about new runs on the same evaluation
    data, unless there are values per example.
    """
    table = result.comparisons
    if not result.baseline:
        return (
            "No conclusion: no baseline is named. Name the configurations to compare with: "
            f"--baseline {result.columns.by[0]}=VALUE."
        )
    if not len(table):
        return "No conclusion: there are no configurations other than the baseline."
    table = table[have_enough_repeats(table.n)]
    if not table.p_holm.notna().any():
        least = f"{MIN_REPEATS} repeats of each configuration"
        return f"No conclusion: a comparison needs {least}; 8 are better."
    return f"{_finding(result, table)} {scope(result, table)}"


def _finding(result: TableComparison, table: pd.DataFrame) -> str:
    """Return the sentences about the best configuration that is compared with the baseline."""
    known = table[table.p_holm.notna()]
    found = find_outcome(known, result.sign, SIGNIFICANCE_LEVEL)
    row, metric = found.row, result.columns.metric
    if found.kind == "better":
        return f"{row.label} improved {metric} by {_effect(row, result, signed=False)}."
    worsened = f"{row.label} worsened {metric} by {_effect(row, result, False)}."
    if found.significant == len(known) == 1:
        return worsened
    if found.significant == len(known):
        return (
            f"Every other configuration worsened {metric}, the best one ({row.label}) by "
            f"{_effect(row, result, False)}."
        )
    if found.kind == "worse":
        text = f"{worsened} No other configuration is significantly better."
    else:
        why = since_interval(row.p_holm, row.low, row.high, SIGNIFICANCE_LEVEL)
        text = (
            f"No significant difference in {metric}: {row.label} against {baseline(result)}: "
            f"{_effect(row, result, True)}{why}{in_every_repeat(row)}{_detectable(row, result)}."
        )
    if found.significant:
        text += f" {found.significant} of {len(known)} configurations were significantly worse."
    return text


def _effect(row: pd.Series, result: TableComparison, signed: bool) -> str:
    """Return a difference with its unit, interval, p value and n."""
    (scale, is_share), m = result.scale, count(result.comparisons)
    against = "" if signed else f" compared with {baseline(result)}"
    kind = "simultaneous 95% CI" if m > 1 else "95% CI"
    ends = interval_words(row.low, row.high, scale)
    parts = [f"{kind} {ends}"] if ends else []
    p = p_text(row.p_holm) + exact_test(row.low, row.paired)
    parts.append(f"Holm-adjusted {p} over {m} comparisons" if m > 1 else p)
    n = f"n = {_n(row)}" if row.paired else f"n = {_n(row)}, unpaired"
    if not math.isnan(row.n_images):
        n += f" × {row.n_images:,.0f} examples"
    parts.append(n)
    value = amount(row, scale, "percentage points" * is_share, signed)
    return f"{value}{against} ({', '.join(parts)})"


def _detectable(row: pd.Series, result: TableComparison) -> str:
    """Return the minimum detectable difference of a paired comparison; "" for others."""
    if math.isnan(row.low):
        equal = f"all {row.n:.0f} differences" if row.paired else "the runs of each configuration"
        return f"; {equal} are equal, so there is no interval"
    if not row.paired:
        return ""
    m = max(1, count(result.comparisons))
    least = detectable(row, m)
    if not least < result.largest_difference:
        return f"; {row.n:.0f} repeats are too few for 80% power at any difference"
    is_share = result.scale[1]
    number = with_unit(least / result.largest_difference, DEFAULT) if is_share else f"{least:.2g}"
    images = "" if math.isnan(row.n_images) else f", {row.n_images:,.0f} examples"
    design = f"{row.n:.0f} repeats{images} and {count_comparisons(m)}"
    return f"; minimum detectable difference at 80% power with {design}: {number}"


def scope(result: TableComparison, table: pd.DataFrame) -> str:
    """Return what the intervals generalise to."""
    example = result.columns.example
    if _is_two_way(table):
        return f"This holds for new runs and new examples like these ({example})."
    if example is not None:
        return (
            f"This holds for new runs on the same evaluation data; nothing is said about new "
            f"examples ({example}), since no comparison is paired by several of them."
        )
    return (
        "This holds for new runs on the same evaluation data: without one row per run and image "
        "(--example), nothing is said about new images."
    )


# Checks of a table of results made elsewhere, and one value per run from its rows.
#
# A table has one row per run, or one per run and epoch, or one per run and example. A run is a
# configuration (the values of the columns `by`) in a repeat.


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


# Summary, comparisons and conclusion of a table of results, with the columns of a study's.


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
        return verdict(self)

    def text(self, format: Format = "md") -> str:
        """Return summary, comparisons and conclusion as Markdown; else the tables alone.

        "csv" and "latex" are the summary, "json" is summary and comparisons.
        """
        return text(self, format)

    def __repr__(self) -> str:
        return "\n\n".join([self.text(), *(f"warning: {warning}" for warning in self.warnings)])


# Comparison of configurations in a table of results that was made elsewhere.
#
# The numbers are those of a study: summary over repeats, differences from a baseline, conclusion.
# The
# names of hyperparameters and metrics are the table's own.


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
        +3.3, p = 0.016, n = 4). ...
        >>> result.comparisons[["label", "diff", "low", "high", "p_holm"]].round(3)
                 label  diff    low   high  p_holm
        0  alpha = 0.5   2.0  0.701  3.299   0.016

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
        higher_is_better: None: the direction of an Optuna study; otherwise False if the metric's
            name has a word such as loss or error.
        points: Whether the metric is a share, so that differences are percentage points, even if it
            is not named like an accuracy.
        pooled: Whether the summary is over all epochs of all runs.
        unpaired: Whether the same repeat does not mean the same random seed.
        keep_incomplete: Whether runs with fewer epochs than the others count.

    Raises:
        InputError: A column does not exist, rows contradict each other, runs share no example,
            or there is no such baseline.
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
    if higher_is_better is None:
        higher_is_better = frame.attrs.get(DIRECTIONS, {}).get(metric)
    given = higher_is_better is not None
    higher = is_higher_better(metric) if higher_is_better is None else higher_is_better
    return TableComparison(runs, _baseline(runs, baseline), higher, given, points, pooled, unpaired)


def _baseline(runs: Runs, baseline: Mapping[str, Value] | None) -> dict[str, Value]:
    """Return the values of the baseline; {} for none.

    Raises InputError if there is no such configuration.
    """
    if baseline is None:
        has_plain = "alpha" in runs.columns.by and equals(runs.configs["alpha"], 1).any()
        return {"alpha": 1} if has_plain else {}
    matches = pd.Series(True, index=runs.configs.index)
    for name, value in baseline.items():
        if name not in runs.columns.by:
            raise InputError(
                f"baseline must name columns of --by ({', '.join(runs.columns.by)}), but got {name}"
            )
        matches &= equals(runs.configs[name], value)
    if not matches.any():
        known = "; ".join(
            f"{name}: {', '.join(dict.fromkeys(f'{v}' for v in runs.configs[name]))}"
            for name in baseline
        )
        got = ",".join(f"{name}={value}" for name, value in baseline.items())
        raise InputError(f"baseline must be a configuration of the table ({known}), but got {got}")
    return dict(baseline)
