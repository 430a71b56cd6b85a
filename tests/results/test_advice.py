"""What a study could have detected and what would help: by hand, and the same everywhere."""

import math
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import draw, make, make_final, write_predictions

from kdtune.planning.ledger import final_test, finalists
from kdtune.planning.plan import Plan
from kdtune.reporting.sections import study_facts
from kdtune.results.comparison import DEFAULT, Criterion
from kdtune.results.results import load
from kdtune.results.words import (
    ComparisonContext,
    limit_of_images,
    power_text,
    undecided_text,
    what_would_help,
    with_unit,
)
from kdtune.storage.records import pack_correct, read_lines

# 8 repeats of 500 images: parts 1e-5, 4e-5 and 2.5e-5 of the variance, 7.5e-5 in all
PARTS = {"var_repeat": 8e-5, "var_image": 0.02, "var_rest": 0.1}
SHARES = "Of the variance, 13% is from repeats, 53% from images, 33% from both."


def row(diff: float, **own: float) -> dict[str, float]:
    """Return a row of a comparison of 8 repeats and 500 images, with an interval of +-3 points."""
    values = {"diff": diff, "sd": 0.01, "n": 8, "n_images": 500, "p": 0.3, "df": 60} | PARTS | own
    parts = [values["var_repeat"] / 8]
    if not math.isnan(values["n_images"]):
        parts += [values["var_image"] / values["n_images"]]
        parts += [values["var_rest"] / (8 * values["n_images"])]
    ends = {"low": diff - 0.03, "high": diff + 0.03, "error": math.sqrt(sum(parts))}
    return values | ends | own


def half(repeats: int, images: int, m: int) -> float:
    """Return the half width in points, with Satterthwaite's df of three mean squares."""
    of_repeat, of_image, of_rest = 8e-5 / repeats, 0.02 / images, 0.1 / (repeats * images)
    a, b, c = of_repeat + of_rest, of_image + of_rest, of_rest
    v, rows, columns = a + b - c, repeats - 1, images - 1
    df = v**2 / (a**2 / rows + b**2 / columns + c**2 / (rows * columns))
    return 100 * float(stats.t.ppf(1 - 0.025 / m, df)) * math.sqrt(v)


def test_shares_and_other_designs_by_hand() -> None:
    text = what_would_help(pd.Series(row(0.01)), 4, DEFAULT)
    now, repeats, images = half(8, 500, 4), half(16, 500, 4), half(8, 1000, 4)
    repeats, images = 3 * repeats / now, 3 * images / now
    assert text.startswith(
        f"{SHARES} The interval is ±3.0: 8 more repeats would narrow it to ±{repeats:.2g}; 500 "
        f"more val images would narrow it to ±{images:.2g}."
    )


def test_what_no_number_of_repeats_can_show() -> None:
    # infinitely many repeats leave an error of 0.63 points: 80 % power takes 2.2 points
    few, many = (pd.Series(row(0.01, n_images=n, var_image=0.02)) for n in (500, 5000))
    text = "No number of repeats gives 80% power for 1 point with 500 val images."
    assert limit_of_images(few, 4, DEFAULT) == text and not limit_of_images(many, 4, DEFAULT)


def test_without_images_there_are_no_shares() -> None:
    alone = row(0.01, n_images=math.nan, var_image=math.nan, var_rest=math.nan)
    assert what_would_help(pd.Series(alone), 4, DEFAULT) == ""
    text = power_text(pd.DataFrame([alone]), 1, DEFAULT)
    assert "at 80% power with 8 repeats and 1 comparison: " in text


def test_where_repeats_are_not_independent_no_number_of_them_is_advised() -> None:
    """Folds and several teachers: the error is larger, or has fewer degrees of freedom."""
    alone = row(0.018, n_images=math.nan, var_image=math.nan, var_rest=math.nan)
    for own in ({"error": 0.006, "df": 7}, {"df": 2}):
        given = alone | own
        text = power_text(pd.DataFrame([given]), 1, DEFAULT)
        able = float(re.search(r"and 1 comparison: (\S+) percentage points\.$", text)[1]) / 100
        critical, shift = stats.t.ppf(0.975, given["df"]), able / given["error"]
        power = stats.nct.sf(critical, given["df"], shift)
        assert power == pytest.approx(0.8, abs=0.03)


