"""Results of a study: dataframes, texts and flags; studies of training functions."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_folders import make, make_final

import kdtune
from kdtune.config.study import Study
from kdtune.results.frames import write_frames
from kdtune.storage.records import Records


def test_a_study_that_has_just_begun_can_be_read(tmp_path) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    assert made.text().endswith(made.verdict()) and made.verdict().startswith("No conclusion")
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


def write(folder: Path, sign: int = 1, **changes: Any) -> kdtune.Results:
    """Write a study of three repeats; with sign -1 its metric is to be minimised."""
    own: dict[str, Any] = {"space": {"alpha": tuple(SCORES)}, "baseline": {"alpha": 1.0}}
    mode = "max" if sign > 0 else "min"
    study = Study(
        train="own_functions:wave", metric="val/gain", mode=mode, repeats=3, **own | changes
    )
    folder.mkdir()
    (folder / "study.json").write_text(study.to_json())
    with Records(folder) as records:
        for run in study.runs():
            for repeat in range(3):
                one, value = run.at(repeat), sign * SCORES[float(run.value("alpha"))][repeat]
                records.start(one, 0)
                for epoch in range(2):
                    splits = {"val": {"gain": value, "cost": float(epoch)}}
                    records.epoch(one, 0, epoch, 1.0, splits)
                records.end(one, 0, "completed")
    return kdtune.load(folder)


def test_what_is_minimised_is_the_mirror_of_what_is_maximised(tmp_path: Path) -> None:
    up, down = (write(tmp_path / str(sign), sign) for sign in (1, -1))
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
    study = Study(train="own_functions:wave", space=space, baseline={"status": "a"}, repeats=3)
    folder = tmp_path / "study"
    folder.mkdir()
    (folder / "study.json").write_text(study.to_json())
    with Records(folder) as records:
        for number, run in enumerate(study.runs()):
            for repeat in range(3):
                records.start(run.at(repeat), 0)
                value = 0.5 + 0.01 * number + 0.001 * repeat * (number % 2)
                records.epoch(run.at(repeat), 0, 0, 1.0, {"val": {"acc": value}})
                records.end(run.at(repeat), 0, "completed")
    results = kdtune.load(folder)
    assert results.trials.label.nunique() == 8
    assert "teacher = 10001" in results.trials.label[0] + results.trials.label[23]
    assert len(results.summary(full=True)) == 8 and "status" in results.text()
    write_frames(folder, results.frames)
    saved = pd.read_parquet(folder / "trials.parquet")
    assert set(saved["config/mixed"]) == {"sqrt", "0.5"}
