"""Models from objects that were passed: a module, or a function that makes one."""

import hashlib

from torch import nn

from kdtune.config.objects import Passed
from kdtune.models.classifier import Classifier
from kdtune.models.factory import call_factory
from kdtune.models.object_source import ObjectSource
from kdtune.models.preprocessing import of_module
from kdtune.models.user_source import digest_of_modules


def construct_passed(name: str, passed: Passed, classes: int) -> Classifier:
    """Return the model of an object. The object itself stays as it is.

    A module begins with the weights, modes and settings of its parameters that it was passed with,
    each time. A function is called for each model.

    Args:
        name: of the object.
        passed: the object.
        classes: K of the data.

    Raises:
        InputError: the object makes no module.
    """
    own = passed.fresh()
    net = own if isinstance(own, nn.Module) else call_factory(own, name, classes)
    net = unwrapped(net)
    return Classifier(name, net, of_module(net, name), _source_digest(passed, net))


def unwrapped(net: nn.Module) -> nn.Module:
    """Return the module inside of one that only runs it: torch.compile's or DataParallel."""
    while True:
        if isinstance(inner := getattr(net, "_orig_mod", None), nn.Module):
            net = inner
        elif isinstance(net, nn.DataParallel | nn.parallel.DistributedDataParallel):
            net = net.module
        else:
            return net


def source_of(passed: Passed) -> ObjectSource:
    """Return the code behind an object."""
    return passed.once("source", lambda: ObjectSource.of(passed.value))  # type: ignore[no-any-return]


def _source_digest(passed: Passed, net: nn.Module) -> str:
    """Return a digest that changes with the code of an object and of its network."""
    source = source_of(passed)
    text = source.digest + digest_of_modules(source.modules, net)
    return hashlib.sha256(text.encode()).hexdigest()
