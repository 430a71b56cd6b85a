"""A study with a network and the file of its outputs as teachers, and what reads such a study."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kdtune
from kdtune import analysis, report
from kdtune import teacher as teacher_command
from kdtune.analysis import AnalysisFlags
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.report import ReportFlags
from kdtune.search import main

METRICS = ("acc", "ce", "loss", "logit_diff", "teacher_acc", "agreement", "kl")


@pytest.mark.slow
@pytest.mark.usefixtures("shared_ray")
def test_a_network_and_its_file_are_equal_teachers(
    tiny: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, file = str(tmp_path / "runs"), tmp_path / "outputs.parquet"
    run = replace(tiny, augment="none", teacher_epochs=0, alpha=0.2)
    kwargs = {"out": out, "cache": str(tmp_path / "cache")}
    dumped = Study(name="dump", run=run, dump=str(file), **kwargs)  # type: ignore[arg-type]
    assert teacher_command.main(dumped) == 0
    space = {"teacher": (run.teacher, str(file)), "alpha": (0.2, 1.0)}
    study = Study(name="two", run=run, space=space, repeats=1, **kwargs)  # type: ignore[arg-type]
    assert main(study) == 0
    trials = kdtune.load(study.folder).trials.set_index("config/teacher")
    for split in ("val", "test"):
        for metric in METRICS:
            values = trials[f"{split}/{metric}@last"]
            assert values["outputs.parquet"] == values[run.teacher], metric

    moved = tmp_path / "elsewhere" / file.name
    moved.parent.mkdir()
    file.rename(moved)
    space["teacher"] = (run.teacher, str(moved))
    again = Study(name="two", run=run, space=space, repeats=2, **kwargs)  # type: ignore[arg-type]
    assert main(again) == 0
    assert len(kdtune.load(study.folder).trials) == 2 * len(study.runs()) == 6
    capsys.readouterr()

    assert analysis.main(AnalysisFlags(runs=(str(study.folder),))) == 0
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "outputs.parquet | teacher |" in line]
    assert [cell.strip() for cell in row.split("|")[3:-1]] == ["-"] * 5  # its cost is not known
    assert report.main(ReportFlags(runs=(str(study.folder),))) == 0
    assert "outputs.parquet" in (study.folder / "report.html").read_text("utf-8")
    student = kdtune.load_student(study.folder)
    assert student(torch.zeros(2, 1, 28, 28, dtype=torch.uint8)).shape == (2, 10)
