"""Declarations of fields: bounds, roles, effects, and the identity of a configuration."""

import ast
import hashlib
import importlib
import inspect
import itertools
import json
import math
import re
import textwrap
from collections import abc
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from decimal import Decimal
from functools import cache, cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

from kdtune.config.files import check_place
from kdtune.config.text import InputError, has_hidden, locale_hint, shown

# Declarations of the fields of `Run` and `Study`, and the checks that follow from them.
#
# A field is annotated with a `Setting`, or with a `Hyperparameter` if a study may search it:
#
#         momentum: Annotated[float, Hyperparameter(low=0, below=1, when={"optimizer": "sgd"})] =
#     0.9
#
# A field without an annotation is a `Setting` without bounds. The string under a field is its
# help.


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
    kinds = get_type_hints(owner, include_extras=True)
    for f in fields(owner):
        kind: Any = kinds[f.name]
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


# Effects of hyperparameters: which of them matter in a configuration, and the configuration's id.
#
# Everything follows from the annotations of a run's fields (`fields.Hyperparameter`) and, for the
# parameters of objectives, from the signatures in `kdtune.training.losses.OBJECTIVES`.


SCHEMA_1 = (
    *("loss", "alpha", "temperature", "optimizer", "lr", "momentum", "weight_decay"),
    *("schedule", "lr_step_size", "lr_gamma", "epochs", "batch_size", "trainable", "batch_norm"),
)
"""Hyperparameters of kdtune 0.1, in the order of its columns. Never add to it: ids of saved studies
are hashes of all of these, also of those without effect (as None)."""

OBJECTIVES = "kdtune.training.losses"
"""The module that holds the table of objectives. It is named, not imported: config imports no other
package, and the table is needed only when a run is checked."""

SUM_WEIGHT = "loss_weight"
"""The hyperparameter of a sum of two objectives: A+B is A + loss_weight * B."""


Declared = Mapping[str, Hyperparameter]
"""Hyperparameters by name."""
Conditional = tuple[tuple[str, Hyperparameter], ...]
"""Hyperparameters that do not always have an effect, in the order of effects."""


def canonical(config: Mapping[str, Any], conditional: Conditional) -> Config:
    """Return the configuration with None for every hyperparameter that has no effect in it.

    So equivalent configurations are equal. Whole floats become integers: 1 and 1.0 are one value.

    Args:
        config: A value of each hyperparameter; None is kept.
        conditional: Of the hyperparameters, see `conditional_of`.
    """
    dead: set[str] = set()
    for name, setting in conditional:
        if not _has_effect(name, config, setting, dead):
            dead.add(name)
    # last: the other one may have no effect either
    same = {n for n, s in conditional if s.like is not None and config[n] == config[s.like]}
    return {n: None if n in dead | same else _plain(value) for n, value in config.items()}


def resolved(config: Mapping[str, Any], declared: Declared) -> Config:
    """Return a canonical configuration with a number where None stands for another's value.

    None is then left for the hyperparameters that have no effect.

    Args:
        config: See `canonical`.
        declared: Its hyperparameters.
    """
    alike = {n: s.like for n, s in declared.items() if s.like is not None and config[n] is None}
    return {**config, **{name: config[other] for name, other in alike.items()}}


def effect_order(declared: Declared) -> dict[str, Hyperparameter]:
    """Return the hyperparameters, each after those that decide whether it has an effect.

    Raises StopIteration if two depend on each other.
    """
    left, order = dict(declared), dict[str, Hyperparameter]()
    while left:
        name = next(n for n, setting in left.items() if not setting.depends_on & left.keys())
        order[name] = left.pop(name)
    return order


def conditional_of(declared: Declared) -> Conditional:
    """Return the hyperparameters that do not always have an effect, in the order of effects."""
    return tuple((n, s) for n, s in effect_order(declared).items() if s.depends_on)


@cache
def conditional_of_class(owner: type) -> Conditional:
    """Return `conditional_of` the fields of a dataclass."""
    return conditional_of(searchable(owner))


@cache
def hyperparameters_of(owner: type) -> tuple[str, ...]:
    """Return the names of the hyperparameters: those of version 0.1 first, then later ones."""
    later = (name for name in searchable(owner) if name not in SCHEMA_1)
    return (*SCHEMA_1, *later)


