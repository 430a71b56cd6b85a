"""The stream of one repeat: its batches, and the passes of frozen networks that they need.

Both are computed once and shared by every configuration.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from kdtune.config.run import Run
from kdtune.data.dataset import Data, pooled
from kdtune.data.views import Mixture
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher, combine
from kdtune.streams import views as stream_views
from kdtune.streams.cache import AUGMENTED_SPLITS, Key, Place, ReportProgress, Tensors
from kdtune.streams.views import Batch, Chunks, ExtraImages, rebatched, views_are_read_again

# Features of a frozen backbone, the input of the student's head.
#
# With batch norm in train mode they depend on the batch, and those of val and test on the running
# statistics, which drift from batch to batch. Both depend on the stream only, so one pass through
# the backbone serves every configuration of a repeat. If views are the same in every epoch and
# the backbone treats each image by itself, one pass serves all epochs.


SAME = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 4e-3}
"""Features that differ by less than this share of the largest do not depend on the batch."""


class Features:
    """Features of the run's student, chunk by chunk.

    Args:
        chunks: the run's chunks.
        student: on its device, as the repeat starts it. A chunk of train leaves the running
            statistics in it that its builder had after that epoch.
        fingerprint: that of the student's backbone if it is known.
    """

    def __init__(self, chunks: Chunks, student: Classifier, fingerprint: str | None = None):
        self.chunks, self.run = chunks, chunks.run
        self.student = student.freeze(head=False)
        # of the initial weights: a run that is resumed loads its statistics afterwards
        self.fingerprint = fingerprint or student.fingerprint(with_head=False)
        self._updates_statistics = self.run.batch_norm_mode == "train"

    def get(self, place: Place, batches: Iterable[Batch], per_image: bool) -> Tensor:
        """Return the features of a place, float32 [N, D], in the order of the batches.

        Runs ask for their epochs in order, so the running statistics are always those that the
        builder of the chunk had.

        Args:
            place: the images; of extra perhaps some.
            batches: their views. Nothing is taken from them if the chunk is there.
            per_image: whether the features of train are the same in every epoch.
        """
        key = self.chunks.keys.features(place, self.fingerprint, per_image)
        split, total = place.split, self.chunks.count_of(place)

        def build(progress: ReportProgress) -> Tensors:
            if split == "train" and not per_image:
                self.student.set_mode(True, self._updates_statistics)
                features = stream_views.collect(self._steps(place.epoch, batches), progress, total)
                return {"features": features, **(self._state() if self._updates_statistics else {})}
            self.student.set_mode(split in AUGMENTED_SPLITS, False)
            views = rebatched(batches, self.chunks.keys.inference_batch)
            passes = (self._forward(batch.views) for batch in views)
            return {"features": stream_views.collect(passes, progress, total)}

        chunk = self.chunks.get(key, place, build)
        if split == "train" and self._updates_statistics:
            self._restore(chunk)
        return chunk["features"]

    def _steps(self, epoch: int, batches: Iterable[Batch]) -> Iterator[Tensor]:
        for step, batch in enumerate(rebatched(batches, self.run.labelled_per_batch)):
            stream_views.seed_step(self.run, epoch, step)
            yield self._forward(batch.views)

    @torch.no_grad()
    def _forward(self, views: Tensor | None) -> Tensor:
        assert views is not None  # noqa: S101 - of raw batches
        return self.student.features(views.to(self.chunks.resources.device)).cpu()

    # -- independence of images ----------------------------------------------------------------

    def are_per_image(self) -> bool:
        """Return True if a training pass depends on the image alone: no batch, no randomness."""
        if self._updates_statistics:
            return False
        key = self.chunks.keys.per_image(self.fingerprint)
        sample = stream_views.ShardedViews(self.chunks, frozenset()).sample("train")

        def build(progress: ReportProgress) -> Tensors:
            return {"answer": torch.tensor(self._is_per_image(next(sample)))}

        return bool(self.chunks.resources.cache.get(key, "features", build)["answer"])

    def _is_per_image(self, views: Tensor) -> bool:
        """Return True if a training pass is as in evaluation, not random, and mixes no images."""
        if len(views) < 2:
            return False
        buffers = [values for each in self._buffers.values() for values in each]
        before, states = [values.clone() for values in buffers], _generators()
        self.student.set_mode(True, False)
        whole = self._forward(views)
        half = len(views) // 2
        parts = torch.cat([self._forward(views[:half]), self._forward(views[half:])])
        self.student.set_mode(False)
        evaluated = self._forward(views)
        drew = any(not torch.equal(a, b) for a, b in zip(states, _generators(), strict=True))
        changed = any(not torch.equal(a, b) for a, b in zip(before, buffers, strict=True))
        for values, old in zip(buffers, before, strict=True):
            values.copy_(old)
        margin = SAME[self.run.precision] * whole.abs().max()
        differs = max((whole - other).abs().max() for other in (parts, evaluated)) > margin
        return not drew and not changed and not differs

    # -- running statistics --------------------------------------------------------------------

    def _state(self) -> Tensors:
        """Return the buffers, one tensor a type: reading a ResNet18's sixty took 40 % of a run."""
        flat = {t: torch.cat([v.reshape(-1) for v in each]) for t, each in self._buffers.items()}
        return {f"state.{t}": values.cpu() for t, values in flat.items()}

    def _restore(self, chunk: Tensors) -> None:
        for t, each in self._buffers.items():
            values = chunk[f"state.{t}"].to(self.chunks.resources.device)
            parts = values.split([value.numel() for value in each])
            for value, part in zip(each, parts, strict=True):
                value.copy_(part.view_as(value))

    @cached_property
    def _buffers(self) -> dict[torch.dtype, list[Tensor]]:
        """Running statistics of batch norm, and all other persistent buffers of the network."""
        saved, by_type = self.student.net.state_dict(), dict[torch.dtype, list[Tensor]]()
        for name, _ in self.student.net.named_buffers():
            if name in saved:
                by_type.setdefault(saved[name].dtype, []).append(saved[name])
        return by_type


