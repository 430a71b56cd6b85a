"""Trials that freeze or run out of memory, under a real Ray."""

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import own_functions
import pytest
from ray._private import state
from tiny_run import TINY

import kdtune
from kdtune.models.weights import RECORD, WEIGHTS
from kdtune.storage.records import read_lines
from kdtune.training.teacher import read_record

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray")]


def run(tmp_path: Path, function: Any, **changes: Any) -> kdtune.Results:
    own: dict[str, Any] = {"baseline": {"alpha": 1.0}, "epochs": 3}
    return kdtune.run(kdtune.Study(train=function, out=str(tmp_path / "runs"), **own | changes))


def starts(results: kdtune.Results) -> list[str]:
    lines = read_lines(results.folder)[0]
    return [line["trial_id"] for line in lines if line["kind"] == "start"]


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
