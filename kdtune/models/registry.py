"""Teachers and students by name, and their preprocessing.

A name is torchvision's (`resnet50`), timm's (`timm/NAME`) or `module:factory`, a function that
takes the number of classes and returns a module. The module may carry an attribute
`preprocessing`; without it images are only scaled to [0, 1].
"""

import importlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from kdtune.config.errors import InputError
from kdtune.config.user_code import user_code
from kdtune.models.classifier import Classifier, Preprocessing
from kdtune.models.user_source import source_digest
from kdtune.models.weights import fill, import_timm, load_weights


def build(
    name: str, weights: str, classes: int, *, seed: int, replace_head: bool = True
) -> Classifier:
    """The model of this name with these weights, its random parts drawn from the seed.

    Args:
        name: torchvision name, timm/NAME or module:factory.
        weights: "default", "none" or a file, see `load_weights`.
        classes: K of the data.
        seed: of the initial weights.
        replace_head: whether a head of another size may be replaced by a fresh one.

    Raises:
        InputError: unknown name, unreadable or unfitting weights, a head of the wrong size.
    """
    with _seeded(seed):
        model = _construct(name, classes)
        if weights != "none":
            what = f"{name}'s weights {weights}"
            state = load_weights(name, weights)
            fill(model.net, state, model.head_name, what, replace_head)
    return model


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed all that a factory may draw from, torch, numpy and Python; give back what was there."""
    # the global generators, since those are what a user's factory draws from
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


def _construct(name: str, classes: int) -> Classifier:
    if name.startswith("timm/"):
        return _construct_timm(name, classes)
    if ":" in name:
        return _construct_own(name, classes)
    if name not in torchvision.models.list_models(torchvision.models):
        raise InputError(
            f"{name!r} is no classifier of torchvision{_nearest(name)}; timm/NAME and "
            f"module:factory are the other ways to name a model"
        )
    net = torchvision.models.get_model(name, weights=None, num_classes=classes)
    seen = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    size = seen.crop_size[0]
    return Classifier(name, net, Preprocessing(size, 3, tuple(seen.mean), tuple(seen.std)))


def _construct_timm(name: str, classes: int) -> Classifier:
    timm = import_timm(name)
    try:
        net = timm.create_model(name.removeprefix("timm/"), pretrained=False, num_classes=classes)
    except RuntimeError as error:
        raise InputError(f"timm has no model {name.removeprefix('timm/')} ({error})") from None
    seen = net.pretrained_cfg
    channels, size, _ = seen["input_size"]
    return Classifier(name, net, Preprocessing(size, channels, seen["mean"], seen["std"]))


def _construct_own(name: str, classes: int) -> Classifier:
    """What the user's factory returns."""
    home, _, attribute = name.partition(":")
    if home == "torchvision.models":  # its functions take weights first
        raise InputError(f"a model of torchvision has its name alone, {attribute}, but got {name}")
    with user_code(f"the model {name} cannot be imported"):
        module = importlib.import_module(home)
        factory = getattr(module, attribute)
    with user_code(f"{name}, called with the count of classes, {classes}, failed"):
        net: Any = factory(classes)
    if not isinstance(net, nn.Module):
        raise InputError(f"{name} must return a torch.nn.Module, but got {type(net).__name__}")
    preprocessing = getattr(net, "preprocessing", None) or Preprocessing()
    return Classifier(name, net, preprocessing, source_digest(module, net))


def _nearest(name: str) -> str:
    near = get_close_matches(name, torchvision.models.list_models(torchvision.models), n=1)
    return f"; did you mean {near[0]}?" if near else ""
