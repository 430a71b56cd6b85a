"""What figures are drawn on: colours, axes, legends, and their way to SVG and PNG."""

import io
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1a1b1c"
"""Colour of text and axes; in a page it follows the page's own."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "kdtune",
    "text.parse_math": False,  # two dollars in a name of others are no formula
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


def drawing() -> AbstractContextManager[None]:
    """While figures are drawn: our style over matplotlib's own, whatever the user has set."""
    manager: AbstractContextManager[None] = style.context(STYLE, after_reset=True)
    return manager


@dataclass(frozen=True)
class Picture:
    """A figure with what to say of it."""

    name: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """As SVG text, the same bytes each time; coordinates to a tenth of a point."""
        return self._svg

    @cached_property
    def _svg(self) -> str:
        buffer = io.StringIO()
        with drawing():
            self.figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
        # of paths alone: the same digits are text elsewhere
        return re.sub(r' d="[^"]*"', lambda path: _rounded(path[0]), buffer.getvalue())

    def png(self) -> bytes:
        """As PNG, 200 dots an inch."""
        buffer = io.BytesIO()
        with drawing():
            self.figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
        return buffer.getvalue()


def _rounded(numbers: str) -> str:
    return re.sub(r"\d+\.\d+", lambda number: f"{float(number[0]):.1f}", numbers)


def new_axes(rows: int | None = None) -> tuple[Figure, Axes]:
    """A figure of 4.3 inches, or of 5 and as high as its rows need."""
    size = (4.3, 3.2) if rows is None else (5.0, 0.9 + 0.27 * rows)
    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots()


def legend_below(figure: Figure, axes: Axes) -> None:
    """The legend below, in one column where names are long; the figure grows by its rows."""
    names = axes.get_legend_handles_labels()[1]
    columns = 2 if max(map(len, names), default=0) < 30 else 1
    figure.set_figheight(2.6 + 0.17 * -(-len(names) // columns))
    figure.legend(loc="outside lower center", ncols=columns)


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """A named row at each whole number, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")
