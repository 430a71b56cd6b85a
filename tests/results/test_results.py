"""Results of a study: dataframes, texts and flags; studies of training functions."""

from collections.abc import Iterable
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


def write(folder: Path, scores: Iterable[list[float]], name: str, **own: Any) -> kdtune.Results:
    """Write a study of three repeats with the scores of each configuration."""
    study = Study(train="own_functions:wave", repeats=3, **own)
    folder.mkdir()
    (folder / "study.json").write_text(study.to_json())
    with Records(folder) as records:
        for run, values in zip(study.runs(), scores, strict=True):
            for repeat, value in enumerate(values):
                records.start(run.at(repeat), 0)
                records.epoch(run.at(repeat), 0, 0, 1.0, {"val": {name: value}})
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
