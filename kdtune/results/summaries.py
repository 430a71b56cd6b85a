"""Means over repeats: frames to tables.

`trials` is everywhere those of one phase, of the dataframe of `results.Frames`; only completed
ones count. Two stages: an epoch's number stands for a trial, then repeats are the sample.
"""

from collections.abc import Sequence

import pandas as pd

from kdtune.config.study import Scope
from kdtune.results.comparison import (
    CONFIG_COLUMNS,
    Criterion,
    completed,
    have_enough_repeats,
    metric_values,
)
from kdtune.results.tables import levels
from kdtune.statistics.intervals import mean_interval


def configs(trials: pd.DataFrame, planned: float) -> pd.DataFrame:
    """One row per configuration: config_id, config/*, val/acc/mean, val/acc/std, n, n_planned.

    The best mean first, those with at most half of the most repeats last.
    """
    groups = completed(trials).groupby(CONFIG_COLUMNS, dropna=False)
    frame = groups["val/acc@last"].agg(["mean", "std", "count"]).reset_index()
    frame.columns = [*CONFIG_COLUMNS, "val/acc/mean", "val/acc/std", "n"]
    frame["n_planned"] = planned
    frame = frame.assign(well=have_enough_repeats(frame["n"]))
    frame = frame.sort_values(["well", "val/acc/mean"], ascending=False)
    return frame.drop(columns="well").reset_index(drop=True)


def summary(
    trials: pd.DataFrame,
    by: Sequence[str],
    metrics: Sequence[str],
    scope: Scope,
    planned: float,
    cut: bool = False,
) -> pd.DataFrame:
    """Mean, sd, n and 95 % t interval over repeats, on val.

    Args:
        trials: the trials.
        by: hyperparameters that tell the rows apart.
        metrics: columns of the trials, or gap (teacher_acc - acc).
        scope: which epoch counts.
        planned: repeats of each configuration; NaN where that is not fixed.
        cut: whether a hyperparameter with more than eight values is cut into ranges.
    """
    done = completed(trials).rename(columns=lambda c: c.removeprefix("config/"))
    done = done.assign(**{f"val/{m}@{scope}": metric_values(done, m, scope) for m in metrics})
    if cut:
        done = done.assign(**{name: levels(done[name]) for name in by})
    rows = []
    for key, group in done.groupby(list(by), dropna=False, observed=True):
        row = dict(zip(by, key, strict=True)) | {"n_planned": planned}
        # configurations that share a row are averaged within a repeat: repeats are the sample
        repeats = group.groupby("repeat")[[f"val/{m}@{scope}" for m in metrics]].mean()
        for metric in metrics:
            interval = mean_interval(repeats[f"val/{metric}@{scope}"].dropna())
            row |= {f"val/{metric}/mean": interval.mean, f"val/{metric}/std": interval.sd}
            row |= {f"val/{metric}/n": interval.n}
            row |= {f"val/{metric}/low": interval.low, f"val/{metric}/high": interval.high}
        rows.append(row)
    return pd.DataFrame(rows)


def marginal(
    trials: pd.DataFrame,
    names: Sequence[str],
    metrics: Sequence[str],
    scope: Scope,
    planned: float,
) -> pd.DataFrame:
    """The summary by each hyperparameter alone: hyperparameter, value, then as there."""
    parts = []
    for name in names:
        table = summary(trials, [name], metrics, scope, planned, cut=True)
        if len(table):
            table = table.rename(columns={name: "value"}).assign(hyperparameter=name)
            parts.append(table.astype({"value": object}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def pooled(
    epochs: pd.DataFrame, trials: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]
) -> pd.DataFrame:
    """Mean, sd and n over all epochs of all repeats, as the starting repository had it.

    Its sd is that of a learning curve, not of repeats.
    """
    val = epochs[(epochs.split == "val") & epochs.trial_id.isin(completed(trials).trial_id)]
    val = val.assign(gap=val.teacher_acc - val.acc)
    groups = val.groupby([f"config/{name}" for name in by], dropna=False)
    table = groups[list(metrics)].agg(["mean", "std", "count"])
    table.columns = [f"val/{m}/{'n' if s == 'count' else s}" for m, s in table.columns]
    table.index = table.index.set_names(list(by))
    return table.reset_index()


def best_rows(table: pd.DataFrame, criterion: Criterion, most: int) -> pd.DataFrame:
    """Of a summary that has more rows, so many with the best means, the best first."""
    column = f"val/{criterion.metric}/mean"
    if len(table) <= most or column not in table:
        return table
    return table.loc[(-criterion.sign * table[column]).sort_values().index[:most]]
