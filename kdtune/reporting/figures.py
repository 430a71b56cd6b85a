"""Figures of a study: dataframes in, matplotlib figures out, without global state.

A figure shows at most `MAX_CONFIGS` configurations, the best and the baseline. Each has a colour
(Okabe and Ito's palette, safe for colour-blind readers), a line style and a marker, so that they
can also be distinguished in greyscale.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    MARKERS,
    CaptionedFigure,
    add_legend_below,
    figure_style,
    label_rows,
    new_axes,
)
from kdtune.reporting.class_figures import CLASS_FIGURES, class_plots
from kdtune.reporting.frontier import FRONTIERS, frontier_plot
from kdtune.reporting.hover import Titles, config_gid
from kdtune.reporting.learning_curves import (
    LAST_EPOCHS,
    WHOLE_ONLY,
    WITH_LAST_EPOCHS,
    curve_data,
    learning_curve,
)
from kdtune.results.arms import Arms, read_arms
from kdtune.results.comparison import (
    Criterion,
    by_repeat,
    completed,
    metric_values,
    students_of,
    with_enough_repeats,
)
from kdtune.results.study_results import Results
from kdtune.results.tables import cell, difference_and_interval, levels
from kdtune.statistics.intervals import mean_interval

MAX_CONFIGS = len(COLOURS)
"""Configurations in a figure with lines or markers."""
MAX_NULL_SHARE = 0.5
"""A bar of importance is drawn if chance alone reaches at most this share (95 % quantile)."""
MAX_ROWS = 20
"""Configurations in a figure with one row per configuration."""
FIGURE_NAMES = {
    *WITH_LAST_EPOCHS,
    *(f"{metric}-last-{LAST_EPOCHS}" for metric in WITH_LAST_EPOCHS),
    *WHOLE_ONLY,
    *("repeats", "differences", "heat-map", "importance", "fidelity", *FRONTIERS, *CLASS_FIGURES),
}
"""Names of all figures that a report can have."""


def all_figures(
    results: Results, criterion: Criterion, arms: Mapping[str, Arms] | None = None
) -> Iterator[CaptionedFigure]:
    """Yield every figure for which the study has data, one at a time.

    Args:
        results: the study.
        criterion: the evaluation criterion.
        arms: see `build.html`.
    """
    if not len(completed(results.trials)):
        return
    with figure_style():
        yield from filter(None, _draw(results, criterion))
        yield from class_plots(results, read_arms(results, criterion) if arms is None else arms)


def _draw(results: Results, criterion: Criterion) -> Iterator[CaptionedFigure | None]:
    shown, task = shown_configs(results, criterion), results.task
    whole, end = (curve_data(results, shown, last) for last in (None, LAST_EPOCHS))
    for metric in WITH_LAST_EPOCHS if task.is_distillation else task.recorded:
        yield learning_curve(results, metric, whole)
        if end.n_epochs > LAST_EPOCHS or task.is_distillation:
            yield learning_curve(results, metric, end)
    for metric in WHOLE_ONLY if task.is_distillation else ():
        yield learning_curve(results, metric, whole)
    yield repeats_plot(results, criterion)
    yield forest_plot(results, criterion)
    yield heat_map(results, criterion)
    yield importance_bars(results, criterion)
    if task.is_distillation:
        yield agreement_plot(results, criterion, shown)
    for name in FRONTIERS:
        yield frontier_plot(results, criterion, name)


def shown_configs(results: Results, criterion: Criterion, most: int = MAX_CONFIGS) -> list[str]:
    """Return the config_ids of the best configurations, best mean first, and of the baselines."""
    trials = results.search_trials
    values = with_enough_repeats(
        by_repeat(trials, criterion.metric, criterion.scope), students_of(trials)
    )
    order = list((-criterion.sign * values.mean()).sort_values(kind="stable").index)
    table = results.compare(criterion)
    baseline = list(table.baseline.unique()) if len(table) else []
    best = [c for c in order if c not in baseline][: most - len(baseline)]
    return [c for c in order if c in best or c in baseline] or order[:most]


def repeats_plot(results: Results, criterion: Criterion) -> CaptionedFigure:
    """Return the figure of every repeat of every configuration with mean and 95% t interval."""
    shown = shown_configs(results, criterion, MAX_ROWS)
    values = by_repeat(results.search_trials, criterion.metric, criterion.scope)
    figure, axes = new_axes(rows=len(shown))
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
    label_rows(axes, [f"{results.label(c)} (n = {values[c].count()})" for c in shown])
    axes.set_xlabel(_axis_label(criterion))
    caption = (
        f"Dots are repeats, the diamond is their mean and the line its 95% t interval "
        f"{results.design.single_interval}."
    )
    return CaptionedFigure("repeats", caption, figure, titles)


def forest_plot(results: Results, criterion: Criterion) -> CaptionedFigure | None:
    """Return the figure of the differences from the baseline, best first.

    Returns None if there is no comparison.
    """
    table = results.compare(criterion).head(MAX_ROWS)
    if not len(table) or table.n.max() < 2:
        return None
    figure, axes = new_axes(rows=len(table))
    scale, context = criterion.scale, results.context(criterion)
    titles = {}
    for y, (_, row) in enumerate(table.iterrows()):
        axes.plot([scale * row.low, scale * row.high], [y, y], color=COLOURS[0], lw=2)
        if not np.isnan(row.n_images):
            here = [scale * row.low_here, scale * row.high_here]
            axes.plot(here, [y, y], color=COLOURS[0], lw=6, alpha=0.4, solid_capstyle="butt")
        axes.plot(scale * row["diff"], y, "D", color=INK, ms=5, gid=f"row-{y}")
        difference, ends = difference_and_interval(row, scale)
        titles[f"row-{y}"] = f"{results.label(row.config_id)}: {difference} {ends}, n = {row.n:.0f}"
    axes.axvline(0, color=INK, lw=1)
    unit = " in percentage points (pp)" if criterion.in_points else ""
    caption = (
        f"Difference in {criterion.label}{unit} from {context.baseline}{context.repeats_phrase}, "
        f"paired by {context.paired_by}: {context.interval_legend}."
    )
    if criterion.in_points and (size := _val_size(results)):
        step = scale / size
        axes.axvspan(-step, step, color=INK, alpha=0.1, lw=0)
        caption += f" The grey band is one {results.task.examples[:-1]}."
    label_rows(axes, [results.label(c) for c in table.config_id])
    label = criterion.declared.label
    axes.set_xlabel(f"difference in {label}{' (pp)' * criterion.in_points}")
    return CaptionedFigure("differences", caption, figure, titles)


def heat_map(results: Results, criterion: Criterion) -> CaptionedFigure | None:
    """Return the figure of the mean by alpha and temperature.

    Returns None unless both are searched.
    """
    if not {"alpha", "temperature"} <= set(results.by):
        return None
    done = completed(results.search_trials)
    done = done[done["config/temperature"].notna()]
    done = done.assign(
        value=criterion.scale * metric_values(done, criterion.metric, criterion.scope)
    )
    done = done.assign(alpha=levels(done["config/alpha"]), T=levels(done["config/temperature"]))
    table = done.pivot_table(index="alpha", columns="T", values="value", observed=True)
    if min(table.shape) < 2:
        return None
    figure, axes = new_axes(rows=max(4, len(table)))
    axes.grid(False)
    image = axes.imshow(table, cmap="cividis", aspect="auto", origin="lower")
    middle = (np.nanmin(table) + np.nanmax(table)) / 2
    form = ".2f" if criterion.in_points else ".4g"
    for (y, x), value in np.ndenumerate(table.to_numpy()):
        text = "" if np.isnan(value) else format(value, form)
        colour = "#fefefe" if value < middle else "#000000"
        axes.text(x, y, text, ha="center", va="center", color=colour)
    axes.set_xticks(range(table.shape[1]), [cell(v) for v in table.columns])
    axes.set_yticks(range(table.shape[0]), [cell(v) for v in table.index])
    axes.set(xlabel="temperature", ylabel="alpha")
    figure.colorbar(image, ax=axes, label=_axis_label(criterion))
    caption = "Mean over repeats and over all other searched hyperparameters."
    return CaptionedFigure("heat-map", caption, figure)


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
    figure, axes = new_axes(rows=len(table))
    rows = range(len(table))
    axes.barh(rows, table.share, height=0.5, color=COLOURS[0])
    axes.plot(table.null, rows, "|", color=INK, ms=18, mew=2)
    label_rows(axes, [f"{r.hyperparameter} ({r.n} configurations)" for r in table.itertuples()])
    axes.set(xlabel="share of variance explained", xlim=(0, 1.02))
    caption = (
        "Share of the variance between configurations that each hyperparameter explains alone (eta "
        "squared). The mark is the 95th percentile for a hyperparameter without effect."
    )
    return CaptionedFigure("importance", caption, figure)


def agreement_plot(
    results: Results, criterion: Criterion, shown: Sequence[str]
) -> CaptionedFigure | None:
    """Return the figure of accuracy against agreement with the teacher, one marker per trial."""
    done = completed(results.search_trials)
    figure, axes = new_axes()
    titles: dict[str, Titles] = {}
    for i, config in enumerate(shown):
        trials = done[done.config_id == config]
        x, y = (
            100 * metric_values(trials, metric, criterion.scope) for metric in ("agreement", "acc")
        )
        label, gid = results.label(config), config_gid(config, "trials")
        style: Any = {"color": COLOURS[i], "ms": 4.5, "alpha": 0.8, "mew": 0, "gid": gid}
        axes.plot(x, y, MARKERS[i], label=label, **style)
        drawn = trials[x.notna() & y.notna()]["repeat"]  # matplotlib draws no other markers
        titles[gid] = [f"{label}, repeat {r}: {x[k]:.4g}, {y[k]:.4g}" for k, r in drawn.items()]
    axes.set(xlabel="agreement with the teacher (%)", ylabel="validation accuracy (%)")
    add_legend_below(figure, axes)
    caption = (
        "One marker per trial. A student with higher agreement with its teacher is not always the "
        "more accurate one (Stanton et al., 2021)."
    )
    return CaptionedFigure("fidelity", caption, figure, titles)


def _axis_label(criterion: Criterion) -> str:
    unit = " (%)" if criterion.in_points else ""
    return f"{criterion.label}{unit}"


def _val_size(results: Results) -> int:
    """Return the number of val images."""
    val = results.epochs[results.epochs.split == "val"]
    return int(val.n_examples.max())
