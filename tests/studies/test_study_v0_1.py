"""A study made by version 0.1 opens, goes on and is extended without running anything again.

tests/data/study_v0_1 is the folder that kdtune 0.1 left of the command below, without Ray's files.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import kdtune
from kdtune.config.cli import parse
from kdtune.config.study import Study
from kdtune.storage.records import read_lines, read_saved

SAVED = Path(__file__).parents[1] / "data" / "study_v0_1"
COMMAND = (
    "--name v01 --alpha 0.5 1 --temperature 1 --loss kl mse --epochs 2 --train-images 100 "
    "--teacher-epochs 1 --repeats 2"
)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """The study of the command, in a copy of the folder."""
    shutil.copytree(SAVED, tmp_path / "runs" / "v01")
    asked = parse("search", COMMAND.split())
    return replace(asked, out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"))


def test_it_opens_with_the_same_numbers(study: Study) -> None:
    results = kdtune.load(study.folder)
    pd.testing.assert_frame_equal(
        results.trials[(written := pd.read_parquet(SAVED / "trials.parquet")).columns], written
    )
    assert {run.config_id for run in study.runs()} == set(results.trials.config_id)
    assert read_saved(study.folder).fingerprints == {"data": "f45b9b1eab74d838"}


def test_the_same_command_runs_nothing(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdtune.raytune.driver.ray_session", None)  # Ray is not even started
    lines = read_lines(study.folder)[0]
    results = kdtune.run(study)
    assert read_lines(study.folder)[0] == lines
    assert list(results.trials.status) == ["completed"] * 6
    assert len(list(study.folder.glob("trials/*/student.safetensors"))) == 6  # as 0.1 kept them
    assert '"schema": 3' in (study.folder / "study.json").read_text()


@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_it_is_extended(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_lines(study.folder)[0]
    more = replace(study, repeats=3, space={**study.space, "alpha": (0.0, 0.5, 1.0)})
    results = kdtune.run(more)
    assert list(results.trials.status) == ["completed"] * 5 * 3
    lines = read_lines(study.folder)[0]
    assert lines[: len(before)] == before
    old = {line["trial_id"] for line in before}
    assert old.isdisjoint(line["trial_id"] for line in lines[len(before) :])
    assert set(read_saved(study.folder).fingerprints) == {"data", "teacher", "student"}
    said = capsys.readouterr().out
    assert "no fingerprint to compare the teacher and the student with" in said
    assert "teacher kdtune.models:fashion_teacher" not in said  # the saved one is used