def test_the_named_difference_is_shrunk_and_its_condition_is_said() -> None:
    table = pd.DataFrame([row(0.018), row(0.01), row(0.002), row(-0.01)])
    text = power_text(table, 4, DEFAULT)
    found = re.fullmatch(
        r"; minimum detectable difference at 80% power with 8 repeats, 500 val images and 4 "
        r"comparisons: (\S+) percentage points\. If the true difference is (\S+) percentage points "
        r"\(the estimate, shrunk because it is the largest of 4\), no number of repeats gives 80% "
        r"power: with 500 val images it takes a difference of (\S+) percentage points\. (.*)",
        text,
    )
    able, shrunk, limit = map(float, found.groups()[:3])
    assert 0 < shrunk < 1.8 and shrunk < limit < able
    assert limit == pytest.approx((stats.norm.isf(0.05 / 8) + 0.84) * 0.6325, abs=0.06)
    limits = limit_of_images(table.iloc[0], 4, DEFAULT)
    assert found[4] == f"{what_would_help(table.iloc[0], 4, DEFAULT)} {limits}"


def test_repeats_are_advised_where_they_would_help() -> None:
    table = pd.DataFrame([row(0.018, var_image=1e-4, var_repeat=5e-4)])
    text = power_text(table, 1, DEFAULT)
    found = re.search(r"\(the estimate, shrunk by its uncertainty\), (\d+) repeats give 80%", text)
    assert 8 < int(found[1]) < 200 and f"(--repeats {found[1]})" in text
    assert "p values do not account for repeats that are added because of this result" in text
    assert "more than 200 repeats" in power_text(
        pd.DataFrame([row(0.001, var_image=0.0, var_repeat=5e-4)]), 1, DEFAULT
    )
    text = power_text(pd.DataFrame([row(-0.01)]), 1, DEFAULT)
    assert "not an improvement" in text and "--repeats" not in text


def test_verdict_and_page_have_one_minimum_detectable_difference(tmp_path) -> None:
    last = draw({0.1: 0.002, 0.3: 0.0, 0.5: 0.004, 1.0: 0.0}, 8, sd=0.02)
    write_predictions(make(tmp_path, {a: np.round(x, 3).tolist() for a, x in last.items()}), 2.0)
    made = load(tmp_path)
    facts, text = study_facts(made, DEFAULT), made.verdict()
    shown = facts["minimum detectable difference"]
    assert shown.startswith("at 80% power with 8 repeats, 500 val images and 3 comparisons: ")
    assert f"; minimum detectable difference {shown}." in text


def test_small_differences_have_a_digit() -> None:
    assert with_unit(0.0004, DEFAULT) == "0.04 percentage points"
    assert with_unit(0.0131, DEFAULT) == "1.3 percentage points"
    assert with_unit(0.0131, Criterion("ce")) == "0.013 nats"


# -- repeats "auto" --------------------------------------------------------------------------------


def test_the_comparison_is_the_one_that_the_plan_decides_by(tmp_path) -> None:
    search = {0.5: [0.8, 0.8], 1.0: [0.7, 0.7]}
    final = {0.5: [0.78, 0.804, 0.79, 0.81, 0.8], 1.0: [0.738, 0.756, 0.74, 0.752, 0.76]}
    adds = {"until_decided": True, "budget": "14runs", "level": 0.1}
    frame = write_predictions(make_final(tmp_path, search, final, **adds), 2.0)
    correct = {trial: own.correct.tolist() for trial, own in frame.groupby("trial_id")}
    made, (lines, _) = load(tmp_path), read_lines(tmp_path)
    for line in lines:
        if line["kind"] == "epoch" and (line["split"], line["epoch"]) == ("val", 2):
            line["correct"] = pack_correct(correct[line["trial_id"]])
    ledger = Plan(made.study, lines).ledger
    test = final_test(ledger, finalists(ledger)[0])
    compared = made.compare().iloc[0]
    assert test.images == compared.n_images == 500 and test.n == compared.n == 5
    assert test.p == pytest.approx(compared.p)
    assert test.interval(0.1) == pytest.approx((compared.low, compared.high))
    assert test.is_undecidable(0.1) == compared.undecidable


def test_an_undecided_study_says_what_would_decide_it() -> None:
    context = ComparisonContext("the baseline", math.nan, True, 0.05)
    table = pd.DataFrame([row(0.01, undecidable=True, least_decidable=0.0183)])
    assert undecided_text(table, DEFAULT, context) == (
        "; undecided after 8 repeats. More repeats cannot decide it with 500 val images: on these, "
        "a difference below 1.8 percentage points may be due to the choice of images. More val "
        "images can."
    )
    table = pd.DataFrame([row(0.01, undecidable=False, least_decidable=0.0183)])
    assert undecided_text(table, DEFAULT, context).endswith("(a larger --budget adds repeats).")
