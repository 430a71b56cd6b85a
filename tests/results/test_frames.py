"""Dataframes of records and predictions, and the labels of configurations."""

import fcntl
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from ray.tune.experiment import Trial
from study_folders import RUN, at, edit_records, make, write_records

import kdtune
from kdtune.config.files import PREDICTIONS
from kdtune.config.run import DISTILLATION, HYPERPARAMETERS
from kdtune.config.study import Study
from kdtune.config.task import METRICS
from kdtune.results.frames import (
    config_label,
    label_by_config,
    read_examples,
    read_frames,
    read_predictions,
)

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


def test_of_equal_best_epochs_the_first_counts(tmp_path):
    write_records(tmp_path, {at(0.5): [0.2, 0.6, 0.6]})
    edit_records(tmp_path, lambda line: line.update(kl=line.get("epoch")))
    (trial,) = read_frames(tmp_path).trials.to_dict("records")
    assert trial["val/kl@best"] == 1 and trial["val/kl@last"] == 2


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


def test_a_metric_recorded_as_none_is_missing_not_zero(tmp_path):
    write_records(tmp_path, {at(0.5): [0.3, 0.6, 0.5]})
    edit_records(tmp_path, lambda line: line.get("epoch") == 2 and line.update(kl=None))
    frames = read_frames(tmp_path)
    val = frames.epochs[frames.epochs.split == "val"]
    assert val.kl.isna().tolist() == [False, False, True]
    assert frames.trials["val/kl@last"].isna().all()
    assert frames.trials["val/kl@last-5-avg"].item() == pytest.approx((0.8 + 0.5) / 2)


def trials(*students: str) -> pd.DataFrame:
    rows = [{"config_id": name, "config/student": name, "config/alpha": 0.5} for name in students]
    return pd.DataFrame(rows)


def test_labels_tell_configurations_apart() -> None:
    names = ["student", "alpha"]
    short = label_by_config(trials("a:small", "a:large"), names)
    assert short == {
        "a:small": "student = small, alpha = 0.5",
        "a:large": "student = large, alpha = 0.5",
    }
    full = label_by_config(trials("a:net", "b:net"), names)
    assert full["b:net"] == "student = b:net, alpha = 0.5" and len(set(full.values())) == 2


def test_an_alpha_close_to_1_is_not_called_1() -> None:
    """alpha = 1 is the baseline."""
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


def test_trials_of_version_01_stand_beside_those_with_more_columns(tmp_path) -> None:
    save_rows(tmp_path, TRIALS[0])
    files = pd.Series([None, None], dtype="string")
    save_rows(tmp_path, TRIALS[1], file=files, label=[3, 4], predicted=[3, 4], p_label=[0.5, 0.75])
    frame = read_predictions(tmp_path, TRIALS)
    assert frame.correct.tolist() == [True] * 4 and frame.file.isna().all()
    assert frame.label.isna().tolist() == [True, True, False, False]
    assert frame.p_label[2:].tolist() == [0.5, 0.75]


@pytest.mark.parametrize("study", [None, b"", b"no parquet"])
def test_without_readable_files_there_are_none(tmp_path, study) -> None:
    if study is not None:
        (tmp_path / PREDICTIONS).write_bytes(study)
    assert read_predictions(tmp_path, TRIALS).empty and read_predictions(tmp_path, []).empty


def test_examples_are_in_order_whatever_the_order_of_the_rows(tmp_path) -> None:
    frame = pd.concat([rows(trial, True) for trial in TRIALS[:2]])
    frame["correct"] = [True, False, False, True]
    frame.sort_values("example", ascending=False).to_parquet(tmp_path / PREDICTIONS)
    values = read_examples(tmp_path, TRIALS, METRICS["acc"], "val")
    assert {t: x.tolist() for t, x in values.items()} == {TRIALS[0]: [1, 0], TRIALS[1]: [0, 1]}
    assert not read_examples(tmp_path, TRIALS, METRICS["acc"], "test")
