"""Declarations of the fields of `Run` and `Study`, and the checks that follow from them.

A field is annotated with a `Setting`, or with a `Hyperparameter` if a study may search it:

    momentum: Annotated[float, Hyperparameter(low=0, below=1, when={"optimizer": "sgd"})] = 0.9

A field without an annotation is a `Setting` without bounds. The string under a field is its help.
"""

import ast
import inspect
import itertools
import math
import textwrap
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from functools import cache, cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from kdtune.config.errors import InputError
from kdtune.config.places import check_place
from kdtune.config.text import has_hidden, locale_hint, shown

Value = float | int | str
Config = dict[str, Value | None]
StudyCommand = Literal["search", "teacher", "distill"]

NOT_HIDDEN = "be UTF-8 text without control or invisible characters"
ALL_COMMANDS: tuple[StudyCommand, ...] = ("search", "teacher", "distill")
OF_STUDENT: tuple[StudyCommand, ...] = ("search", "distill")
ONLY_SEARCH: tuple[StudyCommand, ...] = ("search",)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Annotation of a field: its bounds and the commands that have a flag for it."""

    low: float | None = None
    """Least value, itself allowed."""
    high: float | None = None
    """Greatest value, itself allowed."""
    above: float | None = None
    """The value must be greater."""
    below: float | None = None
    """The value must be less."""
    commands: tuple[StudyCommand, ...] = ALL_COMMANDS
    """Commands that have a flag for the field."""
    choices: Callable[[], tuple[str, ...]] | None = None
    """Returns the words that --help lists, where the type does not."""
    defines: bool = True
    """Whether a study with another value is another study."""
    any_text: bool = False
    """Whether text may have control characters, such as the line ends of a shell script."""
    place: bool = False
    """Whether text is a path or a URI, or may be one."""
    pairs: bool = False
    """Whether it may also be NAME=PATH."""
    resolved: bool = False
    """Whether None is replaced by a value that follows from the data and the models when a study
    begins, unless it stands for a value of each model. Later commands on the same study take the
    recorded value for None."""

    @property
    def requirement(self) -> str:
        """The bounds in words, such as "lie in [0, 1)"; empty if there are none."""
        low = _digits(self.above if self.low is None else self.low)
        high = _digits(self.below if self.high is None else self.high)
        if low is None and high is None:
            return ""
        if high is None:
            return f"be {low} or more" if self.above is None else f"be greater than {low}"
        if low is None:
            return f"be at most {high}" if self.below is None else f"be less than {high}"
        left, right = "[("[self.above is not None], "])"[self.below is not None]
        return f"lie in {left}{low}, {high}{right}"

    def allows(self, value: float) -> bool:
        """Return True if the number is within the bounds."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


@dataclass(frozen=True, kw_only=True)
class Hyperparameter(Setting):
    """Annotation of a field that a study may search, with the condition under which it matters.

    A hyperparameter has an effect if `when` and `unless` hold and every hyperparameter that they
    name has an effect itself.
    """

    when: Mapping[str, Value | tuple[Value, ...]] = field(default_factory=dict, hash=False)
    """Values of other hyperparameters, one of each, with which this one has an effect."""
    unless: Mapping[str, Value] = field(default_factory=dict, hash=False)
    """Values of other hyperparameters with which this one has no effect."""
    of_objective: bool = False
    """Whether it is a parameter of objectives: it has an effect if the loss takes it."""
    like: str | None = None
    """Another hyperparameter, whose value None stands for. That value itself is then None in a
    canonical configuration, so that the two ways to write it are one configuration. It has an
    effect wherever the other one has."""
    of_study: bool = False
    """Whether the value that the study began with (`Run.study_values`) is neutral."""
    neutral: Value | None = None
    """A value that leaves a run as it was before the hyperparameter was introduced. It is left out
    of `Run.config_id`, so that older studies keep their ids. None: there is no such value."""

    def is_used_with(self, values: Mapping[str, Any]) -> bool:
        """Return True if other hyperparameters have values that `when` allows."""
        return all(
            values[other] in (allowed if isinstance(allowed, tuple) else (allowed,))
            for other, allowed in self.when.items()
        )

    @cached_property
    def depends_on(self) -> frozenset[str]:
        """The hyperparameters that decide whether this one has an effect."""
        return frozenset({*self.when, *self.unless, *(["loss"] if self.of_objective else [])})


