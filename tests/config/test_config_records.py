"""Files of costs, teachers and students: what kdtune writes, and values that it never writes."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from study_folders import cost

from kdtune.config.files import COSTS, STUDENTS_CONFIG, TEACHER_ACCURACY
from kdtune.config.records import (
    Accuracy,
    InputRecord,
    ModelRecord,
    StudentRecord,
    StudentsRecord,
    TeacherAccuracy,
    read_costs,
    read_students_record,
    read_teacher_accuracy,
    write_costs,
    write_teacher_accuracy,
)
from kdtune.config.text import InputError

DEEP = "[" * 50_000


def test_costs_survive_their_file_and_fields_of_a_later_version(tmp_path: Path) -> None:
    assert read_costs(tmp_path) == []
    costs = [cost("a"), replace(cost("b", "teacher"), flops=None, latency_ms_iqr=None)]
    write_costs(tmp_path, costs)
    assert read_costs(tmp_path) == costs
    saved = json.loads((tmp_path / COSTS).read_text())
    saved["models"][0]["energy"] = 3.0
    (tmp_path / COSTS).write_text(json.dumps(saved))
    assert read_costs(tmp_path) == costs


@pytest.mark.parametrize(
    "wrong",
    [
        *("", "{", "[]", "{}", '{"models": 3}', '{"models": [{"role": "student"}]}', DEEP),
        *({"params": value} for value in ("many", -1, 1.5)),
        *({"latency_ms": value} for value in (float("nan"), 10**400)),
        {"threads": True},
    ],
)
def test_damaged_costs_are_measured_again(tmp_path: Path, wrong: str | dict[str, Any]) -> None:
    if isinstance(wrong, dict):
        wrong = json.dumps({"models": [asdict(cost("a")), asdict(cost("b")) | wrong]})
    (tmp_path / COSTS).write_text(wrong)
    assert read_costs(tmp_path) == []


MEASURED = TeacherAccuracy("resnet50", 3, "f.pt", 10, {"val": Accuracy(50, 40, 5)}, "0123")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": "3"},
        {"splits": []},
        {"splits": {"val": {"n": 0, "correct": 0, "largest_class": 0}}},
        {"splits": {"val": {"n": 50, "correct": 51, "largest_class": 5}}},
        {"splits": {"val": {"n": 50, "correct": 40, "largest_class": 51}}},
        {"splits": {"val": {"n": 50, "correct": True, "largest_class": 5}}},
    ],
)
def test_impossible_accuracies_are_measured_again(tmp_path: Path, wrong: Any) -> None:
    write_teacher_accuracy(tmp_path, [MEASURED])
    assert read_teacher_accuracy(tmp_path) == [MEASURED]
    for text in (json.dumps([asdict(MEASURED) | wrong]), DEEP):
        (tmp_path / TEACHER_ACCURACY).write_text(text)
        assert read_teacher_accuracy(tmp_path) == []


STUDENTS = StudentsRecord(
    model=ModelRecord("resnet18"),
    classes=("a", "b"),
    input=InputRecord("images", (3, 32, 32), "uint8"),
    students=(StudentRecord(0, "repeat-0.safetensors"),),
    run={"student": "resnet18"},
)


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": "ab"},
        {"model": {"name": 3}},
        {"input": {"kind": "images", "shape": [0], "dtype": "uint8"}},
        {"students": [{"repeat": "0", "file": "f"}]},
        {"schema": None},
        {"run": {"alpha": 10**400}},
    ],
)
def test_a_record_of_students_of_other_types_is_damaged(tmp_path: Path, wrong: Any) -> None:
    file = tmp_path / STUDENTS_CONFIG
    file.write_text(STUDENTS.to_json())
    assert read_students_record(tmp_path) == STUDENTS
    for text in (json.dumps(json.loads(STUDENTS.to_json()) | wrong), DEEP):
        file.write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            read_students_record(tmp_path)
