"""Exponential moving average of a student's weights over the steps of its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from kdtune.config.run import Run
from kdtune.models.classifier import Classifier


class WeightAverage:
    """Average of what a run trains of its student: the student that is evaluated and saved.

    The first update copies the weights. Update n + 1 moves the average to the weights by 1 - d,
    where d = min(decay, (1 + n) / (10 + n)), as TensorFlow and timm do: so a run of a hundred steps
    does not remember its first ones.

    Averaged are the parameters that are trained and, if the whole student learns, its running
    statistics of floating point. The activations of averaged weights are closer to averaged
    statistics than to those of the last steps, whose weights are noisier; timm and torchvision's
    references also average both. Whole numbers, such as `num_batches_tracked`, stay those of the
    student. Under a frozen backbone the running statistics follow the stream, which does not depend
    on the head.

    It is no `AveragedModel`: that copies the whole student, asks for the number of updates in each,
    and averages constants such as masks of -inf, which become NaN.

    Args:
        decay: In (0, 1).
        student: On its device, with a frozen backbone if only its head is trained.
        whole: Whether the whole student learns.
        projector: Of the student's features, averaged as well: the distillation term is then that
            of a student and a projector of the same steps.
    """

    def __init__(
        self, decay: float, student: Classifier, whole: bool, projector: nn.Module | None = None
    ):
        self.decay, self.updates = decay, 0
        averaged = [p.detach() for p in student.parameters() if p.requires_grad]
        if whole:
            averaged += _statistics(student)
        if projector is not None:
            averaged += [p.detach() for p in projector.parameters()]
        self._weights = averaged
        self._averages = [weight.clone() for weight in averaged]

    @classmethod
    def of(cls, run: Run, student: Classifier, projector: nn.Module | None = None) -> Self | None:
        """Return the average that the run asks for; None if it asks for none."""
        whole = run.trainable == "all"
        return cls(run.ema, student, whole, projector) if run.ema > 0 else None

    @torch.no_grad()
    def update(self) -> None:
        """Take the student's weights into the average, after a step of the optimiser."""
        if self.updates == 0:
            torch._foreach_copy_(self._averages, self._weights)
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            get_ema_multi_avg_fn(decay)(self._averages, self._weights, self.updates)
        self.updates += 1

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the values of the student and of the average, to the last bit.

        Values are copied and no tensors replaced, since optimiser, stream and initial student hold
        the student's own.
        """
        weights = [weight.clone() for weight in self._weights]
        torch._foreach_copy_(self._weights, self._averages)
        torch._foreach_copy_(self._averages, weights)

    @contextmanager
    def in_student(self) -> Iterator[None]:
        """Let the student have the averaged weights for the duration of the context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state_dict(self) -> dict[str, Any]:
        """Return the state for a checkpoint."""
        return {"updates": self.updates, "averages": self._averages}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state; raise ValueError, and change nothing, if it is of another student."""
        if [x.shape for x in state["averages"]] != [x.shape for x in self._averages]:
            raise ValueError("the average is of another student")
        for own, saved in zip(self._averages, state["averages"], strict=True):
            own.copy_(saved)
        self.updates = state["updates"]


def _statistics(student: Classifier) -> list[Tensor]:
    """Return the network's buffers of floating point that are saved with it and are finite."""
    saved = student.net.state_dict()
    buffers = [x for name, x in student.net.named_buffers() if name in saved]
    return [x for x in buffers if x.is_floating_point() and bool(x.isfinite().all())]
