"""Figures of a study: dataframes in, matplotlib figures out. No global state, no clock.

Every figure shows at most a handful of configurations, the best and the baseline, by colour (Okabe
and Ito's, safe for the colour-blind), by line style and by marker, so that it can be read in grey.
What a band is and how many repeats it is of stands in the figure; both come from one frame.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    LINES,
    MARKERS,
    Picture,
    drawing,
    legend_below,
    name_rows,
    new_axes,
)
from kdtune.results.comparison import (
    Criterion,
    by_repeat,
    completed,
    metric_values,
    with_enough_repeats,
)
from kdtune.results.study_results import Results
from kdtune.results.tables import cell, levels
from kdtune.statistics.intervals import mean_interval

MOST = len(COLOURS)
"""Configurations in one figure."""
MOST_ROWS = 20
"""Configurations in one list."""
MOST_POINTS = 3000
"""Points of all lines of one figure; of more, epochs are left out at even distances."""
ZOOM = 15
"""Epochs of the figures of the end."""
NAMES = {
    "acc": "accuracy",
    "ce": "cross-entropy",
    "distill": "distillation term",
    "logit_diff": "logit difference",
    "agreement": "agreement with the teacher",
    "gap": "teacher's accuracy − student's",
}
ZOOMED, UNZOOMED = ("acc", "loss", "logit_diff"), ("ce", "distill")
"""Metrics whose curves are drawn, with their end apart or without."""
FIGURES = {
    *(*ZOOMED, *(f"{metric}-last-{ZOOM}" for metric in ZOOMED), *UNZOOMED),
    *("repeats", "differences", "heat-map", "importance", "fidelity"),
}
"""Names of all pictures that there may be."""


def pictures(results: Results, criterion: Criterion) -> Iterator[Picture]:
    """All figures that a study has the numbers for, one at a time."""
    with drawing():
        if not len(completed(results.trials)):
            return
        shown = shown_configs(results, criterion)
        for picture in (
            *(curves(results, m, shown, last) for m in ZOOMED for last in (None, ZOOM)),
            *(curves(results, m, shown) for m in UNZOOMED),
            dots(results, criterion),
            forest(results, criterion),
            heat_map(results, criterion),
            importance_bars(results, criterion),
            fidelity(results, criterion, shown),
        ):
            if picture is not None:
                yield picture


def shown_configs(results: Results, criterion: Criterion, most: int = MOST) -> list[str]:
    """The config_ids of the best, in the order of their means, and of the baseline."""
    values = with_enough_repeats(
        by_repeat(results.search_trials, criterion.metric, criterion.scope)
    )
    order = list((-criterion.sign * values.mean()).sort_values(kind="stable").index)
    table = results.compare(criterion)
    baseline = [str(table.baseline[0])] if len(table) else []
    best = [c for c in order if c not in baseline][: most - len(baseline)]
    return [c for c in order if c in best or c in baseline] or order[:most]


def curve_frame(epochs: pd.DataFrame, by: str, metric: str) -> pd.DataFrame:
    """Mean, std (ddof = 1) and n over the repeats of each group and epoch.

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


def curves(
    results: Results, metric: str, shown: Sequence[str], last: int | None = None
) -> Picture | None:
    """A metric of val over the epochs; of the last ones alone, if `last` says how many.

    None where no configuration has it: plain training has no distillation term.
    """
    val, end = curve_epochs(results, shown, last)
    val = val[((end - 1 - val.epoch) % stride(val) == 0)]
    frame = curve_frame(val, "config_id", metric)
    if not len(frame):
        return None
    figure, axes = new_axes()
    for i, config in enumerate(shown):
        line = frame[frame.config_id == config]
        if not len(line):
            continue
        for _, run in val[val.config_id == config].groupby("repeat"):
            axes.plot(run.epoch + 1, run[metric], color=COLOURS[i], lw=0.4, alpha=0.35)
        x = line.epoch + 1
        low, high = line["mean"] - line["std"], line["mean"] + line["std"]
        axes.fill_between(x, low, high, color=COLOURS[i], alpha=0.15, lw=0)
        n = "–".join(f"{k:.0f}" for k in sorted({line.n.min(), line.n.max()}))
        label = f"{results.label(config)} (n = {n})"
        axes.plot(x, line["mean"], color=COLOURS[i], ls=LINES[i], lw=1.6, label=label)
    if metric == "acc" and len(val):
        axes.axhline(val.teacher_acc.mean(), color=INK, lw=1, ls=(0, (2, 4)), label="teacher")
    axes.set(xlabel="epoch", ylabel=f"val {NAMES.get(metric, metric)}")
    legend_below(figure, axes)
    where = f", the last {min(end, last)} epochs" if last else ""
    caption = f"{NAMES.get(metric, metric).capitalize()} on val{where}: mean ± sd over repeats."
    if metric == "loss":
        caption += " The loss is not comparable across alpha: it weighs two context by it."
    return Picture(f"{metric}-last-{last}" if last else metric, caption, figure)


def curve_epochs(
    results: Results, shown: Sequence[str], last: int | None = None
) -> tuple[pd.DataFrame, int]:
    """What curves are of: val's epochs of the completed runs of the search, and how many there are.

    Of the last ones alone, if `last` says how many.
    """
    val = results.epochs[results.epochs.split == "val"]
    val = val[val.trial_id.isin(completed(results.search_trials).trial_id)]
    end = 0 if val.empty else int(val.epoch.max()) + 1
    start = 0 if last is None else max(0, end - last)
    return val[(val.epoch >= start) & val.config_id.isin(shown)], end


