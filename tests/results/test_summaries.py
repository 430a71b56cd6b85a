"""Means over repeats, sensitivity of the ranking, selection; studies of training functions.

Dataframes of records and predictions, and the labels of configurations.
"""

import fcntl
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ray.tune.experiment import Trial
from scipy import stats
from scipy.stats import sem, t
from study_folders import (
    IMAGES,
    RUN,
    at,
    draw,
    edit_records,
    grid,
    make,
    make_final,
    metrics,
    write_predictions,
    write_records,
    write_study,
)

import kdtune
from kdtune.config.files import PREDICTIONS
from kdtune.config.run import DISTILLATION, HYPERPARAMETERS
from kdtune.config.study import Study
from kdtune.config.task import METRICS
from kdtune.results.comparison import Criterion
from kdtune.results.frames import (
    config_label,
    label_by_config,
    read_examples,
    read_frames,
    read_predictions,
    write_frames,
)
from kdtune.statistics.selection import bootstrap_corrected, repeated_measures, variance_shares
from kdtune.storage.records import Records

exact = pytest.approx
LAST = {0.5: [0.5, 0.6, 0.7], 1.0: [0.4, 0.45, 0.41]}


@pytest.mark.parametrize("repeats", [1, 5])
def test_summary_of_every_metric_matches_numpy_and_scipy(tmp_path, repeats: int) -> None:
    last = draw({0.5: 0.0, 1.0: 0.0}, repeats)
    names = ("acc", "gap", "ce", "loss", "distill", "agreement", "kl", "logit_diff", "teacher_acc")
    table = make(tmp_path, last).summary(metrics=names, full=True).set_index("alpha")
    for alpha, name in ((a, n) for a in last for n in names):
        of = [metrics(at(alpha), acc) for acc in last[alpha]]
        values = [m["teacher_acc"] - m["acc"] if name == "gap" else m[name] for m in of]
        row = {k: table.loc[alpha, f"val/{name}/{k}"] for k in ("mean", "std", "n", "low", "high")}
        if name == "distill" and alpha == 1:
            assert row["n"] == 0 and math.isnan(row["mean"])
            continue
        assert (row["mean"], row["n"]) == (exact(np.mean(values)), repeats)
        if repeats == 1:
            assert all(math.isnan(row[k]) for k in ("std", "low", "high"))
        elif name != "teacher_acc":
            assert row["std"] == exact(np.std(values, ddof=1))
            ends = t.interval(0.95, repeats - 1, np.mean(values), sem(values))
            assert (row["low"], row["high"]) == exact(ends, nan_ok=True)


def test_failed_and_truncated_runs_are_not_averaged(tmp_path) -> None:
    last = {0.5: [0.5, 0.6, 0.7, 0.99], 1.0: [0.4, 0.5, 0.6, 0.01]}
    made = make(tmp_path, last, {(0.5, 3): "failed", (1.0, 3): "truncated"})
    table = made.summary(metrics=("acc",), full=True).set_index("alpha")
    assert table["val/acc/n"].tolist() == [3, 3] and table.n_planned.tolist() == [4, 4]
    assert table.loc[0.5, "val/acc/mean"] == exact(0.6)
    assert table.loc[1.0, "val/acc/mean"] == exact(0.5)
    assert made.configs["n"].tolist() == [3, 3] and made.compare().n.tolist() == [3]
    pooled = made.summary(pooled=True, metrics=("acc",), full=True).set_index("alpha")
    # curves rise evenly to the last: 1/3, 2/3, 1
    assert pooled.loc[0.5, "val/acc/mean"] == exact(0.6 * 2 / 3)
    assert "3 of 4" in made.text()


def test_a_run_without_a_metric_does_not_count_in_its_mean(tmp_path) -> None:
    write_study(tmp_path, LAST)
    trial = at(0.5, 2).trial_id
    edit_records(tmp_path, lambda line: line["trial_id"] == trial and line.update(ce=None))
    made = kdtune.load(tmp_path)
    row = made.summary(metrics=("acc", "ce"), full=True).set_index("alpha").loc[0.5]
    assert (row["val/ce/mean"], row["val/ce/n"], row["val/acc/n"]) == (exact(1.5 - 0.55), 2, 3)
    assert made.compare().n.tolist() == [3]
    assert any("val ce missing" in w for w in made.warnings)


