"""Conclusions on studies whose truth is known, and claims that they must never make."""

import math
import re

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from study_folders import draw, grid, make, trials_of

from kdtune.config.run import DISTILLATION
from kdtune.results.comparison import DEFAULT, Criterion, compare, comparison_rows
from kdtune.results.words import ComparisonContext, best_sentence, short_verdict, verdict
from kdtune.statistics.intervals import Components
from kdtune.statistics.tests import detectable_difference, repeats_needed, shrunk

exact = pytest.approx
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e-?\d+)?"
AMOUNT = re.compile(rf" by ({NUMBER}) percentage points.*95% CI ({NUMBER}) to ({NUMBER}), ")
BETTER, WORSE = r"Distillation \(.*\) improved", r"Distillation .*worsened"


def said(last, criterion: Criterion = DEFAULT, by=("alpha",), planned: int | None = None) -> str:
    repeats = planned or max(map(len, last.values()))
    return verdict(
        compare(trials_of(last), criterion),
        criterion,
        by,
        ComparisonContext(DISTILLATION.baseline_words, repeats),
    )


def alone(sd: float) -> Components:
    """Return the components of differences that vary over repeats alone."""
    return Components(sd**2, math.nan, math.nan)


def amount(text: str) -> tuple[float, float]:
    """Return the printed difference and half the width of the printed interval."""
    value, low, high = map(float, AMOUNT.search(text).groups())
    return value, (high - low) / 2


# -- studies whose truth is known ------------------------------------------------------------------


def test_a_large_effect_is_found() -> None:
    # 5 points, differences of sd 1.4, 8 repeats: power 1 to four digits
    text = said(draw({0.1: 0.0, 0.5: 0.05, 1.0: 0.0}, 8))
    assert text.startswith("Distillation (alpha = 0.5) improved validation accuracy by ")
    value, half = amount(text)
    assert abs(value - 5) < half < 3
    assert "(simultaneous 95% CI " in text and text.endswith(" over 2 comparisons, n = 8 repeats).")


def test_harm_is_found() -> None:
    text = said(draw({0.1: -0.08, 0.5: -0.05, 1.0: 0.0}, 8))
    assert text.startswith(
        "Distillation in every configuration worsened validation accuracy, the best one "
        "(alpha = 0.5) by "
    )
    text = said(draw({0.5: -0.05, 1.0: 0.0}, 8))
    assert text.startswith("Distillation (alpha = 0.5) worsened validation accuracy by ")


def test_the_best_mean_may_be_significantly_worse_where_another_is_not() -> None:
    """The second is further behind, but varies so much that nothing is known."""
    rng = np.random.default_rng(0)
    last = {1.0: 0.8 + 0.01 * rng.normal(size=8)}
    last[0.1] = last[1.0] - 0.01 + 0.0005 * rng.normal(size=8)
    last[0.5] = last[1.0] - 0.03 + np.tile([0.2, -0.2], 4)
    text = said({alpha: list(accs) for alpha, accs in last.items()})
    assert text.startswith("Distillation (alpha = 0.1) worsened validation accuracy by ")
    assert text.endswith(" No other configuration has a better mean.")
    table = compare(trials_of(last), Criterion())
    short = short_verdict(table, Criterion(), ComparisonContext("plain training", 8))
    assert short.startswith("worse: -1.")


def test_without_an_effect_none_is_found() -> None:
    last = draw({0.1: 0.0, 0.5: 0.0, 1.0: 0.0}, 8, seed=2)
    text = said(last)
    assert text.startswith("No significant difference in validation accuracy: alpha = ")
    # the minimum detectable difference is that of the configuration that is named
    table = compare(trials_of(last), Criterion())
    seen = detectable_difference(alone(table.sd[0]), 8, math.nan, 0.05 / 2)
    assert (
        f"minimum detectable difference at 80% power with 8 repeats and 2 comparisons: "
        f"{100 * seen:.1f} percentage points."
    ) in text


