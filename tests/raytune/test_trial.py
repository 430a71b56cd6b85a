"""What Ray runs, here without Ray: its reports are caught."""

import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import own_functions
import pandas as pd
import pytest
from ray._private import state
from s3_service import S3
from tiny_run import TINY

import kdtune
from kdtune.config.files import CHECKPOINT, state_files
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.checks import Contents
from kdtune.data.sources import StudyData
from kdtune.raytune import function as reporter
from kdtune.raytune.function import run_trial
from kdtune.raytune.trial import distillation_epochs
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_lines, unpack_correct
from kdtune.training.loop import Checkpoint
from kdtune.training.teacher import RECORD, WEIGHTS, read_record


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(reporter.tune, "report", made.append)
    return made


@pytest.fixture
def study(
    s3: S3, tiny: Run, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Study:
    """On a store that has the teacher."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    made = Study(name="tiny", out=f"s3://kdtune/{tmp_path.name}", run=tiny, cache_gb=0)
    shutil.copytree(teacher_folder, made.folder / "teacher")
    Mirror(made).push("teacher")
    return made


def run_here(study: Study) -> None:
    """Run the trial of the study's run, as a worker of this driver does."""
    contents = Contents.of(StudyData(study.run))
    run_trial(partial(distillation_epochs, contents=contents), {}, study)


@pytest.mark.parametrize("name", [WEIGHTS, RECORD])
def test_a_teacher_that_is_damaged_here_is_fetched_again(
    study: Study, teacher_folder: Path, reports: list[dict[str, Any]], name: str
) -> None:
    here = study.folder / "teacher" / name
    here.write_bytes(here.read_bytes()[:100])
    run_here(study)
    assert reports[-1]["error"] is None
    assert sum(len(report["epochs"]) for report in reports) == study.run.epochs
    assert here.read_bytes() == (teacher_folder / name).read_bytes()


def test_a_teacher_that_is_damaged_there_too_is_said(
    study: Study, reports: list[dict[str, Any]]
) -> None:
    here = study.folder / "teacher" / WEIGHTS
    here.write_bytes(here.read_bytes()[:100])
    Mirror(study).push("teacher")
    run_here(study)
    assert "InputError: the teacher in" in reports[-1]["error"]
    assert "is damaged" in reports[-1]["error"]


def test_the_last_epoch_reports_which_images_of_val_are_correct(
    study: Study, reports: list[dict[str, Any]]
) -> None:
    """Also when it is reported again, from the checkpoint."""
    file = f"trials/{study.run.trial_id}/predictions.parquet"
    for _ in range(2):
        run_here(study)
        *earlier, last = [epoch for report in reports for epoch in report["epochs"]]
        assert not any("correct" in epoch for epoch in earlier)
        Mirror(study).pull(file)
        frame = pd.read_parquet(study.folder / file)
        correct = unpack_correct({**last["splits"]["val"], "correct": last["correct"]})
        assert correct is not None
        assert correct.tolist() == frame.correct[frame.split == "val"].tolist()
        assert correct.mean() == pytest.approx(last["splits"]["val"]["acc"])
        reports.clear()


def test_a_store_has_the_last_state_alone_and_a_damaged_one_is_said(
    study: Study, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state before the last that is left on this machine, perhaps of a dropped run, is not used.

    It is a whole one here, so the run would resume from it.
    """
    monkeypatch.setattr(Checkpoint, "MAX_AGE_SECONDS", 0.0)  # saves after every epoch
    place = f"trials/{study.run.trial_id}"
    last, before = state_files(study.folder / place / CHECKPOINT)
    run_here(study)
    mirror = Mirror(study)
    assert mirror.store is not None
    assert f"{place}/{last.name}" in mirror.store.names(place)
    assert f"{place}/{before.name}" not in mirror.store.names(place)
    mirror.pull(f"{place}/{last.name}")
    shutil.copy(last, before)
    last.write_bytes(last.read_bytes()[:100])
    Mirror(study).push(place)
    first = [epoch for report in reports for epoch in report["epochs"]]
    reports.clear()
    run_here(study)
    again = [epoch for report in reports for epoch in report["epochs"]]
    assert reports[-1]["error"] is None
    assert [epoch["splits"] for epoch in again] == [epoch["splits"] for epoch in first]
    assert not {epoch["seconds"] for epoch in again} & {epoch["seconds"] for epoch in first}
    (warning,) = [warning for report in reports for warning in report["warnings"]]
    assert warning == (f"{last} cannot be used (File is not a zip file), so the run begins again")


# -- trials that freeze or run out of memory, under a real Ray --


def run(tmp_path: Path, function: Any, **changes: Any) -> kdtune.Results:
    own: dict[str, Any] = {"baseline": {"alpha": 1.0}, "epochs": 3}
    return kdtune.run(kdtune.Study(train=function, out=str(tmp_path / "runs"), **own | changes))


def starts(results: kdtune.Results) -> list[str]:
    lines = read_lines(results.folder)[0]
    return [line["trial_id"] for line in lines if line["kind"] == "start"]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_frozen_process_is_killed_and_its_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that is silent for as long, but alive, is left alone."""
    monkeypatch.setattr("kdtune.raytune.recorder.TRIAL_SILENT_SECONDS", 3.0)
    results = run(tmp_path, own_functions.freezes, space={"alpha": (0.5, 1.0)}, repeats=1)
    assert set(results.trials.status) == {"completed"}
    assert results.trials["val/acc@last"].tolist() == [3.5 / 8, 4 / 8]
    said = capsys.readouterr().out
    assert said.count("was stopped, so it is killed") == 1
    assert "alpha 0.5, repeat 0: no epoch for" in said
    again = [trial for trial in starts(results) if starts(results).count(trial) > 1]
    frozen = results.trials.set_index("config/alpha").trial_id[0.5]
    assert again == [frozen, frozen]
    lines = read_lines(results.folder)[0]
    ends = [line["trial_id"] for line in lines if line["kind"] == "end"]
    assert sorted(ends) == sorted(results.trials.trial_id)


def freeze_teacher(folder: Path, frozen: list[int]) -> None:
    """Freeze the process that trains the study's teacher once it has saved a state."""
    while not list(folder.glob("teacher/*.checkpoint.pt")):
        time.sleep(0.05)
    (trainer,) = (a for a in state.actors().values() if a["ActorClassName"] == "TeacherTrainer")
    os.kill(trainer["Pid"], signal.SIGSTOP)
    frozen.append(trainer["Pid"])


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_frozen_training_of_the_teacher_is_killed_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kdtune.raytune.recorder.TRIAL_SILENT_SECONDS", 3.0)
    own = replace(TINY, teacher_epochs=150)
    study = kdtune.Study(name="frozen", out=str(tmp_path), run=own, repeats=1)
    frozen: list[int] = []
    freezer = threading.Thread(target=freeze_teacher, args=(study.folder, frozen), daemon=True)
    freezer.start()
    results = kdtune.run(study)
    freezer.join()
    assert set(results.trials.status) == {"completed"}
    said = capsys.readouterr().out
    assert said.count("was stopped, so it is killed") == 1
    assert "the teacher: no epoch for" in said and f"its process {frozen[0]} on" in said
    told = [line for line in said.splitlines() if line.startswith("  epoch ")]
    assert len(told) == len(set(told)) == 150
    assert len(read_record(study.folder / "teacher")["history"]) == 150
    names = sorted(file.name for file in (study.folder / "teacher").iterdir())
    assert names == ["accuracy.json", RECORD, WEIGHTS]


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_runs_that_do_not_fit_together_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not fit alone either has failed, with advice; the study goes on."""
    space = {"alpha": (0.25, 0.75, 1.0)}
    trials = run(tmp_path, own_functions.hungry, space=space, repeats=1, epochs=2).trials
    by_alpha = trials.set_index("config/alpha")
    assert by_alpha.status.to_dict() == {0.25: "completed", 0.75: "failed", 1.0: "completed"}
    assert "CUDA out of memory" in by_alpha.error[0.75]
    assert "no other run ran beside it: it needs a smaller batch size" in by_alpha.error[0.75]
    said = capsys.readouterr().out
    assert "out of memory while 2 runs ran at a time; retried with 1 at a time" in said
