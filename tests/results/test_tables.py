"""Tables of results made elsewhere, and studies side by side.

Against scipy's tests, hand-worked numbers and a published table.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import IMAGES, RUN, draw, edit_json, edit_records, make, write_study

import kdtune
import kdtune.analysis
from kdtune.analysis import parse as parse_reading
from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.reporting.build import write_comparison
from kdtune.results.comparison import Criterion
from kdtune.results.several import differing_settings, list_studies, load_several, text
from kdtune.results.tables import is_higher_better, read_table, unit_of
from kdtune.statistics.intervals import crossed
from kdtune.statistics.tests import holm

SEED_RESULTS = Path(__file__).parents[1] / "data" / "seed_results.csv"
AT = {"by": "alpha", "repeat": "rep", "epoch": "epoch", "metric": "epoch_acc_l"}


def table(seeds: int = 8, **columns) -> pd.DataFrame:
    """Return accuracies of three configurations, in the same seeds."""
    rng = np.random.default_rng(0)
    rows = [
        {"alpha": alpha, "lr": 0.1, "seed": seed, "acc": 0.7 - 0.03 * alpha + 0.02 * np.sin(seed)}
        for alpha in (0.0, 0.5, 1.0)
        for seed in range(seeds)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(**{"acc": frame.acc + 0.01 * rng.normal(size=len(frame))} | columns)


def compare(frame: pd.DataFrame, **options):
    return kdtune.compare(frame, **{"by": "alpha", "repeat": "seed", "metric": "acc"} | options)


def test_published_rows_of_the_starting_repository() -> None:
    others = ("epoch_loss_l", "epoch_acc_teacher_l", "diff_t_s")
    result = kdtune.compare(SEED_RESULTS, **AT, columns=others, pooled=True, unpaired=True)
    published = {  # mean and SD of accuracy, loss, teacher's accuracy, difference of logits
        0: (0.945359, 0.028460, 1.481328, 0.585938, 0.934641, 0.0, 0.964709, 0.226756),
        1: (0.941242, 0.058033, 0.225731, 0.090253, 0.934641, 0.0, 1.337674, 0.274519),
    }
    rows = result.summary.set_index("alpha")
    for a, numbers in published.items():
        got = [rows.loc[a, f"{m}/{s}"] for m in ("epoch_acc_l", *others) for s in ("mean", "std")]
        assert got == pytest.approx(numbers, abs=5e-7)
    assert rows["epoch_acc_l/n"].tolist() == [100, 75, 100]


def test_last_epoch_of_the_starting_repository_unpaired() -> None:
    result = kdtune.compare(SEED_RESULTS, **AT, unpaired=True)
    last = pd.read_csv(SEED_RESULTS).query("epoch == 24").groupby("alpha").epoch_acc_l
    a = {alpha: values.to_numpy() for alpha, values in last}
    rows = result.comparisons.set_index("config/alpha")
    for alpha in (0.0, 0.5):
        want = stats.ttest_ind(a[alpha], a[1.0], equal_var=False)
        ends = want.confidence_interval(1 - 0.05 / 2)
        assert rows.p[alpha] == pytest.approx(want.pvalue)
        assert (rows.low[alpha], rows.high[alpha]) == pytest.approx((ends.low, ends.high))
        assert rows.df[alpha] == pytest.approx(want.df)
    assert not rows.paired.any() and rows.n[0.5] == 3 and rows.n_baseline[0.5] == 4
    kept = kdtune.compare(SEED_RESULTS, **AT, unpaired=True, keep_incomplete=True)
    assert kept.comparisons.n.tolist() == [4, 4]


def test_values_per_example_hold_for_new_examples() -> None:
    rng = np.random.default_rng(1)
    correct = rng.random((2, 5, 60)) < 0.7
    index = pd.MultiIndex.from_product([(0.5, 1.0), range(5), range(60)])
    frame = pd.DataFrame({"correct": correct.ravel()}, index.set_names(["alpha", "seed", "image"]))
    result = kdtune.compare(frame.reset_index(), "alpha", "seed", "correct", example="image")
    d = correct[0].astype(float) - correct[1]
    row = result.comparisons.iloc[0]
    assert row.error == pytest.approx(crossed(d).error)
    assert (row["diff"], row.n, row.n_images) == (pytest.approx(d.mean()), 5, 60)
    here = stats.ttest_1samp(d.mean(1), 0).confidence_interval()
    assert (row.low_here, row.high_here) == pytest.approx((here.low, here.high))
    assert "n = 5 repeats × 60 examples); minimum detectable differen" in result.verdict
    assert "with 5 repeats, 60 examples and 1 comparison: " in result.verdict

    lost = kdtune.compare(frame.reset_index()[1:], "alpha", "seed", "correct", example="image")
    assert lost.comparisons["diff"][0] == pytest.approx(d[:, 1:].mean())
    assert "runs without all values of image: alpha = 0.5, seed = 0." in lost.warnings[0]


def test_the_best_of_several_baselines() -> None:
    frame = table()
    frame["lr"] = np.where(frame.seed < 4, 0.1, 0.01)
    frame["seed"] %= 4
    result = compare(frame, by=["alpha", "lr"])
    plain = frame[frame.alpha == 1].groupby("lr").acc.mean()
    assert set(result.comparisons["config/alpha"]) == {0.0, 0.5}
    row = result.runs.configs.loc[result.baseline_config]
    assert (row.alpha, row.lr) == (1, plain.idxmax())
    assert "best of 2 configurations; p does not account" in result.text()
    assert not len(compare(frame, by=["alpha", "lr"], baseline={"lr": 0.1}).warnings)
    text = compare(frame.assign(alpha=frame.alpha / 2), by=["alpha", "lr"]).verdict
    assert text.startswith("No conclusion: no baseline is named")


def test_direction_by_name() -> None:
    for higher, names in {
        True: "acc val/top-1 teacher",
        False: "epoch_loss_l valNLL val_nll test/error valLoss valloss",
    }.items():
        assert [is_higher_better(name) for name in names.split()] == [higher] * len(names.split())


@pytest.mark.parametrize(
    ("name", "values", "points", "unit"),
    [
        ("acc", [0.5, 0.9], False, "points"),
        ("val/top-1", [50.0, 90.0], False, "percent"),
        ("score", [0.5, 0.9], False, ""),
        ("score", [0.5, 0.9], True, "points"),
        ("acc", [-0.5, 0.9], False, ""),
        ("acc", [500.0], False, ""),
        ("space", [0.5], False, ""),
    ],
)
def test_unit_by_name_and_values(name, values, points, unit) -> None:
    assert unit_of(name, pd.Series(values), points) == unit


def test_rows_that_count_once_or_not_at_all_and_runs_that_end_early() -> None:
    frame = table()
    same = compare(pd.concat([frame, frame[:2]]))
    assert same.comparisons.equals(compare(frame).comparisons)
    assert "2 of 26 rows repeat another one (alpha = 0, seed = 0;" in same.warnings[0]
    missing = compare(frame.assign(acc=frame.acc.where(frame.index != 3)))
    words = "1 of 24 rows have no valid acc and are left out (alpha = 0, seed = 3)"
    assert words in missing.warnings[0]
    diverged = compare(frame.assign(acc=frame.acc.where(frame.index != 3, np.inf)))
    assert diverged.warnings == missing.warnings
    nameless = compare(frame.assign(seed=frame.seed.where(frame.index != 3)))
    assert nameless.warnings[0].startswith("1 of 24 rows have no valid seed and are left out")
    nothing = frame.assign(acc=frame.acc.where(frame.alpha < 1))
    assert compare(nothing).verdict.startswith("No conclusion")
    epochs = pd.concat([table().assign(epoch=e) for e in range(4)])
    whole = compare(epochs, epoch="epoch")
    assert not whole.warnings
    early = compare(epochs[(epochs.epoch < 2) | (epochs.seed == 0)], epoch="epoch")
    assert "the runs end at different epochs (epoch 1 to 3)" in early.warnings[0]
    assert early.comparisons.n.tolist() == [8, 8]  # early stopping leaves none out


@pytest.mark.parametrize(("low", "count"), [(0.75, 1), (8.0, 0), (None, 0)])
def test_shares_beside_percent(low: float | None, count: int) -> None:
    frame = table()
    frame["acc"] = (100 * frame.acc).where(frame.index != 3, low or 100 * frame.acc)
    words = "acc is at most 1 in 1 of 24 runs (alpha = 0, seed = 3) and at least 6"
    assert [text.startswith(words) for text in compare(frame).warnings] == [True] * count


def test_an_inactive_hyperparameter_is_a_configuration() -> None:
    frame = table()
    frame["temperature"] = np.where(frame.alpha < 1, 4.0, np.nan)
    result = compare(frame, by=["alpha", "temperature"], baseline={"alpha": "1"})
    assert result.runs.labels.tolist() == ["alpha = 0, T = 4", "alpha = 0.5, T = 4", "alpha = 1"]
    same = compare(frame, by=["alpha", "temperature"], baseline={"temperature": "none"})
    assert same.comparisons.equals(result.comparisons)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"by": "aplha"}, r"must be a column of the table .*got aplha; did you mean alpha\?"),
        ({}, {"by": ()}, "by must name at least one column"),
        ({}, {"metric": "seed"}, "each column must have one role, but seed has two"),
        ({}, {"baseline": {"lr": 2}}, "baseline must be one of alpha, but got lr"),
        ({}, {"baseline": {"alpha": 2}}, r"configuration of the table \(alpha: 0.0, 0.5, 1.0\)"),
        ({}, {"pooled": True}, "pooled must be used with epoch"),
        ({"acc": "good"}, {}, "acc must have values, but no row of the table has a valid one"),
        ({"seed": 0, "lr": range(24)}, {}, r"alpha = 0, seed = 0 has 8: .*they differ in lr"),
    ],
)
def test_input_that_is_refused(change: dict, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compare(table(**change), **options)


def test_runs_that_share_one_example_or_none() -> None:
    frame = pd.concat([table().assign(image=i) for i in range(3)], ignore_index=True)
    apart = frame.assign(image=frame.image + 3 * (frame.alpha < 1))
    assert compare(apart, example="image").comparisons.why.tolist() == ["no common image"] * 2
    apart.loc[apart.image == 3, "image"] = 0
    one, alone = compare(apart, example="image"), compare(frame[frame.image == 0])
    numbers = ["diff", "low", "high", "p_holm", "n", "n_images"]
    pd.testing.assert_frame_equal(one.comparisons[numbers], alone.comparisons[numbers])
    assert "no comparison is paired by several values of image" in one.text()


def test_the_trials_of_a_study_give_its_own_numbers(tmp_path: Path) -> None:
    results = make(tmp_path, {0.1: [0.72, 0.75, 0.73, 0.74], 1.0: [0.7, 0.74, 0.7, 0.73]})
    want = results.compare()
    trials = results.trials[results.trials.status == "completed"]
    roles = ("config/alpha", "repeat", "val/acc@last")
    got = kdtune.compare(trials, *roles, baseline={"config/alpha": 1})
    assert not got.warnings
    names = [name for name in want if name in got.comparisons and "config" not in name]
    assert {"diff", "low", "high", "low_here", "p_holm", "p_max_t", "n_images"} < set(names)
    numbers = [name for name in names if name not in ("label", "baseline")]
    pd.testing.assert_frame_equal(got.comparisons[numbers], want[numbers], check_dtype=False)


FRAME = pd.DataFrame(
    [
        {"alpha": alpha, "T": t, "seed": seed, "acc": 0.7 + 0.05 * (alpha < 1) + seed**2 / 1000 * t}
        for alpha, t in ((0.5, 4.0), (1.0, 1.0))
        for seed in range(4)
    ]
)
ROLES = ["--by", "alpha", "T", "--repeat", "seed", "--metric", "acc"]


def analyse(*words: object) -> int:
    flags = parse_reading([str(word) for word in words])
    return kdtune.analysis.main(flags)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("german.csv", {"sep": ";", "decimal": ","}),
        ("x.tsv", {"sep": "\t"}),
        ("unicode.txt", {"sep": "\t", "encoding": "utf-16"}),
        ("excel.csv", {"sep": ";", "encoding": "utf-8-sig"}),
        ("parquet.csv", None),  # told by its content
    ],
)
def test_csv_in_any_usual_form_and_parquet(name: str, options: dict, tmp_path: Path) -> None:
    file = tmp_path / name
    FRAME.to_parquet(file) if options is None else FRAME.to_csv(file, index=False, **options)
    pd.testing.assert_frame_equal(read_table(str(file)), FRAME)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "x.csv cannot be read as one: No columns to parse"),
        ("x.csv", b"alpha,T,seed,acc\n", "seed must have values, but no row"),
        ("x.csv", b"alpha,T,seed,acc\n1,1,0,\xe9\n", "UTF-8, but .*byte 0xe9 in position 23"),
        ("x.csv", b"alpha,T,seed,acc\n1,1,0,.5,7\n", "line has 4 fields, but its rows have more"),
        ("x.csv", b"alpha,T,acc,acc\n1,1,0,.5\n", "several columns have the name acc"),
        ("x.csv", b"1.0,1.1,0,0.7\n1.0,1.1,1,0.7\n", r"column of the table \(1.0, 1.1, 0, 0.7\)"),
        ("x.xlsx", b"PK\x03\x04\xff", "Save the table as CSV UTF-8"),
        ("x.parquet", b"PAR1 not really", "x.parquet cannot be read as one: .*Parquet"),
    ],
)
def test_files_that_are_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        analyse(tmp_path / name, *ROLES)
    assert "\n" not in str(caught.value)


exact = pytest.approx
A = draw({0.5: 0.03, 0.1: 0.0, 1.0: 0.0}, 8)
B = draw({0.5: 0.06, 1.0: 0.01}, 8, seed=1)
C = draw({0.5: 0.0, 1.0: 0.0}, 5, seed=2)


def save(folder: Path, last: dict, run: Run = RUN, data: str | None = "x", **study) -> str:
    runs = {replace(run, alpha=alpha): accs for alpha, accs in last.items()}
    write_study(folder, runs, name=folder.name, run=run, **study)
    if data is not None:
        edit_json(folder / "study.json", lambda own: own.update(fingerprints={"data": data}))
    return str(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return three studies: another student than the first, and another seed."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        save(folder / "a", A),
        save(folder / "b", B, replace(RUN, student="resnet34")),
        save(folder / "c", C, replace(RUN, seed=1)),
    ]


def test_pairs_where_the_seeds_allow_and_welch_elsewhere(places: list[str]) -> None:
    table = load_several(places).comparisons.query("split == 'test'").set_index(["study", "pair"])
    assert list(table.index) == [("b", "best"), ("b", "plain"), ("c", "best"), ("c", "plain")]
    assert table.paired["b"].all() and not table.paired["c"].any()
    assert set(table.why["c"]) == {"seed 0 and 1"}
    paired = stats.ttest_rel(B[0.5], A[0.5])
    row = table.loc[("b", "best")]
    assert row.p == exact(paired.pvalue)
    ends = paired.confidence_interval(1 - 0.05 / len(table))
    assert (row.low, row.high) == exact((ends.low, ends.high))
    welch = stats.ttest_ind(C[1.0], A[1.0], equal_var=False)
    row = table.loc[("c", "plain")]
    assert (row.p, row.n, row.n_baseline) == (exact(welch.pvalue), 5, 8)
    ends = welch.confidence_interval(1 - 0.05 / len(table))
    assert (row.low, row.high) == exact((ends.low, ends.high))
    assert list(table.p_holm) == exact(holm(list(table.p)))


def test_repeats_pair_only_where_there_are_common_ones(tmp_path: Path) -> None:
    first = save(tmp_path / "first", {0.5: [0.7, 0.72, 0.71], 1.0: [0.6, 0.61, 0.64]})
    late = {0.5: [None, None, 0.75, 0.76, 0.77], 1.0: [None, None, 0.7, 0.71, 0.72]}
    table = load_several([first, save(tmp_path / "late", late)]).comparisons
    assert set(table.why) == {"1 common repeats"} and table.n.tolist() == [3] * 4
    cut = replace(RUN, train_images=100, augment="none")
    other = save(tmp_path / "cut", {0.5: [0.7, 0.72, 0.71], 1.0: [0.6, 0.61, 0.64]}, cut)
    why = load_several([first, other]).comparisons.why[0]
    assert why == "train images None and 100, augmentation crop and none"


def test_unpaired_folds_have_no_test(tmp_path: Path) -> None:
    """Paired ones have the corrected variance (1/8 + 1/4) s^2 (Nadeau and Bengio, 2003)."""
    folds = replace(RUN, folds=5)
    places = [
        save(tmp_path / "first", A, folds),
        save(tmp_path / "paired", B, replace(folds, student="resnet34")),
        save(tmp_path / "seed", B, replace(folds, seed=1)),
        save(tmp_path / "cut", B, RUN),
    ]
    side = load_several(places)
    table = side.comparisons.query("split == 'test' and pair == 'best'").set_index("study")
    assert table.why.tolist() == ["", "seed 0 and 1", "folds 5 and None"]
    d = np.subtract(B[0.5], A[0.5])
    t = d.mean() / np.sqrt((1 / 8 + 1 / 4) * d.var(ddof=1))
    assert table.p["paired"] == exact(2 * stats.t.sf(abs(t), 7))
    alone = table.loc[["seed", "cut"]]
    assert alone[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert alone["diff"].tolist() == exact([d.mean()] * 2)
    assert "Welch" not in text(side)


def test_unpaired_teachers_are_the_sample(tmp_path: Path) -> None:
    four, one = replace(RUN, teachers=4), replace(RUN, teacher="resnet101")
    places = [save(tmp_path / "one", C, one), save(tmp_path / "four", A, four)]
    side = load_several(places)
    row = side.comparisons.query("split == 'val' and pair == 'best'").iloc[0]
    means = np.reshape(A[0.5], (2, 4)).mean(0)  # repeat r learns from teacher r mod 4
    welch = stats.ttest_ind(means, C[0.5], equal_var=False)
    assert row.why == "teachers 1 and 4" and row.p == exact(welch.pvalue)
    assert (row.n, row.n_baseline) == (8, 5)
    about = "new repeats on these training images with new teachers of these recipes on these test"
    assert about in text(side)


def test_other_data_are_refused_and_unknown_ones_said(tmp_path: Path, places: list[str]) -> None:
    other = save(tmp_path / "other", C, data="y")
    with pytest.raises(InputError, match=r"different data \(a: fashion, fingerprint x, 500 val"):
        load_several([places[0], other])
    unknown = save(tmp_path / "unknown", C, data=None)
    assert "unknown has no fingerprint" in load_several([places[0], unknown]).doubt


def test_a_training_function_is_unpaired_and_its_data_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMAGES, "val", 8)
    own = Path(__file__).parents[1] / "goldens" / "studies" / "own_function"
    side = load_several([save(tmp_path / "a", A), str(own)])
    (row,) = side.comparisons.query("split == 'val'").to_dict("records")
    results = side.studies["own_function"]
    best = results.trials[results.trials.config_id == results.best()]["val/acc@last"]
    assert row["p"] == exact(stats.ttest_ind(best, A[0.5], equal_var=False).pvalue)
    words = text(side)
    assert "(a training function has random seeds of its own)" in words
    assert "own_function has no fingerprint" in words
    assert write_comparison(side, tmp_path / "page.html").exists()
    with pytest.raises(InputError, match="own_function has acc and not kl"):
        load_several([str(tmp_path / "a"), str(own)], Criterion("kl"))


def test_the_recipe_of_a_teacher_that_is_not_trained_does_not_differ(tmp_path: Path) -> None:
    recipes = ({"teacher_lr": 0.1}, {"teacher_lr": 0.2}, {"teacher_epochs": 3, "epochs": 4})
    runs = [replace(RUN, **({"teacher_epochs": 0} | recipe)) for recipe in recipes]
    places = [save(tmp_path / str(k), C, run) for k, run in enumerate(runs)]
    names = [set(differing_settings(load_several(p).studies).setting) for p in (places[:2], places)]
    assert names[0] == set() and names[1] >= {"teacher_epochs", "teacher_lr", "epochs"}


def test_the_latest_comes_first_and_a_damaged_study_is_a_row(tmp_path: Path) -> None:
    for day, gain in enumerate([-0.05, 0.05, 0.012]):
        write_study(folder := tmp_path / f"day{day}", draw({0.5: gain, 1.0: 0.0}, 8))
        edit_records(folder, lambda line, day=day: line.update(time=1.7e9 + 86_400 * day))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "study.json").write_text("{")
    write_study(tmp_path / "strange", draw({0.5: 0.0, 1.0: 0.0}, 2))
    edit_records(tmp_path / "strange", lambda line: line.pop("epochs", None))
    (tmp_path / "notes").mkdir()  # no study
    table = list_studies(tmp_path).set_index("name")
    assert list(table.index) == ["day2", "day1", "day0", "cut", "strange"]
    assert table.state["cut"].startswith("damaged: study.json is not a study")
    assert table.state["strange"].endswith("0 of 4 runs completed, 4 damaged records")
    for day, verdict in enumerate(("worse: -", "better: +", "not significant: ")):
        assert table.verdict[f"day{day}"].startswith(verdict)
    want = pd.Series(draw({0.5: 0.05, 1.0: 0.0}, 8)[0.5])
    assert (table["mean"]["day1"], table["std"]["day1"]) == exact((want.mean(), want.std()))


def test_the_conclusion_is_on_the_student_of_the_best_configuration(tmp_path: Path) -> None:
    both = (("resnet18", 0.6, 0.2), ("resnet34", 0.8, 0.01))
    made = make(
        tmp_path / "two",
        {
            replace(RUN, student=student, alpha=alpha): [base + gain + r / 1000 for r in range(4)]
            for student, base, gained in both
            for alpha, gain in ((0.5, gained), (1.0, 0.0))
        },
    )
    assert len(made.compared_students()) == 2
    (row,) = list_studies(tmp_path).to_dict("records")
    assert "resnet34" in row["best"] and row["verdict"].startswith("not significant: +1.0")
