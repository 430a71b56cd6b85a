"""Elements of the page: text stays text, data stay data, figures stay figures."""

import json
import re
from functools import cache

import numpy as np
import pytest
from html_reader import Reader
from jinja2 import Template

from kdtune.reporting.canvas import (
    INK,
    CaptionedFigure,
    Cell,
    StudyFigure,
    add_legend_below,
    environment,
    figure_style,
    inline,
    interval_cell,
    limits,
    new_axes,
    outside,
)

HOSTILE = "</td></script><script>alert('1')</script> & \"two\" $verdict {x} {{ x }} {% x %} <b>"
CELLS = {"table", "thead", "tbody", "tr", "th", "td"}


@cache
def template(source: str) -> Template:
    macros = "bullets, cell, facts, figures, fold, note, section, table"
    return environment().from_string(f'{{% from "macros.html" import {macros} %}}{source}')


def made_by(source: str, **values: object) -> str:
    """Render a template that has all macros."""
    return template(source).render(values).strip()


def test_the_label_of_an_axis_is_inside_the_figure() -> None:
    """At this height the layout made room for ticks of one digit, and then there were more."""
    with figure_style():
        figure, axes = new_axes()
        for _ in range(4):
            axes.plot([1, 4], [0.1, 0.4], label="alpha = 0.5, T = 4 (n = 3)")
        axes.set(xlabel="epoch", ylabel="validation distillation term", ylim=(0.0721, 0.4521))
        add_legend_below(figure, axes)
    svg = CaptionedFigure("distill", "", figure).svg
    (left,) = map(float, re.findall(r"rotate\(-90 ([-\d.]+) ", svg))
    assert left > 9  # points, the height of the letters


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("{% call note() %}{{ x }}{% endcall %}", {"p"}),
        ("{{ bullets([x]) }}", {"ul", "li"}),
        ("{{ facts({x: x}) }}", {"dl", "div", "dt", "dd"}),
        ("{{ table({'head': [x], 'rows': [[x]]}) }}", {"div", *CELLS}),
        ("{{ table({'head': [x], 'rows': [[x]]}, x, 0) }}", {"div", "details", "summary", *CELLS}),
        ("{% call fold(x) %}{{ x }}{% endcall %}", {"details", "summary"}),
        ("{% call section(x) %}{{ x }}{% endcall %}", {"section", "h2"}),
        ("{{ cell(interval) }}", {"br", "small"}),
        ("{{ cell(rank) }}", {"small"}),
        ("{{ figures([{'svg': x, 'caption': x}]) }}", {"div", "figure", "figcaption"}),
    ],
)
def test_text_from_records_is_never_markup(source: str, allowed: set) -> None:
    cells = {"interval": interval_cell(HOSTILE, HOSTILE, HOSTILE), "rank": Cell(HOSTILE, HOSTILE)}
    made = made_by(source, x=HOSTILE, **cells)
    read = Reader(made)
    assert {tag for tag, _ in read.tags} == allowed and HOSTILE in read.text


def test_data_are_json_of_finite_numbers_that_cannot_end_their_element() -> None:
    source, _, _ = environment().loader.get_source(environment(), "report.html")
    (element,) = re.findall(r"<script type=.*?</script>", source, re.DOTALL)
    made = made_by(element, data={HOSTILE: [HOSTILE, "é\n\u2028", 1.5, None, True]})
    text = made.partition(">")[2].removesuffix("</script>")
    assert made == f"{element.partition('>')[0]}>{text}</script>" and "<" not in text
    assert json.loads(text) == {HOSTILE: [HOSTILE, "é\n\u2028", 1.5, None, True]}
    with pytest.raises(ValueError, match="JSON"):
        made_by(element, data=[float("nan")])


def test_a_figure_is_part_of_the_page() -> None:
    figure = StudyFigure(figsize=(2, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color=INK)
    title = '<b> & "x" id="y" href="#z" url(#w) #1a1b1c'
    axes.set_title(title, color=INK)
    item = inline(CaptionedFigure("dots", HOSTILE, figure))
    made = made_by("{{ figures([item]) }}", item=item)
    read = Reader(made)
    assert not {"script", "b", "metadata", "image"} & {tag for tag, _ in read.tags}
    (label,) = (a["aria-label"] for t, a in read.tags if t == "svg")
    assert label == HOSTILE and HOSTILE in [text for _, text in read.pieces]
    assert title in [text for _, text in read.pieces]
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert ids and all(i.startswith("dots-") for i in ids) and len(ids) == len(set(ids))
    marks = "".join(re.findall(r"<[^>]+>", made))
    for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', marks):
        assert next(filter(None, reference)) in ids
    assert INK not in marks and "currentColor" in marks
    assert "<?xml" not in made and "<!DOCTYPE" not in made
    (svg,) = (a for t, a in read.tags if t == "svg")
    assert "viewbox" in svg and not {"width", "height"} & set(svg)


def test_a_wild_line_is_left_outside() -> None:
    lines = {"a": [0.7, 0.75], "b": [0.72, 0.76], "c": [0.71, 0.74], "wild": [0.1, 0.1]}
    assert outside(lines, "higher") == ["wild"]
    assert outside(lines, "lower") == []  # there it would be the best
    assert outside(lines, None) == []
    assert outside(lines | {"wild": [0.6, 0.7]}, "higher") == []  # 0.16 is less than 5 x 0.06
    assert outside(lines | {"worse": [0.0, 0.1]}, "higher") == ["worse", "wild"]
    assert outside({k: lines[k] for k in ("a", "wild")}, "higher") == []  # half of all
    assert outside({}, "higher") == outside({"a": [np.nan]}, "lower") == []
    assert limits([[1.0, np.nan], [3.0]]) == pytest.approx((0.9, 3.1))
