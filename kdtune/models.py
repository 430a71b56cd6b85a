"""Teachers and students by name, and their preprocessing.

A name is torchvision's (`resnet50`), timm's (`timm/NAME`) or `module:factory`, a function that
takes the number of classes and returns a module. The module may carry an attribute
`preprocessing`; without it images are only scaled to [0, 1].
"""

import hashlib
import importlib
import inspect
import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdtune.config import InputError, Precision
from kdtune.weights import fill, import_timm, load_weights

Layout = Literal["channels_last", "contiguous"]
"""Channels last is 1.3 to 1.4 times as fast as contiguous for ResNets on a CPU (measured)."""
MEMORY_FORMATS = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


@dataclass(frozen=True)
class Preprocessing:
    """What a model does to a view before it looks: shrink, scale to [0, 1], normalise."""

    size: int | None = None
    """Side of the model's input in pixels: larger views are shrunk to it. None: any."""
    channels: int | None = None
    """Channels of the model's input; a grey view is repeated. None: any."""
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __call__(self, views: Tensor) -> Tensor:
        """Views uint8 [B, C, H, W] to the model's input, float32 [B, channels, size, size]."""
        x = views.float() / 255
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.size and x.shape[-1] > self.size:
            shape = [self.size, self.size]
            x = F.interpolate(x, shape, mode="bilinear", antialias=True, align_corners=False)
        mean = torch.tensor(self.mean, device=x.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=x.device).view(1, -1, 1, 1)
        return (x - mean) / std


class Classifier(nn.Module):
    """A network with its preprocessing: views uint8 [B, C, H, W] to logits float32 [B, K]."""

    def __init__(self, name: str, net: nn.Module, preprocessing: Preprocessing):
        super().__init__()
        self.name, self.net, self.preprocessing = name, net, preprocessing
        self.head_name = _head_name(net, name)
        self.precision: Precision = "fp32"
        self.format = torch.contiguous_format

    @property
    def head(self) -> nn.Module:
        """The last layer, from features to logits."""
        return self.net.get_submodule(self.head_name)

    def forward(self, views: Tensor) -> Tensor:
        """Logits of the views, float32 [B, K]."""
        return self._run(self.net, self.preprocessing(views))

    def features(self, views: Tensor) -> Tensor:
        """What the head sees of the views, float32 [B, ...]."""
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            self(views)
        finally:
            hook.remove()
        return seen[0].float()

    def classify(self, features: Tensor) -> Tensor:
        """Logits of the features, float32 [B, K]; those of v are `classify(features(v))`."""
        return self._run(self.head, features)

    def place(
        self, device: torch.device, precision: Precision, layout: Layout = "channels_last"
    ) -> "Classifier":
        """Move to the device, in this precision and memory format. Returns itself."""
        self.precision = precision
        self.format = MEMORY_FORMATS[layout]
        return self.to(device, memory_format=self.format)  # type: ignore[call-overload, no-any-return]

    def freeze(self, head: bool = True) -> "Classifier":
        """Stop learning, all or all but the head. Returns itself."""
        self.requires_grad_(False)
        self.head.requires_grad_(not head)
        return self

    def set_mode(self, training: bool, batch_norm_training: bool = True) -> None:
        """Train or eval mode; in train mode the batch norm layers may stay in eval mode."""
        self.train(training)
        if training and not batch_norm_training:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def fingerprint(self, with_head: bool = True) -> str:
        """16 hex digits that change with the architecture, the preprocessing or the weights.

        The architecture counts by its name, its printed layers and, from a factory, its source:
        one file of weights loads into two architectures without a murmur.
        """
        parts = (self.name, str(self.net), str(self.preprocessing), _source(self.name))
        digest = hashlib.sha256("\0".join(parts).encode())
        for key, value in self.net.state_dict().items():
            if not with_head and key.startswith(f"{self.head_name}."):
                continue
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=self.format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            return module(x).float()  # type: ignore[no-any-return]


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


