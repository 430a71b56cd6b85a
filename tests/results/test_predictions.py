"""Predictions of the trials: which file they come from, and files of version 0.1."""

import sys

import pandas as pd
import pytest
from study_folders import at, make

from kdtune.config.files import PREDICTIONS
from kdtune.config.task import METRICS
from kdtune.results.frames import read_examples, read_predictions, write_frames

TRIALS = [at(0.5, r).trial_id for r in range(3)]


def rows(trial: str, correct: bool, **columns) -> pd.DataFrame:
    """Two examples of val, with the columns of version 0.1 and others."""
    own = {"trial_id": trial, "split": "val", "example": range(2), "correct": correct}
    return pd.DataFrame(own | columns)


def save_own(folder, trial: str, **columns) -> None:
    (folder / "trials" / trial).mkdir(parents=True)
    rows(trial, True, **columns).to_parquet(folder / "trials" / trial / PREDICTIONS)


def test_the_trials_own_files_come_first_then_the_studys(tmp_path) -> None:
    save_own(tmp_path, TRIALS[0])
    save_own(tmp_path, TRIALS[2])
    (tmp_path / "trials" / TRIALS[2] / PREDICTIONS).write_bytes(b"PAR1")  # damaged
    study = pd.concat(rows(trial, False) for trial in [TRIALS[2], TRIALS[0], "another"])
    study.to_parquet(tmp_path / PREDICTIONS)
    found = read_predictions(tmp_path, TRIALS)
    # no file holds the second
    assert found.trial_id.tolist() == [TRIALS[0]] * 2 + [TRIALS[2]] * 2
    assert found.correct.tolist() == [True, True, False, False]
    assert list(read_predictions(tmp_path, TRIALS, ["correct"])) == ["trial_id", "correct"]


def test_trials_of_version_01_stand_beside_those_with_more_columns(tmp_path) -> None:
    save_own(tmp_path, TRIALS[0])
    files = pd.Series([None, None], dtype="string")
    save_own(tmp_path, TRIALS[1], file=files, label=[3, 4], predicted=[3, 4], p_label=[0.5, 0.75])
    found = read_predictions(tmp_path, TRIALS)
    assert found.correct.tolist() == [True] * 4 and found.file.isna().all()
    assert found.label.isna().tolist() == [True, True, False, False]
    assert found.p_label[2:].tolist() == [0.5, 0.75]


@pytest.mark.parametrize("study", [None, b"", b"no parquet"])
def test_without_readable_files_there_are_none(tmp_path, study) -> None:
    if study is not None:
        (tmp_path / PREDICTIONS).write_bytes(study)
    assert read_predictions(tmp_path, TRIALS).empty and read_predictions(tmp_path, []).empty


def test_examples_are_in_order_whatever_the_order_of_the_rows(tmp_path) -> None:
    own = pd.concat([rows(trial, True) for trial in TRIALS[:2]])
    own["correct"] = [True, False, False, True]
    own.sort_values("example", ascending=False).to_parquet(tmp_path / PREDICTIONS)
    found = read_examples(tmp_path, TRIALS, METRICS["acc"], "val")
    assert {t: x.tolist() for t, x in found.items()} == {TRIALS[0]: [1, 0], TRIALS[1]: [0, 1]}
    assert not read_examples(tmp_path, TRIALS, METRICS["acc"], "test")


def test_without_pyarrow_there_are_none(tmp_path, monkeypatch) -> None:
    save_own(tmp_path, TRIALS[0])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert read_predictions(tmp_path, TRIALS).empty


def test_the_studys_file_keeps_trials_that_were_deleted(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.5, 0.6, 0.7], 1.0: [0.4]})
    for trial in TRIALS:
        save_own(tmp_path, trial)
    write_frames(tmp_path, made.frames)
    (tmp_path / "trials" / TRIALS[1] / PREDICTIONS).unlink()
    write_frames(tmp_path, made.frames)
    saved = pd.read_parquet(tmp_path / PREDICTIONS)
    assert sorted(saved.trial_id.unique()) == sorted(TRIALS) and len(saved) == 6
