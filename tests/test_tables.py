"""Tables of means against the starting repository's published table and hand-worked numbers.

References: the last table of DESIGN.md (pooled over epochs), the last-epoch numbers of
research/kd.md, section 0, both recounted from tests/data/seed_results.csv; readers of Markdown
(markdown-it), CSV, JSON.
"""

import itertools
import json
import math
import re
import warnings
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from kdtune.analysis import summarize
from kdtune.tables import format_table, levels, mean_within, plus_minus

METRICS = ("epoch_loss_l", "epoch_acc_l", "epoch_acc_teacher_l", "diff_t_s")
LOSS, ACC, _, DIFF = METRICS
PUBLISHED = [  # alpha, metric, mean, sd
    (0, "epoch_loss_l", 1.481328, 0.585938),
    (0, "epoch_acc_l", 0.945359, 0.028460),
    (0, "epoch_acc_teacher_l", 0.934641, 0.0),
    (0, "diff_t_s", 0.964709, 0.226756),
    (1, "epoch_loss_l", 0.225731, 0.090253),
    (1, "epoch_acc_l", 0.941242, 0.058033),
    (1, "epoch_acc_teacher_l", 0.934641, 0.0),
    (1, "diff_t_s", 1.337674, 0.274519),
]


@pytest.fixture(scope="module")
def seed_results() -> pd.DataFrame:
    file = Path(__file__).parent / "data" / "seed_results.csv"
    return pd.read_csv(file).rename(columns={"rep": "repeat"})


@pytest.fixture(scope="module")
def pooled(seed_results: pd.DataFrame) -> pd.DataFrame:
    with pytest.warns(UserWarning, match="truncated run, pooled all the same"):
        return summarize(seed_results, ["alpha"], METRICS, pooled=True)


@pytest.fixture(scope="module")
def last(seed_results: pd.DataFrame) -> pd.DataFrame:
    with pytest.warns(UserWarning, match="truncated run, left out"):
        return summarize(seed_results, ["alpha"], METRICS)


def epochs(column: str, values: list, n_epochs: int = 2) -> pd.DataFrame:
    """Two repeats of each value; at epoch e, repeat r of the i-th value has acc i + r + 10 e."""
    rows = [
        (value, r, e, i + r + 10.0 * e)
        for i, value in enumerate(values)
        for r in range(2)
        for e in range(n_epochs)
    ]
    return pd.DataFrame(rows, columns=[column, "repeat", "epoch", "acc"])


# -- summarize -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "metric", "mean", "sd"), PUBLISHED)
def test_pooled_is_the_published_table(pooled, alpha, metric, mean: float, sd: float) -> None:
    row = pooled[pooled.alpha == alpha].iloc[0]
    assert row[f"{metric}/mean"] == pytest.approx(mean, abs=5e-7)
    assert row[f"{metric}/std"] == pytest.approx(sd, abs=5e-7)
    assert row[f"{metric}/n"] == 4 * 25


def test_pooled_row_that_cannot_be_had(pooled: pd.DataFrame) -> None:
    row = pooled[pooled.alpha == 0.5].iloc[0]
    assert row[f"{ACC}/n"] == 3 * 25 + 2
    assert row[f"{LOSS}/mean"] != pytest.approx(0.823943, abs=1e-3)  # what was published


@pytest.mark.parametrize("pooling", [True, False])
def test_the_truncated_run_is_named(seed_results: pd.DataFrame, pooling: bool) -> None:
    with pytest.warns(UserWarning) as caught:
        summarize(seed_results, ["alpha"], METRICS, pooled=pooling)
    (message,) = (str(warning.message) for warning in caught)
    assert re.search(r"alpha=0\.5, repeat=1 has 2(\.0)? epochs$", message)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("alpha", "n", "acc", "diff"),
    [
        (0, 4, (0.9542, 0.0053), (0.878, 0.125)),
        (0.5, 3, (0.9521, 0.0075), (0.815, 0.090)),
        (1, 4, (0.9608, 0.0053), (1.213, 0.146)),
    ],
)
def test_last_epoch(last: pd.DataFrame, alpha: float, n: int, acc: tuple, diff: tuple) -> None:
    row = last[last.alpha == alpha].iloc[0]
    assert (row[f"{ACC}/mean"], row[f"{ACC}/std"]) == pytest.approx(acc, abs=5e-5)
    assert (row[f"{DIFF}/mean"], row[f"{DIFF}/std"]) == pytest.approx(diff, abs=5e-4)
    assert row[f"{ACC}/n"] == row[f"{DIFF}/n"] == n


def test_the_ranking_turns_round(pooled: pd.DataFrame, last: pd.DataFrame) -> None:
    whole = pooled[pooled.alpha != 0.5]
    assert whole.loc[whole[f"{ACC}/mean"].idxmax(), "alpha"] == 0
    assert last.loc[last[f"{ACC}/mean"].idxmax(), "alpha"] == 1


def test_by_hand() -> None:
    table = summarize(epochs("lr", [0.1, 0.2]), ["lr"], ["acc"])
    # last epoch: 10, 11 and 11, 12; sd with ddof = 1
    assert list(table["acc/mean"]) == [10.5, 11.5]
    assert list(table["acc/std"]) == pytest.approx([math.sqrt(0.5)] * 2)
    assert list(table["acc/n"]) == [2, 2]
    assert list(table.columns) == ["lr", "acc/mean", "acc/std", "acc/n"]
    # both epochs: 0, 1, 10, 11
    pooled = summarize(epochs("lr", [0.1]), ["lr"], ["acc"], pooled=True).iloc[0]
    assert (pooled["acc/mean"], pooled["acc/n"]) == (5.5, 4)
    assert pooled["acc/std"] == pytest.approx(math.sqrt((5.5**2 + 4.5**2) * 2 / 3))


