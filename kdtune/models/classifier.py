"""Classifiers: a network with its preprocessing, from views to logits."""

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import ConfigDict
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdtune.config.fields import check, check_fields
from kdtune.config.run import Interpolation, Pixels, PositiveShare, Precision, Share
from kdtune.config.text import InputError, are_images, first_line, user_code

# Preprocessing of a model, as its library, its factory or the user gives it.
#
# The evaluation transform that a library publishes has two parts. Its resizing and cropping are
# `crop` and `interpolation`, which are the defaults of --eval-crop and --eval-interpolation; its
# scaling and normalisation are the steps from a view to the model's input.

EXAMPLE = '{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "size": 224}'
"""A dict that is a preprocessing, for error messages."""


@dataclass(frozen=True)
class Preprocessing:
    """Steps from a view to a model's input: shrink, scale to [0, 1], normalise.

    Raises:
        InputError: a value has another type or is out of its range.
    """

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)
    size: Pixels | None = None
    """Side of the model's input in pixels; larger views are shrunk to it. None: any size."""
    channels: Pixels | None = None
    """Channels of the model's input; grey views are repeated if it is 3. None: any number."""
    mean: tuple[Share, ...] = (0.0,)
    """Mean of each channel, or one for all, in [0, 1]; subtracted after scaling to [0, 1]."""
    std: tuple[PositiveShare, ...] = (1.0,)
    """Standard deviation of each channel, or one for all, in (0, 1]; divides the difference."""
    interpolation: Interpolation = "bilinear"
    """Interpolation with which larger images are shrunk; that of the published evaluation transform
    is the default of `Run.eval_interpolation`."""
    crop: PositiveShare | None = None
    """Side of the central crop of the published evaluation transform, as a share of the resized
    image's shorter side, in (0, 1]: the default of `Run.eval_crop`. None: it is not known."""

    def __post_init__(self) -> None:
        for name in ("mean", "std"):  # a list of JSON, or one number
            value = getattr(self, name)
            values = tuple(value) if isinstance(value, list | tuple) else (value,)
            object.__setattr__(self, name, values)
        if isinstance(self.size, list | tuple) and len(set(self.size)) == 1:  # (224, 224)
            object.__setattr__(self, "size", self.size[0])
        check_fields(self)
        channels = self.channels or max(len(self.mean), len(self.std))
        requirement = f"be one number, or one for each of {channels} channels"
        for name in ("mean", "std"):
            check(self, name, 0 < len(getattr(self, name)) in (1, channels), requirement)

    def __call__(self, views: Tensor) -> Tensor:
        """Return the model's input, float32 [B, C, H, W] with sides of at most `size`.

        Args:
            views: uint8 [B, C, H, W].
        """
        mean, std = _by_channel(self.mean, views.device), _by_channel(self.std, views.device)
        return self.normalized(views, mean, std)

    def normalized(self, views: Tensor, mean: Tensor, std: Tensor) -> Tensor:
        """Return the model's input as `__call__` does, with mean and std that the caller passes.

        `TrainedStudent` has them as buffers, so that a traced graph has them as constants.

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
        """Text that changes with everything that the model's input depends on, besides the view."""
        # Fingerprints of version 0.1 must stay valid, which knew bilinear alone. `crop` changes the
        # view, which is hashed elsewhere.
        named = (f"{name}={getattr(self, name)!r}" for name in ("size", "channels", "mean", "std"))
        text = f"Preprocessing({', '.join(named)})"
        return text if self.interpolation == "bilinear" else f"{text}, {self.interpolation}"


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
    # bicubic overshoots; bytes would be clipped to the range
    return x.clamp(0, 1) if interpolation == "bicubic" else x


def describe_preprocessing(preprocessing: Preprocessing) -> str:
    """Return the steps in words, such as "size 224 (bilinear), mean 0.5, std 0.5"."""
    p = preprocessing
    size = f"size {p.size} ({p.interpolation}), " if p.size else ""
    return f"{size}mean {_shown(p.mean)}, std {_shown(p.std)}"


