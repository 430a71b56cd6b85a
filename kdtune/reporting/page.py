"""Pieces of an HTML page: escaped text, tables, figures, data. Nothing here knows of studies."""

import json
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from kdtune.reporting.canvas import INK, Picture

FOLD = 20
"""Rows of a table beyond which it is folded."""


class Markup(str):
    """Text that is HTML already; any other string is escaped."""


def markup(text: object) -> str:
    """HTML of a text, whoever wrote it."""
    return text if isinstance(text, Markup) else escape(str(text))


def section(title: str, *parts: str) -> str:
    """A section with its heading; nothing where it has no parts."""
    inner = "\n".join(part for part in parts if part)
    name = re.sub(r"[^a-z]+", "-", title.lower()).strip("-")
    return f'<section id="{name}">\n<h2>{escape(title)}</h2>\n{inner}\n</section>' if inner else ""


def paragraph(text: object, kind: str = "") -> str:
    """A paragraph of text; nothing where there is none."""
    attribute = f' class="{kind}"' if kind else ""
    return f"<p{attribute}>{markup(text)}</p>" if text else ""


def bullets(texts: Sequence[object]) -> str:
    """A list; nothing where it is empty."""
    items = "".join(f"<li>{markup(text)}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else ""


def card(facts: dict[str, str]) -> str:
    """Names with their values."""
    pairs = (f"<div><dt>{escape(k)}</dt><dd>{markup(v)}</dd></div>" for k, v in facts.items())
    return f"<dl>{''.join(pairs)}</dl>"


def table(
    head: Sequence[str], rows: Sequence[Sequence[object]], what: str = "rows", fold_at: int = FOLD
) -> str:
    """A table that scrolls by itself where it is wide, and is folded where it is long."""
    if not rows:
        return ""
    shown = _table(head, rows[:fold_at])
    if len(rows) <= fold_at:
        return shown
    title = f"{len(rows) - fold_at} more {what}, of {len(rows)}"
    return f"{shown}\n{fold(title, _table(head, rows[fold_at:]))}"


def fold(title: str, inner: str) -> str:
    """Something that opens on a click, without script."""
    return f"<details><summary>{escape(title)}</summary>\n{inner}\n</details>"


def interval_cell(text: str, low: str, high: str) -> Markup:
    """A number with its interval below it."""
    return Markup(f"{escape(text)}<br><small>{escape(low)} to {escape(high)}</small>")


def figure(picture: Picture) -> str:
    """A figure as part of the page: its ids its own, its text in the page's colour."""
    svg = picture.svg()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{picture.name}-", svg)
    svg = svg.replace(INK, "currentColor").replace("#ffffff", "none")
    label = escape(picture.caption)
    svg = svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
    return f"<figure>{svg}<figcaption>{label}</figcaption></figure>"


def figures(drawn: Sequence[str]) -> str:
    """Figures side by side where there is room; nothing where there are none."""
    inner = "\n".join(drawn)
    return f'<div class="figures">\n{inner}\n</div>' if inner else ""


def data(value: Any) -> str:
    """A value as JSON for a script element: nothing in it can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    def row(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{markup(cell)}</{tag}>" for cell in cells) + "</tr>"

    lines = "\n".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="scroll"><table><thead>{row(head, "th")}</thead>\n'
        f"<tbody>{lines}</tbody></table></div>"
    )