def test_of_a_small_effect_the_repeats_for_80_percent_power_are_given() -> None:
    # 0.7 points, differences of sd 1.4: half an sd, which wants some 34 repeats
    d = np.array([0.021, -0.007, 0.021, -0.007])
    text = said({0.5: 0.8 + d, 1.0: [0.8] * 4})
    parts = alone(d.std(ddof=1))
    gain = shrunk([d.mean()], [parts.error(4, math.nan)], 0)
    needed = repeats_needed(gain, parts)
    assert text.startswith(
        "No significant difference in validation accuracy: alpha = 0.5 against training without "
        "distillation: +0.7 percentage points (95% CI "
    )
    assert (
        f"If the true difference is {100 * gain:.1f} percentage points (the estimate, shrunk by "
        f"its uncertainty), {needed} repeats give 80% power (--repeats {needed})."
    ) in text
    assert 60 < needed < 200  # the estimate itself would take 34
    tiny = said({0.5: 0.8 + d - 0.0068, 1.0: [0.8] * 4})
    assert re.search(r"difference is 0\.\d* .*, more than 200 repeats are needed", tiny)


def test_more_repeats_are_not_suggested_for_a_worse_estimate() -> None:
    text = said({0.5: [0.79, 0.8, 0.78, 0.81], 1.0: [0.8, 0.79, 0.8, 0.802]})
    assert "alpha = 0.5 against training without distillation: -0.3" in text
    assert "The estimate is not an improvement" in text and "--repeats" not in text


def test_significantly_worse_configurations_are_counted() -> None:
    text = said(draw({0.1: -0.06, 0.3: -0.06, 0.5: 0.0, 1.0: 0.0}, 8, seed=2))
    assert text.startswith("No significant difference in validation accuracy: alpha = 0.5")
    assert text.endswith("2 of 3 configurations were significantly worse.")


def test_ties() -> None:
    text = said({0.5: [0.7, 0.8, 0.75], 1.0: [0.7, 0.8, 0.75]})
    assert text.startswith("No significant difference") and "all 3 differences are 0." in text
    # ahead by one image of 500 in every repeat: only signs can tell, 2 / 2^n
    text = said({0.5: [0.702, 0.802, 0.752], 1.0: [0.7, 0.8, 0.75]})
    assert text.startswith("No significant difference") and "(p = 0.25 (sign-flip test)" in text
    assert "; it was better in all 3 repeats" in text
    assert "detectable" not in text and "80% power" not in text
    assert "6 repeats would" in text  # 2 / 2^6 = .031
    sure = said({0.5: np.arange(6) / 100 + 0.702, 1.0: np.arange(6) / 100 + 0.7})
    assert re.match(BETTER, sure) and "(p = 0.031 (sign-flip test), n = 6 repeats)" in sure


@pytest.mark.parametrize("last", [{0.5: [0.9], 1.0: [0.5]}, {0.5: [0.9, 0.8], 1.0: [0.5, None]}])
def test_one_common_repeat_gives_no_conclusion(last) -> None:
    assert said(last).startswith(
        "No conclusion: 1 common repeat, but a comparison needs at least 3"
    )


def test_no_common_repeat_gives_no_conclusion() -> None:
    text = said({0.5: [None, 0.7], 1.0: [0.6, None]})
    assert text.startswith("No conclusion: no common repeats, but a comparison needs at least 3")


def test_rounding_errors_of_equal_differences_are_not_shown() -> None:
    text = said({0.5: [0.76, 0.78, 0.74, 0.8, 0.82, 0.7], 1.0: [0.74, 0.76, 0.72, 0.78, 0.8, 0.68]})
    assert " by 2.00 percentage points (p = 0.031 (sign-flip test), n = 6 repeats)." in text


def test_two_repeats() -> None:
    """Any interval of two numbers is too wide to mean anything: -25 +- 407 points."""
    text = said({0.5: [0.8, 0.802], 1.0: [0.7, 0.7]})
    assert text.startswith("No conclusion: 2 common repeats, but a comparison needs at least 3; ")


