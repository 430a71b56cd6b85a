"""Means over repeats, and how much the ranking depends on choices."""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from kdtune.config.fields import Value
from kdtune.config.run import DISTILLATION
from kdtune.config.study import Scope
from kdtune.config.task import Task
from kdtune.config.text import short
from kdtune.results import comparison
from kdtune.results.comparison import (
    Criterion,
    by_repeat,
    completed,
    completed_configs,
    metric_values,
)
from kdtune.results.frames import SCOPES, Frames, add_derived, config_columns, group_label
from kdtune.statistics.selection import importance, repeated_measures, variance_shares

# Means over repeats of the completed trials. `trials` are rows of `Frames.trials`, all of one
# phase; the epoch selection gives one number per trial.


def configs(trials: pd.DataFrame, planned: float, criterion: Criterion) -> pd.DataFrame:
    """Return the mean score (accuracy) of each configuration at the last epoch, best first.

    One row per configuration: config_id, label, config/*, val/acc/mean, val/acc/std, n, n_planned.
    Those with at most half of the most repeats come last.
    """
    columns, name = config_columns(trials), f"val/{criterion.metric}"
    groups = completed(trials).groupby(columns, dropna=False)
    frame = groups[f"{name}@last"].agg(["mean", "std", "count"]).reset_index()
    frame.columns = [*columns, f"{name}/mean", f"{name}/std", f"{name}/n"]
    frame = comparison.by_mean(frame.assign(n_planned=planned), name, criterion.sign)
    return frame.rename(columns={f"{name}/n": "n"}).reset_index(drop=True)


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
        trials: rows of `Frames.trials` of one phase.
        by: hyperparameters that tell the rows apart.
        metrics: names of metrics, recorded or derived.
        scope: epoch selection.
        planned: planned repeats of each configuration; NaN if their number is not fixed.
        cut: whether values of a hyperparameter with more than eight are cut into four ranges.

    Returns:
        One row per group: by..., n_planned, val/<metric>/mean, /std, /n, /low, /high, label.
    """
    runs, keys = completed(trials), [f"config/{name}" for name in by]
    runs = runs.assign(**{f"val/{m}@{scope}": metric_values(runs, m, scope) for m in metrics})
    if cut:
        runs = runs.assign(**{key: levels(runs[key]) for key in keys})
    rows = []
    for key, group in runs.groupby(keys, dropna=False, observed=True):
        row = dict(zip(by, key, strict=True)) | {"n_planned": planned}
        repeats = group.groupby("repeat")[[f"val/{m}@{scope}" for m in metrics]].mean()
        for metric in metrics:
            row |= comparison.mean_columns(f"val/{metric}", repeats[f"val/{metric}@{scope}"])
        rows.append(row | {"label": group_label(row, by)})
    return pd.DataFrame(rows)


def marginal(
    trials: pd.DataFrame, names: Sequence[str], metrics: Sequence[str], scope: Scope, planned: float
) -> pd.DataFrame:
    """Return `summary` by each hyperparameter alone, with columns hyperparameter and value."""
    parts = []
    for name in names:
        table = summary(trials, [name], metrics, scope, planned, cut=True)
        if len(table):
            table = table.rename(columns={name: "value"}).assign(hyperparameter=name)
            parts.append(table.astype({"value": object}))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def pooled_over_epochs(
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


def levels(values: pd.Series) -> pd.Series:
    """Return a hyperparameter's values as groups: four ranges if there are more than 8 numbers."""
    numeric = pd.to_numeric(values, errors="coerce")
    if values.nunique() <= 8 or numeric.isna().sum() > values.isna().sum():
        return values
    cut = pd.qcut(numeric, 4, labels=False, duplicates="drop")
    ends = numeric.groupby(cut).agg(["min", "max"])
    pairs = ends.to_numpy().tolist()
    # enough digits to tell all ends apart, at least 3
    all_ends = {end for pair in pairs for end in pair}
    enough = (d for d in range(3, 17) if len({f"{v:.{d}g}" for v in all_ends}) == len(all_ends))
    digits = next(enough, 17)  # 17 tell any two apart
    texts = [f"{low:.{digits}g} … {high:.{digits}g}" for low, high in pairs]
    names = dict(zip(ends.index, texts, strict=True))
    return cut.map(names).astype(pd.CategoricalDtype(list(names.values()), ordered=True))


# Sensitivity of a study's ranking: epoch selection, shares of variance, importances, range ends.


def sensitivity(trials: pd.DataFrame, criterion: Criterion) -> pd.DataFrame:
    """Return mean and rank of the configurations for each epoch selection.

    One row per configuration with enough repeats: config_id, label, config/*, then <scope>/mean and
    <scope>/rank (1 is best; ties share the better rank), sorted by last/rank.
    """
    table = completed_configs(trials)
    for scope in SCOPES:
        means = comparison.with_enough_repeats(by_repeat(trials, criterion.metric, scope)).mean()
        table[f"{scope}/mean"] = means
        ranked = criterion.sign * means.round(comparison.TIE_DIGITS)
        table[f"{scope}/rank"] = ranked.rank(ascending=False, method="min")
    table = table.dropna(subset=["last/mean"]).sort_values("last/rank", kind="stable")
    return table.reset_index()


