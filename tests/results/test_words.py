"""Results in words, whose truth is known, and warnings about records, files and teachers."""

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats
from study_folders import (
    RUN,
    at,
    draw,
    edit_records,
    make,
    make_final,
    trials_of,
    write_final,
    write_predictions,
    write_records,
    write_round,
    write_study,
)

import kdtune
from kdtune.config.files import PREDICTIONS, STUDENT
from kdtune.config.records import Accuracy, TeacherAccuracy, write_teacher_accuracy
from kdtune.config.run import DISTILLATION
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.planning.ledger import final_test, finalists
from kdtune.planning.plan import Plan
from kdtune.reporting.sections import teacher_table
from kdtune.results.comparison import DEFAULT, Criterion, Judged, compare, tuning_effort
from kdtune.results.formatting import comparison_rows
from kdtune.results.results import Results, load
from kdtune.results.several import list_studies
from kdtune.results.warnings import Named, check_teachers, find_doubts, find_teacher_faults
from kdtune.results.words import (
    ComparisonContext,
    default_text,
    effort_warning,
    power_text,
    steps_warning,
    verdict,
    what_would_help,
)
from kdtune.statistics.intervals import Components, by_group
from kdtune.statistics.tests import anytime_p, repeats_needed, shrunk
from kdtune.storage.records import pack_correct, read_lines

exact = pytest.approx
NUMBER = r"[+-]?\d+(?:\.\d+)?(?:e-?\d+)?"
AMOUNT = re.compile(rf" by ({NUMBER}) percentage points.*95% CI ({NUMBER}) to ({NUMBER}), ")
BETTER, WORSE = r"Distillation \(.*\) improved", r"Distillation .*worsened"


def said(last) -> str:
    context = ComparisonContext(DISTILLATION.baseline_words, max(map(len, last.values())))
    return verdict(compare(Judged(trials_of(last), DEFAULT)), DEFAULT, ["alpha"], context)


def test_of_a_small_effect_the_repeats_for_80_percent_power_are_given() -> None:
    # 0.7 points, differences of sd 1.4: half an sd, which wants some 34 repeats
    d = np.array([0.021, -0.007, 0.021, -0.007])
    text = said({0.5: 0.8 + d, 1.0: [0.8] * 4})
    parts = Components(d.std(ddof=1) ** 2, math.nan, math.nan)
    gain = shrunk([d.mean()], [parts.error(4, math.nan)], 0)
    needed = repeats_needed(gain, parts, math.nan)
    assert (
        f"If the true difference is {100 * gain:.1f} percentage points (the estimate, shrunk by "
        f"its uncertainty), {needed} repeats give 80% power (--repeats {needed})."
    ) in text
    assert 60 < needed < 200  # the estimate itself would take 34
    tiny = said({0.5: 0.8 + d - 0.0068, 1.0: [0.8] * 4})
    assert re.search(r"difference is 0\.\d* .*, more than 200 repeats are needed", tiny)


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


@pytest.mark.parametrize("metric", ["acc", "ce"])
def test_a_comparison_has_one_interval_and_direction_anywhere(clear: Results, metric: str) -> None:
    """The interval is simultaneous, as the adjusted p, and of the signed difference."""
    criterion = Criterion(metric)
    _, (best, *_) = comparison_rows(clear.compare(criterion), clear.by, criterion)
    low, high = re.fullmatch(rf"\[({NUMBER}), ({NUMBER})\]", best[2]).groups()
    value, text = float(best[1].lstrip("+-")), clear.verdict(criterion)
    assert text.startswith("Distillation (alpha = 0.5) improved validation ")
    assert f" by {best[1].lstrip('+-')}" in text
    assert f"(simultaneous 95% CI {low} to {high}, " in text
    sign = 1 if metric in ("acc", "agreement") else -1
    assert value > 0 and float(low) < sign * value < float(high) and sign * float(low) > 0


