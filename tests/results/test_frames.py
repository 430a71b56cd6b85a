"""Dataframes of the records, against hand-worked numbers and Ray Tune."""

import random
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.experiment import Trial
from study_folders import at, edit_records, make, write_records

import kdtune
from kdtune.config.run import HYPERPARAMETERS
from kdtune.config.task import RECORDED
from kdtune.config.text import InputError
from kdtune.results.frames import read_frames, write_frames
from kdtune.storage.records import read_study

CONFIG = ["trial_id", "config_id", "label", *(f"config/{name}" for name in HYPERPARAMETERS)]
CONFIG += ["repeat"]
FOUR = {at(0.5, 0): [0.3, 0.6, 0.5], at(0.5, 1): [0.4, 0.5, 0.6]}
FOUR |= {at(1.0, 0): [0.1, 0.2, 0.3], at(1.0, 1): [0.2, 0.3, 0.4]}


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


def test_trials_have_the_documented_columns(tmp_path):
    write_records(tmp_path, FOUR)
    trials = read_frames(tmp_path).trials
    scopes = [f"val/{m}@{s}" for m in RECORDED for s in ("last", "best", "last-5-avg")]
    tests = [f"test/{m}@last" for m in RECORDED]
    own = [
        "phase",
        "status",
        "error",
        "n_epochs",
        "n_epochs_planned",
        *scopes,
        *tests,
        "seconds",
        "node",
    ]
    assert list(trials) == [*CONFIG, *own] and len(trials) == 4
    run = at(0.5, 1)
    trial = trials.set_index("trial_id").loc[run.trial_id]
    assert trial.config_id == run.config_id and trial["config/alpha"] == 0.5
    assert (trial.n_epochs, trial.n_epochs_planned) == (3, 3)
    assert trial.seconds == 1.5 and trial.node == "node7"
    assert trial["test/acc@last"] == pytest.approx(0.5)


def test_epoch_selections_match_hand_worked_values(tmp_path):
    write_records(tmp_path, {at(0.5, epochs=6): [0.1, 0.9, 0.2, 0.3, 0.4, 0.5]})
    (trial,) = read_frames(tmp_path).trials.to_dict("records")
    assert trial["val/acc@last"] == 0.5 and trial["val/loss@last"] == 1.5
    assert trial["val/acc@best"] == 0.9 and trial["val/loss@best"] == pytest.approx(1.1)
    assert trial["val/acc@last-5-avg"] == pytest.approx(2.3 / 5)
    assert trial["val/loss@last-5-avg"] == pytest.approx(2 - 2.3 / 5)
    assert trial["n_epochs"] == 6 and trial["seconds"] == 3


def test_labels_are_never_missing(tmp_path):
    """pandas drops None keys in groupby: configurations at alpha = 1 have no temperature."""
    last = {at(0.5, temperature=4.0): [0.6, 0.9], at(0.5, loss="mse"): [0.3, 0.6], 1.0: [0.3, 0.31]}
    made = make(tmp_path, last)
    want = {"loss = kl, alpha = 0.5", "loss = mse, alpha = 0.5", "alpha = 1"}
    assert set(made.trials.label) == want
    for frame in (made.trials, made.epochs, made.configs, made.compare(), made.sensitivity()):
        assert frame.label.notna().all() and set(frame.label) <= set(made.trials.label)
        assert (frame.label == frame.config_id.map(made.label)).all()
    assert len(made.trials.groupby("label")["val/acc@last"].mean()) == 3
    assert set(made.summary().label) == set(made.trials.label)
    assert made.summary(by=["temperature"]).label.tolist() == ["T = 4", "T = -"]
    assert made.summary(by=["alpha"], pooled=True).label.tolist() == ["alpha = 0.5", "alpha = 1"]
    assert set(made.marginal().label) >= {"alpha = 1", "loss = mse"}


def test_without_records_the_frames_are_empty(tmp_path):
    frames = read_frames(tmp_path)
    assert len(frames.trials) == len(frames.epochs) == 0 and "val/acc@last" in frames.trials


