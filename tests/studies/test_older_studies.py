"""Studies of older schemas open, go on and are extended without running anything again.

tests/data/study_v0_1, study_schema_2 and study_schema_3 are the folders that kdtune 0.1 and the
last versions of schema 2 and 3 left of the command below, without Ray's files. That of schema 3 has
--policy race, and its finalists were not recorded before their final repeats.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from play import play
from simulated_runs import curve
from tiny_run import TINY

import kdtune
from kdtune.config.cli import parse
from kdtune.config.run import SCHEMA
from kdtune.config.study import Study
from kdtune.data.sources import StudyData
from kdtune.raytune.folder import merge_with_saved
from kdtune.storage.records import Round, read_lines, read_saved
from kdtune.training.recipe import resolve_study
from kdtune.training.teachers import missing_teachers

DATA = Path(__file__).parents[1] / "data"
COMMAND = (
    "--name old --alpha 0.5 1 --temperature 1 --loss kl mse --epochs 2 --train-images 100 "
    "--teacher-epochs 1 --repeats 2"
)
RACE = f"{COMMAND} --policy race"
OF_MODELS = {"teacher": "1b654f66ca8f404d", "student": "2cd01973b56dac91"}
FINGERPRINTS = {
    "study_v0_1": {"data": "f45b9b1eab74d838"},
    "study_schema_2": {"data": "f45b9b1eab74d838", **OF_MODELS},
    "study_schema_3": {"data": "f45b9b1eab74d838", **OF_MODELS},
}
"""What the study of each folder is compared by; version 0.1 saved none for its own models."""


@pytest.fixture(params=list(FINGERPRINTS))
def saved(request: pytest.FixtureRequest) -> Path:
    """The folder of an older study."""
    return DATA / str(request.param)


@pytest.fixture
def study(saved: Path, tmp_path: Path) -> Study:
    """The study of the command, in a copy of the folder."""
    shutil.copytree(saved, tmp_path / "runs" / "old")
    asked = parse("search", (RACE if saved.name == "study_schema_3" else COMMAND).split())
    return replace(asked, out=str(tmp_path / "runs"), cache=str(tmp_path / "cache"))


@pytest.mark.usefixtures("without_texts")
def test_it_opens_with_the_same_numbers_and_the_same_command_runs_nothing(
    study: Study, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = pd.read_parquet(saved / "trials.parquet")
    pd.testing.assert_frame_equal(kdtune.load(study.folder).trials[written.columns], written)
    assert {run.config_id for run in study.runs()} == set(written.config_id)
    assert read_saved(study.folder).fingerprints == FINGERPRINTS[saved.name]
    data = StudyData(study.run)
    run = resolve_study(study, data).run
    assert missing_teachers(run, [run], study.folder / "teacher", data) == []  # it is ready

    monkeypatch.setattr("kdtune.raytune.driver.ray_session", None)  # Ray is not even started
    lines = read_lines(study.folder)[0]
    results = kdtune.run(study)
    assert read_lines(study.folder)[0] == lines
    # earlier versions drew the training images once; new studies draw them in each repeat
    assert (results.study.run.train_draw, run.train_draw) == ("study", "repeat")
    is_race = saved.name == "study_schema_3"
    assert list(results.trials.status) == ["completed"] * (10 if is_race else 6)
    kept = len(list(study.folder.glob("trials/*/student.safetensors")))
    assert kept == (0 if is_race else 6)  # as the earlier version kept them
    assert json.loads((study.folder / "study.json").read_text())["schema"] == SCHEMA


def test_a_race_without_recorded_finalists_says_so_and_its_extension_records_them() -> None:
    """The finals of schema 3 stay repeats 2000 and 2001, those of the new round begin at 2002."""
    results, lines = kdtune.load(DATA / "study_schema_3"), read_lines(DATA / "study_schema_3")[0]
    assert "held-out" not in results.text() and len(results.final_trials) == 4
    assert "did not record the finalists" in results.context().sentence("baseline")
    new = play(replace(results.study, repeats=3), curve, lines=lines)[len(lines) :]
    (round_,) = (Round.from_line(line) for line in new if line["kind"] == "finalists")
    assert (round_.number, round_.first_repeat, len(round_.finalists)) == (1, 2002, 2)
    final = {line["repeat"] for line in new if line["kind"] == "start" and line["repeat"] >= 2000}
    assert final == {2002, 2003, 2004}


@pytest.mark.parametrize("saved", ["study_v0_1", "study_schema_2"], indirect=True)
@pytest.mark.usefixtures("in_this_process", "without_texts")
def test_it_is_extended(study: Study, saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = read_lines(study.folder)[0]
    more = replace(study, space={**study.space, "alpha": (0.0, 0.5, 1.0)})
    results = kdtune.run(more)
    assert results.study.run.train_draw == "study"
    assert list(results.trials.status) == ["completed"] * 5 * 2
    lines = read_lines(study.folder)[0]
    assert lines[: len(before)] == before
    old = {line["trial_id"] for line in before}
    assert old.isdisjoint(line["trial_id"] for line in lines[len(before) :])
    assert set(read_saved(study.folder).fingerprints) == {"data", "teacher", "student"}
    said = capsys.readouterr().out
    assert "Training the teacher" not in said  # the saved one is used
    unknown = "no fingerprint to compare the teacher and the student with" in said
    assert unknown == (saved.name == "study_v0_1")


@pytest.mark.parametrize("left_out", [set(), {"batch_norm"}])
def test_a_head_alone_keeps_the_batch_norm_of_its_study(left_out: set[str], tmp_path: Path) -> None:
    """Until schema 4 it was in train mode unless a flag said otherwise; new studies have eval."""
    asked = Study(run=replace(TINY, trainable="head"), out=str(tmp_path))
    old = replace(asked, run=replace(asked.run, batch_norm="train"))
    values = json.loads(old.to_json()) | {"schema": 4}
    values["run"] = {name: v for name, v in values["run"].items() if name not in left_out}
    asked.folder.mkdir()
    (asked.folder / "study.json").write_text(json.dumps(values))
    data, merged = StudyData(TINY), merge_with_saved(asked, read_saved(asked.folder))
    resumed, new = resolve_study(merged, data, begun=True), resolve_study(asked, data)
    assert (resumed.run.batch_norm, new.run.batch_norm) == ("train", "eval")
    assert [run.config_id for run in resumed.runs()] == [run.config_id for run in old.runs()]
    both = resolve_study(replace(asked, space={"trainable": ("all", "head")}), data)
    modes = {run.trainable: run.config["batch_norm"] for run in both.runs()}
    assert modes == {"all": "train", "head": "eval"}