@pytest.mark.parametrize("last", [{0.5: [0.9, 0.8], 0.1: [0.7, 0.7]}, {1.0: [0.7, 0.7]}])
def test_one_arm_gives_no_conclusion(last) -> None:
    assert said(last).startswith(
        "No conclusion: the study needs completed runs both with alpha = 1"
    )
    criterion = Criterion(baseline={"alpha": 0.7})
    assert "No conclusion: completed runs of training without distillation and of other" in said(
        last, criterion
    )


@pytest.mark.parametrize("fate", ["failed", "truncated", "running"])
def test_runs_that_did_not_complete_are_excluded(tmp_path, fate: str) -> None:
    # the unfinished one would turn the verdict
    last = draw({0.5: 0.05, 1.0: 0.0}, 8)
    last[0.5][3] = 0.1
    text = make(tmp_path, last, {(0.5, 3): fate}).verdict()
    assert (
        text.startswith("Distillation (alpha = 0.5) improved") and ", n = 7 of 8 repeats)" in text
    )


def test_a_lucky_repeat_is_not_named() -> None:
    last = draw({0.1: 0.0, 0.5: 0.04, 1.0: 0.0}, 8)
    last[0.1] = [0.99] + [None] * 7
    assert said(last).startswith("Distillation (alpha = 0.5) improved")


def test_the_comparisons_named_are_those_adjusted_for() -> None:
    last = draw({0.1: 0.0, 0.3: 0.0, 0.5: 0.02, 1.0: 0.0}, 8)
    last[0.1] = [*last[0.1][:4], None, None, None, None]  # compared, but too few to be named
    table = compare(trials_of(last), Criterion())
    row = table[table["config/alpha"] == 0.5].iloc[0]
    assert row.p_holm == exact(3 * row.p)
    assert "over 3 comparisons" in said(last)


def test_the_baseline_and_all_searched_hyperparameters_are_named(tmp_path) -> None:
    runs = {
        run: 0.06 * (run.alpha < 1) + 0.1 * (run.lr == 0.1)
        for run in grid([0.5, 1.0], lr=[0.01, 0.1])
    }
    made = make(tmp_path, draw(runs, 6))
    text = made.verdict()
    assert text.startswith("Distillation (alpha = 0.5, lr = 0.1) improved validation accuracy by 5")
    assert " compared with training without distillation (lr = 0.1) (simultaneous " in text
    text = made.verdict(Criterion(baseline={"alpha": 0.5}))
    assert text.startswith("Every other configuration worsened validation accuracy, the best one ")
    assert "one (alpha = 1, lr = 0.1) by " in text and "Distillation" not in text
    assert " compared with alpha = 0.5 (lr = 0.1) (" in text


def test_mse_has_no_temperature_to_name(tmp_path) -> None:
    runs = grid([0.5, 1.0], loss=["mse", "kl"], temperature=[1.0, 4.0])
    last = draw({run: 0.08 * (run.loss == "mse" and run.alpha < 1) for run in runs}, 6)
    text = make(tmp_path, last).verdict()
    assert text.startswith(
        "Distillation (loss = mse, alpha = 0.5) improved validation accuracy by "
    )


@pytest.mark.parametrize(
    ("metric", "words"),
    [
        ("ce", "cross-entropy by {} nats ("),
        ("gap", "gap to the teacher by {} percentage points ("),
        ("kl", "KL divergence by {} nats ("),
        ("agreement", "agreement by {} percentage points ("),
        ("logit_diff", "logit difference by {} ("),
    ],
)
def test_other_metrics_have_their_label_unit_and_direction(
    tmp_path, metric: str, words: str
) -> None:
    # higher accuracy comes with lower ce, gap and kl, higher agreement
    text = make(tmp_path, draw({0.5: 0.05, 1.0: 0.0}, 8)).verdict(Criterion(metric))
    value = re.search(rf" by ({NUMBER}) ", text)[1]
    assert text.startswith(f"Distillation (alpha = 0.5) improved validation {words.format(value)}")
    assert float(value) > 0
    # the interval is that of the signed difference, as in the table
    low, high = map(float, re.search(rf"CI ({NUMBER}) to ({NUMBER}),", text).groups())
    sign = 1 if metric == "agreement" else -1
    assert low < sign * float(value) < high and sign * low > 0


