"""Configuration of a study: a run, the space searched around it and what it runs on."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from difflib import get_close_matches
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from kdtune.config.fields import (
    MAX_BUDGET,
    MAX_CONFIGURATIONS,
    MAX_CORES,
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_NUMBER,
    MAX_PARAMS,
    MAX_REPEATS,
    MAX_RUNS,
    MIN_GPU,
    ONLY_SEARCH,
    Setting,
    Value,
    check,
    check_fields,
    is_object,
    is_output_file,
    name_of_data,
    pairs,
)
from kdtune.config.files import cache_folder, join_uri
from kdtune.config.objects import KINDS, missing_error
from kdtune.config.records import Limits
from kdtune.config.run import (
    SCHEMA,
    BaseRun,
    Optimizer,
    Run,
    check_warmup,
    migrate,
    with_output_files,
    with_own_weights,
)
from kdtune.config.task import (
    OF_STUDY,
    FunctionRun,
    Mode,
    Range,
    Task,
    Values,
    check_name,
    covers,
    ends_of,
    is_bounded,
    make_task,
    name_of,
    sample_values,
    to_list_or_range,
    to_values,
)
from kdtune.config.text import InputError, shown

# Configurations that a study's search space holds.


def to_space(study: Study) -> dict[str, Values]:
    """Return the space of a study with tuples and ranges; raise InputError for anything else."""
    if study.train is None:
        return {name: to_values(name, values) for name, values in study.space.items()}
    for name in study.space:
        check_name(name)
    return {name: to_list_or_range(name, values) for name, values in study.space.items()}


def begun_with(study: Study) -> Run:
    """Return the base run with the models that the study began with, `Run.study_values`.

    These are the recorded ones as far as the study still has them, else those of the run, else the
    first of the space.
    """
    begun = dict(study.run.study_values)
    for name in OF_STUDY:
        candidates = (begun.get(name), getattr(study.run, name))
        allowed = study.space.get(name, candidates[1:])
        if isinstance(allowed, Range):
            begun[name] = next((c for c in candidates if c is not None), allowed.low)
        else:
            begun[name] = next((c for c in candidates if c in allowed), allowed[0])
    return replace(study.run, **begun, study_values=tuple(begun.items()))  # type: ignore[arg-type]


def has_effect(study: Study, name: str) -> bool:
    """Return True if a hyperparameter has an effect in some configuration, see `Study`."""
    task = study.task
    base = {other: study.base_run.value(other) for other in task.names}
    lists = (ends_of(study.values(other)) for other in task.deciding)
    every = (dict(zip(task.deciding, values, strict=True)) for values in itertools.product(*lists))
    like = task.hyperparameters[name].like
    if like is not None and name not in study.space and study.base_run.value(name) is None:
        return False  # it is what the other one is
    configs = (task.resolved(task.canonical(base | values)) for values in every)
    return any(config[name] is not None for config in configs)


def function_run(study: Study) -> FunctionRun:
    """Return the base run of a training function: the first value of each list, low of a range."""
    task = make_task(study.space, study.metric, study.mode, study.baseline, study.unless)
    values = tuple((name, ends_of(own)[0]) for name, own in study.space.items())
    return FunctionRun(task, values, study.epochs)


def grid(study: Study) -> list[BaseRun]:
    """Return the configurations of a grid, see `Study.runs`."""
    if study.search != "grid":
        return []
    lists: dict[str, Any] = dict(study.space)
    baseline = study.task.baseline if study.plain_share > 0 else {}
    if len(baseline) == 1:
        ((name, value),) = baseline.items()
        if value not in study.values(name):  # type: ignore[operator]
            lists[name] = (*study.values(name), as_declared(study, name, value))  # type: ignore[misc]
    every = [lists]
    if len(baseline) > 1:
        every.append(lists | {name: (value,) for name, value in baseline.items()})
    runs: dict[str, BaseRun] = {}
    for space in every:
        for values in itertools.product(*space.values()):
            run = study.base_run.sample(repeat=0, **dict(zip(space, values, strict=True)))
            runs.setdefault(run.config_id, run)
    return list(runs.values())


def as_declared(study: Study, name: str, value: Value) -> Value:
    """Return the value of a baseline as a float where the hyperparameter is one."""
    return float(value) if isinstance(study.base_run.value(name), float) else value


def default_run(study: Study) -> BaseRun:
    """Return the recipe's default configuration, see `Study.default`."""
    values = {n: _nearest(study.base_run.resolved_value(n), study.values(n)) for n in study.space}
    return study.base_run.sample(repeat=0, **values)


def recorded_run(study: Study, config: Mapping[str, Any]) -> BaseRun:
    """Return the run of a configuration that a record of the study has, of repeat 0.

    Raises:
        TypeError, KeyError, ValueError: It is no configuration of the study's task.
    """
    base = study.base_run
    if isinstance(base, Run):
        return base.sample(**sample_values(config, base))
    if set(config) != set(study.task.names):
        raise KeyError(f"config must have {', '.join(study.task.names)}")
    return base.sample(**{name: v for name, v in config.items() if v is not None})


def _nearest(value: Value, values: Values) -> Value:
    """Return a value if the list or range allows it, else the first one or the nearest end."""
    if covers(values, (value,)):
        return value
    if not isinstance(values, Range):
        return values[0]
    return values.low if isinstance(value, str) or value < values.low else values.high