def test_a_row_of_several_configurations_counts_repeats_and_marginal_by_hand(tmp_path) -> None:
    last = {at(0.5, temperature=1.0): [0.2, 0.4], at(0.5, temperature=4.0): [0.4, 0.8]}
    row = make(tmp_path, last).summary(by=["alpha"], metrics=["acc"], full=True).iloc[0]
    assert row["val/acc/n"] == 2
    assert row["val/acc/mean"] == exact(0.45)  # of 0.3 and 0.6
    assert row["val/acc/std"] == exact(0.3 / 2**0.5)
    last = {at(0.5, lr=0.1): [0.5, 0.6], at(0.5, lr=0.2): [0.7, 0.6]}
    last |= {at(1.0, lr=0.1): [0.3, 0.4], at(1.0, lr=0.2): [0.1, 0.2]}
    table = make(tmp_path / "more", last).marginal(["acc"]).set_index(["hyperparameter", "value"])
    means = {("alpha", 0.5): 0.6, ("alpha", 1.0): 0.25, ("lr", 0.1): 0.45, ("lr", 0.2): 0.4}
    assert table["val/acc/mean"].to_dict() == exact(means)
    assert table.loc[("alpha", 0.5), "val/acc/std"] == exact(0)  # of .6 and .6
    assert table.loc[("lr", 0.1), "val/acc/std"] == exact(0.1 / 2**0.5)  # of .4 and .5


@pytest.mark.parametrize("pooled", [False, True])
def test_rows_with_inactive_hyperparameters_are_kept(tmp_path, pooled: bool) -> None:
    """Temperature under mse and at alpha = 1: pandas would drop them."""
    last = {at(0.5, temperature=4.0): [0.6, 0.9], at(0.5, loss="mse"): [0.3, 0.6], 1.0: [0.3, 0.3]}
    table = make(tmp_path, last).summary(["loss", "temperature"], ["acc"], pooled=pooled, full=True)
    missing = table[["loss", "temperature"]].isna().to_numpy()
    assert missing.tolist() == [[False, False], [False, True], [True, True]]
    # curves rise evenly to the last: 1/3, 2/3, 1
    factor, n = (2 / 3, 6) if pooled else (1, 2)
    assert table["val/acc/mean"].tolist() == exact([0.75 * factor, 0.45 * factor, 0.3 * factor])
    assert table["val/acc/n"].tolist() == [n, n, n]
    values = [0.2, 0.4, 0.6, 0.3, 0.6, 0.9] if pooled else [0.6, 0.9]
    assert table["val/acc/std"][0] == exact(np.std(values, ddof=1))


EFFECTS = {0.1: 0.01, 0.5: 0.03, 0.9: 0.0, 1.0: 0.0}


def test_sensitivity_by_hand(tmp_path) -> None:
    write_study(tmp_path, {0.5: [0.6, 0.6], 1.0: [0.5, 0.5]})
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
    ranks = table[["last/rank", "best/rank", "last-5-avg/rank"]].to_numpy()
    assert ranks.tolist() == [[1, 2, 2], [2, 1, 1]]
    # of ce less is better
    assert made.sensitivity("ce").set_index("config/alpha")["last/rank"].to_dict() == {0.5: 1, 1: 2}


