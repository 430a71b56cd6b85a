"""Tables as text, read back by parsers of Markdown (markdown-it), CSV and JSON."""

import itertools
import json
import math
import re
from io import StringIO

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from study_folders import at, make, starting_repository

from kdtune.results.comparison import format_table, levels, plus_minus

METRICS = ("loss", "acc", "teacher_acc", "logit_diff")


@pytest.fixture(scope="module")
def last(tmp_path_factory) -> pd.DataFrame:
    """The starting repository's summary; one of its runs is truncated: 3 of 4 repeats."""
    return starting_repository(tmp_path_factory.mktemp("started")).summary(
        metrics=METRICS, full=True
    )


# -- values as groups ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (range(1000, 1012), ["1000 … 1002", "1003 … 1005", "1006 … 1008", "1009 … 1011"]),
        (range(1, 13), ["1 … 3", "4 … 6", "7 … 9", "10 … 12"]),
        (np.linspace(0.1, 0.101, 12), ["0.1 … 0.10018", "0.10027 … 0.10045"]),
    ],
)
def test_ranges_have_as_many_digits_as_tell_them_apart(values, names: list) -> None:
    assert list(levels(pd.Series(values)).cat.categories)[: len(names)] == names


@given(st.lists(st.floats(-1e9, 1e9) | st.integers(-(10**12), 10**12), min_size=9, unique=True))
def test_ranges_hold_their_values_and_their_names_differ(values: list) -> None:
    values = pd.Series(values, dtype=float)
    groups = levels(values)
    if values.nunique() <= 8:  # whole numbers above 2^53 become one
        return
    names = list(groups.cat.categories)
    assert len(set(names)) == len(names) <= 4 and groups.notna().all()
    for name, value in zip(groups, values, strict=True):
        low, high = (float(end) for end in name.split(" … "))
        slack = 1e-2 * abs(value)  # three digits
        assert low - slack <= value <= high + slack
    for left, right in itertools.pairwise(names):  # in their order, and apart
        assert values[groups == left].max() < values[groups == right].min()


# -- as text ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (0.954248, 0.005337, "0.9542 ± 0.0053"),
        (1.23272, 0.084376, "1.233 ± 0.084"),
        (0.877856, 0.125252, "0.88 ± 0.13"),
        (12.3456, 1.26, "12.3 ± 1.3"),
        (1234.4, 12.6, "1234 ± 13"),
        (1e-5, 2.345e-7, "0.00001000 ± 0.00000023"),
        (-0.5, 0.01, "-0.500 ± 0.010"),
        (-0.3, 39, "0 ± 39"),
        (0.5, 0, "0.5 ± 0"),
        (0.824, 1.2e-16, "0.824 ± 0"),
        (0.123456, math.nan, "0.1235"),
        (math.nan, math.nan, "-"),
    ],
)
def test_the_sd_has_two_significant_digits(mean: float, sd: float, text: str) -> None:
    assert plus_minus(mean, sd) == text


def test_markdown(last: pd.DataFrame) -> None:
    html = MarkdownIt().enable("table").render(format_table(last))
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in html.split("<tr>")[1:]]
    assert rows[0] == ["alpha", "n", *METRICS]
    assert [row[:2] for row in rows[1:]] == [["0", "4"], ["0.5", "3 of 4"], ["1", "4"]]
    assert rows[1][3:] == ["0.9542 ± 0.0053", "0.9346 ± 0", "0.88 ± 0.13"]


def test_csv(last: pd.DataFrame) -> None:
    again = pd.read_csv(StringIO(format_table(last, "csv")))
    pd.testing.assert_frame_equal(again, last, check_exact=True)


def test_json(last: pd.DataFrame) -> None:
    again = pd.DataFrame(json.loads(format_table(last, "json"))).astype(last.dtypes)
    pd.testing.assert_frame_equal(again, last, check_dtype=False, rtol=0, atol=1e-9)


def test_latex(last: pd.DataFrame) -> None:
    lines = format_table(last, "latex").splitlines()
    assert (lines[0], lines[-1]) == (r"\begin{tabular}{rrrrrr}", r"\end{tabular}")
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines[1:-1]]
    assert all(line.endswith(r" \\") for line in lines[1:-1])
    assert [name.replace(r"\_", "_") for name in rows[0]] == ["alpha", "n", *METRICS]
    assert rows[2][:4] == ["0.5", "3 of 4", r"0.747 $\pm$ 0.017", r"0.9521 $\pm$ 0.0075"]
    assert not re.search(r"±|(?<!\\)_", "".join(lines))


def test_latex_special_characters_are_escaped() -> None:
    head = {"loss": ["my_loss:50%_&"], "val/acc/mean": [0.5], "val/acc/std": [0.1], "val/acc/n": 2}
    text = format_table(pd.DataFrame(head), "latex")
    assert r"my\_loss:50\%\_\& & 2 & 0.50 $\pm$ 0.10 \\" in text


def test_cells_without_a_value(tmp_path) -> None:
    last = {at(0.5, temperature=4.0): [0.6, 0.7], at(0.5, loss="mse"): [0.5, 0.6]}
    body = format_table(make(tmp_path, last).summary(["temperature"], ["acc"], full=True))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines()]
    assert rows[0] == ["temperature", "n", "acc"]
    assert rows[2:] == [
        ["4", "2", "0.650 ± 0.071"],
        ["-", "2", "0.550 ± 0.071"],
    ]
