"""Declarations of fields, effects and ids of hyperparameters.

References: bounds by hand, ids that version 0.1 gave, the signatures of the losses, and the law
that a new hyperparameter changes no id.
"""

import inspect
import sys
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, get_args

import pytest

from kdtune.analysis import AnalysisFlags, TableFlags
from kdtune.config.fields import (
    LOSSES,
    OPTIMIZERS,
    Bounds,
    Hyperparameter,
    Setting,
    check_fields,
    declarations,
    docstrings,
    keyword_parameters,
    searchable,
    teacher_recipe,
)
from kdtune.config.records import Limits
from kdtune.config.run import DISTILLATION, HYPERPARAMETERS, Run, complete
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.convert import ConvertFlags
from kdtune.export import ExportFlags
from kdtune.predict import PredictFlags
from kdtune.report import ReportFlags
from kdtune.training.losses import OBJECTIVES

READING = (AnalysisFlags, ReportFlags, TableFlags)
OWNERS = (Run, Study, Limits, *READING, PredictFlags, ExportFlags, ConvertFlags)


@pytest.mark.parametrize(
    ("bounds", "words", "inside", "outside"),
    [
        (Bounds(low=0, high=1), "lie in [0, 1]", (0, 0.5, 1), (-0.1, 1.1)),
        (Bounds(low=0, below=1), "lie in [0, 1)", (0, 0.9), (-0.1, 1)),
        (Bounds(above=0, high=1), "lie in (0, 1]", (0.1, 1), (0, 1.1)),
        (Bounds(above=1e-6, below=10**6), "lie in (0.000001, 1000000)", (0.1,), (1e-6, 10**6)),
        (Bounds(), "", (-1e9, 1e9), ()),
    ],
)
def test_bounds(bounds: Bounds, words: str, inside: tuple, outside: tuple) -> None:
    assert bounds.requirement == words
    assert all(map(bounds.allows, inside)) and not any(map(bounds.allows, outside))


def has_numbers(kind: Any) -> bool:
    """Return True if a type is a number, or is made of types that are."""
    return kind in (int, float) or any(map(has_numbers, get_args(kind)))


@pytest.mark.parametrize("owner", OWNERS)
def test_every_number_has_bounds_on_both_sides(owner: type) -> None:
    for name, declared in declarations(owner).items():
        # study_values and baseline hold values of other fields, space is checked value by value
        if name in ("study_values", "baseline", "unless", "space"):
            continue
        if has_numbers(declared.kind):
            bounds = declared.bounds
            low = bounds.above if bounds.low is None else bounds.low
            high = bounds.below if bounds.high is None else bounds.high
            assert low is not None and high is not None, name
            assert -(2**63) <= low < high < 2**63  # most integers have 64 bits


@dataclass(frozen=True)
class Example:
    """Fields of every kind that is checked."""

    whole: Annotated[int, Bounds(low=1, high=9)] | None = None
    """A whole number."""
    real: float = 0.5
    """A number that
    may be whole."""
    word: Literal["a", "b"] | None = "a"
    flag: bool = False
    text: str = ""
    path: Annotated[str, Setting(place=True)] = "x"
    several: tuple[Annotated[float, Bounds(low=0, high=1)], ...] = (0.5,)
    other: Any = None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("whole", 0, "whole must lie in [1, 9], but got whole=0"),
        ("whole", 1.0, "whole must be a whole number, but got whole=1.0"),
        ("whole", True, "whole must be a whole number, but got whole=True"),
        ("whole", 10**400, "whole must lie in [1, 9], but got whole=1000"),
        ("real", float("nan"), "real must be a finite number, but got real=nan"),
        ("real", None, "real must be a finite number, but got real=None"),
        ("real", True, "real must be a finite number"),
        ("word", "c", "word must be one of a, b, but got word='c'"),
        ("flag", 1, "flag must be True or False, but got flag=1"),
        ("text", 1, "text must be text, but got text=1"),
        ("text", "\x1b[2J", "text must be UTF-8 text without control"),
        ("path", "~nouser/x", "path must be a path, but got path='~nouser/x', and there is no"),
        ("several", (), "several must be a list of finite numbers, but got several=()"),
        ("several", (0.5, 2), "several must lie in [0, 1], but got several=(0.5, 2)"),
    ],
)
def test_types_and_bounds_are_checked(name: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fields(Example(**{name: value}))
    assert words in str(caught.value)


def test_the_losses_are_those_of_training() -> None:
    assert list(LOSSES) == list(OBJECTIVES)
    for name, function in OBJECTIVES.items():
        assert LOSSES[name].takes == keyword_parameters(function)
        first = list(inspect.signature(function).parameters)[:2]
        assert LOSSES[name].of_features == (first == ["student_features", "teacher_features"])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["pretrained", "random"])
