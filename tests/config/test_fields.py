"""Fields, effects and ids; paths and text that are refused or escaped; short numbers.

References: bounds by hand, ids that version 0.1 gave, the signatures of the losses, and laws: a new
hyperparameter changes no id.
"""

import hashlib
import inspect
import re
import sys
import unicodedata
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdtune.config import fields
from kdtune.config.fields import LOSSES, OPTIMIZERS, Bounds, Hyperparameter
from kdtune.config.run import DISTILLATION, HYPERPARAMETERS, Run, complete
from kdtune.config.study import Study
from kdtune.config.text import InputError, printable, short
from kdtune.training import loop
from kdtune.training.losses import OBJECTIVES

DOCS = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("bounds", "inside", "outside"),
    [
        ("[0, 1]", (0, 0.5, 1), (-0.1, 1.1)),
        ("(0.000001, 1000000)", (0.1,), (1e-6, 10**6)),
        (f"[0, {2**63 - 1}]", (2**63 - 1,), (2**63,)),
    ],
)
def test_bounds(bounds: str, inside: tuple, outside: tuple) -> None:
    assert all(map(Bounds(bounds).allows, inside))
    assert not any(map(Bounds(bounds).allows, outside))


@dataclass(frozen=True)
class Example:
    """Fields of every kind that is checked."""

    whole: Annotated[int, Bounds("[1, 9]")] | None = None
    """A whole number."""
    real: float = 0.5
    """A number that
    may be whole."""
    word: Literal["a", "b"] | None = "a"
    flag: bool = False
    text: str = ""
    path: Annotated[str, fields.Setting(path=True)] = "x"
    several: tuple[Annotated[float, Bounds("[0, 1]")], ...] = (0.5,)
    other: Any = None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("whole", 0, "whole must lie in [1, 9], but got whole=0"),
        ("whole", 1.0, "whole must be a whole number, but got whole=1.0"),
        ("whole", 10**400, "whole must lie in [1, 9], but got whole=1000"),
        ("real", float("nan"), "real must be a finite number, but got real=nan"),
        ("word", "c", "word must be one of a, b, but got word='c'"),
        ("flag", 1, "flag must be True or False, but got flag=1"),
        ("text", "\x1b[2J", "text must be UTF-8 text without control"),
        ("path", "~nouser/x", "that of a user, but got path='~nouser/x'"),
        ("several", (), "several must be a list of finite numbers, but got several=()"),
        ("several", (0.5, 2), "several must lie in [0, 1], but got several=(0.5, 2)"),
    ],
)
def test_types_and_bounds_are_checked(name: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        fields.check_fields(Example(**{name: value}))
    assert words in str(caught.value)


LONG = "a" * 256


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"data": "s3:///x"}, "a URI must be SCHEME://BUCKET/PREFIX, with a scheme of s3, s3a, "),
        ({"student_weights": ("resnet18=~nouser/x",)}, "student_weights must be a path of at most"),
        ({"teacher": "~nouser/x.npz"}, "teacher must be a path of at most"),
        ({"data": LONG}, "data must be a path of at most 4095 bytes, with names of at most 255"),
    ],
)
def test_what_a_place_must_be(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"^{re.escape(message)}"):
        Run(**values)
    for owner in (Run, Study):
        for name in (
            n for n, declared in fields.declarations(owner).items() if declared.setting.path
        ):
            for path in ("", "~nouser/x", LONG, "s3://", "ftp://a/b"):
                with pytest.raises(InputError):
                    replace(owner(), **{name: path})


@pytest.mark.parametrize(("owner", "name"), [(Run, "data"), (Run, "loss"), (Study, "address")])
def test_text_that_acts_on_a_terminal_is_refused(owner: Any, name: str) -> None:
    for text in ("\x1b[31m", "a\nb", "a\u202eb", "a\u200bb", "a\udcff", "\x00"):
        with pytest.raises(InputError, match=f"^{name} must be UTF-8 text") as caught:
            replace(owner(), **{name: text})
        assert str(caught.value).isprintable()
    for other in ("/data/می\u200cخواهم", "/data/新しい\u3000フォルダー", "/a b/🧑\u200d🔬"):
        assert Run(data=other).data == other
    assert Study(notify="echo a\necho b").notify == "echo a\necho b"  # a script of the user's


