"""Teachers and students by name, with their preprocessing.

A name is one of torchvision (`resnet50`), of kdtune (`cifar_resnet20`), of timm (`timm/NAME`) or
`module:factory`, a function or class of the user's that takes the number of classes, if anything,
and makes a torch module; or that of a passed object, such a factory or a module. The preprocessing
of the first three is the published one; for the others see `of_module`.
"""

import importlib
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
import torchvision
from torch import nn

from kdtune.config.errors import InputError, first_line
from kdtune.config.names import Role, is_object
from kdtune.config.objects import Passed
from kdtune.config.run import Run
from kdtune.config.user_code import user_code
from kdtune.models.checkpoints import SUFFIXES, StateDict
from kdtune.models.cifar import CIFAR_RESNETS, cifar_resnet, translate
from kdtune.models.classifier import Classifier
from kdtune.models.factory import call_factory, check_new
from kdtune.models.finished import read_finished
from kdtune.models.passed import construct_passed
from kdtune.models.preprocessing import of_module, published_by_timm, published_by_torchvision
from kdtune.models.user_source import source_digest
from kdtune.models.weights import fill, import_timm, load_weights


@dataclass(frozen=True)
class OwnModel:
    """Model of kdtune."""

    make: Callable[[int], nn.Module]
    """Makes the network for a number of classes, with an attribute `preprocessing`."""
    translate: Callable[[str, StateDict], StateDict] = lambda what, state: state
    """Renames the keys of published weights; the first argument is the weights in words."""


OWN_MODELS = {
    name: OwnModel(partial(cifar_resnet, name), partial(translate, name)) for name in CIFAR_RESNETS
}
"""Models of kdtune by name."""
MAX_SUGGESTIONS = 3
PREPROCESSING = ("mean", "std", "size", "interpolation")
"""Fields of a run, each for teacher and student, that replace those of a model."""


def build(
    name: str,
    weights: str,
    classes: int,
    *,
    seed: int,
    replace_head: bool = True,
    passed: Passed | None = None,
) -> Classifier:
    """Return the model of this name with these weights; what is random follows from the seed.

    Args:
        name: torchvision's or kdtune's name, timm/NAME, module:factory or that of an object.
        weights: "default", "none" or a file, see `load_weights`.
        classes: K of the data.
        seed: of the initial weights.
        replace_head: whether a head for another number of classes may be replaced by a new one.
        passed: the object, whose own weights are the "default".

    Raises:
        InputError: the name is unknown, the weights cannot be read or do not fit, or the head has
            the wrong size.
    """
    with _seeded(seed):
        model = construct_passed(name, passed, classes) if passed else _construct(name, classes)
        if weights != "none" and (passed is None or weights != "default"):
            what = f"{name}'s weights {weights}"
            state = load_weights(name, weights)
            if name in OWN_MODELS:
                state = OWN_MODELS[name].translate(what, state)
            model.has_new_head = fill(model.net, state, model.head_name, what, replace_head)
    return model


def build_model(
    run: Run,
    role: Role,
    classes: int,
    *,
    seed: int,
    replace_head: bool = True,
    weights: str | None = None,
) -> Classifier:
    """Return the teacher (no ensemble) or the student of a run; see `build`.

    Args:
        run: names the model, its weights and what differs from the model's own preprocessing, or
            from that which the weights were fine-tuned with.
        role: "teacher" or "student".
        classes: K of the data.
        seed: of the initial weights.
        replace_head: see `build`.
        weights: instead of those that the run names. With "none" the preprocessing is still that
            of the weights that the run names.
    """
    name, own = getattr(run, role), run.weights_of(role)
    weights = own if weights is None else weights
    finished = read_finished(Path(own if weights == "none" else weights).expanduser())
    passed = run.objects.get(role, name) if is_object(name) else None
    try:
        model = build(name, weights, classes, seed=seed, replace_head=replace_head, passed=passed)
    except InputError:
        if finished is None or finished.model == name:
            raise
        raise InputError(
            f"{weights} holds the teacher {finished.model}, but --{role} is {name}; give --{role} "
            f"{finished.model}"
        ) from None
    if role == "student" or run.teacher_epochs != 0:  # a teacher that stays as it is may be shared
        check_new(model.net, name)
    if finished is not None:
        model.preprocessing, model.is_normalized = finished.preprocessing, True
    elif name in torchvision_names():  # a fine-tuned model keeps that of its initial weights
        model.preprocessing = published_by_torchvision(name, own)
    given = {field: getattr(run, f"{role}_{field}") for field in PREPROCESSING}
    given = {field: value for field, value in given.items() if value is not None}
    try:
        model.preprocessing = replace(model.preprocessing, **given)
    except InputError as error:  # which begins with the name of the field
        raise InputError(f"{role}_{error}") from None
    model.is_normalized |= "mean" in given or "std" in given
    return model


