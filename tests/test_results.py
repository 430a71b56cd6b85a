"""kdtune.results and kdtune.analysis against hand-worked numbers, scipy and DESIGN, section 6."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_rel

import kdtune
from kdtune.config import HYPERPARAMETERS, InputError, Run, Study
from kdtune.results import METRICS, Records, read_frames, read_study, write_frames

RUN = Run(data="fashion", epochs=3, lr=0.05)
T2 = 4.302652729911275  # 97.5 % point of Student's t with 2 degrees of freedom
EPOCH = {"n_examples": 500, "loss": 1.5, "ce": 0.7, "distill": 2.25, "acc": 0.8}
EPOCH |= {"teacher_acc": 0.9, "logit_diff": 0.4, "agreement": 0.85, "kl": 0.1}
CONFIG = ["trial_id", "config_id", *(f"config/{name}" for name in HYPERPARAMETERS), "repeat"]


def write(folder, accs, statuses=None, attempt=0):
    """Records of {(alpha, repeat): accuracies by epoch}; the status is "completed" if not given."""
    records = Records(folder)
    for (alpha, repeat), values in accs.items():
        run = replace(RUN, alpha=alpha, repeat=repeat)
        records.start(run, attempt)
        for epoch, acc in enumerate(values):
            metrics = EPOCH | {"acc": acc, "loss": 2 - acc}
            metrics |= {"distill": None} if alpha == 1 else {}
            test = {"test": metrics | {"acc": acc - 0.1}} if epoch == RUN.epochs - 1 else {}
            splits = {"train": EPOCH, "val": metrics, **test}
            records.epoch(run, attempt, epoch, 0.5, splits)
        status = (statuses or {}).get((alpha, repeat), "completed")
        if status != "truncated":
            error = "ValueError: boom" if status == "failed" else None
            records.end(run, attempt, status, error, "node7")
    records.close()


def results(folder, last, statuses=None):
    """The results of a study with {alpha: last accuracy by repeat}."""
    study = Study(
        name="made", run=RUN, space={"alpha": list(last)}, repeats=max(map(len, last.values()))
    )
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(study.to_json())
    runs = {(alpha, r): [0.1, 0.2, acc] for alpha in last for r, acc in enumerate(last[alpha])}
    write(folder, runs, statuses)
    return kdtune.load(folder)


FOUR = {(0.5, 0): [0.3, 0.6, 0.5], (0.5, 1): [0.4, 0.5, 0.6]}
FOUR |= {(1.0, 0): [0.1, 0.2, 0.3], (1.0, 1): [0.2, 0.3, 0.4]}


def test_what_is_recorded_is_read(tmp_path):
    write(tmp_path, FOUR)
    frames = read_frames(tmp_path)
    epochs = frames.epochs
    assert not frames.torn and len(epochs) == 4 * 7  # 3 train, 3 val, 1 test
    assert list(epochs) == [*CONFIG, "epoch", "split", "n_examples", *METRICS, "seconds"]
    for (alpha, repeat), accs in FOUR.items():
        run = replace(RUN, alpha=alpha, repeat=repeat)
        val = epochs[(epochs.trial_id == run.trial_id) & (epochs.split == "val")]
        assert val.acc.tolist() == accs and val.epoch.tolist() == [0, 1, 2]
        assert val.loss.tolist() == [2 - acc for acc in accs]
        assert (val.n_examples == 500).all() and (val.seconds == 0.5).all()
        assert (val.config_id == run.config_id).all() and (val["repeat"] == repeat).all()
        for name, value in run.config.items():
            column = val[f"config/{name}"]
            assert column.isna().all() if value is None else (column == value).all()
        assert val.distill.isna().all() if alpha == 1 else (val.distill == 2.25).all()


def test_trials_have_the_columns_of_the_design(tmp_path):
    write(tmp_path, FOUR)
    trials = read_frames(tmp_path).trials
    scopes = [f"val/{m}@{s}" for m in METRICS for s in ("last", "best", "last-5-avg")]
    tests = [f"test/{m}@last" for m in METRICS]
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
    run = replace(RUN, alpha=0.5, repeat=1)
    trial = trials.set_index("trial_id").loc[run.trial_id]
    assert trial.config_id == run.config_id and trial["config/alpha"] == 0.5
    assert (trial.n_epochs, trial.n_epochs_planned) == (3, 3)
    assert trial.seconds == 1.5 and trial.node == "node7"
    assert trial["test/acc@last"] == pytest.approx(0.5)


def test_scopes_are_the_hand_worked(tmp_path):
    write(tmp_path, {(0.5, 0): [0.1, 0.9, 0.2, 0.3, 0.4, 0.5]})
    (trial,) = read_frames(tmp_path).trials.to_dict("records")
    assert trial["val/acc@last"] == 0.5 and trial["val/loss@last"] == 1.5
    assert trial["val/acc@best"] == 0.9 and trial["val/loss@best"] == pytest.approx(1.1)
    assert trial["val/acc@last-5-avg"] == pytest.approx(2.3 / 5)
    assert trial["val/loss@last-5-avg"] == pytest.approx(2 - 2.3 / 5)
    assert trial["n_epochs"] == 6 and trial["seconds"] == 3


def test_no_record_is_an_empty_frame(tmp_path):
    frames = read_frames(tmp_path)
    assert len(frames.trials) == len(frames.epochs) == 0 and "val/acc@last" in frames.trials


def test_torn_last_line_is_skipped_and_named(tmp_path):
    write(tmp_path, FOUR)
    write(tmp_path, FOUR)
    whole = read_frames(tmp_path)
    file = tmp_path / "epochs" / "00001.jsonl"
    lines = file.read_text().splitlines()
    file.write_text("\n".join(lines) + "\n" + lines[-2][:40])
    torn = read_frames(tmp_path)
    assert torn.torn == [f"00001.jsonl:{len(lines) + 1}"]
    pd.testing.assert_frame_equal(torn.epochs, whole.epochs)
    pd.testing.assert_frame_equal(torn.trials, whole.trials)


def test_the_last_attempt_counts(tmp_path):
    write(tmp_path, {(0.5, 0): [0.1, 0.2]}, {(0.5, 0): "failed"})
    assert read_frames(tmp_path).trials.status.tolist() == ["failed"]
    write(tmp_path, {(0.5, 0): [0.5, 0.6, 0.7]}, attempt=1)
    frames = read_frames(tmp_path)
    val = frames.epochs[frames.epochs.split == "val"]
    assert val.acc.tolist() == [0.5, 0.6, 0.7]
    (trial,) = frames.trials.to_dict("records")
    assert trial["status"] == "completed" and pd.isna(trial["error"]) and trial["n_epochs"] == 3
    write(tmp_path, {(0.5, 0): []}, {(0.5, 0): "truncated"}, attempt=2)  # runs again
    assert read_frames(tmp_path).trials.status.tolist() == ["truncated"]


def test_parquet_files_hold_the_frames(tmp_path):
    write(tmp_path, FOUR)
    frames = read_frames(tmp_path)
    write_frames(tmp_path, frames)
    for name in ("epochs", "trials"):
        read = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(read, getattr(frames, name), check_dtype=False)


@pytest.mark.parametrize(
    "text", [None, "", "[]", '{"run": {}, "colour": 1}', '{"run": {"lr": -1}}']
)
def test_a_folder_without_a_study_is_said(tmp_path, text):
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(InputError, match=r"study\.json") as caught:
        read_study(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match=r"there is no .*nowhere"):
        kdtune.load(tmp_path / "nowhere")


def test_failed_and_truncated_runs_are_named_and_not_averaged(tmp_path):
    last = {0.5: [0.5, 0.6, 0.7, 0.99], 1.0: [0.4, 0.5, 0.6, 0.01]}
    made = results(tmp_path, last, {(0.5, 3): "failed", (1.0, 3): "truncated"})
    ids = {alpha: replace(RUN, alpha=alpha, repeat=3).trial_id for alpha in last}
    failed, truncated = made.warnings
    assert failed.startswith(f"failed, left out: {ids[0.5]}") and "boom" in failed
    assert truncated.startswith(f"truncated, left out: {ids[1.0]}") and "3 of 3" in truncated
    table = made.summary().set_index("alpha")
    assert table.loc[0.5, "val/acc/mean"] == pytest.approx(0.6)
    assert table.loc[1.0, "val/acc/mean"] == pytest.approx(0.5)
    assert made.configs["n"].tolist() == [3, 3] and made.compare().n.tolist() == [3]
    pooled = made.summary(pooled=True, metrics=("acc",)).set_index("alpha")
    assert pooled.loc[0.5, "val/acc/mean"] == pytest.approx((3 * 0.3 + 1.8) / 9)


def test_runs_that_have_not_started_are_counted(tmp_path):
    assert results(tmp_path, {0.5: [0.5, 0.6], 1.0: [0.4]}).warnings == ["1 runs have not started"]


def test_summary_is_the_hand_worked(tmp_path):
    made = results(tmp_path, {0.5: [0.5, 0.6, 0.7], 1.0: [0.4, 0.4, 0.4]})
    row = made.summary(metrics=("acc",)).set_index("alpha").loc[0.5]
    half = T2 * 0.1 / math.sqrt(3)
    expected = {"mean": 0.6, "std": 0.1, "n": 3, "low": 0.6 - half, "high": 0.6 + half}
    assert row.to_dict() == pytest.approx({f"val/acc/{k}": v for k, v in expected.items()})
    best = made.configs.iloc[0]
    assert (best["config/alpha"], best.n, best.n_planned) == (0.5, 3, 3)
    with pytest.raises(InputError, match="metric must be one of"):
        made.summary(metrics=("accuracy",))


def test_compare_is_paired_by_repeat(tmp_path):
    last = {0.1: [0.55, 0.53, 0.50], 0.5: [0.60, 0.63, 0.66], 1.0: [0.50, 0.52, 0.54]}
    made = results(tmp_path, last)
    table = made.compare().set_index("config/alpha")
    row = table.loc[0.5]
    assert row["diff"] == pytest.approx(0.11) and row.sd == pytest.approx(0.01) and row.n == 3
    half = T2 * 0.01 / math.sqrt(3)
    assert (row.low, row.high) == pytest.approx((0.11 - half, 0.11 + half))
    p = {alpha: ttest_rel(last[alpha], last[1.0]).pvalue for alpha in (0.1, 0.5)}
    assert table.p.to_dict() == pytest.approx(p)
    assert table.p_holm.to_dict() == pytest.approx({0.5: 2 * p[0.5], 0.1: p[0.1]})
    assert list(table.index) == [0.5, 0.1]
    text = "helps: alpha = 0.5 against plain training: +11.0 ± 2.5 points (95 % interval, n = 3"
    assert text in made.verdict()


PLAIN = np.array([0.50, 0.52, 0.51, 0.49, 0.53, 0.50])
OTHER = PLAIN + np.array([0.01, -0.01, 0.02, -0.02, 0.005, -0.005])


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({0.5: OTHER + 0.1, 1.0: PLAIN}, "Distillation helps: alpha = 0.5"),
        ({0.5: OTHER - 0.1, 1.0: PLAIN}, "Distillation hurts: alpha = 0.5"),
        ({0.5: OTHER, 1.0: PLAIN}, "No difference found: alpha = 0.5"),
        ({0.5: PLAIN, 1.0: PLAIN}, "No difference found: alpha = 0.5"),
        ({0.5: [0.9], 1.0: [0.5]}, "No verdict: 1 common repeat"),
        ({0.5: [0.9, 0.8], 0.1: [0.7, 0.7]}, "No verdict: the study needs"),
    ],
)
def test_verdict_says_what_the_numbers_carry(tmp_path, last, words):
    assert results(tmp_path, last).verdict().startswith(words)


BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "ray", "optuna"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
import kdtune, kdtune.analysis
made = kdtune.load(sys.argv[1])
print(made.verdict(), len(made.summary()), len(made.trials))
"""


