"""Bounds: every number has them on both sides, and what lies outside is refused at once."""

import math
import sys
import time
from typing import Any, get_args

import pytest

from kdtune.config.cli import (
    AnalysisFlags,
    ConvertFlags,
    ExportFlags,
    PredictFlags,
    ReportFlags,
    TableFlags,
)
from kdtune.config.fields import declarations
from kdtune.config.records import Limits
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError

OWNERS = (
    *(Run, Study, Limits, AnalysisFlags, ReportFlags, TableFlags),
    *(PredictFlags, ExportFlags, ConvertFlags),
)


def has_numbers(kind: Any) -> bool:
    """Return True if a type is a number, or is made of types that are."""
    return kind in (int, float) or any(map(has_numbers, get_args(kind)))


NUMBERS = [
    pytest.param(owner, name, id=f"{owner.__name__}.{name}")
    for owner in OWNERS
    for name, declared in declarations(owner).items()
    # study_values and baseline hold values of other fields, space is checked value by value
    if has_numbers(declared.kind) and name not in ("study_values", "baseline", "unless", "space")
]


@pytest.mark.parametrize(("owner", "name"), NUMBERS)
def test_every_number_has_bounds_on_both_sides(owner: type, name: str) -> None:
    setting = declarations(owner)[name].setting
    low = setting.above if setting.low is None else setting.low
    high = setting.below if setting.high is None else setting.high
    assert low is not None and high is not None, "give it low or above, and high or below"
    assert -(2**63) <= low < high < 2**63  # torch's, Arrow's and most other integers have 64 bits
    assert "e" not in setting.requirement.removeprefix("lie in").removeprefix("be")


def test_the_numbers_of_all_commands_are_covered() -> None:
    found = {param.values for param in NUMBERS}
    assert {(Run, "lr_step_size"), (Run, "teacher_mean"), (Study, "budget")} - found == {
        (Study, "budget")  # a text, with bounds of its own
    }
    assert len(found) > 50


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lr_step_size", 2**64),
        ("epochs", 99999999999999999999),
        ("lr", 1e308),
        ("weight_decay", 1e308),
        ("temperature", 1e-300),
        ("teacher_lr", 1e308),
        ("teacher_std", (1e-300,)),
        ("mixup", 1e308),
        ("seed", 2**63),
        ("batch_size", 10**400),
        ("lr", 10**400),
        pytest.param("lr", 10**5000, id="lr-with-5000-digits"),
        pytest.param("lr_milestones", (0.5, 10**5000), id="a-list-with-5000-digits"),
    ],
)
def test_numbers_that_no_run_survives_are_refused(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} must lie in .*, but got {name}=") as caught:
        Run(**{name: value})
    assert len(str(caught.value)) < 400  # also of a number with thousands of digits


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples", 10**9), ("cache_gb", 1e300), ("gpus", 10**20), ("gpus_per_trial", 1e-300)],
)
def test_numbers_of_a_study_are_bounded(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name} must lie in .*, but got {name}="):
        Study(**{name: value})


@pytest.mark.parametrize("budget", ["9" * 400 + "runs", "1e9h", "٣h", "0.0h"])
def test_a_budget_is_bounded(budget: str) -> None:
    with pytest.raises(InputError, match=r"^budget must be a number in \(0, 1000000000000\] with"):
        Study(budget=budget, until_decided=True)


def test_a_grid_is_counted_without_being_made() -> None:
    """A million configurations would take a quarter of an hour to make."""
    thousand = tuple(i / 1000 for i in range(1, 1001))
    begin = time.monotonic()
    with pytest.raises(InputError) as caught:
        Study(space={"lr": thousand, "alpha": thousand})
    assert time.monotonic() - begin < 5
    assert str(caught.value) == (
        "a grid must have at most 100000 configurations, but the lists have 1000000 (1000 * 1000); "
        "use --search random --samples N, or shorter lists"
    )
    assert Study(space={"lr": thousand, "alpha": thousand}, search="random").samples == 60


def test_the_runs_of_a_study_are_counted() -> None:
    with pytest.raises(InputError, match=r"at most 1000000 runs, but 100000 .* are 99900000;"):
        Study(space={"lr": (0.1, 0.2)}, search="random", samples=100_000, repeats=999)
    # repeats are only the maximum of a race
    Study(space={"lr": (0.1, 0.2)}, search="tpe", samples=100_000, repeats=999, policy="race")


def test_a_list_of_a_random_search_has_an_end() -> None:
    with pytest.raises(
        InputError, match=r"at most 100000 values, but one has 100001; give a range"
    ):
        Study(space={"lr": tuple(1 / i for i in range(1, 100_002))}, search="random")


@pytest.mark.parametrize(
    "ends", [(0, 2**63), (0.0, 1e301), (0, 10**400), (0.0, math.inf), (math.nan, 1.0), ("a", 1)]
)
def test_ends_of_a_range_are_finite_and_bounded(ends: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match=r"^a range must be LOW\.\.HIGH with LOW < HIGH, each of"):
        Range(*ends)


def test_a_range_obeys_the_bounds_of_its_field() -> None:
    with pytest.raises(InputError, match=r"^lr must lie in \(0, 1000000\], but got lr=2000000"):
        Study(space={"lr": Range(0.1, 2_000_000)}, search="random")


@pytest.mark.parametrize("value", [2**63, -(2**64), 1e301, math.nan, 10**400])
def test_numbers_of_a_training_function_are_bounded(value: float) -> None:
    with pytest.raises(InputError, match=r"^width must have finite numbers or texts as values"):
        Study(train="mine:train", space={"width": (1, value)}, metric="val/acc")
    with pytest.raises(InputError, match=r"^baseline: width must have finite numbers"):
        Study(train="mine:train", space={"width": (1, 2)}, baseline={"width": value})
    Study(train="mine:train", space={"width": (1, sys.maxsize, -1e300)})
