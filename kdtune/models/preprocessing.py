"""Preprocessing of a model, as its library, its factory or the user gives it.

The evaluation transform that a library publishes has two parts. Its resizing and cropping are
`crop` and `interpolation`, which are the defaults of --eval-crop and --eval-interpolation; its
scaling and normalisation are the steps from a view to the model's input.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from kdtune.config.errors import InputError, first_line
from kdtune.config.fields import requirement_error
from kdtune.config.run_data import Interpolation
from kdtune.config.user_code import user_code

EXAMPLE = '{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "size": 224}'
"""A dict that is a preprocessing, for error messages."""
MAX_SIZE = 4096
"""Greatest side of a model's input in pixels, as of `Run.teacher_size`, and number of channels."""


@dataclass(frozen=True)
class Preprocessing:
    """Steps from a view to a model's input: shrink, scale to [0, 1], normalise.

    Raises:
        InputError: a value has another type or is out of its range.
    """

    size: int | None = None
    """Side of the model's input in pixels; larger views are shrunk to it. None: any size."""
    channels: int | None = None
    """Channels of the model's input; a grey view is repeated. None: any number."""
    mean: tuple[float, ...] = (0.0,)
    """Mean of each channel, or one for all, in [0, 1]; subtracted after scaling to [0, 1]."""
    std: tuple[float, ...] = (1.0,)
    """Standard deviation of each channel, or one for all, in (0, 1]; divides the difference."""
    interpolation: Interpolation = "bilinear"
    """Interpolation with which larger images are shrunk; that of the published evaluation transform
    is the default of `Run.eval_interpolation`."""
    crop: float | None = None
    """Side of the central crop of the published evaluation transform, as a share of the resized
    image's shorter side, in (0, 1]: the default of `Run.eval_crop`. None: it is not known."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # a list of JSON, or one number
            value = getattr(self, name)
            values = tuple(value) if isinstance(value, list | tuple) else (value,)
            object.__setattr__(self, name, values)
        if isinstance(self.size, list | tuple) and len(set(self.size)) == 1:  # (224, 224)
            object.__setattr__(self, "size", self.size[0])
        _check(self)

    def __call__(self, views: Tensor) -> Tensor:
        """Return the model's input, float32 [B, channels, size, size].

        Args:
            views: uint8 [B, C, H, W].
        """
        mean, std = _by_channel(self.mean, views.device), _by_channel(self.std, views.device)
        return self.normalized(views, mean, std)

    def normalized(self, views: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the model's input as `__call__` does, with numbers that the caller keeps.

        Args:
            views: uint8 [B, C, H, W].
            mean: that of `mean`, float32 [1, C or 1, 1, 1], on the device of the views.
            std: that of `std`, of the same shape.
        """
        x = views.float() / 255
        if self.channels == 3 and x.shape[1] == 1:
            x = x.expand(-1, 3, -1, -1)
        if self.size and x.shape[-1] > self.size:
            x = _shrunk(x, self.size, self.interpolation)
        return (x - mean) / std

    @property
    def identity(self) -> str:
        """Text that changes with everything that the input depends on, given the view."""
        # as in version 0.1, which had neither the other interpolations nor the crop
        named = (f"{name}={getattr(self, name)!r}" for name in ("size", "channels", "mean", "std"))
        text = f"Preprocessing({', '.join(named)})"
        return text if self.interpolation == "bilinear" else f"{text}, {self.interpolation}"

    def check_channels(self, views: Tensor, name: str) -> None:
        """Raise InputError if the numbers of mean and std do not fit the views, uint8 [B, C, H, W].

        Args:
            views: of the data.
            name: of the model.
        """
        channels = 3 if self.channels == 3 and views.shape[1] == 1 else views.shape[1]
        for number in ("mean", "std"):
            if len(values := getattr(self, number)) not in (1, channels):
                raise InputError(
                    f"the {number} of {name} must be one number, or one for each channel of the "
                    f"images ({channels}), but got {' '.join(map(str, values))}; give "
                    f"--teacher-{number} or --student-{number}"
                )


