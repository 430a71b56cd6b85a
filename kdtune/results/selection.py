"""Performance of the selected configuration on data that did not select it."""

import math
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from kdtune.results.comparison import (
    Criterion,
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


class Chosen(NamedTuple):
    """Configurations whose performance is reported, by config_id."""

    best: str
    """The chosen configuration."""
    baseline: str | None
    """The baseline of its student, perhaps itself; None if there is none."""
    default: str
    """The recipe's default, perhaps itself or without any completed run."""


def selection(
    folder: Path,
    trials: pd.DataFrame,
    criterion: Criterion,
    chosen: Chosen,
    anytime_level: float | None = None,
    design: Design = ONE_TEACHER,
) -> pd.DataFrame:
    """Return the criterion's metric of the chosen configurations, on val and test.

    About one search in ten chooses a configuration that is worse on new data than the recipe's
    default (overtuning, arXiv:2506.19540), so the two are compared.

    Args:
        folder: of the study, with the predictions.
        trials: by which the criterion is judged, and those of the default on the same repeats.
        criterion: of the metric and the epoch selection.
        chosen: the configurations.
        anytime_level: level of a study that added repeats until the comparison was decided; its
            intervals are always-valid. None: 95 % t intervals.
        design: what the repeats vary, which decides the standard error.

    Returns:
        Rows, differences paired by repeat: "best", "baseline", "difference" (best - baseline),
        "default" and "chosen - default" (best - default; not if they are the same). Columns: row,
        config_id and means with the ends of their intervals: val/mean, /low, /high (optimistic
        where val selected the best), corrected/mean, /low, /high (best row, accuracy at the last
        epoch: BBC-CV, see `statistics.selection_bias`) and test/mean, /low, /high (test selects
        nothing). NaN where there is no such number.
    """
    val = by_repeat(trials, criterion.metric, criterion.scope)
    test = by_repeat(trials, criterion.metric, "last", split="test")
    rows = _estimates(val, test, chosen, anytime_level, design)
    # other repeats have selected the finalists of the final phase: nothing to correct there
    if criterion.has_predictions and (trials.phase == "search").all():
        rows[0] |= _corrected(folder, trials, list(with_enough_repeats(val, students_of(trials))))
    columns = [f"{k}/{s}" for k in ("val", "corrected", "test") for s in ("mean", "low", "high")]
    return pd.DataFrame(rows, columns=["row", "config_id", *columns])


def _estimates(
    val: pd.DataFrame,
    test: pd.DataFrame,
    chosen: Chosen,
    anytime_level: float | None,
    design: Design,
) -> list[Row]:
    """Return the rows of `selection`, from the metric by repeat on val and test."""
    best = chosen.best
    samples = [("best", best, val[best], test[best])]
    others = {("baseline", "difference"): chosen.baseline}
    others[("default", "chosen - default")] = chosen.default
    for (row, difference), other in others.items():
        if other is None or other not in val:
            continue
        samples.append((row, other, val[other], test[other]))
        if other != best:
            pairs = [values[best] - values[other] for values in (val, test)]
            samples.append((difference, "", *pairs))
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
