"""The HTML page: its Jinja2 environment, its tables and its inlined figures."""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kdtune.reporting.canvas import INK, CaptionedFigure


@dataclass(frozen=True)
class Cell:
    """A cell of a table with additional smaller text."""

    text: str
    small: str
    below: bool = False
    """True if the smaller text has a line of its own."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    head: Sequence[str]
    rows: Sequence[Sequence[str | Cell]]


@dataclass(frozen=True)
class NotedTable:
    """A table with a note that explains it."""

    note: str
    table: Table | None = None


@dataclass(frozen=True)
class InlineFigure:
    """A figure as part of the page."""

    caption: str
    svg: Markup


@cache
def environment() -> Environment:
    """Return the Jinja2 environment of the templates.

    Every text is escaped, an unknown name is an error, and the filter `tojson` accepts only finite
    numbers.
    """
    made = Environment(
        loader=PackageLoader("kdtune.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def render(template: str = "report.html", /, **content: object) -> str:
    """Return a page with the content that its template names, and the script of all pages.

    The page allows this one script by its hash and nothing else: no network, no other script.
    """
    script, digest = _script()
    return environment().get_template(template).render(content, script=script, digest=digest)


@cache
def _script() -> tuple[Markup, str]:
    """Return the script of the page and its SHA-256 in base64, as security policies have it."""
    made = environment()
    assert made.loader is not None  # noqa: S101 - set in environment()
    source, _, _ = made.loader.get_source(made, "page.js")
    text = f"\n{source}"  # as it stands in the page
    return Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()  # noqa: S704 - kdtune's own script


def interval_cell(estimate: str, low: str, high: str) -> Cell:
    """Return an estimate with its interval below it."""
    return Cell(estimate, f"{low} to {high}", below=True)


def inline(figure: CaptionedFigure) -> InlineFigure:
    """Return a figure for the page: with ids of its own, and text in the colour of the page."""
    svg = figure.svg()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # only in tags, since text stands between them
    svg = re.sub(r"<[^>]+>", lambda tag: _own(tag[0], figure.name), svg)
    opening, rest = svg.split(">", 1)
    opening = re.sub(r' (width|height)="[^"]*"', "", opening)
    label = Markup('{} role="img" aria-label="{}">').format(Markup(opening), figure.caption)  # noqa: S704 - matplotlib escapes texts
    return InlineFigure(figure.caption, label + Markup(rest))  # noqa: S704 - matplotlib escapes texts


def _own(tag: str, name: str) -> str:
    """Return an SVG tag whose ids begin with the figure's name and whose colours are the page's."""
    tag = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", tag)
    return tag.replace(INK, "currentColor").replace("#ffffff", "none")