def test_shares_of_variance_match_those_of_the_block_without_gaps(tmp_path) -> None:
    last = draw(EFFECTS, 5)
    table = make(tmp_path, last).spread(Criterion()).set_index("epochs")
    block = np.array(list(last.values()))
    whole, measures = variance_shares(block[..., None]), repeated_measures(block)
    row = table.loc["last"]
    shares = whole.configuration, whole.repeat, whole.residual
    assert (row.configuration, row["repeat"], row.residual) == exact(shares)
    assert (row.f, row.p, row.icc) == exact((measures.f, measures.p, measures.icc))
    assert (row.n_configs, row.n_repeats) == (4, 5) and math.isnan(row.epoch)
    curves = block[..., None] * np.array([1, 2, 3]) / 3  # they rise evenly to the last
    every = variance_shares(curves)
    row = table.loc["all"]
    assert (row.configuration, row.epoch) == exact((every.configuration, every.epoch))
    assert row.epoch > 0.9  # pooling over epochs measures the learning curve
    # the configuration and the repeat with gaps are left out
    whole = make(tmp_path / "whole", {a: accs[:4] for a, accs in last.items() if a != 0.9})
    last[0.9] = [*last[0.9][:2], None, None, None]
    for alpha in (0.1, 0.5, 1.0):
        last[alpha][4] = None
    holed = make(tmp_path / "holed", last, repeats=5)
    pd.testing.assert_frame_equal(holed.spread(Criterion()), whole.spread(Criterion()))


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


def test_the_edge_of_the_search_space(tmp_path) -> None:
    runs = grid([0.5, 1.0], lr=[0.01, 0.03, 0.1])
    for lr, edge in ((0.1, "lr = 0.1 (highest)"), (0.03, "")):
        effects = {run: 0.1 * (run == at(0.5, lr=lr)) for run in runs}
        text = make(tmp_path / str(lr), draw(effects, 3)).edges()
        assert edge in text and bool(text) == bool(edge)


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


def test_missing_predictions_prevent_the_correction(tmp_path) -> None:
    made = make(tmp_path, draw(EFFECTS, 3))
    frame = write_predictions(made)
    # only the accuracy at the last epoch has predictions
    assert made.selection(Criterion("ce"))["corrected/mean"].isna().all()
    frame[frame.trial_id != at(0.5, 2).trial_id].to_parquet(tmp_path / PREDICTIONS)
    assert made.selection()["corrected/mean"].isna().all()
    text = "not corrected for selection, since predictions of a run are missing, test"
    assert text in made.text()


def test_a_study_that_has_just_begun_can_be_read(tmp_path) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    assert made.text() == f"{made.verdict()}\n\nNo run has completed."
    assert made.verdict().startswith("No conclusion")
    assert made.status == "incomplete, not running: 0 of 2 runs completed"
    for table in (made.summary(), made.configs, made.compare(), made.sensitivity(), made.spread()):
        assert not len(table)
    assert not len(made.importance()) and not len(made.selection()) and not len(made.marginal())
    assert made.best() is None


def test_a_race_of_one_arm_is_judged_by_its_final_repeats(tmp_path: Path) -> None:
    """As rivals that are studies of their own: the search has selected the finalist."""
    last = {1.0: [0.7, 0.71, 0.72]}
    made = make_final(tmp_path, last, {1.0: [0.6, 0.61, 0.62, 0.63]}, policy="race")
    assert made.uses_held_out_repeats(made.default_criterion)
    assert list(made.trials_for(made.default_criterion)["repeat"]) == [2000, 2001, 2002, 2003]
    (row,) = made.selection().to_dict("records")[:1]
    assert row["val/mean"] == pytest.approx(0.615) and row["val/n"] == 4


SCORES = {0.1: [0.8, 0.82, 0.84], 1.0: [0.7, 0.73, 0.7]}


def write(folder: Path, scores: Iterable[list[float]], name: str, **own: Any) -> kdtune.Results:
    """Write a study of three repeats with the scores of each configuration."""
    study = Study(train="own_functions:wave", repeats=3, **own)
    folder.mkdir()
    (folder / "study.json").write_text(study.to_json())
    with Records(folder) as records:
        for run, values in zip(study.runs(), scores, strict=True):
            for repeat, value in enumerate(values):
                records.start(run.at(repeat), 0)
                epoch = {"number": 0, "seconds": 1.0, "splits": {"val": {name: value}}}
                records.epoch(run.at(repeat), 0, epoch)
                records.end(run.at(repeat), 0, "completed")
    return kdtune.load(folder)