@lru_cache(maxsize=32)
def _by_channel(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return one value per channel, float32 [1, C, 1, 1].

    It is kept on the device: a copy of values to a GPU makes each batch wait for the one before.
    """
    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def _shrunk(x: Tensor, size: int, interpolation: Interpolation) -> Tensor:
    """Return images, float32 [B, C, H, W] in [0, 1], with another height and width."""
    if interpolation == "nearest":
        return F.interpolate(x, [size, size], mode="nearest-exact")
    x = F.interpolate(x, [size, size], mode=interpolation, antialias=True, align_corners=False)
    return (
        x.clamp(0, 1) if interpolation == "bicubic" else x
    )  # as for bytes, which cannot overshoot


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Return the steps in words, such as "size 224 (bilinear), mean 0.5, std 0.5"."""
    p = preprocessing
    size = f"size {p.size} ({p.interpolation}), " if p.size else ""
    return f"{size}mean {_shown(p.mean)}, std {_shown(p.std)}"


def _shown(values: tuple[float, ...]) -> str:
    """Return numbers in words, equal ones once."""
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else " ".join(f"{value:g}" for value in values)


# -- sources -----------------------------------------------------------------------------------


def published_by_torchvision(name: str, weights: str) -> Preprocessing:
    """Return the preprocessing of a model of torchvision.

    It is that of the weights if the file has the name of published ones, else that of the default
    ones.
    """
    every = torchvision.models.get_model_weights(name)
    file = Path(weights).name
    own = next((one for one in every if Path(one.url).name == file), every.DEFAULT)
    return _of_torchvision(own.transforms())


def published_by_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that timm publishes for weights (`pretrained_cfg`).

    The images of a transform with the crop mode "squash" are cropped here, not distorted.
    """
    channels, size, _ = config["input_size"]
    share = config.get("crop_pct") or 1.0
    resized = max(size, math.floor(size / share))  # as timm rounds; a few are padded, not cropped
    interpolation = _interpolation(config.get("interpolation"))
    mean, std = config["mean"], config["std"]
    return Preprocessing(size, channels, mean, std, interpolation, size / resized)


def _interpolation(word: object) -> Interpolation:
    """Return the interpolation of this name; bicubic for another one, such as lanczos."""
    return next((known for known in get_args(Interpolation) if known == word), "bicubic")


def of_module(net: nn.Module, name: str) -> Preprocessing | None:
    """Return the preprocessing that a user's module has; None if it has none.

    It is the attribute `preprocessing`: a `Preprocessing`, a dict of its fields, the transforms of
    torchvision's weights or a configuration of timm. Modules of timm have `pretrained_cfg`.

    Raises:
        InputError: the attribute is something else, or a value is not allowed.
    """
    with user_code(f"the preprocessing of {name} cannot be read"):
        given = getattr(net, "preprocessing", None)
    if given is not None:
        return _valid(name, given)
    for attribute in ("pretrained_cfg", "default_cfg"):
        config = getattr(net, attribute, None)
        if isinstance(config, Mapping) and {"input_size", "mean", "std"} <= config.keys():
            return _valid(name, config)
    return None


def _valid(name: str, given: object) -> Preprocessing:
    """Return the preprocessing that a module of this name has; raise InputError as `of_module`."""
    try:
        return _read(given)
    except InputError as error:
        raise InputError(f"the preprocessing of {name} is not valid: {error}") from None
    except Exception as error:  # an object that only looks like a library's
        reason = f"{type(error).__name__}: {first_line(error, 120)}"
        raise InputError(
            f"the preprocessing of {name} is not valid ({reason}); give a dict such as {EXAMPLE}"
        ) from None


def _read(given: object) -> Preprocessing:
    if isinstance(given, Preprocessing):
        return given
    if hasattr(given, "crop_size") and hasattr(given, "resize_size"):
        return _of_torchvision(given)
    if not isinstance(given, Mapping):
        raise InputError(
            f"it must be a kdtune.models.Preprocessing or a dict such as {EXAMPLE}, but is "
            f"{type(given).__name__}"
        )
    if "input_size" in given:  # timm.data.resolve_data_config
        return published_by_timm(given)
    known = [f.name for f in fields(Preprocessing)]
    if unknown := [key for key in given if key not in known]:
        raise InputError(f"its keys must be of {', '.join(known)}, but got {unknown[0]!r}")
    return Preprocessing(**given)


def _of_torchvision(transforms: Any) -> Preprocessing:
    """Return the preprocessing of torchvision's preset for the evaluation of a classifier."""
    (size, *_), (resized, *_) = transforms.crop_size, transforms.resize_size
    word = transforms.interpolation.value.removesuffix("-exact")
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Preprocessing(size, 3, mean, std, word, min(1.0, size / resized))


# -- checks ------------------------------------------------------------------------------------


def _check(p: Preprocessing) -> None:
    """Raise InputError unless all values are allowed."""
    for name in ("size", "channels"):
        value = getattr(p, name)
        whole = value is None or (type(value) is int and 1 <= value <= MAX_SIZE)
        _require(whole, name, f"be a whole number from 1 to {MAX_SIZE}, or None", value)
    for name in ("mean", "std"):
        values = getattr(p, name)
        numbers = len(values) > 0 and all(map(_is_number, values))
        _require(numbers, name, "be a number, or one for each channel", values)
    scaled = ", since images are scaled to [0, 1] first (divide numbers for 0 to 255 by 255)"
    _require(all(0 <= v <= 1 for v in p.mean), "mean", f"lie in [0, 1]{scaled}", p.mean)
    _require(all(0 < v <= 1 for v in p.std), "std", f"lie in (0, 1]{scaled}", p.std)
    channels = p.channels or max(len(p.mean), len(p.std))
    for name in ("mean", "std"):
        values = getattr(p, name)
        fits = len(values) in (1, channels)
        _require(fits, name, f"be one number, or one for each of {channels} channels", values)
    words = get_args(Interpolation)
    _require(
        p.interpolation in words, "interpolation", f"be one of {', '.join(words)}", p.interpolation
    )
    share = p.crop is None or (_is_number(p.crop) and 0 < p.crop <= 1)
    _require(share, "crop", "lie in (0, 1], or be None", p.crop)


def _require(holds: bool, name: str, requirement: str, value: object) -> None:
    if not holds:
        raise requirement_error(name, requirement, value)


def _is_number(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