@dataclass(frozen=True)
class Declaration:
    """What a field's type and annotation say."""

    name: str
    kind: Any
    """Its type without the annotation."""
    setting: Setting
    type_requirement: str
    """The type in words, such as "be a number"; empty if it is not checked."""

    @property
    def flag(self) -> str:
        """The flag of the command line."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def number_kind(self) -> type[int] | type[float] | None:
        """The type of the numbers that a search may draw from a range; None if it may not."""
        kinds: tuple[type[int] | type[float], ...] = (int, float)
        own: Any = self.kind
        if isinstance(self.setting, Hyperparameter) and self.setting.like is not None:
            own = next(option for option in _options(own) if option in kinds)
        return own if own in kinds else None

    def check(self, value: object) -> None:
        """Raise InputError unless the value has the field's type and lies within its bounds."""
        if value is None and NoneType in _options(self.kind):
            return
        if self.type_requirement and not _has_type(value, self.kind):
            raise requirement_error(self.name, self.type_requirement, value)
        parts = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, int | float) and not self.setting.allows(n) for n in parts):
            raise requirement_error(self.name, self.setting.requirement, value)
        for text in (part for part in parts if isinstance(part, str)):
            if has_hidden(text) and not self.setting.any_text:
                raise requirement_error(self.name, f"{NOT_HIDDEN}{locale_hint(text)}", value)
            if self.setting.place:
                check_place(
                    self.name, text.partition("=")[2] or text if self.setting.pairs else text
                )


@cache
def declarations(owner: type) -> dict[str, Declaration]:
    """Return the declarations of a dataclass's fields by name, in their order."""
    found = {}
    for f in fields(owner):
        kind: Any = f.type
        setting = Setting()
        if get_origin(kind) is Annotated:
            setting = next(s for s in kind.__metadata__ if isinstance(s, Setting))
            kind = kind.__origin__
        found[f.name] = Declaration(f.name, kind, setting, _describe_type(kind))
    return found


@cache
def searchable(owner: type) -> dict[str, Hyperparameter]:
    """Return the annotations of the fields that a study may search, in the order of the fields."""
    found = {name: declared.setting for name, declared in declarations(owner).items()}
    return {name: s for name, s in found.items() if isinstance(s, Hyperparameter)}


def check_fields(config: Any) -> None:
    """Raise InputError unless every field has its type and lies within its bounds."""
    owner: type = type(config)
    for name, declared in declarations(owner).items():
        declared.check(getattr(config, name))


def check(config: Any, name: str, holds: object, requirement: str) -> None:
    """Raise InputError, "NAME must REQUIREMENT, but got NAME=VALUE", unless `holds`."""
    if not holds:
        raise requirement_error(name, requirement, getattr(config, name))


def requirement_error(name: str, requirement: str, value: object) -> InputError:
    """Return the error for a field's value that does not meet a requirement."""
    return InputError(f"{name} must {requirement}, but got {name}={shown(value)}")


def _digits(number: float | None) -> str | None:
    """Return a number in plain digits: 0.0001 and 1000000, not 1e-04 and 1e+06."""
    return None if number is None else f"{Decimal(str(number)):f}"


def docstring(owner: type) -> str:
    """Return the docstring of a dataclass, from its source: `python -OO` drops docstrings."""
    return ast.get_docstring(_class_of(owner)) or ""


def docstrings(owner: type) -> dict[str, str]:
    """Return the string under each field of a dataclass and of its bases, on one line."""
    bases = (base for base in reversed(owner.__mro__) if is_dataclass(base))
    return {name: text for base in bases for name, text in _own_docstrings(base).items()}


def _own_docstrings(owner: type) -> dict[str, str]:
    texts = {}
    for statement, below in itertools.pairwise(_class_of(owner).body):
        if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(statement.target, ast.Name)  # noqa: S101 - source of a class is a class
            texts[statement.target.id] = " ".join(ast.literal_eval(below.value).split())
    return texts


def _class_of(owner: type) -> ast.ClassDef:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 - source of a class is a class
    return tree


@cache
def _options(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union, or the type alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


@cache
def _literals(kind: Any) -> tuple[Any, ...]:
    """Return the words of a type's Literal; none if it has no such member."""
    return next((get_args(k) for k in _options(kind) if get_origin(k) is Literal), ())


def _describe_type(kind: Any) -> str:
    options = _options(kind)
    if any(get_origin(option) is abc.Callable for option in options):
        return ""
    if words := _literals(kind):
        return f"be one of {', '.join(words)}"
    if any(get_origin(option) is tuple and float in get_args(option) for option in options):
        return "be a list of finite numbers"
    texts = {float: "a finite number", int: "a whole number", bool: "True or False", str: "text"}
    return next((f"be {text}" for member, text in texts.items() if member in options), "")


def _has_type(value: object, kind: Any) -> bool:
    """Return True if a value other than None has the type; a whole number is a float, too."""
    options = _options(kind)
    if words := _literals(kind):
        return value in words
    if isinstance(value, bool):
        return bool in options
    if isinstance(value, tuple):
        member = next((get_args(o)[0] for o in options if get_origin(o) is tuple), None)
        return len(value) > 0 and all(_has_type(one, member) for one in value)
    if float in options:
        # whole numbers are finite, but math.isfinite fails for those that no float can hold
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, tuple(o for o in options if o in (int, str)))
