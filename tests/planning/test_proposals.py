"""Suggestions of the sampler: laws, and Optuna's own treatment of running trials."""

import math
from dataclasses import replace

import numpy as np
import pytest
from play import play, runs_of
from simulated_runs import LISTS, RANGES, RUN, curve, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.planning import proposals
from kdtune.planning.ledger import Arm
from kdtune.planning.plan import Plan
from kdtune.planning.proposals import ConfigSampler

DISTILLED = Arm(RUN.student, False)


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_seed_reproduces_the_suggestions(search: str) -> None:
    study = make(search, RANGES, "all")
    assert runs_of(play(study, curve)) == runs_of(play(study, curve))
    other = replace(study, run=replace(RUN, seed=1))
    assert runs_of(play(study, curve)) != runs_of(play(other, curve))


def test_inactive_temperature_is_not_reported_to_the_sampler() -> None:
    space = {"loss": ("mse", "kl"), "temperature": Range(1, 20), "alpha": Range(0, 1)}
    study = Study(run=RUN, search="tpe", samples=20, space=space)
    plan = Plan(study, play(study, curve))
    assert plan._sampler is not None
    baseline, distilled = (plan._sampler.arms[Arm(RUN.student, plain)] for plain in (True, False))
    done = [t for t in distilled.get_trials() if t.state.name == "COMPLETE"]
    assert len(done) == 19 and all(t.params == {} for t in baseline.get_trials())
    for trial in done:
        assert ("temperature" in trial.params) == (trial.params["loss"] == "kl")
        assert trial.params["alpha"] < 1


def test_baselines_have_their_share_of_the_suggestions() -> None:
    for share, count in ((0.25, 10), (0.5, 20), (0.01, 1), (0, 0)):
        study = Study(run=RUN, search="random", samples=40, plain_share=share, space=RANGES)
        plan = Plan(study)
        plan.next_run()
        assert sum(state.is_baseline for state in plan.ledger.configs.values()) == count


def test_a_finite_space_is_suggested_to_the_last() -> None:
    study = Study(run=RUN, search="tpe", samples=100, space=LISTS, repeats=1)
    lines = play(study, curve)
    grid = replace(study, search="grid")
    assert {c for c, _ in runs_of(lines)} == {run.config_id for run in grid.runs()}


# -- several suggestions in flight -----------------------------------------------------------------

TPE = Study(run=RUN, search="tpe", samples=200, plain_share=0, space=RANGES)


def informed() -> ConfigSampler:
    """Return a sampler that has the results of 30 configurations."""
    sampler = ConfigSampler(TPE)
    for number in range(30):
        run = sampler.suggest(number)
        assert run is not None
        sampler.report(run, curve(run)[-1])
    return sampler


def position(run: Run) -> np.ndarray:
    """Return alpha, lr and temperature in units of their ranges."""
    return np.array([run.alpha / 0.9, (math.log10(run.lr) + 4) / 4, (run.temperature - 1) / 19])


def spread(count: int) -> float:
    """Return the mean distance of as many suggestions that are in flight at the same time."""
    sampler = informed()
    points = [position(sampler.suggest(30 + k)) for k in range(count)]  # type: ignore[arg-type]
    pairs = [abs(a - b).sum() for i, a in enumerate(points) for b in points[:i]]
    return float(np.mean(pairs))


def test_suggestions_in_flight_keep_away_from_each_other(monkeypatch) -> None:
    """Against Optuna's TPE without constant_liar, which ignores running trials."""
    apart = spread(8)
    tpe = proposals.TPESampler
    monkeypatch.setattr(
        proposals, "TPESampler", lambda **options: tpe(**(options | {"constant_liar": False}))
    )
    assert apart > 1.1 * spread(8)


def test_a_running_configuration_moves_the_next_suggestion() -> None:
    """The same seeds suggest other points, on average further away from the running one."""
    sampler = informed()
    before = [sampler._ask(DISTILLED, seed) for seed in range(40)]
    assert [sampler._ask(DISTILLED, seed) for seed in range(40)] == before  # asking changes nothing
    running = before[0]
    sampler.add(running)
    after = [sampler._ask(DISTILLED, seed) for seed in range(40)]
    assert after[0] != running

    def distance(runs: list[Run]) -> float:
        return float(np.mean([abs(position(run) - position(running)).sum() for run in runs]))

    assert distance(after) > distance(before)


def test_suggestions_with_runs_in_flight_are_the_same_after_a_crash() -> None:
    """A plan rebuilt before each first start of a configuration suggests that configuration."""
    study = replace(make("tpe", RANGES, "race"), samples=40)
    lines = play(study, curve, width=3)
    known: set[str] = set()
    for at, line in enumerate(lines):
        if line["kind"] == "start" and line["config_id"] not in known:
            plan = Plan(study, lines[:at], concurrency=3)
            # the interrupted runs are restarted first
            run = next(run for run in iter(plan.next_run, None) if run.config_id not in known)
            assert run.config_id == line["config_id"]
            known.add(run.config_id)
    assert len(known) == 40