def searched(study: Study) -> list[str]:
    """Return the hyperparameters with more than one value, see `Study.searched`."""
    several = [name for name, values in study.space.items() if len(set(ends_of(values))) > 1]
    models = ("student", "teacher", "teacher_epochs") if study.task.is_distillation else ()
    names = [name for name in models if name in several]
    names += [name for name in several if name not in models]
    first = sum(name in models for name in names)
    return [*names[:first], *_added_by_baseline(study, names), *names[first:]]


def _added_by_baseline(study: Study, names: list[str]) -> list[str]:
    """Return the hyperparameters that only the baseline gives a second value."""
    if not study.has_plain:
        return []
    given: Mapping[str, Value] = study.task.baseline
    return [n for n, v in given.items() if n not in names and set(ends_of(study.values(n))) != {v}]


def flags_without_effect(study: Study) -> list[str]:
    """Return a sentence for each flag that was given and changes nothing in any configuration."""
    given = (name for name in study.flags if name in study.task.names)
    return [
        f"--{name.replace('_', '-')} was given, but has no effect in any configuration"
        for name in given
        if not study.has_effect(name)
    ]


# Checks of a study that go beyond the bounds of its fields.


BUDGET = r"([0-9]+(?:\.[0-9]+)?)(runs|epochs|h)"
"""Form of a budget, such as 400runs."""


OF_FUNCTION = ("metric", "mode", "baseline", "unless", "epochs")
"""Fields of a study that are for a training function of its own."""


def check_study(study: Study) -> None:
    """Raise InputError if fields of a study contradict each other."""
    fits = re.match(r"\w+:/(?!/)", study.out) is None
    check(study, "out", fits, "be a folder, or a URI of an object store such as s3://BUCKET/runs")
    for name in ("cache", "warm_start"):
        check(study, name, "://" not in (getattr(study, name) or ""), "be a folder")
    whole = study.gpus_per_trial < 1 or float(study.gpus_per_trial).is_integer()
    check(study, "gpus_per_trial", whole, "be a fraction of 1 or a whole number")
    check_device(study)
    check_budget(study)
    check_size(study)  # before anything looks at each value
    if study.train is None:
        check_folds(study)
        check_named_weights(study)
        check_schedules(study)
        check_extra(study)
        check_dumped(study)
    check_function(study)
    if study.warm_start is not None and study.search == "grid":
        raise InputError("warm_start needs --search random or tpe; a grid runs all it has")
    check_space(study)


def check_schedules(study: Study) -> None:
    """Raise InputError if a configuration of the study has a warm-up as long as its training."""
    names = ("schedule", "warmup_epochs", "epochs")
    values = (ends_of(study.values(name)) for name in names)
    for schedule, warmup_epochs, epochs in itertools.product(*values):
        check_warmup(str(schedule), float(warmup_epochs), float(epochs))


def check_dumped(study: Study) -> None:
    """Raise InputError if the outputs of a teacher that is a file are to be written."""
    for name in ends_of(study.values("teacher")) if study.dump is not None else ():
        if is_output_file(str(name)):
            raise InputError(
                f"--dump needs a teacher that is a network, but {name} is a file of outputs "
                f"already; copy or convert the file itself"
            )


def check_function(study: Study) -> None:
    """Raise InputError unless the fields fit a training function, or the lack of one."""
    defaults = {f.name: f for f in fields(study)}
    if study.train is None:
        for name in OF_FUNCTION:
            default = defaults[name].default
            empty = {} if default is MISSING else default
            if getattr(study, name) != empty:
                raise InputError(
                    f"{name} is for a study of your own training function, but there is no "
                    f"train=...; leave it out"
                )
        return
    if study.run != Run():
        raise InputError(
            "run is for distillation, but the study has train=...; put what the function needs "
            "into its module, or into the space as a list of one value"
        )
    if not study.space:
        raise InputError("space must have at least one hyperparameter of train, but is empty")
    if study.stop_early and study.base_run.planned_epochs is None:
        raise InputError(
            "stop_early must know how many epochs train yields; give epochs=N, or a hyperparameter "
            "named epochs"
        )
    for name, value in study.baseline.items():
        check_value(f"baseline: {name}", value)
        if (study.plain_share == 0 or len(study.baseline) > 1) and not covers(
            study.values(name), (value,)
        ):
            raise InputError(
                f"baseline must lie in the space, but got {name}={value!r} of "
                f"{study.values(name)}; add it to the list"
            )
    if study.limits:
        raise InputError(
            "max_ms and max_params are limits on students, but the study has train=...; leave them "
            "out"
        )


def check_device(study: Study) -> None:
    """Raise InputError if the device contradicts the number of GPUs or the address."""
    allowed = {
        "auto": (True, ""),
        "cpu": (not study.gpus, "0"),
        "cuda": (study.gpus != 0, "1 or more"),
        "mps": (study.gpus in (None, 1), "1"),
    }
    fits, number = allowed[study.device]
    if not fits:
        raise InputError(
            f"--gpus must be {number} with --device {study.device}, but got --gpus {study.gpus}; "
            f"leave out one of them"
        )
    if study.device == "mps" and study.address is not None:
        raise InputError(
            f"--device must not be mps on a cluster, but got --device mps and --address "
            f"{study.address}; leave out one of them"
        )


