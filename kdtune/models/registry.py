"""Teachers and students by name."""

import hashlib
import inspect
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch
from torch import nn

from kdtune.config.fields import HUB, Role, is_object
from kdtune.config.objects import Passed
from kdtune.config.run import Run
from kdtune.config.text import (
    InputError,
    did_you_mean,
    first_line,
    import_named,
    import_package,
    user_code,
)
from kdtune.models import classifier
from kdtune.models.cifar import CIFAR_RESNETS, cifar_resnet, translate
from kdtune.models.classifier import Classifier, preprocessing_of, published_by_transformers
from kdtune.models.code_hash import source_digest, source_of
from kdtune.models.weights import (
    HUB_LOADING,
    StateDict,
    align,
    fill,
    hub_model,
    is_of_torchvision,
    load_weights,
    read_finished,
    torchvision_names,
)

# Calls of a user's factory: a function or class that makes a torch module.

CLASS_KEYWORDS = ("num_classes", "n_classes", "classes", "nb_classes", "num_labels")
"""Names of parameters that are the number of classes."""


def call_factory(factory: object, name: str, classes: int) -> nn.Module:
    """Return the module that a factory makes.

    The number of classes is passed by keyword if a parameter has a name of `CLASS_KEYWORDS`; else
    as the first required positional argument or in `*args`; else as `num_classes` to `**kwargs`.
    Other factories are called without it; `probe` checks that their logits fit.

    Args:
        factory: a function or a class.
        name: as the user gives it, module:factory.
        classes: K of the data.

    Raises:
        InputError: the factory is not callable, needs other arguments, fails, or returns no module.
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise InputError(
            f"{name} must be a function or class that makes a torch.nn.Module, but is a "
            f"{type(factory).__name__}. Write a function of the number of classes that returns it."
        )
    values, named = _arguments(factory, name, classes)
    with user_code(f"the factory {name} failed"):
        net = factory(*values, **named)
    if not isinstance(net, nn.Module):
        got = f"the class {net.__name__}" if isinstance(net, type) else type(net).__name__
        raise InputError(f"{name} must return a torch.nn.Module, but got {got}")
    return net


def _arguments(
    factory: Callable[..., Any], name: str, classes: int
) -> tuple[list[int], dict[str, int]]:
    """Return the values and keywords that a factory is called with, see `call_factory`.

    Raises InputError if the factory requires more than the number of classes.
    """
    with user_code(f"the parameters of {name} cannot be read"):
        signature = inspect.signature(factory)
    parameters = signature.parameters.values()
    by_name = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    keyword = next((word for word in CLASS_KEYWORDS if word in by_name), None)
    values, named = list[int](), dict[str, int]()
    if keyword is not None:
        named = {keyword: classes}
    elif any(p.kind < p.KEYWORD_ONLY and p.default is p.empty for p in parameters):  # or *args
        values = [classes]
    elif any(p.kind is p.VAR_KEYWORD for p in parameters):
        named = {"num_classes": classes}
    try:
        signature.bind(*values, **named)
    except TypeError as error:
        raise InputError(
            f"{name} must require nothing but the number of classes ({error}). Write a function "
            f"`def net(num_classes)` that calls it."
        ) from None
    return values, named


_trained: WeakValueDictionary[int, nn.Module] = WeakValueDictionary()
"""Modules that factories have made to be trained and that are still in use, by id."""


def check_new(net: nn.Module, name: str) -> None:
    """Raise InputError if a module that is to be trained has been made for another run already."""
    if _trained.get(id(net)) is net:
        raise InputError(
            f"{name} must make a new module in each call, but has returned the same module twice; "
            f"construct it inside the function, or return copy.deepcopy of it"
        )
    _trained[id(net)] = net


# Models from objects that were passed: a module, or a function that makes one.


def _construct_passed(name: str, passed: Passed, classes: int) -> Classifier:
    """Return a classifier made from a passed object, which is not changed.

    A module is copied, with its weights, train or eval modes and requires_grad. A function is
    called for each model.
    """
    value = passed.fresh()
    net = value if isinstance(value, nn.Module) else call_factory(value, name, classes)
    net = _unwrapped(net)
    source = source_of(passed)
    text = source.digest + source_digest(source.modules, net)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Classifier(name, net, preprocessing_of(net, name), digest)


def _unwrapped(net: nn.Module) -> nn.Module:
    """Return the module inside the wrappers of torch.compile and DataParallel."""
    while True:
        if isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        elif isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        else:
            return net


# Teachers and students by name, with their preprocessing. A name is one of
#
# - torchvision (`resnet50`), kdtune (`cifar_resnet20`), timm (`timm/NAME`) or transformers
#   (`hf:NAME`, `hf:FOLDER`): the preprocessing is the published one
# - `module:factory`: a function or class of the user that makes a torch module, perhaps of the
#   number of classes
# - `object:NAME`: such a factory, or a module, passed in Python
#
# For the last two see `preprocessing_of`.

MAX_SUGGESTIONS = 3
PRETRAINING = 1_000
"""Classes of ImageNet: weights for as many or more are there to be trained on other data."""
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
    config: str = "",
) -> Classifier:
    """Return a classifier by name, with these weights; random weights follow from the seed.

    Args:
        name: torchvision's or kdtune's name, timm/NAME, hf:NAME, module:factory or that of an
            object.
        weights: "default", "none" or a file, see `load_weights`.
        classes: K of the data.
        seed: of the initial weights.
        replace_head: whether a head for another number of classes may be replaced by a new one.
        passed: the object, whose own weights are the "default".
        config: of hf:NAME, as `Classifier.source` of the same model has it; "": the published one.

    Raises:
        InputError: the name is unknown, the weights cannot be read or do not fit, or the head has
            the wrong size.
    """
    with _seeded(seed):
        if passed is not None:
            model = _construct_passed(name, passed, classes)
        elif name.startswith(HUB):
            model = _construct_transformers(name, classes, config)
        else:
            model = _construct(name, classes)
        if weights != "none" and (passed is None or weights != "default"):
            noun = f"{name}'s weights {weights}"
            state = _load_state(name, weights)
            model.has_new_head = fill(model.net, state, model.head_name, noun, replace_head)
    return model


def _load_state(name: str, weights: str) -> StateDict:
    state = load_weights(name, weights)
    return translate(state) if name in CIFAR_RESNETS else state


def describe_new_head(model: Classifier, weights: str, classes: int) -> str:
    """Return that a model gets a random head, since a file of weights is for other classes; or "".

    Nothing is said of weights for `PRETRAINING` classes or more, whose head nobody expects to keep.

    Args:
        model: With any weights.
        weights: "default", "none" or a file.
        classes: K of the data.
    """
    if weights in ("default", "none"):
        return ""
    state = align(_load_state(model.name, weights), model.net.state_dict())
    head = state.get(f"{model.head_name}.weight")
    if head is None or len(head) == classes or len(head) >= PRETRAINING:
        return ""
    return (
        f"the weights {weights} of {model.name} are for {len(head)} classes, but the data has "
        f"{classes}, so its last layer begins with random weights; if that is not intended, give "
        f"weights for {classes} classes"
    )


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
    name, run_weights = getattr(run, role), run.weights_of(role)
    weights = run_weights if weights is None else weights
    file = run_weights if weights == "none" else weights  # its preprocessing is used all the same
    finished = read_finished(Path(file).expanduser())
    passed = run.objects.get(role, name) if is_object(name) else None
    try:
        model = build(name, weights, classes, seed=seed, replace_head=replace_head, passed=passed)
    except InputError:
        if finished is None or finished.model == name:
            raise
        raise InputError(
            f"{file} holds the teacher {finished.model}, but --{role} is {name}; give --{role} "
            f"{finished.model}"
        ) from None
    if role == "student" or run.teacher_epochs != 0:  # runs may share what is not trained
        check_new(model.net, name)
    if finished is not None:
        model.preprocessing, model.has_normalization = finished.preprocessing, True
    elif is_of_torchvision(name):
        model.preprocessing = classifier.published_by_torchvision(name, run_weights)
    fields = {field: getattr(run, f"{role}_{field}") for field in PREPROCESSING}
    changed = {field: value for field, value in fields.items() if value is not None}
    try:
        model.preprocessing = replace(model.preprocessing, **changed)
    except InputError as error:  # its text begins with the field, which becomes student_mean, ...
        raise InputError(f"{role}_{error}") from None
    model.has_normalization |= "mean" in changed or "std" in changed
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch, numpy and Python for a factory; restore their states at the end.

    Gradients are enabled, and the default type of new tensors is restored at the end, since a
    factory or its module may change them, as a script for inference does.
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
    if name in CIFAR_RESNETS:
        net = cifar_resnet(name, classes)
        return Classifier(name, net, net.preprocessing)  # type: ignore[arg-type]
    if is_of_torchvision(name):
        from torchvision.models import get_model

        net = get_model(name, weights=None, num_classes=classes)
        return Classifier(name, net, classifier.published_by_torchvision(name, "default"))
    if name.startswith("timm/"):
        return _construct_timm(name, classes)
    if ":" in name:
        net = call_factory(import_named("the model", name), name, classes)
        source = source_digest([name.partition(":")[0]], net)
        return Classifier(name, net, preprocessing_of(net, name), source)
    raise InputError(
        f"{name!r} is not a classifier of torchvision or kdtune; other models are named "
        f"timm/NAME, hf:NAME or module:factory, and a file of weights is given as "
        f"--teacher-weights or --student-weights{_nearest(name)}"
    )


def _construct_timm(name: str, classes: int) -> Classifier:
    timm = import_package("timm", name)
    try:
        net = timm.create_model(name.removeprefix("timm/"), pretrained=False, num_classes=classes)
    except RuntimeError as error:
        near = _nearest(name) or f" ({first_line(error)})"
        raise InputError(f"timm has no model {name.removeprefix('timm/')}{near}") from None
    return Classifier(name, net, classifier.published_by_timm(net.pretrained_cfg))


def _construct_transformers(name: str, classes: int, config: str) -> Classifier:
    """Return an image classifier of transformers.

    Args:
        name: hf:NAME or hf:FOLDER.
        classes: K of the data.
        config: JSON of a config for K classes, without preprocessing. "": the published config and
            preprocessing.
    """
    library, source, steps = import_package("transformers", name), hub_model(name), None
    with user_code(f"{name} must be an image classifier of huggingface.co or a folder of one"):
        if config:
            settings = library.AutoConfig.for_model(**json.loads(config))
        else:
            settings = library.AutoConfig.from_pretrained(source, trust_remote_code=False)
            settings.num_labels = classes
        net = library.AutoModelForImageClassification.from_config(settings, **HUB_LOADING)
        if not config:
            processor = library.AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
            steps = published_by_transformers(processor, name, getattr(settings, "num_channels", 3))
    net.register_forward_hook(lambda net, inputs, outputs: outputs.logits)
    written = settings.to_diff_dict()
    written.pop("transformers_version", None)
    return Classifier(name, net, steps, config or json.dumps(written, sort_keys=True))


def _nearest(name: str) -> str:
    """Return "; did you mean ...?" with the models of the most similar names, or "" if none is.

    Of timm, only models with published weights are suggested.
    """
    names = [*CIFAR_RESNETS, *sorted(torchvision_names())]
    with suppress(InputError):  # timm is not installed
        published = import_package("timm", name).list_models(pretrained=True)
        names += [f"timm/{tagged.partition('.')[0]}" for tagged in published]
    return did_you_mean(name, names, 0.6, MAX_SUGGESTIONS)
