"""Comparisons with the baseline, against scipy and hand-worked numbers; tables as text.

What repeats vary: folds and teachers, pairs by repeat and image, significance.
"""

import math
import re
from dataclasses import replace
from itertools import permutations

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
    Chosen,
    Criterion,
    Judged,
    baseline_of,
    best_config,
    by_repeat,
    compare,
    selection,
    with_enough_repeats,
)
from kdtune.results.design import ONE_TEACHER, Design, Pair, is_significant
from kdtune.results.formatting import plus_minus
from kdtune.results.results import check_baseline
from kdtune.results.summaries import levels
from kdtune.results.words import label_curve_text
from kdtune.statistics.intervals import crossed
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


def test_the_baseline_is_the_best_without_distillation_but_for_one_lucky_repeat() -> None:
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
    # one repeat is not enough
    last = {slow: [0.6, 0.61, 0.6, 0.6], fast: [0.99, None, None, None]}
    last |= {at(0.5, lr=0.01): [0.65, 0.66, 0.64, 0.66]}
    assert set(compare(Judged(trials_of(last), Criterion())).baseline) == {slow.config_id}
    values = by_repeat(trials_of(last), "acc", "last")
    assert best_config(values, 1) == at(0.5, lr=0.01).config_id
    assert best_config(values, -1) == slow.config_id
    assert fast.config_id not in with_enough_repeats(values)


def test_equal_means_have_one_best_configuration(tmp_path) -> None:
    """Added up in another order, equal accuracies have means that differ in the 17th digit."""
    orders = permutations([0.1, 0.2, 0.3])
    made = make(tmp_path, {1.0: [0.1, 0.1, 0.2]} | {0.1 * k: o for k, o in enumerate(orders)})
    firsts = (made.compare(), made.sensitivity(), made.contenders())
    assert {table.config_id[0] for table in firsts} == {made.best()}


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


LAST = draw({0.1: 0.01, 0.5: 0.03, 1.0: 0.0}, 8, seed=3)
D = np.subtract(LAST[0.5], LAST[1.0])


def compared_by(design: Design) -> pd.Series:
    table = compare(Judged(trials_of(LAST), Criterion(), design=design))
    return table.set_index("config/alpha").loc[0.5]


def test_with_three_teachers_or_more_these_are_the_sample() -> None:
    """Means of 2 repeats each; the reference is scipy's t test over 4 teachers."""
    row, means = compared_by(Design(4)), D.reshape(2, 4).mean(0)
    test = stats.ttest_1samp(means, 0)
    assert (row["diff"], row.n, row.n_units) == exact((means.mean(), 8, 4))
    assert row.error == exact(stats.sem(means)) and row.p == exact(test.pvalue)
    assert (row.low, row.high) == exact(tuple(test.confidence_interval(1 - 0.05 / 2)))
    assert (row.low_here, row.high_here) == (row.low, row.high)  # no predictions here
    assert math.isnan(row.p_max_t)  # 4 signs only
    unbalanced = compared_by(Design(3))  # 3, 3 and 2 repeats
    assert unbalanced["diff"] == exact(np.mean([D[k::3].mean() for k in range(3)]))


def test_folds_have_the_corrected_resampled_t_test() -> None:
    """V = (1/8 + 1/4) s^2 with 5 folds and 7 degrees of freedom (Nadeau and Bengio, 2003)."""
    row = compared_by(Design(folds=5))
    error = math.sqrt((1 / 8 + 1 / 4) * D.var(ddof=1))
    half = stats.t.ppf(1 - 0.05 / 4, 7) * error
    assert (row["diff"], row.error, row.df, row.n) == exact((D.mean(), error, 7, 8))
    assert (row.low, row.high) == exact((D.mean() - half, D.mean() + half))
    assert row.p == exact(2 * stats.t.sf(abs(D.mean()) / error, 7))
    assert np.isnan([row.low_here, row.high_here, row.p_max_t, row.n_images]).all()
    # images are never paired by their position
    compare(Judged(trials_of(LAST), Criterion(), read=pytest.fail, design=Design(folds=5)))


def test_selection_has_the_same_standard_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trials, design = trials_of(LAST), Design(folds=5)
    trials = trials.assign(**{"test/acc@last": trials["val/acc@last"], "phase": "search"})
    chosen = Chosen(at(0.5).config_id, at(1.0).config_id, at(0.5).config_id)
    rows = selection(tmp_path, Judged(trials, Criterion(), design=design), chosen).set_index("row")
    half = stats.t.ppf(0.975, 7) * math.sqrt((1 / 8 + 1 / 4) * D.var(ddof=1))
    difference = rows.loc["difference"]
    assert rows.loc["best"].config_id == at(0.5).config_id
    for split in ("val", "test"):
        assert difference[f"{split}/high"] - difference[f"{split}/mean"] == exact(half)


