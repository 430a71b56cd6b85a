"""The loss searched together with the hyperparameters of each loss, and both temperatures.

Reference: a table of the hyperparameters of each loss, written here by hand from the formulas.
"""

from dataclasses import replace

import pytest
from play import play, runs_of
from simulated_runs import RUN, curve

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.planning.plan import Plan
from kdtune.planning.proposals import _trial

SOFTENED = {"temperature", "teacher_temperature"}
TAKEN = {
    "kl": SOFTENED,
    "mse": set(),
    "dkd": SOFTENED | {"dkd_alpha", "dkd_beta"},
    "ls": SOFTENED,
    "dist": SOFTENED | {"dist_beta", "dist_gamma"},
    "nkd": SOFTENED | {"nkd_gamma"},
    "kl+dist": SOFTENED | {"dist_beta", "dist_gamma", "loss_weight"},
    "mse+mine:f": SOFTENED
    | {"dkd_alpha", "dkd_beta", "dist_beta", "dist_gamma", "nkd_gamma", "loss_weight"},
}
RANGES = {
    **{"temperature": Range(1, 20, log=True), "teacher_temperature": Range(1, 20, log=True)},
    **{"dkd_alpha": Range(0, 2), "dkd_beta": Range(0, 8), "dist_beta": Range(0, 4)},
    **{"dist_gamma": Range(0, 4), "nkd_gamma": Range(0, 3), "loss_weight": Range(0.1, 10)},
}
SPACE = {"loss": tuple(TAKEN), "alpha": Range(0, 0.9), **RANGES}
PAIRS = {"temperature": (1.0, 4.0), "teacher_temperature": (1.0, 4.0), "alpha": (0.5,)}


def suggested(study: Study) -> list[Run]:
    """Return the configurations that a study runs, each once."""
    plan = Plan(study, play(study, curve))
    return [state.run for state in plan.ledger.configs.values()]  # type: ignore[misc]


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_each_loss_has_its_own_hyperparameters(search: str) -> None:
    run = replace(RUN, teacher_temperature=2.0)  # the default, which is always suggested
    study = Study(run=run, search=search, samples=60, plain_share=0.1, repeats=1, space=SPACE)
    runs = suggested(study)
    assert {run.loss for run in runs if run.alpha != 1} == set(TAKEN)
    for run in runs:
        taken = set() if run.alpha == 1 else TAKEN[run.loss]
        assert {name for name in RANGES if run.config[name] is not None} == taken, run.loss
        for name in taken:
            assert RANGES[name].low <= run.config[name] <= RANGES[name].high


def test_equal_temperatures_are_one_configuration() -> None:
    runs = Study(run=RUN, space=PAIRS).runs()
    found = [(r.config["temperature"], r.config["teacher_temperature"]) for r in runs]
    assert found == [(1, None), (None, None), (1, 4), (4, 1), (4, None)]  # the second is alpha = 1
    same = {t: replace(RUN, temperature=t, teacher_temperature=t) for t in (1.0, 2.5, 4)}
    for temperature, run in same.items():
        alone = replace(RUN, temperature=temperature)
        assert (run.config, run.config_id) == (alone.config, alone.config_id)


def test_a_study_of_one_temperature_keeps_its_configurations() -> None:
    old = Study(run=RUN, space={"temperature": (1.0, 4.0)})
    wide = replace(old, space={**PAIRS, "teacher_temperature": (1.0, 2.0, 4.0)})
    assert wide.covers(old)
    assert {run.config_id for run in old.runs()} < {run.config_id for run in wide.runs()}
    assert not old.has_effect("teacher_temperature") and wide.has_effect("teacher_temperature")


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_a_search_finds_each_pair_of_temperatures_once(search: str) -> None:
    study = Study(run=RUN, search=search, samples=20, plain_share=0, repeats=1, space=PAIRS)
    lines = play(study, curve)
    grid = replace(study, search="grid")
    assert {c for c, _ in runs_of(lines)} == {r.config_id for r in grid.runs()}


@pytest.mark.parametrize(
    ("search", "run"), [("random", RUN), ("tpe", replace(RUN, teacher_temperature=9.0))]
)
def test_a_study_that_was_interrupted_makes_the_same_suggestions(search: str, run: Run) -> None:
    """A None in the records is the value of temperature, whatever the base run has."""
    space = {**PAIRS, "alpha": Range(0, 0.9), "loss": ("kl", "mse", "nkd")}
    study = Study(run=run, search=search, samples=15, repeats=1, space=space)
    lines, known = play(study, curve), set()
    for at, line in enumerate(lines):
        if line["kind"] == "start":
            plan = Plan(study, lines[:at])
            for state in plan.ledger.configs.values():
                assert state.run.config_id in known  # the records name what they hold
            suggestion = plan.next_run()
            assert suggestion is not None and suggestion.config_id == line["config_id"]
            known.add(suggestion.config_id)
    assert len(known) == 15


def test_the_default_has_the_temperature_nearest_to_the_students() -> None:
    study = Study(run=RUN, search="random", space={"teacher_temperature": Range(5, 9)})
    default = study.default
    assert default is not None and default.config["teacher_temperature"] == 5  # RUN has T = 4
    grid = Study(run=RUN, space={"teacher_temperature": (1.0, 4.0)})
    assert grid.default.config["teacher_temperature"] is None  # type: ignore[union-attr]


def test_optuna_sees_the_temperature_in_place_of_none() -> None:
    study = Study(run=RUN, space=PAIRS, repeats=1)
    plan = Plan(study, play(study, curve))
    trials = [_trial(study, state, [0.0]) for state in plan.ledger.by_row]
    pairs = {tuple(t.params[n] for n in PAIRS if n in t.params) for t in trials}
    assert pairs == {(1, 1, 0.5), (1, 4, 0.5), (4, 1, 0.5), (4, 4, 0.5), (1,)}


def test_none_is_no_value_of_a_space() -> None:
    words = "teacher_temperature must be searched among numbers, but got None; .* temperature"
    with pytest.raises(InputError, match=words):
        Study(space={"teacher_temperature": (None, 1.0)})  # type: ignore[dict-item]
    with pytest.raises(InputError, match="teacher_temperature is searched, but has no effect in"):
        Study(run=Run(loss="mse"), space={"teacher_temperature": (1.0, 4.0)})
    with pytest.raises(InputError, match="loss_weight is searched, but has no effect in any"):
        Study(space={"loss_weight": (1.0, 4.0), "loss": ("kl", "mine:f")})