def test_what_is_minimised_is_the_mirror_of_what_is_maximised(tmp_path: Path) -> None:
    own = {"space": {"alpha": tuple(SCORES)}, "baseline": {"alpha": 1.0}, "metric": "val/gain"}
    up = write(tmp_path / "up", SCORES.values(), "gain", mode="max", **own)
    negative = [[-value for value in values] for values in SCORES.values()]
    down = write(tmp_path / "down", negative, "gain", mode="min", **own)
    ours, theirs = up.compare().iloc[0], down.compare().iloc[0]
    assert ours["diff"] == pytest.approx(0.11) and theirs["diff"] == pytest.approx(-0.11)
    assert (ours.low, ours.high) == pytest.approx((-theirs.high, -theirs.low))
    assert (ours.p, ours.wins, ours.losses) == (theirs.p, theirs.wins, theirs.losses)
    assert up.best() == down.best() and up.label(up.best()) == "alpha = 0.1"
    assert "improved validation gain by 0.11" in up.verdict()
    assert "improved validation gain by 0.11" in down.verdict()


def test_names_and_values_that_are_not_distillations(tmp_path: Path) -> None:
    """Names of columns, numbers as teachers, mixed lists and large whole numbers."""
    space = {"status": ("a", "b"), "teacher": (10001, 10002), "mixed": ("sqrt", 0.5)}
    scores = ([0.5 + 0.01 * k + 0.001 * r * (k % 2) for r in range(3)] for k in range(8))
    results = write(tmp_path / "study", scores, "acc", space=space, baseline={"status": "a"})
    assert results.trials.label.nunique() == 8
    assert "teacher = 10001" in results.trials.label[0] + results.trials.label[23]
    assert len(results.summary(full=True)) == 8 and "status" in results.text()
    write_frames(results.folder, results.frames)
    saved = pd.read_parquet(results.folder / "trials.parquet")
    assert set(saved["config/mixed"]) == {"sqrt", "0.5"}


CONFIG = ["trial_id", "config_id", "label", *(f"config/{name}" for name in HYPERPARAMETERS)]
CONFIG += ["repeat"]
FOUR = {at(0.5, 0): [0.3, 0.6, 0.5], at(0.5, 1): [0.4, 0.5, 0.6]}
FOUR |= {at(1.0, 0): [0.1, 0.2, 0.3], at(1.0, 1): [0.2, 0.3, 0.4]}
RECORDED = DISTILLATION.recorded


def test_frames_hold_what_was_recorded(tmp_path):
    write_records(tmp_path, FOUR)
    frames = read_frames(tmp_path)
    epochs = frames.epochs
    assert not frames.incomplete and len(epochs) == 4 * 7  # 3 train, 3 val, 1 test
    assert list(epochs) == [*CONFIG, "epoch", "split", "n_examples", *RECORDED, "seconds"]
    for run, accs in FOUR.items():
        val = epochs[(epochs.trial_id == run.trial_id) & (epochs.split == "val")]
        assert val.acc.tolist() == accs and val.epoch.tolist() == [0, 1, 2]
        assert val.loss.tolist() == [2 - acc for acc in accs]
        assert (val.n_examples == 500).all() and (val.seconds == 0.5).all()
        assert (val.config_id == run.config_id).all() and (val["repeat"] == run.repeat).all()
        teachers = run.config["temperature"]  # the same one, not None
        for name, value in (run.config | {"teacher_temperature": teachers}).items():
            column = val[f"config/{name}"]
            assert column.isna().all() if value is None else (column == value).all()
        context = [] if run.alpha == 1 else [2.25 - acc for acc in accs]
        assert val.distill.dropna().tolist() == context