def deciding_of(declared: Declared) -> tuple[str, ...]:
    """Return the hyperparameters that others depend on, in the order of `effect_order`."""
    named = frozenset[str]().union(*(s.depends_on for s in declared.values()))
    return tuple(name for name in effect_order(declared) if name in named)


def objective_names() -> tuple[str, ...]:
    """Return the names of the objectives that `loss` may have."""
    return tuple(importlib.import_module(OBJECTIVES).OBJECTIVES)


def objective_choices() -> tuple[str, ...]:
    """Return what `loss` may be, for --help and errors."""
    return (*objective_names(), "module:function", "A+B")


def terms_of(loss: str) -> tuple[str, ...]:
    """Return the objectives that a loss is the sum of: "kl" and "dist" of "kl+dist"."""
    return tuple(loss.split("+"))


def is_objective(term: str) -> bool:
    """Return True for a name of the table, and for text of the form module:function."""
    return term in objective_names() or re.fullmatch(r"[^\s:+]+:[^\s:+]+", term) is not None


def takes(loss: str, name: str) -> bool:
    """Return True if an objective, or a term of a sum, has a hyperparameter.

    A user's own may have each of them, see `objective_parameters`.
    """
    terms = terms_of(loss)
    if name == SUM_WEIGHT:
        return len(terms) > 1
    return any((own := objective_parameters(term)) is None or name in own for term in terms)


@cache
def objective_parameters(loss: str) -> frozenset[str] | None:
    """Return the hyperparameters that an objective takes, not a sum: its keyword-only parameters.

    None for a user's own, module:function: its module is not imported here, since a study is also
    read on machines that do not have it.
    """
    function = importlib.import_module(OBJECTIVES).OBJECTIVES.get(loss)
    return None if function is None else frozenset(keyword_parameters(function))


def keyword_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of an objective's keyword-only parameters: the fields of `Run` it takes."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def takes_features(loss: str) -> bool:
    """Return True if an objective compares penultimate features instead of logits.

    A user's own is imported; what fails then raises InputError.
    """
    return bool(importlib.import_module(OBJECTIVES).takes_features(loss))