@pytest.fixture(scope="module")
def clear(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study in which higher accuracy comes with lower ce, gap and kl, and higher agreement."""
    return make(tmp_path_factory.mktemp("clear"), draw({0.1: 0.03, 0.5: 0.05, 1.0: 0.0}, 8))


def check(text: str, last) -> str:
    """Return the kind of a conclusion after asserting that the numbers support it."""
    table = compare(Judged(trials_of(last), Criterion()))
    none = "No significant|The study is too small"
    kinds = {BETTER: "better", WORSE: "worse", none: "none", "No conclusion": "no"}
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
        value, low, high = map(float, AMOUNT.search(text).groups())
        half = (high - low) / 2
        # each end to two digits of the half width
        step = 10 ** math.floor(math.log10(50 * (row.high - row.low) or 1e-3)) / 10
        assert half == exact(50 * (row.high - row.low), abs=0.51 * step + 1e-9)
        digit = 10 ** math.floor(math.log10(half or 1e-3))
        assert value == exact(sign * 100 * row["diff"], abs=0.51 * digit)
        assert (low >= 0 if sign > 0 else high <= 0) and value > 0
        if kind == "worse":  # every configuration that has run well
            run = table[table.n > table.n.max() / 2]
            untested = run.p_holm.isna()
            assert ("too few common repeats for a test" in text) == untested.any()
            run = run[~untested]
            if "in every configuration" in text:  # else it is about the best one alone
                assert (run.p_holm < 0.05).all() and (run.high < 0).all()
        printed = re.search(rf"p = ({NUMBER})", text)
        if printed is None:
            assert row.p_holm < 0.001
        else:
            assert float(printed[1]) == exact(row.p_holm, rel=0.06)
    elif kind == "none":
        assert "improved" not in text and "worsened" not in text
        if "since the interval includes 0" not in text:
            printed = re.search(rf"p = ({NUMBER})", text)
            assert printed is None or float(printed[1]) >= 0.05 or "were significantly" in text
    return kind


@settings(deadline=None, max_examples=5)
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
    table = compare(Judged(trials_of(last), Criterion())).set_index("config/alpha")
    assert table.p_holm[0.5] < 0.05 and table.low[0.5] < 0
    assert ", since the interval includes 0; " in said(last)


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
    fixed = compare(Judged(trials_of(last), Criterion()))
    anytime = compare(Judged(trials_of(last), Criterion(), anytime_level=0.05))
    assert fixed.p[0] < 0.05 < anytime.p[0]
    assert anytime.p[0] == exact(anytime_p(differences.tolist()))
    assert anytime.low[0] < 0 < fixed.low[0]
    context = ComparisonContext("plain training", math.nan, held_out=True, anytime_level=0.05)
    _, ((_, shown, ends, *_),) = comparison_rows(anytime, ["alpha"], Criterion(), 0.05)
    low, high = 100 * anytime.low[0], 100 * anytime.high[0]
    assert (shown, ends) == ("+1.1", f"[{low:+.1f}, {high:+.1f}]")  # the interval that holds
    text = verdict(anytime, Criterion(), ["alpha"], context)
    assert f"always-valid 95% CI {low:+.1f} to {high:+.1f}, always-valid p = " in text


RACED = {0.1: [0.6, 0.61], 0.5: [0.7, 0.71], 1.0: [0.65, 0.66]}
FINAL = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}
STUDIES = {"race": {"policy": "race"}, "auto": {"until_decided": True, "budget": "9runs"}}


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Results]:
    """Studies with final repeats, whose number was fixed or not."""
    folder = tmp_path_factory.mktemp("decided")
    return {kind: make_final(folder / kind, RACED, FINAL, **own) for kind, own in STUDIES.items()}


@pytest.mark.parametrize("kind", STUDIES)
@pytest.mark.parametrize("baseline", [{"alpha": 1}, {"alpha": 0.1}])
def test_all_sentences_are_about_the_trials_of_the_criterion(decided, kind, baseline) -> None:
    """Another baseline than no distillation is compared on the repeats of the search."""
    made, criterion = decided[kind], Criterion(baseline=baseline)
    held_out = criterion.has_task_baseline
    assert set(made.compare(criterion).n) == {4 if held_out else 2}
    assert made.best(criterion) == at(0.5).config_id
    text = made.text(criterion=criterion)
    assert ("held-out repeats" in text) == held_out
    assert ("optimistic: used for the selection" in text) != held_out
    assert ("always-valid" in text) == (held_out and kind == "auto")


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


# 8 repeats of 500 images: parts 1e-5, 4e-5 and 2.5e-5 of the variance, 7.5e-5 in all
PARTS = {"var_repeat": 8e-5, "var_image": 0.02, "var_rest": 0.1}


def row(diff: float, **own: float) -> dict[str, float]:
    """Return a row of a comparison of 8 repeats and 500 images, with an interval of +-3 points."""
    values = {"diff": diff, "sd": 0.01, "n": 8, "n_images": 500, "p": 0.3, "df": 60} | PARTS | own
    parts = [values["var_repeat"] / 8]
    if not math.isnan(values["n_images"]):
        parts += [values["var_image"] / values["n_images"]]
        parts += [values["var_rest"] / (8 * values["n_images"])]
    ends = {"low": diff - 0.03, "high": diff + 0.03, "error": math.sqrt(sum(parts))}
    return values | ends | own


SHARES = "13% comes from the repeats alone, 53% from the images alone, 33% from both together."


def half(repeats: int, images: int, m: int) -> float:
    """Return the half width in points, with Satterthwaite's df of three mean squares."""
    of_repeat, of_image, of_rest = 8e-5 / repeats, 0.02 / images, 0.1 / (repeats * images)
    a, b, c = of_repeat + of_rest, of_image + of_rest, of_rest
    v, rows, columns = a + b - c, repeats - 1, images - 1
    df = v**2 / (a**2 / rows + b**2 / columns + c**2 / (rows * columns))
    return 100 * float(stats.t.ppf(1 - 0.025 / m, df)) * math.sqrt(v)


def test_shares_and_other_designs_by_hand_and_what_repeats_cannot_show() -> None:
    text = what_would_help(pd.Series(row(0.01)), 4, DEFAULT)
    now, repeats, images = half(8, 500, 4), half(16, 500, 4), half(8, 1000, 4)
    repeats, images = 3 * repeats / now, 3 * images / now
    assert text == (
        f"8 more repeats would narrow the interval from ±3.0 to ±{repeats:.2g}; 500 more val "
        f"images would narrow it to ±{images:.2g}. Of the variance of the difference, {SHARES}"
    )
    # infinitely many repeats leave an error of 0.63 points: 80 % power takes 2.2 points
    few, many = (pd.DataFrame([row(0.01, n_images=n, var_image=0.02)]) for n in (500, 5000))
    text = "No number of repeats gives 80% power for 1 point with 500 val images."
    assert text in power_text(few, 4, DEFAULT)
    assert "No number of repeats" not in power_text(many, 4, DEFAULT)


def test_where_repeats_are_not_independent_no_number_of_them_is_advised() -> None:
    """Folds and several teachers: the error is larger, or has fewer degrees of freedom.

    By hand, of folds: 8e-5 / 8 of the variance 3.6e-5 falls with the repeats, the rest stays.
    """
    wide = stats.t.ppf(0.975, 15) * math.sqrt(2.6e-5 + 8e-5 / 16) / stats.t.ppf(0.975, 7) / 0.006
    help = f" 8 more repeats would narrow the interval from ±3.0 to ±{3 * wide:.1f}."
    alone = row(0.018, n_images=math.nan, var_image=math.nan, var_rest=math.nan)
    for own, end in (({"error": 0.006, "df": 7}, help), ({"df": 2}, "")):
        given = alone | own
        text = power_text(pd.DataFrame([given]), 1, DEFAULT)
        found = re.search(rf"and 1 comparison: (\S+) percentage points\.{re.escape(end)}$", text)
        able = float(found[1]) / 100
        critical, shift = stats.t.ppf(0.975, given["df"]), able / given["error"]
        power = stats.nct.sf(critical, given["df"], shift)
        assert power == pytest.approx(0.8, abs=0.03)


@pytest.mark.parametrize("groups", [0, 40])
def test_the_comparison_is_the_one_that_the_plan_decides_by(tmp_path, groups: int) -> None:
    search = {0.5: [0.8, 0.8], 1.0: [0.7, 0.7]}
    final = {0.5: [0.78, 0.804, 0.79, 0.81, 0.8], 1.0: [0.738, 0.756, 0.74, 0.752, 0.76]}
    adds = {"until_decided": True, "budget": "14runs", "level": 0.1}
    made = make_final(tmp_path, search, final, **adds)
    frame = write_predictions(made, 2.0, groups=groups)
    correct = {
        trial: by_group(own.correct, own.group) if groups else own.correct
        for trial, own in frame.groupby("trial_id")
    }
    made, (lines, _) = load(tmp_path), read_lines(tmp_path)
    for line in lines:
        if line["kind"] == "epoch" and (line["split"], line["epoch"]) == ("val", 2):
            line["correct"] = pack_correct(correct[line["trial_id"]])
    ledger = Plan(made.study, lines).ledger
    test = final_test(ledger, finalists(ledger)[0])
    compared = made.compare().iloc[0]
    assert test.images == compared.n_images == (groups or 500) and test.n == compared.n == 5
    assert test.p == pytest.approx(compared.p)
    assert test.interval(0.1) == pytest.approx((compared.low, compared.high))
    assert test.is_undecidable(0.1) == compared.undecidable


MISS = "So the search did not improve on the default."
LOSS = "Warning: the chosen configuration is significantly worse than the recipe's default."


@pytest.mark.parametrize("metric", ["acc", "ce"])
@pytest.mark.parametrize(("gain", "said"), [(-0.04, MISS), (-0.24, LOSS), (0.24, "")])
def test_a_default_that_was_better_on_test_is_said(metric: str, gain: float, said: str) -> None:
    """The interval of the difference is +-0.1."""
    criterion = Criterion(metric)
    diff = criterion.sign * gain
    numbers = {"test/mean": diff, "test/low": diff - 0.1, "test/high": diff + 0.1}
    rows = [{"row": "default", "test/mean": 0.5}, {"row": "chosen - default", **numbers}]
    text = default_text(pd.DataFrame(rows), criterion, "alpha = 1", ComparisonContext("", 3))
    assert text.endswith(said) and [part in text for part in (MISS, LOSS)].count(True) == bool(said)


NOISE = [0.0, 0.01, -0.01, 0.02, -0.02, 0.005]


def test_the_rival_is_named_and_the_tuning_of_each_arm_counted(tmp_path: Path) -> None:
    """The baseline is best with label smoothing 0.1; distillation is better."""
    means = {at(1.0, label_smoothing=s): m for s, m in ((0.0, 0.60), (0.1, 0.64), (0.2, 0.62))}
    means[at(0.5)] = 0.70
    space = {"alpha": (0.5, 1.0), "label_smoothing": (0.0, 0.1, 0.2)}
    last = {run: [mean + noise for noise in NOISE] for run, mean in means.items()}
    made = make(tmp_path, last, space=space)
    rival = "training without distillation but with label smoothing 0.1"
    assert f"compared with {rival}" in made.verdict()
    assert "improved validation accuracy by 6.00 percentage points" in made.verdict()
    (row,) = made.effort.to_dict("records")
    counts = {"configs": 1, "runs": 6, "baseline_configs": 3, "baseline_runs": 18}
    assert row == {"group": "resnet18", **counts}
    begun = made.trials.assign(n_epochs=made.trials.n_epochs.where(made.trials.repeat > 0, 0))
    assert tuning_effort(begun, made.criterion())["baseline_runs"].tolist() == [15]


@pytest.mark.parametrize(
    ("configs", "baselines", "study", "text"),
    [
        (4, 1, {}, ""),
        (5, 1, {}, "over 1 configuration, the other side over 5: the comparison favours the side"),
        (5, 1, {"search": "tpe", "plain_share": 0.2}, "favours the side with more; --plain-share"),
        (5, 1, {"search": "random", "plain_share": 0.5}, "no more configurations in this space"),
        (1, 5, {}, "distillation was tuned over 1 configuration, the other side over 5"),
    ],
)
def test_unequal_tuning_is_a_warning(configs: int, baselines: int, study: dict, text: str) -> None:
    row = {"group": "resnet18", "configs": configs, "baseline_configs": baselines}
    space = {"alpha": (0.5, 1.0)}
    warning = effort_warning(pd.DataFrame([row]), Study(run=RUN, space=space, **study))
    assert text in warning and bool(text) == bool(warning)


def test_more_steps_with_images_without_labels_are_a_warning() -> None:
    """Three of four images of a batch have no label, so an epoch has four times the steps."""
    run = replace(RUN, extra="images")
    last = {replace(run, alpha=0.5, extra_share=0.75): NOISE, replace(run, alpha=1.0): NOISE}
    assert "up to 4 times as many steps" in steps_warning(trials_of(last), DISTILLATION)
    longer = last | {replace(run, alpha=1.0, epochs=12): NOISE}
    assert not steps_warning(trials_of(longer), DISTILLATION)


LAST = {0.5: [0.7, 0.8, 0.75], 1.0: [0.6, 0.65, 0.5]}
ID = at(0.5, 1).trial_id


def warnings_of(folder: Path) -> list[str]:
    return kdtune.load(folder).warnings


@pytest.mark.parametrize(
    ("last", "warnings"),
    [
        (LAST, []),
        ({0.5: [None], 1.0: [None]}, ["2 runs have not started"]),
        ({0.5: [0.7, 0.8, 0.75], 1.0: [0.6, None, None]}, ["2 runs have not started"]),
        (
            {0.5: [0.7, 0.8, 0.7], 1.0: [0.6, 0.65, 0.5]},  # a seed was not applied
            ["identical learning curves: alpha = 0.5, repeat 0 and alpha = 0.5, repeat 2"],
        ),
    ],
)
def test_the_records_of_a_study(tmp_path: Path, last: dict, warnings: list[str]) -> None:
    assert make(tmp_path, last).warnings == warnings


def test_a_completed_run_with_too_few_epochs_is_truncated(tmp_path: Path) -> None:
    # the starting repository's file of 2 epochs of 25: its end is recorded, its epochs are not
    write_study(tmp_path, LAST)
    file = tmp_path / "epochs" / "00000.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    late = [ID in x and '"kind": "epoch"' in x and '"epoch": 0' not in x for x in lines]
    file.write_text("".join(x for x, is_late in zip(lines, late, strict=True) if not is_late))
    made = kdtune.load(tmp_path)
    assert made.warnings == [f"truncated run excluded: {ID}, alpha = 0.5, repeat 1, 1 of 3 epochs"]
    table = made.summary(metrics=["acc"], full=True).set_index("alpha")
    assert table.loc[0.5, "val/acc/mean"] == pytest.approx((0.7 + 0.75) / 2)
    # and the search takes it up again
    plan = Plan(made.study, read_lines(tmp_path)[0])
    run = plan.next_run()
    assert run is not None and run.trial_id == ID and plan.next_run() is None


@pytest.mark.parametrize(
    ("missing", "of_one"),
    [({"kl": None, "agreement": None}, True), ({"distill": None}, True), ({"nll": 0.5}, False)],
)
def test_a_metric_that_comparable_runs_recorded(tmp_path: Path, missing, of_one: bool) -> None:
    """alpha = 1 has no distillation term, and version 0.1 no nll: that is no problem."""
    write_study(tmp_path, LAST)
    edit_records(tmp_path, lambda x: (x["trial_id"] == ID) == of_one and x.update(missing))
    total = 6
    expected = {f"val {m} missing in 1 of {total} runs: alpha = 0.5, repeat 1" for m in missing}
    assert set(warnings_of(tmp_path)) == expected


@pytest.fixture
def kept(tmp_path: Path) -> Results:
    """A study with a folder per run; no predictions.parquet of the study."""
    made = make(tmp_path / "made", draw({0.5: 0.05, 1.0: 0.0}, 3), keep="all")
    frame = write_predictions(made)
    (made.folder / PREDICTIONS).unlink()
    for name in made.trials.trial_id:
        run = made.folder / "trials" / name
        run.mkdir(parents=True)
        (run / STUDENT).touch()
        frame[frame.trial_id == name].to_parquet(run / PREDICTIONS, index=False)
    return made


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (None, "has the val accuracy {acc}, but the records say 0.1"),
        (lambda own: own[::2], "has 250 examples of val, but the records say 500"),
    ],
    ids=["record", "half of the rows"],
)
def test_predictions_that_contradict_the_records(kept: Results, change, fault: str) -> None:
    """The run counts nowhere, since nobody can tell which of the two is right."""
    file = kept.folder / "trials" / ID / PREDICTIONS
    frame = pd.read_parquet(file)
    if change is None:
        edit_records(
            kept.folder, lambda x: x["trial_id"] == ID and "acc" in x and x.update(acc=0.1)
        )
    else:
        change(frame).to_parquet(file)
    (warning,) = (made := kdtune.load(kept.folder)).warnings
    assert warning.startswith(f"inconsistent run excluded: {ID}, alpha = 0.5, repeat 1, 3 of 3 epo")
    assert f"(trials/{ID}/{PREDICTIONS} {fault.format(acc=frame.correct.mean())}" in warning
    assert made.status == "complete: 5 runs, 1 inconsistent"
    assert made.compare().n.tolist() == [2] and ID not in set(made.predictions().trial_id)
    file.unlink()  # the records are right
    assert "inconsistent" not in set(kdtune.load(kept.folder).trials.status)


