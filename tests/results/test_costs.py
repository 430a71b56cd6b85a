"""What students cost beside what they achieve: frames, frontier, the best within limits."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_folders import at, cost, trials_of

from kdtune.config.records import Limits
from kdtune.results.comparison import Criterion
from kdtune.results.costs import best_within, cost_frame, cost_text, frontier, pareto
from kdtune.storage.records import FinalPair, Round

exact = pytest.approx
SMALL, LARGE, TEACHER = "pkg:small", "pkg:large", "pkg:teacher"
COSTS = cost_frame(
    [
        cost(LARGE, params=90_000, ms=3.0),
        cost(SMALL, params=1_000, ms=0.5),
        cost(TEACHER, "teacher", params=500_000, ms=20.0),
    ]
)


def two_students() -> pd.DataFrame:
    """Return trials of two students."""
    begun = (("student", LARGE),)
    small, large = (partial(at, student=student, study_values=begun) for student in (SMALL, LARGE))
    last = {
        small(0.5): [0.70, 0.72],
        small(0.1): [0.69, 0.69],
        small(1.0): [0.60, 0.60],
        large(0.5): [0.79, 0.81],
        large(1.0): [0.80, 0.84],
    }
    trials = trials_of(last).assign(phase="search")
    return trials.assign(**{"test/acc@last": trials["val/acc@last"] - 0.1})


def within(criterion: Criterion, trials: pd.DataFrame | None = None) -> str:
    phases = [two_students() if trials is None else trials]
    return best_within(phases, COSTS, criterion, criterion.limits, ["alpha", "student"])


def test_a_number_that_was_not_measured_is_a_dash() -> None:
    unknown = replace(cost(SMALL), flops=None, latency_ms_iqr=None, latency32_ms=None)
    _, table, note = cost_text(cost_frame([unknown, cost(LARGE)]), [])
    cells = [line.replace(" ", "").split("|")[-4:-1] for line in table.splitlines()[2:]]
    assert cells == [["-", "0.25", "-"], ["745k", "0.250(IQR0.013)", "2"]]
    assert '("-": the measurement would have taken more than a second)' in note
    assert '"-"' not in cost_text(COSTS, [])[-1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_frontier_against_brute_force(points: list[tuple[int, int]]) -> None:
    want = []
    for c, v in points:
        beaten = False
        for other_c, other_v in points:
            if other_c <= c and other_v >= v and (other_c, other_v) != (c, v):
                beaten = True
        want.append(not beaten)
    costs, values = zip(*points, strict=True)
    assert list(pareto(costs, values)) == want


def test_the_best_of_each_student_with_and_without_distillation() -> None:
    table = frontier(two_students(), COSTS, Criterion(), ["alpha"])
    assert list(table.student) == [SMALL, SMALL, LARGE, LARGE]  # cheapest first
    assert list(table.arm) == ["distilled", "plain"] * 2
    assert list(table.label) == ["alpha = 0.5", "alpha = 1"] * 2
    assert list(table["mean"]) == exact([0.71, 0.60, 0.80, 0.82])
    assert table.low.isna().all() and table.high.isna().all()  # of two repeats
    assert list(table.n) == [2, 2, 2, 2]
    assert list(table.latency_ms) == [0.5, 0.5, 3.0, 3.0]
    assert list(table["efficient/latency_ms"]) == [True, False, False, True]
    assert list(table["efficient/params"]) == [True, False, False, True]


@pytest.mark.parametrize(
    ("limits", "parts", "absent"),
    [
        (Limits(2.0), ("pkg:small (0.5 ms", "alpha = 0.5", "Excluded by cost: pkg:large"), "spans"),
        (Limits(3.2), ("pkg:large (3 ms",), "spans"),
        # the ends count; the interquartile range of 3 ms is 0.15 ms
        (Limits(3.0, 90_000), (": pkg:large (", "alpha = 1; validation accuracy 82"), "Excluded"),
        (Limits(2.9), ("cost: pkg:large (3 ms with an interquartile range of 0.15,",), ""),
        (Limits(3.1), ("pkg:large (3 ms with an interquartile range of 0.15, which spans",), ""),
        (Limits(0.1, 10), ("No student has a latency", "pkg:small (0.5 ms, 1,000 param"), "Best"),
    ],
)
def test_the_best_student_within_limits(limits: Limits, parts: tuple, absent: str) -> None:
    text = within(Criterion(limits=limits))
    assert all(part in text for part in parts), text
    assert not absent or absent not in text


def test_a_student_without_a_cost_or_a_run_is_not_chosen() -> None:
    trials = two_students()
    of_large = trials["config/student"] == LARGE
    text = within(Criterion(limits=Limits(max_params=5_000)), trials[of_large])
    assert text.startswith("No run of a student with at most 5,000 parameters has completed yet.")
    trials.loc[of_large, "config/student"] = "pkg:new"
    text = within(Criterion(limits=Limits(10.0)), trials)
    assert ": pkg:small (" in text and text.endswith("Excluded by cost: pkg:new (not measured).")


def test_finalists_count_if_one_is_within_else_the_search() -> None:
    trials = two_students()
    of_large = trials[trials["config/student"] == LARGE].assign(phase="final")
    cheap, dear = Limits(2.0), Limits(max_params=10**6)
    text = best_within([of_large, trials], COSTS, Criterion(), cheap, ["alpha"])
    assert "pkg:small (0.5 ms" in text and "optimistic" in text
    text = best_within([of_large, trials], COSTS, Criterion(), dear, ["alpha"])
    assert "pkg:large (3 ms" in text and "with alpha = 1;" in text and "optimistic" in text
    plain, distilled = (of_large.config_id[of_large["config/alpha"] == a].iloc[0] for a in (1, 0.5))
    pair = FinalPair(student=LARGE, baseline=plain, distilled=distilled)
    recorded = Round(0, 2000, (pair,), (distilled, plain))
    text = best_within([of_large, trials], COSTS, Criterion(), dear, ["alpha"], recorded)
    assert "with alpha = 0.5;" in text and "held-out repeats" in text
