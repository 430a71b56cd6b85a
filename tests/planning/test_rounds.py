"""Rounds of final repeats: finalists that are fixed before them, on simulated studies.

References: laws (what final repeats say changes no finalist; no two rounds share a repeat), and a
simulation with equal true accuracies, in which an unbiased estimate has a mean error of 0.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
from play import Line, play, runs_of
from simulated_runs import LISTS, RANGES, RUN, curve, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.planning.ledger import current_round, final_differences, finalists, phase_of
from kdtune.planning.plan import Plan
from kdtune.storage.records import Round

RACE = make("grid", LISTS, "race")
AUTO = Study(run=RUN, space={"alpha": (0.1, 1.0)}, until_decided=True, budget="16runs", repeats=2)


def rounds_of(lines: list[Line]) -> list[Round]:
    return [Round.from_line(line) for line in lines if line["kind"] == "finalists"]


def final_runs(lines: list[Line]) -> set[tuple[str, int]]:
    return {(config, r) for config, r in runs_of(lines) if phase_of(r) == "final"}


def reversed_in_finals(run: Run) -> list[float]:
    """Return accuracies of which the final ones say the contrary of all others."""
    scores = curve(run)
    return [1 - score for score in scores] if phase_of(run.repeat) == "final" else scores


@pytest.mark.parametrize("study", [RACE, AUTO])
def test_the_record_comes_first_and_the_finals_change_nothing(study: Study) -> None:
    lines, contrary = play(study, curve, 3), play(study, reversed_in_finals, 3)
    (round_,) = rounds_of(lines)
    assert rounds_of(contrary) == [round_]
    kinds = [line["kind"] for line in lines if line.get("phase", "final") == "final"]
    assert kinds.index("finalists") < kinds.index("start")
    entrants = round_.finalists | {study.default.config_id}
    assert {config for config, _ in final_runs(lines)} == entrants
    pair = finalists(Plan(study, contrary).ledger)[0]
    assert {state.run.config_id for state in pair.states} == round_.finalists
    distilled = pair.distilled
    assert distilled is not None and round_.ranking[0] == distilled.run.config_id


def test_a_study_that_is_extended_begins_another_round_on_other_repeats() -> None:
    lines = play(RACE, curve)
    more = replace(RACE, repeats=6)  # more confirmation, so the finalists may change
    extended = play(more, curve, lines=lines)
    first, second = rounds_of(extended)
    assert (first.number, first.first_repeat) == (0, 2000)
    assert (second.number, second.first_repeat) == (1, 2004)
    new = final_runs(extended) - final_runs(lines)
    assert {repeat for _, repeat in new} == set(range(2004, 2010))
    ledger = Plan(more, extended).ledger
    assert len(final_differences(ledger, finalists(ledger)[0])) == 6
    assert play(more, curve, lines=extended) == extended  # nothing is left


def test_more_final_repeats_alone_go_on_with_the_round() -> None:
    short = play(AUTO, lambda run: [0.7] * 8)  # never decided
    (round_,) = rounds_of(short)
    long = play(replace(AUTO, budget="30runs"), lambda run: [0.7] * 8, lines=short)
    assert rounds_of(long) == [round_] and len(final_runs(long)) == len(final_runs(short)) + 14


def test_a_dropped_run_does_not_change_the_finalists() -> None:
    lines = play(RACE, curve)
    (round_,) = rounds_of(lines)
    best = {"config_id": round_.ranking[0], "repeat": 0, "trial_id": f"{round_.ranking[0]}-r00"}
    ledger = Plan(RACE, [*lines, {"kind": "drop", **best}]).ledger
    assert current_round(ledger) == round_
    assert round_.ranking[0] in {s.run.config_id for s in finalists(ledger)[0].states}


def test_finals_of_older_versions_go_on_without_a_record() -> None:
    """Their search may have been extended between two final repeats."""
    lines = [line for line in play(RACE, curve) if line["kind"] != "finalists"]
    default = RACE.default.config_id
    old = [
        line
        for line in lines
        if (line["config_id"], phase_of(line["repeat"])) != (default, "final")
    ]
    assert Plan(RACE, old).is_done and play(RACE, curve, lines=old) == old
    assert not Plan(RACE, old[:-8]).ledger.round.is_recorded  # type: ignore[union-attr]
    (round_,) = rounds_of(play(replace(RACE, repeats=6), curve, lines=old))
    assert (round_.number, round_.first_repeat) == (1, 2004)


def equal(run: Run) -> list[float]:
    """Return an accuracy whose mean over repeats is 0.8 for every configuration."""
    return [0.8 + 0.01 * random.Random(f"{run.seed} {run.trial_id}").gauss(0, 1)]


def test_the_named_best_is_not_optimistic_where_the_better_final_mean_is() -> None:
    """All true accuracies are 0.8; the noise of a mean over 2 repeats has an SD of 0.7 points."""
    own, better = [], []
    for seed in range(100):
        run = replace(RUN, epochs=1, seed=seed)
        study = Study(run=run, space={"alpha": (0.1, 1.0)}, policy="race", repeats=2)
        ledger = Plan(study, play(study, equal)).ledger
        assert ledger.round is not None
        means = {
            c: np.mean([s for r, s in ledger.configs[c].scores.items() if r >= 2000])
            for c in ledger.round.ranking
        }
        own.append(means[ledger.round.ranking[0]] - 0.8)
        better.append(max(means.values()) - 0.8)
    error = np.std(own) / np.sqrt(len(own))
    assert abs(np.mean(own)) < 3 * error
    assert np.mean(better) > 4 * error  # 0.4 points: SD / sqrt(pi)


# -- the default -----------------------------------------------------------------------------------


def test_the_default_is_the_run_where_the_space_allows_it() -> None:
    run = Run(alpha=0.5, lr=1e-3, temperature=4, loss="kl")
    space = {"alpha": (0.1, 0.9), "lr": Range(1e-2, 1.0, log=True), "loss": ("mse", "kl")}
    default = Study(run=run, space=space, search="random").default
    assert (default.alpha, default.lr, default.loss, default.temperature) == (0.1, 1e-2, "kl", 4)
    grid = Study(run=run, space={"alpha": (0.5, 1.0), "temperature": (1.0, 2.0)})
    assert grid.default.config_id in {r.config_id for r in grid.runs()}
    assert (grid.default.alpha, grid.default.temperature) == (0.5, 1.0)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_the_default_is_the_first_of_its_arm(search: str) -> None:
    study = make(search, RANGES, "all")
    lines = play(study, curve)
    order = list(dict.fromkeys(config for config, _ in runs_of(lines)))
    assert order[1] == study.default.config_id  # the first one is a baseline
    older = [line for line in lines if line["config_id"] != order[1]]  # without it, and unfinished
    resumed = [runs_of(play(study, curve, lines=older[:60])) for _ in range(2)]
    assert resumed[0] == resumed[1] and study.default.config_id in {c for c, _ in resumed[0]}
