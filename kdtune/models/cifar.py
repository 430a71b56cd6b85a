"""ResNets for CIFAR of He et al. (2015, section 4.2), with the layer names of published weights.

The shortcut of a block that halves the resolution is option A (every second pixel, new channels are
zero; no parameters), as in the paper, or option B (a 1x1 convolution with batch norm; names end
with `_b`). The preprocessing is that of the weights published for each option:

- Option A: size 32, ImageNet's mean and standard deviation, as akamaster/pytorch_resnet_cifar10
  trained with.
- Option B: size 32, the mean and standard deviation of CIFAR-100 for 100 classes, else of CIFAR-10,
  as chenyaofo/pytorch-cifar-models (CIFAR-10 and CIFAR-100) and HobbitLong/RepDistiller (CIFAR-100)
  trained with.
"""

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from kdtune.models.classifier import Preprocessing
from kdtune.models.weights import StateDict, strip_prefixes

Option = Literal["A", "B"]


@dataclass(frozen=True)
class Shape:
    """Architecture of a ResNet for CIFAR."""

    depth: int
    """Layers with weights on the longest path, 6n + 2 for n blocks a stage."""
    option: Option
    """Shortcut of the blocks that change the resolution or the number of channels."""
    stem: int = 16
    """Channels of the first convolution."""
    widths: tuple[int, int, int] = (16, 32, 64)
    """Channels of the three stages."""


DEPTHS = (20, 32, 44, 56, 110)
CIFAR_RESNETS: dict[str, Shape] = {
    **{f"cifar_resnet{depth}": Shape(depth, "A") for depth in DEPTHS},
    **{f"cifar_resnet{depth}_b": Shape(depth, "B") for depth in DEPTHS},
    # the wide pair of RepDistiller's tables
    "cifar_resnet8x4_b": Shape(8, "B", 32, (64, 128, 256)),
    "cifar_resnet32x4_b": Shape(32, "B", 32, (64, 128, 256)),
}
"""Names of models and their architectures."""

IMAGENET = Preprocessing(32, 3, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), crop=1.0)
CIFAR10 = Preprocessing(32, 3, (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), crop=1.0)
CIFAR100 = Preprocessing(32, 3, (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761), crop=1.0)

OWN_NAMES = {"linear": "fc", "shortcut": "downsample"}
"""Parts of the keys of published weights, and their names here."""


class CifarResNet(nn.Module):
    """ResNet of an architecture: from images, float32 [B, 3, 32, 32], to logits [B, classes]."""

    def __init__(self, shape: Shape, classes: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, shape.stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(shape.stem)
        one, two, three = shape.widths
        self.layer1 = _stage(shape, shape.stem, one, stride=1)
        self.layer2 = _stage(shape, one, two, stride=2)
        self.layer3 = _stage(shape, two, three, stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(shape.widths[-1], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(self.avgpool(x).flatten(1))  # type: ignore[no-any-return]


class _Block(nn.Module):
    """Two convolutions of 3x3 and a shortcut."""

    def __init__(self, channels: int, width: int, stride: int, option: Option):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != width:
            self.downsample = _shortcut(channels, width, stride, option)

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(residual + self.downsample(x))


class _PaddedShortcut(nn.Module):
    """Option A: every `stride`-th pixel; the new channels are zero, half of them on each side.

    The paper does not say where the new channels are; published weights have them on both sides.
    """

    def __init__(self, new_channels: int, stride: int):
        super().__init__()
        self.stride, self.before = stride, new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        pixels = x[:, :, :: self.stride, :: self.stride]
        return F.pad(pixels, (0, 0, 0, 0, self.before, self.after))


def _stage(shape: Shape, channels: int, width: int, stride: int) -> nn.Module:
    """Return the blocks of one resolution; only the first changes it, or the channels."""
    first = _Block(channels, width, stride, shape.option)
    blocks = (shape.depth - 2) // 6
    others = (_Block(width, width, 1, shape.option) for _ in range(blocks - 1))
    return nn.Sequential(first, *others)


def _shortcut(channels: int, width: int, stride: int, option: Option) -> nn.Module:
    """Return the shortcut of a block that changes the resolution or the number of channels."""
    if option == "A":
        return _PaddedShortcut(width - channels, stride)
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), nn.BatchNorm2d(width))


def cifar_resnet(name: str, classes: int) -> nn.Module:
    """Return the network of a name in `CIFAR_RESNETS`, with its preprocessing."""
    shape = CIFAR_RESNETS[name]
    net = CifarResNet(shape, classes)
    of_option_b = CIFAR100 if classes == 100 else CIFAR10
    net.preprocessing = IMAGENET if shape.option == "A" else of_option_b  # type: ignore[assignment]
    return net


def translate(state: StateDict) -> StateDict:
    """Return published weights under the names of the layers here."""
    return {
        ".".join(OWN_NAMES.get(part, part) for part in key.split(".")): value
        for key, value in strip_prefixes(state).items()
    }
