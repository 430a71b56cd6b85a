"""The default study's teacher and student."""

from torch import nn

from kdtune.models.classifier import Preprocessing


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