GOOD = TeacherAccuracy(
    teacher="big",
    epochs=5,
    weights="runs/x/teacher/teacher.safetensors",
    classes=10,
    splits={"train": Accuracy(300, 297, 30, of=2_000), "val": Accuracy(500, 450, 50)},
    fingerprint="f",
    acc_before=0.85,
    acc_after=0.9,
)
WORDS = "big (5 epochs): 99.0% on train (n = 300 of 2,000), 90.0% on val (n = 500)."


def of_val(correct: int, largest: int = 50) -> TeacherAccuracy:
    return replace(GOOD, splits={"val": Accuracy(500, correct, largest)})


def of_splits(train: int, val: int, test: int = 900) -> TeacherAccuracy:
    counts = {"train": (300, train, 30), "val": (500, val, 50), "test": (1000, test, 100)}
    return replace(GOOD, splits={name: Accuracy(*numbers) for name, numbers in counts.items()})


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (GOOD, ""),
        # 11 % of ten classes, 55 of 500: P(X >= 55) = 0.25 for X ~ Bin(500, 0.1)
        (of_val(55), "the teacher big (5 epochs) is no better than chance on val (55 of 500 are "),
        (of_val(70), ""),  # p = 0.002
        (of_val(450, largest=460), "always naming one class gives 92.0%"),
        (replace(GOOD, acc_before=0.934, acc_after=0.81), "(81.0% on val) than before (93.4%)"),
        (replace(GOOD, acc_before=None), ""),  # a new head
        # labels of train: 30 of 300 are chance, 240 are 10 points below val
        (
            of_splits(30, 450),
            "labels of train may be wrong: the teacher big (5 epochs) is right on",
        ),
        (of_splits(235, 450), "but on only 78.3% of train (235 of 300), without augmentation."),
        (of_splits(245, 450), ""),
        # val that the teacher was trained on
        (of_splits(300, 500, 920), "val may be among the images that the teacher big (5 epochs)"),
        (of_splits(300, 500, 972), ""),
        (of_splits(300, 480, 850), ""),  # train is above val: test has other images
        (replace(of_splits(300, 500, 920), acc_before=None), ""),  # kdtune made its head
        (replace(of_splits(300, 500, 920), acc_before=None, epochs=0), "big was trained on"),
    ],
)
def test_faults_of_a_teacher(record: TeacherAccuracy, fault: str) -> None:
    faults = list(find_teacher_faults([record]))
    assert len(faults) == bool(fault) and all(fault in text for text in faults)