def check_named_weights(study: Study) -> None:
    """Raise InputError if MODEL=WEIGHTS names a model that the study does not have.

    An experiment may name the weights of several students; a command that trains one of them is
    given them all.
    """
    for role in ("student", "teacher"):
        weights, values = getattr(study.run, f"{role}_weights"), study.values(role)
        if isinstance(weights, str) or isinstance(values, Range):
            continue
        models = [name for value in values for name in str(value).split("+")]
        named = [model for model, _ in pairs(weights)]
        unknown = [model for model in named if model not in models]
        if unknown and (role in study.space or len(unknown) == len(named)):
            near = get_close_matches(unknown[0], models, n=1)
            hint = f"; did you mean {near[0]}?" if near else f" ({', '.join(models)})"
            raise InputError(
                f"--{role}-weights MODEL=WEIGHTS must name a {role} of the study, but got "
                f"{unknown[0]}{hint}"
            )
        if twice := [model for model in named if named.count(model) > 1]:
            raise InputError(
                f"--{role}-weights must name each {role} once, but got {twice[0]} twice"
            )


def check_budget(study: Study) -> None:
    """Raise InputError unless the budget can be read and goes with --repeats auto."""
    match = re.fullmatch(BUDGET, study.budget or "1h")
    fits = match is not None and 0 < float(match[1]) <= MAX_BUDGET
    what = f"be a number in (0, {MAX_BUDGET}] with runs, epochs or h, such as 400runs"
    check(study, "budget", fits, what)
    if study.until_decided and study.budget is None:
        raise InputError("repeats auto must have a limit; give one, such as --budget 400runs")
    if study.budget is not None and not study.until_decided:
        raise InputError(f"budget is for --repeats auto only, but got budget={study.budget}")


def check_folds(study: Study) -> None:
    """Raise InputError if --folds meets a number of repeats that depends on the results.

    The teachers of all repeats are trained before the first trial.
    """
    given = {"--policy race": study.policy == "race", "--repeats auto": study.until_decided}
    for flag in (flag for flag, is_given in given.items() if is_given):
        if study.run.folds is not None:
            raise InputError(
                f"--folds must have a fixed number of repeats, but got {flag}; leave it out and "
                f"give the number (--repeats {2 * study.run.folds})"
            )


def check_extra(study: Study) -> None:
    """Raise InputError if images without labels have no share of any batch, or no room in one."""
    shares, sizes = ends_of(study.values("extra_share")), ends_of(study.values("batch_size"))
    largest: Any = max(shares)
    smallest: Any = min(sizes)
    if study.run.extra is not None and largest == 0:
        raise InputError(
            "--extra has no effect with --extra-share 0; give a share of each batch, such as "
            "--extra-share 0.5"
        )
    if largest > 0:  # which the run checks
        replace(study.run, extra_share=largest, batch_size=smallest)


def check_value(name: str, value: object) -> None:
    """Raise InputError unless a value can be that of a training function's hyperparameter."""
    if not isinstance(value, str) and not is_bounded(value):
        raise InputError(
            f"{name} must have finite numbers or texts as values (numbers up to {MAX_NUMBER:g}, "
            f"whole ones of 64 bits), but got {shown(value)}"
        )


def check_size(study: Study) -> None:
    """Raise InputError if the study has too many configurations, or runs, to be planned.

    They are counted without being made, so equal ones (temperature at alpha = 1) count apart.
    """
    lists = [len(values) for values in study.space.values() if not isinstance(values, Range)]
    if study.search != "grid":
        largest = max(lists, default=0)
        if largest > MAX_CONFIGURATIONS:
            raise InputError(
                f"a list of the space must have at most {MAX_CONFIGURATIONS} values, but one has "
                f"{largest}; give a range LOW..HIGH"
            )
        count, remedy = study.samples, "give fewer --samples or --repeats"
    else:
        count, remedy = math.prod(lists), "use --search random --samples N, or shorter lists"
        if count > MAX_CONFIGURATIONS:
            raise InputError(
                f"a grid must have at most {MAX_CONFIGURATIONS} configurations, but the lists have "
                f"{shown(count)} ({' * '.join(map(str, lists))}); {remedy}"
            )
    # a race decides itself how many repeats a configuration gets
    if study.policy == "all" and count * study.repeats > MAX_RUNS:
        raise InputError(
            f"a study must have at most {MAX_RUNS} runs, but {count} configurations in "
            f"{study.repeats} repeats are {count * study.repeats}; {remedy}"
        )


def check_space(study: Study) -> None:
    """Raise InputError unless each value is allowed, and has an effect somewhere."""
    for name, values in study.space.items():
        if isinstance(values, Range) and name in OF_STUDY:
            raise InputError(f"{name} must be a list, but got {values}; each is made once")
        if isinstance(values, Range) and study.search == "grid":
            raise InputError(
                f"{name} must be a list for a grid, but got {values}; --search random or tpe"
            )
        for value in ends_of(values):
            if study.train is None:
                replace(study.run, **{name: value})  # type: ignore[arg-type]
            else:
                check_value(name, value)
    for name, values in study.space.items():
        if len(set(ends_of(values))) > 1 and not study.has_effect(name):
            raise InputError(
                f"{name} is searched, but has no effect in any configuration; give it one "
                f"value (--{name.replace('_', '-')} {ends_of(values)[0]})"
            )


