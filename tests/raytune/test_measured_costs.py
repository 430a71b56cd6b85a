"""The driver measures each model once, and survives a model that it cannot measure."""

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import TINY

from kdtune.config.files import COSTS
from kdtune.config.records import read_costs, write_costs
from kdtune.config.study import Study
from kdtune.raytune import teachers as costs
from kdtune.raytune.folder import FINISHED
from kdtune.raytune.teachers import measure_before_ray
from kdtune.storage.mirror import READ, Mirror


@pytest.fixture
def study(tmp_path: Path) -> Study:
    made = Study(name="tiny", out=str(tmp_path), run=TINY, gpus=0, cpus_per_trial=2)
    made.folder.mkdir(parents=True)
    return made


def test_each_model_is_measured_once(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    measure_before_ray(study, Mirror(study), said.append)
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
    measure_before_ray(other, Mirror(other), said.append)
    first, second, third = read_costs(study.folder)
    assert [first, second] == marked
    assert (third.role, third.model) == ("teacher", ensemble)
    assert third.params == teacher.params + student.params
    monkeypatch.setattr(costs, "measure_all", None)
    measure_before_ray(other, Mirror(other), said.append)
    assert len(said) == 2


def test_a_model_that_cannot_be_measured_is_a_warning(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = costs.measure

    def fail_for_teacher(members, role, *arguments):
        if role == "teacher":
            raise RuntimeError("out of memory\nand more")
        return real(members, role, *arguments)

    monkeypatch.setattr(costs, "measure", fail_for_teacher)
    said: list[str] = []
    measure_before_ray(study, Mirror(study), said.append)
    assert [cost.role for cost in read_costs(study.folder)] == ["student"]
    reason = f"the cost of the teacher {TINY.teacher} cannot be measured (out of memory)"
    assert said[1:] == [f"warning: {reason}"]


def test_costs_are_kept_on_an_object_store_and_read_from_there() -> None:
    assert COSTS in FINISHED and COSTS in READ