def test_the_least_accuracy_of_a_teacher(tmp_path: Path) -> None:
    write_teacher_accuracy(tmp_path, [GOOD])
    lines: list[str] = []
    check_teachers(tmp_path, [GOOD.key], lambda recorded: [], 0.9, lines.append)
    assert lines == [f"Accuracy of the teacher {WORDS}"]
    words = r"at least 0.95 on val .* but has 0.9000 \(450 of 500\) .* runs/x/teacher/teacher"
    with pytest.raises(InputError, match=words):
        check_teachers(tmp_path, [GOOD.key], lambda recorded: [], 0.95, lines.append)


def test_a_teacher_that_is_worse_than_a_student_without_it(tmp_path: Path) -> None:
    """The baseline has 0.92 and 0.90, so 0.91; the teacher 0.90. Distilled runs do not count."""
    accs = {at(1.0): 0.92, at(1.0, 1): 0.90, at(0.5): 0.99}
    write_records(tmp_path, {run: [0.1, 0.2, acc] for run, acc in accs.items()})
    study = Study(name="s", run=at(0.5), space={"alpha": (0.5, 1.0)}, repeats=2)
    (tmp_path / "study.json").write_text(study.to_json())
    assert not any("teacher" in line for line in warnings_of(tmp_path))
    write_teacher_accuracy(tmp_path, [GOOD])
    results = kdtune.load(tmp_path)
    words = "the teacher big (5 epochs) is less accurate on val (90.0%) than the student resnet18"
    assert results.warnings[0] == f"{words} trained without it (mean 91.0%)."
    assert "is less accurate on val (90.0%)" in results.verdict()
    table = teacher_table(results)
    assert table is not None
    assert table.rows[0][0] == "big (5 epochs)" and table.rows[0][-1] == "85.0%"
    write_teacher_accuracy(tmp_path, [of_val(460)])
    assert not any("teacher" in line for line in warnings_of(tmp_path))


