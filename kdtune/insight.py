"""What a study says beyond its verdict: the epoch's choice, the spread, importance, selection.

`trials` is the dataframe of `results.Frames`; `rule` says which number of a trial counts.
"""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from kdtune.comparison import Rule, best_of, block, by_repeat, completed, configs_of, well_run
from kdtune.config.files import PREDICTIONS
from kdtune.results import SCOPES, Frames, gather_predictions
from kdtune.statistics.intervals import mean_interval
from kdtune.statistics.selection_bias import bootstrap_corrected
from kdtune.statistics.sequential import anytime_interval
from kdtune.statistics.variance import importance, repeated_measures, variance_shares
from kdtune.tables import levels


def sensitivity(trials: pd.DataFrame, rule: Rule) -> pd.DataFrame:
    """Does the choice of the epoch change the ranking?

    One row per well-run configuration: config_id, config/*, then <scope>/mean and <scope>/rank for
    each scope (1 is best); sorted by the last epoch's.
    """
    table = configs_of(trials)
    for scope in SCOPES:
        means = well_run(by_repeat(trials, rule.metric, scope)).mean()
        table[f"{scope}/mean"] = means
        table[f"{scope}/rank"] = (rule.sign * means).rank(ascending=False, method="min")
    table = table.dropna(subset=["last/mean"]).sort_values("last/rank", kind="stable")
    return table.reset_index()


def spread(frames: Frames, rule: Rule) -> pd.DataFrame:
    """Where the spread of the completed runs comes from, over their largest block without gaps.

    Two rows, epochs "last" and "all": configuration, repeat, epoch, residual (shares of the sum of
    squares), n_configs, n_repeats, and for the last epoch f, p (do the configurations differ at
    all?) and icc (how alike they find the repeats).
    """
    trials = frames.trials[frames.trials.phase == "search"]
    values = block(by_repeat(trials, rule.metric, "last"))
    if values.shape[0] < 2 or values.shape[1] < 2:
        return pd.DataFrame()
    last = values.to_numpy().T  # [K, n]
    counts = {"n_configs": last.shape[0], "n_repeats": last.shape[1]}
    rows = [{"epochs": "last"} | asdict(variance_shares(last[..., None])) | counts]
    rows[0] |= asdict(repeated_measures(last)) | {"epoch": math.nan}
    curves = _curves(frames, rule, values)
    if curves is not None:
        rows.append({"epochs": "all"} | asdict(variance_shares(curves)) | counts)
    return pd.DataFrame(rows)


def _curves(frames: Frames, rule: Rule, values: pd.DataFrame) -> np.ndarray | None:
    """The block's numbers in every epoch [K, n, E]; None where runs have different lengths."""
    val = frames.epochs[frames.epochs.split == "val"]
    val = val.assign(gap=val.teacher_acc - val.acc)
    table = val.pivot_table(index=["config_id", "repeat"], columns="epoch", values=rule.metric)
    index = pd.MultiIndex.from_product([values.columns, values.index])
    table = table.reindex(index)
    if table.isna().any(axis=None):
        return None
    curves: np.ndarray = table.to_numpy().reshape(len(values.columns), len(values), -1)
    return curves


def importances(trials: pd.DataFrame, rule: Rule, by: Sequence[str]) -> pd.DataFrame:
    """How much of the spread between configurations each hyperparameter explains by itself.

    Over the means of the configurations in which it has an effect. One row per hyperparameter:
    hyperparameter, share, null (what 95 % of those without effect stay below), n (configurations).
    A hyperparameter with many values is cut into four ranges.
    """
    means = block(by_repeat(trials, rule.metric, rule.scope)).mean()
    configs = configs_of(trials)
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
    configs = configs_of(trials)
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


def selection(
    folder: Path,
    trials: pd.DataFrame,
    rule: Rule,
    comparison: pd.DataFrame,
    anytime: float | None = None,
) -> pd.DataFrame:
    """How good is the configuration that the study would choose, beyond what chose it?

    Rows: "best" (config_id), "baseline", and "difference" between them, paired by repeat. Columns:
    val/mean, /low, /high of the rule's metric, selected and so optimistic; corrected, /low, /high
    (best only, accuracy only: `stats.bootstrap_corrected` over the examples of val); test/mean,
    /low, /high, which nothing was selected by. NaN where there is no such number. With `anytime`,
    a level, the intervals are such as hold at any time, since the number of repeats was not fixed.
    """
    val = by_repeat(trials, rule.metric, rule.scope)
    if not val.notna().any(axis=None):
        return pd.DataFrame()
    test = by_repeat(trials, rule.metric, "last", split="test")
    chosen = {"best": best_of(val, rule.sign)}
    if len(comparison):
        chosen["baseline"] = str(comparison.baseline[0])
    rows: list[dict[str, str | float]] = [
        {"row": row, "config_id": c}
        | _interval("val", val[c], anytime)
        | _interval("test", test[c], anytime)
        for row, c in chosen.items()
    ]
    if len(set(chosen.values())) == 2:
        a, b = chosen.values()
        rows.append({"row": "difference", "config_id": ""})
        rows[-1] |= _interval("val", val[a] - val[b], anytime)
        rows[-1] |= _interval("test", test[a] - test[b], anytime)
    of_search = (trials.phase == "search").all()  # finalists were chosen by other repeats
    if rule.has_predictions and of_search:
        rows[0] |= _corrected(folder, trials, list(well_run(val)))
    columns = [f"{k}/{s}" for k in ("val", "corrected", "test") for s in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=["row", "config_id", *columns])


def _interval(name: str, sample: pd.Series, anytime: float | None) -> dict[str, str | float]:
    i = mean_interval(sample.dropna())
    low, high = i.low, i.high
    if anytime is not None:
        low, high = anytime_interval(list(sample.dropna()), anytime)
        low, high = (low, high) if math.isfinite(high - low) else (math.nan, math.nan)
    return {f"{name}/mean": i.mean, f"{name}/low": low, f"{name}/high": high}


def _corrected(folder: Path, trials: pd.DataFrame, configs: list[str]) -> dict[str, str | float]:
    """The best accuracy corrected for selection; nothing where a run's predictions are missing."""
    done = completed(trials)
    done = done[done.config_id.isin(configs)]
    frame = _predictions(folder, done)
    if frame is None:
        return {}
    val = frame[frame.split == "val"].merge(done[["trial_id", "config_id"]], on="trial_id")
    correct = val.astype({"correct": float}).pivot_table(
        index="config_id", columns="example", values="correct"
    )
    c = bootstrap_corrected(correct.loc[configs].to_numpy())
    return {"corrected/mean": c.corrected, "corrected/low": c.low, "corrected/high": c.high}


def _predictions(folder: Path, trials: pd.DataFrame) -> pd.DataFrame | None:
    """The predictions of all of the trials: those of the study, else the runs' own files.

    None where one's are missing: the study's are written at its end, the user may have tidied up,
    a file may be damaged, and a laptop may have no pyarrow.
    """
    for read in (
        lambda: pd.read_parquet(folder / PREDICTIONS),
        lambda: gather_predictions(folder, trials),
    ):
        with suppress(ImportError, OSError, ValueError):
            frame = read()
            if len(frame) and set(trials.trial_id) <= set(frame.trial_id):
                return frame
    return None
