"""Images without labels: an endless sequence, from which each training batch takes the next few.

The sequence is pass after pass over all of them, each in an order and with views of its own. Pass k
is for these images what epoch k is for train. It does not depend on how many of them a batch takes,
so configurations with any batch size and any share have the same views and logits. A pass is
computed in blocks, since a run may need a small part of it.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from kdtune.config.run import Run
from kdtune.streams.batches import Batch
from kdtune.streams.chunks import Chunks
from kdtune.streams.keys import Part
from kdtune.streams.shards import ShardedViews

BLOCK = 1024
"""Images of a block, in whole inference batches of every device."""


def extra_beside(run: Run, labelled: int) -> int:
    """Return the number of images without a label beside `labelled` images of a batch.

    A whole batch has `run.unlabelled_per_batch` of them. The last batch of an epoch, if it is
    smaller, has as many in proportion, but at least one; so all batches are composed alike, and the
    mean over an epoch weighs all of them alike.
    """
    whole = run.unlabelled_per_batch
    return max(1, round(whole * labelled / run.labelled_per_batch)) if whole else 0


def extra_per_epoch(run: Run, labelled: int) -> int:
    """Return the number of images without a label in an epoch.

    Args:
        run: Its batch size and share.
        labelled: Training images with a label.
    """
    full, rest = divmod(labelled, run.labelled_per_batch)
    return full * run.unlabelled_per_batch + (extra_beside(run, rest) if rest else 0)


def extra_computed(run: Run, labelled: int, count: int) -> int:
    """Return the number of views in the blocks that one run needs.

    Args:
        run: Its epochs, batch size and share.
        labelled: Training images with a label.
        count: Images without labels.
    """
    passes, rest = divmod(run.epochs * extra_per_epoch(run, labelled), count)
    return passes * count + min(-(-rest // BLOCK) * BLOCK, count)


T_co = TypeVar("T_co", covariant=True)


class Outputs(Protocol[T_co]):
    """Computes what models say of a block of images without labels."""

    def __call__(self, part: Part, rows: Tensor, views: Callable[[], Tensor]) -> T_co:
        """Return the outputs, float32 [n, ...].

        Args:
            part: The block.
            rows: Which of the images it has, in its order, int64 [n].
            views: Returns the views of the block.
        """


class ExtraImages:
    """The images without labels of one run.

    Args:
        chunks: The run's chunks.
        views: The run's views.
        logits: Computes the teacher's logits, [n, K].
        teacher_features: Computes the teacher's features, [n, D]; None if the loss needs none.
        features: Computes the features of a frozen backbone, [n, D]; None if the views are needed.
    """

    def __init__(
        self,
        chunks: Chunks,
        views: ShardedViews,
        logits: Outputs[Tensor],
        teacher_features: Outputs[Tensor | None],
        features: Outputs[Tensor] | None,
    ):
        self.run, self.chunks, self.views = chunks.run, chunks, views
        self.logits, self.features = logits, features
        self.teacher_features = teacher_features
        self.count = chunks.count("extra")

    def beside(self, batches: Iterable[Batch], epoch: int) -> Iterator[Batch]:
        """Yield the labelled batches of an epoch, each followed by its images without labels."""
        start = epoch * extra_per_epoch(self.run, self.chunks.count("train"))
        sequence, rest = self._from(start), None
        for batch in batches:
            missing = extra_beside(self.run, len(batch))
            while rest is None or len(rest) < missing:
                following = next(sequence)
                rest = following if rest is None else rest.followed_by(following)
            yield joined(batch, rest[:missing])
            rest = rest[missing:]

    def _from(self, position: int) -> Iterator[Batch]:
        """Yield all blocks from a position of the sequence on; the first one from there."""
        epoch, first = divmod(position, self.count)
        skipped = first % BLOCK
        first -= skipped
        while True:
            yield self._block(epoch, first)[skipped:]
            first, skipped = first + BLOCK, 0
            if first >= self.count:
                epoch, first = epoch + 1, 0

    def _block(self, epoch: int, first: int) -> Batch:
        """Return the images of a pass from a position on, `BLOCK` or as many as are left."""
        order = self.chunks.order("extra", epoch)
        assert order is not None  # noqa: S101 - training has an order
        rows = order[first : first + BLOCK]
        part = Part(epoch, first, len(rows))

        def views() -> Tensor:
            parts = list(self.views.of_part("extra", part))
            return parts[0] if len(parts) == 1 else torch.cat(parts)

        of_teacher = self.teacher_features(part, rows, views)  # first: its pass gives both
        teacher = self.logits(part, rows, views)
        own = Batch(teacher.argmax(1), teacher=teacher, teacher_features=of_teacher)
        if self.features is None:
            return replace(own, views=views())
        return replace(own, features=self.features(part, rows, views))


def joined(batch: Batch, extra: Batch) -> Batch:
    """Return a labelled batch followed by images without labels.

    The images of a mixed batch are mixed with each other only; those without labels have their one
    class in both places, so that its share does not matter.
    """
    if batch.partners is not None and batch.shares is not None:
        same = batch.shares[:1].expand(len(extra))
        extra = replace(extra, partners=extra.labels, shares=same)
    return replace(batch.followed_by(extra), unlabelled=len(extra))
