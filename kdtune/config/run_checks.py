"""Checks of a run's configuration beyond the type and bounds of one field; objects in it."""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdtune.config import effects
from kdtune.config.errors import InputError
from kdtune.config.fields import check
from kdtune.config.names import REST, Weights, check_weights, pairs
from kdtune.config.objects import KINDS, Objects, importable_name
from kdtune.config.teacher_outputs import check_output_file

if TYPE_CHECKING:
    from kdtune.config.run import Run


def check_run(run: "Run") -> None:
    """Raise InputError if loss, schedule, weights, repeat or teachers cannot be as given."""
    _check_loss(run)
    for name in ("lr_milestones", "teacher_lr_milestones"):
        decays = getattr(run, name)
        rising = all(a < b for a, b in itertools.pairwise(decays))
        check(run, name, rising, "be shares of the epochs in ascending order, each once")
    check_extra(run)
    if run.optimizer == "nesterov":
        check(run, "momentum", run.momentum > 0, "be greater than 0 with --optimizer nesterov")
    check_weights("teacher_weights", run.teacher_weights)
    check_output_file(run)
    check_weights("student_weights", run.student_weights)
    fits = run.repeat >= -run.teachers or run.folds is not None
    check(run, "repeat", fits, f"be {-run.teachers} or more")
    if run.teachers > 1 and run.folds is not None:
        raise InputError(
            f"--teachers must be 1 with --folds, since each repeat then has its own teacher, but "
            f"got --teachers {run.teachers}; leave out one of them"
        )
    if run.teachers > 1 and run.teacher_epochs == 0:
        raise InputError(
            f"--teachers must be 1 with --teacher-epochs 0, since all teachers would be the same, "
            f"but got --teachers {run.teachers}; fine-tune them (--teacher-epochs 10)"
        )


def _check_loss(run: "Run") -> None:
    """Raise InputError unless the loss is an objective or a sum of two different ones."""
    terms = effects.terms_of(run.loss)
    allowed = f"{', '.join(effects.objective_names())} or module:function"
    for term in terms:
        what = "one of" if len(terms) == 1 else "a sum A+B of two of"
        check(run, "loss", effects.is_objective(term), f"be {what} {allowed}")
    check(run, "loss", len(terms) <= 2, "have at most two terms, A+B")
    fits = len(set(terms)) == len(terms)
    check(run, "loss", fits, f"be a sum of two different losses ({terms[0]} alone is enough)")


def check_warmup(schedule: str, warmup_epochs: float, epochs: float) -> None:
    """Raise InputError unless a warm-up, which onecycle has not, ends before the training.

    It is no check of `Run`: of a study's configurations each must fulfil it, and not the run whose
    values they replace.
    """
    if schedule != "onecycle" and warmup_epochs >= epochs:
        raise InputError(
            f"--warmup-epochs must be less than --epochs, but got --warmup-epochs "
            f"{warmup_epochs:g} with --epochs {epochs:g}; give fewer epochs of warm-up, or more "
            f"epochs"
        )


def check_extra(run: "Run") -> None:
    """Raise InputError if images without labels and their share of a batch do not fit."""
    if run.extra_share > 0 and run.extra is None:
        raise InputError(
            f"--extra-share must be 0 without --extra, but got --extra-share {run.extra_share:g}; "
            f"give a folder of images without labels (--extra FOLDER)"
        )
    if run.extra_share > 0 and run.batch_size < 2:
        raise InputError(
            f"--batch-size must be 2 or more with --extra-share, since each batch has an image "
            f"with a label and one without, but got --batch-size {run.batch_size}"
        )
    if run.extra == REST and run.train_images is None:
        raise InputError(
            "--extra rest must have --train-images, since it means the images of train that these "
            "leave out; give their number, or a folder of images (--extra FOLDER)"
        )
    if run.extra is not None and run.extra.startswith("torchvision:"):
        raise InputError(
            f"--extra must be a folder of images, rest or module:factory, but got --extra "
            f"{run.extra}; write a function that returns the dataset, and give its module:function"
        )


def take_objects(run: "Run") -> None:
    """Put objects that were passed as data, teacher or student into `Run.objects`.

    The fields then hold their names. Call it while the run is being made: it is changed.

    Raises:
        InputError: A field cannot have the object it was given.
    """
    if run.extra is not None and not isinstance(run.extra, str):
        object.__setattr__(run, "extra", _name_of_extra(run.extra))
    # JSON has {} for no objects
    objects = run.objects if isinstance(run.objects, Objects) else Objects()
    for kind in KINDS:
        name, objects = objects.named(kind, value := getattr(run, kind))
        if name is value:
            continue
        object.__setattr__(run, kind, name)
        if kind == "data":
            continue
        weights = with_own_weights(getattr(run, f"{kind}_weights"), [name], objects)
        object.__setattr__(run, f"{kind}_weights", weights)
        if kind == "teacher" and run.teacher_epochs is None:
            object.__setattr__(run, "teacher_epochs", 0)
    object.__setattr__(run, "objects", objects)


def _name_of_extra(extra: object) -> str:
    """Return the module:function of a function that makes images without labels."""
    name = importable_name(extra) if callable(extra) else None
    if name is None:
        raise InputError(
            f"extra must be text or a function of a module that every process can import, but got "
            f"a {type(extra).__name__}; write a function that returns the images into a file, and "
            f"give its module:function"
        )
    return name


def with_own_weights(weights: Weights, names: Sequence[str], objects: Objects) -> Weights:
    """Return weights in which functions that were passed have no others than they make.

    Args:
        weights: As they were given. One value other than "default" is for all models.
        names: Of models.
        objects: Says which of them are functions. A module has its own weights by default.
    """
    if isinstance(weights, str) and weights != "default":
        return weights
    given = () if isinstance(weights, str) else weights
    known = {model for model, _ in pairs(given)}
    own = [f"{name}=none" for name in names if name in objects.functions and name not in known]
    return (*given, *own) or weights
