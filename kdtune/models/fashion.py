"""Teacher and student of the default study."""

from torch import nn

from kdtune.models.preprocessing import Preprocessing


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
    """Return the default study's teacher, with 24,000 parameters for 10 classes."""
    return small_cnn(classes, width=16)


def fashion_student(classes: int) -> nn.Module:
    """Return the default study's student, with 3,700 parameters for 10 classes."""
    return small_cnn(classes, width=6)