def stride(val: pd.DataFrame) -> int:
    """Each so many epochs is drawn, counted back from the last."""
    return max(1, -(-len(val) // MOST_POINTS))


def dots(results: Results, criterion: Criterion) -> Picture:
    """Every repeat of every configuration, its mean and interval."""
    shown = shown_configs(results, criterion, MOST_ROWS)
    values = by_repeat(results.search_trials, criterion.metric, criterion.scope)
    figure, axes = new_axes(rows=len(shown))
    scale = criterion.scale
    for y, config in enumerate(shown):
        sample = scale * values[config].dropna()
        interval = mean_interval(sample)
        axes.plot(sample, np.full(len(sample), y), "o", color=COLOURS[0], alpha=0.45, ms=4, mew=0)
        axes.plot([interval.low, interval.high], [y, y], color=INK, lw=1.5)
        axes.plot(interval.mean, y, "D", color=INK, ms=5)
    name_rows(axes, [f"{results.label(c)} (n = {values[c].count()})" for c in shown])
    axes.set_xlabel(_label(criterion))
    return Picture(
        "repeats",
        "Each dot is a repeat; the diamond is the mean, the line its 95 % t interval.",
        figure,
    )


def forest(results: Results, criterion: Criterion) -> Picture | None:
    """Differences to the baseline, best first; None where there is no comparison."""
    table = results.compare(criterion).head(MOST_ROWS)
    if not len(table) or table.n.max() < 2:
        return None
    figure, axes = new_axes(rows=len(table))
    scale, context = criterion.scale, results.context(criterion)
    for y, (_, row) in enumerate(table.iterrows()):
        axes.plot([scale * row.low_all, scale * row.high_all], [y, y], color=COLOURS[0], lw=1)
        axes.plot([scale * row.low, scale * row.high], [y, y], color=COLOURS[0], lw=3.5)
        axes.plot(scale * row["diff"], y, "D", color=INK, ms=5)
    axes.axvline(0, color=INK, lw=1)
    caption = f"Difference to {context.baseline}{context.repeats_phrase}, paired by repeat: {context.interval_legend}."
    if criterion.in_points:
        step = scale / _examples(results)
        axes.axvspan(-step, step, color=INK, alpha=0.1, lw=0)
        caption += " The grey band is one image."
    name_rows(axes, [results.label(c) for c in table.config_id])
    unit = " (points)" if criterion.in_points else ""
    axes.set_xlabel(f"difference in val {NAMES.get(criterion.metric, criterion.metric)}{unit}")
    return Picture("differences", caption, figure)


def heat_map(results: Results, criterion: Criterion) -> Picture | None:
    """Mean over alpha and temperature; None where not both are searched."""
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
    for (y, x), value in np.ndenumerate(table.to_numpy()):
        colour = "#fefefe" if value < middle else "#000000"
        axes.text(
            x,
            y,
            "" if np.isnan(value) else (f"{value:.2f}" if criterion.in_points else f"{value:.4g}"),
            ha="center",
            va="center",
            color=colour,
        )
    axes.set_xticks(range(table.shape[1]), [cell(v) for v in table.columns])
    axes.set_yticks(range(table.shape[0]), [cell(v) for v in table.index])
    axes.set(xlabel="temperature", ylabel="alpha")
    figure.colorbar(image, ax=axes, label=_label(criterion))
    return Picture("heat-map", "Mean over repeats and over all else that is searched.", figure)


def importance_bars(results: Results, criterion: Criterion) -> Picture | None:
    """What each hyperparameter explains; None where too few configurations tell."""
    table = results.importance(criterion)
    if not len(table):
        return None
    figure, axes = new_axes(rows=len(table))
    rows = range(len(table))
    axes.barh(rows, table.share, height=0.5, color=COLOURS[0])
    axes.plot(table.null, rows, "|", color=INK, ms=18, mew=2)
    name_rows(axes, [f"{r.hyperparameter} ({r.n} configurations)" for r in table.itertuples()])
    axes.set(xlabel="share of the spread", xlim=(0, 1.02))
    caption = (
        "What each explains by itself of the spread between configurations (eta squared). Of those "
        "without any effect 95 % would stay left of the mark."
    )
    return Picture("importance", caption, figure)


def fidelity(results: Results, criterion: Criterion, shown: Sequence[str]) -> Picture | None:
    """Agreement with the teacher against accuracy, a mark a run."""
    done = completed(results.search_trials)
    figure, axes = new_axes()
    for i, config in enumerate(shown):
        runs = done[done.config_id == config]
        x, y = (
            100 * metric_values(runs, metric, criterion.scope) for metric in ("agreement", "acc")
        )
        axes.plot(
            x,
            y,
            MARKERS[i],
            color=COLOURS[i],
            ms=4.5,
            alpha=0.8,
            mew=0,
            label=results.label(config),
        )
    axes.set(xlabel="agreement with the teacher (%)", ylabel="val accuracy (%)")
    legend_below(figure, axes)
    caption = (
        "A mark is a run. A student that follows its teacher more closely need not be the better "
        "one (Stanton et al., 2021)."
    )
    return Picture("fidelity", caption, figure)


def _label(criterion: Criterion) -> str:
    unit = " (%)" if criterion.in_points else ""
    return f"val {NAMES.get(criterion.metric, criterion.metric)}{unit}"


def _examples(results: Results) -> int:
    val = results.epochs[results.epochs.split == "val"]
    return int(val.n_examples.max())
