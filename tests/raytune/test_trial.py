"""What Ray runs, here without Ray: its reports are caught."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from s3_service import S3

from kdtune.config.files import CHECKPOINT, state_files
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.data.checks import Contents
from kdtune.data.sources import StudyData
from kdtune.raytune import function as reporter
from kdtune.raytune.function import run_trial
from kdtune.raytune.trial import distillation_epochs
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import unpack_correct
from kdtune.training.loop import Checkpoint
from kdtune.training.teacher import RECORD, WEIGHTS


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