def test_the_tables_have_the_words_of_their_types_and_of_training() -> None:
    assert Run(loss="no_such_module:objective").config["temperature"] == 4
    assert "no_such_module" not in sys.modules  # an objective of the user's is not imported
    # which mypy does not compare
    assert list(get_args(fields.Optimizer)) == list(OPTIMIZERS) == list(loop.OPTIMIZER_CONSTRUCTORS)
    assert (
        list(get_args(fields.Schedule))
        == list(fields.SCHEDULES)
        == list(loop.SCHEDULE_CONSTRUCTORS)
    )
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", DOCS, re.M)
    assert [(name, *map(float, numbers)) for name, *numbers in rows] == [
        (name, d.lr_pretrained, d.lr_head, d.lr_random, d.weight_decay)
        for name, d in OPTIMIZERS.items()
    ]
    assert list(LOSSES) == list(OBJECTIVES)
    for name, function in OBJECTIVES.items():
        assert LOSSES[name].takes == fields.keyword_parameters(function)
        first = list(inspect.signature(function).parameters)[:2]
        assert LOSSES[name].of_features == (first == ["student_features", "teacher_features"])
    assert set(HYPERPARAMETERS) == set(fields.searchable(Run))
    # the order in which a search draws them: another one would propose other configurations
    assert DISTILLATION.deciding == ("alpha", "loss", "optimizer", "schedule")


IDS_OF_VERSION_0_1: list[tuple[dict[str, Any], str]] = [
    ({}, "849b9475"),
    ({"alpha": 1.0}, "7ffc37aa"),
    ({"loss": "mse", "temperature": 2}, "c104bb91"),
    ({"alpha": 0.1, "temperature": 4.5}, "c3e4aacf"),
    (
        {"optimizer": "adamw", "lr": 0.02, "weight_decay": 0.01, "schedule": "onecycle"}
        | {"epochs": 60, "batch_size": 64, "train_images": 300},
        "a185d764",
    ),
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
    text = LATER.identity(LATER.canonical(config), {})
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@pytest.mark.parametrize(("values", "config_id"), IDS_OF_VERSION_0_1)
def test_ids_are_those_of_version_0_1_and_a_new_hyperparameter_changes_none(
    values: dict[str, Any], config_id: str
) -> None:
    assert Run(**values).config_id == later_id(values) == config_id
    assert later_id(values, rotation=5) == config_id  # without effect
    assert later_id(values, smoothing=0.3) != config_id
    assert later_id(values, 0.1, 3) != later_id(values, 0.1, 4)


def test_a_record_of_an_earlier_version_is_completed() -> None:
    old = {name: value for name, value in Run().config.items() if not name.startswith("dkd")}
    assert complete(old) == Run().config
    assert complete(Run(loss="mine:objective").config) == Run(loss="mine:objective").config
    broken = {**old, "optimizer": "unknown"}  # what is recorded stays as it is
    assert complete(broken)["momentum"] == old["momentum"]
    without = {n: v for n, v in Run().config.items() if n not in ("mixup", "warmup_epochs")}
    assert (complete(without)["mixup"], complete(without)["warmup_epochs"]) == (0, 0)  # neutral


@given(st.floats(1e-12, 1 - 1e-12), st.integers(2, 6))
def test_value_and_distance_from_1_keep_their_digits(value: float, digits: int) -> None:
    """The relative rounding error of x and of 1 - x is at most half a unit of the last digit."""
    shown = float(short(value, digits))
    bound = 0.5 * 10.0 ** (1 - digits)
    assert abs(shown - value) <= 1.001 * bound * value
    if value > 0.99:
        assert abs(shown - value) <= 1.001 * bound * (1 - value) + 2e-16


def test_characters_that_act_on_their_surroundings_are_escaped() -> None:
    text = "\x1b]0;owned\x07 \x9b31m cat\u202egnp.exe one\ntwo\u2028 \udce9.png \U000e0041"
    shown = r"\x1b]0;owned\x07 \x9b31m cat\u202egnp.exe one\ntwo\u2028 \udce9.png \U000e0041"
    assert printable(text) == shown
    for harmless in ("", "größer – 7 ×", "猫 قطة חתול", r"C:\new\x1b", "a\u00a0b 🐈"):
        assert printable(harmless) == harmless
    everything = printable("".join(map(chr, range(0x110000))))
    categories = set(map(unicodedata.category, everything))
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    everything.encode()
