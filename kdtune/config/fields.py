"""Declarations of fields: bounds, roles, effects, and the identity of a configuration.

A field of `Run` or `Study` is annotated with its bounds, and with a `Setting`, or a
`Hyperparameter` if a study may search it; what is not said has the defaults of `Setting`:

    momentum: Annotated[BelowOne, Hyperparameter(when={"optimizer": "sgd"})] = 0.9

The string under a field is its help.
"""

import ast
import inspect
import itertools
import math
import re
import textwrap
from collections import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
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

from kdtune.config.files import check_path
from kdtune.config.text import InputError, hidden_characters, import_named, shown, user_code

Value = float | int | str
Config = dict[str, Value | None]
StudyCommand = Literal["search", "teacher", "distill"]

ALL_COMMANDS: tuple[StudyCommand, ...] = ("search", "teacher", "distill")
OF_STUDENT: tuple[StudyCommand, ...] = ("search", "distill")
ONLY_SEARCH: tuple[StudyCommand, ...] = ("search",)


# Declarations.


@dataclass(frozen=True)
class Bounds:
    """Annotation of a type of numbers: the interval that they lie in."""

    interval: str
    """As it is written: [0, 1) has 0, but not 1."""

    @cached_property
    def _ends(self) -> tuple[float, float]:
        low, high = self.interval[1:-1].split(", ")
        return ast.literal_eval(low), ast.literal_eval(high)  # exact, also for 64 bits

    def allows(self, value: float) -> bool:
        """Return True if the number is within the bounds."""
        low, high = self._ends
        is_above = value >= low if self.interval[0] == "[" else value > low
        is_below = value <= high if self.interval[-1] == "]" else value < high
        return is_above and is_below


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Annotation of a field: the commands that have a flag for it, and what it stands for."""

    commands: tuple[StudyCommand, ...] = ALL_COMMANDS
    """Commands that have a flag for the field."""
    metavar: str | None = None
    """What --help shows in place of a value; None: what follows from the type."""
    defines: bool = True
    """Whether a study with another value is another study."""
    any_text: bool = False
    """Whether text may have control characters, such as the line ends of a shell script."""
    path: bool = False
    """Whether text is a path or a URI, or may be one."""
    pairs: bool = False
    """Whether it may also be NAME=PATH."""
    resolved: bool = False
    """Whether None is replaced by a value that follows from the data and the models when a study
    begins, unless it stands for a value of each model. Later commands on the same study take the
    recorded value for None."""


@dataclass(frozen=True, kw_only=True)
class Hyperparameter(Setting):
    """Annotation of a field that a study may search, with the condition under which it matters.

    A hyperparameter has an effect if `when` and `unless` hold and every hyperparameter that they
    name has an effect itself.
    """

    commands: tuple[StudyCommand, ...] = OF_STUDENT
    when: Mapping[str, Value | tuple[Value, ...]] = field(default_factory=dict, hash=False)
    """Values of other hyperparameters, one of each, with which this one has an effect."""
    unless: Mapping[str, Value] = field(default_factory=dict, hash=False)
    """Values of other hyperparameters with which this one has no effect."""
    of_objective: bool = False
    """Whether it is a parameter of losses: it has an effect if the loss takes it."""
    like: str | None = None
    """Another hyperparameter, whose value None stands for. That value itself is then None in a
    canonical configuration, so that the two ways to write it are one configuration. It has an
    effect wherever the other one has."""
    of_study: bool = False
    """Whether the value that the study began with (`Run.study_values`) is neutral."""
    neutral: Value | None = None
    """A value that leaves a run as it was before the hyperparameter was introduced. It is left out
    of `Run.config_id`, so that older studies keep their ids. None: there is no such value."""

    @cached_property
    def depends_on(self) -> frozenset[str]:
        """The hyperparameters that decide whether this one has an effect."""
        return frozenset({*self.when, *self.unless, *(["loss"] if self.of_objective else [])})

    def is_used_with(self, values: Mapping[str, Any]) -> bool:
        """Return True if other hyperparameters have values that `when` and `unless` allow."""
        return all(
            values[other] in (allowed if isinstance(allowed, tuple) else (allowed,))
            for other, allowed in self.when.items()
        ) and not any(values[other] == value for other, value in self.unless.items())


@dataclass(frozen=True)
class Declaration:
    """What a field's type and annotation say."""

    name: str
    kind: Any
    """Its type without annotations."""
    bounds: Bounds | None
    setting: Setting
    type_requirement: str
    """The type in words, such as "be a number"; empty if it is not checked."""

    @property
    def number_kind(self) -> type[int] | type[float] | None:
        """The type of the numbers that a search may draw from a range; None if it may not."""
        like = isinstance(self.setting, Hyperparameter) and self.setting.like is not None
        for kind in _options(self.kind) if like else (self.kind,):
            if kind in (int, float):
                return kind  # type: ignore[no-any-return]
        return None

    def check(self, value: object) -> None:
        """Raise InputError unless the value has the field's type and lies within its bounds."""
        if value is None and NoneType in _options(self.kind):
            return
        if self.type_requirement and not _has_type(value, self.kind):
            raise requirement_error(self.name, self.type_requirement, value)
        for part in value if isinstance(value, tuple) else (value,):
            if self.bounds and isinstance(part, int | float) and not self.bounds.allows(part):
                raise requirement_error(self.name, f"lie in {self.bounds.interval}", value)
            if not isinstance(part, str):
                continue
            if hidden_characters(part) and not self.setting.any_text:
                requirement = "be UTF-8 text without control or invisible characters (in a locale "
                requirement += "of another encoding, set PYTHONUTF8=1)"
                raise requirement_error(self.name, requirement, value)
            if self.setting.path:
                path = part.partition("=")[2] if self.setting.pairs else ""
                check_path(self.name, path or part)


