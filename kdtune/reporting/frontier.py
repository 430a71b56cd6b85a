"""Accuracy against cost: the figures of the frontier, and the tables beside them."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from kdtune.reporting.canvas import (
    COLOURS,
    INK,
    MARKERS,
    CaptionedFigure,
    add_legend_below,
    new_axes,
)
from kdtune.reporting.page import Cell, NotedTable, Table, interval_cell
from kdtune.results.comparison import Criterion, completed
from kdtune.results.costs import COST_AXES, cost_note, cost_rows, teacher_files, with_prefix
from kdtune.results.study_results import Results

FRONTIERS = {f"frontier-{cost}": cost for cost in COST_AXES}
"""Names of the figures, and the cost of each."""
MIN_RATIO_OF_LOG_AXIS = 5
"""A cost is drawn on a logarithmic axis if its values differ by more than this factor."""
GREY = "#7f7f7f"
DODGE = {"distilled": -2.5, "plain": 2.5}
"""Shift of markers in points: both arms of a student have the same cost."""


def cost_table(results: Results) -> NotedTable | None:
    """Return the cost of every student and teacher; None if it was not measured."""
    if not len(results.costs):
        return None
    return NotedTable(
        cost_note(results.costs), Table(*cost_rows(results.costs, teacher_files(results.study)))
    )


def frontier_table(results: Results, criterion: Criterion) -> NotedTable | None:
    """Return the numbers of the figures; None if there are none."""
    table = results.frontier(criterion)
    if not len(table):
        return None
    percent = " (%)" * criterion.in_points
    head = ["student", "training", "configuration", f"{criterion.label}{percent}", "n"]
    head += [*COST_AXES.values(), "on the frontier of"]
    rows = [_row(row, criterion) for _, row in table.iterrows()]
    note = (
        f"The best configuration of each student, distilled and plain (without distillation), with "
        f"the 95% t interval {results.design.single_interval}. The best was selected by the same "
        f"{criterion.label}, which is optimistic. A configuration is on the frontier of a cost if "
        f"none is cheaper and at least as good, or as cheap and better; that compares means, and "
        f"neighbours whose intervals overlap may change places."
    )
    return NotedTable(note, Table(head, rows))


def _row(row: pd.Series, criterion: Criterion) -> list[str | Cell]:
    form = ".1f" if criterion.in_points else ".4g"
    mean, low, high = (f"{criterion.scale * row[k]:{form}}" for k in ("mean", "low", "high"))
    estimate = mean if pd.isna(row.low) else interval_cell(mean, low, high)
    on = [name.partition(" ")[0] for k, name in COST_AXES.items() if row[f"efficient/{k}"]]
    return [
        *(row.student, row.arm, row.label, estimate, f"{row.n}"),
        *(f"{row.latency_ms:.3g}", f"{row.params:,.0f}", ", ".join(on) or "-"),
    ]


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
    figure, axes = new_axes()
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
    _draw_frontier(axes, table, criterion, cost, values.max())
    _label_axes(axes, criterion, cost, values, is_log)
    add_legend_below(figure, axes)
    titles = {gid_of(row): _title(row, criterion, cost) for _, row in table.iterrows()}
    caption = _caption(criterion, cost, len(teachers), results.design.single_interval)
    return CaptionedFigure(name, caption, figure, titles)


def teacher_points(results: Results, criterion: Criterion, cost: str) -> pd.DataFrame:
    """Return teacher, mean (of its val accuracy in percent) and cost of each teacher.

    Of a teacher that was fine-tuned for several numbers of epochs, the most accurate one. Only the
    accuracy of a teacher is recorded, so the frame is empty for other metrics.
    """
    own = results.costs[results.costs.role == "teacher"].set_index("model")[cost]
    run, done = results.study.run, completed(results.search_trials)
    # training without distillation is measured against the teacher that the study began with
    teacher = done["config/teacher"].fillna(run.teacher)
    epochs = done["config/teacher_epochs"].fillna(run.teacher_epochs or 0)
    means = 100 * done["val/teacher_acc@last"].groupby([teacher, epochs]).mean().dropna()
    best = means.groupby(level=0).max()
    best = best[best.index.isin(own.index)] if criterion.metric == "acc" else best[:0]
    return pd.DataFrame({"teacher": best.index, "mean": best.array, cost: own[best.index].array})


def _draw_frontier(
    axes: Axes, table: pd.DataFrame, criterion: Criterion, cost: str, highest: float
) -> None:
    """Draw the best mean that is reached up to each cost as steps, to the highest cost shown."""
    on = table[table[f"efficient/{cost}"]].sort_values(cost)
    x, y = [*on[cost], highest], [*(criterion.scale * on["mean"])]
    style: Any = {"color": GREY, "lw": 1.2, "zorder": 1}
    axes.plot(x, [*y, y[-1]], drawstyle="steps-post", label="frontier of the students", **style)


def _draw_point(
    axes: Axes, row: pd.Series, criterion: Criterion, cost: str, number: int, label: str | None
) -> None:
    """Draw the mean of one configuration and its interval."""
    colour, marker = style_of(number)
    shift = ScaledTranslation(DODGE[row.arm] / 72, 0, axes.figure.dpi_scale_trans)
    place: Any = {"transform": axes.transData + shift, "color": colour}
    x, y = row[cost], criterion.scale * row["mean"]
    ends = [y, y] if pd.isna(row.low) else [criterion.scale * row.low, criterion.scale * row.high]
    axes.update_datalim([(x, end) for end in ends])  # shifted lines do not count by themselves
    axes.plot([x, x], ends, lw=1.2, **place)
    face = colour if row.arm == "distilled" else "#ffffff"
    axes.plot(x, y, marker, ms=6, mfc=face, mew=1.2, label=label, gid=gid_of(row), **place)


def gid_of(row: pd.Series) -> str:
    """Return the name of the marker of a configuration, see `hover`."""
    return f"point-{row.config_id}"


def _title(row: pd.Series, criterion: Criterion, cost: str) -> str:
    mean = f"{criterion.scale * row['mean']:.4g}"
    return f"{row.student}, {row.arm}, {row.label}: {mean}, {COST_AXES[cost]} {row[cost]:,.4g}"


def style_of(number: int) -> tuple[str, str]:
    """Return colour and marker of a student; the first 49 differ."""
    return COLOURS[number % len(COLOURS)], MARKERS[(number + number // 7) % len(MARKERS)]


def _label_axes(
    axes: Axes, criterion: Criterion, cost: str, values: pd.Series, is_log: bool
) -> None:
    percent = " (%)" * criterion.in_points
    axes.set(xlabel=COST_AXES[cost], ylabel=f"{criterion.label}{percent}")
    shown = FuncFormatter(lambda value, _: with_prefix(value) if cost == "params" else f"{value:g}")
    axes.xaxis.set_major_formatter(shown)
    if is_log:
        decades = values.max() / values.min()
        subs = (1.0, 2.0, 5.0) if decades < 100 else (1.0,)
        axes.xaxis.set_major_locator(LogLocator(subs=subs))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.12, y=0.1)


def _caption(criterion: Criterion, cost: str, teachers: int, interval: str) -> str:
    stars = "The star is the teacher." if teachers == 1 else "The stars are the teachers."
    return (
        f"Best configuration of each student, distilled (filled) and without distillation "
        f"(hollow): mean {criterion.label} with the 95% t interval {interval}, against "
        f"{COST_AXES[cost]}. The grey steps are the frontier of the students: no configuration is "
        f"cheaper and at least as good, or as cheap and better.{f' {stars}' * (teachers > 0)}"
    )
