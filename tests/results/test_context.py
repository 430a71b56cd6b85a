"""Held-out repeats, and repeats added until a decision: every sentence is true of its numbers."""

import math
import re

import numpy as np
import pytest
from study_folders import at, make, make_final, trials_of, write_final, write_round

import kdtune
from kdtune.results.comparison import Criterion, compare, comparison_rows
from kdtune.results.results import Results
from kdtune.results.words import ComparisonContext, verdict
from kdtune.statistics.tests import anytime_interval, anytime_p

exact = pytest.approx

# -- the verdict -----------------------------------------------------------------------------------


def test_finalists_are_compared_on_held_out_repeats_only(tmp_path) -> None:
    """The search repeats, which selected the finalists, would say the contrary."""
    fresh = {0.5: [0.75, 0.76, 0.74, 0.755, 0.745, 0.75], 1.0: [0.7] * 6}
    made = make_final(tmp_path, {0.5: [0.5, 0.5, 0.5], 1.0: [0.8, 0.81, 0.82]}, fresh)
    assert len(made.trials_for(Criterion())) == 12 and len(made.search_trials) == 6
    assert made.best() == at(1.0).config_id  # recorded as the best before the final repeats
    verdict = made.verdict()
    assert verdict.startswith("Distillation (alpha = 0.5) improved validation accuracy by 5.0")
    assert re.search(r"\(95% CI \+4\.\d+ to \+5\.\d+, p < 0.001, n = 6 held-out repeats\)", verdict)
    assert made.summary(full=True).set_index("alpha").loc[0.5, "val/acc/mean"] == exact(0.5)


def test_an_adaptive_number_of_repeats_has_always_valid_statistics() -> None:
    """The t test has p = .03, which would be valid for a fixed number of repeats."""
    differences = np.array([0.012, 0.02, 0.002, 0.018, 0.0, 0.011])
    last = {0.5: list(0.7 + differences), 1.0: [0.7] * 6}
    fixed, anytime = (
        compare(trials_of(last), Criterion()),
        compare(trials_of(last), Criterion(), 0.05),
    )
    assert fixed.p[0] < 0.05 < anytime.p[0]
    assert anytime.p[0] == exact(anytime_p(differences.tolist()))
    assert anytime.low[0] < 0 < fixed.low[0]
    context = ComparisonContext("plain training", math.nan, held_out=True, anytime_level=0.05)
    head, ((_, shown, ends, *_),) = comparison_rows(anytime, ["alpha"], Criterion(), 0.05)
    assert (head[2], head[4]) == ("95% CI (always-valid)", "p (always-valid)")
    low, high = 100 * anytime.low[0], 100 * anytime.high[0]
    assert (shown, ends) == ("+1.1", f"[{low:+.1f}, {high:+.1f}]")  # the interval that holds
    text = verdict(anytime, Criterion(), ["alpha"], context)
    assert text.startswith("No significant difference") and "undecided after 6 repeats" in text
    assert f"always-valid 95% CI {low:+.1f} to {high:+.1f}, always-valid p = " in text


ANYTIME = ComparisonContext("plain training", math.nan, held_out=True, anytime_level=0.05)


@pytest.mark.parametrize(
    ("criterion", "p", "adds"),
    [(Criterion(), 0.051, True), (Criterion(), 0.05, False), (Criterion("ce"), 0.2, False)],
)
def test_a_larger_budget_is_named_only_where_it_would_add_repeats(
    criterion, p: float, adds
) -> None:
    """The search stops at p <= level for accuracy at the last epoch, whatever the criterion."""
    table = compare(trials_of({0.5: [0.72, 0.71, 0.7, 0.73], 1.0: [0.7] * 4}), Criterion(), 0.05)
    table = table.assign(p=p, p_holm=p, low=-0.01, high=0.02)
    text = verdict(table, criterion, ["alpha"], ANYTIME)
    assert text.startswith("No significant difference") and "undecided after 4 repeats" in text
    assert ("a larger --budget adds repeats" in text) == adds


