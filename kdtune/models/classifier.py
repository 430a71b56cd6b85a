"""Classifiers: a network with its preprocessing, from views to logits."""

import hashlib
import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdtune.config.errors import InputError, first_line
from kdtune.config.inputs import are_images
from kdtune.config.names import is_object
from kdtune.config.run_training import Precision
from kdtune.models.preprocessing import Preprocessing

Layout = Literal["channels_last", "contiguous"]
"""Memory format. channels_last was 1.3 to 1.4 times as fast for ResNets on a CPU (measured)."""
MEMORY_FORMATS = {
    "channels_last": torch.channels_last,
    "contiguous": torch.contiguous_format,
}


class Classifier(nn.Module):
    """A network with its preprocessing: from views to logits.

    Views are images, uint8 [B, C, H, W], or other tensors, which the network takes as they are.

    Args:
        name: as the user gives it.
        net: from images, float32 [B, C, H, W], or other tensors to logits [B, K].
        preprocessing: from views to the images; None if it is not known, so that images are only
            scaled to [0, 1].
        source: digest of the source code of a user's factory, part of the fingerprint.

    Raises:
        InputError: the network has no Linear or Conv2d layer to be its head.
    """

    def __init__(
        self, name: str, net: nn.Module, preprocessing: Preprocessing | None, source: str = ""
    ):
        super().__init__()
        self.name, self.net, self.source = name, net, source
        self.preprocessing = preprocessing or Preprocessing()
        self.is_normalized = preprocessing is not None
        self.head_name = _head_name(net, name)
        self.has_new_head = False
        """Whether its head is random, since that of its weights was for other classes."""
        self.precision: Precision = "fp32"
        self.format = torch.contiguous_format

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
            float32 [B, K], with the bits of `forward`, and float32 [B, D].
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
        self.format = MEMORY_FORMATS[layout]
        if any(value.ndim == 5 for value in self.state_dict().values()):  # of 3-d convolutions
            self.format = torch.contiguous_format  # channels_last is for four dimensions only
        return self.to(device, memory_format=self.format)  # type: ignore[call-overload, no-any-return]

    def freeze(self, head: bool = True) -> "Classifier":
        """Freeze the whole model, or all of it but the head, and return it."""
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

        The architecture is the model's name, its printed layers and the source of a user's factory,
        since one file of weights may fit two architectures.

        Args:
            with_head: whether the weights of the head count.
        """
        parts = (self.name, str(self.net), self.preprocessing.identity, self.source)
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
            y = module(x)
        if not isinstance(y, Tensor):
            raise InputError(
                f"{self.name} must return the logits [B, K], one tensor, but returns a "
                f"{type(y).__name__}; wrap it in a module that returns its logits alone"
            )
        return y.float()


def describe_assumption(model: Classifier) -> str:
    """Return the sentences that warn of a model without a preprocessing of its own."""
    return (
        f"the model {model.name} has no preprocessing, so its images are only scaled to [0, 1] "
        f"(mean 0, std 1). If it was trained with normalised images, its predictions are wrong: "
        f"give the numbers (--teacher-mean and --teacher-std, or --student-mean and --student-std; "
        f"0 and 1 if none are needed) or its module the attribute `preprocessing`"
    )


def probe(model: Classifier, views: Tensor, classes: int, whole: bool) -> None:
    """Run the model on two views, and warn if it has no preprocessing of its own.

    Args:
        model: on the CPU.
        views: two of the data, [2, ...].
        classes: K of the data.
        whole: whether all its layers learn. If not, its head must be its last operation, since
            features then replace views.

    Raises:
        InputError: the model fails, or its logits or head do not fit.
    """
    if are_images(views):
        if not model.is_normalized:
            warnings.warn(describe_assumption(model), stacklevel=1)
        model.preprocessing.check_channels(views, model.name)
    model.set_mode(False)
    shape = f"{list(views.shape[1:])} and type {str(views.dtype).removeprefix('torch.')}"
    try:
        with torch.no_grad():
            logits, features = model(views), model.features(views)
            from_head = model.classify(features)
            model.set_mode(True)
            model(views)
    except InputError:
        raise
    except Exception as error:  # a user's model may raise anything
        reason = first_line(error, 120)
        raise InputError(f"{model.name} fails on views of shape {shape} ({reason})") from None
    if logits.shape != (2, classes):
        remedy = "Let its factory have a parameter num_classes and return a module"
        if is_object(model.name):
            remedy = "Pass a module, or a function with a parameter num_classes that returns one,"
        raise InputError(
            f"{model.name} must return logits [B, {classes}], one for each class of the data, but "
            f"got {list(logits.shape)}. {remedy} with as many outputs."
        )
    if not whole and (from_head.shape != logits.shape or not torch.allclose(from_head, logits)):
        raise InputError(
            f"{model.name} cannot be trained with --trainable head, since its last layer "
            f"{model.head_name} is not its last operation; use --trainable all"
        )


def _head_name(net: nn.Module, name: str) -> str:
    """Return the name of the last Linear or Conv2d layer."""
    layers: list[str] = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise InputError(f"{name} must have a Linear or Conv2d layer as its head, but has neither")
    return layers[-1]
