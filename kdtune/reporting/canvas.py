"""Style and export of figures, and the HTML page that holds them."""

import base64
import hashlib
import io
import math
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cache, cached_property
from html import escape
from pathlib import Path
from xml.sax.saxutils import escape as xml_escape

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from PIL import Image

from kdtune import __version__
from kdtune.results.design import p_text
from kdtune.results.words import sentence

# Titles of elements of a figure, which browsers show when the pointer is on them: `<title>`
# elements of the SVG, which need no script. An element gets a name with `Artist.set_gid`. Names of
# elements of a configuration come from `config_gid`, so that the page's script can hide them.

Titles = str | Sequence[str]
"""Title of an element, or of each of its markers in the order drawn."""
_CONFIG = "config-"


def config_gid(config_id: str, part: str) -> str:
    """Return the name of the part of a figure that belongs to a configuration."""
    return f"{_CONFIG}{config_id}-{part}"


def with_titles(svg: str, titles: Mapping[str, Titles]) -> str:
    """Return a figure of matplotlib with titles.

    Args:
        svg: the figure.
        titles: by gid. Elements that matplotlib has not drawn, such as empty lines, are skipped.
    """
    for gid, title in titles.items():
        opening = f'<g id="{gid}">'
        before, drawn, after = svg.partition(opening)
        if not drawn:
            continue
        if gid.startswith(_CONFIG):
            config_id = gid.removeprefix(_CONFIG).partition("-")[0]
            opening = f'<g id="{gid}" data-config="{config_id}">'
        if isinstance(title, str):
            svg = f"{before}{opening}<title>{xml_escape(title)}</title>{after}"
            continue
        # matplotlib draws a line as one group: the next one with an id is another artist's
        markers, following, others = after.partition('<g id="')
        parts = re.split(r"(?<=<use )([^>]*)/>", markers)
        if len(parts) == 2 * len(title) + 1:  # matplotlib has drawn all of them
            parts[1::2] = [
                f"{use}><title>{xml_escape(text)}</title></use>"
                for use, text in zip(parts[1::2], title, strict=True)
            ]
            markers = "".join(parts)
        svg = f"{before}{opening}{markers}{following}{others}"
    return svg


# Style, axes and export of figures.

INK = "#1a1b1c"
"""Colour of text and axes, as in kdtune.mplstyle; on the page that of the page's text."""
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")
LINE_STYLES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_STYLE = Path(__file__).with_name("kdtune.mplstyle")
PNG_DPI = 200
NOTEBOOK_DPI, CSS_DPI = 165, 110
"""Dots, and pixels of a browser, per inch of a figure in a notebook."""
MAX_ROW_LINE, MAX_LEGEND_LINE = 36, 60
"""Characters of a line of the label of a row, and of a name in a legend."""


def figure_style() -> AbstractContextManager[None]:
    """Return a context with kdtune's style over matplotlib's defaults, not over the user's."""
    manager: AbstractContextManager[None] = style.context(_STYLE, after_reset=True)
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
    """Titles of elements by their gid, shown when the pointer is on them."""

    def __post_init__(self) -> None:
        self.figure.caption = self.caption

    @cached_property
    def svg(self) -> str:
        """The figure as SVG text, the same bytes each time; coordinates rounded to 0.1 point."""
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
    axes = figure.subplots()
    # otherwise the height decides how many, and after the layout they need more room than it left
    axes.locator_params(axis="y", nbins=8)
    return figure, axes


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


# Limits of an axis that one wild line does not set alone.

MAX_GROWTH = 5.0
"""Lines are left outside if the axis would otherwise be more than this factor longer."""
MARGIN = 0.05
"""Share of the height above and below the lines inside."""


def outside(
    values: Mapping[str, ArrayLike], better: str | None, growth: float = MAX_GROWTH
) -> list[str]:
    """Return the worst lines if an axis is much shorter without them.

    These are the fewest of the worst lines, less than half of all, without which the range of the
    others is less than 1 / growth of the range of all. So the axis shows what most lines do, and
    not what one that diverged or stayed at chance makes of it.

    Args:
        values: numbers of each line, by its name; NaN does not count.
        better: which numbers are better, "higher" or "lower"; None: no line is left outside.
        growth: see above.
    """
    ranges = {name: _range([numbers]) for name, numbers in values.items()}
    ranges = {name: ends for name, ends in ranges.items() if not math.isnan(ends[0])}
    if better is None or not ranges:
        return []
    badness = {n: low if better == "higher" else -high for n, (low, high) in ranges.items()}
    worst_first = sorted(badness, key=badness.__getitem__)
    low, high = _range(list(ranges.values()))
    for count in range(1, (len(ranges) + 1) // 2):
        rest_low, rest_high = _range([ranges[name] for name in worst_first[count:]])
        if 0 < growth * (rest_high - rest_low) < high - low:
            return worst_first[:count]
    return []


def limits(values: Sequence[ArrayLike]) -> tuple[float, float]:
    """Return the ends of an axis that shows these numbers, with a margin."""
    low, high = _range(values)
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _range(values: Sequence[ArrayLike]) -> tuple[float, float]:
    """Return the least and the greatest finite number; NaN without any."""
    numbers = np.concatenate([np.ravel(np.asarray(part, dtype=float)) for part in values])
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return math.nan, math.nan
    return float(numbers.min()), float(numbers.max())


# The HTML page: its Jinja2 environment, its tables and its inlined figures.


@dataclass(frozen=True)
class Cell:
    """A cell of a table with additional smaller text."""

    text: str
    small: str
    below: bool = False
    """True if the smaller text has a line of its own."""


@dataclass(frozen=True)
class PageTable:
    """A table of the page."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclass(frozen=True)
class InlineFigure:
    """A figure as part of the page."""

    caption: str
    svg: Markup


@cache
def environment() -> Environment:
    """Return the Jinja2 environment of the templates.

    Every text is escaped, an unknown name is an error, and the filter `tojson` accepts only finite
    numbers. A page allows the script of all pages by its hash and nothing else: no network, no
    other script.
    """
    loader = PackageLoader("kdtune.reporting")
    templates = Environment(
        loader=loader,
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    templates.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    templates.filters["p_text"] = p_text
    templates.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    script = f"\n{loader.get_source(templates, 'page.js')[0]}"  # as it stands in the page
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    templates.globals["script"] = Markup(script)  # noqa: S704 - kdtune's own script
    templates.globals |= {"digest": digest, "version": __version__, "words": sentence}
    return templates


def render(template: str, **content: object) -> str:
    """Return a page with the content that its template names."""
    return environment().get_template(template).render(content)


def interval_cell(estimate: str, low: str, high: str) -> Cell:
    """Return an estimate with its interval below it."""
    return Cell(estimate, f"{low} to {high}", below=True)


def inline(figure: CaptionedFigure) -> InlineFigure:
    """Return a figure for the page: with ids of its own, and text in the colour of the page."""
    svg = figure.svg[figure.svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # only in tags, since text stands between them
    svg = re.sub(r"<[^>]+>", lambda tag: _page_tag(tag[0], figure.name), svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    label = Markup('{} role="img" aria-label="{}">').format(Markup(opening), figure.caption)  # noqa: S704 - matplotlib escapes texts
    return InlineFigure(figure.caption, label + Markup(rest))  # noqa: S704 - matplotlib escapes texts


def _page_tag(tag: str, name: str) -> str:
    """Return an SVG tag whose ids begin with the figure's name and whose colours are the page's."""
    tag = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    return tag.replace(INK, "currentColor").replace("#ffffff", "none")