def probe(model: Classifier, views: Tensor, classes: int, whole: bool) -> None:
    """Let the model look at two views; raises InputError if it cannot, or not as it should.

    Args:
        model: on the CPU.
        views: uint8 [2, C, H, W] of the data.
        classes: K of the data.
        whole: whether all its layers learn; if not, its head must be its last operation, since
            features then stand for views.
    """
    model.set_mode(False)
    shape = list(views.shape[1:])
    try:
        with torch.no_grad():
            logits, features = model(views), model.features(views)
            from_head = model.classify(features)
            model.set_mode(True)
            model(views)
    except Exception as error:  # a user's model may raise anything
        reason = str(error).split("\n")[0][:120]
        raise InputError(f"{model.name} cannot look at views of shape {shape} ({reason})") from None
    if logits.shape != (2, classes):
        raise InputError(
            f"{model.name} must return logits [B, {classes}], but got {list(logits.shape)}"
        )
    if not whole and (from_head.shape != logits.shape or not torch.allclose(from_head, logits)):
        raise InputError(
            f"{model.name} cannot be trained with trainable=head: its last layer "
            f"{model.head_name} is not its last operation; trainable=all would do"
        )


def small_cnn(classes: int, width: int) -> nn.Module:
    """Three convolutions with batch norm, then global average pooling; grey images.

    The first has stride 2: at full resolution, pooling alone takes a quarter of a run on a CPU.
    """
    w = width
    net = nn.Sequential(
        *(nn.Conv2d(1, w, 5, stride=2, padding=2, bias=False), nn.BatchNorm2d(w), nn.ReLU()),
        *(nn.Conv2d(w, 2 * w, 3, padding=1, bias=False), nn.BatchNorm2d(2 * w), nn.ReLU()),
        nn.MaxPool2d(2),
        *(nn.Conv2d(2 * w, 4 * w, 3, padding=1, bias=False), nn.BatchNorm2d(4 * w), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * w, classes)),
    )
    net.preprocessing = Preprocessing(mean=(0.286,), std=(0.353,))  # type: ignore[assignment]
    return net


def fashion_teacher(classes: int) -> nn.Module:
    """The default study's teacher: 24,000 parameters."""
    return small_cnn(classes, width=16)


def fashion_student(classes: int) -> nn.Module:
    """The default study's student: 3,700 parameters."""
    return small_cnn(classes, width=6)


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


def _made_by(name: str, classes: int) -> object:
    """What the user's factory returns."""
    factory = _factory(name)
    try:
        return factory(classes)
    except InputError:
        raise
    except Exception as error:  # of the user's own code, whatever it is
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise InputError(
            f"{name}, called with the count of classes, {classes}, failed: "
            f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})"
        ) from error


def _construct(name: str, classes: int) -> Classifier:
    if name.startswith("timm/"):
        return _construct_timm(name, classes)
    if ":" in name:
        net = _made_by(name, classes)
        if not isinstance(net, nn.Module):
            raise InputError(f"{name} must return a torch.nn.Module, but got {type(net).__name__}")
        preprocessing = getattr(net, "preprocessing", None) or Preprocessing()
        return Classifier(name, net, preprocessing)
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


def _factory(name: str) -> Any:
    module, _, attribute = name.partition(":")
    if module == "torchvision.models":  # its functions take weights first
        raise InputError(f"a model of torchvision has its name alone, {attribute}, but got {name}")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the model {name} cannot be imported ({error})") from None


def _source(name: str) -> str:
    return inspect.getsource(importlib.import_module(name.partition(":")[0])) if ":" in name else ""


def _nearest(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name, torchvision.models.list_models(torchvision.models), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _head_name(net: nn.Module, name: str) -> str:
    layers: list[str] = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise InputError(f"{name} must have a last Linear or Conv2d layer, but has neither")
    return layers[-1]
