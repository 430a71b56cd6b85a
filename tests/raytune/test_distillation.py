"""Teachers before the trials, without Ray: their accuracy, and the cost of the models."""

import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
from s3_service import S3
from tiny_run import TINY

from kdtune.config.files import STUDY, TEACHER_ACCURACY
from kdtune.config.records import read_costs, read_teacher_accuracy, write_costs
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData
from kdtune.raytune import distillation
from kdtune.raytune.distillation import Preparation, measure_before_ray
from kdtune.raytune.machines import TrialResources
from kdtune.storage.mirror import Mirror, fetch
from kdtune.training.recipe import resolve_study


@pytest.fixture
def measure(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """Measures teachers, and has its calls."""
    made = Mock(wraps=distillation.measure_teachers)
    monkeypatch.setattr(distillation, "measure_teachers", made)
    return made


def check(study: Study) -> list[str]:
    """Start the study's gate as the driver does; return what it says."""
    lines, mirror, core = list[str](), Mirror(study), TrialResources(1, 0)
    mirror.pull(TEACHER_ACCURACY)
    Preparation(study, StudyData(study.run), mirror, core, lines.append).gate_teachers()
    return lines


def test_the_record_travels_with_the_study(
    s3: S3, teacher_folder: Path, tmp_path: Path, measure: Mock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    study = Study(name="t", out=f"s3://kdtune/{tmp_path.name}", run=TINY, cache_gb=0, gpus=0)
    study = resolve_study(study, StudyData(TINY))
    shutil.copytree(teacher_folder, study.folder / "teacher")
    (study.folder / STUDY).write_text(study.to_json())
    Mirror(study).push(STUDY, "teacher")
    lines = check(study)
    assert measure.call_count == len(lines) == 1
    assert lines[0].startswith("Accuracy of the teacher factories:tiny_teacher (1 epoch): ")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))  # another machine
    assert check(study) == lines and measure.call_count == 1
    assert len(read_teacher_accuracy(fetch(str(study.uri))[0])) == 1
    Mirror(study).delete(TEACHER_ACCURACY)
    assert check(study) == lines and measure.call_count == 2

    strict = replace(study, run=replace(study.run, teacher_min_acc=0.999))
    with pytest.raises(InputError, match=r"at least 0.999 on val .* or lower --teacher-min-acc"):
        check(strict)
    assert measure.call_count == 2


def test_teachers_and_ensembles_have_a_line_each(tmp_path: Path, measure: Mock) -> None:
    """Random weights: no teacher is better than chance."""
    run = replace(TINY, teacher_epochs=0)
    ensemble = f"{TINY.teacher}+{TINY.student}"
    space = {"teacher": (TINY.teacher, ensemble), "alpha": (0.5, 1.0)}
    study = Study(name="t", out=str(tmp_path), run=run, space=space, cache_gb=0, gpus=0)
    lines = check(resolve_study(study, StudyData(run)))
    names = [run.teacher for call in measure.call_args_list for run in call.args[1]]
    assert names == [TINY.teacher, TINY.student, ensemble]
    accuracies = [line for line in lines if line.startswith("Accuracy of the teacher ")]
    assert len(accuracies) == 3 and f" {ensemble}: " in accuracies[2]
    assert any("is no better than chance on" in line for line in lines)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(name="tiny", out=str(tmp_path), run=TINY, gpus=0, cpus_per_trial=2)
    made.folder.mkdir(parents=True)
    return made


def measure_costs(study: Study) -> list[str]:
    lines: list[str] = []
    measure_before_ray(study, StudyData(TINY), Mirror(study), lines.append)
    return lines


def test_each_model_is_measured_once(study: Study) -> None:
    first = [f"Measuring parameters, FLOPs and latency of {TINY.student}, {TINY.teacher}."]
    assert measure_costs(study) == first
    student, teacher = read_costs(study.folder)
    assert (student.role, student.model) == ("student", TINY.student)
    assert (teacher.role, teacher.model) == ("teacher", TINY.teacher)
    assert 0 < student.params < teacher.params and student.threads == 2
    assert student.flops and teacher.flops and student.device == "cpu"

    marked = [replace(student, latency_ms=123.0), teacher]
    write_costs(study.folder, marked)
    ensemble = f"{TINY.teacher}+{TINY.student}"
    space = {"teacher": (TINY.teacher, ensemble), "student": (TINY.student,)}
    other = replace(study, space=space)  # one more teacher
    assert len(measure_costs(other)) == 1
    *before, third = read_costs(study.folder)
    assert before == marked and (third.role, third.model) == ("teacher", ensemble)
    assert third.params == teacher.params + student.params
    assert measure_costs(other) == []


def test_a_model_that_cannot_be_measured_is_a_warning(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = distillation.measure_cost

    def fail_for_teacher(members, role, *arguments):
        if role == "teacher":
            raise RuntimeError("out of memory\nand more")
        return real(members, role, *arguments)

    monkeypatch.setattr(distillation, "measure_cost", fail_for_teacher)
    reason = f"the cost of the teacher {TINY.teacher} cannot be measured (out of memory)"
    assert measure_costs(study)[1:] == [f"warning: {reason}"]
    assert [cost.role for cost in read_costs(study.folder)] == ["student"]
