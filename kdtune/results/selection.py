"""Performance of the selected configuration on data that did not select it."""

import math
from pathlib import Path

import pandas as pd

from kdtune.results.comparison import (
    Criterion,
    baseline_of,
    best_config,
    by_repeat,
    completed,
    students_of,
    with_enough_repeats,
)
from kdtune.results.design import ONE_TEACHER, Design
from kdtune.results.predictions import read_predictions
from kdtune.statistics.intervals import mean_interval
from kdtune.statistics.selection_bias import bootstrap_corrected
from kdtune.statistics.sequential import anytime_interval

Row = dict[str, str | float]


def selection(
    folder: Path,
    trials: pd.DataFrame,
    criterion: Criterion,
    comparison: pd.DataFrame,
    anytime_level: float | None = None,
    design: Design = ONE_TEACHER,
) -> pd.DataFrame:
    """Return the criterion's metric of the best configuration and of the baseline, on val and test.

    Args:
        folder: of the study, with the predictions.
        trials: by which the criterion is judged.
        criterion: selects the best configuration.
        comparison: table of `comparison.compare` for these trials.
        anytime_level: level of a study that added repeats until the comparison was decided; its
            intervals are always-valid. None: 95 % t intervals.
        design: what the repeats vary, which decides the standard error.

    Returns:
        Rows: "best", "baseline" and "difference" (paired by repeat). Columns: row, config_id and
        means with the ends of their intervals: val/mean, /low, /high (optimistic for the best),
        corrected/mean, /low, /high (best row, accuracy at the last epoch: BBC-CV, see
        `statistics.selection_bias`) and test/mean, /low, /high (test selects nothing). NaN where
        there is no such number.
    """
    val = by_repeat(trials, criterion.metric, criterion.scope)
    if not val.notna().any(axis=None):
        return pd.DataFrame()
    test = by_repeat(trials, criterion.metric, "last", split="test")
    students = students_of(trials)
    best = best_config(val, criterion.sign, students)
    baseline = baseline_of(comparison, best)
    rows = _estimates(val, test, best, baseline, anytime_level, design)
    # other repeats have selected the finalists of the final phase: nothing to correct there
    if criterion.has_predictions and (trials.phase == "search").all():
        rows[0] |= _corrected(folder, trials, list(with_enough_repeats(val, students)))
    columns = [f"{k}/{s}" for k in ("val", "corrected", "test") for s in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=["row", "config_id", *columns])


def _estimates(
    val: pd.DataFrame,
    test: pd.DataFrame,
    best: str,
    baseline: str | None,
    anytime_level: float | None,
    design: Design,
) -> list[Row]:
    """Return the rows of `selection`, from the metric by repeat on val and test."""
    chosen = {"best": best} if baseline is None else {"best": best, "baseline": baseline}
    samples = [(row, config, val[config], test[config]) for row, config in chosen.items()]
    if baseline not in (None, best):
        pairs = [values[best] - values[baseline] for values in (val, test)]
        samples.append(("difference", "", *pairs))
    return [
        {"row": row, "config_id": config}
        | _interval("val", on_val, anytime_level, design)
        | _interval("test", on_test, anytime_level, design)
        for row, config, on_val, on_test in samples
    ]


def _interval(name: str, sample: pd.Series, anytime_level: float | None, design: Design) -> Row:
    """Return the mean of a sample and the ends of its interval; NaN for infinite ends."""
    i = mean_interval(sample.dropna())
    low, high = i.low, i.high
    if design != ONE_TEACHER and i.n:
        known = sample.dropna()
        low, high = design.estimate(known.to_numpy(), None, list(known.index)).interval()
    if anytime_level is not None:
        low, high = anytime_interval(list(sample.dropna()), anytime_level)
        low, high = (low, high) if math.isfinite(high - low) else (math.nan, math.nan)
    return {f"{name}/mean": i.mean, f"{name}/low": low, f"{name}/high": high}


def _corrected(folder: Path, trials: pd.DataFrame, configs: list[str]) -> Row:
    """Return the bias-corrected accuracy of the best; {} if predictions of a trial are missing."""
    done = completed(trials)
    done = done[done.config_id.isin(configs)]
    columns = ["split", "example", "correct"]
    frame = read_predictions(folder, list(done.trial_id), columns)
    if not len(frame) or not set(done.trial_id) <= set(frame.trial_id.unique()):
        return {}
    val = frame[frame.split == "val"].merge(done[["trial_id", "config_id"]], on="trial_id")
    correct = val.astype({"correct": float}).pivot_table(
        index="config_id", columns="example", values="correct"
    )
    correct = correct.dropna(axis=1)  # with folds a failed run may have had an example alone
    c = bootstrap_corrected(correct.loc[configs].to_numpy())
    return {"corrected/mean": c.corrected, "corrected/low": c.low, "corrected/high": c.high}
