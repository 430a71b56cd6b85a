"""Epoch selection, shares of variance, importance and selection on studies of known truth."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import IMAGES, at, draw, grid, make, write_predictions, write_records

import kdtune
from kdtune.config.files import PREDICTIONS
from kdtune.results.comparison import Criterion
from kdtune.statistics.selection import bootstrap_corrected, repeated_measures, variance_shares

exact = pytest.approx
EFFECTS = {0.1: 0.01, 0.5: 0.03, 0.9: 0.0, 1.0: 0.0}


# -- which epoch counts ----------------------------------------------------------------------------


def test_sensitivity_by_hand(tmp_path) -> None:
    make(tmp_path, {0.5: [0.6, 0.6], 1.0: [0.5, 0.5]})
    (tmp_path / "epochs" / "00000.jsonl").unlink()
    # 0.5 ends better, but 1.0 was better before: best .9 and mean .7 against .6 and .5
    runs = {at(0.5, r): [0.4 + r / 100, 0.5, 0.6] for r in range(2)}
    runs |= {at(1.0, r): [0.7 + r / 100, 0.9, 0.5] for r in range(2)}
    write_records(tmp_path, runs)
    made = kdtune.load(tmp_path)
    table = made.sensitivity().set_index("config/alpha")
    assert list(table.index) == [0.5, 1.0]
    assert table["last/mean"].tolist() == exact([0.6, 0.5])
    assert table["best/mean"].tolist() == exact([0.6, 0.9])
    assert table["last-5-avg/mean"].tolist() == exact([(0.405 + 1.1) / 3, (0.705 + 1.4) / 3])
    assert table[["last/rank", "best/rank", "last-5-avg/rank"]].to_numpy().tolist() == [
        [1, 2, 2],
        [2, 1, 1],
    ]
    # of ce less is better
    assert made.sensitivity("ce").set_index("config/alpha")["last/rank"].to_dict() == {0.5: 1, 1: 2}


def test_equal_means_share_a_rank(tmp_path) -> None:
    table = make(tmp_path, {0.1: [0.6, 0.7], 0.5: [0.7, 0.6], 1.0: [0.5, 0.5]}).sensitivity()
    assert table["last/rank"].tolist() == [1, 1, 3]


# -- where the spread comes from -------------------------------------------------------------------


def test_shares_of_variance_match_those_of_the_block(tmp_path) -> None:
    last = draw(EFFECTS, 5)
    table = make(tmp_path, last).spread(Criterion()).set_index("epochs")
    block = np.array(list(last.values()))
    whole, measures = variance_shares(block[..., None]), repeated_measures(block)
    row = table.loc["last"]
    assert (row.configuration, row["repeat"], row.residual) == exact(
        (whole.configuration, whole.repeat, whole.residual)
    )
    assert (row.f, row.p, row.icc) == exact((measures.f, measures.p, measures.icc))
    assert (row.n_configs, row.n_repeats) == (4, 5) and math.isnan(row.epoch)
    curves = block[..., None] * np.array([1, 2, 3]) / 3  # they rise evenly to the last
    every = variance_shares(curves)
    row = table.loc["all"]
    assert (row.configuration, row.epoch) == exact((every.configuration, every.epoch))
    assert row.epoch > 0.9  # pooling over epochs measures the learning curve


def test_shares_of_variance_use_a_block_without_gaps(tmp_path) -> None:
    last = draw(EFFECTS, 5)
    whole = make(tmp_path / "whole", {a: accs[:4] for a, accs in last.items() if a != 0.9})
    last[0.9] = [*last[0.9][:2], None, None, None]
    for alpha in (0.1, 0.5, 1.0):
        last[alpha][4] = None
    holed = make(tmp_path / "holed", last, repeats=5)
    pd.testing.assert_frame_equal(holed.spread(Criterion()), whole.spread(Criterion()))


@pytest.mark.parametrize("last", [{0.5: [0.7], 1.0: [0.6]}, {0.5: [0.7, 0.8]}])
def test_shares_of_variance_need_two_configurations_and_repeats(tmp_path, last) -> None:
    assert not len(make(tmp_path, last).spread(Criterion()))


def test_runs_of_different_lengths_have_no_common_curve(tmp_path) -> None:
    last = {at(0.5, epochs=3): [0.7, 0.8], at(0.5, epochs=4): [0.75, 0.8], at(1.0): [0.6, 0.65]}
    assert make(tmp_path, last).spread(Criterion()).epochs.tolist() == ["last"]


# -- importance ------------------------------------------------------------------------------------


def test_importance_finds_what_matters(tmp_path) -> None:
    runs = grid([0.1, 0.5, 1.0], lr=[0.01, 0.03, 0.1, 0.3])
    last = draw({run: 0.1 * (run.lr == 0.1) for run in runs}, 4, sd=0.005)
    table = make(tmp_path, last).importance().set_index("hyperparameter")
    assert list(table.index) == ["lr", "alpha"]  # the more important first
    assert table.share["lr"] > 0.95 > table.null["lr"]
    assert table.share["alpha"] < table.null["alpha"]
    # eta squared of the configurations' means
    means = {run: np.mean(accs) for run, accs in last.items()}
    by_lr = [[m for run, m in means.items() if run.lr == lr] for lr in (0.01, 0.03, 0.1, 0.3)]
    f = stats.f_oneway(*by_lr).statistic
    assert table.share["lr"] == exact(3 * f / (3 * f + 8), rel=1e-9)
    assert table.n.tolist() == [12, 12]


def test_importance_uses_configurations_where_the_hyperparameter_is_active(tmp_path) -> None:
    runs = grid([0.1, 0.5, 1.0], temperature=[1.0, 4.0, 16.0])
    table = make(tmp_path, draw(dict.fromkeys(runs, 0.0), 3)).importance()
    assert table.set_index("hyperparameter").n.to_dict() == {"alpha": 7, "temperature": 6}


def test_many_values_are_cut_into_ranges(tmp_path) -> None:
    rates = [0.001 * 1.3**i for i in range(20)]
    last = draw({at(0.5, lr=lr): 0.01 * i for i, lr in enumerate(rates)}, 2, sd=0.001)
    table = make(tmp_path, last).importance()
    assert table.hyperparameter.tolist() == ["lr"] and table.share.item() > 0.9


def test_one_value_per_configuration_has_no_importance(tmp_path) -> None:
    assert not len(make(tmp_path, draw(EFFECTS, 3)).importance())


def test_the_edge_of_the_search_space(tmp_path) -> None:
    runs = grid([0.5, 1.0], lr=[0.01, 0.03, 0.1])
    best = at(0.5, lr=0.1)
    made = make(tmp_path / "edge", draw({run: 0.1 * (run == best) for run in runs}, 3))
    assert made.edges() == (
        "The best configuration is at the edge of the search space: lr = 0.1 (highest). "
        "Consider extending the range."
    )
    odds = {at(x): [0.7 + 0.1 * x] * 2 for x in (0.001, 0.5, 0.99997)}
    assert "alpha = 0.99997 (highest)" in make(tmp_path / "odds", odds).edges()
    best = at(0.5, lr=0.03)
    made = make(tmp_path / "middle", draw({run: 0.1 * (run == best) for run in runs}, 3))
    assert made.edges() == ""


def test_one_of_two_values_is_an_edge_if_it_is_better_everywhere(tmp_path) -> None:
    runs = grid([0.5, 0.9, 1.0], lr=[0.01, 0.1])
    by_lr = draw({run: 0.1 * (run.lr == 0.1) + 0.05 * (run.alpha == 0.9) for run in runs}, 3)
    made = make(tmp_path / "everywhere", by_lr)
    assert "edge of the search space: lr = 0.1 (highest). " in made.edges()
    reversed_plain = {run: [0.3 - run.lr] * 3 for run in runs if run.alpha == 1}
    made = make(tmp_path / "elsewhere", by_lr | reversed_plain)
    assert made.label(made.best()) == "alpha = 0.9, lr = 0.1" and "lr" not in made.edges()


# -- selection -------------------------------------------------------------------------------------


def test_selection_by_hand(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.7, 0.7, 0.7], 0.5: [0.81, 0.82, 0.86], 1.0: [0.8, 0.8, 0.83]})
    table = made.selection().set_index("row")
    assert table.loc["best", "config_id"] == at(0.5).config_id
    assert table.loc["baseline", "config_id"] == at(1.0).config_id
    assert table.loc["default", "config_id"] == at(0.5).config_id  # the run's alpha
    table = table.drop("default")
    assert table["val/mean"].tolist() == exact([0.83, 0.81, 0.02])
    # test's accuracy is val's - 0.1; differences .01, .02, .03 with t(.975, 2) = 4.302653
    assert table["test/mean"].tolist() == exact([0.73, 0.71, 0.02])
    half = 4.302653 * 0.01 / math.sqrt(3)
    for split in ("val", "test"):
        ends = table.loc["difference", [f"{split}/low", f"{split}/high"]]
        assert ends.tolist() == exact([0.02 - half, 0.02 + half], abs=1e-6)
    assert table["corrected/mean"].isna().all()  # no predictions were kept


def test_selection_is_corrected_over_examples(tmp_path) -> None:
    made = make(tmp_path, draw(dict.fromkeys([0.1, 0.3, 0.5, 0.7, 0.9, 1.0], 0.0), 3, shared=0))
    frame = write_predictions(made)
    row = made.selection().set_index("row").loc["best"]
    named = frame.merge(made.trials[["trial_id", "config_id"]])
    correct = named.pivot_table(index="config_id", columns="example", values="correct")
    want = bootstrap_corrected(correct.to_numpy())
    assert (row["corrected/mean"], row["corrected/low"]) == exact((want.corrected, want.low))
    assert row["corrected/low"] < row["corrected/mean"] < row["corrected/high"]
    assert row["val/mean"] == exact(correct.mean(axis=1).max(), abs=1 / IMAGES["val"])
    # six equally good configurations: the best one is optimistic on val
    assert row["corrected/mean"] < row["val/mean"]


def test_a_clear_best_is_hardly_corrected(tmp_path) -> None:
    made = make(tmp_path, draw({0.5: 0.2, 0.9: 0.0, 1.0: 0.0}, 3))
    write_predictions(made)
    row = made.selection().set_index("row").loc["best"]
    assert row["corrected/mean"] == exact(row["val/mean"], abs=0.005)


def test_missing_predictions_prevent_the_correction(tmp_path) -> None:
    made = make(tmp_path, draw(EFFECTS, 3))
    frame = write_predictions(made)
    file = tmp_path / PREDICTIONS
    frame[frame.trial_id.str.startswith(at(0.5).config_id)].to_parquet(file)
    assert made.selection()["corrected/mean"].isna().all()
    frame[frame.trial_id != at(0.5, 2).trial_id].to_parquet(file)
    assert made.selection()["corrected/mean"].isna().all()
    assert (
        "not corrected for selection, since predictions of a run are missing, test" in made.text()
    )


def test_predictions_of_the_runs_replace_a_damaged_file_of_the_study(tmp_path) -> None:
    made = make(tmp_path, draw(EFFECTS, 3))
    frame = write_predictions(made)
    want = made.selection()
    (tmp_path / PREDICTIONS).write_bytes(b"PAR1")
    for trial, own in frame.groupby("trial_id"):
        (tmp_path / "trials" / str(trial)).mkdir(parents=True)
        own.to_parquet(tmp_path / "trials" / str(trial) / PREDICTIONS)
    pd.testing.assert_frame_equal(made.selection(), want)
    assert want["corrected/mean"].notna().any()


@pytest.mark.parametrize("criterion", [Criterion("ce"), Criterion(scope="best")])
def test_only_the_last_accuracy_has_predictions(tmp_path, criterion: Criterion) -> None:
    made = make(tmp_path, draw(EFFECTS, 3))
    write_predictions(made)
    assert made.selection(criterion)["corrected/mean"].isna().all()


def test_there_is_no_difference_if_the_baseline_is_the_best(tmp_path) -> None:
    table = make(tmp_path, {0.5: [0.7, 0.71, 0.7], 1.0: [0.8, 0.8, 0.83]}).selection()
    assert table.row.tolist() == ["best", "baseline", "default", "chosen - default"]
    assert table.config_id[:2].nunique() == 1


def test_no_selection_before_a_run_has_completed(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7], 1.0: [0.8]}, {(0.5, 0): "failed", (1.0, 0): "failed"})
    assert not len(made.selection())