@cache
def torchvision_names() -> frozenset[str]:
    """Return the names of torchvision's classifiers."""
    return frozenset(torchvision.models.list_models(torchvision.models))


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python for a factory; restore their states at the end.

    So are the settings of torch that a factory or its module may change, such as those of a script
    for inference: gradients and the type of new tensors.
    """
    # the global generators, since a user's factory draws from them
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    dtype = torch.get_default_dtype()
    with torch.enable_grad(), torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
            torch.set_default_dtype(dtype)


def _construct(name: str, classes: int) -> Classifier:
    if name in OWN_MODELS:
        net = OWN_MODELS[name].make(classes)
        return Classifier(name, net, net.preprocessing)  # type: ignore[arg-type]
    if name in torchvision_names():
        net = torchvision.models.get_model(name, weights=None, num_classes=classes)
        return Classifier(name, net, published_by_torchvision(name, "default"))
    if Path(name).suffix in SUFFIXES or _is_file(name):
        raise InputError(
            f"--teacher and --student must name an architecture, but got the file {name}. Give the "
            f"file as --teacher-weights or --student-weights, and its architecture as --teacher or "
            f"--student. A teacher that is only a file of its outputs ends in .parquet or .npz."
        )
    if name.startswith("timm/"):
        return _construct_timm(name, classes)
    if ":" in name:
        return _construct_own(name, classes)
    raise InputError(
        f"{name!r} is not a classifier of torchvision or kdtune, and models can also be named "
        f"timm/NAME or module:factory{_nearest(name)}"
    )


def _is_file(name: str) -> bool:
    """Return True if a name is that of a file; False for one that no file can have."""
    with suppress(OSError, RuntimeError, ValueError):  # too long; of an unknown user; with a NUL
        return Path(name).expanduser().is_file()
    return False


def _construct_timm(name: str, classes: int) -> Classifier:
    timm = import_timm(name)
    try:
        net = timm.create_model(name.removeprefix("timm/"), pretrained=False, num_classes=classes)
    except RuntimeError as error:
        near = _nearest(name) or f" ({first_line(error)})"
        raise InputError(f"timm has no model {name.removeprefix('timm/')}{near}") from None
    return Classifier(name, net, published_by_timm(net.pretrained_cfg))


def _construct_own(name: str, classes: int) -> Classifier:
    """Return the model that a user's factory makes."""
    home, _, attribute = name.partition(":")
    of_torchvision = home.startswith("torchvision.models.") and attribute in torchvision_names()
    if home == "torchvision.models" or of_torchvision:  # its functions take weights first
        raise InputError(f"models of torchvision are given by name; use {attribute} for {name}")
    with user_code(f"the model {name} cannot be imported"):
        module = importlib.import_module(home)
        factory = getattr(module, attribute)
    net = call_factory(factory, name, classes)
    return Classifier(name, net, of_module(net, name), source_digest(module, net))


def _nearest(name: str) -> str:
    """Return "; did you mean ...?" with the models of the most similar names, or "" if none is.

    Names that contain the given one come first. Of timm's, those with weights are suggested.
    """
    wanted = name.removeprefix("timm/").lower().replace("-", "_").partition(".")[0]
    names = [*OWN_MODELS, *sorted(torchvision_names())]
    with suppress(InputError):  # timm is not installed
        published = import_timm(name).list_models(pretrained=True)
        of_timm = [f"timm/{tagged.partition('.')[0]}" for tagged in published]
        names = [*of_timm, *names] if name.startswith("timm/") else [*names, *of_timm]
    found: dict[str, str] = {}
    for one in names:
        found.setdefault(one.removeprefix("timm/"), one)
    inside = sorted((bare for bare in found if wanted and wanted in bare), key=len)
    similar = get_close_matches(wanted, found, n=MAX_SUGGESTIONS)
    best = [found[bare] for bare in dict.fromkeys([*inside, *similar])][:MAX_SUGGESTIONS]
    return f"; did you mean {', '.join(best)}?" if best else ""
