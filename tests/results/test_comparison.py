"""Comparisons with the baseline, against scipy and hand-worked numbers; tables as text."""

import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import RUN, at, draw, edit_records, make, trials_of, write_study

import kdtune
from kdtune.config.cli import parse_baseline
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.planning.ledger import active_configs
from kdtune.planning.plan import Plan
from kdtune.results.comparison import (
    Criterion,
    Judged,
    baseline_of,
    best_config,
    by_repeat,
    compare,
    with_enough_repeats,
)
from kdtune.results.formatting import plus_minus
from kdtune.results.results import check_baseline
from kdtune.results.summaries import levels
from kdtune.results.words import label_curve_text
from kdtune.statistics.tests import holm, max_t
from kdtune.storage.records import read_lines

exact = pytest.approx
EFFECTS = {0.1: 0.01, 0.5: 0.03, 0.9: 0.0, 1.0: 0.0}


def compared(last) -> pd.DataFrame:
    return compare(Judged(trials_of(last), Criterion())).set_index("config/alpha")


def test_the_metric_of_a_study_decides(tmp_path) -> None:
    """A study whose AUC ranks the configurations the other way round than accuracy does."""
    study = write_study(tmp_path, {0.5: [0.8, 0.81, 0.79], 1.0: [0.7, 0.72, 0.69]}, metric="auc")
    edit_records(tmp_path, lambda line: line.update({"auc": 1.2 - line.get("acc", 0)}))
    results = kdtune.load(tmp_path)
    assert results.label(results.best()) == "alpha = 1" and results.summary().alpha.iloc[0] == 1
    assert "validation macro AUC" in results.verdict() and "auc" in results.text()
    lines, _ = read_lines(tmp_path, study)
    (arms,) = active_configs(Plan(study, lines).ledger).values()
    assert list(arms.baseline[0].scores.values()) == exact([0.5, 0.48, 0.51])
    assert results.verdict(results.criterion("acc")) != results.verdict()


@pytest.mark.parametrize("repeats", [3, 7])
def test_compare_matches_scipys_paired_t_test(tmp_path, repeats: int) -> None:
    last = draw(EFFECTS, repeats, seed=repeats)
    table = make(tmp_path, last).compare().set_index("config/alpha")
    assert len(table) == 3 and 1.0 not in table.index
    assert (table.baseline == at(1.0).config_id).all()
    tests = {alpha: stats.ttest_rel(last[alpha], last[1.0]) for alpha in table.index}
    for alpha, test in tests.items():
        row, d = table.loc[alpha], np.subtract(last[alpha], last[1.0])
        assert (row["diff"], row.sd, row.n) == exact((d.mean(), d.std(ddof=1), repeats))
        # the study has no predictions: only repeats vary
        together = tuple(test.confidence_interval(1 - 0.05 / 3))
        assert (row.low, row.high) == exact(together, rel=1e-9)
        assert (row.low_here, row.high_here) == exact(together, rel=1e-9)
        assert row.p == exact(test.pvalue, rel=1e-9)
        assert row.correlation == exact(np.corrcoef(last[alpha], last[1.0])[0, 1])
        assert (row.wins, row.losses) == ((d > 0).sum(), (d < 0).sum())
        assert row.p_better == exact((d > 0).mean())
    assert table.p_holm.tolist() == exact(holm([tests[a].pvalue for a in table.index]))
    if repeats < 6:
        assert table.p_max_t.isna().all()
    else:
        d = np.array([np.subtract(last[a], last[1.0]) for a in table.index]).T
        assert table.p_max_t.tolist() == exact(max_t(d))
    assert (table["diff"].diff().dropna() <= 0).all()  # the best first


def test_pairing_is_by_repeat_not_by_position() -> None:
    # repeat 0 of the baseline is missing: repeats 1, 2, 3 are compared
    table = compared({0.5: [0.9, 0.61, 0.72, 0.83], 1.0: [None, 0.6, 0.7, 0.8]})
    row = table.loc[0.5]
    assert row.n == 3
    assert (row["diff"], row.sd) == exact((0.02, 0.01))