def _shown(values: tuple[float, ...]) -> str:
    """Return numbers in words, equal ones once."""
    same = len(set(values)) == 1
    return f"{values[0]:g}" if same else " ".join(f"{value:g}" for value in values)


def published_by_torchvision(name: str, weights: str) -> Preprocessing:
    """Return the preprocessing of a model of torchvision.

    Weights that torchvision publishes are recognised by their file name. For others it is the
    preprocessing of the default weights.
    """
    from torchvision.models import get_model_weights

    published = get_model_weights(name)
    file = Path(weights).name
    entry = next((w for w in published if Path(w.url).name == file), published.DEFAULT)
    return _from_transforms(entry.transforms())


def published_by_timm(config: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that timm publishes for weights (`pretrained_cfg`).

    Where the crop mode of timm is "squash", the image is cropped here, not distorted.
    """
    channels, size, _ = config["input_size"]
    share = config.get("crop_pct") or 1.0
    resized = max(size, math.floor(size / share))  # as timm rounds; a few are padded, not cropped
    interpolation = _interpolation(config.get("interpolation") or "")
    mean, std = config["mean"], config["std"]
    return Preprocessing(size, channels, mean, std, interpolation, size / resized)


def published_by_transformers(processor: Any, name: str, channels: int) -> Preprocessing:
    """Return the preprocessing of an image processor of transformers.

    Where it resizes images to a square, which distorts them, they are cropped here.

    Args:
        processor: The processor.
        name: The model's name.
        channels: Channels of the model's input.

    Raises:
        InputError: It does more than resize, crop, rescale and normalise images.
    """
    values = processor.to_dict()
    sides = tuple(values["crop_size" if values.get("do_center_crop") else "size"].values())
    side, resized = sides[0], min(values["size"].values())
    # ConvNext's processor crops by a share, and only small images
    crop = values["crop_pct"] if "crop_pct" in values and side < 384 else min(1.0, side / resized)
    steps = Preprocessing(sides, channels, crop=crop)  # type: ignore[arg-type]
    if values.get("do_normalize"):
        steps = replace(steps, mean=values["image_mean"], std=values["image_std"])
    image = (torch.arange(channels * side**2) % 251).byte().view(1, channels, side, side)
    expected = processor(image, do_resize=False, return_tensors="pt")["pixel_values"]
    if not torch.allclose(steps(image), expected, atol=1e-4):
        raise InputError(
            f"{name} must have a processor that only resizes, crops, rescales and normalises, but "
            f"its {type(processor).__name__} does more; use a factory (module:factory) that does it"
        )
    return replace(steps, interpolation=_interpolation(Image.Resampling(values["resample"]).name))


def _interpolation(name: str) -> Interpolation:
    """Return the interpolation of this name, or bicubic for others, such as lanczos."""
    word = name.lower()
    return word if word in get_args(Interpolation) else "bicubic"  # type: ignore[return-value]


def preprocessing_of(net: nn.Module, name: str) -> Preprocessing | None:
    """Return the preprocessing that a user's module declares; None if it declares none.

    It is the attribute `preprocessing`: a `Preprocessing`, a dict of its fields, the transforms of
    torchvision's weights or a configuration of timm. Modules of timm have `pretrained_cfg`.

    Raises:
        InputError: the attribute is something else, or a value is not allowed.
    """
    try:
        value = getattr(net, "preprocessing", None)
        if value is None:
            configs = [getattr(net, word, None) for word in ("pretrained_cfg", "default_cfg")]
            needed = {"input_size", "mean", "std"}
            value = next(
                (c for c in configs if isinstance(c, Mapping) and needed <= c.keys()), None
            )
        return None if value is None else _parse_preprocessing(value)
    except Exception as error:  # the user's, or of an object that only looks like a library's
        raise InputError(
            f"the preprocessing of {name} is not valid ({first_line(error, 200)}); give a dict "
            f"such as {EXAMPLE}, for images that are scaled to [0, 1] (divide numbers for 0 to 255 "
            f"by 255)"
        ) from None


def _parse_preprocessing(value: Any) -> Preprocessing:
    if isinstance(value, Preprocessing):
        return value
    if hasattr(value, "crop_size") and hasattr(value, "resize_size"):
        return _from_transforms(value)
    if "input_size" in value:  # timm.data.resolve_data_config
        return published_by_timm(value)
    return Preprocessing(**value)


def _from_transforms(transforms: Any) -> Preprocessing:
    """Return the preprocessing of torchvision's preset for the evaluation of a classifier."""
    (size, *_), (resized, *_) = transforms.crop_size, transforms.resize_size
    word = transforms.interpolation.value.removesuffix("-exact")
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    return Preprocessing(size, 3, mean, std, word, min(1.0, size / resized))


# Classifiers.

AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Type of autocast by the precision; None without autocast."""
Layout = Literal["channels_last", "contiguous"]
"""Memory format. channels_last was 1.3 to 1.4 times as fast for ResNets on a CPU (measured)."""
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Classifier(nn.Module):
    """A network with its preprocessing: from views to logits.

    Views are images, uint8 [B, C, H, W], or other tensors, which the network takes as they are.

    Args:
        name: as the user gives it.
        net: from images, float32 [B, C, H, W], or other tensors to logits [B, K].
        preprocessing: from views to the images; None if it is not known, so that images are only
            scaled to [0, 1].
        source: digest of the source code of a user's factory, or config of transformers as JSON;
            part of the fingerprint.

    Raises:
        InputError: the network has no Linear or Conv2d layer to be its head, or layers or weights
            that cannot be read.
    """

    def __init__(
        self, name: str, net: nn.Module, preprocessing: Preprocessing | None, source: str = ""
    ):
        super().__init__()
        # `fingerprint` reads these; lazy layers have no weights yet, so they fail here already
        with user_code(f"the layers and weights of {name} cannot be read"):
            str(net)
            for value in net.state_dict().values():
                value.detach().cpu()
        layers = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        if not layers:
            raise InputError(f"{name} must have a Linear or Conv2d layer as its head")
        self.name, self.net, self.source = name, net, source
        self.preprocessing = preprocessing or Preprocessing()
        self.has_normalization = preprocessing is not None
        """Whether mean and std are those of the model or of flags; if not, images are only scaled
        to [0, 1]."""
        self.head_name: str = layers[-1]
        self.has_new_head = False
        """Whether its head is random, since that of its weights was for other classes."""
        self.precision: Precision = "fp32"
        self.memory_format = torch.contiguous_format

    @property
    def head(self) -> nn.Module:
        """The last Linear or Conv2d layer, from features to logits."""
        return self.net.get_submodule(self.head_name)

    @property
    def feature_size(self) -> int:
        """Number of inputs of the head, D."""
        weight = self.head.weight
        assert isinstance(weight, Tensor)  # noqa: S101 - a layer has a weight
        return weight.shape[1]

    @property
    def has_batch_norm(self) -> bool:
        """Whether a layer normalises by the other examples of a batch in train mode."""
        return any(isinstance(module, _BatchNorm) for module in self.modules())

    @property
    def nbytes(self) -> int:
        """Bytes of all parameters and buffers that a state dict has."""
        return sum(value.nbytes for value in self.net.state_dict().values())

    def forward(self, views: Tensor) -> Tensor:
        """Return the logits of the views, float32 [B, K]."""
        x = self.preprocessing(views) if are_images(views) else views
        return self._run(self.net, x)

    def features(self, views: Tensor) -> Tensor:
        """Return the features of the views, the input of the head, float32 [B, D]."""
        return self.with_features(views)[1]

    def with_features(self, views: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of the views and their features, the input of the head, in one pass.

        Returns:
            float32 [B, K], bit-identical to `forward`, and float32 [B, D].
        """
        seen: list[Tensor] = []
        hook = self.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        try:
            logits = self(views)
        finally:
            hook.remove()
        return logits, seen[0].float()

    def classify(self, features: Tensor) -> Tensor:
        """Return the logits of features, float32 [B, K].

        If the head is the last operation, `classify(features(views))` are the logits of the views.
        """
        return self._run(self.head, features)

    def place(
        self, device: torch.device, precision: Precision, layout: Layout = "channels_last"
    ) -> "Classifier":
        """Move the model to a device, precision and memory format, and return it."""
        self.precision = precision
        self.memory_format = MEMORY_FORMATS[layout]
        # channels_last is for four dimensions, and 3-d convolutions have five
        if any(value.ndim == 5 for value in self.state_dict().values()):
            self.memory_format = torch.contiguous_format
        return self.to(device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def freeze(self, head: bool = True) -> "Classifier":
        """Freeze the model and return it.

        Args:
            head: whether the head is frozen, too.
        """
        self.requires_grad_(False)
        self.head.requires_grad_(not head)
        return self

    def set_mode(self, training: bool, batch_norm_training: bool = True) -> None:
        """Set train or eval mode.

        Args:
            training: train mode.
            batch_norm_training: whether train mode includes the batch norm layers.
        """
        self.train(training)
        if training and not batch_norm_training:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def fingerprint(self, with_head: bool = True) -> str:
        """Return 16 hex digits that change with the architecture, preprocessing or weights.

        The architecture is the model's name, its printed layers and its source, since one file of
        weights may fit two architectures.

        Args:
            with_head: whether the weights of the head count.
        """
        # addresses, as of functions that are printed, differ between processes
        layers = re.sub(r"\b0x[0-9a-f]{6,}\b", "0x", str(self.net))
        parts = (self.name, layers, self.preprocessing.identity, self.source)
        digest = hashlib.sha256("\0".join(parts).encode())
        for key, value in self.net.state_dict().items():
            if not with_head and key.startswith(f"{self.head_name}."):
                continue
            digest.update(key.encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def _run(self, module: nn.Module, x: Tensor) -> Tensor:
        if x.ndim == 4:
            x = x.contiguous(memory_format=self.memory_format)
        dtype = AUTOCAST[self.precision]
        with torch.autocast(x.device.type, dtype, enabled=dtype is not None):
            y = module(x)
        if not isinstance(y, Tensor) or not y.is_floating_point():
            got = y.dtype if isinstance(y, Tensor) else f"a {type(y).__name__}"
            raise InputError(
                f"{self.name} must return the logits [B, K], one tensor of floating-point numbers, "
                f"but returns {got}; wrap it in a module that returns what its last layer computes"
            )
        return y.float()


def describe_missing_preprocessing(model: Classifier) -> str:
    """Return a warning of a model without a preprocessing."""
    return (
        f"the model {model.name} has no preprocessing, so its images are only scaled to [0, 1] "
        f"(mean 0, std 1). If it was trained with normalised images, its predictions are wrong: "
        f"give --teacher-mean and --teacher-std, or --student-mean and --student-std (0 and 1 if "
        f"none are needed), or add an attribute `preprocessing` to its module"
    )


# Teacher and student of the default study.


def small_cnn(classes: int, width: int) -> nn.Module:
    """Return three convolutions with batch norm, global average pooling and a linear head.

    The first convolution has stride 2: at full resolution, pooling alone took a quarter of a run
    on a CPU.

    Args:
        classes: K.
        width: channels of the first convolution; the others have two and four times as many.

    Returns:
        A network for grey images, float32 [B, 1, H, W].
    """
    w = width
    layers = [
        nn.Conv2d(1, w, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(w),
        nn.ReLU(),
        nn.Conv2d(w, 2 * w, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * w),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(2 * w, 4 * w, 3, padding=1, bias=False),
        nn.BatchNorm2d(4 * w),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * w, classes),
    ]
    net = nn.Sequential(*layers)
    net.preprocessing = Preprocessing(mean=(0.286,), std=(0.353,))  # type: ignore[assignment]
    return net


def fashion_teacher(classes: int) -> nn.Module:
    """Return the default study's teacher, with 24,000 parameters for 10 classes."""
    return small_cnn(classes, width=16)


def fashion_student(classes: int) -> nn.Module:
    """Return the default study's student, with 3,700 parameters for 10 classes."""
    return small_cnn(classes, width=6)