def test_students_at_chance_are_not_compared(tmp_path: Path) -> None:
    """Of 500 val images 55 are as likely by chance of 0.1 (p = 0.25), 70 are not (p = 0.002)."""
    for acc, learned in ((0.11, False), (0.14, True)):
        folder = tmp_path / str(acc)
        make(folder, {0.5: [0.1, acc, 2 * acc - 0.1], 1.0: [0.12, 0.09, 0.1]})
        write_teacher_accuracy(folder, [GOOD])
        results = kdtune.load(folder)
        assert ("no student learned" in str(results.warnings)) != learned
        assert results.verdict().startswith("No student learned: no comparison.") != learned
        words = list_studies(tmp_path).set_index("name").verdict[str(acc)]
        assert (words == "no student learned") != learned
    # where another metric decides, a macro F1 above 1 / 10 says that rare classes are found
    trials, configs = kdtune.load(tmp_path / "0.11").trials, [at(a).config_id for a in (0.5, 1.0)]
    row = pd.Series(configs, ["config_id", "baseline"])
    for metric, f1, learned in (("ce", 0.11, False), ("ce", 0.3, True), ("acc", 0.3, False)):
        tables = trials.assign(**{"val/macro_f1@last": f1}), trials, trials
        named = Named(row, "no test", ("a", "b"), (), Criterion(metric), *tables, (GOOD,))
        assert ("no student learned" in find_doubts(named)) != learned


