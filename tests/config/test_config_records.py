"""Files of costs, teachers and students: what kdtune writes, and values that it never writes."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from study_folders import cost, edit_json

from kdtune.config import records
from kdtune.config.files import COSTS, STUDENTS_CONFIG, TEACHER_ACCURACY
from kdtune.config.text import InputError


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
        *({"models": [STUDENT, TEACHER | {"params": value}]} for value in ("many", -1, 1.5)),
        *({"models": [TEACHER | {"latency_ms": value}]} for value in (float("nan"), 10**400)),
        {"models": [TEACHER | {"threads": True}]},
    ],
)
def test_damaged_costs_are_measured_again(tmp_path: Path, wrong: Any) -> None:
    (tmp_path / COSTS).write_text(wrong if isinstance(wrong, str) else json.dumps(wrong))
    assert records.read_costs(tmp_path, faults := []) == []
    assert faults[0].startswith(f"{COSTS} is damaged: what the models cost is left out")


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": "3"},
        {"splits": []},
        *(
            {"splits": {"val": {"n": n, "correct": correct, "largest_class": largest}}}
            for n, correct, largest in ((0, 0, 0), (50, 51, 5), (50, 40, 51), (50, True, 5))
        ),
    ],
)
def test_impossible_accuracies_are_measured_again(tmp_path: Path, wrong: Any) -> None:
    records.write_teacher_accuracy(tmp_path, [MEASURED])
    assert records.read_teacher_accuracy(tmp_path) == [MEASURED]
    for text in (json.dumps([asdict(MEASURED) | wrong]), *NO_JSON):
        (tmp_path / TEACHER_ACCURACY).write_text(text)
        assert records.read_teacher_accuracy(tmp_path) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"classes": "ab"},
        {"classes": ["a", "a"]},
        {"preprocessing": {"image_size": 10**9}},
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
    assert records.read_students_record(tmp_path) == STUDENTS
    for text in (json.dumps(json.loads(STUDENTS.to_json()) | wrong), *NO_JSON):
        file.write_text(text)
        with pytest.raises(InputError, match="is damaged"):
            records.read_students_record(tmp_path)