def test_a_study_is_read_with_neither_torch_nor_ray(tmp_path):
    made = results(tmp_path, {0.5: [0.7, 0.8, 0.9], 1.0: [0.3, 0.4, 0.5]})
    command = [sys.executable, "-c", BARE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"{made.verdict()} 2 6\n"


def test_a_row_of_several_configurations_counts_repeats_not_configurations(tmp_path):
    space = {"alpha": [0.5], "temperature": [1.0, 4.0]}
    study = Study(name="made", run=RUN, space=space, repeats=2)
    (tmp_path / "study.json").write_text(study.to_json())
    records = Records(tmp_path)
    for temperature, accs in ((1.0, (0.2, 0.4)), (4.0, (0.4, 0.8))):
        for repeat, acc in enumerate(accs):
            run = replace(RUN, alpha=0.5, temperature=temperature, repeat=repeat)
            records.start(run, 0)
            for epoch in range(RUN.epochs):
                records.epoch(run, 0, epoch, 0.1, {"val": EPOCH | {"acc": acc, "loss": 1.0}})
            records.end(run, 0, "completed")
    records.close()
    row = kdtune.load(tmp_path).summary(by=["alpha"], metrics=["acc"]).iloc[0]
    assert row["val/acc/n"] == 2
    assert row["val/acc/mean"] == pytest.approx(0.45)  # of 0.3 and 0.6
    assert row["val/acc/std"] == pytest.approx(0.3 / 2**0.5)
