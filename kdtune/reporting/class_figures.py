"""Figures of confusion and calibration of the best distilled configuration and its baseline."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kdtune.config.metrics import ECE_BINS
from kdtune.reporting.canvas import COLOURS, INK, LINE_STYLES, CaptionedFigure, new_axes
from kdtune.reporting.hover import Titles
from kdtune.results.arms import ARMS, Arms, Numbers
from kdtune.results.classes import calibration, calibration_errors, confusion
from kdtune.results.study_results import Results

CLASS_FIGURES = ("confusion", "confusion-change", "calibration")
MAX_CLASSES = 20
"""Classes of a confusion matrix; of more, the largest confusions are a table."""
MAX_NUMBERED = 12
"""Classes of a confusion matrix with a number in each cell."""
MAX_NAME = 14
"""Characters of the name of a class beside a matrix."""


def judged_split(arms: Mapping[str, Arms]) -> Arms | None:
    """Return the predictions that confusion and calibration are of: on test, else on val."""
    return arms.get("test", arms.get("val"))


def class_plots(results: Results, arms: Mapping[str, Arms]) -> Iterator[CaptionedFigure]:
    """Yield the figures, see `CLASS_FIGURES`."""
    if (own := judged_split(arms)) is None:
        return
    labels = [results.label(config) for config in own.configs]
    if len(own.classes) <= MAX_CLASSES:
        yield from _confusion_plots(own, labels)
    yield _calibration_plot(own, labels)


def _confusion_plots(arms: Arms, labels: list[str]) -> Iterator[CaptionedFigure]:
    """Yield the matrix of the distilled students, and its difference from the baseline."""
    shares = 100 * confusion(arms)
    n = len(arms.repeats)
    caption = (
        f"Share of the {arms.split} images of each class (row) that the students predict as each "
        f"class (column), in percent: mean over {n} repeats of {labels[0]}."
    )
    yield _matrix("confusion", caption, arms, shares[0], {"cmap": "cividis", "vmin": 0})
    change = shares[0] - shares[1]
    most = float(np.nanmax(np.abs(change))) or 1.0
    caption = (
        f"Difference of that share from {labels[1]}, in percentage points. On the diagonal a "
        f"positive number is better, elsewhere a negative one."
    )
    style = {"cmap": "PuOr_r", "vmin": -most, "vmax": most}
    yield _matrix("confusion-change", caption, arms, change, style)


def _matrix(
    name: str, caption: str, arms: Arms, values: Numbers, style: dict[str, Any]
) -> CaptionedFigure:
    count = len(arms.classes)
    figure, axes = new_axes()
    figure.set_size_inches(4.6, min(4.2, 2.2 + 0.2 * count))
    axes.grid(False)
    image = axes.imshow(values, aspect="auto", **style)
    if count <= MAX_NUMBERED:
        _number_cells(axes, values, image, signed="vmax" in style)
    names = [one if len(one) <= MAX_NAME else f"{one[: MAX_NAME - 1]}…" for one in arms.classes]
    axes.set_xticks(range(count), names, rotation=90 if count > 2 else 0)
    axes.set_yticks(range(count), names)
    axes.set(xlabel="prediction", ylabel="label")
    figure.colorbar(image, ax=axes, label="points" if "vmax" in style else "%")
    return CaptionedFigure(name, caption, figure)


def _number_cells(axes: Axes, values: Numbers, image: Any, signed: bool) -> None:
    for (y, x), value in np.ndenumerate(values):
        if np.isnan(value) or round(value) == 0:
            continue
        # dark text on light cells, by the luminance that readers see
        red, green, blue, _ = image.cmap(image.norm(value))
        colour = "#000000" if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "#fefefe"
        form = "+.0f" if signed else ".0f"
        axes.text(
            x,
            y,
            format(value, form),
            ha="center",
            va="center",
            color=colour,
            fontsize=7 if len(values) > 5 else 9,
        )


def _calibration_plot(arms: Arms, labels: list[str]) -> CaptionedFigure:
    """Return the reliability diagram of both arms."""
    table, errors = calibration(arms), 100 * calibration_errors(arms).mean(1)
    figure, axes = new_axes()
    axes.plot([0, 100], [0, 100], color=INK, lw=0.8, ls=(0, (2, 4)))
    titles: dict[str, Titles] = {}
    most = table.n.max()
    for i, arm in enumerate(ARMS):
        rows = table[table.arm == arm]
        label = f"{labels[i]} (ECE {errors[i]:.1f}%)"
        line: Any = {"color": COLOURS[i], "ls": LINE_STYLES[i], "lw": 1.4, "label": label}
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
    caption = (
        f"Calibration on {arms.split}: accuracy of the predictions by their confidence, in "
        f"{ECE_BINS} bins that pool all repeats; larger markers hold more predictions. On the "
        f"dotted line confidence and accuracy agree; below it students are overconfident. ECE: "
        f"expected calibration error, mean over repeats (Guo et al., 2017)."
    )
    return CaptionedFigure("calibration", caption, figure, titles)
