"""Objects in a run and a study: names, JSON, copies. Laws of dataclasses, and what is refused."""

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import factories
import pytest
import torch
from study_folders import cost, edit_json
from torch import nn
from torch.utils.data import TensorDataset

from kdtune.config import records
from kdtune.config.files import COSTS, STUDENTS_CONFIG, TEACHER_ACCURACY
from kdtune.config.objects import importable_name
from kdtune.config.run import Run
from kdtune.config.study import Study, check_objects, describe_fixed_students
from kdtune.config.text import InputError

X, Y = torch.zeros(4, 2), [0, 1, 0, 1]


def local(width: int) -> Any:
    """Functions and classes that no other process can import."""

    def make(classes: int) -> nn.Module:
        return nn.Linear(width, classes)

    class Net(nn.Linear):
        pass

    return make, Net


MAKE, NET = local(2)


def objects_of(run: Run) -> list[Any]:
    return [passed.value for passed in run.objects.passed.values()]


def test_fields_hold_names_and_the_run_the_objects() -> None:
    net, data = NET(2, 2), {"train": (X, Y)}
    run = Run(data=data, teacher=net, student=MAKE)
    assert (run.data, run.teacher, run.student) == ("object:data", "object:Net", "object:make")
    assert run.objects.get("data", "object:data").value is data
    assert run.objects.get("teacher", "object:Net").value is net
    assert run.objects.get("student", "object:make").value is MAKE
    assert not Run().objects
    for other in (replace(run, alpha=0.2), run.sample(alpha=1.0), run.absolute()):
        assert other.objects.passed == run.objects.passed and other.student == "object:make"
    # a teacher is used as it is; a function gives the initial weights, a module has its own
    assert (run.teacher_epochs, run.teacher_weights) == (0, "default")
    assert run.weights_of("student") == "none"
    assert Run(teacher=net, teacher_epochs=3).teacher_epochs == 3
    assert Run(student=net).teacher_epochs is None
    assert Run(teacher=factories.tiny_teacher).weights_of("teacher") == "none"
    again = Run(data=data, teacher=net, student=MAKE)
    assert again == run and hash(again) == hash(run) and again.config_id == run.config_id


def test_objects_have_a_name_each_unless_others_can_import_them() -> None:
    run = Run(teacher=factories.tiny_teacher, student=nn.Linear)
    assert run.teacher == "factories:tiny_teacher" and not run.objects
    assert run.student == "torch.nn.modules.linear:Linear"
    assert importable_name(lambda: 0) is importable_name(MAKE) is importable_name(NET) is None
    code = "import kdtune\ndef f(k): pass\nassert kdtune.Run(student=f).student == 'object:f'"
    subprocess.run([sys.executable, "-c", code], check=True)
    a, b, c = NET(2, 2), NET(2, 2), NET(2, 2)
    run = Run(teacher=a, student=b)
    assert (run.teacher, run.student) == ("object:Net", "object:Net-2")
    study = Study(run=run, space={"student": (b, c, a)})
    assert study.space["student"] == ("object:Net-2", "object:Net-3", "object:Net")
    assert set(map(id, objects_of(study.run))) == set(map(id, (a, b, c)))
    assert Run(teacher=a, student=a).student == "object:Net"


def test_a_study_has_the_objects_of_its_space_and_no_others() -> None:
    other = local(3)[0]
    space = {"student": (other, "resnet18", factories.tiny_student)}
    study = Study(run=Run(student=MAKE), space=space)
    assert study.space["student"] == ("object:make-2", "resnet18", "factories:tiny_student")
    assert objects_of(study.run) == [other] and study.run.student == "object:make-2"
    weights = [replace(study.run, student=s).weights_of("student") for s in study.space["student"]]
    assert weights == ["none", "default", "none"]
    assert all(objects_of(run) == [other] for run in study.runs())
    assert Study(space={"teacher": (NET(2, 2), MAKE)}).run.teacher_epochs == 0
    assert Study(space={"teacher": (NET(2, 2), "resnet18")}).run.teacher_epochs is None