def flat(share: np.ndarray) -> np.ndarray:
    return 1 - np.exp(-10 * share)


def annealed(share: np.ndarray) -> np.ndarray:
    """As slow as with a learning rate that falls to 0 by half a cosine."""
    return flat(np.cumsum(1 + np.cos(np.pi * share)) / len(share) / 4)


@pytest.mark.parametrize(
    ("shape", "epochs", "alarms"),
    [
        (flat, 25, (0, 0.03)),
        (annealed, 60, (0, 0.03)),
        (lambda share: share, 25, (0.97, 1)),
        (lambda share: share, 5, (0, 0)),  # no end
    ],
)
def test_curves_that_still_rise(shape, epochs: int, alarms: tuple[float, float]) -> None:
    """40 studies of 8 repeats are simulated: curves over 30 points, epochs with an sd of 1."""
    rng, count, ids = np.random.default_rng(0), 40, [f"{c}{r}" for c in "ab" for r in range(8)]
    trials = pd.DataFrame({"trial_id": ids, "config_id": [i[0] for i in ids]})
    trials = trials.assign(status="completed", label="", repeat=[int(i[1]) for i in ids])
    trials = trials.assign(**{"config/lr": 0.1, "config/optimizer": "adamw"})
    row, share = pd.Series({"config_id": "a", "baseline": "b"}), np.arange(1, epochs + 1) / epochs
    found = 0
    for _ in range(count):
        accs = 0.5 + 0.3 * shape(share) + rng.normal(0, 0.01, (len(ids), epochs))
        val = pd.DataFrame(accs, index=pd.Index(ids, name="trial_id"))
        val = val.melt(var_name="epoch", value_name="acc", ignore_index=False)
        search = trials.assign(**{"val/acc@last": 0.7})
        tables = trials, search, val.reset_index().assign(split="val", loss=1.0, config_id="")
        named = Named(row, "worse", ("a", "b"), (), Criterion(), *tables, ())
        found += "not converged" in find_doubts(named)
    assert alarms[0] <= found / count <= alarms[1]