def test_the_last_attempt_counts(tmp_path):
    write_records(tmp_path, {at(0.5, 0): [0.1, 0.2]}, {at(0.5, 0): "failed"})
    assert read_frames(tmp_path).trials.status.tolist() == ["failed"]
    write_records(tmp_path, {at(0.5, 0): [0.5, 0.6, 0.7]}, attempt=1)
    frames = read_frames(tmp_path)
    val = frames.epochs[frames.epochs.split == "val"]
    assert val.acc.tolist() == [0.5, 0.6, 0.7]
    (trial,) = frames.trials.to_dict("records")
    assert trial["status"] == "completed" and pd.isna(trial["error"]) and trial["n_epochs"] == 3
    write_records(tmp_path, {at(0.5, 0): []}, {at(0.5, 0): "truncated"}, attempt=2)  # runs again
    assert read_frames(tmp_path).trials.status.tolist() == ["truncated"]


@pytest.mark.parametrize("n_epochs", [1, 4, 5, 7])
def test_epoch_selections_match_ray_tune(tmp_path, n_epochs):
    accs = np.random.default_rng(n_epochs).uniform(size=n_epochs).tolist()
    trial = Trial("any", stub=True)
    for epoch, acc in enumerate(accs):
        trial.update_last_result({"acc": acc, "training_iteration": epoch + 1})
    rays = trial.metric_analysis["acc"]
    write_records(tmp_path, {at(0.5, epochs=n_epochs): accs})
    (ours,) = read_frames(tmp_path).trials.to_dict("records")
    assert ours["val/acc@last"] == rays["last"]
    assert ours["val/acc@last-5-avg"] == pytest.approx(rays["last-5-avg"], rel=1e-12)
    assert ours["val/acc@best"] == rays["max"]


def test_of_equal_best_epochs_the_first_counts_and_none_is_missing_not_zero(tmp_path):
    write_records(tmp_path, {at(0.5): [0.2, 0.6, 0.6]})
    edit_records(tmp_path, lambda line: line.update(kl=line.get("epoch")))
    (trial,) = read_frames(tmp_path).trials.to_dict("records")
    assert trial["val/kl@best"] == 1 and trial["val/kl@last"] == 2
    write_records(folder := tmp_path / "none", {at(0.5): [0.3, 0.6, 0.5]})
    edit_records(folder, lambda line: line.get("epoch") == 2 and line.update(kl=None))
    frames = read_frames(folder)
    val = frames.epochs[frames.epochs.split == "val"]
    assert val.kl.isna().tolist() == [False, False, True]
    assert frames.trials["val/kl@last"].isna().all()
    assert frames.trials["val/kl@last-5-avg"].item() == pytest.approx((0.8 + 0.5) / 2)


def test_a_run_without_an_end_is_running_while_the_study_is(tmp_path):
    last = {0.5: [0.7, 0.8], 1.0: [0.5, 0.6]}
    made = make(tmp_path, last, {(0.5, 1): "running"})
    assert made.trials.status.value_counts().to_dict() == {"completed": 3, "truncated": 1}
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        running = kdtune.load(tmp_path)
    assert running.frames.running
    assert running.trials.status.value_counts().to_dict() == {"completed": 3, "running": 1}
    assert not kdtune.load(tmp_path).frames.running  # the file .lock stays, its holder is gone


def trials(*students: str) -> pd.DataFrame:
    rows = [{"config_id": name, "config/student": name, "config/alpha": 0.5} for name in students]
    return pd.DataFrame(rows)


def test_labels_tell_configurations_apart_also_at_an_alpha_close_to_1() -> None:
    names = ["student", "alpha"]
    short = label_by_config(trials("a:small", "a:large"), names)
    assert short == {f"a:{n}": f"student = {n}, alpha = 0.5" for n in ("small", "large")}
    full = label_by_config(trials("a:net", "b:net"), names)
    assert full["b:net"] == "student = b:net, alpha = 0.5" and len(set(full.values())) == 2
    # alpha = 1 is the baseline.
    shown = [config_label({"alpha": x}, ["alpha"], prefix="") for x in (0.99997, 1.0, 0.00123456)]
    assert shown == ["alpha = 0.99997", "alpha = 1", "alpha = 0.001235"]


