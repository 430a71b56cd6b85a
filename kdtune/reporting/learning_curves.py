"""Learning curves: metrics on val by epoch, with the mean and spread over repeats."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from kdtune.config.metrics import METRICS
from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    LINE_STYLES,
    CaptionedFigure,
    add_legend_below,
    new_axes,
)
from kdtune.results.comparison import completed
from kdtune.results.labels import short_model
from kdtune.results.study_results import Results

MAX_POINTS = 3000
"""Points of all lines of a figure; if there are more, every k-th epoch is drawn."""
LAST_EPOCHS = 15
"""Epochs in the figures of the end of training."""
WITH_LAST_EPOCHS, WHOLE_ONLY = ("acc", "loss", "logit_diff"), ("ce", "distill")
"""Metrics with learning curves: with a second figure of the last epochs, or without."""


@dataclass(frozen=True)
class CurveData:
    """Epochs on val of the completed search trials of the shown configurations."""

    trials: dict[str, list[pd.DataFrame]]
    """config_id to one frame per repeat with a row per drawn epoch."""
    epochs: pd.DataFrame
    """The rows of all these frames."""
    n_epochs: int
    """Epochs of the longest trial."""
    last: int | None
    """Number of last epochs that the data are limited to; None: all epochs."""
    stride: int
    """Every stride-th epoch is drawn, counted back from the last one."""


def curve_data(results: Results, shown: Sequence[str], last: int | None = None) -> CurveData:
    """Return the data of learning curves, thinned to `MAX_POINTS` points.

    Args:
        results: the study.
        shown: config_ids.
        last: number of last epochs; None: all epochs.
    """
    val = results.epochs[results.epochs.split == "val"]
    val = val[val.trial_id.isin(completed(results.search_trials).trial_id)]
    end = 0 if val.empty else int(val.epoch.max()) + 1
    start = 0 if last is None else max(0, end - last)
    val = val[(val.epoch >= start) & val.config_id.isin(shown)]
    stride = max(1, -(-len(val) // MAX_POINTS))
    val = val[(end - 1 - val.epoch) % stride == 0]
    trials: dict[str, list[pd.DataFrame]] = {config: [] for config in shown}
    for (config, _), trial in val.groupby(["config_id", "repeat"]):
        trials[config].append(trial)
    return CurveData(trials, val, end, last, stride)


def curve_frame(epochs: pd.DataFrame, by: str, metric: str) -> pd.DataFrame:
    """Return mean, std (ddof = 1) and n over the repeats of each group and epoch.

    Args:
        epochs: one row per (by, repeat, epoch).
        by: column of the groups.
        metric: column that is averaged; rows without it do not count.

    Returns:
        Columns by, epoch, mean, std, n.
    """
    known = epochs[epochs[metric].notna()]
    groups = known.groupby([by, "epoch"], dropna=False, sort=False)[metric]
    frame = groups.agg(mean="mean", std="std", n="count").reset_index()
    return frame.sort_values([by, "epoch"], ignore_index=True)


def learning_curve(results: Results, metric: str, data: CurveData) -> CaptionedFigure | None:
    """Return the figure of a metric on val by epoch: mean, standard deviation and every repeat.

    Returns None if no shown configuration has the metric: without a teacher there is no
    distillation term.
    """
    frame = curve_frame(data.epochs, "config_id", metric)
    if not len(frame):
        return None
    figure, axes = new_axes()
    lines = dict(list(frame.groupby("config_id", sort=False)))
    for i, (config, trials) in enumerate(data.trials.items()):
        if (line := lines.get(config)) is None:
            continue
        repeats = [np.column_stack([trial.epoch + 1, trial[metric]]) for trial in trials]
        axes.add_collection(LineCollection(repeats, colors=COLOURS[i], linewidths=0.4, alpha=0.35))
        x = line.epoch + 1
        low, high = line["mean"] - line["std"], line["mean"] + line["std"]
        axes.fill_between(x, low, high, color=COLOURS[i], alpha=0.15, lw=0)
        n = "–".join(f"{k:.0f}" for k in sorted({line.n.min(), line.n.max()}))
        label = f"{results.label(config)} (n = {n})"
        axes.plot(x, line["mean"], color=COLOURS[i], ls=LINE_STYLES[i], lw=1.6, label=label)
    if metric == "acc":
        _draw_teachers(axes, data.epochs)
    label = METRICS[metric].label
    axes.set(xlabel="epoch", ylabel=f"validation {label}")
    add_legend_below(figure, axes)
    name = f"{metric}-last-{data.last}" if data.last else metric
    return CaptionedFigure(name, _curve_caption(metric, data), figure)


def _draw_teachers(axes: Axes, epochs: pd.DataFrame) -> None:
    """Draw the accuracy of each teacher as a line across."""
    distilled = epochs[epochs["config/teacher"].notna()]
    keys = ["config/teacher", "config/teacher_epochs"]
    accuracies = distilled.groupby(keys, dropna=False).teacher_acc.mean()
    if len(accuracies) < 2:
        mean = epochs.teacher_acc.mean()
        axes.axhline(mean, color=INK, lw=1, ls=(0, (2, 4)), label="teacher")
        return
    several = distilled["config/teacher_epochs"].nunique() > 1
    for i, ((name, epochs_trained), accuracy) in enumerate(accuracies.items()):
        label = f"teacher {short_model(name)}" + f", {epochs_trained:g} epochs" * several
        axes.axhline(accuracy, color=INK, lw=1, ls=(0, (2 + 2 * i, 4)), label=label)


def _curve_caption(metric: str, data: CurveData) -> str:
    label = METRICS[metric].label
    where = f", last {min(data.n_epochs, data.last)} epochs" if data.last else ""
    caption = (
        f"Validation {label}{where}: mean ± SD over repeats. Thin lines are the single repeats."
    )
    if not METRICS[metric].comparable:
        caption += (
            f" The {label} is not comparable across configurations, because hyperparameters such "
            f"as alpha are part of its definition."
        )
    return caption