def test_a_conclusion_says_what_it_depends_on(tmp_path: Path) -> None:
    write_study(tmp_path, draw({0.1: 0.06, 0.5: 0.03, 1.0: 0.0}, 8))
    verdict = kdtune.load(tmp_path).verdict()
    assert "searched: alpha = 0.1 (lowest). The best may lie beyond. Only the learning" in verdict
    best = at(0.1).config_id
    edit_records(tmp_path, lambda x: x["trial_id"].startswith(best) and x.update(ce=1.405))
    results = kdtune.load(tmp_path)
    words = r"0.5\). But cross-entropy worsened, from 0.\d+ to 1.405 n"
    assert re.search(words, results.verdict()) and results.warnings == []
    assert "calibration" not in results.verdict(results.criterion("ce"))


@pytest.mark.parametrize(
    ("optimizer", "rates", "gain", "is_named"),
    [
        ("sgd", (0.05, 0.05), 0.06, True),
        ("sgd", (0.05, 0.1), 0.06, False),
        ("sgd", (0.05, 0.05), 0.0, False),  # there is no difference that could be one of lr
        ("adamw", (0.05, 0.05), 0.06, False),  # its steps do not grow with the gradient
    ],
)
def test_a_difference_with_one_learning_rate_of_sgd(
    tmp_path: Path, optimizer: str, rates: tuple[float, float], gain: float, is_named: bool
) -> None:
    accs = draw({0.1: gain, 1.0: 0.0}, 4)
    last = {at(a, lr=lr, optimizer=optimizer): accs[a] for a in accs for lr in {*rates}}
    verdict = make(tmp_path, last, run=replace(RUN, optimizer=optimizer)).verdict()
    assert ("Only the learning rate 0.05 was tried" in verdict) == is_named


