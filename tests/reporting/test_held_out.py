"""The report of studies with held-out repeats, and with repeats added until a decision."""

from dataclasses import replace

import pytest
from html_reader import Reader
from study_folders import RUN, at, make, make_final

from kdtune.reporting import build
from kdtune.reporting.sections import choices
from kdtune.results.comparison import Criterion

RACED = {0.1: [0.6, 0.61], 0.5: [0.7, 0.71], 1.0: [0.65, 0.66]}
FINAL = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}


@pytest.fixture(autouse=True)
def without_other_comparisons(monkeypatch) -> None:
    """Leave out other baselines, whose sentences differ by design, and the glossary."""
    monkeypatch.setattr(build, "choices", lambda *args: choices(*args)[:1])
    monkeypatch.setattr(build, "glossary", lambda results: {})


def words_of(made, criterion=None) -> str:
    return Reader(build.html(made, criterion or Criterion(), {})).words


@pytest.mark.parametrize("study", [{"policy": "race"}, {"until_decided": True, "budget": "9runs"}])
@pytest.mark.parametrize("baseline", [{"alpha": 1}, {"alpha": 0.1}, {"alpha": 0.5}])
def test_all_sentences_are_about_the_trials_of_the_criterion(tmp_path, study, baseline) -> None:
    """Another baseline than no distillation is compared on the repeats of the search."""
    made = make_final(tmp_path, RACED, FINAL, **study)
    criterion = Criterion(baseline=baseline)
    held_out = criterion.has_plain_baseline
    assert made.best(criterion) == at(0.5).config_id
    words = words_of(made, criterion)
    assert ("finalists on held-out repeats" in words) == held_out
    assert ("because it was selected on val" in words) != held_out
    recorded = "The finalists, and which of them is the best, were recorded before the first of"
    assert (recorded in words) == held_out
    assert ("val (used for selection)" in words) != held_out


def test_each_kind_of_interval_is_named_where_it_is_used(tmp_path) -> None:
    fixed = make_final(tmp_path / "race", RACED, FINAL, policy="race")
    adds = {"until_decided": True, "budget": "9runs", "level": 0.1}
    auto = make_final(tmp_path / "auto", RACED, {a: 3 * accs for a, accs in FINAL.items()}, **adds)
    words = words_of(fixed)
    assert "simultaneous 95% CI" in words and "always-valid" not in words
    assert "Holm-adjusted p value is below 0.05" in words
    words = words_of(auto)
    assert "always-valid 90% CI" in words and "simultaneous" not in words
    assert "p is at most 0.1" in words and "by max-T" not in words
    for made in (fixed, auto):
        assert "n repeats of the search" in words_of(made)
        assert "p values are not adjusted for that" in words_of(made)


def test_an_older_study_is_not_said_to_have_recorded_its_finalists(tmp_path) -> None:
    words = words_of(make_final(tmp_path, RACED, FINAL, recorded=False, policy="race"))
    assert "held-out" not in words and "did not record the finalists" in words


def test_the_default_stands_beside_the_chosen_configuration(tmp_path) -> None:
    """Test is val - 0.1 in the search: 0.605 for the chosen alpha = 0.5, 0.505 for the default."""
    words = words_of(make(tmp_path, RACED, run=replace(RUN, alpha=0.1)))
    assert "default: alpha = 0.1 60.50 50.50" in words.replace(" - ", " ")
    assert "chosen - default +10.00" in words and "recipe's default (alpha = 0.1): 50.5%" in words


def test_an_adaptive_number_of_repeats_is_said_not_to_be_adjusted_for(tmp_path) -> None:
    last = {0.1: [0.6, None, None], 0.5: [0.7, 0.71, 0.72], 1.0: [0.65, 0.66, None]}
    words = words_of(make(tmp_path, last, policy="race"))
    assert "p values are not adjusted for the adaptive number of repeats" in words
    assert "3 × 1 to 3" in words and "at 80% power with " not in words


@pytest.mark.parametrize(
    ("study", "counts", "power"),
    [
        ({}, "3 × 2; held-out: 2 × 4", True),
        ({"policy": "race"}, "3 × 2; held-out: 2 × 4", True),
        ({"until_decided": True, "budget": "9runs"}, "3 × 2; held-out: 2 × 4", False),
    ],
)
def test_the_page_counts_repeats_and_claims_power_where_n_was_fixed(
    tmp_path, study, counts: str, power: bool
) -> None:
    words = words_of(make_final(tmp_path, RACED, FINAL, **study))
    assert counts in words and ("at 80% power with 4 repeats and 1 comparison: " in words) == power
