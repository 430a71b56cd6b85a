"""Teachers before the trials, without Ray: their accuracy, and the cost of the models."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from s3_service import S3
from tiny_run import TINY

from kdtune.config.files import STUDY, TEACHER_ACCURACY
from kdtune.config.records import read_costs, read_teacher_accuracy, write_costs
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData
from kdtune.raytune import teachers
from kdtune.raytune import teachers as costs
from kdtune.raytune.machines import TrialResources
from kdtune.raytune.teachers import Preparation, measure_before_ray
from kdtune.storage.mirror import Mirror, fetch
from kdtune.training.recipe import resolve_study

ONE_CORE = TrialResources(1, 0)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The teachers that are measured, in turn."""
    names: list[str] = []
    real = teachers.measure_teachers

    def counted(study, missing, data):  # type: ignore[no-untyped-def]
        names.extend(run.teacher for run in missing)
        return real(study, missing, data)

    monkeypatch.setattr(teachers, "measure_teachers", counted)
    return names


def check(study: Study) -> list[str]:
    """Start the study's gate as the driver does; return what it says."""
    lines: list[str] = []
    mirror = Mirror(study)
    mirror.pull(TEACHER_ACCURACY)
    Preparation(study, StudyData(study.run), mirror, ONE_CORE, lines.append).gate_teachers()
    return lines


def test_the_record_travels_with_the_study(
    s3: S3,
    tiny: Run,
    teacher_folder: Path,
    tmp_path: Path,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "here"))
    study = resolve_study(
        Study(name="t", out=f"s3://kdtune/{tmp_path.name}", run=tiny, cache_gb=0, gpus=0),
        StudyData(tiny),
    )
    shutil.copytree(teacher_folder, study.folder / "teacher")
    (study.folder / STUDY).write_text(study.to_json())
    Mirror(study).push(STUDY, "teacher")
    lines = check(study)
    assert measured == [tiny.teacher] and len(lines) == 1
    assert lines[0].startswith("Accuracy of the teacher factories:tiny_teacher (1 epoch): ")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "there"))  # another machine
    assert check(study) == lines and len(measured) == 1
    assert len(read_teacher_accuracy(fetch(str(study.uri))[0])) == 1
    Mirror(study).delete(TEACHER_ACCURACY)
    assert check(study) == lines and len(measured) == 2

    strict = replace(study, run=replace(study.run, teacher_min_acc=0.999))
    with pytest.raises(InputError, match=r"at least 0.999 on val .* or lower --teacher-min-acc"):
        check(strict)
    assert len(measured) == 2


def test_teachers_and_ensembles_have_a_line_each(
    tiny: Run, tmp_path: Path, measured: list[str]
) -> None:
    """Random weights: no teacher is better than chance."""
    names = ("factories:tiny_teacher", "factories:tiny_student")
    run = replace(tiny, teacher=names[0], teacher_epochs=0)
    space = {"teacher": (names[0], "+".join(names)), "alpha": (0.5, 1.0)}
    study = Study(name="t", out=str(tmp_path), run=run, space=space, cache_gb=0, gpus=0)
    lines = check(resolve_study(study, StudyData(run)))
    assert measured == [*names, "+".join(names)]
    said = [line for line in lines if line.startswith("Accuracy of the teacher ")]
    assert len(said) == 3 and said[2].startswith(f"Accuracy of the teacher {'+'.join(names)}: ")
    assert any("is no better than chance on" in line for line in lines)


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(name="tiny", out=str(tmp_path), run=TINY, gpus=0, cpus_per_trial=2)
    made.folder.mkdir(parents=True)
    return made


def test_each_model_is_measured_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    data = StudyData(TINY)
    measure_before_ray(study, data, Mirror(study), said.append)
    student, teacher = read_costs(study.folder)
    assert (student.role, student.model) == ("student", TINY.student)
    assert (teacher.role, teacher.model) == ("teacher", TINY.teacher)
    assert 0 < student.params < teacher.params and student.threads == 2
    assert student.flops and teacher.flops and student.device == "cpu"
    assert said == [f"Measuring parameters, FLOPs and latency of {TINY.student}, {TINY.teacher}."]

    marked = [replace(student, latency_ms=123.0), teacher]
    write_costs(study.folder, marked)
    ensemble = f"{TINY.teacher}+{TINY.student}"
    space = {"teacher": (TINY.teacher, ensemble), "student": (TINY.student,)}
    other = replace(study, space=space)  # one more teacher
    measure_before_ray(other, data, Mirror(other), said.append)
    first, second, third = read_costs(study.folder)
    assert [first, second] == marked
    assert (third.role, third.model) == ("teacher", ensemble)
    assert third.params == teacher.params + student.params
    monkeypatch.setattr(costs, "measure_all", None)
    measure_before_ray(other, data, Mirror(other), said.append)
    assert len(said) == 2


def test_a_model_that_cannot_be_measured_is_a_warning(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = costs.measure_cost

    def fail_for_teacher(members, role, *arguments):
        if role == "teacher":
            raise RuntimeError("out of memory\nand more")
        return real(members, role, *arguments)

    monkeypatch.setattr(costs, "measure_cost", fail_for_teacher)
    said: list[str] = []
    data = StudyData(TINY)
    measure_before_ray(study, data, Mirror(study), said.append)
    assert [cost.role for cost in read_costs(study.folder)] == ["student"]
    reason = f"the cost of the teacher {TINY.teacher} cannot be measured (out of memory)"
    assert said[1:] == [f"warning: {reason}"]