# JSON of a study: the content of study.json.


NOT_SAVED = ("flags", "tracker", "notify", "dump")
"""Fields that are no part of a study: how it was asked for and who hears of it. A command for
notify may hold a password."""


def to_json(study: Study, fingerprints: Mapping[str, str]) -> str:
    """Return the text of study.json, see `Study.to_json`."""
    own: dict[str, Any] = {"schema": SCHEMA, "fingerprints": dict(fingerprints)}
    others = ("train", *OF_FUNCTION) if study.train is None else ("run",)
    values = dataclasses.asdict(study)
    own |= {name: value for name, value in values.items() if name not in (*NOT_SAVED, *others)}
    if study.train is None:
        own["run"] = {n: value for n, value in own["run"].items() if n != "objects"}
    else:
        own["train"] = name_of(study.train)
    return json.dumps(own, indent=2)


def arguments_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `Study` that migrated JSON stands for.

    Raises TypeError, KeyError or ValueError if it is no study.
    """
    own = {k: v for k, v in values.items() if k not in ("schema", "fingerprints")}
    space = {k: Range(**v) if isinstance(v, dict) else v for k, v in own["space"].items()}
    run = {} if own.get("train") else {"run": Run(**own["run"])}
    return {**own, **run, "space": space}


# Objects and files of outputs in a study: those that its space lists, those that it lacks.


def take_objects(study: Study) -> None:
    """Put models that the space lists as objects into the run's objects, and drop unused ones.

    The space then lists their names. Call it while the study is being made: it is changed.

    Raises:
        InputError: The space cannot have an object.
    """
    objects, space, changes = study.run.objects, dict(study.space), dict[str, Any]()
    for role in ("teacher", "student"):
        if isinstance(values := space.get(role), list | tuple):
            names = []
            for value in values:
                name, objects = objects.named(role, value)
                names.append(name)
            space[role] = tuple(names)
            are_objects = all(a is not b for a, b in zip(names, values, strict=True))
            given = study.run.teacher_epochs is not None or "teacher_epochs" in space
            if role == "teacher" and are_objects and not given:
                changes["teacher_epochs"] = 0
    if not (objects or objects.functions):
        return
    models = {role: _models(study.run, space, role) for role in ("teacher", "student")}
    used = [study.run.data, *models["teacher"], *models["student"]]
    unused = {f"{name}=none" for name in objects.functions - set(used)}
    for role, names in models.items():
        weights = with_own_weights(getattr(study.run, f"{role}_weights"), names, objects)
        if not isinstance(weights, str):  # without those of functions that the study lacks
            weights = tuple(pair for pair in weights if pair not in unused) or "default"
        changes[f"{role}_weights"] = weights
    run = replace(study.run, **changes, objects=objects.only(used))
    object.__setattr__(study, "run", run)
    object.__setattr__(study, "space", space)


def take_output_files(study: Study) -> None:
    """Replace the paths of teachers in the space that are files by their names.

    Their paths become weights of the run. Call it while the study is being made: it is changed.

    Raises:
        InputError: Two files have the same name.
    """
    values = study.space.get("teacher")
    if not isinstance(values, list | tuple):
        return
    run = study.run
    named, weights = with_output_files(run.teacher_weights, run.teacher, values)
    if weights == run.teacher_weights:
        return
    object.__setattr__(study, "run", replace(run, teacher_weights=weights))
    object.__setattr__(study, "space", {**study.space, "teacher": named})


def _models(run: Run, space: Mapping[str, Any], role: str) -> list[str]:
    """Return the names of a study's teachers or students, the members of ensembles one by one."""
    listed = space.get(role, (getattr(run, role),))
    values = listed if isinstance(listed, tuple) else ()
    return [name for value in values for name in str(value).split("+")]


def check_objects(study: Study) -> None:
    """Raise InputError if the study names objects that have not been passed."""
    missing = {n: k for n, k in object_names(study).items() if n not in study.run.objects.passed}
    if missing:
        raise missing_error(missing, str(study.uri or study.folder))


def object_names(study: Study) -> dict[str, str]:
    """Return the name of each object of a study, with the field of a run that it is for."""
    found: dict[str, str] = {}
    for kind in KINDS:
        values: Any = (study.run.data,) if kind == "data" else study.values(kind)
        for name in (part for value in values for part in str(value).split("+")):
            if is_object(name):
                found.setdefault(name, kind)
    return found


def describe_fixed_students(study: Study) -> list[str]:
    """Return a sentence for students that begin with the same weights in every repeat."""
    passed = study.run.objects.passed
    names = [name for name in _models(study.run, study.space, "student") if name in passed]
    return [
        f"the student {name} is a module, so all repeats begin with its weights and differ only in "
        f"order, augmentation and dropout; pass a function that makes the module if the initial "
        f"weights should vary, too"
        for name in names
        if passed[name].is_module
    ]


# Trackers by name, and the packages that they need.


TrackerName = Literal["mlflow", "wandb"]
"""Trackers that a study can be sent to; the package and the extra of each have its name."""


