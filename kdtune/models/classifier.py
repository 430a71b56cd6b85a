"""Classifiers: a network with its preprocessing, from views to logits."""

import hashlib
import itertools
import re
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from kdtune.config.errors import InputError
from kdtune.config.inputs import are_images
from kdtune.config.run_training import Precision
from kdtune.config.user_code import user_code
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
        InputError: the network has no Linear or Conv2d layer to be its head, or weights that cannot
            be trained or saved.
    """

    def __init__(
        self, name: str, net: nn.Module, preprocessing: Preprocessing | None, source: str = ""
    ):
        super().__init__()
        _check_parts(net, name)
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
            x = x.contiguous(memory_format=self.format)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            y = module(x)
        if not isinstance(y, Tensor):
            raise InputError(
                f"{self.name} must return the logits [B, K], one tensor, but returns a "
                f"{type(y).__name__}; wrap it in a module that returns its logits alone"
            )
        if not y.is_floating_point() or y.layout is not torch.strided:
            raise InputError(
                f"{self.name} must return the logits [B, K], a dense tensor of floating-point "
                f"numbers, but returns one of {_words(y.dtype)} ({_words(y.layout)}); return what "
                f"its last layer computes"
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


def _words(value: torch.dtype | torch.layout) -> str:
    return str(value).removeprefix("torch.")


def _check_parts(net: nn.Module, name: str) -> None:
    """Raise InputError if weights have no values, are elsewhere or cannot be read."""
    for key, value in itertools.chain(net.named_parameters(), net.named_buffers()):
        if is_lazy(value):
            raise InputError(
                f"{name} must have layers of known sizes, but {key} is of a lazy layer such as "
                f"nn.LazyLinear, which has no weights before its first batch; give the number of "
                f"its inputs (nn.Linear(IN, OUT)), or call the module on a batch in its factory"
            )
        if value.device.type != "cpu":
            raise InputError(
                f"{name} must be made on the CPU, but {key} is on the device {value.device}; "
                f"kdtune moves it itself"
            )
    with user_code(f"the layers and weights of {name} cannot be read"):
        str(net)  # a part of the fingerprint
        state = net.state_dict()
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise InputError(
                f"{name} must have a state dict of tensors alone, but {key} is a "
                f"{type(value).__name__}; leave out get_extra_state() and quantised layers"
            )


def _head_name(net: nn.Module, name: str) -> str:
    """Return the name of the last Linear or Conv2d layer."""
    layers: list[str] = [n for n, m in net.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    if not layers:
        raise InputError(f"{name} must have a Linear or Conv2d layer as its head, but has neither")
    return layers[-1]