@cache
def declarations(owner: type) -> dict[str, Declaration]:
    """Return the declarations of a dataclass's fields by name, in their order."""
    declared = {}
    kinds, annotated = get_type_hints(owner), get_type_hints(owner, include_extras=True)
    for name in (f.name for f in fields(owner)):
        marks = tuple(_annotations(annotated[name]))
        bounds = next((mark for mark in marks if isinstance(mark, Bounds)), None)
        setting = next((mark for mark in marks if isinstance(mark, Setting)), Setting())
        kind = kinds[name]
        declared[name] = Declaration(name, kind, bounds, setting, _describe_type(kind))
    return declared


def _annotations(kind: Any) -> Iterator[Any]:
    """Yield the annotations of a type and of its parts."""
    yield from getattr(kind, "__metadata__", ())
    for part in get_args(kind):
        if get_origin(kind) is not Literal:
            yield from _annotations(part)


@cache
def searchable(owner: type) -> dict[str, Hyperparameter]:
    """Return the annotations of the fields that a study may search, in the order of the fields."""
    settings = {name: declared.setting for name, declared in declarations(owner).items()}
    return {name: s for name, s in settings.items() if isinstance(s, Hyperparameter)}


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


def one_of(words: Iterable[str]) -> str:
    """Return the words of which --help shows that a value is one."""
    return f"{{{','.join(words)}}}"


def docstrings(owner: type) -> dict[str, str]:
    """Return the string under each field of a dataclass and of its bases, on one line."""
    texts = {}
    for base in filter(is_dataclass, reversed(owner.__mro__)):
        tree: Any = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        for statement, below in itertools.pairwise(tree.body):
            if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
                name = ast.unparse(statement.target)
                texts[name] = " ".join(ast.literal_eval(below.value).split())
    return texts


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
        return f"be {'a whole number or ' * (int in options)}one of {', '.join(words)}"
    if any(get_origin(option) is tuple and float in get_args(option) for option in options):
        return "be a list of finite numbers"
    texts = {float: "a finite number", int: "a whole number", bool: "True or False", str: "text"}
    return next((f"be {text}" for member, text in texts.items() if member in options), "")


def _has_type(value: object, kind: Any) -> bool:
    """Return True if a value other than None has the type; a whole number is a float, too."""
    options = _options(kind)
    words = _literals(kind)
    if words and (value in words or int not in options):
        return value in words
    if isinstance(value, bool):
        return bool in options
    if isinstance(value, tuple):
        member = next((get_args(o)[0] for o in options if get_origin(o) is tuple), None)
        return len(value) > 0 and all(_has_type(part, member) for part in value)
    if float in options:
        # whole numbers are finite, but math.isfinite fails for those that no float can hold
        return isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, tuple(o for o in options if o in (int, str)))


