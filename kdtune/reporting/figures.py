"""Figures of a study or of several: dataframes in, matplotlib figures out, no global state."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from kdtune.config.task import ECE_BINS, Metric
from kdtune.reporting import canvas
from kdtune.reporting.canvas import COLOURS, INK, CaptionedFigure, Titles
from kdtune.results import comparison, examples
from kdtune.results.comparison import Criterion
from kdtune.results.costs import COST_AXES, with_prefix
from kdtune.results.examples import ARMS, BothArms, Numbers
from kdtune.results.formatting import cell, difference_text, interval_text
from kdtune.results.frames import short_model
from kdtune.results.results import MAX_BRIEF_ROWS, Results
from kdtune.results.several import SideBySide
from kdtune.results.summaries import levels
from kdtune.results.words import sentence
from kdtune.statistics.intervals import mean_interval

# Figures of confusion and calibration of the best distilled configuration and its baseline.

CLASS_FIGURES = ("confusion", "confusion-change", "calibration")
MAX_MATRIX_CLASSES = 20
"""Classes of a confusion matrix; of more, the largest confusions are a table."""
MAX_NUMBERED = 12
"""Classes of a confusion matrix with a number in each cell."""
_MAX_NAME = 14
"""Characters of the name of a class beside a matrix."""


def judged_split(arms: Mapping[str, BothArms]) -> BothArms | None:
    """Return the predictions that confusion and calibration are of: on test, else on val."""
    return arms.get("test", arms.get("val"))


def class_plots(results: Results, arms: Mapping[str, BothArms]) -> Iterator[CaptionedFigure]:
    """Yield the figures, see `CLASS_FIGURES`."""
    if (judged := judged_split(arms)) is None:
        return
    labels = [results.label(config) for config in judged.configs]
    if len(judged.classes) <= MAX_MATRIX_CLASSES:
        yield from _confusion_plots(judged, labels)
    yield _calibration_plot(judged, labels)


def _confusion_plots(arms: BothArms, labels: list[str]) -> Iterator[CaptionedFigure]:
    """Yield the matrix of the distilled students, and its difference from the baseline."""
    shares = 100 * examples.confusion(arms)
    caption = sentence("confusion figure", arms=arms, label=labels[0])
    yield _matrix("confusion", caption, arms, shares[0], {"cmap": "cividis", "vmin": 0})
    change = shares[0] - shares[1]
    most = float(np.nanmax(np.abs(change))) or 1.0
    caption = sentence("confusion change figure", label=labels[1])
    style = {"cmap": "PuOr_r", "vmin": -most, "vmax": most}
    yield _matrix("confusion-change", caption, arms, change, style)


def _matrix(
    name: str, caption: str, arms: BothArms, values: Numbers, style: dict[str, Any]
) -> CaptionedFigure:
    count = len(arms.classes)
    figure, axes = canvas.new_axes()
    figure.set_size_inches(4.6, min(4.2, 2.2 + 0.2 * count))
    axes.grid(False)
    image = axes.imshow(values, aspect="auto", **style)
    if count <= MAX_NUMBERED:
        shown = np.where(np.round(values) == 0, np.nan, values)
        _number_cells(axes, shown, image, "+.0f" if "vmax" in style else ".0f")
    names = [n if len(n) <= _MAX_NAME else f"{n[: _MAX_NAME - 1]}…" for n in arms.classes]
    axes.set_xticks(range(count), names, rotation=90 if count > 2 else 0)
    axes.set_yticks(range(count), names)
    axes.set(xlabel="prediction", ylabel="label")
    figure.colorbar(image, ax=axes, label="points" if "vmax" in style else "%")
    return CaptionedFigure(name, caption, figure)


def _number_cells(axes: Axes, values: Numbers, image: Any, form: str) -> None:
    """Write numbers into the cells of a matrix: dark text on light cells, as readers see them."""
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            red, green, blue, _ = image.cmap(image.norm(value))
            colour = "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "#fefefe"
            style: Any = {"ha": "center", "va": "center", "color": colour}
            size = 7 if values.shape[1] > 5 else 9
            axes.text(x, y, format(value, form), fontsize=size, **style)


def _calibration_plot(arms: BothArms, labels: list[str]) -> CaptionedFigure:
    """Return the reliability diagram of both arms."""
    table, errors = examples.calibration(arms), 100 * examples.calibration_errors(arms).mean(1)
    figure, axes = canvas.new_axes()
    axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=(0, (2, 4)))
    titles: dict[str, Titles] = {}
    most = table.n.max()
    for i, arm in enumerate(ARMS):
        rows = table[table.arm == arm]
        label = f"{labels[i]} (ECE {errors[i]:.1f}%)"
        line: Any = {"color": COLOURS[i], "ls": canvas.LINE_STYLES[i], "lw": 1.4, "label": label}
        axes.plot(100 * rows.confidence, 100 * rows.accuracy, **line)
        for row in rows.itertuples():
            x, y, gid = 100 * row.confidence, 100 * row.accuracy, f"arm-{i}-{row.bin}"
            mark: Any = {"color": COLOURS[i], "mew": 0, "ms": 2 + 7 * (row.n / most) ** 0.5}
            axes.plot(x, y, "os"[i], gid=gid, **mark)
            titles[gid] = (
                f"{labels[i]}: confidence {x:.1f}%, accuracy {y:.1f}%, {row.n:,} predictions"
            )
    axes.set(xlabel="confidence (%)", ylabel="accuracy (%)", xlim=(0, 102), ylim=(0, 102))
    figure.set_figheight(3.4)
    figure.legend(loc="outside lower center", ncols=1)
    caption = sentence("calibration figure", split=arms.split, bins=ECE_BINS)
    return CaptionedFigure("calibration", caption, figure, titles)


# Accuracy against cost.

FRONTIERS = {f"frontier-{cost}": cost for cost in COST_AXES}
"""Names of the figures, and the cost of each."""
MIN_RATIO_OF_LOG_AXIS = 5
"""A cost is drawn on a logarithmic axis if its values differ by more than this factor."""
GREY = "#7f7f7f"
DODGE = {"distilled": -2.5, "plain": 2.5}
"""Shift of markers in points: both arms of a student have the same cost."""


def frontier_plot(results: Results, criterion: Criterion, name: str) -> CaptionedFigure | None:
    """Return the figure of a metric against a cost; None if there is no student with a cost.

    Args:
        results: the study.
        criterion: the metric, on val, and the epoch selection.
        name: of the figure, see `FRONTIERS`.
    """
    table, cost = results.frontier(criterion), FRONTIERS[name]
    if not len(table):
        return None
    teachers = teacher_points(results, criterion, cost)
    figure, axes = canvas.new_axes()
    values = pd.concat([table[cost], teachers[cost]])
    is_log = values.max() > MIN_RATIO_OF_LOG_AXIS * values.min()
    if is_log:
        axes.set_xscale("log")
    for number, (student, rows) in enumerate(table.groupby("student", sort=False)):
        for i, (_, row) in enumerate(rows.iterrows()):
            _draw_point(axes, row, criterion, cost, number, label=student if i == 0 else None)
    for _, row in teachers.iterrows():
        axes.axhline(row["mean"], color=INK, lw=0.8, ls=(0, (2, 4)))
        label = f"{row.teacher} (teacher)"
        axes.plot(row[cost], row["mean"], "*", color=INK, ms=9, mew=0, label=label)
    if "plain" in set(table.arm):
        hollow: Any = {"color": GREY, "mfc": "#ffffff", "mew": 1.2, "ms": 6}
        axes.plot([], [], "o", label="hollow: without distillation", **hollow)
    on = table[table[f"efficient/{cost}"]].sort_values(cost)
    x, y = [*on[cost], values.max()], list(criterion.scale * on["mean"])
    line: Any = {"color": GREY, "lw": 1.2, "zorder": 1, "label": "frontier of the students"}
    axes.plot(x, [*y, y[-1]], drawstyle="steps-post", **line)
    axes.set(xlabel=COST_AXES[cost], ylabel=_axis_label(criterion))
    shown = FuncFormatter(lambda value, _: with_prefix(value) if cost == "params" else f"{value:g}")
    axes.xaxis.set_major_formatter(shown)
    if is_log:
        subs = (1.0, 2.0, 5.0) if values.max() < 100 * values.min() else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)
    canvas.add_legend_below(figure, axes)
    titles: dict[str, Titles] = {}
    for _, row in table.iterrows():
        titles[f"point-{row.config_id}"] = (
            f"{row.student}, {row.arm}, {row.label}: {criterion.scale * row['mean']:.4g}, "
            f"{COST_AXES[cost]} {row[cost]:,.4g}"
        )
    facts = {"metric": criterion.label, "cost": COST_AXES[cost], "design": results.design}
    caption = sentence("frontier figure", **facts)
    return CaptionedFigure(name, caption, figure, titles)


def teacher_points(results: Results, criterion: Criterion, cost: str) -> pd.DataFrame:
    """Return teacher, mean (of its val accuracy in percent) and cost of each teacher.

    Of a teacher that was fine-tuned for several numbers of epochs, the most accurate one. Only the
    accuracy of a teacher is recorded, so the frame is empty for other metrics.
    """
    costs = results.costs[results.costs.role == "teacher"].set_index("model")[cost]
    run, trials = results.study.run, comparison.completed(results.search_trials)
    # training without distillation is measured against the teacher that the study began with
    teacher = trials["config/teacher"].fillna(run.teacher)
    epochs = trials["config/teacher_epochs"].fillna(run.teacher_epochs or 0)
    means = 100 * trials["val/teacher_acc@last"].groupby([teacher, epochs]).mean().dropna()
    best = means.groupby(level=0).max()
    best = best[best.index.isin(costs.index)] if criterion.metric == "acc" else best[:0]
    return pd.DataFrame({"teacher": best.index, "mean": best.array, cost: costs[best.index].array})


def _draw_point(
    axes: Axes, row: pd.Series, criterion: Criterion, cost: str, number: int, label: str | None
) -> None:
    """Draw the mean of one configuration and its interval."""
    colour, marker = style_of(number)
    shift = ScaledTranslation(DODGE[row.arm] / 72, 0, axes.figure.dpi_scale_trans)
    style: Any = {"transform": axes.transData + shift, "color": colour}
    x, y = row[cost], criterion.scale * row["mean"]
    ends = [y, y] if pd.isna(row.low) else [criterion.scale * row.low, criterion.scale * row.high]
    axes.update_datalim([(x, end) for end in ends])  # shifted lines do not count by themselves
    axes.plot([x, x], ends, lw=1.2, **style)
    face = colour if row.arm == "distilled" else "#ffffff"
    style["gid"] = f"point-{row.config_id}"
    axes.plot(x, y, marker, ms=6, mfc=face, mew=1.2, label=label, **style)


def style_of(number: int) -> tuple[str, str]:
    """Return colour and marker of a student; the first 49 differ."""
    marker = canvas.MARKERS[(number + number // 7) % len(canvas.MARKERS)]
    return COLOURS[number % len(COLOURS)], marker


# The label curve: what distilling is worth in labelled images.


def label_curve_plot(results: Results, criterion: Criterion) -> CaptionedFigure | None:
    """Return the figure of a metric against the number of labels, with distillation and without.

    Returns None without a label curve, see `Results.label_curve`.
    """
    table, scale = results.label_curve(criterion), criterion.scale
    if not len(table):
        return None
    figure, axes = canvas.new_axes()
    axes.set_xscale("log")
    titles: dict[str, Titles] = {}
    several = table.student.nunique() > 1
    for number, ((student, arm), rows) in enumerate(table.groupby(["student", "arm"], sort=False)):
        colour, marker = style_of(number // 2 if several else number)
        face = colour if arm == "distilled" else "#ffffff"
        words = "without distillation" if arm == "plain" else arm
        label = f"{student}, {words}" if several else words
        line: Any = {"color": colour, "marker": marker, "mfc": face, "ms": 5, "lw": 1.4}
        x = rows.n * (1.02 if arm == "distilled" else 0.98)  # so that no interval hides another
        axes.plot(x, scale * rows["mean"], label=label, **line)
        axes.vlines(x, scale * rows.low, scale * rows.high, color=colour, lw=1)
        for at, row in zip(x, rows.itertuples(), strict=True):
            gid, height = f"size-{row.config_id}", scale * row.mean
            axes.plot(at, height, marker, color=colour, mfc=face, ms=5, gid=gid)
            titles[gid] = f"{label}, {row.n:,} labels: {height:.4g}"
            if row.n < row.equivalent < np.inf:  # NaN without distillation
                gap: Any = {"arrowstyle": "->", "color": GREY, "shrinkA": 3, "shrinkB": 0}
                ends = (row.equivalent, height), (at, height)
                axes.annotate("", *ends, arrowprops=gap)
    numbers = sorted(table.n.unique())
    is_apart = [True, *(n >= 1.5 * before for before, n in pairwise(numbers))]
    shown = zip(numbers, is_apart, strict=True)  # labels closer to each other touch
    axes.set_xticks(numbers, [f"{n:,}" if far else "" for n, far in shown])
    axes.xaxis.set_minor_formatter(NullFormatter())
    on = _axis_label(criterion).replace("validation", str(table.split[0]))
    axes.set(xlabel="labelled images of the student", ylabel=on)
    canvas.add_legend_below(figure, axes)
    caption = sentence("labels figure", split=table.split[0], metric=criterion.declared.label)
    return CaptionedFigure("labels", caption, figure, titles)


# Learning curves: metrics on val by epoch, with the mean and spread over repeats.


MAX_POINTS = 3000
"""Points of all lines of a figure; if there are more, every k-th epoch is drawn."""
MAX_BANDS = 3
"""Configurations in a figure with bands; those of more hide each other."""
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
    val = val[val.trial_id.isin(comparison.completed(results.search_trials).trial_id)]
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
    recorded = epochs[epochs[metric].notna()]
    groups = recorded.groupby([by, "epoch"], dropna=False, sort=False)[metric]
    frame = groups.agg(mean="mean", std="std", n="count").reset_index()
    return frame.sort_values([by, "epoch"], ignore_index=True)


def learning_curve(results: Results, metric: str, data: CurveData) -> CaptionedFigure | None:
    """Return the figure of a metric on val by epoch: mean and every repeat, of few also the SD.

    Returns None if no shown configuration has the metric: without a teacher there is no
    distillation term.
    """
    frame = curve_frame(data.epochs, "config_id", metric)
    if not len(frame):
        return None
    figure, axes = canvas.new_axes()
    axes.margins(x=0)  # else the axis begins at epoch 0, which there is not
    lines = dict(list(frame.groupby("config_id", sort=False)))
    titles: dict[str, Titles] = {}
    n = int(frame.n.iloc[0]) if frame.n.nunique() == 1 else None
    facts = {"n": n, "has_bands": len(lines) <= MAX_BANDS}
    for i, config in enumerate(data.trials):
        if config in lines:
            label = results.label(config)
            titles |= _draw_curve(axes, i, data.trials[config], lines[config], metric, label, facts)
    declared = results.task.metrics[metric]
    with_teachers = metric == "acc" and results.task.is_distillation
    teachers = _draw_teachers(axes, data.epochs) if with_teachers else []
    wild = _set_limits(axes, lines, data, declared, teachers)
    axes.set(xlabel="epoch", ylabel=f"validation {declared.label}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    canvas.add_legend_below(figure, axes)
    stem = metric if metric.isidentifier() else "score"  # recall:CLASS names no file
    name = f"{stem}-last-{data.last}" if data.last else stem
    ranges = [f"{results.label(c)} (means {a:.3g} to {b:.3g})" for c, (a, b) in wild.items()]
    caption = sentence("curve figure", metric=declared, data=data, outside=ranges, **facts)
    return CaptionedFigure(name, caption, figure, titles)


def _draw_curve(
    axes: Axes,
    number: int,
    trials: Sequence[pd.DataFrame],
    line: pd.DataFrame,
    metric: str,
    label: str,
    facts: Mapping[str, Any],
) -> dict[str, Titles]:
    """Draw mean, repeats and perhaps SD of one configuration; return their titles."""
    config, colour = str(line.config_id.iloc[0]), COLOURS[number]
    names = [canvas.config_gid(config, part) for part in ("repeats", "sd", "mean")]
    repeats = [np.column_stack([trial.epoch + 1, trial[metric]]) for trial in trials]
    thin = LineCollection(repeats, colors=colour, linewidths=0.4, alpha=0.35, gid=names[0])
    axes.add_collection(thin)
    x = line.epoch + 1
    if facts["has_bands"]:
        low, high = line["mean"] - line["std"], line["mean"] + line["std"]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0, gid=names[1])
    if facts["n"] is None:  # else the caption says it once
        n = "–".join(f"{k:.0f}" for k in sorted({line.n.min(), line.n.max()}))
        label = f"{label} (n = {n})"
    style: Any = {"color": colour, "ls": canvas.LINE_STYLES[number], "lw": 1.6, "gid": names[2]}
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
    growth = canvas.MAX_GROWTH if metric.comparable else 5 * canvas.MAX_GROWTH
    wild = canvas.outside(bands, metric.better, growth)
    if not wild:
        return {}
    inside = [config for config in lines if config not in wild]
    values = [bands[config] for config in inside]
    values += [trial[metric.name].to_numpy() for c in inside for trial in data.trials[c]]
    axes.set_ylim(*canvas.limits([*values, np.asarray(teachers)]))
    return {c: (float(lines[c]["mean"].min()), float(lines[c]["mean"].max())) for c in wild}


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


# All figures of a report.
#
# A figure shows at most `MAX_CONFIGS` configurations, the best and the baseline. Each has a colour
# (Okabe and Ito's palette, safe for colour-blind readers), a line style and a marker, so that they
# can also be distinguished in greyscale.

MAX_CONFIGS = len(COLOURS)
"""Configurations in a figure with lines or markers."""
MAX_NULL_SHARE = 0.5
"""A bar of importance is drawn if chance alone reaches at most this share (95 % quantile)."""
MAX_ROWS = 20
"""Configurations in a figure with one row per configuration."""
FIGURE_NAMES = {*WITH_LAST_EPOCHS, *WHOLE_ONLY, *FRONTIERS, *CLASS_FIGURES}
FIGURE_NAMES |= {f"{metric}-last-{LAST_EPOCHS}" for metric in WITH_LAST_EPOCHS}
FIGURE_NAMES |= {"repeats", "differences", "heat-map", "importance", "fidelity", "labels"}
"""Names of all figures that a report can have."""


def all_figures(
    results: Results, criterion: Criterion, arms: Mapping[str, BothArms] | None = None
) -> Iterator[CaptionedFigure]:
    """Yield every figure for which the study has data, one at a time.

    Args:
        results: the study.
        criterion: the evaluation criterion.
        arms: see `build.html`.
    """
    if not len(comparison.completed(results.trials)):
        return
    with canvas.figure_style():
        yield from filter(None, _draw(results, criterion))
        arms = examples.read_arms(results, criterion) if arms is None else arms
        yield from class_plots(results, arms)


def _draw(results: Results, criterion: Criterion) -> Iterator[CaptionedFigure | None]:
    shown, task = shown_configs(results, criterion), results.task
    whole, end = (curve_data(results, shown, last) for last in (None, LAST_EPOCHS))
    of_distillation = dict.fromkeys((*WITH_LAST_EPOCHS, task.score))
    for metric in of_distillation if task.is_distillation else task.recorded:
        yield learning_curve(results, metric, whole)
        if end.n_epochs > LAST_EPOCHS:  # else it would be the same figure again
            yield learning_curve(results, metric, end)
    whole_only = [metric for metric in WHOLE_ONLY if metric != task.score]
    for metric in whole_only if task.is_distillation else ():
        yield learning_curve(results, metric, whole)
    yield repeats_plot(results, criterion)
    yield forest_plot(results, criterion)
    yield heat_map(results, criterion)
    yield importance_bars(results, criterion)
    if task.is_distillation:
        yield agreement_plot(results, criterion, shown)
        yield label_curve_plot(results, criterion)
    for name in FRONTIERS:
        yield frontier_plot(results, criterion, name)


def shown_configs(results: Results, criterion: Criterion, most: int = MAX_CONFIGS) -> list[str]:
    """Return the config_ids of the best configurations, best mean first, and of the baselines."""
    trials = results.search_trials
    values = comparison.with_enough_repeats(
        criterion.by_repeat(trials), comparison.students_of(trials)
    )
    order = list(comparison.best_to_worst(values.mean(), criterion.sign))
    table = results.compare(criterion)
    baseline = list(table.baseline.unique()) if len(table) else []
    best = [c for c in order if c not in baseline][: most - len(baseline)]
    return [c for c in order if c in best or c in baseline] or order[:most]


def repeats_plot(results: Results, criterion: Criterion) -> CaptionedFigure:
    """Return the figure of every repeat of every configuration with mean and 95% t interval."""
    shown = shown_configs(results, criterion, MAX_ROWS)
    values = criterion.by_repeat(results.search_trials)
    figure, axes = canvas.new_axes(rows=len(shown))
    scale = criterion.scale
    titles: dict[str, Titles] = {}
    for y, config in enumerate(shown):
        sample = scale * values[config].dropna()
        interval = mean_interval(sample)
        dots: Any = {"color": COLOURS[0], "alpha": 0.45, "ms": 4, "mew": 0, "gid": f"row-{y}"}
        axes.plot(sample, np.full(len(sample), y), "o", **dots)
        name = results.label(config)
        titles[f"row-{y}"] = [f"{name}, repeat {r}: {v:.4g}" for r, v in sample.items()]
        axes.plot([interval.low, interval.high], [y, y], color=INK, lw=1.5)
        axes.plot(interval.mean, y, "D", color=INK, ms=5)
    counts = values[shown].count()
    n = int(counts.iloc[0]) if counts.nunique() == 1 else None  # else the labels say it
    names = [results.label(c) + ("" if n else f" (n = {counts[c]})") for c in shown]
    canvas.label_rows(axes, names)
    axes.set_xlabel(_axis_label(criterion))
    caption = sentence("repeats figure", design=results.design, n=n)
    return CaptionedFigure("repeats", caption, figure, titles)


def forest_plot(results: Results, criterion: Criterion) -> CaptionedFigure | None:
    """Return the figure of the differences from the baseline, best first.

    Returns None if there is no comparison.
    """
    whole = results.compare(criterion)
    table = whole.head(MAX_BRIEF_ROWS)
    if not len(table) or table.n.max() < 2:
        return None
    figure, axes = canvas.new_axes(rows=len(table))
    scale, context = criterion.scale, results.context(criterion)
    titles = {}
    for y, (_, row) in enumerate(table.iterrows()):
        axes.plot([scale * row.low, scale * row.high], [y, y], color=COLOURS[0], lw=2)
        if not np.isnan(row.n_images):
            here = [scale * row.low_here, scale * row.high_here]
            axes.plot(here, [y, y], color=COLOURS[0], lw=6, alpha=0.4, solid_capstyle="butt")
        axes.plot(scale * row["diff"], y, "D", color=INK, ms=5, gid=f"row-{y}")
        difference, ends = difference_text(row, scale), interval_text(row.low, row.high, scale)
        titles[f"row-{y}"] = f"{results.label(row.config_id)}: {difference} {ends}, n = {row.n:.0f}"
    axes.axvline(0, color=INK, lw=1)
    size = int(results.epochs[results.epochs.split == "val"].n_examples.max())
    if criterion.in_points and size:
        step = scale / size
        axes.axvspan(-step, step, color=INK, alpha=0.1, lw=0)
    facts = {"criterion": criterion, "has_band": size > 0, "table": whole, "shown": table}
    caption = context.sentence("differences figure", **facts)
    canvas.label_rows(axes, [results.label(c) for c in table.config_id])
    label = criterion.declared.label
    axes.set_xlabel(f"difference in {label}{' (pp)' * criterion.in_points}")
    return CaptionedFigure("differences", caption, figure, titles)


def heat_map(results: Results, criterion: Criterion) -> CaptionedFigure | None:
    """Return the figure of the mean by alpha and temperature.

    Returns None unless both are searched.
    """
    if not {"alpha", "temperature"} <= set(results.by):
        return None
    trials = comparison.completed(results.search_trials)
    trials = trials[trials["config/temperature"].notna()]
    trials = trials.assign(
        value=criterion.scale * comparison.metric_values(trials, criterion.metric, criterion.scope),
        alpha=levels(trials["config/alpha"]),
        T=levels(trials["config/temperature"]),
    )
    table = trials.pivot_table(index="alpha", columns="T", values="value", observed=True)
    if min(table.shape) < 2:
        return None
    figure, axes = canvas.new_axes(rows=max(4, len(table)))
    axes.grid(False)
    image = axes.imshow(table, cmap="cividis", aspect="auto", origin="lower")
    _number_cells(axes, table.to_numpy(), image, ".2f" if criterion.in_points else ".4g")
    axes.set_xticks(range(table.shape[1]), [cell(v) for v in table.columns])
    axes.set_yticks(range(table.shape[0]), [cell(v) for v in table.index])
    axes.set(xlabel="temperature", ylabel="alpha")
    figure.colorbar(image, ax=axes, label=_axis_label(criterion))
    return CaptionedFigure("heat-map", sentence("heat map"), figure)


def importance_bars(results: Results, criterion: Criterion) -> CaptionedFigure | None:
    """Return the figure of the variance that each hyperparameter explains.

    Hyperparameters of too few configurations are left out, and None is returned if none is left.
    """
    table = results.importance(criterion)
    # with five configurations a hyperparameter without effect reaches nearly 100%: such a bar says
    # nothing about the hyperparameter, but looks as if it did
    table = table[table.null <= MAX_NULL_SHARE].reset_index(drop=True)
    if not len(table):
        return None
    figure, axes = canvas.new_axes(rows=len(table))
    rows = range(len(table))
    axes.barh(rows, table.share, height=0.5, color=COLOURS[0])
    axes.plot(table.null, rows, "|", color=INK, ms=18, mew=2)
    canvas.label_rows(
        axes, [f"{r.hyperparameter} ({r.n} configurations)" for r in table.itertuples()]
    )
    axes.set(xlabel="share of variance explained", xlim=(0, 1.02))
    return CaptionedFigure("importance", sentence("importance figure"), figure)


def agreement_plot(
    results: Results, criterion: Criterion, shown: Sequence[str]
) -> CaptionedFigure | None:
    """Return the figure of accuracy against agreement with the teacher, one marker per trial."""
    finished = comparison.completed(results.search_trials)
    figure, axes = canvas.new_axes()
    titles: dict[str, Titles] = {}
    for i, config in enumerate(shown):
        trials = finished[finished.config_id == config]
        x, y = (
            100 * comparison.metric_values(trials, metric, criterion.scope)
            for metric in ("agreement", "acc")
        )
        label, gid = results.label(config), canvas.config_gid(config, "trials")
        style: Any = {"color": COLOURS[i], "marker": canvas.MARKERS[i], "ls": "", "mew": 0}
        axes.plot(x, y, ms=3.5, alpha=0.35, gid=gid, **style)
        axes.plot(x.mean(), y.mean(), ms=8, label=label, **style)
        drawn = trials[x.notna() & y.notna()]["repeat"]  # matplotlib draws no other markers
        titles[gid] = [f"{label}, repeat {r}: {x[k]:.4g}, {y[k]:.4g}" for k, r in drawn.items()]
    axes.set(xlabel="agreement with the teacher (%)", ylabel="validation accuracy (%)")
    canvas.add_legend_below(figure, axes)
    return CaptionedFigure("fidelity", sentence("fidelity figure"), figure, titles)


def _axis_label(criterion: Criterion) -> str:
    return criterion.label + " (%)" * criterion.in_points


# Figures of studies side by side.


def means_plot(side: SideBySide) -> CaptionedFigure:
    """Return the figure of each study's best configurations: means with intervals by split."""
    rows, scale = side.best, side.criterion.scale
    figure, axes = canvas.new_axes(rows=2 * len(rows))
    for i, split in enumerate(side.splits):
        for y, (_, row) in enumerate(rows.iterrows()):
            height = y + 0.15 * (2 * i - len(side.splits) + 1)
            ends = [scale * row[f"{split}/low"], scale * row[f"{split}/high"]]
            axes.plot(ends, [height, height], color=COLOURS[i], lw=1.5)
            name = split if y == 0 else None
            mean = scale * row[f"{split}/mean"]
            axes.plot(mean, height, "Do"[i], color=COLOURS[i], ms=5, label=name)
    canvas.label_rows(axes, [f"{row.study}, {row.kind}: {row.label}" for _, row in rows.iterrows()])
    metric = side.criterion.declared.label
    axes.set_xlabel(f"{metric}{' (%)' * side.criterion.in_points}")
    if len(side.splits) > 1:
        figure.legend(loc="outside lower center", ncols=2)
    intervals = (sentence("single interval", design=r.design) for r in side.studies.values())
    caption = sentence("best of studies figure", intervals=list(dict.fromkeys(intervals)))
    return CaptionedFigure("best-of-studies", caption, figure)


def differences_plot(side: SideBySide) -> CaptionedFigure | None:
    """Return the figure of the differences from the first study; None if there are none."""
    table, scale = side.comparisons, side.criterion.scale
    table = table[table.p.notna()] if len(table) else table
    if not len(table):
        return None
    figure, axes = canvas.new_axes(rows=len(table))
    for y, (_, row) in enumerate(table.iterrows()):
        colour = COLOURS[side.splits.index(row.split)]
        axes.plot([scale * row.low, scale * row.high], [y, y], color=colour, lw=2)
        axes.plot(scale * row["diff"], y, "D", color=INK, ms=5)
    axes.axvline(0, color=INK, lw=1)
    canvas.label_rows(
        axes, [f"{row.study}, {row.pair}, {row.split}" for _, row in table.iterrows()]
    )
    unit = " (pp)" * side.criterion.in_points
    axes.set_xlabel(f"difference in {side.criterion.declared.label}{unit}")
    is_single = (side.comparisons.split == side.splits[-1]).sum() == 1
    facts = {"reference": side.reference, "is_single": is_single}
    caption = sentence("differences of studies figure", **facts)
    return CaptionedFigure("differences-of-studies", caption, figure)
