"""Models and objectives that cannot work, named as users name theirs: `hostile_models:lazy`."""

import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdtune.models.classifier import Preprocessing, small_cnn

NAN = float("nan")


class Changed(nn.Module):
    """A small network whose output a function changes; it gets the logits and the module."""

    preprocessing = Preprocessing()

    def __init__(self, classes: int, change: Callable[[Tensor, nn.Module], Tensor]):
        super().__init__()
        self.net, self.change = small_cnn(classes, width=2), change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.net(x), self)


def changed(change: Callable[[Tensor, nn.Module], Tensor]) -> Callable[[int], nn.Module]:
    """Return a factory of networks whose output a function changes."""
    return lambda classes: Changed(classes, change)


pairs = changed(lambda y, net: (y, y))
one_logit_in_training = changed(lambda y, net: y[:, :1] if net.training else y)
not_a_number = changed(lambda y, net: y * NAN)
nan_in_training = changed(lambda y, net: y / 0 if net.training else y)
nan_for_many = changed(lambda y, net: y * NAN if len(y) > 2 else y)  # two views are tried
of_batch = changed(lambda y, net: y - y.mean(0) if len(y) > 1 else y)
detached = changed(lambda y, net: y.detach())
exits_in_training = changed(lambda y, net: sys.exit(0) if net.training and len(y) > 2 else y)


def lazy(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def frozen(classes: int) -> nn.Module:
    return small_cnn(classes, width=2).requires_grad_(False)


def exits(classes: int) -> nn.Module:
    sys.exit(0)


_shared = small_cnn(3, width=2)


def shared(classes: int) -> nn.Module:
    return _shared


def turns_gradients_off(classes: int) -> nn.Module:
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return small_cnn(classes, width=2).float()


def changes_the_teacher(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    teacher.mul_(0)
    return ((student - teacher) ** 2).mean()


def has_no_slope(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return student.sum() * 0


def is_nan_for_many(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Finite for the four rows that it is tried on."""
    value = ((student - teacher) ** 2).mean()
    return value if len(student) == 4 else value * NAN


def exits_late(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    if len(student) > 4:
        sys.exit(0)
    return ((student - teacher) ** 2).mean()
