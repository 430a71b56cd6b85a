"""The verdict on studies whose truth is known: what it says, and what it must never say."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_folders import draw, grid, make, trials_of

from kdtune.results.comparison import DEFAULT, Criterion, compare
from kdtune.results.context import ComparisonContext
from kdtune.results.wording import best_sentence, comparison_rows, verdict
from kdtune.statistics.power import detectable_difference, repeats_needed

exact = pytest.approx
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e-?\d+)?"
AMOUNT = re.compile(rf"({NUMBER}) ± ({NUMBER}) points")


def said(last, criterion: Criterion = DEFAULT, by=("alpha",), planned: int | None = None) -> str:
    repeats = planned or max(map(len, last.values()))
    return verdict(
        compare(trials_of(last), criterion),
        criterion,
        by,
        ComparisonContext("plain training", repeats),
    )


# -- studies whose truth is known ------------------------------------------------------------------


def test_a_large_effect_is_found() -> None:
    # 5 points, differences of sd 1.4, 8 repeats: power 1 to four digits
    text = said(draw({0.1: 0.0, 0.5: 0.05, 1.0: 0.0}, 8))
    assert text.startswith("Distillation helps: alpha = 0.5 beats plain training by ")
    value, half = map(float, AMOUNT.search(text).groups())
    assert abs(value - 5) < half < 3
    assert "(n = 8, Holm p = " in text and "over 2 comparisons)" in text


def test_harm_is_found() -> None:
    text = said(draw({0.1: -0.08, 0.5: -0.05, 1.0: 0.0}, 8))
    assert re.match(r"Distillation hurts: even alpha = 0\.5, the closest, is behind plain ", text)
    text = said(draw({0.5: -0.05, 1.0: 0.0}, 8))
    assert text.startswith("Distillation hurts: alpha = 0.5 is behind plain training by ")


def test_without_an_effect_none_is_found() -> None:
    last = draw({0.1: 0.0, 0.5: 0.0, 1.0: 0.0}, 8, seed=2)
    text = said(last)
    assert text.startswith("No difference found: alpha = ")
    # what the study could have seen is that of the configuration that is named
    table = compare(trials_of(last), Criterion())
    seen = detectable_difference(table.sd[0], 8, 0.05 / 2)
    assert f"with 8 repeats this study could have seen {100 * seen:.1f} points" in text


def test_a_small_effect_is_not_found_and_what_would_show_it_is_said() -> None:
    # 0.7 points, differences of sd 1.4: half an sd, which wants some 34 repeats
    d = np.array([0.021, -0.007, 0.021, -0.007])
    text = said({0.5: 0.8 + d, 1.0: [0.8] * 4})
    needed = repeats_needed(d.mean(), d.std(ddof=1))
    assert text.startswith("No difference found: alpha = 0.5 against plain training: +0.7")
    assert f"{needed} repeats would show 0.7 points (--repeats {needed})" in text
    assert 25 < needed < 60
    tiny = said({0.5: 0.8 + d - 0.0068, 1.0: [0.8] * 4})
    assert "even 200 would not show 0.0 points." in tiny


def test_one_that_is_not_ahead_is_not_worth_more_repeats() -> None:
    text = said({0.5: [0.79, 0.8, 0.78, 0.81], 1.0: [0.8, 0.79, 0.8, 0.802]})
    assert text.startswith("No difference found: alpha = 0.5 against plain training: -0.3")
    assert "it is not ahead, so more repeats promise little" in text and "--repeats" not in text


def test_those_that_are_behind_are_counted() -> None:
    text = said(draw({0.1: -0.06, 0.3: -0.06, 0.5: 0.0, 1.0: 0.0}, 8, seed=2))
    assert text.startswith("No difference found: alpha = 0.5")
    assert text.endswith("2 of 3 comparisons found it behind.")


def test_ties() -> None:
    text = said({0.5: [0.7, 0.8, 0.75], 1.0: [0.7, 0.8, 0.75]})
    assert (
        text.startswith("No difference found: alpha = 0.5")
        and "all 3 repeats came out equal" in text
    )
    # ahead by one image of 500 in every repeat: only signs can tell, 2 / 2^n
    text = said({0.5: [0.702, 0.802, 0.752], 1.0: [0.7, 0.8, 0.75]})
    assert text.startswith("No difference found: alpha = 0.5") and ", p = 0.25" in text
    assert "could have seen 0.0" not in text and "would not show" not in text
    assert "6 repeats would" in text  # 2 / 2^6 = .031
    sure = said({0.5: np.arange(6) / 100 + 0.702, 1.0: np.arange(6) / 100 + 0.7})
    assert sure.startswith("Distillation helps") and ", p = 0.031" in sure


@pytest.mark.parametrize("last", [{0.5: [0.9], 1.0: [0.5]}, {0.5: [0.9, 0.8], 1.0: [0.5, None]}])
def test_one_common_repeat_is_no_verdict(last) -> None:
    assert said(last).startswith("No verdict: 1 common repeat; a difference needs two")


def test_no_common_repeat_is_no_verdict() -> None:
    text = said({0.5: [None, 0.7], 1.0: [0.6, None]})
    assert text.startswith("No verdict: no common repeat; a difference needs two")


def test_two_repeats() -> None:
    # 10 and 10.2 points: p = 2 atan(1/101)/pi = .0063, an interval of +-1.3; 10 and 12: p = .058
    text = said({0.5: [0.8, 0.802], 1.0: [0.7, 0.7]})
    assert text.startswith("Distillation helps") and "(n = 2, p = 0.0063" in text
    text = said({0.5: [0.8, 0.82], 1.0: [0.7, 0.7]})
    assert text.startswith("No difference found") and "(n = 2, p = 0.058" in text


@pytest.mark.parametrize("last", [{0.5: [0.9, 0.8], 0.1: [0.7, 0.7]}, {1.0: [0.7, 0.7]}])
def test_one_side_is_no_verdict(last) -> None:
    assert said(last).startswith("No verdict: the study needs completed runs both with alpha = 1")
    criterion = Criterion(baseline={"alpha": 0.7})
    assert "No verdict: no completed runs both of" in said(last, criterion)


@pytest.mark.parametrize("fate", ["failed", "truncated", "running"])
def test_what_did_not_complete_is_counted_out(tmp_path, fate: str) -> None:
    # the unfinished one would turn the verdict
    last = draw({0.5: 0.05, 1.0: 0.0}, 8)
    last[0.5][3] = 0.1
    text = make(tmp_path, last, {(0.5, 3): fate}).verdict()
    assert text.startswith("Distillation helps: alpha = 0.5") and "(n = 7 of 8, p" in text


def test_a_lucky_repeat_is_not_named() -> None:
    last = draw({0.1: 0.0, 0.5: 0.04, 1.0: 0.0}, 8)
    last[0.1] = [0.99] + [None] * 7
    assert said(last).startswith("Distillation helps: alpha = 0.5")


def test_as_many_comparisons_are_named_as_were_paid_for() -> None:
    last = draw({0.1: 0.0, 0.3: 0.0, 0.5: 0.02, 1.0: 0.0}, 8)
    last[0.1] = [*last[0.1][:4], None, None, None, None]  # compared, but too few to be named
    table = compare(trials_of(last), Criterion())
    row = table[table["config/alpha"] == 0.5].iloc[0]
    assert row.p_holm == exact(3 * row.p)
    assert "over 3 comparisons" in said(last)


def test_the_baseline_and_what_is_searched_besides_are_named(tmp_path) -> None:
    runs = {
        run: 0.06 * (run.alpha < 1) + 0.1 * (run.lr == 0.1)
        for run in grid([0.5, 1.0], lr=[0.01, 0.1])
    }
    made = make(tmp_path, draw(runs, 6))
    text = made.verdict()
    assert "alpha = 0.5, lr = 0.1 beats plain training (lr = 0.1) by" in text
    text = made.verdict(Criterion(baseline={"alpha": 0.5}))
    assert text.startswith("alpha = 1, lr = 0.1 hurts: even alpha = 1, lr = 0.1, the closest, is")
    assert "is behind alpha = 0.5 (lr = 0.1) by" in text and "Distillation" not in text


def test_mse_has_no_temperature_to_name(tmp_path) -> None:
    runs = grid([0.5, 1.0], loss=["mse", "kl"], temperature=[1.0, 4.0])
    last = draw({run: 0.08 * (run.loss == "mse" and run.alpha < 1) for run in runs}, 6)
    text = make(tmp_path, last).verdict()
    assert text.startswith("Distillation helps: loss = mse, alpha = 0.5 beats plain training by")


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ce", "in val ce"),
        ("gap", "points in val gap"),
        ("kl", "in val kl"),
        ("agreement", "points"),
    ],
)
def test_other_metrics_are_named_with_their_unit_and_side(
    tmp_path, metric: str, words: str
) -> None:
    # higher accuracy comes with lower ce, gap and kl, higher agreement
    text = make(tmp_path, draw({0.5: 0.05, 1.0: 0.0}, 8)).verdict(Criterion(metric))
    assert text.startswith("Distillation helps: alpha = 0.5 beats plain training by ")
    value = float(re.search(rf"by ({NUMBER}) ±", text)[1])
    assert value > 0 and words in text


# -- what it must never say ------------------------------------------------------------------------


def check(text: str, last) -> str:
    """The verdict's kind; asserts that nothing is claimed that the numbers do not carry."""
    table = compare(trials_of(last), Criterion())
    kind = re.match(r"Distillation helps|Distillation hurts|No difference|No verdict", text)[0]
    if kind in ("Distillation helps", "Distillation hurts"):
        name = re.search(r"alpha = ([\d.]+)", text)[1].rstrip(".")
        row = table[table["config/alpha"] == float(name)].iloc[0]
        sign = 1 if kind == "Distillation helps" else -1
        assert row.p_holm < 0.05
        assert sign * row["diff"] > 0
        # the interval of the family excludes 0, and so does what is printed of it
        assert (row.low_all if sign > 0 else -row.high_all) > 0
        value, half = map(float, AMOUNT.search(text).groups())
        # to two digits of the half width
        assert half == exact(50 * (row.high_all - row.low_all), rel=0.051)
        assert value == exact(
            sign * 100 * row["diff"], abs=0.51 * 10 ** math.floor(math.log10(half or 1e-3))
        )
        assert value >= half and value > 0
        if kind == "Distillation hurts":  # every configuration that has run well
            run = table[table.n > table.n.max() / 2]
            assert (run.p_holm < 0.05).all() and (run.high_all < 0).all()
        printed = float(re.search(rf"p = ({NUMBER})", text)[1])
        assert printed == exact(row.p_holm, rel=0.06)
    elif kind == "No difference":
        assert "helps" not in text and "hurts" not in text and "beats" not in text
        if printed := re.search(rf"No difference found: .*p = ({NUMBER})", text):
            assert float(printed[1]) >= 0.05 or "behind" in text
    return kind


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    repeats=st.integers(1, 9),
    effects=st.lists(
        st.sampled_from([-0.05, -0.02, 0.0, 0.012, 0.02, 0.05]), min_size=1, max_size=5
    ),
    images=st.sampled_from([50, 500, 10**9]),
    gaps=st.floats(0, 0.3),
)
def test_it_never_claims_what_the_interval_does_not_carry(
    seed: int, repeats: int, effects: list, images: int, gaps: float
) -> None:
    alphas = [0.1, 0.3, 0.5, 0.7, 0.9][: len(effects)]
    last = draw(dict(zip(alphas, effects, strict=True)) | {1.0: 0.0}, repeats, seed)
    rng = np.random.default_rng(seed)
    whole = {a: [round(x * images) / images for x in accs] for a, accs in last.items()}
    holed = {a: [x if rng.uniform() >= gaps else None for x in accs] for a, accs in whole.items()}
    if any(x is not None for accs in holed.values() for x in accs):
        check(said(holed), holed)