def test_both_temperatures_are_shown_as_numbers(tmp_path: Path) -> None:
    """Equal ones, too: None would read as a teacher that is not softened."""
    space = {"alpha": (0.5,), "temperature": (1.0, 4.0), "teacher_temperature": (1.0, 4.0)}
    study = Study(run=RUN, space=space, repeats=1, out=str(tmp_path), name="two")
    for number, trial in enumerate(study.runs()):
        write_records(study.folder, {trial: [0.5 + number / 100] * 3})
    (study.folder / "study.json").write_text(study.to_json())
    results = kdtune.load(study.folder)
    labels = {f"alpha = 0.5, T = {t}, teacher T = {of}" for t in (1, 4) for of in (1, 4)}
    assert set(results.trials.label) == labels | {"alpha = 1"}
    table = results.summary()
    assert sorted(table[table.alpha != 1].teacher_temperature) == [1.0, 1.0, 4.0, 4.0]
    assert list(table[table.alpha == 1].teacher_temperature) == ["-"]


TRIALS = [at(0.5, r).trial_id for r in range(3)]


def rows(trial: str, correct: bool, **columns) -> pd.DataFrame:
    """Two examples of val, with the columns of version 0.1 and others."""
    basic = {"trial_id": trial, "split": "val", "example": range(2), "correct": correct}
    return pd.DataFrame(basic | columns)


def save_rows(folder, trial: str, **columns) -> None:
    (folder / "trials" / trial).mkdir(parents=True)
    rows(trial, True, **columns).to_parquet(folder / "trials" / trial / PREDICTIONS)


def test_files_of_trials_come_before_that_of_the_study(tmp_path) -> None:
    save_rows(tmp_path, TRIALS[0])
    save_rows(tmp_path, TRIALS[2])
    (tmp_path / "trials" / TRIALS[2] / PREDICTIONS).write_bytes(b"PAR1")  # damaged
    study = pd.concat(rows(trial, False) for trial in [TRIALS[2], TRIALS[0], "another"])
    study.to_parquet(tmp_path / PREDICTIONS)
    frame = read_predictions(tmp_path, TRIALS)
    # no file holds the second
    assert frame.trial_id.tolist() == [TRIALS[0]] * 2 + [TRIALS[2]] * 2
    assert frame.correct.tolist() == [True, True, False, False]
    assert list(read_predictions(tmp_path, TRIALS, ["correct"])) == ["trial_id", "correct"]


def test_trials_of_version_01_stand_beside_others_and_examples_are_in_order(tmp_path) -> None:
    save_rows(tmp_path, TRIALS[0])
    files = pd.Series([None, None], dtype="string")
    save_rows(tmp_path, TRIALS[1], file=files, label=[3, 4], predicted=[3, 4], p_label=[0.5, 0.75])
    frame = read_predictions(tmp_path, TRIALS)
    assert frame.correct.tolist() == [True] * 4 and frame.file.isna().all()
    assert frame.label.isna().tolist() == [True, True, False, False]
    assert frame.p_label[2:].tolist() == [0.5, 0.75]
    frame = pd.concat([rows(trial, True) for trial in TRIALS[:2]])
    frame["correct"] = [True, False, False, True]
    (folder := tmp_path / "study").mkdir()
    frame.sort_values("example", ascending=False).to_parquet(folder / PREDICTIONS)
    values = read_examples(folder, TRIALS, METRICS["acc"], "val")
    assert {t: x.tolist() for t, x in values.items()} == {TRIALS[0]: [1, 0], TRIALS[1]: [0, 1]}
    assert not read_examples(folder, TRIALS, METRICS["acc"], "test")


@pytest.mark.parametrize("study", [None, b"", b"no parquet"])
def test_without_readable_files_there_are_none(tmp_path, study) -> None:
    if study is not None:
        (tmp_path / PREDICTIONS).write_bytes(study)
    assert read_predictions(tmp_path, TRIALS).empty and read_predictions(tmp_path, []).empty