# Losses. The functions are in `kdtune.training.losses`, under the same names.


@dataclass(frozen=True)
class Loss:
    """Declaration of a distillation loss."""

    takes: tuple[str, ...] = ()
    """Hyperparameters that it takes."""
    of_features: bool = False
    """Whether it compares the inputs of the last layers, not the logits."""


_TEMPERATURES = ("temperature", "teacher_temperature")
LOSSES = {
    "kl": Loss(_TEMPERATURES),
    "mse": Loss(),
    "dkd": Loss((*_TEMPERATURES, "dkd_alpha", "dkd_beta")),
    "ls": Loss(_TEMPERATURES),
    "dist": Loss((*_TEMPERATURES, "dist_beta", "dist_gamma")),
    "nkd": Loss((*_TEMPERATURES, "nkd_gamma")),
    "features_mse": Loss(of_features=True),
    "features_cosine": Loss(of_features=True),
}
"""The distillation losses by name."""
SUM_WEIGHT = "loss_weight"
"""The hyperparameter of a sum of two losses: A+B is A + loss_weight * B."""


def terms_of(loss: str) -> tuple[str, ...]:
    """Return the losses that a loss is the sum of: "kl" and "dist" of "kl+dist"."""
    return tuple(loss.split("+"))


def is_loss(term: str) -> bool:
    """Return True for a name of the table, and for text of the form module:function."""
    return term in LOSSES or re.fullmatch(r"[^\s:+]+:[^\s:+]+", term) is not None


def takes(loss: str, name: str) -> bool:
    """Return True if a loss, or a term of a sum, has a hyperparameter.

    A user's function may have each of them: its module is not imported here, since a study is also
    read on machines that do not have it.
    """
    terms = terms_of(loss)
    if name == SUM_WEIGHT:
        return len(terms) > 1
    return any(term not in LOSSES or name in LOSSES[term].takes for term in terms)


def keyword_parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a loss's keyword-only parameters: the fields of `Run` it takes."""
    parameters = inspect.signature(function).parameters.values()
    return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)


def takes_features(loss: str) -> bool:
    """Return True if a loss, or a term of a sum, compares features instead of logits.

    A user's function, whose first two parameters say it, is imported; what fails then raises
    InputError.
    """
    return any(
        LOSSES[term].of_features if term in LOSSES else _function_takes_features(term)
        for term in terms_of(loss)
    )


def _function_takes_features(loss: str) -> bool:
    function = import_named("the objective", loss)
    with user_code(f"the signature of {loss} cannot be read"):
        first = tuple(inspect.signature(function).parameters)[:2]
    return first == ("student_features", "teacher_features")


# Optimisers and schedules. The constructors are in `kdtune.training.loop`, under the same names.

Optimizer = Literal["sgd", "nesterov", "adamw", "adam", "nadam", "radam", "rmsprop", "adagrad"]
Schedule = Literal["constant", "step", "multistep", "cosine", "onecycle"]


@dataclass(frozen=True)
class OptimizerDeclaration:
    """What an optimizer takes, and its default learning rates and weight decay."""

    lr_pretrained: float
    """Learning rate of all layers of pretrained weights: small, since features are to be kept."""
    lr_head: float
    """Learning rate of the head alone, on pretrained weights."""
    lr_random: float
    """Learning rate of random weights."""
    weight_decay: float = 0.0
    """As in PyTorch 0 where the decay is added to a gradient that is divided by its size."""
    scales_with_loss: bool | None = False
    """Whether its step is proportional to the loss. None: only its first steps are."""
    decouples_decay: bool = False
    """Whether it decays the weights apart from the gradient (Loshchilov and Hutter, 2019)."""
    takes: tuple[str, ...] = ()
    """Hyperparameters of its own."""