def test_a_conclusion_names_curves_that_still_rise(tmp_path: Path) -> None:
    """The curves of `make` rise by a tenth of the last accuracy in each of 10 epochs."""
    run = replace(RUN, epochs=10)
    last = draw({0.5: 0.05, 1.0: 0.0}, 4)
    results = make(tmp_path, {replace(run, alpha=a): accs for a, accs in last.items()}, run=run)
    (warning,) = results.warnings
    assert re.match(r"not converged: .* still rose by 7.\d points \(alpha = 0.5\) and 7", warning)
    assert warning[1:] in results.verdict()


VIEWS = replace(RUN, teacher="big", teacher_epochs=5, augment="resized-crop")


@pytest.mark.parametrize(
    ("acc", "record", "values", "is_named"),
    [
        (0.57, GOOD, {}, True),
        (0.72, GOOD, {}, False),
        (0.57, of_splits(180, 450), {}, False),  # train itself, by its labels
        (0.57, replace(GOOD, teacher="other"), {}, False),
        (0.57, GOOD, {"augment": "none"}, False),
        (0.57, GOOD, {"mixup": 0.2}, False),
    ],
)
def test_a_teacher_that_is_wrong_on_the_training_views(
    tmp_path: Path, acc: float, record: TeacherAccuracy, values: dict, is_named: bool
) -> None:
    run = replace(VIEWS, **values)
    last = {replace(run, alpha=a): accs for a, accs in draw({0.5: -0.08, 1.0: 0.0}, 4).items()}
    write_study(tmp_path, last, run=run)
    edit_records(tmp_path, lambda x: x.get("split") == "train" and x.update(teacher_acc=acc))
    write_teacher_accuracy(tmp_path, [record])
    results = kdtune.load(tmp_path)
    warnings = [text for text in results.warnings if "training views" in text]
    assert len(warnings) == is_named
    words = "The teacher big (5 epochs) is right on only 57.0% of the training views (--augment r"
    assert (words in results.verdict()) == is_named
    assert all("but on 90.0% of val without augmentation" in text for text in warnings)


def test_repeats_whose_training_failed(tmp_path: Path) -> None:
    """The curves of `make` rise, and so their losses fall."""
    last = draw({0.5: 0.05, 1.0: 0.0}, 8)
    last[0.5][5] = 0.12  # at chance, unlike the others
    write_study(tmp_path, last)
    write_teacher_accuracy(tmp_path, [GOOD])
    lost = at(0.5, 3).trial_id

    def explode(x: dict) -> None:
        if x["trial_id"] == lost and x.get("epoch") == 2:
            x.update({"acc": 0.15, "loss": 40.0})

    edit_records(tmp_path, explode)
    results = kdtune.load(tmp_path)
    words = "the training failed in 2 of 8 repeats of alpha = 0.5: the loss rose"
    assert sum(text.startswith(words) for text in results.warnings) == 1
    assert words[1:] in results.verdict()
    edit_records(tmp_path, lambda x: x["trial_id"] == lost and x.update(loss=1.0))
    # 75 of 500 are significantly more than chance
    assert "failed in 1 of 8 repeats of alpha" in kdtune.load(tmp_path).verdict()
    folder = tmp_path / "weak"  # all have hardly learned
    make(folder, {0.5: [0.13, 0.21, 0.26, 0.18], 1.0: [0.12, 0.11, 0.26, 0.28]})
    write_teacher_accuracy(folder, [GOOD])
    assert "failed" not in kdtune.load(folder).verdict()