def test_order_of_rows_does_not_matter(seed_results: pd.DataFrame, last: pd.DataFrame) -> None:
    shuffled = seed_results.sample(frac=1, random_state=0)
    with pytest.warns(UserWarning):
        again = summarize(shuffled, ["alpha"], METRICS)
    pd.testing.assert_frame_equal(again, last, rtol=1e-12)


@pytest.mark.parametrize("pooling", [True, False])
@pytest.mark.parametrize("values", [[4.0, math.nan], ["kl", None]])
def test_groups_without_a_key_are_kept(values: list, pooling: bool) -> None:
    # temperature under mse, loss at alpha = 1: pandas would drop them
    by_object = epochs("key", values).astype({"key": object})
    for frame in (epochs("key", values), by_object):
        table = summarize(frame, ["key"], ["acc"], pooled=pooling)
        assert list(table["key"].isna()) == [False, True]
        assert list(table["acc/mean"]) == ([5.5, 6.5] if pooling else [10.5, 11.5])
        assert list(table["acc/n"]) == [4 if pooling else 2] * 2


def test_two_keys() -> None:
    frame = pd.concat([epochs("alpha", [0.5, 1]).assign(temperature=t) for t in (1.0, math.nan)])
    table = summarize(frame, ["alpha", "temperature"], ["acc"])
    assert len(table) == 4
    assert list(table["acc/n"]) == [2] * 4


def test_planned_epochs_tell_truncated_from_short() -> None:
    short, long = epochs("epochs", [2]), epochs("epochs", [3], n_epochs=3)
    frame = pd.concat([short, long])
    with pytest.warns(UserWarning, match="truncated") as caught:  # else the longest run counts
        assert list(summarize(frame, ["epochs"], ["acc"]).epochs) == [3]
    assert len(caught) == 2
    frame["n_epochs_planned"] = frame.epochs
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = summarize(frame, ["epochs"], ["acc"])
    assert list(table["acc/mean"]) == [10.5, 20.5]  # each at its own last epoch
    with pytest.warns(UserWarning, match="truncated run, left out: epochs=3, repeat=1 has 2"):
        cut = frame[(frame.epochs == 2) | (frame["repeat"] == 0) | (frame.epoch < 2)]
        assert list(summarize(cut, ["epochs"], ["acc"])["acc/n"]) == [2, 1]


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
        (0.5, 0, "0.5000 ± 0.0000"),
        (0.123456, math.nan, "0.1235"),
        (math.nan, math.nan, "-"),
    ],
)
def test_two_digits_of_the_sd(mean: float, sd: float, text: str) -> None:
    assert plus_minus(mean, sd) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.002, 0.03, "0.011 (0.002 to 0.030)"),
        (-0.5, 0.9, "0.01 (-0.50 to 0.90)"),
        (-math.inf, math.inf, "0.01129"),
        (math.nan, math.nan, "0.01129"),
        (0.03, 0.02, "0.01129"),  # means that no longer agree leave none
    ],
)
def test_a_mean_within_its_interval(low: float, high: float, text: str) -> None:
    assert mean_within(0.01129, low, high) == text


def test_markdown(pooled: pd.DataFrame) -> None:
    html = MarkdownIt().enable("table").render(format_table(pooled))
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in html.split("<tr>")[1:]]
    assert rows[0] == ["alpha", "n", *METRICS]
    assert [row[:2] for row in rows[1:]] == [["0", "100"], ["0.5", "77"], ["1", "100"]]
    assert rows[1][2:] == ["1.48 ± 0.59", "0.945 ± 0.028", "0.9346 ± 0.0000", "0.96 ± 0.23"]


def test_csv(last: pd.DataFrame) -> None:
    again = pd.read_csv(StringIO(format_table(last, "csv")))
    pd.testing.assert_frame_equal(again, last, check_exact=True)


def test_json(last: pd.DataFrame) -> None:
    again = pd.DataFrame(json.loads(format_table(last, "json")))
    pd.testing.assert_frame_equal(again, last, check_dtype=False, rtol=0, atol=1e-9)


def test_latex(last: pd.DataFrame) -> None:
    lines = format_table(last, "latex").splitlines()
    assert (lines[0], lines[-1]) == (r"\begin{tabular}{rrrrrr}", r"\end{tabular}")
    rows = [line.removesuffix(r" \\").split(" & ") for line in lines[1:-1]]
    assert all(line.endswith(r" \\") for line in lines[1:-1])
    assert [name.replace(r"\_", "_") for name in rows[0]] == ["alpha", "n", *METRICS]
    assert rows[2][:4] == ["0.5", "3", r"0.747 $\pm$ 0.017", r"0.9521 $\pm$ 0.0075"]
    assert not re.search(r"±|(?<!\\)_", "".join(lines))


def test_cells_without_a_value() -> None:
    frame = epochs("temperature", [4.0, math.nan])
    table = summarize(frame, ["temperature"], ["acc"])
    body = format_table(table.rename(columns=lambda c: f"val/{c}" if "/" in c else c))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in body.splitlines()]
    assert rows[0] == ["temperature", "n", "acc"]
    assert rows[2:] == [["4", "2", "10.50 ± 0.71"], ["-", "2", "11.50 ± 0.71"]]