def check_names(names: Sequence[str]) -> None:
    """Raise InputError unless each is the name of a tracker, given once."""
    known = get_args(TrackerName)
    for name in names:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"tracker must be one of {', '.join(known)}, but got {name!r}{hint}")
    if len(set(names)) < len(names):
        raise InputError(f"tracker must name each tracker once, but got {' '.join(names)}")


def check_packages(names: Sequence[str]) -> None:
    """Raise InputError unless the package of each tracker is installed."""
    for name in names:
        found = find_spec(name)
        if found is None or found.origin is None:  # a folder, such as that of wandb's runs
            raise InputError(f"--tracker {name} needs {name}: pip install 'kdtune[{name}]'")


# Configuration of a study: a run, the space searched around it and what it runs on.
#
# A `Run` is flat, so a sample of the space is laid over it with `replace(run, **sample)`, and a
# misspelt name is an error. The string under a field is the help of its flag.


Scope = Literal["last", "best", "last-5-avg"]
Format = Literal["md", "csv", "json", "latex"]
Search = Literal["grid", "random", "tpe"]
Policy = Literal["all", "race"]
KeptStudents = Literal["best", "all", "none"]
Device = Literal["auto", "cpu", "cuda", "mps"]
NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"


@dataclass(frozen=True)
class Study:
    """Configuration of a study: which configuration of the space is best, over the same repeats.

    >>> run = kdtune.Run(data="photos", student="resnet18")
    >>> space = {"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}
    >>> study = kdtune.Study(run=run, space=space, repeats=8)
    >>> len(study.runs())  # alpha = 1 has no temperature
    5
    """

    name: str = ""
    """Name of the study and of its folder in --out. By default that of the data."""
    out: Annotated[str, Setting(place=True)] = "runs"
    """Folder of all studies; on a cluster one that all machines share, or s3://BUCKET/PREFIX
    (AWS_ENDPOINT_URL selects a service other than Amazon's)."""
    run: Annotated[Run, Setting(commands=())] = field(default_factory=Run)
    space: Annotated[Mapping[str, Sequence[Any] | Range], Setting(commands=())] = field(
        default_factory=dict  # of values; models may also be objects
    )
    train: Annotated[str | Callable[..., Any] | None, Setting(commands=())] = None
    """Training function of a study of its own trials, or module:function. It is called as
    train(config, repeat), or train(config, repeat, folder) if it has a parameter of that name, and
    yields a dict of metrics per epoch, such as {"val/acc": 0.9}; see docs/extending.md. None: the
    trials are distillation runs, see `run`."""
    metric: Annotated[str, Setting(commands=())] = "val/acc"
    """Metric of `train` that decides, on val."""
    mode: Annotated[Mode | None, Setting(commands=())] = None
    """Whether the metric of `train` is to be as large as possible ("max") or as small ("min").
    None: as for kdtune's metric of the same name."""
    baseline: Annotated[Mapping[str, Value], Setting(commands=())] = field(default_factory=dict)
    """Hyperparameters of `train` with the values that they have in the baseline, such as
    {"alpha": 1.0}. Empty: there is no baseline, and so no verdict."""
    unless: Annotated[Mapping[str, Mapping[str, Value]], Setting(commands=())] = field(
        default_factory=dict
    )
    """Hyperparameters of `train` with the values of others with which they have no effect, such as
    {"temperature": {"alpha": 1.0}}. Configurations that differ in nothing else are run once."""
    epochs: Annotated[int | None, Setting(low=1, high=MAX_EPOCHS, commands=())] = None
    """Number of epochs that `train` yields, unless a hyperparameter named epochs says it. A trial
    with fewer counts as truncated. None: it is not known."""
    search: Annotated[Search, Setting(commands=ONLY_SEARCH)] = "grid"
    """How configurations are proposed: "grid" (every combination of the lists), "random", or "tpe"
    (Optuna's Tree-structured Parzen Estimator, which learns from the results). Ranges need "random"
    or "tpe"."""
    samples: Annotated[int, Setting(low=1, high=MAX_CONFIGURATIONS, commands=ONLY_SEARCH)] = 60
    """Number of configurations that "random" and "tpe" propose."""
    plain_share: Annotated[float, Setting(low=0, below=1, commands=ONLY_SEARCH)] = 0.5
    """Share of the proposals of "random" and "tpe" without distillation (alpha = 1), so that the
    baseline is tuned as hard; a grid has every setting of the other hyperparameters also at alpha =
    1. 0: only what the space holds."""
    policy: Annotated[Policy, Setting(commands=ONLY_SEARCH)] = "all"
    """How repeats are allocated: "all" (each configuration gets all repeats), or "race" (racing:
    one repeat each, more for configurations not yet eliminated, then new repeats to confirm the
    best, and others for the final numbers of the finalists and of the recipe's default)."""
    race_level: Annotated[float, Setting(above=0, below=1, commands=ONLY_SEARCH)] = 0.1
    """Error rate of racing: probability, over all interim analyses, of dropping a configuration in
    favour of an equally good one; per pair, not family-wise."""
    confirm: Annotated[int, Setting(low=0, high=MAX_CONFIGURATIONS, commands=ONLY_SEARCH)] = 3
    """Number of configurations with, and of those without distillation that "race" confirms on new
    repeats."""
    stop_early: Annotated[bool, Setting(commands=ONLY_SEARCH)] = False
    """Prune trials of the first repeat that are behind the others at the same epoch."""
    repeats: Annotated[int, Setting(low=1, high=MAX_REPEATS, commands=ONLY_SEARCH)] = 8
    """Number of repeats (random seeds) of every configuration; with "race" the maximum. Use 8 or
    more: 4 rarely reach significance. "auto": add final repeats until the difference in validation
    accuracy is decided for new repeats and new images, --budget is spent, or more repeats cannot
    decide it with these val images."""
    until_decided: Annotated[bool, Setting(commands=())] = False
    """Set by --repeats auto: add final repeats of the two finalists until they are decided, or
    cannot be."""
    level: Annotated[float, Setting(above=0, below=1, commands=ONLY_SEARCH)] = 0.05
    """Error rate of --repeats auto: probability, over all interim analyses, of a decision where
    there is no difference. Half of it is for repeats, half for val images."""
    budget: Annotated[str | None, Setting(commands=ONLY_SEARCH)] = None
    """Limit of --repeats auto for the whole study: 400runs, 20000epochs or 3h (hours, summed over
    trials). A study ends before it where it is decided, or where only more images could decide."""
    warm_start: Annotated[str | None, Setting(commands=ONLY_SEARCH, place=True)] = None
    """Folder of another study, whose best configurations "random" and "tpe" propose first."""
    keep: Annotated[KeptStudents, Setting(commands=ONLY_SEARCH)] = "best"
    """Students whose weights stay on disk once the study is complete: "best" (those of the best
    configuration, in students/), "all" (those of all runs in trials/, too) or "none". Predictions
    always stay."""
    rerun_dropped: Annotated[bool, Setting(commands=ONLY_SEARCH)] = False
    """Run the dropped runs again, see `python -m kdtune.analysis STUDY --drop TRIAL`."""
    max_ms: Annotated[float | None, Setting(above=0, high=MAX_COUNT, commands=ONLY_SEARCH)] = None
    """Limit on the student's latency at batch size 1, in milliseconds: the conclusion names the
    best student within it. All students are trained. None: no limit."""
    max_params: Annotated[int | None, Setting(low=1, high=MAX_PARAMS, commands=ONLY_SEARCH)] = None
    """Limit on the student's number of parameters, as --max-ms. None: no limit."""
    device: Device = "auto"
    """Device of the models: "cuda", "mps" (the GPU of an Apple computer), "cpu", or "auto" (cuda if
    there is such a GPU, else cpu)."""
    gpus: Annotated[int | None, Setting(low=0, high=MAX_CORES)] = None
    """Number of GPUs for the study. 0: run on CPUs. None: all GPUs there are."""
    gpus_per_trial: Annotated[float, Setting(low=MIN_GPU, high=MAX_CORES, commands=ONLY_SEARCH)] = (
        1.0
    )
    """GPUs per trial, a fraction of 1 or a whole number; 0.5 puts two trials on one GPU."""
    cpus_per_trial: Annotated[int | None, Setting(low=1, high=MAX_CORES)] = None
    """CPU cores per trial. None: 1 without a GPU; with GPUs, the machine's cores divided by the
    number of its concurrent trials. Without a GPU it is also the number of threads."""
    loader_workers: Annotated[int | None, Setting(low=0, high=MAX_CORES)] = None
    """Processes per trial that decode and augment images. 0: the trial does it itself. None: 0
    without a GPU; with one, a process for each core of the trial but one if images are files."""
    address: Annotated[str | None, Setting(commands=ONLY_SEARCH)] = None
    """Address of a running Ray cluster ("auto" on one of its machines). None: this machine only."""
    cache: Annotated[str | None, Setting(place=True)] = None
    """Folder of the cache of images, logits and features. None: kdtune in the user's cache
    folder."""
    cache_gb: Annotated[float, Setting(low=0, high=MAX_COUNT)] = 20.0
    """Maximum size of the cache in GB; least recently used entries are deleted first. 0: no
    cache."""
    tracker: Annotated[tuple[TrackerName, ...], Setting(commands=ONLY_SEARCH)] = field(
        default=(), compare=False
    )
    """Trackers that the study is sent to while it runs: mlflow, wandb (Weights & Biases), one run
    per trial. They are configured by their own variables, MLFLOW_TRACKING_URI, WANDB_MODE, .... Not
    part of study.json."""
    notify: Annotated[str | None, Setting(commands=ONLY_SEARCH, any_text=True)] = field(
        default=None, compare=False, repr=False
    )
    """Shell command that is run when the study ends, with the conclusion on its standard input and
    in KDTUNE_STUDY, KDTUNE_FOLDER, KDTUNE_STATUS (completed, failed or interrupted) and
    KDTUNE_VERDICT. Not part of study.json."""
    dump: Annotated[str | None, Setting(commands=("teacher",), place=True)] = field(
        default=None, compare=False, repr=False
    )
    """File, .parquet or .npz, for the teacher's logits on train, val and test without augmentation.
    Another study uses it with --teacher FILE --augment none, without the network. None: no file.
    Not part of study.json."""
    flags: Annotated[tuple[str, ...], Setting(commands=())] = field(
        default=(), compare=False, repr=False
    )
    """Set by the command line: the fields that flags have given. Not part of study.json."""

    def __post_init__(self) -> None:
        check(self, "run", isinstance(self.run, Run), "be a Run")
        check(self, "space", isinstance(self.space, Mapping), "be a dict of lists or Ranges")
        tracker = (self.tracker,) if isinstance(self.tracker, str) else tuple(self.tracker)
        object.__setattr__(self, "tracker", tracker)
        if self.train is None:
            take_output_files(self)
            take_objects(self)
        own = self.train if self.train is None else name_of(self.train)
        name = name_of_data(self.run.data) if own is None else own.rpartition(":")[2]
        object.__setattr__(self, "name", self.name or name)
        check_fields(self)
        object.__setattr__(self, "space", to_space(self))
        if self.train is None:
            object.__setattr__(self, "run", begun_with(self))
        fits = re.fullmatch(NAME, self.name) is not None
        check(self, "name", fits, f"match {NAME} (letters, digits, . _ -; --name)")
        check_names(self.tracker)
        check_study(self)

    @cached_property
    def base_run(self) -> BaseRun:
        """The run that samples of the space are laid over, of repeat 0 of a training function."""
        return self.run if self.train is None else function_run(self)

    @property
    def task(self) -> Task:
        """What the trials train."""
        return self.base_run.task

    def has_effect(self, name: str) -> bool:
        """Return True if a hyperparameter has an effect in some configuration of the space."""
        return has_effect(self, name)

    def values(self, name: str) -> Values:
        """Return the values of a hyperparameter: its list or range, or the one value of the run."""
        return self.space.get(name) or (self.base_run.value(name),)  # type: ignore[return-value]

    @property
    def has_plain(self) -> bool:
        """Whether the study has the baseline, for distillation alpha = 1."""
        given = self.task.baseline.items()
        if not given:
            return False
        return self.plain_share > 0 or all(v in ends_of(self.values(n)) for n, v in given)

    def runs(self) -> list[Any]:
        """Return a grid's configurations without duplicates, in the order of the space; repeat 0.

        Each setting of the other hyperparameters is also there with the values of the baseline
        (alpha = 1), unless plain_share is 0. Empty for "random" and "tpe", which propose
        configurations during the search. They are of `Run`, or `FunctionRun` with `train`.
        """
        return grid(self)

    @property
    def default(self) -> BaseRun | None:
        """The recipe's default configuration, as a run of repeat 0; None for a training function.

        Each hyperparameter has the value of `run` where its list or range allows that, else the
        first value of the list or the nearest end of the range. About one search in ten chooses a
        configuration that is worse on new data than its default (overtuning, arXiv:2506.19540), so
        every study has the default among its configurations and compares the chosen one with it.
        """
        return default_run(self) if self.task.is_distillation else None

    @property
    def searched(self) -> list[str]:
        """The hyperparameters that have more than one value in this study, the models first."""
        return searched(self)

    @property
    def is_fixed(self) -> bool:
        """Whether all trials are known from the start: each configuration in each repeat."""
        adapts = self.stop_early or self.until_decided
        return self.search == "grid" and self.policy == "all" and not adapts

    def covers(self, other: Study) -> bool:
        """Return True if every configuration of the other study is possible in this one."""
        if self.search == other.search == "grid":
            return {r.config_id for r in other.runs()} <= {r.config_id for r in self.runs()}
        return all(covers(self.values(n), other.values(n)) for n in self.task.names)

    @property
    def may_use_gpus(self) -> bool:
        """Whether the study uses GPUs where there are some."""
        return self.gpus != 0 and self.device != "cpu"

    @property
    def limits(self) -> Limits:
        """The limits on the cost of a student."""
        return Limits(self.max_ms, self.max_params)

    @property
    def uri(self) -> str | None:
        """URI of the study on an object store, out/name; None if out is a folder."""
        return join_uri(self.out, self.name) if "://" in self.out else None

    @property
    def folder(self) -> Path:
        """Folder of the study, out/name; with an object store, its local working folder."""
        if self.uri is None:
            return Path(self.out).expanduser() / self.name
        digest = hashlib.sha256(self.uri.encode()).hexdigest()[:8]
        return cache_folder() / "studies" / digest / self.name

    def absolute(self) -> Study:
        """Return the same study with absolute paths, since a trial runs in another folder."""
        paths: dict[str, Any] = (
            {} if self.uri else {"out": str(Path(self.out).expanduser().absolute())}
        )
        for name in ("cache", "warm_start"):
            if (path := getattr(self, name)) is not None:
                paths[name] = str(Path(path).expanduser().absolute())
        if self.train is None:
            paths["run"] = self.run.absolute()
        return replace(self, **paths)

    def to_json(self, fingerprints: Mapping[str, str] | None = None) -> str:
        """Return the text of study.json: schema, fingerprints and all fields of the study.

        Args:
            fingerprints: Of the data, the teacher and the student, as far as they are known.
        """
        return to_json(self, fingerprints or {})

    @staticmethod
    def from_json(text: str) -> Study:
        """Return the study of `to_json`, also of an older schema.

        Raises:
            InputError: The text is of a newer schema.
            TypeError, KeyError, ValueError: It is no study.
        """
        return Study.from_values(migrate(json.loads(text)))

    @staticmethod
    def from_values(values: Mapping[str, Any]) -> Study:
        """Return the study of JSON that `migrate` has returned; raise as `from_json` does."""
        return Study(**arguments_of(values))


