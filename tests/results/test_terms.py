"""Fresh repeats, and repeats added until it is decided: what is said of them is true of them."""

import math
import re

import numpy as np
import pytest
from html_reader import Reader
from study_folders import at, make, make_final, trials_of

from kdtune.reporting import answer as sections
from kdtune.reporting import background
from kdtune.reporting import build as report
from kdtune.reporting import figures as plots
from kdtune.results.comparison import Criterion, compare
from kdtune.results.context import ComparisonContext
from kdtune.results.study_results import Results
from kdtune.results.wording import comparison_rows, verdict
from kdtune.statistics.sequential import anytime_interval, anytime_p

exact = pytest.approx

# -- the verdict -----------------------------------------------------------------------------------


def test_of_finalists_the_fresh_repeats_count_alone(tmp_path) -> None:
    """Search says the contrary: it chose them, so it is not asked."""
    fresh = {0.5: [0.75, 0.76, 0.74, 0.755, 0.745, 0.75], 1.0: [0.7] * 6}
    made = make_final(tmp_path, {0.5: [0.5, 0.5, 0.5], 1.0: [0.8, 0.81, 0.82]}, fresh)
    assert len(made.trials_for(Criterion())) == 12 and len(made.search_trials) == 6
    assert made.verdict().startswith("Distillation helps: alpha = 0.5 beats plain training by 5.0")
    assert "(n = 6 fresh repeats, p = " in made.verdict()
    assert made.summary().set_index("alpha").loc[0.5, "val/acc/mean"] == exact(0.5)


def test_a_number_of_repeats_that_hangs_on_them_is_paid_for() -> None:
    """The t test's p of .03 would do, had the number been fixed: it has not been."""
    differences = np.array([0.012, 0.02, 0.002, 0.018, 0.0, 0.011])
    last = {0.5: list(0.7 + differences), 1.0: [0.7] * 6}
    fixed, anytime = (
        compare(trials_of(last), Criterion()),
        compare(trials_of(last), Criterion(), 0.05),
    )
    assert fixed.p[0] < 0.05 < anytime.p[0]
    assert anytime.p[0] == exact(anytime_p(differences.tolist()))
    assert anytime.low_all[0] < 0 < fixed.low_all[0]
    context = ComparisonContext("plain training", math.nan, held_out=True, anytime_level=0.05)
    _, ((_, shown, *_),) = comparison_rows(anytime, ["alpha"], Criterion())
    half = 50 * (anytime.high_all[0] - anytime.low_all[0])
    assert shown == f"+1.1 ± {half:.1f}"  # the table shows the interval that holds
    text = verdict(anytime, Criterion(), ["alpha"], context)
    assert text.startswith("No difference found") and "6 repeats have not decided it" in text


ANYTIME = ComparisonContext("plain training", math.nan, held_out=True, anytime_level=0.05)


@pytest.mark.parametrize(
    ("criterion", "p", "adds"),
    [(Criterion(), 0.051, True), (Criterion(), 0.05, False), (Criterion("ce"), 0.2, False)],
)
def test_a_larger_budget_is_named_only_where_it_would_add_repeats(
    criterion, p: float, adds
) -> None:
    """The search stops at p <= level of the accuracy at the last epoch, whatever is asked here."""
    table = compare(trials_of({0.5: [0.72, 0.71, 0.7, 0.73], 1.0: [0.7] * 4}), Criterion(), 0.05)
    table = table.assign(p=p, p_holm=p, low_all=-0.01, high_all=0.02)
    text = verdict(table, criterion, ["alpha"], ANYTIME)
    assert text.startswith("No difference") and "4 repeats have not decided it" in text
    assert ("a larger --budget adds more" in text) == adds


def test_one_final_repeat_of_a_study_that_adds_more_asks_for_none() -> None:
    table = compare(trials_of({0.5: [0.72], 1.0: [0.7]}), Criterion(), 0.05)
    text = verdict(table, Criterion(), ["alpha"], ANYTIME)
    assert text == "No verdict: 1 common repeat; a difference needs two."


@pytest.mark.parametrize(
    ("study", "n"),
    [
        ({"policy": "race"}, "n = 5 of 8 fresh repeats"),
        ({"policy": "race", "until_decided": True, "budget": "9runs"}, "n = 5 fresh repeats"),
        ({"until_decided": True, "budget": "9runs"}, "n = 5 fresh repeats"),
    ],
)
def test_repeats_are_counted_against_a_number_that_was_fixed(tmp_path, study, n: str) -> None:
    final = {0.5: [0.75, 0.76, 0.74, 0.755, 0.745], 1.0: [0.7, 0.71, 0.7, 0.72, 0.7]}
    made = make_final(tmp_path, {0.5: [0.7, 0.72], 1.0: [0.65, 0.66]}, final, repeats=8, **study)
    assert f"({n}, " in made.verdict()