def _generators() -> list[Tensor]:
    """Return the states of torch's global generators."""
    states = [torch.default_generator.get_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return [*states, torch.mps.get_rng_state()] if stream_views.HAS_MPS else states


# Passes of a frozen teacher: its logits and features, computed once for all runs.


Inputs = Callable[[], Iterable[Batch]]
"""Returns the views of a place. It is called only if the teacher has not seen them yet."""


class TeacherPasses:
    """Logits and features of the teacher of one run, a chunk for each place.

    Each member of an ensemble has its own chunks, which runs with that teacher share. Where a loss
    compares features, one pass gives both: the logits are stored as well, so they have the same
    bits whether a run needed the features or not.

    Args:
        teacher: One network or several, on their device.
        chunks: The run's chunks.
    """

    def __init__(self, teacher: Teacher, chunks: Chunks):
        self.teacher, self.chunks = teacher, chunks
        self.run, resources = chunks.run, chunks.resources
        wanted = self.run.compares_features or resources.teacher_features
        self.makes_features = wanted and len(teacher.members) == 1
        """Whether a pass gives the features, too: this run or another needs them."""

    def are_known(self, place: Place) -> bool:
        """Return True if all that the run needs of a place is in memory or in the cache."""
        if self.run.compares_features:
            return self.chunks.has(self._feature_key(place), place.split)
        members = range(len(self.teacher.members))
        return all(self.chunks.has(self._logit_key(place, m), place.split, m) for m in members)

    def logits(self, place: Place, inputs: Inputs) -> Tensor:
        """Return the logits of a place, float32 [N, K]."""
        members = range(len(self.teacher.members))
        return combine([self._of_member(member, place, inputs) for member in members])

    def features(self, place: Place, inputs: Inputs) -> Tensor:
        """Return the features of a place, float32 [N, D], of a teacher that is one network."""
        logits: list[Tensor] = []

        def passes() -> Iterator[Tensor]:
            for batch in self._batches(inputs):
                output, features = self._forward(0, batch)
                assert features is not None  # noqa: S101 - as the caller asks
                logits.append(output)
                yield features

        def build(progress: ReportProgress) -> Tensors:
            features = stream_views.collect(passes(), progress, self.chunks.count_of(place))
            self._store(self._logit_key(place, 0), place, "logits", logits)
            return {"features": features}

        key = self._feature_key(place)
        return self.chunks.get(key, place, build)["features"]

    def beside(self, place: Place, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield all batches of a place with the teacher's outputs, which are computed here.

        So views that are not kept are made once for teacher and student.
        """
        made: list[list[Tensor]] = [[] for _ in self.teacher.members]
        of_teacher: list[Tensor] = []
        for batch in batches:
            logits, features = [], None
            for member, values in enumerate(made):
                output, features = self._forward(member, batch)
                logits.append(output)
                values.append(output)
            if features is not None:
                of_teacher.append(features)
            read = features if self.run.compares_features else None
            yield replace(batch, teacher=combine(logits), teacher_features=read)
        for member, values in enumerate(made):
            self._store(self._logit_key(place, member), place, "logits", values, member)
        if of_teacher:
            self._store(self._feature_key(place), place, "features", of_teacher)

    def _of_member(self, member: int, place: Place, inputs: Inputs) -> Tensor:
        """Return the logits of one member of the teacher."""
        key = self._logit_key(place, member)
        if self.makes_features and not self.chunks.has(key, place.split, member):
            self.features(place, inputs)  # whose pass gives the logits, too

        def build(progress: ReportProgress) -> Tensors:
            logits = (self._forward(member, batch)[0] for batch in self._batches(inputs))
            return {"logits": stream_views.collect(logits, progress, self.chunks.count_of(place))}

        return self.chunks.get(key, place, build, member=member)["logits"]

    def _store(
        self, key: Key, place: Place, name: str, parts: list[Tensor], member: int = 0
    ) -> None:
        """Store batches of outputs as the chunk of a place, unless it is there."""
        self.chunks.get(key, place, lambda progress: {name: torch.cat(parts)}, member=member)

    def _logit_key(self, place: Place, member: int) -> Key:
        return self.chunks.keys.logits(place, self.teacher.fingerprints[member])

    def _feature_key(self, place: Place) -> Key:
        return self.chunks.keys.teacher_features(place, self.teacher.fingerprints[0])

    def _batches(self, inputs: Inputs) -> Iterator[Batch]:
        return rebatched(inputs(), self.chunks.keys.inference_batch)

    @torch.no_grad()
    def _forward(self, member: int, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Return the logits of one member and its features, on the CPU.

        The features are None if no run needs them.
        """
        model, batch = self._frozen[member], batch.to(self.chunks.resources.device)
        views, features = batch.views, batch.features
        if features is not None:
            logits = model.classify(features)
        elif self.makes_features:
            logits, features = model.with_features(views)  # type: ignore[arg-type]
        else:
            logits = model(views)
        return logits.cpu(), None if features is None else features.cpu()

    @cached_property
    def _frozen(self) -> list[Classifier]:
        """The members of the teacher in eval mode."""
        for model in self.teacher.members:
            model.set_mode(False)
        return [model.freeze() for model in self.teacher.members]


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
        resources: stream_views.Resources,
        student_fingerprint: str | None = None,
    ):
        self.run, self.data, self.teacher, self.resources = run, data, teacher, resources
        models = () if teacher is None else teacher.models
        size = stream_views.view_size(run, data, student, *models)
        self.chunks = Chunks(run.whole_draw, data, size, resources)
        self.is_seen: Tensor | None = None
        """Which images of the chunks of train the run sees, bool [N]; None: all, once an epoch."""
        if run.whole_draw.train_images != run.train_images or run.passes > 1:
            self.is_seen = torch.isin(self.chunks.index("train"), data.subset(run))
        stored = [split for split in data.splits if views_are_read_again(run, split, data, models)]
        self.views = stream_views.ShardedViews(self.chunks, frozenset(stored))
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
            if self.features and not self.features.are_per_image():
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
        if self._of_folds is not None and self._per_image:
            values = self._shared_features(self._of_folds, split)
        else:
            values = features.get(Place(split, epoch), batches, per_image)
        if per_image and order is not None:
            values = values[order]
        # after the features, whose building may have computed the logits on the way
        teacher = self._of_teacher(split, epoch, order)[0] if self._has_logits(split) else None
        batch = Batch(self._labels(split, order))
        if self.chunks.keys.mixes(split):
            batch = mixed_labels(self.run, epoch, batch.labels, self._shape)
        return replace(batch, features=values, teacher=teacher)

    def _shared_features(self, features: Features, split: str) -> Tensor:
        """Return the features of a split in its order, see `_of_all_folds`."""
        of = "train" if split == "val" and self.data.fold is not None else split
        views = stream_views.ShardedViews(features.chunks, frozenset()).in_own_order(of)
        batches = (Batch(torch.zeros(len(part)), part) for part in views)  # labels mean nothing
        values = features.get(Place(of, 0), batches, per_image=True)
        return values[self.data.numbers(split)[self.chunks.index(split)]]

    def _of_all_folds(self, model: Classifier, fingerprint: str | None, run: Run) -> Features:
        """Return the features of all examples; with --folds, train and val are one split, train."""
        data = self.data
        if (fold := data.fold) is not None:
            splits = fold.whole.splits | {"train": pooled(fold.whole)}
            data = replace(fold.whole, splits=splits, fingerprint=fold.pool)
        chunks = Chunks(run, data, self.chunks.size, self.resources)
        return Features(chunks, model, fingerprint)

    @cached_property
    def _of_folds(self) -> Features | None:
        """The student's features that all folds share; None without --folds."""
        if self.features is None or self.data.fold is None:
            return None
        run = replace(self.run, folds=None, train_images=None)
        return self._of_all_folds(self.features.student, self.features.fingerprint, run)

    @cached_property
    def _of_teacher_head(self) -> Features | None:
        """The features of a teacher of which only the head was trained, perhaps on these very ones.

        None if it was trained as a whole, or if its images differ from epoch to epoch.
        """
        run, members = self.run, () if self.teacher is None else self.teacher.members
        is_whole = run.teacher_trainable != "head" or not run.teacher_epochs or len(members) != 1
        if is_whole or run.train_images is not None or not self.chunks.keys.same_inputs("train"):
            return None
        mode = run.teacher_batch_norm
        run = replace(run, folds=None, student=run.teacher, trainable="head", batch_norm=mode)
        features = self._of_all_folds(members[0], None, run)
        return features if features.are_per_image() else None

    @cached_property
    def _per_image(self) -> bool:
        """Whether the features of train are the same in every epoch but for the order."""
        features, same = self._of_folds or self.features, self.chunks.keys.same_inputs("train")
        return same and features is not None and features.are_per_image()

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
        is_whole = self._of_teacher_head is None
        if passes is not None and recomputed and is_whole and not passes.are_known(place):
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
        return stream_views.view_shape(self.data, self.chunks.size)

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
        logits, features = self._pass(place, lambda: self._inputs(split, epoch, own_order=same))
        if not same or order is None:
            return logits, features
        return logits[order], None if features is None else features[order]

    def _inputs(self, split: str, epoch: int, own_order: bool) -> Iterator[Batch]:
        """Yield what the teacher gets: views, or their features if only its head was trained."""
        if self._of_teacher_head is None or split == "extra":
            return self._views(split, epoch, own_order)
        features = self._shared_features(self._of_teacher_head, split)
        self._of_teacher_head.student.freeze().set_mode(False)  # which building them changes
        return iter([Batch(self._labels(split, None), features=features)])

    def _pass(self, place: Place, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Return the teacher's logits of a place; its features if the run's loss compares them."""
        assert self.passes is not None  # noqa: S101 - the run needs them
        # the features first, since the pass that computes them stores the logits as well
        features = self.passes.features(place, inputs) if self.run.compares_features else None
        return self.passes.logits(place, inputs), features