def test_the_baseline_is_the_best_without_distillation() -> None:
    slow, fast = at(1.0, lr=0.01), at(1.0, lr=0.1)
    last = {slow: [0.6, 0.61, 0.6], fast: [0.7, 0.72, 0.71]}
    last |= {at(0.5, lr=0.1): [0.71, 0.7, 0.72], at(0.5, lr=0.01): [0.65, 0.66, 0.64]}
    table = compare(Judged(trials_of(last), Criterion()))
    # at lr 0.1 distillation is 10 points above the baseline of lr 0.01, but equals that of lr 0.1
    assert set(table.baseline) == {fast.config_id}
    assert table["diff"].tolist() == exact([0.0, -0.06], abs=1e-12)
    by_lr = compare(Judged(trials_of(last), Criterion(baseline={"alpha": 1, "lr": 0.01})))
    assert set(by_lr.baseline) == {slow.config_id}
    assert len(by_lr) == 3 and fast.config_id in set(by_lr.config_id)


def test_one_lucky_repeat_gives_neither_baseline_nor_best() -> None:
    slow, fast = at(1.0, lr=0.01), at(1.0, lr=0.1)
    last = {slow: [0.6, 0.61, 0.6, 0.6], fast: [0.99, None, None, None]}
    last |= {at(0.5, lr=0.01): [0.65, 0.66, 0.64, 0.66]}
    assert set(compare(Judged(trials_of(last), Criterion())).baseline) == {slow.config_id}
    values = by_repeat(trials_of(last), "acc", "last")
    assert best_config(values, 1) == at(0.5, lr=0.01).config_id
    assert best_config(values, -1) == slow.config_id
    assert fast.config_id not in with_enough_repeats(values)


def test_a_win_is_the_better_value_of_the_metric(tmp_path) -> None:
    """By construction a higher accuracy goes with a lower ce, gap, kl and logit difference."""
    made = make(tmp_path, {0.5: [0.8, 0.9, 0.7, 0.6], 1.0: [0.7, 0.8, 0.75, 0.6]})
    for metric in ("acc", "agreement", "ce", "gap", "kl", "logit_diff"):
        row = made.compare(Criterion(metric)).iloc[0]
        assert (row.wins, row.ties, row.losses, row.p_better) == (2, 1, 1, exact(2.5 / 4))
        assert (row["diff"] > 0) == (metric in ("acc", "agreement"))


def test_configurations_without_the_metric_are_not_compared(tmp_path) -> None:
    write_study(tmp_path, {0.5: [0.7, 0.8], 0.1: [0.6, 0.6], 1.0: [0.5, 0.6]})
    plain = at(1.0).config_id
    edit_records(tmp_path, lambda line: line["config_id"] == plain and line.update(kl=None))
    made = kdtune.load(tmp_path)
    assert len(made.compare()) == 2
    assert not len(made.compare(Criterion("kl")))
    edit_records(tmp_path, lambda line: line.update(kl=None))
    assert not len(kdtune.load(tmp_path).compare(Criterion("kl")))


@pytest.mark.parametrize("missing", [1, 6])
def test_adjusted_p_values_count_comparisons_that_have_one(missing: int) -> None:
    """Max-T uses configurations with all repeats, Holm those with enough common ones."""
    last = draw(EFFECTS, 7)
    last[0.9] = [None] * missing + last[0.9][missing:]
    table, d = compared(last), np.array([np.subtract(last[a], last[1.0]) for a in (0.5, 0.1)]).T
    assert math.isnan(table.p_max_t[0.9]) and math.isnan(table.p_holm[0.9]) == (missing == 6)
    assert table.p_max_t[[0.5, 0.1]].tolist() == exact(max_t(d))
    tested = table[table.p.notna()]
    assert tested.p_holm.tolist() == exact(holm(list(tested.p)))


@pytest.mark.parametrize("text", ["", "alpha", "alpha=", "=1", "alpa=1", "alpha=1,", "repeat=0"])
def test_invalid_baselines(text: str) -> None:
    with pytest.raises(InputError, match=r"baseline must be (NAME=VALUE|one of )"):
        Criterion(baseline=parse_baseline(text))


