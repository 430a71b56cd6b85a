"""Comparisons within a student: two students together are as each of them alone."""

import numpy as np
import pandas as pd
import pytest
from study_folders import at, draw, make

from kdtune.results.comparison import Criterion, baseline_of, best_config, compare

BASE = {"small": 0.0, "large": 0.1}


def both() -> dict:
    runs = {
        at(alpha, student=student): base + gain
        for student, base in BASE.items()
        for alpha, gain in ((0.5, 0.03), (0.1, -0.01), (1.0, 0.0))
    }
    return draw(runs, 8)


def of(last: dict, student: str) -> dict:
    return {run: accs for run, accs in last.items() if run.student == student}


def test_each_student_has_its_own_baseline(tmp_path) -> None:
    last = both()
    table = make(tmp_path / "both", last, space=SPACE).compare()
    for student in BASE:
        alone = make(tmp_path / student, of(last, student)).compare()
        own = table[table["config/student"] == student].reset_index(drop=True)
        for name in ("diff", "sd", "error", "p", "wins", "losses", "correlation"):
            assert own[name].to_numpy() == pytest.approx(alone[name].to_numpy(), nan_ok=True), name
        plain = np.array(next(v for r, v in of(last, student).items() if r.alpha == 1))
        best = np.array(next(v for r, v in of(last, student).items() if r.alpha == 0.5))
        assert own["diff"].max() == pytest.approx((best - plain).mean())
        assert own.baseline.nunique() == 1
    assert table.baseline.nunique() == 2
    # Holm over all four comparisons: the least p is multiplied by 4
    assert table.p_holm.min() == pytest.approx(4 * table.p.min())


SPACE = {"student": ("small", "large"), "alpha": (0.1, 0.5, 1.0)}


def test_verdict_and_baseline_are_of_each_student(tmp_path) -> None:
    made = make(tmp_path, both(), space=SPACE)
    assert made.by == ["student", "alpha"]
    small, large = sorted(made.verdict().split("\n"), reverse=True)
    assert small.startswith("small: Distillation (alpha = 0.5) improved validation accuracy by ")
    assert large.startswith("large: Distillation (alpha = 0.5) improved ")
    assert "over 4 comparisons" in small
    assert made.baseline() == "training without distillation of the same student"
    assert made.baseline(student="small") == "training without distillation"
    best = made.best()
    assert best is not None and made.student(best) == "large"
    rows = made.selection().set_index("row")
    assert made.student(rows.loc["baseline", "config_id"]) == "large"
    text = made.text()
    assert (
        "\n- large: " in text and "from training without distillation of the same student" in text
    )


def test_repeats_are_enough_within_a_student() -> None:
    """A student that was decided early is not left out for having fewer final repeats."""
    few, some = [np.nan] * 37, [np.nan] * 34
    values = pd.DataFrame({"A": [0.95] * 6 + some, "B": [0.8] * 40, "b": [0.99] * 3 + few})
    students = {"A": "large", "B": "small", "b": "small"}
    assert best_config(values, 1, students) == "A"
    assert best_config(values, 1) == "B"


def test_a_baseline_that_names_a_student_is_that_of_all(tmp_path) -> None:
    made = make(tmp_path, both(), space=SPACE)
    criterion = Criterion(baseline={"student": "small", "alpha": 1})
    table = made.compare(criterion)
    assert len(table) == 5 and table.baseline.nunique() == 1
    assert made.verdict(criterion).count("\n") == 0


def test_a_student_without_its_baseline_is_left_out(tmp_path) -> None:
    last = {run: accs for run, accs in both().items() if (run.student, run.alpha) != ("small", 1)}
    made = make(tmp_path, last, space=SPACE)
    table = made.compare()
    assert set(table["config/student"]) == {"large"}
    lost = made.trials[made.trials["config/student"] == "small"].config_id.iloc[0]
    assert baseline_of(table, lost) is None
    assert baseline_of(compare(made.trials.iloc[:0], Criterion()), lost) is None
