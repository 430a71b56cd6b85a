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
from kdtune.raytune.distillation import distillation_epochs
from kdtune.raytune.function import run_trial
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


def run_here(study: Study, reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run the trial of the study's run, as a worker of this driver does; return its epochs."""
    reports.clear()
    contents = Contents.of(StudyData(study.run))
    run_trial(partial(distillation_epochs, contents=contents), {}, study)
    return [epoch for report in reports for epoch in report["epochs"]]


def test_a_teacher_that_is_damaged_here_is_fetched_again(
    study: Study, teacher_folder: Path, reports: list[dict[str, Any]]
) -> None:
    """One that is damaged there, too, is said."""
    for name in (RECORD, WEIGHTS):
        here = study.folder / "teacher" / name
        here.write_bytes(here.read_bytes()[:100])
    assert len(run_here(study, reports)) == study.run.epochs
    assert reports[-1]["error"] is None
    assert here.read_bytes() == (teacher_folder / WEIGHTS).read_bytes()
    here.write_bytes(here.read_bytes()[:100])
    Mirror(study).push("teacher")
    run_here(replace(study, run=replace(study.run, repeat=1)), reports)
    error = reports[-1]["error"]
    assert error.startswith("InputError: the teacher in ") and "is damaged" in error


def test_the_last_epoch_reports_which_images_of_val_are_correct(
    study: Study, reports: list[dict[str, Any]]
) -> None:
    """Also when it is reported again, from the checkpoint."""
    file = f"trials/{study.run.trial_id}/predictions.parquet"
    for _ in range(2):
        *earlier, last = run_here(study, reports)
        assert not any("correct" in epoch for epoch in earlier)
        Mirror(study).pull(file)
        frame = pd.read_parquet(study.folder / file)
        correct = unpack_correct({**last["splits"]["val"], "correct": last["correct"]})
        assert correct is not None
        assert correct.tolist() == frame.correct[frame.split == "val"].tolist()
        assert correct.mean() == pytest.approx(last["splits"]["val"]["acc"])


def test_a_store_has_the_last_state_alone_and_a_damaged_one_is_said(
    study: Study, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state before the last that is left on this machine, perhaps of a dropped run, is not used.

    It is a whole one here, so the run would resume from it.
    """
    monkeypatch.setattr(Checkpoint, "MAX_AGE_SECONDS", 0.0)  # saves after every epoch
    place = f"trials/{study.run.trial_id}"
    last, before = state_files(study.folder / place / CHECKPOINT)
    first = run_here(study, reports)
    mirror = Mirror(study)
    assert mirror.store is not None
    stored = mirror.store.names(place)
    assert f"{place}/{last.name}" in stored and f"{place}/{before.name}" not in stored
    mirror.pull(f"{place}/{last.name}")
    shutil.copy(last, before)
    last.write_bytes(last.read_bytes()[:100])
    Mirror(study).push(place)
    again = run_here(study, reports)
    assert reports[-1]["error"] is None
    assert [epoch["splits"] for epoch in again] == [epoch["splits"] for epoch in first]
    assert not {epoch["seconds"] for epoch in again} & {epoch["seconds"] for epoch in first}
    (warning,) = [warning for report in reports for warning in report["warnings"]]
    assert warning == f"{last} cannot be used (File is not a zip file), so the run begins again"


# -- trials that freeze or run out of memory, under a real Ray --


def run(tmp_path: Path, function: Any, **changes: Any) -> kdtune.Results:
    study = kdtune.Study(train=function, out=str(tmp_path), baseline={"alpha": 1.0}, **changes)
    return kdtune.run(study)


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_frozen_process_is_killed_and_its_run_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A process that is silent for as long, but alive, is left alone."""
    monkeypatch.setattr("kdtune.raytune.recorder.TRIAL_SILENT_SECONDS", 3.0)
    space = {"alpha": (0.5, 1.0)}
    results = run(tmp_path, own_functions.freezes, space=space, repeats=1, epochs=3)
    assert set(results.trials.status) == {"completed"}
    assert results.trials["val/acc@last"].tolist() == [3.5 / 8, 4 / 8]
    printed = capsys.readouterr().out
    assert printed.count("was stopped, so it is killed") == 1
    assert "alpha 0.5, repeat 0: no epoch for" in printed
    kinds = [(line["trial_id"], line["kind"]) for line in read_lines(results.folder)[0]]
    frozen = results.trials.set_index("config/alpha").trial_id[0.5]
    for trial_id in results.trials.trial_id:
        assert kinds.count((trial_id, "start")) == (2 if trial_id == frozen else 1)
        assert kinds.count((trial_id, "end")) == 1


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
    run = replace(TINY, teacher_epochs=150)
    study = kdtune.Study(name="frozen", out=str(tmp_path), run=run, repeats=1)
    frozen: list[int] = []
    freezer = threading.Thread(target=freeze_teacher, args=(study.folder, frozen), daemon=True)
    freezer.start()
    results = kdtune.run(study)
    freezer.join()
    assert set(results.trials.status) == {"completed"}
    printed = capsys.readouterr().out
    assert printed.count("was stopped, so it is killed") == 1
    assert "the teacher: no epoch for" in printed and f"its process {frozen[0]} on" in printed
    epochs = [line for line in printed.splitlines() if line.startswith("  epoch ")]
    assert len(epochs) == len(set(epochs)) == 150
    assert len(read_record(study.folder / "teacher")["history"]) == 150
    assert not list(study.folder.glob("teacher/*checkpoint*"))


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_runs_that_do_not_fit_together_run_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that does not fit alone either has failed; the study goes on."""
    space = {"alpha": (0.25, 0.75, 1.0)}
    trials = run(tmp_path, own_functions.hungry, space=space, repeats=1, epochs=2).trials
    status = trials.set_index("config/alpha").status.to_dict()
    assert status == {0.25: "completed", 0.75: "failed", 1.0: "completed"}
    printed = capsys.readouterr().out
    assert "out of memory while 2 runs ran at a time; retried with 1 at a time" in printed
