"""A study in short: the summary for reading, and the line that stands for the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from kdtune.config.task import Task
from kdtune.results.comparison import have_enough_repeats
from kdtune.results.tables import count_of_planned, plus_minus

if TYPE_CHECKING:
    from kdtune.results.study_results import Results

SHORT_METRICS = ("acc", "ce", "agreement")
"""Metrics of the summary of distillation for reading."""


def short_metrics(task: Task) -> tuple[str, ...]:
    """Return the metrics of the summary for reading; those without a value are left out."""
    return SHORT_METRICS if task.is_distillation else task.table_metrics


def short_summary(
    table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str], task: Task
) -> pd.DataFrame:
    """Return the table of `summaries.summary` for reading, the best row first.

    Rows with at most half of the most repeats come last.

    Args:
        table: of `summaries.summary` or `summaries.pooled`.
        by: hyperparameters that tell the rows apart.
        metrics: those of the table. The task's score sorts the rows, or else the first of them of
            which lower or higher values are better.
        task: what the trials train.

    Returns:
        Columns: label, by... ("-" where one is inactive), n (such as "3 of 4" where repeats are
        missing), then "mean ± SD" of each metric that has a value, as text, under its name in
        words.
    """
    if not len(table):
        return pd.DataFrame()
    table = _best_first(table, metrics, task)
    names, columns = ["label", *by, "n"], [list(table.label)]
    columns += [[_rounded(value) for value in table[name]] for name in by]
    counts = table[[f"val/{metric}/n" for metric in metrics]].max(axis=1).astype(int)
    planned = table.get("n_planned", counts)
    columns.append([_count(n, of) for n, of in zip(counts, planned, strict=True)])
    for metric in metrics:
        mean, sd = (table[f"val/{metric}/{statistic}"] for statistic in ("mean", "std"))
        if mean.notna().any():
            names.append(task.metrics[metric].label)
            columns.append([plus_minus(m, s) for m, s in zip(mean, sd, strict=True)])
    # a training function may have a hyperparameter and a metric of one name
    short = pd.DataFrame(dict(enumerate(columns)))
    short.columns = pd.Index(names, name="mean ± SD")
    return short


def _best_first(table: pd.DataFrame, metrics: Sequence[str], task: Task) -> pd.DataFrame:
    ranked = [metric for metric in metrics if task.metrics[metric].better is not None]
    if not ranked:
        return table
    first = task.score if task.score in ranked else ranked[0]
    key, sign = f"val/{first}", 1 if task.metrics[first].better == "higher" else -1
    order = pd.DataFrame(
        {"few": ~have_enough_repeats(table[f"{key}/n"]), "mean": -sign * table[f"{key}/mean"]}
    )
    return table.loc[order.sort_values(["few", "mean"], kind="stable").index]


def _rounded(value: object) -> object:
    """Return a hyperparameter's value as tables show it; a number stays one.

    So `table[table.alpha == 0.5]` works.
    """
    if value is None or value != value:
        return "-"
    if not isinstance(value, int | float):
        return value
    short = float(f"{value:g}")
    return int(short) if short.is_integer() else short


def _count(n: int, planned: float) -> object:
    return count_of_planned(n, planned) if n < planned else n


def one_line(results: Results) -> str:
    """Return name, folder, status and the beginning of the conclusion."""
    sentence, dot, _ = results.verdict().partition("\n")[0].partition(". ")
    head = f"{results.study.name} ({results.folder}), {results.status}"
    return f"<kdtune.Results of {head}. {sentence}{dot.strip()}>"
