"""Studies of several students: each has its own arms, finalists and share of the samples."""

from collections import Counter
from dataclasses import replace

import pytest
from play import play
from simulated_runs import LISTS, RANGES, RUN, curve, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import active_configs, final_differences, finalists, is_decided
from kdtune.planning.plan import Plan, best_of_other

STUDENTS = {"student": ("small", "large")}


def of_student(run: Run) -> list[float]:
    """The large student is better by far."""
    return [acc + 0.1 * (run.student == "large") for acc in curve(run)]


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_students_take_turns(search: str) -> None:
    study = replace(make(search, {**RANGES, **STUDENTS}, "all"), samples=16)
    plan = Plan(study, play(study, of_student))
    kinds = Counter((state.run.student, state.is_baseline) for state in plan.ledger.by_row)
    assert kinds == {(s, plain): 2 if plain else 6 for s in ("small", "large") for plain in (0, 1)}


def test_a_race_has_finalists_of_each_student() -> None:
    """Those of the small one are the same as in a race without the large one."""
    study = make("grid", {**LISTS, **STUDENTS}, "race")
    plan = Plan(study, play(study, of_student))
    small, large = finalists(plan.ledger)
    for pair, student in ((small, "small"), (large, "large")):
        assert [(s.run.student, s.is_baseline) for s in pair.states] == [
            (student, True),
            (student, False),
        ]
        assert len(final_differences(plan.ledger, pair)) == study.repeats
    by_student = active_configs(plan.ledger)
    assert list(by_student) == ["small", "large"]
    alive = [s for arms in by_student.values() for arm in arms for s in arm]
    assert {s.run.student for s in alive} == {"small", "large"}


def test_a_student_is_pruned_only_by_its_like() -> None:
    def flat(run: Run) -> list[float]:
        return [0.9 if run.student == "large" else 0.1] * run.epochs

    study = make("grid", {**LISTS, **STUDENTS}, "all", stop_early=True)
    plan = Plan(study, play(study, flat))
    assert not plan.pruned  # all configurations of a student are equal


def test_repeats_are_added_until_each_student_is_decided() -> None:
    def gain(run: Run) -> list[float]:
        """Distilling helps the large student; for the small one the effect is cancelled."""
        cancelled = 0.03 * run.alpha * (run.student == "small")
        return [acc + cancelled for acc in curve(run)]

    space = {"alpha": (0.1, 1.0), **STUDENTS}
    study = Study(run=RUN, space=space, until_decided=True, budget="120runs", repeats=4)
    plan = Plan(study, play(study, gain))
    lengths = {
        p.states[0].run.student: len(final_differences(plan.ledger, p))
        for p in finalists(plan.ledger)
    }
    assert lengths["large"] < lengths["small"] and not is_decided(plan.ledger)


def test_a_warm_start_knows_its_student(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    study = make("grid", {**LISTS, **STUDENTS}, "all")
    lines = play(study, of_student)
    monkeypatch.setattr("kdtune.planning.plan.read_study", lambda folder: study)
    monkeypatch.setattr("kdtune.planning.plan.read_lines", lambda *_: (lines, []))
    later = replace(make("random", {**RANGES, **STUDENTS}, "all"), warm_start=str(tmp_path))
    assert {run.student for run in best_of_other(later)} == {"small", "large"}
    only = replace(make("random", {**RANGES, "student": ("small",)}, "all"), warm_start="x")
    assert best_of_other(only)
