"""The stream of one repeat: its batches, computed once and shared by every configuration."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from kdtune.config.run import Run
from kdtune.data.dataset import Data
from kdtune.data.views import Mixture
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher
from kdtune.streams.cache import Place
from kdtune.streams.passes import Features, Inputs, TeacherPasses
from kdtune.streams.views import (
    Batch,
    Chunks,
    ExtraImages,
    Resources,
    ShardedViews,
    rebatched,
    view_shape,
    view_size,
    views_are_read_again,
)

# Mixed training batches: an epoch's examples, put into training batches and mixed.


def mixed(run: Run, epoch: int, batches: Iterable[Batch], shape: torch.Size) -> Iterator[Batch]:
    """Yield the training batches of an epoch, mixed.

    Args:
        run: Its mixing, batch size, seed and repeat.
        epoch: Of training.
        batches: All examples of the epoch in its order, with views or without.
        shape: Of a view.
    """
    for number, batch in enumerate(rebatched(batches, run.labelled_per_batch)):
        mixture = Mixture.draw(run, epoch, number, len(batch), shape)
        yield replace(
            batch,
            views=None if batch.views is None else mixture.apply(batch.views),
            partners=batch.labels[mixture.partners],
            shares=torch.full((len(batch),), mixture.share),
        )


def mixed_labels(run: Run, epoch: int, labels: Tensor, shape: torch.Size) -> Batch:
    """Return the labels, partners and shares of a whole epoch as one batch without views.

    Args:
        run: Its mixing, batch size, seed and repeat.
        epoch: Of training.
        labels: In the order of the epoch, int64 [N].
        shape: Of a view.
    """
    batches = list(mixed(run, epoch, [Batch(labels)], shape))
    partners = torch.cat([batch.partners for batch in batches if batch.partners is not None])
    shares = torch.cat([batch.shares for batch in batches if batch.shares is not None])
    return Batch(labels, partners=partners, shares=shares)


# The stream of one repeat: its batches, computed once and shared by every configuration.
#
# The order of the images, their augmented views, the labels, the teacher's logits on exactly
# those views, its features where a loss compares them and, if the student's backbone is frozen,
# those of the student depend on the data, the models, the repeat and the epoch, and on nothing
# that is searched. A `Stream` yields them batch by batch; what is costly to compute comes a chunk
# at a time from the cache. Logits are stored as they are: the temperature is applied later.


EVALUATION_BATCH = 64


class Stream:
    """Batches of one repeat, for a student that learns from a teacher.

    Args:
        run: fixes the stream by its data, models, seed and repeat.
        data: the run's data set, loaded.
        student: on its device. The running statistics of a frozen backbone follow the stream.
        teacher: on the same device; None without a teacher.
        resources: device, cache and loader workers.
        student_fingerprint: that of the student's backbone if it is known.
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        student: Classifier,
        teacher: Teacher | None,
        resources: Resources,
        student_fingerprint: str | None = None,
    ):
        self.run, self.data, self.teacher, self.resources = run, data, teacher, resources
        models = () if teacher is None else teacher.models
        size = view_size(run, data, student, *models)
        self.chunks = Chunks(run.whole_draw, data, size, resources)
        self.is_seen: Tensor | None = None
        """Which images of the chunks of train the run sees, bool [N]; None: all, once an epoch."""
        if run.whole_draw.train_images != run.train_images or run.passes > 1:
            self.is_seen = torch.isin(self.chunks.index("train"), data.subset(run))
        stored = [split for split in data.splits if views_are_read_again(run, split, data, models)]
        self.views = ShardedViews(self.chunks, frozenset(stored))
        self.passes: TeacherPasses | None = None
        if teacher is not None and teacher.members:
            self.passes = TeacherPasses(teacher, self.chunks)
        self.features: Features | None = None
        if run.trainable == "head":
            self.features = Features(self.chunks, student, student_fingerprint)
        self.extra: ExtraImages | None = None
        if teacher is not None and run.unlabelled_per_batch:
            # features of a batch that depend on all its images are not worth storing: no other
            # share has the same. The frozen backbone then runs with the head
            if self.features and not self.features.are_per_image(self.views.sample("train")):
                self.features = None
            self.extra = ExtraImages(self.chunks, self._block_of_extra)

    def train(self, epoch: int) -> Iterator[Batch]:
        """Yield the training batches of an epoch, in the order of the repeat.

        Images without labels are the last ones of each batch, see `views.ExtraImages`.
        """
        size = self.run.labelled_per_batch
        if self.is_seen is None:
            batches = self._on_host("train", epoch, size)
        else:
            batches = rebatched(self._in_passes(epoch, self.is_seen), size)
        if self.extra is not None:
            batches = self.extra.beside(batches, epoch, self.images_per_epoch)
        return (batch.to(self.resources.device) for batch in batches)

    def evaluate(self, split: str, epoch: int) -> Iterator[Batch]:
        """Yield the batches of val or test in their own order, for the student after this epoch."""
        batches = self._on_host(split, epoch, EVALUATION_BATCH)
        return (batch.to(self.resources.device) for batch in batches)

    def teacher_logits(self, split: str) -> tuple[Tensor, Tensor]:
        """Return the teacher's logits, float32 [N, K], and the labels, int64 [N], of a split.

        They are in the split's own order, on the CPU. The views must be the same in every epoch.
        """
        return self._of_teacher(split, 0, None)[0], self._labels(split, None)

    @property
    def steps_per_epoch(self) -> int:
        """Number of training batches in an epoch."""
        return -(-self.images_per_epoch // self.run.labelled_per_batch)

    @property
    def images_per_epoch(self) -> int:
        """Number of labelled images in an epoch, each as often as it is seen."""
        if self.run.passes > 1:
            return self.run.largest_train_images or 0
        return self.chunks.count("train") if self.is_seen is None else int(self.is_seen.sum())

    def _in_passes(self, epoch: int, is_seen: Tensor) -> Iterator[Batch]:
        """Yield the images of an epoch that the run sees of its chunks, pass after pass.

        A pass has the order and the views of an epoch of the chunks. A run that sees fewer images
        has more passes than epochs, and begins with the first epoch again when all are used.
        """
        left, passes = self.images_per_epoch, self.run.passes
        for number in range(epoch * passes, (epoch + 1) * passes):
            number %= self.run.epochs
            order = self.chunks.order("train", number)
            rows, start = is_seen if order is None else is_seen[order], 0
            for batch in self._raw("train", number):
                chosen = batch[rows[start : start + len(batch)]][:left]
                start, left = start + len(batch), left - len(chosen)
                yield chosen

    def _raw(self, split: str, epoch: int) -> Iterator[Batch]:
        """Yield the images of a split, some at a time, with all that the models need."""
        if self.features is None:
            return self._views_and_logits(split, epoch)
        return iter([self._with_features(self.features, split, epoch)])

    def _on_host(self, split: str, epoch: int, size: int) -> Iterator[Batch]:
        for batch in rebatched(self._raw(split, epoch), size):
            if batch.features is not None:
                # a copy: a file's alignment, unlike the allocator's, moves a product's last bits
                batch = replace(batch, features=batch.features.clone())
            yield batch

    def _with_features(self, features: Features, split: str, epoch: int) -> Batch:
        """Return a whole split with the student's features in place of views."""
        per_image = split == "train" and self._per_image
        batches = self._views_and_logits(split, epoch, own_order=per_image)
        order = self.chunks.order(split, epoch)
        values = features.get(Place(split, epoch), batches, per_image)
        if per_image and order is not None:
            values = values[order]
        # after the features, whose building may have computed the logits on the way
        teacher = self._of_teacher(split, epoch, order)[0] if self._has_logits(split) else None
        batch = Batch(self._labels(split, order))
        if self.chunks.keys.mixes(split):
            batch = mixed_labels(self.run, epoch, batch.labels, self._shape)
        return replace(batch, features=values, teacher=teacher)

    @cached_property
    def _per_image(self) -> bool:
        """Whether the features of train are the same in every epoch but for the order."""
        return (
            self.features is not None
            and self.chunks.keys.same_inputs("train")
            and self.features.are_per_image(self.views.sample("train"))
        )

    def _labels(self, split: str, order: Tensor | None) -> Tensor:
        index = self.chunks.index(split)
        return self.data.splits[split].labels[index if order is None else index[order]]

    # -- views ---------------------------------------------------------------------------------

    def _views_and_logits(self, split: str, epoch: int, own_order: bool = False) -> Iterator[Batch]:
        """Yield views, labels and the teacher's logits, some images at a time.

        Args:
            split: train, val or test.
            epoch: of train.
            own_order: whether the images come in the split's order instead of the epoch's.
        """
        batches = self._views(split, epoch, own_order)
        if self.teacher is None or not self._has_logits(split):
            yield from batches
            return
        order = None if own_order else self.chunks.order(split, epoch)
        # Logits are stored in the split's own order where inputs are the same in every epoch, else
        # in the epoch's. Only in that order can the teacher pass go beside the student's.
        as_stored = order is None or not self.chunks.keys.same_inputs(split)
        place = Place(split, epoch)
        passes, recomputed = self.passes, as_stored and self.views.are_recomputed(split, epoch)
        if passes is not None and recomputed and not passes.are_known(place):
            # Views that are not kept would be made twice, once for each model: here the teacher
            # computes its outputs from the batches on their way to the student.
            yield from passes.beside(place, batches)
            return
        (logits, features), start = self._of_teacher(split, epoch, order), 0
        for batch in batches:
            rows = slice(start, start + len(batch))
            batch_features = None if features is None else features[rows]
            yield replace(batch, teacher=logits[rows], teacher_features=batch_features)
            start += len(batch)

    def _views(self, split: str, epoch: int, own_order: bool) -> Iterator[Batch]:
        """Yield what the models see, with labels, some images at a time."""
        batches = self._unmixed(split, epoch, own_order)
        if self.chunks.keys.mixes(split):
            # as many at a time as the teacher gets: it may compute its logits from these batches
            batches = mixed(self.run, epoch, batches, self._shape)
            batches = rebatched(batches, self.chunks.keys.inference_batch)
        return batches

    @property
    def _shape(self) -> torch.Size:
        """Shape of a view."""
        return view_shape(self.data, self.chunks.size)

    def _unmixed(self, split: str, epoch: int, own_order: bool) -> Iterator[Batch]:
        """Yield views before any mixing and labels, some images at a time."""
        views = self.views.in_own_order(split) if own_order else self.views.of_epoch(split, epoch)
        labels = self._labels(split, None if own_order else self.chunks.order(split, epoch))
        done = 0
        for part in views:
            yield Batch(labels[done : done + len(part)], part)
            done += len(part)

    # -- images without labels -----------------------------------------------------------------

    def _block_of_extra(self, place: Place, rows: Tensor) -> Batch:
        """Return the images of a block with the models' outputs, labelled by the teacher."""
        same = self.chunks.keys.same_views("extra")

        def views() -> Iterator[Batch]:
            parts = list(self.views.of_part(place))
            whole = parts[0] if len(parts) == 1 else torch.cat(parts)
            yield Batch(torch.zeros(len(whole), dtype=torch.int64), whole)  # labels mean nothing

        if same:
            logits, of_teacher = self._of_teacher("extra", 0, rows)
        else:
            logits, of_teacher = self._pass(place, views)
        batch = Batch(logits.argmax(1), teacher=logits, teacher_features=of_teacher)
        if self.features is None:
            return replace(batch, views=next(views()).views)
        if same:
            batches = self._views("extra", 0, own_order=True)
            features = self.features.get(Place("extra", 0), batches, True)[rows]
        else:
            features = self.features.get(place, views(), False)
        return replace(batch, features=features)

    # -- teacher -------------------------------------------------------------------------------

    def _has_logits(self, split: str) -> bool:
        """Return True if batches of the split have the teacher's logits.

        Runs with alpha = 1 need none: the teacher is only measured. It is not measured on mixed
        images, which it would see for this alone; nor, if it is a table, on images that change
        from epoch to epoch.
        """
        if self.teacher is None:
            return False
        if self.teacher.outputs is not None and not self.chunks.keys.same_inputs(split):
            return False
        return not self.run.is_baseline or not self.chunks.keys.mixes(split)

    def _of_teacher(
        self, split: str, epoch: int, order: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's logits, float32 [N, K], and features [N, D] in the epoch's order.

        Inputs that are the same in every epoch have one chunk, in the split's own order.
        """
        same = self.chunks.keys.same_inputs(split)
        if self.teacher is not None and self.teacher.outputs is not None:
            logits = self.teacher.outputs.logits[split][self.chunks.index(split)]
            return (logits if order is None else logits[order]), None
        place = Place(split, epoch)
        logits, features = self._pass(place, lambda: self._views(split, epoch, own_order=same))
        if not same or order is None:
            return logits, features
        return logits[order], None if features is None else features[order]

    def _pass(self, place: Place, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's logits of a place; its features if the run's loss compares them."""
        assert self.passes is not None  # noqa: S101 - the run needs them
        # the features first, since the pass that computes them stores the logits as well
        features = self.passes.features(place, inputs) if self.run.compares_features else None
        return self.passes.logits(place, inputs), features