# The default study, and the recipe of teachers that are given none.
#
# All other defaults are those of the fields of `Run` and `Study`.


WeightsKind = Literal["pretrained", "random", "finished"]
"""Weights that a teacher begins with: trained on other data, random, or trained on these data."""

_SHARED: dict[str, Any] = {
    **{"trainable": "all", "batch_norm": "train", "momentum": 0.9, "lr_step_size": 7},
    "lr_gamma": 0.1,
}
PRETRAINED: dict[str, Any] = _SHARED | {
    **{"optimizer": "sgd", "schedule": "cosine", "epochs": 10, "batch_size": 32},
}
"""Recipe of a teacher with pretrained weights."""
FROM_SCRATCH: dict[str, Any] = _SHARED | {
    **{"optimizer": "adamw", "schedule": "onecycle", "epochs": 30, "batch_size": 64},
}
"""Recipe of a teacher with random weights."""
LR = {
    "all layers of pretrained weights": {"sgd": 1e-3, "adamw": 1e-4},
    "the head of pretrained weights": {"sgd": 1e-1, "adamw": 1e-2},
    "random weights": {"sgd": 1e-1, "adamw": 1e-3},
}
"""Learning rate by what is trained and by the optimizer: small where features are to be kept.

The new head of an EfficientNet-Lite2 on 244 photographs of ants and bees reached 96.2 % in 10
epochs with 0.1 (sgd), 92.0 % with 0.01 and 68.9 % with 0.001: timm's initial heads are large.
"""
WEIGHT_DECAY = {"sgd": 1e-4, "adamw": 1e-2}
OPTIMIZER_DEFAULTS: Mapping[Optimizer, str] = {"sgd": "sgd", "nesterov": "sgd", "adamw": "adamw"}
"""Optimizer whose learning rate and weight decay each optimizer has by default."""
TEACHER_RECIPE = (*PRETRAINED, "lr", "weight_decay")
"""Settings of the teacher's training that depend on the kind of its weights, without teacher_."""
BATCH_NORM_OF_HEAD = "eval"
"""Mode of batch norm where only the head is trained: nothing of the backbone changes."""


