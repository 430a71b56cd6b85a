"""Checks of a study that go beyond the bounds of its fields."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import MISSING, fields, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from kdtune.config.bounds import MAX_BUDGET, MAX_CONFIGURATIONS, MAX_NUMBER, MAX_RUNS
from kdtune.config.errors import InputError
from kdtune.config.fields import check
from kdtune.config.hyperparameters import OF_STUDY, Range, covers, ends_of, is_bounded
from kdtune.config.names import is_output_file, pairs
from kdtune.config.run import Run
from kdtune.config.run_checks import check_warmup
from kdtune.config.text import shown

if TYPE_CHECKING:
    from kdtune.config.study import Study

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