def test_the_help_of_a_teachers_recipe_has_its_defaults(kind: Any, optimizer: str) -> None:
    texts = docstrings(Run)
    recipes = [teacher_recipe(kind, {})]
    recipes += [
        teacher_recipe(kind, {"optimizer": optimizer, "trainable": t}) for t in ("all", "head")
    ]
    for recipe in recipes:
        for name, value in recipe.items():
            default = texts[f"teacher_{name}"].partition("None: ")[2]
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            assert shown in default or {name, value} & {"trainable", "optimizer"}, name


IDS_OF_VERSION_0_1: list[tuple[dict[str, Any], str]] = [
    ({}, "849b9475"),
    ({"alpha": 1.0}, "7ffc37aa"),
    ({"alpha": 0, "loss": "mse"}, "41158ddb"),
    ({"loss": "mse", "temperature": 2}, "c104bb91"),
    ({"alpha": 0.1, "temperature": 4.5}, "c3e4aacf"),
    (
        {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.01, "schedule": "onecycle"}
        | {"epochs": 60, "batch_size": 64, "train_images": 300},
        "a185d764",
    ),
    ({"trainable": "head", "batch_norm": "eval", "schedule": "cosine"}, "65c8d0ad"),
    ({"lr_step_size": 3, "lr_gamma": 0.5, "momentum": 0}, "ec4b1cfa"),
]


LATER = replace(
    DISTILLATION,
    hyperparameters={
        **DISTILLATION.hyperparameters,
        "smoothing": Hyperparameter(neutral=0.0),
        "rotation": Hyperparameter(when={"smoothing": (0.1, 0.2)}),
    },
)
"""The task of a later version, with two more hyperparameters."""


def later_id(values: dict[str, Any], smoothing: float = 0.0, rotation: float = 3.0) -> str:
    run = Run(**values)
    config = {name: run.value(name) for name in HYPERPARAMETERS}
    config |= {"smoothing": smoothing, "rotation": rotation}
    return LATER.config_id(LATER.canonical(config), {})


@pytest.mark.parametrize(("values", "config_id"), IDS_OF_VERSION_0_1)
def test_ids_are_those_of_version_0_1_and_a_new_hyperparameter_changes_none(
    values: dict[str, Any], config_id: str
) -> None:
    assert Run(**values).config_id == later_id(values) == config_id
    assert later_id(values, rotation=5) == config_id  # without effect
    assert later_id(values, smoothing=0.3) != config_id
    assert later_id(values, 0.1, 3) != later_id(values, 0.1, 4)


def test_a_later_hyperparameter_without_a_neutral_value_always_counts() -> None:
    assert len({Run(loss="mine:objective", dkd_beta=b).config_id for b in (1, 8)}) == 2


def test_the_order_of_columns_is_that_of_version_0_1() -> None:
    first = "loss alpha temperature optimizer lr momentum weight_decay schedule lr_step_size"
    first += " lr_gamma epochs batch_size trainable batch_norm"
    assert HYPERPARAMETERS[:14] == tuple(first.split())
    assert set(HYPERPARAMETERS) == set(searchable(Run))
    # the order in which a search draws them: another one would propose other configurations
    assert DISTILLATION.deciding == ("alpha", "loss", "optimizer", "schedule")


def test_a_users_own_objective_is_not_imported() -> None:
    assert Run(loss="no_such_module:objective").config["temperature"] == 4
    assert "no_such_module" not in sys.modules


def test_a_record_of_an_earlier_version_is_completed() -> None:
    old = {name: value for name, value in Run().config.items() if not name.startswith("dkd")}
    assert complete(old) == Run().config
    assert complete(Run(loss="mine:objective").config) == Run(loss="mine:objective").config
    broken = {**old, "optimizer": "unknown"}  # what is recorded stays as it is
    assert complete(broken)["momentum"] == old["momentum"]
    without = {n: v for n, v in Run().config.items() if n not in ("mixup", "warmup_epochs")}
    assert (complete(without)["mixup"], complete(without)["warmup_epochs"]) == (0, 0)  # neutral
