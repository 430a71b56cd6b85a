"""Style, axes and export of figures (matplotlib)."""

import base64
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from PIL import Image

from kdtune.reporting.hover import Titles, with_titles

INK = "#1a1b1c"
"""Colour of text and axes; on the page it becomes the page's text colour."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kdtune",
    "text.parse_math": False,  # a name from a record may contain two dollar signs
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "legend.fontsize": 8,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "grid.color"), INK),
    **dict.fromkeys(("xtick.color", "ytick.color", "legend.labelcolor"), INK),
}
PNG_DPI = 200
NOTEBOOK_DPI, CSS_DPI = 165, 110
"""Dots, and pixels of a browser, per inch of a figure in a notebook."""
MAX_ROW_LINE, MAX_LEGEND_LINE = 36, 60
"""Characters of a line of the label of a row, and of a name in a legend."""


def figure_style() -> AbstractContextManager[None]:
    """Return a context with `STYLE` over matplotlib's defaults, without the user's settings."""
    manager: AbstractContextManager[None] = style.context(STYLE, after_reset=True)
    return manager


class StudyFigure(Figure):
    """A matplotlib figure that a notebook shows with its caption.

    pyplot does not know it, so that a notebook shows it once, and nothing has to close it.
    """

    caption: str = ""

    def _repr_html_(self) -> str:
        drawn, small = io.BytesIO(), io.BytesIO()
        with figure_style():
            self.savefig(drawn, format="png", dpi=NOTEBOOK_DPI)
        # a palette makes a third of the size: notebooks are saved with their figures
        Image.open(drawn).convert("RGB").quantize().save(small, format="png", optimize=True)
        source = base64.b64encode(small.getvalue()).decode()
        width, caption = round(CSS_DPI * self.get_figwidth()), escape(self.caption)
        image = f'<img src="data:image/png;base64,{source}" width="{width}" alt="{caption}">'
        return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class CaptionedFigure:
    """A matplotlib figure with its caption."""

    name: str
    """Name of its files, without extension."""
    caption: str
    figure: StudyFigure
    titles: Mapping[str, Titles] = field(default_factory=dict)
    """Titles of elements by their gid, shown when the pointer is on them (see `hover`)."""

    def svg(self) -> str:
        """Return the figure as SVG text, the same bytes each time.

        Coordinates are rounded to 0.1 point.
        """
        return self._svg

    @cached_property
    def _svg(self) -> str:
        buffer = io.StringIO()
        with figure_style():
            self._prepare()
            FigureCanvasSVG(self.figure).print_svg(buffer, metadata={"Date": None, "Creator": None})
        # round only the paths: numbers elsewhere may be text
        svg = re.sub(r' d="[^"]*"', lambda path: _rounded(path[0]), buffer.getvalue())
        return with_titles(svg, self.titles)

    def png(self) -> bytes:
        """Return the figure as PNG with `PNG_DPI` dots per inch."""
        buffer = io.BytesIO()
        with figure_style():
            self._prepare()
            canvas = FigureCanvasAgg(self.figure)
            canvas.draw()
        image = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
        # half the time of zlib's default strategy, and smaller files for RGB than for RGBA
        image.save(buffer, format="png", dpi=(PNG_DPI, PNG_DPI), compress_type=zlib.Z_RLE)
        return buffer.getvalue()

    def _prepare(self) -> None:
        # the layout is solved once, not for each format: it takes as long as drawing. For the same
        # reason the canvases print directly: `savefig` draws a figure with a layout engine twice
        self.figure.set_dpi(PNG_DPI)  # print_svg leaves 72
        engine = self.figure.get_layout_engine()
        if engine is not None:
            engine.execute(self.figure)
            self.figure.set_layout_engine("none")


def _rounded(path: str) -> str:
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.1f}", path)


def new_axes(rows: int | None = None) -> tuple[StudyFigure, Axes]:
    """Return a figure with one set of axes.

    Args:
        rows: number of labelled rows, which sets the height; None for a plot of fixed size.
    """
    size = (4.3, 3.2) if rows is None else (5.0, 0.9 + 0.27 * rows)
    figure = StudyFigure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def add_legend_below(figure: Figure, axes: Axes) -> None:
    """Put the legend below the axes and make the figure higher by the rows of the legend.

    The legend has two columns, or one if a name is long.
    """
    handles, labels = axes.get_legend_handles_labels()
    names = [wrapped(name, MAX_LEGEND_LINE) for name in labels]
    columns = 2 if max(map(len, names), default=0) < 30 else 1
    lines = sum(name.count("\n") for name in names) - (-len(names) // columns)
    figure.set_figheight(2.6 + 0.17 * lines)
    figure.legend(handles, names, loc="outside lower center", ncols=columns)


def wrapped(name: str, width: int) -> str:
    """Return a label of "NAME = VALUE, ..." on several lines if it is longer than the width."""
    lines = [""]
    for part in name.split(", "):
        joined = f"{lines[-1]}, {part}" if lines[-1] else part
        if lines[-1] and len(joined) > width:
            lines[-1] += ","
            lines.append(part)
        else:
            lines[-1] = joined
    return "\n".join(lines)


def label_rows(axes: Axes, names: Sequence[str]) -> None:
    """Label the rows y = 0, 1, 2, ... with names, the first at the top; wrap long ones."""
    lines = [wrapped(name, MAX_ROW_LINE) for name in names]
    figure = axes.figure
    assert isinstance(figure, Figure)  # noqa: S101 - of no subfigure
    more = max((line.count("\n") for line in lines), default=0)
    figure.set_figheight(figure.get_figheight() + 0.13 * more * len(lines))
    axes.set_yticks(range(len(names)), lines)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
