"""Batches: consecutive examples of a split, with all that a run needs of them."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Consecutive examples of a split. All tensors have the same length B."""

    labels: Tensor
    """Classes, int64 [B]; of an image without a label, the teacher's class."""
    views: Tensor | None = None
    """Augmented images, uint8 [B, C, H, W], or other tensors, [B, ...]; None if features replace
    them."""
    features: Tensor | None = None
    """Input of the student's head, float32 [B, D]; None if the whole student learns."""
    teacher: Tensor | None = None
    """Logits of the teacher, float32 [B, K]; None without a teacher."""
    partners: Tensor | None = None
    """Of mixed images: the class of the image that was mixed in, int64 [B]."""
    shares: Tensor | None = None
    """Of mixed images: the share of the label in `labels`, float32 [B]; the same for all images of
    a training batch. That of `partners` is the rest."""
    unlabelled: int = 0
    """Number of images without a label; they are the last ones."""
    teacher_features: Tensor | None = None
    """Input of the teacher's head, float32 [B, D]; None unless the run's loss compares features."""

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labelled(self) -> "Batch":
        """The images that have a label."""
        if not self.unlabelled:
            return self
        return replace(self[: len(self) - self.unlabelled], unlabelled=0)

    def __getitem__(self, rows: slice) -> "Batch":
        """Return some of the examples."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on this device.

        A CUDA device gets it from pinned memory. The copy then does not wait for the GPU, so the
        process prepares the next batch meanwhile.
        """
        if device.type == "cuda":
            return self._map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
        return self._map(lambda tensor: tensor.to(device))

    def followed_by(self, other: "Batch") -> "Batch":
        """Return the examples of this batch and then of the other, which has the same parts."""
        mine, others = self._parts(), other._parts()
        joined: dict[str, Any] = {name: torch.cat([x, others[name]]) for name, x in mine.items()}
        return Batch(**joined)

    def _parts(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {name: change(value) for name, value in self._parts().items()}
        return replace(self, **changed)


def rebatched(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """Yield the same examples, `size` at a time; the last batch may be smaller."""
    rest: Batch | None = None
    for batch in batches:
        if rest is not None:
            missing = size - len(rest)
            rest, batch = rest.followed_by(batch[:missing]), batch[missing:]
            if len(rest) < size:
                continue
            yield rest
        whole = len(batch) // size * size
        for start in range(0, whole, size):
            yield batch[start : start + size]
        rest = batch[whole:] if whole < len(batch) else None
    if rest is not None:
        yield rest


def collect(batches: Iterable[Tensor], progress: Callable[[int, int], None], total: int) -> Tensor:
    """Return the batches [B, ...] as one tensor [total, ...].

    The tensor is filled as the batches come, so that no more than one of them is held twice.

    Args:
        batches: at least one.
        progress: called with (done, total) after each batch.
        total: length of all batches together.
    """
    whole, done = torch.empty(0), 0
    for batch in batches:
        if not done:
            whole = batch.new_empty((total, *batch.shape[1:]))
        whole[done : done + len(batch)] = batch
        done += len(batch)
        progress(done, total)
    return whole