def test_one_final_repeat_of_a_study_that_adds_more_asks_for_none() -> None:
    table = compare(trials_of({0.5: [0.72], 1.0: [0.7]}), Criterion(), 0.05)
    text = verdict(table, Criterion(), ["alpha"], ANYTIME)
    assert text == "No conclusion: 1 common repeat, but a comparison needs at least 3."


@pytest.mark.parametrize(
    ("study", "n"),
    [
        ({"policy": "race"}, "n = 5 of 8 held-out repeats"),
        ({"policy": "race", "until_decided": True, "budget": "9runs"}, "n = 5 held-out repeats"),
        ({"until_decided": True, "budget": "9runs"}, "n = 5 held-out repeats"),
    ],
)
def test_repeats_are_counted_against_a_number_that_was_fixed(tmp_path, study, n: str) -> None:
    final = {0.5: [0.75, 0.76, 0.74, 0.755, 0.745], 1.0: [0.7, 0.71, 0.7, 0.72, 0.7]}
    made = make_final(tmp_path, {0.5: [0.7, 0.72], 1.0: [0.65, 0.66]}, final, repeats=8, **study)
    assert f", {n})" in made.verdict()


# -- the text --------------------------------------------------------------------------------------

RACED = {0.1: [0.6, 0.61], 0.5: [0.7, 0.71], 1.0: [0.65, 0.66]}
FINAL = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}


@pytest.mark.parametrize("study", [{"policy": "race"}, {"until_decided": True, "budget": "9runs"}])
@pytest.mark.parametrize("baseline", [{"alpha": 1}, {"alpha": 0.1}, {"alpha": 0.5}])
def test_all_sentences_are_about_the_trials_of_the_criterion(tmp_path, study, baseline) -> None:
    """Another baseline than no distillation is compared on the repeats of the search."""
    made = make_final(tmp_path, RACED, FINAL, **study)
    criterion = Criterion(baseline=baseline)
    held_out = criterion.has_plain_baseline
    assert set(made.compare(criterion).n) == {4 if held_out else 2}
    assert made.best(criterion) == at(0.5).config_id
    text = made.text(criterion=criterion)
    assert ("held-out repeats" in text) == held_out
    assert ("optimistic: used for the selection" in text) != held_out


def test_an_older_study_is_not_said_to_have_recorded_its_finalists(tmp_path) -> None:
    """Its best configuration is the better finalist on the final repeats, as its version said."""
    last = {0.5: [0.5, 0.5, 0.5], 1.0: [0.8, 0.81, 0.82]}
    final = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}
    made = make_final(tmp_path, last, final, policy="race", recorded=False)
    assert made.best() == at(0.5).config_id
    text, note = made.text(), made.context(Criterion()).baseline_note
    assert "held-out" not in text + note and "did not record the finalists" in note
    assert "final repeats; optimistic: they chose between the finalists" in text


def test_a_metric_that_did_not_select_the_finalists_chooses_between_them(tmp_path) -> None:
    """By accuracy alpha = 1 was recorded as the best; on the final repeats 0.5 is better."""
    last = {0.5: [0.5, 0.5, 0.5], 1.0: [0.8, 0.81, 0.82]}
    made = make_final(tmp_path, last, FINAL, policy="race")
    assert made.best() == at(1.0).config_id and made.best(Criterion("ce")) == at(0.5).config_id
    assert "(held-out repeats, but the images that selected it)" in made.text()
    text = made.text(criterion=Criterion("ce"))
    assert "held-out repeats; optimistic: they chose between the finalists" in text


