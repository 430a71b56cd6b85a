"""The function that is exported: from a batch of views to logits."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kdtune.config.errors import InputError
from kdtune.students.trained import TrainedStudent

Predict = Callable[[Tensor], Tensor]
"""From a batch of views [B, ...] to logits, float32 [B, K]."""
OUTPUT = "logits"
"""Name of the output in exported files."""


class Graph(nn.Module):
    """A student from views to logits: preprocessing and network, without the softmax.

    Args:
        student: in eval mode on the CPU.
    """

    def __init__(self, student: TrainedStudent):
        super().__init__()
        self.student = student

    def forward(self, views: Tensor) -> Tensor:
        """Return the logits of views, float32 [B, K]."""
        return self.student.logits(views)


@dataclass(frozen=True)
class Signature:
    """Input of an exported file: any number of examples of one shape and type."""

    name: str
    """Name of the input: "images", or "inputs" where the data are no images."""
    shape: tuple[int, ...]
    """Shape of one example, (C, H, W) of an image."""
    dtype: torch.dtype

    @staticmethod
    def of(student: TrainedStudent, views: Tensor | None) -> "Signature":
        """Return the input of a student.

        Args:
            student: whose record may know it.
            views: some views of its data [B, ...]; None if the data are gone.

        Raises:
            InputError: neither the student nor the data say what it is.
        """
        own = student.input
        name = "images" if own.resizing is not None else "inputs"
        if own.shape is not None and own.dtype is not None:
            return Signature(name, own.shape, own.dtype)
        if views is None:
            raise InputError(
                f"the shape of the inputs of {student.name} is not known, since an earlier version "
                f"of kdtune wrote the study and its data are gone; put the data back"
            )
        return Signature(name, tuple(views.shape[1:]), views.dtype)

    @property
    def type_name(self) -> str:
        """Name of the type, such as "uint8"; NumPy has the same names."""
        return str(self.dtype).removeprefix("torch.")

    def random(self, count: int, seed: int = 0) -> Tensor:
        """Return random views [count, ...]: bytes, whole numbers 0 and 1, or normal numbers."""
        generator = torch.Generator().manual_seed(seed)
        size = (count, *self.shape)
        if self.dtype == torch.uint8:
            return torch.randint(0, 256, size, generator=generator, dtype=torch.uint8)
        if not self.dtype.is_floating_point:  # token ids: only small ones are surely in range
            return torch.randint(0, 2, size, generator=generator).to(self.dtype)
        return torch.randn(size, generator=generator).to(self.dtype)
