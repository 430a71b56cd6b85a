"""What students cost beside what they achieve: frames, frontier, limits, which one to take."""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from study_folders import at, cost, draw, make, make_final, trials_of, write_predictions

import kdtune
from kdtune.config.cli import ComparisonFlags
from kdtune.config.records import Limits, write_costs
from kdtune.config.text import InputError
from kdtune.results.comparison import Criterion, Judged, contenders
from kdtune.results.costs import best_within, cost_frame, cost_text, frontier, pareto
from kdtune.results.design import Design
from kdtune.results.results import Results, criterion_of
from kdtune.results.words import choice_text
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


# Which one to take.

FAR, NEAR = 0.10, 0.001
"""Behind the best, in a study whose differences have an SD of 0.014 over 8 repeats."""


def said(results: Results, criterion: Criterion | None = None) -> str:
    criterion = criterion or results.criterion()
    return choice_text(results.contenders(criterion), criterion, results.design)


def states(results: Results, criterion: Criterion | None = None) -> list[str]:
    """Return "best" for those that may be, "!" for the cheapest, "?" for those not compared."""
    return [
        "best" * row.may_be_best + "!" * row.cheapest + "?" * pd.isna(row.p_best)
        for row in results.contenders(criterion).itertuples()
    ]


def test_the_cheapest_of_those_that_may_be_the_best(tmp_path) -> None:
    """Of the students the faster one; of one student training without a teacher, then the mean."""
    small, large = (partial(at, student=student) for student in (SMALL, LARGE))
    last = draw({large(0.5): 0.0, large(1.0): -FAR, small(0.5): -NEAR, small(0.1): -FAR}, 8)
    made = make(tmp_path, last)
    write_costs(tmp_path, [cost(SMALL, ms=0.5), cost(LARGE, ms=3.0)])
    table = (made := kdtune.load(tmp_path)).contenders()
    assert table.may_be_best.tolist() == [True, True, False, False]
    cheapest = table[table.cheapest].iloc[0]
    assert (cheapest["config/student"], cheapest["config/alpha"]) == (SMALL, 0.5)
    assert cheapest.latency_ms == 0.5 and table.p_best.sum() == exact(1)
    text = said(made)
    assert "of 4 configurations 2 are not distinguishable from the best" in text
    assert "n = 8 repeats)" in text and text.endswith(" (0.5 ms).") and text in made.text()
    within = made.criterion(limits=Limits(max_ms=1.0))
    assert states(made, within) == ["best!", ""]
    assert "of 2 configurations only" in said(made, within)


@pytest.mark.parametrize(
    ("effects", "cheapest", "part"),
    [
        (
            {0.5: 0.0, 0.1: -NEAR, 1.0: -2 * NEAR},
            1.0,
            "is alpha = 1 (no teacher needed; its mean is 0.7 percentage points from the best).",
        ),
        ({0.5: 0.0, 0.1: -NEAR, 1.0: -FAR}, None, "; they cost the same, and alpha = 0."),
        ({0.5: 0.0, 0.1: -FAR, 1.0: -FAR}, 0.5, "only alpha = 0.5 is not distinguishable"),
    ],
)
def test_of_one_student(tmp_path, effects: dict, cheapest: float | None, part: str) -> None:
    made = make(tmp_path, draw(effects, 8, seed=5))
    table = made.contenders()
    assert part in said(made)
    assert table["config/alpha"][table.cheapest].item() == (cheapest or table["config/alpha"][0])
    write_predictions(made)
    images = kdtune.load(tmp_path)
    assert "n = 8 repeats × 500 images" in said(images)
    assert images.contenders().may_be_best.sum() >= table.may_be_best.sum()


def test_a_margin_of_practical_equality(tmp_path) -> None:
    made = make(tmp_path, draw({0.5: 0.0, 1.0: -0.03}, 8))
    for equal, want in ((0.0, ["best!", ""]), (0.5, ["best!", ""]), (5.0, ["best", "best!"])):
        criterion = criterion_of(ComparisonFlags((str(tmp_path),), equal=equal), made)
        assert states(made, criterion) == want and criterion.equal == exact(equal / 100)
        margin = f", margin {equal} percentage points, n = 8"
        assert (margin in said(made, criterion)) == (equal > 0)
    flags = ComparisonFlags((str(tmp_path),), metric="ce", equal=0.5)
    assert criterion_of(flags, made).equal == 0.5  # nats
    with pytest.raises(InputError, match=r"equal must be above 0 and below 100 .*, but got 200"):
        made.criterion(equal=2)


def test_configurations_that_were_stopped_or_lack_repeats(tmp_path) -> None:
    """The study's own test has excluded the former; the latter cannot be excluded."""
    last = draw({0.5: 0.0, 0.3: -0.02, 0.1: -NEAR, 1.0: -NEAR}, 8, 5)
    few = last | {0.3: [0.5], 0.1: last[0.1][:2]}
    made = make(tmp_path / "pruned", few, {(0.3, 0): "pruned"}, stop_early=True)
    assert sorted(states(made)) == ["?", "best", "best!", "best?"]
    assert "; the search stopped 1; 1 more cannot be excluded, for lack of" in said(made)
    final = {0.5: last[0.5][:3], 1.0: last[1.0][:3]}
    raced = make_final(tmp_path / "raced", few, final, policy="race")
    assert sorted(states(raced)) == ["?", "?", "best", "best!"]
    assert "of 4 configurations 2 are" in said(raced) and "stopped 2" in said(raced)
    # the race of training without distillation ended early, with one configuration left
    early = make_final(tmp_path / "early", few | {1.0: last[1.0][:3]}, final, policy="race")
    assert sorted(states(early)) == ["?", "?", "best!", "best?"]
    two = make(tmp_path / "two", {alpha: accs[:2] for alpha, accs in last.items()})
    assert said(two) == "" and states(two) == ["best?"] * 4


@pytest.mark.parametrize(
    ("design", "n", "size"), [(Design(teachers=3), 3, 2), (Design(folds=3), 6, 2), (Design(), 6, 1)]
)
def test_the_design_of_the_repeats_counts(design: Design, n: int, size: int) -> None:
    """A difference that is clear over 6 repeats is not over 3 teachers, or overlapping folds."""
    trials = trials_of(draw({0.5: 0.0, 1.0: -0.012}, 6, 5)).assign(n_epochs_planned=3, seconds=1.0)
    table = contenders(Judged(trials, Criterion(), design=design))
    assert table.may_be_best.sum() == size and table.n_units.tolist() == [n, n]