_SGD = OptimizerDeclaration(
    # The new head of an EfficientNet-Lite2 on 244 photographs of ants and bees reached 96.2 % in 10
    # epochs with 0.1, 92.0 % with 0.01 and 68.9 % with 0.001: timm's initial heads are large.
    lr_pretrained=1e-3,
    lr_head=1e-1,
    lr_random=1e-1,
    weight_decay=1e-4,
    scales_with_loss=True,
    takes=("momentum",),
)
_ADAM = OptimizerDeclaration(lr_pretrained=1e-4, lr_head=1e-2, lr_random=1e-3)
OPTIMIZERS: Mapping[Optimizer, OptimizerDeclaration] = {
    "sgd": _SGD,
    "nesterov": _SGD,
    "adamw": replace(_ADAM, weight_decay=1e-2, decouples_decay=True),
    "adam": _ADAM,
    "nadam": _ADAM,
    "radam": replace(_ADAM, lr_head=1e-1, scales_with_loss=None),
    "rmsprop": OptimizerDeclaration(
        lr_pretrained=1e-5, lr_head=1e-3, lr_random=1e-4, takes=("momentum",)
    ),
    "adagrad": OptimizerDeclaration(lr_pretrained=1e-3, lr_head=1e-1, lr_random=1e-2),
}


@dataclass(frozen=True)
class ScheduleDeclaration:
    """What a schedule takes, and when it changes the learning rate."""

    takes: tuple[str, ...] = ()
    """Hyperparameters of its own, and "warmup_epochs" unless it has a warm-up of its own."""
    by_batch: bool = False
    """Whether the learning rate changes after each batch, not after each epoch."""
    follows_warmup: bool = False
    """Whether it begins after a warm-up; else it goes by the epoch's number in the run."""


SCHEDULES: Mapping[Schedule, ScheduleDeclaration] = {
    "constant": ScheduleDeclaration(("warmup_epochs",)),
    "step": ScheduleDeclaration(("lr_step_size", "lr_gamma", "warmup_epochs")),
    "multistep": ScheduleDeclaration(("lr_milestones", "lr_gamma", "warmup_epochs")),
    "cosine": ScheduleDeclaration(("warmup_epochs",), follows_warmup=True),
    "onecycle": ScheduleDeclaration(by_batch=True),
}


def that_take(name: str) -> Mapping[str, tuple[str, ...]]:
    """Return the condition that the optimizer or the schedule takes a hyperparameter."""
    optimizers = tuple(word for word, declared in OPTIMIZERS.items() if name in declared.takes)
    if optimizers:
        return {"optimizer": optimizers}
    return {"schedule": tuple(word for word, of in SCHEDULES.items() if name in of.takes)}


# Recipe of teachers that are given none. All other defaults are those of `Run` and `Study`.

WeightsKind = Literal["pretrained", "random", "finished"]
"""Weights that a teacher begins with: trained on other data, random, or trained on these data."""

_SHARED: dict[str, Any] = {"trainable": "all", "batch_norm": "train", "momentum": 0.9}
_SHARED |= {"lr_step_size": 7, "lr_gamma": 0.1}
_PRETRAINED = _SHARED | {"optimizer": "sgd", "schedule": "cosine", "epochs": 10, "batch_size": 32}
_RANDOM = _SHARED | {"optimizer": "adamw", "schedule": "onecycle", "epochs": 30, "batch_size": 64}
_RECIPES: Mapping[WeightsKind, tuple[dict[str, Any], str]] = {
    "random": (_RANDOM, "lr_random"),
    "pretrained": (_PRETRAINED, "lr_pretrained"),
    "finished": (_PRETRAINED | {"epochs": 0}, "lr_pretrained"),
}
"""Recipe by the kind of the initial weights, and which learning rate of the optimizer it has."""
TEACHER_RECIPE = (*_PRETRAINED, "lr", "weight_decay")
"""Settings of the teacher's training that depend on the kind of its weights, without teacher_."""