def test_only_the_last_round_counts(tmp_path) -> None:
    """The finals of the first round would say the contrary."""
    made = make_final(tmp_path, RACED, {0.5: [0.1] * 4, 1.0: [0.9] * 4}, policy="race")
    write_round(tmp_path, RACED, [0.1, 1.0], 2004, at(0.5).config_id)
    write_final(tmp_path, {0.1: [0.75, 0.76, 0.74], 1.0: [0.7, 0.705, 0.71]}, 2004)
    write_final(tmp_path, {0.5: [0.85, 0.86, 0.84]}, 2004)  # the default, no finalist
    made = kdtune.load(tmp_path)
    assert made.compare().label.tolist() == ["alpha = 0.1"] and made.compare().n.tolist() == [3]
    assert set(made.final_trials["repeat"]) == {2004, 2005, 2006}
    rows = made.selection().set_index("row")
    assert rows.loc["best", "config_id"] == at(1.0).config_id  # 0.655 against 0.605 in the search
    assert rows.loc["default", "test/mean"] == exact(0.75)
    assert rows.loc["chosen - default", "test/mean"] == exact(-0.145)


def sentences_of(made: Results, criterion: Criterion) -> list[str]:
    """Return all sentences about the method of a comparison."""
    context = made.context(criterion)
    m = len(made.compare(criterion))
    return [made.text(criterion=criterion), context.method_in_full(m), context.interval_legend]


def test_each_kind_of_interval_is_named_where_it_is_used(tmp_path) -> None:
    criterion = Criterion()
    fixed = make_final(tmp_path / "race", RACED, FINAL, policy="race")
    adds = {"until_decided": True, "budget": "9runs", "level": 0.1}
    auto = make_final(tmp_path / "auto", RACED, {a: 3 * accs for a, accs in FINAL.items()}, **adds)
    for text in sentences_of(fixed, criterion):
        assert re.search(r"95% CI", text) and "always" not in text and "stops" not in text
    assert all("t interval" in text for text in sentences_of(fixed, criterion)[:2])
    for text in sentences_of(auto, criterion):
        assert "t interval" not in text and "by max-T" not in text and "95%" not in text
        assert "90% CI" in text and "always-valid" in text
        assert re.search(r"holds? whenever the study stops", text)
    added = "held-out repeats, added until the comparison is decided"
    assert added not in fixed.text() and added in auto.text()
    for made in (fixed, auto):  # the summary above the comparison is about other repeats
        assert "mean ± SD over n repeats of the search" in made.text()
        assert re.search(r"differs from training without distillation by \+4\.8\d? ", made.text())
    # test intervals, too: a t interval would assume that the number of repeats was fixed
    row = auto.selection().set_index("row").loc["difference"]
    differences = 3 * [a - b for a, b in zip(*FINAL.values(), strict=True)]
    assert (row["test/low"], row["test/high"]) == pytest.approx(anytime_interval(differences, 0.1))
    rules = [made.context(criterion).significance_rule("acc") for made in (fixed, auto)]
    assert "Holm-adjusted p value is below 0.05" in rules[0] and "p is at most 0.1" in rules[1]
    notes = [made.context(criterion).baseline_note for made in (fixed, auto)]
    assert all("recorded before the first of these repeats" in note for note in notes)


def test_an_adaptive_number_of_repeats_is_said_not_to_be_adjusted_for(tmp_path) -> None:
    last = {0.1: [0.6, None, None], 0.5: [0.7, 0.71, 0.72], 1.0: [0.65, 0.66, None]}
    made = make(tmp_path, last, policy="race")
    for text in sentences_of(made, Criterion())[:2]:
        assert "p values are not adjusted for the adaptive number of repeats" in text
    fixed = make(tmp_path / "fixed", {0.5: [0.7, 0.71, 0.72], 1.0: [0.65, 0.66, 0.65]})
    assert "not adjusted" not in "".join(sentences_of(fixed, Criterion()))


def test_the_text_says_once_what_the_conclusion_is_about(tmp_path) -> None:
    for made in (make(tmp_path / "a", RACED), make_final(tmp_path / "b", RACED, FINAL)):
        assert made.text().count("about new repeats with this teacher on these val images") == 1