# -- the text, the page, the figure ----------------------------------------------------------------

RACED = {0.1: [0.6, 0.61], 0.5: [0.7, 0.71], 1.0: [0.65, 0.66]}
FINAL = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}


@pytest.mark.parametrize("study", [{"policy": "race"}, {"until_decided": True, "budget": "9runs"}])
@pytest.mark.parametrize("baseline", [{"alpha": 1}, {"alpha": 0.1}, {"alpha": 0.5}])
def test_all_words_are_of_the_trials_that_the_rule_is_judged_by(tmp_path, study, baseline) -> None:
    """A finalist as baseline, or one that has no final repeat, is compared on the search's."""
    made = make_final(tmp_path, RACED, FINAL, **study)
    criterion = Criterion(baseline=baseline)
    fresh = criterion.has_plain_baseline
    assert set(made.compare(criterion).n) == {4 if fresh else 2}
    assert made.best(criterion) == at(0.5).config_id
    words = Reader(report.html(made, criterion, {})).words
    for text in (made.text(criterion=criterion), words):
        assert ("fresh repeats" in text) == fresh
    assert ("which chose it" in made.text(criterion=criterion)) != fresh
    assert ("since val chose it" in words) != fresh
    assert ("Other repeats have chosen these two" in words) == fresh
    assert ("val (selected by it)" in words) != fresh


def words_of_comparison(made: Results, criterion: Criterion) -> list[str]:
    """All that is said of how its numbers came about: the text, the page, the figure."""
    page_words = Reader("".join(sections.comparisons(made, criterion))).words
    return [made.text(criterion=criterion), page_words, plots.forest(made, criterion).caption]


def test_t_intervals_are_named_where_they_are(tmp_path) -> None:
    criterion = Criterion()
    fixed = make_final(tmp_path / "race", RACED, FINAL, policy="race")
    adds = {"until_decided": True, "budget": "9runs", "level": 0.1}
    auto = make_final(tmp_path / "auto", RACED, {a: 3 * accs for a, accs in FINAL.items()}, **adds)
    for text in words_of_comparison(fixed, criterion):
        assert "95 % t interval" in text and "stopped" not in text
    for text in words_of_comparison(auto, criterion):
        assert "t interval" not in text and "max-T's" not in text
        assert re.search(r"90 % interval.*, which holds? whenever (it|the study) had stopped", text)
    assert "no decision has seen" in fixed.text() and "no decision has seen" not in auto.text()
    for made in (fixed, auto):  # what is above the comparison is not of these repeats
        head = "mean ± sd over n repeats of the search"
        assert head in made.text() and head in "".join(sections.summary(made, criterion))
    for made in (fixed, auto):
        assert re.search(r"On test against plain training: \+4\.8 ± \S+ points", made.text())
    # on test, too: no t interval of a number of repeats that hung on val
    row = auto.selection().set_index("row").loc["difference"]
    differences = 3 * [a - b for a, b in zip(*FINAL.values(), strict=True)]
    assert (row["test/low"], row["test/high"]) == pytest.approx(anytime_interval(differences, 0.1))
    methods = [Reader(background.methods(made, criterion)[0]).words for made in (fixed, auto)]
    assert "Holm's p is below 0.05" in methods[0] and "p is at most 0.1" in methods[1]
    assert all("owe nothing for it" in text for text in methods)


def test_a_comparison_of_repeats_that_a_race_has_given_says_so(tmp_path) -> None:
    last = {0.1: [0.6, None, None], 0.5: [0.7, 0.71, 0.72], 1.0: [0.65, 0.66, None]}
    made = make(tmp_path, last, policy="race")
    for text in words_of_comparison(made, Criterion())[:2]:
        assert "how many repeats a row has hung on what they said" in text
    card = Reader(sections.facts(made, Criterion())).words
    assert "3 × 1 to 3" in card and "80 % chance" not in card


@pytest.mark.parametrize(
    ("study", "counts", "seen"),
    [
        ({}, "3 × 2; final 2 × 4", True),
        ({"policy": "race"}, "3 × 2; final 2 × 4", True),
        ({"until_decided": True, "budget": "9runs"}, "3 × 2; final 2 × 4", False),
    ],
)
def test_the_card_counts_repeats_and_claims_power_where_n_was_fixed(
    tmp_path, study, counts: str, seen: bool
) -> None:
    made = make_final(tmp_path, RACED, FINAL, **study)
    card = Reader(sections.facts(made, Criterion())).words
    assert counts in card and ("with 80 % chance, of n = 4 and 1 comparison" in card) == seen