def config_hash(config: Config, owner: type, study_values: Config) -> str:
    """Return eight hex digits that name a canonical configuration.

    The hash is of the hyperparameters of version 0.1, and of each later one only where it has an
    effect and differs from its neutral value: a new hyperparameter changes no id of an old study.

    Args:
        config: The configuration, see `canonical`.
        owner: The dataclass whose fields the hyperparameters are, `Run`.
        study_values: Neutral values of the hyperparameters marked `of_study`; without them, these
            are left out.
    """
    declared = searchable(owner)

    def counts(name: str, value: Value | None) -> bool:
        if name in SCHEMA_1:
            return True
        own = declared[name].of_study
        neutral = study_values.get(name, value) if own else declared[name].neutral
        return value is not None and value != neutral

    counted = {name: value for name, value in config.items() if counts(name, value)}
    text = json.dumps(counted, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _has_effect(
    name: str, config: Mapping[str, Any], setting: Hyperparameter, dead: set[str]
) -> bool:
    """Return True if a hyperparameter has an effect; `dead` are those found to have none."""
    if not setting.depends_on.isdisjoint(dead):
        return False
    if any(config[other] == value for other, value in setting.unless.items()):
        return False
    if not setting.is_used_with(config):
        return False
    return not setting.of_objective or takes(config["loss"], name)


def _plain(value: Value | None) -> Value | None:
    # 1 and 1.0 are one value and must give one config_id
    is_whole = isinstance(value, float) and value.is_integer() and abs(value) < 2**53
    return int(value) if is_whole else value  # type: ignore[arg-type]


# Bounds that several fields share, far outside every practical value.
#
# They refuse slips of the keyboard and numbers that torch, Ray or a file's 64 bits cannot hold,
# before any work starts. A saved study is checked like a new one, so they are wide enough for
# every
# study that can have learned something: a huge step size stands for "no decay", a range of
# learning
# rates may end far above the useful ones. Never tighten a bound.


MAX_INTEGER = 2**63 - 1
"""Greatest whole number of a record: Arrow's and torch's integers have 64 bits."""

MAX_COUNT = 1_000_000_000
"""Images, sizes in GB or milliseconds, and norms."""
MAX_EPOCHS = 1_000_000
"""Epochs of a training."""
MAX_STEP_SIZE = MAX_INTEGER
"""Epochs between decays. A step size far above the number of epochs means: no decay."""
MAX_BATCH = 2**31 - 1
"""Images per step; one above their number means all of them."""
MAX_LR = 1_000_000
"""Learning rate."""
MAX_WEIGHT_DECAY = 1_000_000
"""Weight decay: with a learning rate of 1 the weights are lost in the first step."""
MAX_BETA = 1000
"""Parameter of Beta(a, a), which is then almost always close to 1/2."""
MIN_STD = 0.000001
"""Standard deviation that inputs in [0, 1] are divided by; below, float32 has no digits left."""
MIN_TEMPERATURE = 0.0001
MAX_TEMPERATURE = 1000
MAX_WEIGHT = 1_000_000
"""Weight of a term of the loss."""
MAX_REPEAT = 1_000_000
"""Number of a repeat, of folds; a race has repeats beyond --repeats."""
MAX_REPEATS = 999
"""Repeats of the search, and teachers, one for each."""
MAX_PARAMS = 10**15
"""Parameters of a model."""
MAX_CONFIGURATIONS = 100_000
"""Configurations of a study. Making each of a grid takes about a millisecond at each start."""
MAX_RUNS = 1_000_000
"""Runs of a study: configurations times repeats."""
MAX_BUDGET = 1_000_000_000_000
"""Runs, epochs or hours of --budget."""
MAX_CORES = 100_000
"""Cores, GPUs and processes of a cluster."""
MIN_GPU = 0.0001
"""Smallest share of a GPU that Ray can reserve."""
MAX_NUMBER = 1e300
"""Greatest number of a training function's own hyperparameters: differences stay finite."""


# Data and weights as they are named on a command line.


if TYPE_CHECKING:  # these fields of a run are text, but also take objects, see `config.objects`
    DataName = Any
    ModelName = Any
else:
    DataName = ModelName = str

Role = Literal["teacher", "student"]
Weights = str | tuple[str, ...]
"""One value for all models, or MODEL=WEIGHTS for each of several."""
OUTPUT_SUFFIXES = (".parquet", ".npz")
"""Endings of the files of teachers that are only a file of outputs."""
REST = "rest"
"""Value of `Run.extra`: the images of train that `Run.train_images` leaves out."""
OBJECT = "object:"
"""Beginning of the names of objects that were passed in Python, see `config.objects`."""


def pairs(weights: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return model and weights of each MODEL=WEIGHTS."""
    return [(model, file) for model, _, file in (text.partition("=") for text in weights)]


def check_weights(name: str, weights: Weights) -> None:
    """Raise InputError unless weights are one word or file, or MODEL=WEIGHTS of several models."""
    if isinstance(weights, tuple) and not all(m and w for m, w in pairs(weights)):
        raise requirement_error(
            name, "be one value, or MODEL=WEIGHTS for each of several models", " ".join(weights)
        )


def is_object(name: str) -> bool:
    """Return True for the name of an object that was passed in Python, such as object:SmallNet."""
    return name.startswith(OBJECT)


def is_output_file(name: str) -> bool:
    """Return True if a teacher is a file of outputs, see `kdtune.config.run`."""
    return Path(name).suffix in OUTPUT_SUFFIXES


def is_named_data(data: str) -> bool:
    """Return True if data are named, not a folder: fashion, torchvision:NAME, module:factory."""
    return data == "fashion" or is_object(data) or is_function_name(data)


def is_function_name(name: str) -> bool:
    """Return True for module:name, which is not the path of a folder."""
    return re.fullmatch(r"[A-Za-z_][\w.]+:[A-Za-z_]\w*", name) is not None


def is_named_extra(extra: str) -> bool:
    """Return True if images without labels are named, not a folder: rest, module:factory."""
    return extra == REST or is_function_name(extra)


def name_of_data(data: str) -> str:
    """Return the name of data: that of a folder, or of the dataset or function."""
    if is_named_data(data):
        if is_object(data):
            return re.sub(r"[^A-Za-z0-9_-]", "", data.removeprefix(OBJECT)).lstrip("_-") or "data"
        return data.removeprefix("torchvision:").replace(":", "-")
    return Path(data).name
