"""Finalists and decisions of simulated studies with repeats "auto" and of races."""

import random
from dataclasses import replace

import numpy as np
import pytest
from play import Line, play, rest_of, start_of
from simulated_runs import LISTS, RUN, curve, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.planning.ledger import (
    decidable,
    describe_decision,
    final_differences,
    final_test,
    finalists,
    is_decided,
    phase_of,
    undecided,
)
from kdtune.planning.plan import Plan
from kdtune.raytune.progress import describe_end
from kdtune.statistics.tests import anytime_p


def test_repeats_auto_end_with_a_decision_or_the_budget() -> None:
    space = {"alpha": (0.1, 1.0)}
    study = Study(run=RUN, space=space, repeats=2, until_decided=True, budget="200runs")
    plan = Plan(study, play(study, curve))
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 60
    differences = final_differences(plan.ledger, finalists(plan.ledger)[0])
    assert anytime_p(differences) <= 0.05 < anytime_p(differences[:-1])

    small = replace(study, budget="10runs")
    assert Plan(small, play(small, curve)).ledger.cost.runs <= 10


@pytest.mark.parametrize("seed", range(8))
def test_runs_in_flight_at_the_decision_count_as_well(seed: int) -> None:
    """The study goes on where they undo the decision, and ends with one in any case."""
    space = {"alpha": (0.1, 1.0)}
    study = Study(run=RUN, space=space, repeats=2, until_decided=True, budget="2000runs")
    plan = Plan(study, play(study, noisy, width=8, seed=seed))
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 2000


def noisy(run: Run) -> list[float]:
    return [0.7 + 0.01 * random.Random(run.trial_id).gauss(0.5 * (run.alpha < 1), 1)] * 8


@pytest.mark.parametrize("baseline", [True, False])
def test_a_finalist_whose_final_run_failed_stays_one(baseline: bool) -> None:
    def failing(run: Run) -> list[float] | None:
        return None if run.repeat == 2003 and (run.alpha == 1) == baseline else curve(run)

    race, auto = (
        make("grid", LISTS, "race"),
        Study(run=RUN, space={"alpha": (0.1, 1.0)}, until_decided=True, budget="200runs"),
    )
    for study in (race, auto):
        plan = Plan(study, play(study, failing))
        whole = Plan(study, play(study, curve))
        (pair,), (wanted,) = finalists(plan.ledger), finalists(whole.ledger)
        assert pair.baseline is not None and wanted.baseline is not None
        assert pair.baseline.run == wanted.baseline.run
        states = plan.ledger.configs.values()
        ran = {s.run.config_id for s in states if any(phase_of(r) == "final" for r in s.status)}
        default = study.default.config_id  # a third one beside the finalists of the race
        assert ran == {s.run.config_id for s in pair.states} | {default}
        assert len(ran) == (3 if study is race else 2)
        finals = [r for r in pair.baseline.status if phase_of(r) == "final"]
        assert len(final_differences(plan.ledger, pair)) == len(finals) - 1
    assert is_decided(plan.ledger)


def scored(run: Run, score: float) -> list[Line]:
    """Return the records of a run with this accuracy in every epoch."""
    return [start_of(run), *rest_of(run, Plan(Study(run=RUN)), lambda _: [score] * run.epochs)]


def test_confirmation_decides_between_the_best_of_the_search() -> None:
    """By hand: a leads the search by 1 point, b the search and the confirmation together by 2.

    Repeats 0 and 1000 give a 0.80 and 0.70, b 0.79 and 0.75; c was not confirmed.
    """
    study = Study(run=RUN, space={"lr": (0.1, 0.2, 0.3)}, plain_share=0, policy="race", repeats=1)
    a, b, c = study.runs()
    lines = []
    for run, scores in ((a, (0.80, 0.70)), (b, (0.79, 0.75)), (c, (0.78,))):
        for repeat, score in zip((0, 1000), scores, strict=False):
            lines += scored(replace(run, repeat=repeat), score)
    assert [state.run.lr for state in finalists(Plan(study, lines).ledger)[0].states] == [0.2]
    unconfirmed = [line for line in lines if line["repeat"] == 0]
    assert [state.run.lr for state in finalists(Plan(study, unconfirmed).ledger)[0].states] == [0.1]


# -- new images ------------------------------------------------------------------------------------

AUTO = Study(run=RUN, space={"alpha": (0.1, 1.0)}, repeats=2, until_decided=True, budget="120runs")


def images_right(run: Run, gain: float, of_images: float) -> list[bool]:
    """Return predictions on 300 images; how much distilling helps differs from image to image."""
    rng = np.random.default_rng(5)
    easy, own = rng.normal(1, 1, 300), rng.normal(0, of_images, 300)
    if run.alpha < 1:
        easy = easy + own + gain
    noise = np.random.default_rng(random.Random(run.trial_id).getrandbits(32))
    return list(easy + noise.normal(0, 0.3, 300) > 0)


def played(gain: float, of_images: float, records_images: bool = True) -> Plan:
    def correct(run: Run) -> list[bool]:
        return images_right(run, gain, of_images)

    def curve(run: Run) -> list[float]:
        return [float(np.mean(correct(run)))] * run.epochs

    return Plan(AUTO, play(AUTO, curve, correct=correct if records_images else None))


def test_a_study_stops_where_its_images_cannot_decide_it() -> None:
    """Over repeats alone the same study is decided."""
    plan = played(0.7, 1.5)
    (pair,) = undecided(plan.ledger)
    assert decidable(plan.ledger) == [] and plan.is_done and not is_decided(plan.ledger)
    assert plan.ledger.cost.runs < 120
    test = final_test(plan.ledger, pair)
    assert test.images == 300 and test.p > 0.05 and test.is_undecidable(0.05)
    assert describe_end(plan).startswith("Not decided: 11 final repeats, always-valid p = 0.97. ")
    assert "More repeats cannot decide it with 300 val images: on these, a" in describe_end(plan)
    assert describe_decision(plan.ledger, pair).startswith("undecidable with these images (alw")
    alone = played(0.7, 1.5, records_images=False)
    (pair,) = finalists(alone.ledger)
    assert is_decided(alone.ledger) and final_test(alone.ledger, pair).images == 0


def test_a_difference_that_the_images_can_show_is_decided() -> None:
    plan = played(1.0, 0.3)
    assert is_decided(plan.ledger) and plan.ledger.cost.runs < 60
    (pair,) = finalists(plan.ledger)
    test, rows = final_test(plan.ledger, pair), final_differences(plan.ledger, pair)
    assert test.images == 300 and test.p <= 0.05 < anytime_p(rows[:2])
    assert describe_decision(plan.ledger, pair) == f"decided (always-valid p = {test.p:.2g})"


def test_records_without_correctness_are_judged_over_repeats_alone() -> None:
    """One final repeat of an older version is enough."""
    lines = play(AUTO, curve, correct=lambda run: images_right(run, 0, 1))
    final = next(line for line in lines if line.get("correct") and line["repeat"] == 2000)
    ledger = Plan(AUTO, lines).ledger
    assert final_test(ledger, finalists(ledger)[0]).images == 300
    del final["correct"]
    ledger = Plan(AUTO, lines).ledger
    test = final_test(ledger, finalists(ledger)[0])
    assert test.images == 0
    assert test.p == anytime_p(final_differences(ledger, finalists(ledger)[0]))
