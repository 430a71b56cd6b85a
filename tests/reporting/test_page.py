"""Pieces of a page: whoever wrote a text, it stays text."""

import json
import re

import pytest
from html_reader import Reader
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from kdtune.reporting import page
from kdtune.reporting.canvas import INK, Picture

HOSTILE = "</td></script><script>alert('1')</script> & \"two\" $verdict {x} <b>"


def tags(text: str) -> set[str]:
    return {tag for tag, _ in Reader(text).tags}


@given(st.text())
def test_text_comes_out_as_it_went_in(text: str) -> None:
    read = Reader(f"<p>{page.markup(text)}</p>")
    assert [tag for tag, _ in read.tags] == ["p"]
    assert read.text == text


@pytest.mark.parametrize(
    ("made", "allowed"),
    [
        (page.paragraph(HOSTILE, "quiet"), {"p"}),
        (page.bullets([HOSTILE]), {"ul", "li"}),
        (page.card({HOSTILE: HOSTILE}), {"dl", "div", "dt", "dd"}),
        (page.table([HOSTILE], [[HOSTILE]]), {"div", "table", "thead", "tbody", "tr", "th", "td"}),
        (page.fold(HOSTILE, ""), {"details", "summary"}),
        (page.section(HOSTILE, "x"), {"section", "h2"}),
        (page.interval_cell(HOSTILE, HOSTILE, HOSTILE), {"br", "small"}),
    ],
)
def test_nothing_written_by_others_is_markup(made: str, allowed: set) -> None:
    assert tags(made) == allowed
    assert HOSTILE in Reader(made).text


def test_nothing_comes_of_nothing() -> None:
    assert page.paragraph("") == page.bullets([]) == page.table(["a"], []) == page.figures([]) == ""
    assert page.section("Title", "", "") == ""


def test_long_tables_are_folded_and_lose_no_row() -> None:
    rows = [[str(i)] for i in range(page.FOLD + 5)]
    made = page.table(["number"], rows, what="configurations")
    assert f"<summary>5 more configurations, of {len(rows)}</summary>" in made
    assert re.findall(r"<td>(\d+)</td>", made) == [row[0] for row in rows]
    shown = made.partition("<details>")[0]
    assert shown.count("<td>") == page.FOLD
    assert "<details>" not in page.table(["number"], rows[: page.FOLD])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(values)
def test_data_is_json_that_cannot_end_its_element(value) -> None:
    text = page.data(value)
    assert json.loads(text) == value and "<" not in text


def test_data_must_be_numbers() -> None:
    assert "</script" not in page.data(HOSTILE) and json.loads(page.data(HOSTILE)) == HOSTILE
    with pytest.raises(ValueError, match="JSON"):
        page.data([float("nan")])


def test_a_figure_is_part_of_the_page() -> None:
    figure = Figure(figsize=(2, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color=INK)
    axes.set_title('<b> & "x" id="y"', color=INK)
    made = page.figure(Picture("dots", HOSTILE, figure))
    read = Reader(made)
    assert not {"script", "b", "metadata", "image"} & {tag for tag, _ in read.tags}
    (label,) = (a["aria-label"] for t, a in read.tags if t == "svg")
    assert label == HOSTILE and HOSTILE in [text for _, text in read.pieces]
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert ids and all(i.startswith("dots-") for i in ids) and len(ids) == len(set(ids))
    for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', made):
        assert next(filter(None, reference)) in ids
    assert INK not in made and "currentColor" in made
    assert "<?xml" not in made and "<!DOCTYPE" not in made