# -- claims that the numbers do not support --------------------------------------------------------


def check(text: str, last) -> str:
    """Return the kind of a conclusion after asserting that the numbers support it."""
    table = compare(trials_of(last), Criterion())
    text = text.removeprefix("The study is too small to decide whether there is a difference. ")
    kinds = {BETTER: "better", WORSE: "worse", "No significant": "none", "No conclusion": "no"}
    (kind,) = (kind for pattern, kind in kinds.items() if re.match(pattern, text))
    if kind in ("better", "worse"):
        name = re.search(r"alpha = ([\d.]+)", text)[1].rstrip(".")
        row = table[table["config/alpha"] == float(name)].iloc[0]
        sign = 1 if kind == "better" else -1
        assert row.p_holm < 0.05
        assert sign * row["diff"] > 0
        if math.isnan(row.low):  # all differences are equal
            assert "(sign-flip test)" in text
            return kind
        # the interval of the family excludes 0, and so does what is printed of it
        assert (row.low if sign > 0 else -row.high) > 0
        value, half = amount(text)
        low, high = (float(end) for end in AMOUNT.search(text).groups()[1:])
        # each end to two digits of the half width
        step = 10 ** math.floor(math.log10(50 * (row.high - row.low) or 1e-3)) / 10
        assert half == exact(50 * (row.high - row.low), abs=0.51 * step + 1e-9)
        assert value == exact(
            sign * 100 * row["diff"], abs=0.51 * 10 ** math.floor(math.log10(half or 1e-3))
        )
        assert (low >= 0 if sign > 0 else high <= 0) and value > 0
        if kind == "worse":  # every configuration that has run well
            run = table[table.n > table.n.max() / 2]
            untested = run.p_holm.isna()
            assert ("too few common repeats for a test" in text) == untested.any()
            run = run[~untested]
            if "in every configuration" in text:  # else it is about the best one alone
                assert (run.p_holm < 0.05).all() and (run.high < 0).all()
        printed = re.search(rf"p = ({NUMBER})", text)
        assert (
            row.p_holm < 0.001
            if printed is None
            else (float(printed[1]) == exact(row.p_holm, rel=0.06))
        )
    elif kind == "none":
        assert "improved" not in text and "worsened" not in text
        if "since the interval includes 0" not in text:
            printed = re.search(rf"p = ({NUMBER})", text)
            assert printed is None or float(printed[1]) >= 0.05 or "were significantly" in text
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
@example(seed=403, repeats=4, effects=[-0.05, -0.05], images=500, gaps=0.25)  # one of two is clear
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


def test_holms_p_below_the_level_with_an_interval_that_includes_0() -> None:
    # far behind at 0.1 pays for Holm's first step; 0.5 has p = .035: Holm's, too, but the interval
    # at 1 - .05 / 2 holds 0
    d = 0.0084 + np.array([0.01, -0.01, 0.005, -0.005, 0.002, -0.002])
    last = {0.1: 0.4 + np.arange(6) * 0.001, 0.5: 0.8 + d, 1.0: [0.8] * 6}
    table = compare(trials_of(last), Criterion()).set_index("config/alpha")
    assert table.p_holm[0.5] < 0.05 and table.low[0.5] < 0
    text = said(last)
    assert text.startswith(
        "No significant difference in validation accuracy: alpha = 0.5 against training without "
        "distillation: +0.84 percentage points (simultaneous 95% CI -0.09 to +1.77, Holm-adjusted "
        "p = 0.035 over 2 comparisons, n = 6 repeats), since the interval includes 0; "
    )


