"""Plans of training functions.

Reference: the plan of distillation, which decides the same for the same scores of the same
configurations; the plan of a metric to be maximised, for its negative to be minimised.
"""

from dataclasses import replace
from typing import Any

import pytest
from play import play, play_and_crash
from simulated_runs import LISTS, RANGES, RUN, curve

from kdtune.config.study import Study
from kdtune.config.task import BaseRun

UNLESS = {"loss": {"alpha": 1}}
Played = list[tuple[tuple[object, ...], int]]


def of_distillation(run: Any) -> Any:
    """Return the distillation run of a function's run, whose scores it has."""
    values = {name: run.value(name) for name in run.task.names}
    return replace(RUN, repeat=run.repeat).sample(**values)


def score(run: Any) -> list[float]:
    return curve(run if run.task.is_distillation else of_distillation(run))


def order(lines: list[dict[str, Any]], names: list[str]) -> Played:
    starts = [line for line in lines if line["kind"] == "start"]
    return [(tuple(line["config"][n] for n in names), line["repeat"]) for line in starts]


@pytest.mark.parametrize("policy", ["all", "race"])
@pytest.mark.parametrize("stop_early", [False, True])
def test_the_plan_is_that_of_distillation(policy: Any, stop_early: bool) -> None:
    shared = {"policy": policy, "stop_early": stop_early, "repeats": 4, "space": LISTS}
    distilling = Study(run=RUN, **shared)
    default = distilling.default
    assert default is not None
    own = Study(
        train="own_functions:wave",
        baseline={"alpha": 1.0},
        unless=UNLESS,
        epochs=RUN.epochs,
        **shared,
    )
    names = list(LISTS)
    ours, theirs = (order(play(study, score, width=3), names) for study in (own, distilling))
    # beside the finalists, the recipe's default runs final repeats; a function has no recipe
    known = tuple(default.config[n] for n in names)
    extra = [one for one in theirs if one not in ours]
    assert {config for config, _ in extra} <= {known}
    assert ours == [one for one in theirs if one not in extra]
    assert len(ours) > 15


@pytest.mark.parametrize("search", ["grid", "random", "tpe"])
def test_what_is_minimised_is_the_negative_of_what_is_maximised(search: Any) -> None:
    space: Any = LISTS if search == "grid" else RANGES

    def study(mode: Any) -> Study:
        return Study(
            train="own_functions:wave",
            space=space,
            baseline={"alpha": 1.0},
            mode=mode,
            epochs=RUN.epochs,
            search=search,
            samples=12,
            policy="race",
            stop_early=True,
            repeats=4,
        )

    def negative(run: BaseRun) -> list[float]:
        return [-value for value in score(run)]

    names = list(space)
    up, down = play(study("max"), score, width=2), play(study("min"), negative, width=2)
    assert order(up, names) == order(down, names)
    plain = [config[0] == 1 for config, repeat in order(up, names) if repeat == 0]
    assert True in plain and False in plain


def test_a_crash_after_every_line_changes_nothing() -> None:
    study = Study(
        train="own_functions:wave",
        space={"alpha": (0.1, 0.5, 1.0), "lr": (1e-3, 1e-2)},
        baseline={"alpha": 1.0},
        epochs=RUN.epochs,
        policy="race",
        repeats=3,
    )
    names = ["alpha", "lr"]
    assert order(play_and_crash(study, score), names) == order(play(study, score), names)