def test_repeats_of_few_teachers_do_not_cover_new_teachers() -> None:
    """Teachers vary as much as repeats, 4 teachers in 16 repeats, 100 images: the truth is 0."""
    rng, repeats, n = np.random.default_rng(0), range(16), 100
    covers = {ONE_TEACHER: 0, Design(4): 0}
    draws = 500
    for _ in range(draws):
        teachers, own = rng.normal(size=4), rng.normal(size=16)
        images, noise = rng.normal(size=n), rng.normal(size=(16, n))
        table = (np.tile(teachers, 4) + own)[:, None] + images + noise
        for design in covers:
            low, high = design.estimate(table.mean(1), table, repeats).interval()
            covers[design] += low <= 0 <= high
    assert covers[Design(4)] / draws >= 0.94 > 0.85 > covers[ONE_TEACHER] / draws


REPEATS, IMAGES = 6, 200


@pytest.fixture
def correct() -> dict[float, np.ndarray]:
    """By alpha, whether each image is right in each repeat, [R, N]."""
    rng = np.random.default_rng(5)
    hard = rng.normal(size=IMAGES)
    return {
        alpha: (hard + shift + rng.normal(0, 0.8, (REPEATS, IMAGES)) > 0).astype(float)
        for alpha, shift in ((0.1, 0.3), (0.5, 0.1), (1.0, 0.0))
    }


def reader(correct: dict[float, np.ndarray], lost: tuple[str, ...] = ()):
    """Return the function that gives `compare` the values per example."""
    tables = {
        at(alpha, repeat).trial_id: table[repeat]
        for alpha, table in correct.items()
        for repeat in range(REPEATS)
    }
    return lambda ids, split: {trial: tables[trial] for trial in ids if trial not in lost}


def test_a_comparison_is_that_of_the_two_way_estimator(correct) -> None:
    trials = trials_of({alpha: list(table.mean(1)) for alpha, table in correct.items()})
    table = compare(Judged(trials, Criterion(), read=reader(correct))).set_index("config/alpha")
    for alpha in (0.1, 0.5):
        row, estimate = table.loc[alpha], crossed(correct[alpha] - correct[1.0])
        expected = estimate.mean, estimate.error, estimate.df
        assert (row["diff"], row.error, row.df) == exact(expected)
        assert (row.n, row.n_images, row.p) == (REPEATS, IMAGES, exact(estimate.p))
        assert (row.low, row.high) == exact(estimate.interval(1 - 0.05 / 2))  # two comparisons
        here = stats.ttest_rel(correct[alpha].mean(1), correct[1.0].mean(1))
        interval = here.confidence_interval(1 - 0.05 / 2)
        assert (row.low_here, row.high_here) == exact((interval.low, interval.high))
        parts = (row.var_repeat / REPEATS, row.var_image / IMAGES, row.var_rest / 1200)
        assert sum(parts) >= estimate.error**2 * (1 - 1e-9)  # equal unless a component was negative


def test_a_lost_file_of_predictions_leaves_comparisons_over_repeats(correct) -> None:
    """All of them, so that all rows of a table hold for the same images."""
    trials = trials_of({alpha: list(table.mean(1)) for alpha, table in correct.items()})
    lost = (at(0.5, 3).trial_id,)
    judged = Judged(trials, Criterion(), read=reader(correct, lost))
    table = compare(judged).set_index("config/alpha")
    assert table.n_images.isna().all()
    row = table.loc[0.5]
    assert (row.low, row.high) == (row.low_here, row.high_here)
    assert row.p == exact(stats.ttest_rel(correct[0.5].mean(1), correct[1.0].mean(1)).pvalue)


def test_what_does_not_vary_has_no_test_and_intervals_have_bounds() -> None:
    rows = np.array([[1.0], [0.0], [1.0], [1.0]])
    pair = Pair(rows[:, 0], np.zeros(4), rows)
    assert pair.statistics(1, 0.95)["error"] == exact(rows.std(ddof=1) / 2)
    assert math.isnan(pair.components.image)
    # 0.72 - 0.70 and 0.82 - 0.80 differ by rounding.
    a, b = np.array([0.72, 0.82, 0.92, 0.62]), np.array([0.7, 0.8, 0.9, 0.6])
    row = Pair(a, b, None, range(4), Design(folds=4)).statistics(1, 0.95)
    assert all(map(math.isnan, (row["p"], row["low"], row["high"])))
    trials = trials_of({0.5: [0.0, 1.0, 0.1], 1.0: [0.9, 0.1, 0.2]})
    row = compare(Judged(trials, Criterion())).iloc[0]
    assert (row.low, row.high) == (-1, 1)


NAN = math.nan


@pytest.mark.parametrize(
    ("p", "low", "high", "or_equal", "want"),
    [
        (0.04, 0.1, 0.2, False, True),
        (0.04, -0.2, -0.1, False, True),
        (0.04, -0.1, 0.2, False, False),  # Holm's p value after a first rejection
        (0.04, NAN, NAN, False, True),  # equal differences
        (0.06, NAN, NAN, False, False),
        (0.06, 0.1, 0.2, False, False),
        (NAN, NAN, NAN, False, False),  # too few repeats
        (0.05, 0.1, 0.2, False, False),
        (0.05, 0.1, 0.2, True, True),
        (0.01, -math.inf, math.inf, False, False),
    ],
)
def test_significance(p: float, low: float, high: float, or_equal: bool, want: bool) -> None:
    assert bool(is_significant(p, low, high, 0.05, or_equal)) == want
    columns = (pd.Series([0.5, value]) for value in (p, low, high))
    assert is_significant(*columns, 0.05, or_equal)[1] == want