@pytest.mark.parametrize("alphas", [Range(0, 0.9), [0.1, 0.9]])
def test_alpha_1_can_be_the_baseline_whatever_alphas_are_searched(alphas) -> None:
    study = Study(run=RUN, search="random", space={"alpha": alphas})
    check_baseline(Criterion(baseline={"alpha": 1, "lr": RUN.lr}), study)
    for alpha in (0.95, 2, "x"):
        with pytest.raises(InputError, match="baseline must be a configuration of the study"):
            check_baseline(Criterion(baseline={"alpha": alpha, "lr": RUN.lr}), study)
    with pytest.raises(InputError, match="but got alpha=1"):
        plainless = replace(study, plain_share=0.0)
        check_baseline(Criterion(baseline={"alpha": 1, "lr": RUN.lr}), plainless)


@pytest.mark.parametrize("metric", ["loss", "distill", "accuracy", "val/loss", "teacher_acc"])
def test_metrics_that_cannot_be_compared(metric: str) -> None:
    with pytest.raises(InputError, match="metric must be one of ce, acc"):
        Criterion(metric)
    assert Criterion("val/acc") == Criterion("acc") == Criterion()


BASE = {"small": 0.0, "large": 0.1}


def both() -> dict:
    runs = {
        at(alpha, student=student): base + gain
        for student, base in BASE.items()
        for alpha, gain in ((0.5, 0.03), (0.1, -0.01), (1.0, 0.0))
    }
    return draw(runs, 8)


def of(last: dict, student: str) -> dict:
    return {run: accs for run, accs in last.items() if run.student == student}


def test_each_student_has_its_own_baseline(tmp_path) -> None:
    last = both()
    table = make(tmp_path / "both", last).compare()
    for student in BASE:
        alone = make(tmp_path / student, of(last, student)).compare()
        own = table[table["config/student"] == student].reset_index(drop=True)
        for name in ("diff", "sd", "error", "p", "wins", "losses", "correlation"):
            assert own[name].to_numpy() == pytest.approx(alone[name].to_numpy(), nan_ok=True), name
        plain = np.array(next(v for r, v in of(last, student).items() if r.alpha == 1))
        best = np.array(next(v for r, v in of(last, student).items() if r.alpha == 0.5))
        assert own["diff"].max() == pytest.approx((best - plain).mean())
        assert own.baseline.nunique() == 1
    assert table.baseline.nunique() == 2
    # Holm over all four comparisons: the least p is multiplied by 4
    assert table.p_holm.min() == pytest.approx(4 * table.p.min())


def test_repeats_are_enough_within_a_student() -> None:
    """A student that was decided early is not left out for having fewer final repeats."""
    few, some = [np.nan] * 37, [np.nan] * 34
    values = pd.DataFrame({"A": [0.95] * 6 + some, "B": [0.8] * 40, "b": [0.99] * 3 + few})
    students = {"A": "large", "B": "small", "b": "small"}
    assert best_config(values, 1, students) == "A"
    assert best_config(values, 1) == "B"


SIZES = {100: (0.60, 0.65), 300: (0.70, 0.74), 1000: (0.75, 0.752)}
"""Accuracy by labels without distillation and with it."""


def of_sizes(repeats: int = 4) -> dict:
    rng = np.random.default_rng(2)
    return {
        at(alpha, train_images=n): list(mean + rng.normal(0, 0.003, repeats))
        for n, means in SIZES.items()
        for alpha, mean in zip((1.0, 0.5), means, strict=True)
    }