def spread(frames: Frames, criterion: Criterion) -> pd.DataFrame:
    """Return shares of variance over configurations, repeats and epochs.

    They are computed over completed trials of the search that form a block without gaps (see
    `comparison.complete_block`). Two rows, epochs "last" and "all", the second only if all trials
    have the same length: configuration, repeat, epoch, residual (shares of the sum of squares),
    n_configs, n_repeats, and for the last epoch f, p (F test of equal configurations) and icc
    (intraclass correlation of the repeats). Empty with fewer than 2 configurations or repeats.
    """
    trials = frames.trials[frames.trials.phase == "search"]
    values = comparison.complete_block(by_repeat(trials, criterion.metric, "last"))
    if values.shape[0] < 2 or values.shape[1] < 2:
        return pd.DataFrame()
    last = values.to_numpy().T  # [K, n]
    counts = {"n_configs": last.shape[0], "n_repeats": last.shape[1]}
    rows = [{"epochs": "last"} | asdict(variance_shares(last[..., None])) | counts]
    rows[0] |= asdict(repeated_measures(last)) | {"epoch": math.nan}
    curves = _curves(frames, criterion, values)
    if curves is not None:
        rows.append({"epochs": "all"} | asdict(variance_shares(curves)) | counts)
    return pd.DataFrame(rows)


def _curves(frames: Frames, criterion: Criterion, values: pd.DataFrame) -> np.ndarray | None:
    """Return the block's values in every epoch [K, n, E]; None if trials differ in length."""
    val = add_derived(frames.epochs[frames.epochs.split == "val"], criterion.task)
    table = val.pivot_table(index=["config_id", "repeat"], columns="epoch", values=criterion.metric)
    index = pd.MultiIndex.from_product([values.columns, values.index])
    table = table.reindex(index)
    if table.isna().any(axis=None):
        return None
    curves: np.ndarray = table.to_numpy().reshape(len(values.columns), len(values), -1)
    return curves


def importances(trials: pd.DataFrame, criterion: Criterion, by: Sequence[str]) -> pd.DataFrame:
    """Return the share of the variance between configurations that each hyperparameter explains.

    It is computed from the means of the configurations in which the hyperparameter is active. One
    row per hyperparameter: hyperparameter, share (eta squared), null (95 % quantile of the share of
    a hyperparameter without effect), n (configurations). Values of a hyperparameter with more than
    eight are cut into four ranges.
    """
    means = comparison.complete_block(criterion.by_repeat(trials)).mean()
    configs = completed_configs(trials)
    rows = []
    for name in by:
        values = configs.loc[means.index, f"config/{name}"].dropna()
        labels = pd.factorize(levels(values), use_na_sentinel=False)[0]
        if len(set(labels)) < 2 or len(values) <= len(set(labels)):
            continue  # one value per configuration would explain everything
        rows.append({"hyperparameter": name} | asdict(importance(means[values.index], labels)))
    table = pd.DataFrame(rows, columns=["hyperparameter", "share", "null", "n"])
    return table.sort_values("share", ascending=False, ignore_index=True)


def edges(
    trials: pd.DataFrame, config_id: str | None, by: Sequence[str], criterion: Criterion
) -> list[str]:
    """Return where a configuration is at the edge of the search, e.g. ["lr = 0.1 (highest)"].

    Of two values each is an end of the list. One of them is an edge if it is better than the other
    at every setting of the other hyperparameters. alpha = 0 and alpha = 1 are no edges, since they
    are the limits of alpha.
    """
    configs = completed_configs(trials)
    means = criterion.sign * criterion.by_repeat(trials).mean()
    words = []
    for name in by:
        values = configs[f"config/{name}"].dropna()
        numeric = pd.api.types.is_numeric_dtype(values.infer_objects())
        if not numeric or values.nunique() < 2 or config_id not in values.index:
            continue
        value = values[config_id]
        if name == "alpha" and value in (0, 1):
            continue
        if values.nunique() == 2 and not _is_better_everywhere(value, name, configs, means):
            continue
        for end, word in ((values.min(), "lowest"), (values.max(), "highest")):
            if value == end:
                words.append(f"{name} = {short(value, 4)} ({word})")
    return words


def _is_better_everywhere(value: Value, name: str, configs: pd.DataFrame, means: pd.Series) -> bool:
    """Return whether one of two values is better at every setting of the other hyperparameters.

    There must be two such settings: with one, the better value is always an end of the list.
    """
    column = f"config/{name}"
    active = configs[configs[column].notna()].assign(mean=means)
    others = [c for c in configs if c.startswith("config/") and c != column]
    table = active.pivot_table(index=others, columns=column, values="mean", dropna=False).dropna()
    rest = table.drop(columns=value).iloc[:, 0]
    return len(table) > 1 and bool((table[value] > rest).all())
