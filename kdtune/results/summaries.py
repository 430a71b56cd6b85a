"""Means over repeats of the completed trials.

`trials` are rows of the dataframe `Frames.trials`, all of one phase. The epoch selection gives one
number per trial; mean, SD and interval are over repeats.
"""

from collections.abc import Sequence

import pandas as pd

from kdtune.config.study import Scope
from kdtune.config.task import DISTILLATION, Task
from kdtune.results.comparison import (
    Criterion,
    completed,
    have_enough_repeats,
    metric_values,
)
from kdtune.results.frames import add_derived
from kdtune.results.labels import config_columns, group_label
from kdtune.results.tables import levels
from kdtune.statistics.intervals import mean_interval


def configs(trials: pd.DataFrame, planned: float, criterion: Criterion) -> pd.DataFrame:
    """Return the mean score (accuracy) of each configuration at the last epoch, best first.

    One row per configuration: config_id, label, config/*, val/acc/mean, val/acc/std, n, n_planned.
    Those with at most half of the most repeats come last.
    """
    own, name = config_columns(trials), f"val/{criterion.metric}"
    groups = completed(trials).groupby(own, dropna=False)
    frame = groups[f"{name}@last"].agg(["mean", "std", "count"]).reset_index()
    frame.columns = [*own, f"{name}/mean", f"{name}/std", "n"]
    frame["n_planned"] = planned
    frame = frame.assign(
        enough=have_enough_repeats(frame["n"]), score=criterion.sign * frame[f"{name}/mean"]
    )
    frame = frame.sort_values(["enough", "score"], ascending=False)
    return frame.drop(columns=["enough", "score"]).reset_index(drop=True)


def summary(
    trials: pd.DataFrame,
    by: Sequence[str],
    metrics: Sequence[str],
    scope: Scope,
    planned: float,
    cut: bool = False,
) -> pd.DataFrame:
    """Return mean, SD (ddof = 1), n and 95 % t interval over repeats, on val.

    Configurations that share a row are first averaged within each repeat.

    Args:
        trials: see the module.
        by: hyperparameters that tell the rows apart.
        metrics: names of metrics, recorded or derived.
        scope: epoch selection.
        planned: planned repeats of each configuration; NaN if their number is not fixed.
        cut: whether values of a hyperparameter with more than eight are cut into four ranges.

    Returns:
        One row per group: by..., n_planned, val/<metric>/mean, /std, /n, /low, /high, label.
    """
    done, keys = completed(trials), [f"config/{name}" for name in by]
    done = done.assign(**{f"val/{m}@{scope}": metric_values(done, m, scope) for m in metrics})
    if cut:
        done = done.assign(**{key: levels(done[key]) for key in keys})
    rows = []
    for key, group in done.groupby(keys, dropna=False, observed=True):
        row = dict(zip(by, key, strict=True)) | {"n_planned": planned}
        repeats = group.groupby("repeat")[[f"val/{m}@{scope}" for m in metrics]].mean()
        for metric in metrics:
            interval = mean_interval(repeats[f"val/{metric}@{scope}"].dropna())
            row |= {f"val/{metric}/mean": interval.mean, f"val/{metric}/std": interval.sd}
            row |= {f"val/{metric}/n": interval.n}
            row |= {f"val/{metric}/low": interval.low, f"val/{metric}/high": interval.high}
        rows.append(row | {"label": group_label(row, by)})
    return pd.DataFrame(rows)


def marginal(
    trials: pd.DataFrame,
    names: Sequence[str],
    metrics: Sequence[str],
    scope: Scope,
    planned: float,
) -> pd.DataFrame:
    """Return `summary` by each hyperparameter alone, with columns hyperparameter and value."""
    parts = []
    for name in names:
        table = summary(trials, [name], metrics, scope, planned, cut=True)
        if len(table):
            table = table.rename(columns={name: "value"}).assign(hyperparameter=name)
            parts.append(table.astype({"value": object}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def pooled(
    epochs: pd.DataFrame,
    trials: pd.DataFrame,
    by: Sequence[str],
    metrics: Sequence[str],
    task: Task = DISTILLATION,
) -> pd.DataFrame:
    """Return mean, SD and n over all epochs of all repeats.

    Some papers report these. The SD describes the learning curve, not the variation of repeats.
    """
    val = epochs[(epochs.split == "val") & epochs.trial_id.isin(completed(trials).trial_id)]
    val = add_derived(val, task)
    groups = val.groupby([f"config/{name}" for name in by], dropna=False)
    table = groups[list(metrics)].agg(["mean", "std", "count"])
    table.columns = [f"val/{m}/{'n' if s == 'count' else s}" for m, s in table.columns]
    table.index = table.index.set_names(list(by))
    table = table.reset_index()
    return table.assign(label=[group_label(row, by) for _, row in table.iterrows()])


def best_rows(table: pd.DataFrame, criterion: Criterion, most: int) -> pd.DataFrame:
    """Return the `most` rows of a summary with the best means; all, unsorted, if it is shorter."""
    column = f"val/{criterion.metric}/mean"
    if len(table) <= most or column not in table:
        return table
    return table.loc[(-criterion.sign * table[column]).sort_values().index[:most]]
