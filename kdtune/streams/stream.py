"""What a repeat fixes, built once, shared by every configuration.

For a repeat, the order of the images, their augmented views, the labels, the teacher's logits on
exactly those views and, where the student's backbone is frozen, its features are functions of the
data, the models, the repeat and the epoch, and of nothing that is searched. A `Stream` hands them
out batch by batch; what is costly comes a chunk (one epoch of one split) at a time from the cache.
Logits are kept raw: temperature comes later.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.data.dataset import Data
from kdtune.models.classifier import Classifier
from kdtune.streams.cache import Tensors, Tick
from kdtune.streams.chunks import Chunks, Parts, collect, rebatched
from kdtune.streams.features import Features
from kdtune.streams.resources import Resources

EVALUATION_BATCH = 64


@dataclass(frozen=True)
class Batch:
    """Consecutive images of a split, on the device of the run."""

    views: Tensor | None
    """uint8 [B, C, H, W]; None where the features stand for them."""
    features: Tensor | None
    """What the student's head sees, float32 [B, ...], where the backbone is frozen."""
    labels: Tensor
    """int64 [B]."""
    teacher: Tensor | None
    """The teacher's logits, float32 [B, K]; None without a teacher."""


def view_size(run: Run, data: Data, *models: Classifier | None) -> int:
    """Side of a view: the run's, or the larger input of the models, or the images' own.

    Raises InputError where none of them says: photographs have no size of their own.
    """
    sizes = [m.preprocessing.size for m in models if m is not None and m.preprocessing.size]
    if run.image_size or sizes:
        return run.image_size or max(sizes)
    images = data.splits["train"].images
    if not isinstance(images, Tensor):
        raise InputError(f"image_size must be given: neither model has one ({run.data})")
    return images.shape[-1]


class Stream:
    """Batches of a repeat, for a student that learns from a teacher.

    Args:
        run: fixes the stream by its data, models, seed and repeat.
        data: the run's data set, loaded.
        student: on its device; a frozen backbone's running statistics follow the stream.
        teacher: on the same device; None where there is none.
        resources: device, cache and loader workers.
        teacher_print: the teacher's fingerprint where it is known.
        student_print: that of the student's backbone where it is known.
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        student: Classifier,
        teacher: Classifier | None,
        resources: Resources,
        teacher_print: str | None = None,
        student_print: str | None = None,
    ):
        self.run, self.data, self.teacher, self.resources = run, data, teacher, resources
        self.chunks = Chunks(run, data, view_size(run, data, student, teacher), resources)
        self._known_print = teacher_print
        self.features = None
        if run.trainable == "head":
            self.features = Features(self.chunks, student, self._view_batches, student_print)

    def train(self, epoch: int) -> Iterator[Batch]:
        """The training batches of an epoch, in the repeat's order."""
        return self._batches("train", epoch, self.run.batch_size)

    def evaluate(self, split: str, epoch: int) -> Iterator[Batch]:
        """The batches of val or test in their own order, for the student after this epoch."""
        return self._batches(split, epoch, EVALUATION_BATCH)

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch of training."""
        return -(-self.chunks.count("train") // self.run.batch_size)

    def _batches(self, split: str, epoch: int, size: int) -> Iterator[Batch]:
        labels = self.data.splits[split].labels[self.chunks.index(split, epoch)].split(size)
        if self.features is None:
            for row, y in zip(rebatched(self._seen(split, epoch), size), labels, strict=True):
                yield self._batch(row, None, y)
            return
        columns = [self.features.get(split, epoch)]
        if self.teacher is not None:  # after the features: the teacher may have seen their views
            columns.append(self._logits(split, epoch))
        for row, y in zip(rebatched([tuple(columns)], size), labels, strict=True):
            # cloned: a file's alignment, unlike the allocator's, moves a product's last bits
            yield self._batch((None, *row[1:]), row[0].clone(), y)

    def _batch(self, row: tuple[Tensor | None, ...], features: Tensor | None, y: Tensor) -> Batch:
        views, teacher = row if len(row) == 2 else (row[0], None)
        columns = (views, features, y, teacher)
        return Batch(*(c if c is None else self._move(c) for c in columns))  # type: ignore[arg-type]

    # -- what the models see -------------------------------------------------------------------

    def _seen(self, split: str, epoch: int) -> Iterator[tuple[Tensor, ...]]:
        """Views and, with a teacher, its logits on them, some at a time; no view is made twice."""
        keep = self._keeps_views(split)
        views = self.chunks.views(split, epoch, keep)
        if self.teacher is None:
            yield from zip(views)
            return
        key = self._logits_key(split, epoch)
        if self.chunks.views_pass(split, keep) and not self.chunks.has("logits", split, key):
            made = []
            for part in views:
                made.append(self._ask(part))
                yield part, made[-1]
            logits = torch.cat(made)
            self.chunks.get("logits", split, epoch, key, lambda tick: {"logits": logits})
            return
        logits, done = self._logits(split, epoch), 0
        for part in views:
            yield part, logits[done : done + len(part)]
            done += len(part)

    def _view_batches(self, split: str, epoch: int, size: int) -> Iterator[Tensor]:
        return (row[0] for row in rebatched(self._seen(split, epoch), size))

    def _keeps_views(self, split: str) -> bool:
        """Whether views are worth the disk: not where only one builder looks at them."""
        once = self.run.batch_norm == "eval" or split == "train"
        return self.teacher is not None and not (self.features is not None and once)

    # -- teacher -------------------------------------------------------------------------------

    def _logits(self, split: str, epoch: int) -> Tensor:
        def build(tick: Tick) -> Tensors:
            views = zip(self.chunks.views(split, epoch, self._keeps_views(split)))
            batches = rebatched(views, self.chunks.inference_batch)
            logits = (self._ask(row[0]) for row in batches)
            return {"logits": collect(logits, tick, self.chunks.count(split))}

        key = self._logits_key(split, epoch)
        return self.chunks.get("logits", split, epoch, key, build)["logits"]

    def _logits_key(self, split: str, epoch: int) -> Parts:
        parts = self.chunks.view_key(split, epoch) | self.chunks.compute_key
        return parts | {"teacher": self._teacher_print}

    @torch.no_grad()
    def _ask(self, views: Tensor) -> Tensor:
        return self._frozen_teacher(self._move(views)).cpu()  # type: ignore[no-any-return]

    @cached_property
    def _frozen_teacher(self) -> Classifier:
        assert self.teacher is not None
        self.teacher.set_mode(False)
        return self.teacher.freeze()

    @cached_property
    def _teacher_print(self) -> str:
        assert self.teacher is not None
        return self._known_print or self.teacher.fingerprint()

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.resources.device, non_blocking=True)
