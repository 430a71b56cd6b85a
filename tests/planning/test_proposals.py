"""What the sampler suggests: laws, running trials, log-odds, losses, and the export to Optuna."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest
from play import Line, play, runs_of
from scipy.special import logit
from scipy.stats import kstest, uniform
from simulated_runs import LISTS, RANGES, RUN, curve, make

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.planning.ledger import Arm, Ledger
from kdtune.planning.plan import Plan
from kdtune.planning.proposals import ConfigSampler, export_for_optuna


def genetic(seed: int) -> optuna.samplers.NSGAIISampler:
    """Return a sampler whose state is partly in trials, their generation, as that of CMA-ES is."""
    return optuna.samplers.NSGAIISampler(population_size=2, seed=seed)


SAMPLERS = ["optuna.samplers:RandomSampler", "optuna.samplers:QMCSampler", f"{__name__}:genetic"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("search", ["random", "tpe", *SAMPLERS])
def test_a_seed_reproduces_the_suggestions(search: str) -> None:
    study = replace(make(search, RANGES, "all"), repeats=1)
    other = replace(study, run=replace(RUN, seed=1))
    suggested = runs_of(play(study, curve))
    assert suggested == runs_of(play(study, curve)) != runs_of(play(other, curve))


def test_inactive_temperature_is_not_reported_to_the_sampler() -> None:
    space = {"loss": ("mse", "kl"), "temperature": Range(1, 20), "alpha": Range(0, 1)}
    study = Study(run=RUN, search="tpe", samples=20, space=space, repeats=1)
    plan = Plan(study, play(study, curve))
    assert plan._sampler is not None
    baseline, distilled = (plan._sampler.arms[Arm(RUN.student, plain)] for plain in (True, False))
    done = [t for t in distilled.get_trials() if t.state.name == "COMPLETE"]
    assert len(done) == 19 and all(t.params == {} for t in baseline.get_trials())
    for trial in done:
        assert ("temperature" in trial.params) == (trial.params["loss"] == "kl")
        assert trial.params["alpha"] < 1


def test_baselines_have_their_share_and_a_finite_space_is_suggested_to_the_last() -> None:
    for share, count in ((0.25, 10), (0.5, 20), (0.01, 1), (0, 0)):
        study = Study(run=RUN, search="random", samples=40, plain_share=share, space=RANGES)
        plan = Plan(study)
        plan.next_run()
        assert sum(state.arm.is_baseline for state in plan.ledger.configs.values()) == count
    study = Study(run=RUN, search="tpe", samples=100, space=LISTS, repeats=1)
    lines = play(study, curve)
    grid = replace(study, search="grid")
    assert {c for c, _ in runs_of(lines)} == {run.config_id for run in grid.runs()}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("search", ["tpe", *SAMPLERS])
def test_suggestions_with_runs_in_flight_are_the_same_after_a_crash(search: str) -> None:
    """A plan rebuilt before each first start of a configuration suggests that configuration."""
    study = replace(make(search, RANGES, "race"), samples=20)
    lines = play(study, curve, width=3)
    known: set[str] = set()
    for at, line in enumerate(lines):
        if line["kind"] == "start" and line["config_id"] not in known:
            plan = Plan(study, lines[:at], concurrency=3)
            # the interrupted runs are restarted first
            run = next(run for run in iter(plan.next_run, None) if run.config_id not in known)
            assert run.config_id == line["config_id"]
            known.add(run.config_id)
    assert len(known) == 20
    if search == SAMPLERS[-1]:  # it goes beyond its first generation, which its trials hold
        trials = plan._sampler.arms[Arm(RUN.student, False)].get_trials()  # type: ignore[union-attr]
        assert {1, 2} <= {t.system_attrs.get("NSGAIISampler:generation") for t in trials}


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("nowhere:cma", "the sampler nowhere:cma cannot be imported: ModuleNotFoundError"),
        ("math:pi", "the sampler math:pi cannot be made: TypeError"),
        ("collections:Counter", r"--search collections:Counter must return .* returned Counter"),
    ],
)
def test_what_is_no_sampler_is_refused(search: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Plan(make(search, RANGES, "all"))


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


def test_random_samples_are_uniform_in_the_log_odds_and_short() -> None:
    """They are inside the range, and distinct near both ends."""
    study = replace(STUDY, search="random", samples=400)
    alphas = suggested(study, 300)
    assert p_uniform(alphas) > 0.01
    plain = replace(study, space={"alpha": Range(0.001, 0.999)})
    assert p_uniform(suggested(plain, 150)) < 1e-10  # the test can fail
    assert len(set(alphas)) == 300 and all(ODDS.low <= alpha <= ODDS.high for alpha in alphas)
    for alpha in alphas:
        digits = f"{alpha:.12f}".rstrip("0").partition(".")[2]
        rest = digits if alpha < 0.5 else digits.lstrip("9")
        assert len(rest.lstrip("0")) <= 3, alpha
        assert repr(alpha) == f"0.{digits}"
    assert sum(alpha < 0.01 for alpha in alphas) > 30 < sum(alpha > 0.99 for alpha in alphas)


def exported(study: Study, lines: list[Line]) -> optuna.Study:
    """Return the study as Optuna reads its export."""
    study.folder.mkdir(parents=True, exist_ok=True)
    file = export_for_optuna(study, [line | {"time": 1e9 + k} for k, line in enumerate(lines)])
    return optuna.load_study(study_name=study.name, storage=f"sqlite:///{file}")


def test_the_sampler_holds_log_odds_and_the_export_true_values(tmp_path: Path) -> None:
    study = replace(STUDY, plain_share=0.25, samples=8, repeats=1, out=str(tmp_path))
    sampler = ConfigSampler(study)
    run = sampler.suggest(1)
    assert run is not None
    (trial,) = [t for arm in sampler.arms.values() for t in arm.get_trials() if t.params]
    assert trial.params == {"alpha": pytest.approx(logit(run.alpha), rel=1e-12)}
    lines = play(study, curve)
    loaded = exported(study, lines)
    configs = {line["config_id"]: line["config"] for line in lines if line["kind"] == "start"}
    assert len(loaded.trials) == 8
    for done in loaded.trials:
        assert done.params["alpha"] == configs[done.user_attrs["config_id"]]["alpha"]
        # the baseline lies outside the range
        assert done.distributions["alpha"] == optuna.distributions.FloatDistribution(0.001, 1.0)


PAIRS = {"temperature": (1.0, 4.0), "teacher_temperature": (1.0, 4.0), "alpha": (0.5,)}


def test_equal_temperatures_are_one_configuration() -> None:
    runs = Study(run=RUN, space=PAIRS).runs()
    found = [(r.config["temperature"], r.config["teacher_temperature"]) for r in runs]
    assert found == [(1, None), (None, None), (1, 4), (4, 1), (4, None)]  # the second is alpha = 1
    same = {t: replace(RUN, temperature=t, teacher_temperature=t) for t in (1.0, 2.5, 4)}
    for temperature, run in same.items():
        alone = replace(RUN, temperature=temperature)
        assert (run.config, run.config_id) == (alone.config, alone.config_id)


def test_a_study_that_was_interrupted_makes_the_same_suggestions() -> None:
    """A None in the records is the value of temperature, whatever the base run has."""
    space = {**PAIRS, "alpha": Range(0, 0.9), "loss": ("kl", "mse", "nkd")}
    run = replace(RUN, teacher_temperature=9.0)
    study = Study(run=run, search="tpe", samples=14, repeats=1, space=space)
    lines, known = play(study, curve), set()
    for at, line in enumerate(lines):
        if line["kind"] == "start":
            plan = Plan(study, lines[:at])
            for state in plan.ledger.configs.values():
                assert state.run.config_id in known  # the records name what they hold
            suggestion = plan.next_run()
            assert suggestion is not None and suggestion.config_id == line["config_id"]
            known.add(suggestion.config_id)
    assert len(known) == 14


def test_optuna_reads_the_export(tmp_path: Path) -> None:
    study = replace(make("tpe", RANGES, "all"), out=str(tmp_path))
    lines = play(study, curve)
    loaded = exported(study, lines)
    assert loaded.direction == optuna.study.StudyDirection.MAXIMIZE
    ledger = Ledger(study)
    for line in lines:
        ledger.add_record(line)
    assert len(loaded.trials) == len(ledger.configs)
    for trial in loaded.trials:
        state = ledger.configs[trial.user_attrs["config_id"]]
        scores = list(state.scores.values())
        assert trial.value == pytest.approx(np.mean(scores))
        assert trial.user_attrs["sd"] == pytest.approx(np.std(scores, ddof=1))
        assert trial.user_attrs["n"] == 4
        assert [trial.user_attrs[f"repeat/{r}"] for r in range(4)] == scores
        assert trial.params["lr"] == state.run.lr and trial.params["alpha"] == state.run.alpha
        assert ("temperature" in trial.params) == (not state.arm.is_baseline)
        assert trial.duration is not None and trial.duration.total_seconds() > 0
    assert set(optuna.importance.get_param_importances(loaded)) >= {"lr", "alpha"}
    again = exported(study, lines)  # replaces the file, adds nothing to it
    assert len(again.trials) == len(loaded.trials)


def test_failed_and_pruned_configurations(tmp_path: Path) -> None:
    study = replace(make("grid", LISTS, "race", stop_early=True), out=str(tmp_path))

    def faulty(run: Run) -> list[float] | None:
        return None if run.lr == 1e-1 else curve(run)

    lines = play(study, faulty)
    ids = {line["config_id"] for line in lines if line.get("status") == "failed"}
    trials = exported(study, lines).trials
    failed = [t for t in trials if t.state == optuna.trial.TrialState.FAIL]
    assert {trial.user_attrs["config_id"] for trial in failed} == ids
    single = [t.user_attrs["sd"] for t in trials if t.user_attrs["n"] == 1]
    assert single and set(single) == {None}  # one repeat has no SD
