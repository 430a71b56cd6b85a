"""Results of a study: dataframes, texts and flags; studies of training functions."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_folders import draw, grid, make, make_final

import kdtune
from kdtune.analysis import AnalysisFlags, main
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.results.comparison import Criterion
from kdtune.results.frames import write_frames
from kdtune.storage.records import Records

exact = pytest.approx
T2 = 4.302652729911275  # 97.5 % point of Student's t with 2 degrees of freedom
LAST = {0.5: [0.5, 0.6, 0.7], 1.0: [0.4, 0.45, 0.41]}


# -- the study as a whole --------------------------------------------------------------------------


def test_hyperparameters_that_tell_the_configurations_apart(tmp_path) -> None:
    assert make(tmp_path / "one", {0.5: [0.7]}).by == ["alpha"]
    runs = grid([0.5, 1.0], lr=[0.1, 0.2])
    assert make(tmp_path / "two", draw(dict.fromkeys(runs, 0.0), 2)).by == ["alpha", "lr"]
    mse = {run: 0.0 for run in grid([0.5, 1.0], loss=["mse"])}
    assert make(tmp_path / "mse", draw(mse, 2)).by == ["alpha"]


@settings(deadline=None, max_examples=5)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_records_does_not_matter(tmp_path_factory, seed: int) -> None:
    last = draw({0.1: 0.0, 0.5: 0.02, 1.0: 0.0}, 3, seed)
    folder = tmp_path_factory.mktemp("study")
    made = make(folder, last)
    file = folder / "epochs" / "00000.jsonl"
    lines = file.read_text().splitlines()
    by_trial = {}
    for line in lines:
        by_trial.setdefault(json.loads(line)["trial_id"], []).append(line)
    order = np.random.default_rng(seed).permutation(list(by_trial))
    file.write_text("\n".join(line for trial in order for line in by_trial[trial]) + "\n")
    again = kdtune.load(folder)
    assert again.verdict() == made.verdict()
    pd.testing.assert_frame_equal(again.summary(full=True), made.summary(full=True), rtol=1e-12)
    pd.testing.assert_frame_equal(again.compare(), made.compare(), rtol=1e-12)


@pytest.mark.parametrize(
    ("fates", "state"),
    [
        ({}, "complete: 4 runs"),
        ({(0.5, 0): "failed", (1.0, 0): "pruned"}, "complete: 2 runs, 2 failed or pruned"),
        ({(0.5, 0): "truncated"}, "incomplete, not running: 3 of 4 runs completed; last"),
    ],
)
def test_status(tmp_path, fates, state: str) -> None:
    made = make(tmp_path, {0.5: [0.5, 0.6], 1.0: [0.4, 0.5]}, fates)
    assert made.status.startswith(state)


def test_a_study_that_has_just_begun_can_be_read(tmp_path) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    assert made.text().endswith(made.verdict()) and made.verdict().startswith("No conclusion")
    assert made.status == "incomplete, not running: 0 of 2 runs completed"
    for table in (made.summary(), made.configs, made.compare(), made.sensitivity(), made.spread()):
        assert not len(table)
    assert not len(made.importance()) and not len(made.selection()) and not len(made.marginal())
    assert made.best() is None


# -- the command -----------------------------------------------------------------------------------


def asked(capsys, folder, **flags) -> tuple[int, str, str]:
    code = main(AnalysisFlags((str(folder),), **flags))
    said = capsys.readouterr()
    return code, said.out, said.err


def test_strict_is_an_exit_code(tmp_path, capsys) -> None:
    make(tmp_path, LAST, {(0.5, 1): "failed"})
    code, _, err = asked(capsys, tmp_path)
    assert code == 0 and err.startswith("warning: failed run excluded")
    assert asked(capsys, tmp_path, strict=True)[0] == 3
    make(tmp_path / "whole", LAST)
    assert asked(capsys, tmp_path / "whole", strict=True)[0] == 0


@pytest.mark.parametrize("form", ["csv", "json", "latex"])
def test_formats(tmp_path, capsys, form: str) -> None:
    made = make(tmp_path, LAST)
    code, out, _ = asked(capsys, tmp_path, format=form, columns=("acc", "val/ce"))
    assert code == 0 and "conclusion" not in out.lower() and "difference" not in out
    if form == "json":
        records = json.loads(out)
        want = made.summary(metrics=("acc", "ce"), full=True)
        assert [r["val/acc/mean"] for r in records] == exact(want["val/acc/mean"].tolist())


def test_criteria_from_the_command_line(tmp_path, capsys) -> None:
    made = make(tmp_path, draw({0.1: 0.0, 0.5: 0.05, 1.0: 0.0}, 6))
    _, out, _ = asked(capsys, tmp_path, metric="ce", scope="best", baseline="alpha=0.5")
    criterion = Criterion("ce", "best", {"alpha": 0.5})
    assert out.rstrip().endswith(made.verdict(criterion))
    assert "Difference in validation cross-entropy from alpha = 0.5:" in out


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (
            "alpha=x",
            r"must be a configuration of the study \(alpha: 0.1, 0.5, 1.0\), but got alpha=x",
        ),
        ("alpha=0.3", "but got alpha=0.3"),
        ("alpha=0.5,temperature=9", r"\(temperature: 4.0\), but got temperature=9"),
    ],
)
def test_a_baseline_that_is_not_in_the_study(tmp_path, baseline: str, words: str) -> None:
    make(tmp_path, draw({0.1: 0.0, 0.5: 0.05, 1.0: 0.0}, 2))
    with pytest.raises(InputError, match=words):
        main(AnalysisFlags((str(tmp_path),), baseline=baseline))


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


def test_metrics_that_the_function_reports_are_columns(tmp_path: Path) -> None:
    results = write(tmp_path / "study")
    assert results.task.table_metrics == ("gain", "cost")
    assert results.summary(full=True)["val/cost/mean"].tolist() == [1, 1]
    with pytest.raises(kdtune.InputError, match="whether higher or lower is better is not known"):
        results.criterion("cost")


def test_epochs_of_an_attempt_that_failed_are_replaced(tmp_path: Path) -> None:
    """An attempt of five epochs fails; the next one has three, and no test."""
    write(tmp_path / "study")
    study = kdtune.load(tmp_path / "study").study
    one = study.runs()[0].at(0)
    with Records(tmp_path / "study") as records:
        for attempt, (epochs, value) in enumerate(((5, 0.9), (3, 0.5))):
            records.start(one, attempt)
            for epoch in range(epochs):
                splits = {"val": {"gain": value}, **({} if attempt else {"test": {"gain": 0.9}})}
                records.epoch(one, attempt, epoch, 1.0, splits)
            records.end(
                one, attempt, "failed" if attempt == 0 else "completed", "x" * (1 - attempt)
            )
    trials = kdtune.load(tmp_path / "study").trials.set_index("trial_id")
    row = trials.loc[one.trial_id]
    assert (row.status, row.n_epochs, row["val/gain@last"]) == ("completed", 3, 0.5)
    assert np.isnan(row["test/gain@last"])


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