def test_copies_of_objects_are_the_objects() -> None:
    """Ray Tune copies what it is given; 100 MB must not be among it."""
    run = Run(student=NET(2, 2))
    (passed,) = run.objects.passed.values()
    assert copy.deepcopy(passed) is copy.copy(passed) is passed
    assert passed.fresh() is not passed.value
    torch.testing.assert_close(passed.fresh().weight, passed.value.weight)
    passed.once("key", lambda: 1)
    assert passed.once("key", lambda: 2) == 1
    assert pickle.loads(pickle.dumps(Run(data={"train": (X, Y)}))).objects.passed["object:data"]


def test_missing_objects_are_named_at_once_and_fixed_students_too() -> None:
    study = Study(name="mine", run=Run(data={"train": (X, Y)}, teacher=NET(2, 2), student=MAKE))
    check_objects(study)
    read = Study.from_json(study.to_json())
    assert read == study and not read.run.objects
    with pytest.raises(InputError) as refused:
        check_objects(read)
    assert str(refused.value) == (
        "runs/mine was made in Python with objects that its folder does not hold; to train with "
        "them, pass them again: kdtune.Run(data=data, teacher=Net, student=make)"
    )
    (sentence,) = describe_fixed_students(Study(space={"student": (NET(2, 2), MAKE, "resnet18")}))
    assert sentence.startswith("the student object:Net is a module, so all repeats begin with its")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"student": 5}, "student must be text, an nn.Module, or a function .* but got 5"),
        ({"data": TensorDataset(X)}, 'data must be text, a dict .*"train": .*TensorDataset'),
        ({"data": list(range(1000))}, r"but got \[0, 1, 2.*\.\.\.$"),
    ],
)
def test_other_objects_are_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Run(**values)


def test_costs_survive_their_file_and_fields_of_a_later_version(tmp_path: Path) -> None:
    assert records.read_costs(tmp_path) == []
    costs = [cost("a"), replace(cost("b", "teacher"), flops=None, latency32_ms=None)]
    records.write_costs(tmp_path, costs)
    assert records.read_costs(tmp_path) == costs
    edit_json(tmp_path / COSTS, lambda saved: saved["models"][0].update(energy=3.0))
    assert records.read_costs(tmp_path) == costs


STUDENT, TEACHER = asdict(cost("a")), asdict(cost("b", "teacher"))
MEASURED = records.TeacherAccuracy(
    "resnet50", 3, "f.pt", 10, {"val": records.Accuracy(50, 40, 5)}, "0123"
)
STUDENTS = records.StudentsRecord(
    model=records.ModelRecord("resnet18"),
    classes=("a", "b"),
    input=records.InputRecord("images", (3, 32, 32), "uint8"),
    students=(records.StudentRecord(0, "repeat-0.safetensors"),),
    run={"student": "resnet18"},
)
NO_JSON = ("", "{", "[]", "[" * 50_000)


@pytest.mark.parametrize(
    "wrong",
    [
        *NO_JSON,
        *({}, {"models": 3}, {"models": [{"role": "student"}]}),
        *({"models": [STUDENT, TEACHER | {"params": value}]} for value in ("many", 1.5)),
    ],
)
def test_damaged_costs_are_measured_again(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / COSTS).write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
    assert records.read_costs(tmp_path) == []


@pytest.mark.parametrize("wrong", [{"epochs": "3"}, {"splits": []}])
def test_damaged_accuracies_are_measured_again(tmp_path: Path, wrong: Any) -> None:
    records.write_teacher_accuracy(tmp_path, [MEASURED])
    assert records.read_teacher_accuracy(tmp_path) == [MEASURED]
    for text in (json.dumps([asdict(MEASURED) | wrong]), *NO_JSON):
        (tmp_path / TEACHER_ACCURACY).write_text(text)
        assert records.read_teacher_accuracy(tmp_path) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": "ab"},
        {"model": {"name": 3}},
        {"students": [{"repeat": "0", "file": "f"}]},
        {"schema": None},
    ],
)
def test_a_record_of_students_of_other_types_is_damaged(tmp_path: Path, wrong: Any) -> None:
    file = tmp_path / STUDENTS_CONFIG
    file.write_text(STUDENTS.to_json())
    assert records.read_students_record(tmp_path) == STUDENTS
    for text in (json.dumps(json.loads(STUDENTS.to_json()) | wrong), *NO_JSON):
        file.write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            records.read_students_record(tmp_path)