def teacher_recipe(kind: WeightsKind, given: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a teacher, with defaults for everything that is not given.

    Args:
        kind: Of its initial weights.
        given: Values by name, without "teacher_"; None for those that are not given.
    """
    defaults, rate = _RECIPES[kind]
    values = {name: value for name, value in given.items() if value is not None}
    recipe = defaults | values
    if recipe["trainable"] == "head":  # nothing of the backbone changes
        recipe["batch_norm"] = values.get("batch_norm", "eval")
        rate = "lr_random" if kind == "random" else "lr_head"
    optimizer = OPTIMIZERS[recipe["optimizer"]]
    return {"lr": getattr(optimizer, rate), "weight_decay": optimizer.weight_decay, **recipe}


# Bounds far outside every practical value. They refuse slips of the keyboard and numbers that
# torch, Ray or a file's 64 bits cannot hold, before any work starts. A saved study is checked like
# a new one, so they are wide enough for every study that can have learned something: a huge step
# size stands for "no decay", a range of learning rates may end far above the useful ones. Never
# tighten a bound.

MAX_INTEGER = 2**63 - 1
"""Greatest whole number of a record: Arrow's and torch's integers have 64 bits."""
MAX_NUMBER = 1e300
"""Greatest number of a training function's hyperparameters: differences stay finite."""

BelowOne = Annotated[float, Bounds("[0, 1)")]
Fraction = Annotated[float, Bounds("(0, 1)")]
Positive = Annotated[float, Bounds(f"(0, {10**9}]")]
NotNegative = Annotated[float, Bounds(f"[0, {10**9}]")]
Epochs = Annotated[int, Bounds("[1, 1000000]")]
BatchSize = Annotated[int, Bounds(f"[1, {2**31 - 1}]")]
"""Images per step; a size above their number means all of them."""
Count = Annotated[int, Bounds(f"[1, {10**9}]")]
Repeats = Annotated[int, Bounds("[1, 999]")]
RepeatNumber = Annotated[int, Bounds("[0, 1000000]")]
"""Number of a repeat; a race has repeats beyond --repeats."""
Params = Annotated[int, Bounds(f"[1, {10**15}]")]
"""Parameters of a model."""


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
FORMS_OF_DATA = (
    '--data must be "fashion", torchvision:NAME (such as torchvision:CIFAR10), hf:NAME, '
    "module:factory, a table of image files (.csv, .parquet) or a folder with a folder of images "
    "for each class"
)
HUB = "hf:"
"""Beginning of the names of data sets and models of Hugging Face, and of folders that `datasets`
and `transformers` saved."""
TABLE_SUFFIXES = (".csv", ".parquet")
"""Endings of the tables of image files that data may be."""
TABLE_COLUMNS = ("path", "label", "split", "group")
"""Columns of such a table; the last two may be missing."""
REST = "rest"
"""Value of `Run.extra`: the images of train that `Run.train_images` leaves out."""
OBJECT = "object:"
"""Beginning of the names of objects that were passed in Python, see `config.objects`."""


def pairs(weights: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return model and weights of each MODEL=WEIGHTS."""
    return [(model, file) for model, _, file in (text.partition("=") for text in weights)]


def is_object(name: str) -> bool:
    """Return True for the name of an object that was passed in Python, such as object:SmallNet."""
    return name.startswith(OBJECT)


def is_output_file(name: str) -> bool:
    """Return True if a teacher is a file of outputs, see `kdtune.config.run`."""
    return Path(name).suffix in OUTPUT_SUFFIXES


def is_named_data(data: str) -> bool:
    """Return True if data are no path: fashion, torchvision:NAME, hf:NAME, module:factory."""
    is_word = data == "fashion" or data.startswith(HUB)
    return is_word or is_object(data) or is_function_name(data)


def is_image_table(data: str) -> bool:
    """Return True if data are a table of image files."""
    return not is_named_data(data) and Path(data).suffix in TABLE_SUFFIXES


def folder_of_data(data: str) -> Path | None:
    """Return the folder of image files that data are, or that of their table; None for a name."""
    path = Path(data).expanduser()
    if is_named_data(data):
        return None
    return path.parent if is_image_table(data) else path


def is_function_name(name: str) -> bool:
    """Return True for module:name, which is not the path of a folder."""
    return re.fullmatch(r"[A-Za-z_][\w.]+:[A-Za-z_]\w*", name) is not None


def is_named_extra(extra: str) -> bool:
    """Return True if images without labels are named, not a folder: rest, module:factory."""
    return extra == REST or is_function_name(extra)


def name_of_data(data: str) -> str:
    """Return the name of data: that of a folder, table, dataset or function."""
    if is_object(data):
        return re.sub(r"[^A-Za-z0-9_-]", "", data.removeprefix(OBJECT)).lstrip("_-") or "data"
    if is_named_data(data):
        return Path(data.removeprefix(HUB)).name.removeprefix("torchvision:").replace(":", "-")
    return Path(data).stem if is_image_table(data) else Path(data).name
