"""What is said about the accuracy of teachers."""

from dataclasses import replace
from pathlib import Path

import pytest
from study_folders import at, write_records

import kdtune
from kdtune.config.records import (
    Accuracy,
    TeacherAccuracy,
    read_teacher_accuracy,
    write_teacher_accuracy,
)
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.reporting import sections as teacher_history
from kdtune.results.warnings import check_teachers, describe_accuracy, find_teacher_faults

GOOD = TeacherAccuracy(
    teacher="big",
    epochs=5,
    weights="runs/x/teacher/teacher.safetensors",
    classes=10,
    splits={"train": Accuracy(300, 297, 30), "val": Accuracy(500, 450, 50)},
    fingerprint="f",
    acc_before=0.85,
    acc_after=0.9,
)


def of_val(correct: int, n: int = 500, largest: int = 50) -> TeacherAccuracy:
    return replace(GOOD, splits={"val": Accuracy(n, correct, largest)})


def test_a_good_teacher_has_no_fault() -> None:
    assert find_teacher_faults([GOOD]) == []
    want = (
        "Accuracy of the teacher big (5 epochs): 99.0% on train (n = 300), 90.0% on val (n = 500)."
    )
    assert describe_accuracy(GOOD) == want


def test_chance_is_the_wrecked_teacher_of_the_issue() -> None:
    """11 % of ten classes, 55 of 500: P(X >= 55) = 0.25 for X ~ Bin(500, 0.1)."""
    (fault,) = find_teacher_faults([of_val(55)])
    assert "the teacher big (5 epochs) is no better than chance on val (55 of 500" in fault
    assert "binomial p = 0.25" in fault
    assert find_teacher_faults([of_val(70)]) == []  # p = 0.002


def test_chance_is_the_largest_class_where_one_prevails() -> None:
    (fault,) = find_teacher_faults([of_val(450, largest=460)])
    assert "always naming one class gives 92.0%" in fault


def test_worse_than_before() -> None:
    (fault,) = find_teacher_faults([replace(GOOD, acc_before=0.934, acc_after=0.81)])
    assert "is worse after its fine-tuning (81.0% on val) than before (93.4%)" in fault
    assert find_teacher_faults([replace(GOOD, acc_before=0.9)]) == []  # as good
    assert find_teacher_faults([replace(GOOD, acc_before=None)]) == []  # a new head


def test_least_accuracy(tmp_path: Path) -> None:
    write_teacher_accuracy(tmp_path, [GOOD])
    lines: list[str] = []
    check_teachers(tmp_path, [GOOD.key], lambda known: [], 0.9, lines.append)
    assert lines == [describe_accuracy(GOOD)]
    words = r"at least 0.95 on val .* but has 0.9000 \(450 of 500\) .* runs/x/teacher/teacher"
    with pytest.raises(InputError, match=words):
        check_teachers(tmp_path, [GOOD.key], lambda known: [], 0.95, lines.append)


def test_what_is_measured_replaces_what_was_known(tmp_path: Path) -> None:
    small = replace(GOOD, teacher="small")
    write_teacher_accuracy(tmp_path, [GOOD, small])
    better = replace(GOOD, fingerprint="g", acc_before=None)
    check_teachers(tmp_path, [GOOD.key], lambda known: [better], None, lambda line: None)
    assert read_teacher_accuracy(tmp_path) == [better, small]


@pytest.mark.parametrize("text", ["{", "[{}]", "3", '[{"splits": 3}]'])
def test_a_damaged_record_counts_as_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / "accuracy.json").write_text(text)
    assert read_teacher_accuracy(tmp_path) == []


def test_worse_than_a_student_without_it(tmp_path: Path) -> None:
    """Plain training has 0.92 and 0.90, so 0.91; the teacher 0.90. Distilled runs do not count."""
    accs = {at(1.0): 0.92, at(1.0, 1): 0.90, at(0.5): 0.99}
    write_records(tmp_path, {run: [0.1, 0.2, acc] for run, acc in accs.items()})
    study = Study(name="s", run=at(0.5), space={"alpha": (0.5, 1.0)}, repeats=2)
    (tmp_path / "study.json").write_text(study.to_json())
    assert not any("teacher" in line for line in kdtune.load(tmp_path).warnings)
    write_teacher_accuracy(tmp_path, [GOOD])
    results = kdtune.load(tmp_path)
    words = "the teacher big (5 epochs) is less accurate on val (90.0%) than the student resnet18"
    assert results.warnings[0] == f"{words} trained without it (mean 91.0%)."
    assert "is less accurate on val (90.0%)" in results.verdict()
    table = teacher_history.teachers(results)
    assert table is not None and table.table is not None
    assert table.table.rows[0][0] == "big (5 epochs)" and table.table.rows[0][-1] == "85.0%"
    write_teacher_accuracy(tmp_path, [replace(GOOD, splits={"val": Accuracy(500, 460, 50)})])
    assert not any("teacher" in line for line in kdtune.load(tmp_path).warnings)