def teacher_recipe(kind: WeightsKind, given: dict[str, Any]) -> dict[str, Any]:
    """Return the recipe of a teacher, with defaults for everything that is not given.

    Args:
        kind: Of its initial weights.
        given: Values by name, without "teacher_"; None for those that are not given.
    """
    known = {name: value for name, value in given.items() if value is not None}
    recipe = dict(FROM_SCRATCH if kind == "random" else PRETRAINED) | known
    layers = "the head" if recipe["trainable"] == "head" else "all layers"
    part = "random weights" if kind == "random" else f"{layers} of pretrained weights"
    recipe = {
        "lr": LR[part][OPTIMIZER_DEFAULTS[recipe["optimizer"]]],
        "weight_decay": WEIGHT_DECAY[OPTIMIZER_DEFAULTS[recipe["optimizer"]]],
        **recipe,
    }
    if recipe["trainable"] == "head":
        recipe["batch_norm"] = known.get("batch_norm", BATCH_NORM_OF_HEAD)
    if kind == "finished":
        recipe["epochs"] = known.get("epochs", 0)
    return recipe


def describe_teacher_default(name: str) -> str:
    """Return the default of a part of the teacher's recipe as a sentence for --help; else ""."""
    if name == "lr":
        rates = [
            f"{lr['sgd']:g} (sgd, nesterov) or {lr['adamw']:g} (adamw) for {part}"
            for part, lr in LR.items()
        ]
        return f"None: {'; '.join(rates)}."
    if name == "weight_decay":
        sgd, adamw = WEIGHT_DECAY["sgd"], WEIGHT_DECAY["adamw"]
        return f"None: {sgd:g} with sgd and nesterov, {adamw:g} with adamw."
    if name not in PRETRAINED:
        return ""
    usual, scratch = PRETRAINED[name], FROM_SCRATCH[name]
    text = f"None: {usual}"
    if usual != scratch:
        text += f" for pretrained weights, {scratch} for random ones"
    if name == "epochs":
        text += ", 0 for a finished teacher of kdtune"
    if name == "batch_norm":
        text += f', "{BATCH_NORM_OF_HEAD}" where only the head is trained'
    return f"{text}."


def fashion() -> Study:
    """Return the default study: does distillation help with 300 labelled images of Fashion-MNIST?

    It has eight repeats, since four rarely reach significance after Holm's correction. A trial
    takes about two seconds on one core.
    """
    run = Run(
        train_images=300,
        teacher="kdtune.models:fashion_teacher",
        teacher_weights="none",
        teacher_epochs=20,
        teacher_lr=2e-2,
        teacher_optimizer="adamw",
        teacher_weight_decay=1e-2,
        teacher_schedule="onecycle",
        teacher_batch_size=64,
        student="kdtune.models:fashion_student",
        student_weights="none",
        optimizer="adamw",
        lr=2e-2,
        weight_decay=1e-2,
        schedule="onecycle",
        epochs=60,
        batch_size=64,
    )
    return Study(run=run, space={"alpha": (0.1, 0.5, 1.0), "temperature": (1.0, 4.0)}, repeats=8)
