"""Tables of results made elsewhere, against scipy, hand-worked numbers and a published table."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import make

import kdtune
import kdtune.analysis
from kdtune.analysis import parse as parse_reading
from kdtune.config.text import InputError
from kdtune.results.tables import is_higher_better, read_table, unit_of
from kdtune.statistics.intervals import crossed

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
    for alpha, numbers in published.items():
        got = [
            rows.loc[alpha, f"{m}/{s}"] for m in ("epoch_acc_l", *others) for s in ("mean", "std")
        ]
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


def test_rows_that_count_once_or_not_at_all() -> None:
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


@pytest.mark.parametrize(("low", "count"), [(0.75, 1), (8.0, 0), (None, 0)])
def test_shares_beside_percent(low: float | None, count: int) -> None:
    frame = table()
    frame["acc"] = (100 * frame.acc).where(frame.index != 3, low or 100 * frame.acc)
    words = "acc is at most 1 in 1 of 24 runs (alpha = 0, seed = 3) and at least 6"
    assert [text.startswith(words) for text in compare(frame).warnings] == [True] * count


def test_runs_that_end_at_different_epochs() -> None:
    epochs = pd.concat([table().assign(epoch=e) for e in range(4)])
    whole = compare(epochs, epoch="epoch")
    assert not whole.warnings
    early = compare(epochs[(epochs.epoch < 2) | (epochs.seed == 0)], epoch="epoch")
    assert "the runs end at different epochs (epoch 1 to 3)" in early.warnings[0]
    assert early.comparisons.n.tolist() == [8, 8]  # early stopping leaves none out


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