def test_numbers_of_training_images_are_compared_apart(tmp_path) -> None:
    """Students of 300 images never meet training on 1,000, and the best is one of the most."""
    last = of_sizes()
    made = make(tmp_path, last)
    table = made.compare()
    for n, (plain, distilled) in SIZES.items():
        row = table[table["config/train_images"] == n].iloc[0]
        own = {run: accs for run, accs in last.items() if run.train_images == n}
        means = {run.alpha: np.mean(accs) for run, accs in own.items()}
        assert row["diff"] == exact(means[0.5] - means[1.0]) == exact(distilled - plain, abs=0.01)
        assert made.student(row.baseline) == f"{RUN.student}, {n:,} images"
    assert made.label(made.best()).startswith("train_images = 1000")
    lines = made.verdict().split("\n")
    heads = [line.partition(":")[0] for line in lines]
    assert heads == ["100 images", "300 images", "1,000 images"] == list(made.effort.group)
    assert all("train_images" not in line for line in lines)
    assert "of the same number of training images" in made.text()
    assert made.contenders().label.str.startswith("train_images = 1000").all()
    assert set(made.selection().label.iloc[:2].str.partition(",")[0]) == {"train_images = 1000"}
    assert made.edges() == ""
    one = made.criterion(baseline={"train_images": 300, "alpha": 1})  # as the user asks
    assert set(map(made.student, made.compare(one).baseline)) == {f"{RUN.student}, 300 images"}


def test_a_label_curve_and_its_sentence(tmp_path) -> None:
    made = make(tmp_path, of_sizes(8))
    table = made.label_curve().set_index(["arm", "n"])
    assert list(table.loc["plain"]["mean"]) == exact([0.5, 0.6, 0.65], abs=0.003)  # on test
    equivalent = table.loc["distilled"].equivalent
    assert list(equivalent)[:2] == exact([100 * 3**0.5, 300 * (10 / 3) ** 0.8], rel=0.1)
    low, high = table.loc["distilled"].equivalent_low, table.loc["distilled"].equivalent_high
    assert (low <= equivalent).all() and (equivalent <= high).all()
    text = made.label_curve_text()
    assert re.match(
        r"Distilling with 100 labelled images equals \d+ without \(95% CI \d+ to \d+", text
    )
    assert "No significant gain beyond 300 labelled images (measured: 1,000)." in text
    assert "Nothing is extrapolated beyond the 1,000 measured." in text
    assert text in made.text()
    by_ce = made.label_curve_text(made.criterion("ce"))  # of which lower values are better
    assert by_ce.startswith("Distilling with 100 ") and "significantly worse" not in by_ce
    labels = dict[object, str]()  # whose labels are counted, by --teacher-train-images
    for images in ("same", 500, 50):
        run = replace(made.study.run, teacher_epochs=5, teacher_train_images=images)
        labels[images] = label_curve_text(
            made.label_curve(), run, 0 if images == "same" else images, made.design
        )
    assert "learned from the same labelled images as its students" in labels["same"]
    assert "from 500 labelled images, more than the students with fewer" in labels[500]
    assert "The teacher" not in labels[50]
    assert not len(make(tmp_path / "one", draw(EFFECTS, 4)).label_curve())


def test_a_student_without_its_baseline_is_left_out(tmp_path) -> None:
    last = {run: accs for run, accs in both().items() if (run.student, run.alpha) != ("small", 1)}
    made = make(tmp_path, last, space={"student": ("small", "large"), "alpha": (0.1, 0.5, 1.0)})
    table, trials = made.compare(), made.trials
    assert set(table["config/student"]) == {"large"}
    lost = trials[trials["config/student"] == "small"].config_id.iloc[0]
    assert baseline_of(table, lost) is None
    assert baseline_of(compare(Judged(trials.iloc[:0], Criterion())), lost) is None


def test_many_values_are_cut_into_ranges() -> None:
    values = pd.Series([*range(8), 100.04, 100.05, 100.06, None])
    groups = levels(values)
    assert list(groups.cat.categories) == ["0 … 2", "3 … 5", "6 … 7", "100 … 100.1"]
    assert groups[3] == "3 … 5" and groups.isna().sum() == 1
    assert levels(values[:8]).tolist() == list(range(8))


@pytest.mark.parametrize(
    ("mean", "sd", "text"),
    [
        (1.23272, 0.084376, "1.233 ± 0.084"),
        (0.877856, 0.125252, "0.88 ± 0.13"),
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