def test_a_gain_that_holm_finds_but_the_family_interval_does_not() -> None:
    # far behind at 0.1 pays for Holm's first step; 0.5 has p = .035: Holm's, too, but the interval
    # at 1 - .05 / 2 holds 0
    d = 0.0084 + np.array([0.01, -0.01, 0.005, -0.005, 0.002, -0.002])
    last = {0.1: 0.4 + np.arange(6) * 0.001, 0.5: 0.8 + d, 1.0: [0.8] * 6}
    table = compare(trials_of(last), Criterion()).set_index("config/alpha")
    assert table.p_holm[0.5] < 0.05 and table.low_all[0.5] < 0
    text = said(last)
    assert text.startswith(
        "No difference is sure: alpha = 0.5 against plain training: +0.84 ± 0.93 points"
    )


@pytest.mark.slow
def test_false_alarms_without_any_effect() -> None:
    studies, kinds = 1500, []
    for seed in range(studies):
        last = draw({0.1: 0.0, 0.3: 0.0, 0.5: 0.0, 0.7: 0.0, 1.0: 0.0}, 8, seed)
        kinds.append(check(said(last), last))
    helps = kinds.count("Distillation helps") / studies
    # half of the family's 5 %, and the common baseline makes Holm's bound conservative
    assert helps <= 0.025 + 4 * math.sqrt(0.025 / studies)
    assert kinds.count("Distillation hurts") / studies <= 0.01


