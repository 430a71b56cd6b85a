"""Learning curves: metrics on val by epoch, with the mean and spread over repeats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import MaxNLocator

from kdtune.config.metrics import Metric
from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    LINE_STYLES,
    CaptionedFigure,
    add_legend_below,
    new_axes,
)
from kdtune.reporting.frame import MAX_GROWTH, limits, outside
from kdtune.reporting.hover import Titles, config_gid
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
    titles: dict[str, Titles] = {}
    for i, config in enumerate(data.trials):
        if config in lines:
            label = results.label(config)
            titles |= _draw_curve(axes, i, data.trials[config], lines[config], metric, label)
    declared = results.task.metrics[metric]
    with_teachers = metric == "acc" and results.task.is_distillation
    teachers = _draw_teachers(axes, data.epochs) if with_teachers else []
    wild = _set_limits(axes, lines, data, declared, teachers)
    axes.set(xlabel="epoch", ylabel=f"validation {declared.label}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    add_legend_below(figure, axes)
    name = f"{metric}-last-{data.last}" if data.last else metric
    caption = _curve_caption(declared, data) + _outside(results, wild)
    return CaptionedFigure(name, caption, figure, titles)


def _draw_curve(
    axes: Axes,
    number: int,
    trials: Sequence[pd.DataFrame],
    line: pd.DataFrame,
    metric: str,
    label: str,
) -> dict[str, Titles]:
    """Draw mean, standard deviation and repeats of one configuration; return their titles."""
    config, colour = str(line.config_id.iloc[0]), COLOURS[number]
    names = [config_gid(config, part) for part in ("repeats", "sd", "mean")]
    repeats = [np.column_stack([trial.epoch + 1, trial[metric]]) for trial in trials]
    thin = LineCollection(repeats, colors=colour, linewidths=0.4, alpha=0.35, gid=names[0])
    axes.add_collection(thin)
    x = line.epoch + 1
    low, high = line["mean"] - line["std"], line["mean"] + line["std"]
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, gid=names[1])
    n = "–".join(f"{k:.0f}" for k in sorted({line.n.min(), line.n.max()}))
    label = f"{label} (n = {n})"
    style: Any = {"color": colour, "ls": LINE_STYLES[number], "lw": 1.6, "gid": names[2]}
    axes.plot(x, line["mean"], label=label, **style)
    return dict.fromkeys(names, label)


def _set_limits(
    axes: Axes,
    lines: dict[str, pd.DataFrame],
    data: CurveData,
    metric: Metric,
    teachers: Sequence[float],
) -> dict[str, tuple[float, float]]:
    """Let no wild configuration set the limits of the figure alone.

    Args:
        axes: with everything drawn.
        lines: rows of `curve_frame` by configuration.
        data: of the figure.
        metric: that is drawn.
        teachers: their accuracies.

    Returns:
        Least and greatest mean of each configuration that runs outside.
    """
    bands = {}
    for config, line in lines.items():
        sd = line["std"].fillna(0)
        bands[config] = np.concatenate([line["mean"] - sd, line["mean"] + sd])
    # a loss that alpha weights has another scale in each configuration, by design
    growth = MAX_GROWTH if metric.comparable else 5 * MAX_GROWTH
    wild = outside(bands, metric.better, growth)
    if not wild:
        return {}
    inside = [config for config in lines if config not in wild]
    values = [bands[config] for config in inside]
    values += [trial[metric.name].to_numpy() for c in inside for trial in data.trials[c]]
    axes.set_ylim(*limits([*values, np.asarray(teachers)]))
    return {c: (float(lines[c]["mean"].min()), float(lines[c]["mean"].max())) for c in wild}


def _outside(results: Results, wild: dict[str, tuple[float, float]]) -> str:
    """Return the sentence about configurations outside the frame; "" without any."""
    if not wild:
        return ""
    shown = [
        f"{results.label(c)} (means {low:.3g} to {high:.3g})" for c, (low, high) in wild.items()
    ]
    verb = "run" if len(shown) > 1 else "runs"
    return f" Outside the frame {verb} {'; '.join(shown)}."


def _draw_teachers(axes: Axes, epochs: pd.DataFrame) -> list[float]:
    """Draw the accuracy of each teacher as a line across; return the accuracies."""
    distilled = epochs[epochs["config/teacher"].notna()]
    keys = ["config/teacher", "config/teacher_epochs"]
    accuracies = distilled.groupby(keys, dropna=False).teacher_acc.mean()
    if len(accuracies) < 2:
        mean = epochs.teacher_acc.mean()
        axes.axhline(mean, color=INK, lw=1, ls=(0, (2, 4)), label="teacher")
        return [float(mean)]
    several = distilled["config/teacher_epochs"].nunique() > 1
    for i, ((name, epochs_trained), accuracy) in enumerate(accuracies.items()):
        label = f"teacher {short_model(name)}" + f", {epochs_trained:g} epochs" * several
        axes.axhline(accuracy, color=INK, lw=1, ls=(0, (2 + 2 * i, 4)), label=label)
    return [float(accuracy) for accuracy in accuracies]


def _curve_caption(metric: Metric, data: CurveData) -> str:
    label = metric.label
    where = f", last {min(data.n_epochs, data.last)} epochs" if data.last else ""
    caption = (
        f"Validation {label}{where}: mean ± SD over repeats. Thin lines are the single repeats."
    )
    if not metric.comparable:
        caption += (
            f" The {label} is not comparable across configurations, because hyperparameters such "
            f"as alpha are part of its definition."
        )
    return caption