@pytest.mark.slow
def test_false_alarms_without_any_effect() -> None:
    studies, kinds = 1500, []
    for seed in range(studies):
        last = draw({0.1: 0.0, 0.3: 0.0, 0.5: 0.0, 0.7: 0.0, 1.0: 0.0}, 8, seed)
        kinds.append(check(said(last), last))
    better = kinds.count("better") / studies
    # half of the family's 5 %, and the common baseline makes Holm's bound conservative
    assert better <= 0.025 + 4 * math.sqrt(0.025 / studies)
    assert kinds.count("worse") / studies <= 0.01


@pytest.mark.slow
def test_power_is_as_stated() -> None:
    # an effect of the size that 8 repeats of one comparison find with 80 %
    sd, studies = math.sqrt(2) * 0.01, 1000
    effect = detectable_difference(alone(sd), 8, math.nan)
    found = sum(
        bool(re.match(BETTER, said(draw({0.5: effect, 1.0: 0.0}, 8, seed))))
        for seed in range(studies)
    )
    assert found / studies == exact(0.8, abs=4 * math.sqrt(0.16 / studies))


# -- the table and the best as text ----------------------------------------------------------------


def test_comparison_rows_by_hand() -> None:
    table = compare(trials_of({0.5: [0.81, 0.82, 0.86], 1.0: [0.8, 0.8, 0.83]}), Criterion())
    head, rows = comparison_rows(table, ["alpha"], Criterion(), full=True)
    assert head[:4] == ["alpha", "difference (points)", "95% CI (simultaneous)", "n"]
    # differences 1, 2, 3 points: mean 2, sd 1, t = 3.46, p = .074
    half = 4.302653 / math.sqrt(3)
    ends = f"[{2 - half:+.1f}, {2 + half:+.1f}]"
    assert rows[0][:5] == ["0.5", "+2.0", ends, "3", "0.074"]
    named = dict(zip(head, rows[0], strict=True))
    assert (named["wins/ties/losses"], named["win rate"]) == ("3/0/0", "1.00")


@pytest.mark.parametrize("metric", ["acc", "ce", "agreement", "logit_diff"])
def test_a_comparison_has_one_interval_wherever_it_is_shown(tmp_path, metric: str) -> None:
    """At the level of its adjusted p: the simultaneous one."""
    made = make(tmp_path, draw({0.1: 0.03, 0.3: 0.035, 0.5: 0.05, 1.0: 0.0}, 8))
    criterion = Criterion(metric)
    _, (best, *_) = comparison_rows(made.compare(criterion), made.by, criterion)
    low, high = re.fullmatch(rf"\[({NUMBER}), ({NUMBER})\]", best[2]).groups()
    assert f"(simultaneous 95% CI {low} to {high}, " in made.verdict(criterion)
    assert f"by {best[1].lstrip('+-')} " in made.verdict(criterion)


def test_the_best_configuration_on_other_data(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.81, 0.82, 0.86], 1.0: [0.8, 0.8, 0.83]})
    text = best_sentence(made.selection(), Criterion(), "alpha = 0.5", made.context())
    # test's accuracy is val's - 0.1
    assert text.startswith(
        "Best configuration: alpha = 0.5. Mean accuracy (%): validation 83.0 (optimistic: used for "
        "the selection), not corrected "
    )
    assert ", test 73.0. Test accuracy" in text
    half = 4.302653 / math.sqrt(3)  # differences 1, 2, 3 points, as on val
    ends = f"{2 - half:+.1f} to {2 + half:+.1f}"
    assert f"distillation by +2.0 percentage points (95% CI {ends})." in text
    empty = made.selection().iloc[:0]
    assert best_sentence(empty, Criterion(), "alpha = 0.5", made.context()) == ""