@pytest.mark.slow
def test_power_is_what_is_promised() -> None:
    # an effect of the size that 8 repeats of one comparison find with 80 %
    sd, studies = math.sqrt(2) * 0.01, 1000
    effect = detectable_difference(sd, 8)
    found = sum(
        said(draw({0.5: effect, 1.0: 0.0}, 8, seed)).startswith("Distillation helps")
        for seed in range(studies)
    )
    assert found / studies == exact(0.8, abs=4 * math.sqrt(0.16 / studies))


# -- the table and the best as text ----------------------------------------------------------------


def test_comparison_rows_by_hand() -> None:
    table = compare(trials_of({0.5: [0.81, 0.82, 0.86], 1.0: [0.8, 0.8, 0.83]}), Criterion())
    head, rows = comparison_rows(table, ["alpha"], Criterion())
    assert head[:3] == ["alpha", "difference (points)", "n"]
    # differences 1, 2, 3 points: mean 2, sd 1, t = 3.46, p = .074
    half = 4.302653 / math.sqrt(3)
    assert rows[0][:4] == ["0.5", f"+2.0 ± {half:.1f}", "3", "0.074"]
    assert dict(zip(head, rows[0], strict=True))["win/tie/loss"] == "3/0/0"


def test_the_best_beyond_val(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.81, 0.82, 0.86], 1.0: [0.8, 0.8, 0.83]})
    text = best_sentence(made.selection(), Criterion(), "alpha = 0.5", made.context())
    # test's accuracy is val's - 0.1
    assert text.startswith("Best: alpha = 0.5; acc on val 83.0, which chose it; not corrected ")
    assert "; test 73.0. On test" in text
    assert "On test against plain training: +2.0 ± 2.5 points." in text
    empty = made.selection().iloc[:0]
    assert best_sentence(empty, Criterion(), "alpha = 0.5", made.context()) == ""
