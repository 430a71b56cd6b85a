"""Ranges on the log-odds scale: the law of their samples, restarts, and what Optuna is given."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from play import play, play_and_crash, runs_of
from scipy.special import logit
from scipy.stats import kstest, uniform
from simulated_runs import RUN, curve

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.planning.proposals import (
    ConfigSampler,
    export,
    parameter,
    searched_distribution,
    suggest,
)

ODDS = Range(0.001, 0.999, logit=True)
STUDY = Study(run=RUN, search="tpe", samples=30, plain_share=0, space={"alpha": ODDS})


def suggested(study: Study, count: int) -> list[float]:
    """Return the alphas that a sampler suggests first; the recipe's default is left out."""
    sampler = ConfigSampler(study)
    runs = [sampler.suggest(number) for number in range(count + 1)]
    return [run.alpha for run in runs[1:]]  # type: ignore[union-attr]


def p_uniform(alphas: list[float], values: Range = ODDS) -> float:
    """Return the p value of Kolmogorov and Smirnov's test against uniform log-odds."""
    low, high = logit(values.low), logit(values.high)
    return float(kstest(logit(alphas), uniform(low, high - low).cdf).pvalue)


def test_random_samples_are_uniform_in_the_log_odds() -> None:
    study = replace(STUDY, search="random", samples=400)
    assert p_uniform(suggested(study, 300)) > 0.01
    plain = replace(study, space={"alpha": Range(0.001, 0.999)})
    assert p_uniform(suggested(plain, 300)) < 1e-10  # the test can fail


def test_the_first_samples_of_tpe_are_uniform_in_the_log_odds() -> None:
    """TPE begins with 10 random ones, here of 30 seeds; the first of each study is the default."""
    seeds = (replace(STUDY, run=replace(RUN, seed=seed)) for seed in range(30))
    alphas = [alpha for study in seeds for alpha in suggested(study, 9)]
    assert p_uniform(alphas) > 0.01


def test_suggestions_are_short_inside_the_range_and_distinct_near_both_ends() -> None:
    study = replace(STUDY, search="random", samples=400)
    alphas = suggested(study, 300)
    assert len(set(alphas)) == 300 and all(ODDS.low <= alpha <= ODDS.high for alpha in alphas)
    for alpha in alphas:
        digits = f"{alpha:.12f}".rstrip("0").partition(".")[2]
        rest = digits if alpha < 0.5 else digits.lstrip("9")
        assert len(rest.lstrip("0")) <= 3, alpha
        assert repr(alpha) == f"0.{digits}"
    assert sum(alpha < 0.01 for alpha in alphas) > 30 < sum(alpha > 0.99 for alpha in alphas)


@pytest.mark.parametrize("ends", [(5e-324, 0.5), (0.5, 1 - 2**-53), (0.12345678, 0.12345679)])
def test_extreme_ends_are_kept(ends: tuple[float, float]) -> None:
    values = Range(*ends, logit=True)
    for end in ends:
        odds = parameter(values, end)
        fixed = optuna.trial.FixedTrial({"alpha": odds})
        assert values.low <= suggest(fixed, "alpha", values) <= values.high  # type: ignore[arg-type]
        assert searched_distribution(values)._contains(odds)


def peaked(run: Run) -> list[float]:
    """Return accuracies that are best at alpha = 0.004, by the distance in log-odds."""
    odds = logit(min(max(run.alpha, 1e-4), 1 - 1e-4))
    return [0.8 - 0.02 * abs(odds - logit(0.004))] * RUN.epochs


def test_tpe_finds_a_small_alpha_and_repeats_its_suggestions_after_crashes() -> None:
    study = replace(STUDY, repeats=1)
    lines = play(study, peaked)
    assert runs_of(play_and_crash(study, peaked)) == runs_of(lines)
    alphas = [line["config"]["alpha"] for line in lines if line["kind"] == "start"]
    near = [abs(logit(alpha) - logit(0.004)) < 1 for alpha in alphas[15:]]
    assert np.mean(near) > 2 * 2 / (logit(0.999) - logit(0.001))  # twice what chance gives


def test_the_sampler_holds_log_odds_and_the_export_true_values(tmp_path: Path) -> None:
    study = replace(STUDY, plain_share=0.25, samples=8, repeats=1, out=str(tmp_path))
    sampler = ConfigSampler(study)
    run = sampler.suggest(1)
    assert run is not None
    (trial,) = [t for arm in sampler.arms.values() for t in arm.get_trials() if t.params]
    assert trial.params == {"alpha": pytest.approx(logit(run.alpha), rel=1e-12)}
    study.folder.mkdir(parents=True)
    lines = [line | {"time": 1e9 + k} for k, line in enumerate(play(study, curve))]
    loaded = optuna.load_study(study_name=study.name, storage=f"sqlite:///{export(study, lines)}")
    configs = {line["config_id"]: line["config"] for line in lines if line["kind"] == "start"}
    assert len(loaded.trials) == 8
    for done in loaded.trials:
        assert done.params["alpha"] == configs[done.user_attrs["config_id"]]["alpha"]
        # the baseline lies outside the range
        assert done.distributions["alpha"] == optuna.distributions.FloatDistribution(0.001, 1.0)
