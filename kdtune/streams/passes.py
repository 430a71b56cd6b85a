"""Passes of frozen networks, computed once for all runs: features, teacher logits."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher, combine
from kdtune.streams.cache import AUGMENTED_SPLITS, Key, Place, ReportProgress, Tensors
from kdtune.streams.views import HAS_MPS, Batch, Chunks, collect, rebatched, seed_step

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
                features = collect(self._steps(place.epoch, batches), progress, total)
                return {"features": features, **(self._state() if self._updates_statistics else {})}
            self.student.set_mode(split in AUGMENTED_SPLITS, False)
            views = rebatched(batches, self.chunks.keys.inference_batch)
            passes = (self._forward(batch.views) for batch in views)
            return {"features": collect(passes, progress, total)}

        chunk = self.chunks.get(key, place, build)
        if split == "train" and self._updates_statistics:
            self._restore(chunk)
        return chunk["features"]

    def _steps(self, epoch: int, batches: Iterable[Batch]) -> Iterator[Tensor]:
        for step, batch in enumerate(rebatched(batches, self.run.labelled_per_batch)):
            seed_step(self.run, epoch, step)
            yield self._forward(batch.views)

    @torch.no_grad()
    def _forward(self, views: Tensor | None) -> Tensor:
        assert views is not None  # noqa: S101 - of raw batches
        return self.student.features(views.to(self.chunks.resources.device)).cpu()

    # -- independence of images ----------------------------------------------------------------

    def are_per_image(self, sample: Iterable[Tensor]) -> bool:
        """Return True if a training pass depends on the image alone: no batch, no randomness.

        Args:
            sample: some views, [B, ...] at a time. None is taken if the answer is known.
        """
        if self._updates_statistics:
            return False
        key = self.chunks.keys.per_image(self.fingerprint)

        def build(progress: ReportProgress) -> Tensors:
            return {"answer": torch.tensor(self._is_per_image(next(iter(sample))))}

        return bool(self.chunks.resources.cache.get(key, "features", build)["answer"])

    def _is_per_image(self, views: Tensor) -> bool:
        """Return True if a training pass is not random, changes no buffer and mixes no images."""
        if len(views) < 2:
            return False
        buffers = [values for each in self._buffers.values() for values in each]
        before, states = [values.clone() for values in buffers], _generators()
        self.student.set_mode(True, False)
        whole = self._forward(views)
        half = len(views) // 2
        parts = torch.cat([self._forward(views[:half]), self._forward(views[half:])])
        drew = any(not torch.equal(a, b) for a, b in zip(states, _generators(), strict=True))
        changed = any(not torch.equal(a, b) for a, b in zip(before, buffers, strict=True))
        for values, old in zip(buffers, before, strict=True):
            values.copy_(old)
        margin = SAME[self.run.precision] * whole.abs().max()
        return not drew and not changed and bool((whole - parts).abs().max() <= margin)

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
    return [*states, torch.mps.get_rng_state()] if HAS_MPS else states


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
            features = collect(passes(), progress, self.chunks.count_of(place))
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
            return {"logits": collect(logits, progress, self.chunks.count_of(place))}

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
        views = batch.to(self.chunks.resources.device).views
        assert views is not None  # noqa: S101 - as the caller asks
        if not self.makes_features:
            return self._frozen[member](views).cpu(), None
        logits, features = self._frozen[member].with_features(views)
        return logits.cpu(), features.cpu()

    @cached_property
    def _frozen(self) -> list[Classifier]:
        """The members of the teacher in eval mode."""
        for model in self.teacher.members:
            model.set_mode(False)
        return [model.freeze() for model in self.teacher.members]
