"""What a study says beyond its verdict: the epoch's choice, the spread, importance, selection.

`trials` is the dataframe of `results.Frames`; `criterion` says which number of a trial counts.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd

from kdtune.results.comparison import (
    Criterion,
    by_repeat,
    complete_block,
    completed_configs,
    with_enough_repeats,
)
from kdtune.results.frames import SCOPES, Frames
from kdtune.results.tables import levels
from kdtune.statistics.variance import importance, repeated_measures, variance_shares


def sensitivity(trials: pd.DataFrame, criterion: Criterion) -> pd.DataFrame:
    """Does the choice of the epoch change the ranking?

    One row per well-run configuration: config_id, config/*, then <scope>/mean and <scope>/rank for
    each scope (1 is best); sorted by the last epoch's.
    """
    table = completed_configs(trials)
    for scope in SCOPES:
        means = with_enough_repeats(by_repeat(trials, criterion.metric, scope)).mean()
        table[f"{scope}/mean"] = means
        table[f"{scope}/rank"] = (criterion.sign * means).rank(ascending=False, method="min")
    table = table.dropna(subset=["last/mean"]).sort_values("last/rank", kind="stable")
    return table.reset_index()


def spread(frames: Frames, criterion: Criterion) -> pd.DataFrame:
    """Where the spread of the completed runs comes from, over their largest block without gaps.

    Two rows, epochs "last" and "all": configuration, repeat, epoch, residual (shares of the sum of
    squares), n_configs, n_repeats, and for the last epoch f, p (do the configurations differ at
    all?) and icc (how alike they find the repeats).
    """
    trials = frames.trials[frames.trials.phase == "search"]
    values = complete_block(by_repeat(trials, criterion.metric, "last"))
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
    """The block's numbers in every epoch [K, n, E]; None where runs have different lengths."""
    val = frames.epochs[frames.epochs.split == "val"]
    val = val.assign(gap=val.teacher_acc - val.acc)
    table = val.pivot_table(index=["config_id", "repeat"], columns="epoch", values=criterion.metric)
    index = pd.MultiIndex.from_product([values.columns, values.index])
    table = table.reindex(index)
    if table.isna().any(axis=None):
        return None
    curves: np.ndarray = table.to_numpy().reshape(len(values.columns), len(values), -1)
    return curves


def importances(trials: pd.DataFrame, criterion: Criterion, by: Sequence[str]) -> pd.DataFrame:
    """How much of the spread between configurations each hyperparameter explains by itself.

    Over the means of the configurations in which it has an effect. One row per hyperparameter:
    hyperparameter, share, null (what 95 % of those without effect stay below), n (configurations).
    A hyperparameter with many values is cut into four ranges.
    """
    means = complete_block(by_repeat(trials, criterion.metric, criterion.scope)).mean()
    configs = completed_configs(trials)
    rows = []
    for name in by:
        values = configs.loc[means.index, f"config/{name}"].dropna()
        labels = pd.factorize(levels(values), use_na_sentinel=False)[0]
        if len(set(labels)) < 2 or len(values) <= len(set(labels)):
            continue  # a value a configuration explains all
        rows.append({"hyperparameter": name} | asdict(importance(means[values.index], labels)))
    table = pd.DataFrame(rows, columns=["hyperparameter", "share", "null", "n"])
    return table.sort_values("share", ascending=False, ignore_index=True)


def edges(trials: pd.DataFrame, config_id: str, by: Sequence[str]) -> list[str]:
    """Where a configuration lies at the edge of what was searched, e.g. "lr = 0.1 (highest)".

    Of hyperparameters with three or more values, since of two each is an edge; and not where there
    is nothing beyond, at alpha 0 and 1.
    """
    configs = completed_configs(trials)
    words = []
    for name in by:
        values = configs[f"config/{name}"].dropna()
        numeric = pd.api.types.is_numeric_dtype(values.infer_objects())
        if not numeric or values.nunique() < 3 or config_id not in values.index:
            continue
        value = values[config_id]
        if name == "alpha" and value in (0, 1):
            continue
        for end, word in ((values.min(), "lowest"), (values.max(), "highest")):
            if value == end:
                words.append(f"{name} = {value:.4g} ({word})")
    return words