def test_an_incomplete_last_record_is_skipped_and_named(tmp_path):
    write_records(tmp_path, FOUR)
    write_records(tmp_path, FOUR)
    whole = read_frames(tmp_path)
    file = tmp_path / "epochs" / "00001.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines) + "\n" + lines[-2][:40])
    torn = read_frames(tmp_path)
    assert torn.incomplete == [f"00001.jsonl:{len(lines) + 1}"]
    pd.testing.assert_frame_equal(torn.epochs, whole.epochs)
    pd.testing.assert_frame_equal(torn.trials, whole.trials)


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


def test_parquet_files_hold_the_frames(tmp_path):
    write_records(tmp_path, FOUR)
    frames = read_frames(tmp_path)
    write_frames(tmp_path, frames)
    for name in ("epochs", "trials"):
        read = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(read, getattr(frames, name), check_dtype=False)


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"run": {}, "colour": 1}', '{"run": {"lr": -1}}']
)
def test_a_folder_without_a_study_is_an_error(tmp_path, text):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match=r"study\.json") as caught:
        read_study(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match=r"nowhere does not exist"):
        kdtune.load(tmp_path / "nowhere")


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


@settings(deadline=None, max_examples=30)
@given(cut=st.integers(1, 400), seed=st.integers(0, 2**16))
def test_a_crash_at_any_byte_costs_at_most_a_line(tmp_path_factory, cut, seed):
    folder = tmp_path_factory.mktemp("study")
    write_records(folder, FOUR)
    file = folder / "epochs" / "00000.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-cut])
    frames = read_frames(folder)
    left = whole[:-cut].split(b"\n")
    assert len(frames.incomplete) == (left[-1] != b"" and not left[-1].endswith(b"}"))
    kept = [line for line in left if line.endswith(b"}")]
    assert len(frames.epochs) == sum(b'"kind": "epoch"' in line for line in kept)
    assert (frames.trials.status == "completed").sum() == sum(
        b'"kind": "end"' in line for line in kept
    )


def test_interleaved_records_are_assigned_to_their_trials(tmp_path):
    write_records(tmp_path, FOUR)
    whole = read_frames(tmp_path)
    file = tmp_path / "epochs" / "00000.jsonl"
    lines = file.read_text().splitlines()
    waiting = [[line for line in lines if run.trial_id in line] for run in FOUR]
    mixed, rng = [], random.Random(0)
    while any(waiting):
        mixed.append(rng.choice([w for w in waiting if w]).pop(0))
    assert mixed != lines
    file.write_text("\n".join(mixed) + "\n")
    again = read_frames(tmp_path)
    pd.testing.assert_frame_equal(again.trials, whole.trials)
    keys = ["trial_id", "epoch", "split"]
    pd.testing.assert_frame_equal(
        *(f.epochs.sort_values(keys, ignore_index=True) for f in (again, whole))
    )


HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_run_without_an_end_is_running_while_the_folder_is_locked(tmp_path):
    last = {0.5: [0.7, 0.8], 1.0: [0.5, 0.6]}
    made = make(tmp_path, last, {(0.5, 1): "running"})
    assert made.trials.status.value_counts().to_dict() == {"completed": 3, "truncated": 1}
    command = [sys.executable, "-c", HOLD, str(tmp_path / ".lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        running = kdtune.load(tmp_path)
        holder.stdin.close()
    assert running.frames.running
    assert running.trials.status.value_counts().to_dict() == {"completed": 3, "running": 1}
    crashed = kdtune.load(tmp_path)  # the file .lock stays, its holder is gone
    assert not crashed.frames.running and "truncated" in set(crashed.trials.status)


def test_a_metric_recorded_as_none_is_missing_not_zero(tmp_path):
    write_records(tmp_path, {at(0.5): [0.3, 0.6, 0.5]})
    edit_records(tmp_path, lambda line: line.get("epoch") == 2 and line.update(kl=None))
    frames = read_frames(tmp_path)
    val = frames.epochs[frames.epochs.split == "val"]
    assert val.kl.isna().tolist() == [False, False, True]
    assert frames.trials["val/kl@last"].isna().all()
    assert frames.trials["val/kl@last-5-avg"].item() == pytest.approx((0.8 + 0.5) / 2)
