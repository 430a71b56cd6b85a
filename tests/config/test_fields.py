"""Declarations of fields: hand-worked bounds and their words."""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest

from kdtune.config.fields import Setting, check_fields, declarations, docstrings, searchable
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError


@pytest.mark.parametrize(
    ("setting", "words", "inside", "outside"),
    [
        (Setting(low=0, high=1), "lie in [0, 1]", (0, 0.5, 1), (-0.1, 1.1)),
        (Setting(low=0, below=1), "lie in [0, 1)", (0, 0.9), (-0.1, 1)),
        (Setting(above=0, high=1), "lie in (0, 1]", (0.1, 1), (0, 1.1)),
        (Setting(above=0, below=1), "lie in (0, 1)", (0.1, 0.9), (0, 1)),
        (Setting(low=2), "be 2 or more", (2, 9), (1,)),
        (Setting(above=0), "be greater than 0", (1e-9,), (0, -1)),
        (Setting(high=3), "be at most 3", (3, -9), (4,)),
        (Setting(below=3), "be less than 3", (2.9,), (3,)),
        (Setting(), "", (-1e9, 1e9), ()),
    ],
)
def test_bounds(setting: Setting, words: str, inside: tuple, outside: tuple) -> None:
    assert setting.requirement == words
    assert all(map(setting.allows, inside))
    assert not any(map(setting.allows, outside))


@dataclass(frozen=True)
class Example:
    """Fields of every kind that is checked."""

    whole: Annotated[int | None, Setting(low=1)] = None
    """A whole number."""
    real: float = 0.5
    """A number that
    may be whole."""
    word: Literal["a", "b"] | None = "a"
    flag: bool = False
    text: str = ""
    other: Any = None


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("whole", 0, "whole must be 1 or more, but got whole=0"),
        ("whole", 1.0, "whole must be a whole number, but got whole=1.0"),
        ("whole", True, "whole must be a whole number, but got whole=True"),
        ("real", float("nan"), "real must be a finite number, but got real=nan"),
        ("real", None, "real must be a finite number, but got real=None"),
        ("real", True, "real must be a finite number"),
        ("word", "c", "word must be one of a, b, but got word='c'"),
        ("flag", 1, "flag must be True or False, but got flag=1"),
        ("text", 1, "text must be text, but got text=1"),
    ],
)
def test_types_and_bounds_are_checked(name: str, value: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        check_fields(Example(**{name: value}))
    assert words in str(caught.value)


def test_values_that_are_allowed() -> None:
    check_fields(Example(whole=1, real=1, word=None, flag=True, text="x", other=object()))


def test_docstrings_of_fields() -> None:
    assert docstrings(Example) == {
        "whole": "A whole number.",
        "real": "A number that may be whole.",
    }
    for owner in (Run, Study):
        shown = {n for n, d in declarations(owner).items() if d.setting.commands}
        assert shown <= set(docstrings(owner))


def test_a_value_of_the_default_run_is_within_its_bounds() -> None:
    for name, declared in declarations(Run).items():
        declared.check(getattr(Run(), name))
    assert set(searchable(Run)) < set(declarations(Run))
