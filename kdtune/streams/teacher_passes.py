"""Passes of a frozen teacher: its logits and features, computed once for all runs."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import Teacher, combine
from kdtune.streams.batches import Batch, collect, rebatched
from kdtune.streams.cache import Progress
from kdtune.streams.chunks import Chunks
from kdtune.streams.entries import Tensors
from kdtune.streams.keys import Key, Part
from kdtune.streams.working_set import WorkingSet


@dataclass(frozen=True)
class Place:
    """Place of a teacher's inputs in the stream."""

    split: str
    epoch: int
    """Of train; number of the pass over extra."""
    count: int
    """Number of inputs."""
    part: Part | None = None
    """If they are a part of the epoch."""


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
        working_set: Decides what is stored.
    """

    def __init__(self, teacher: Teacher, chunks: Chunks, working_set: WorkingSet):
        self.teacher, self.chunks, self.working_set = teacher, chunks, working_set
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
                own, features = self._forward(0, batch)
                assert features is not None  # noqa: S101 - as the caller asks
                logits.append(own)
                yield features

        def build(progress: Progress) -> Tensors:
            features = collect(passes(), progress, place.count)
            self._store(self._logit_key(place, 0), place, "logits", logits)
            return {"features": features}

        key = self._feature_key(place)
        return self._get(key, place, build)["features"]

    def beside(self, place: Place, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Yield all batches of a place with the teacher's outputs, which are computed here.

        So views that are not kept are made once for teacher and student.
        """
        made: list[list[Tensor]] = [[] for _ in self.teacher.members]
        of_teacher: list[Tensor] = []
        for batch in batches:
            logits, features = [], None
            for member, values in enumerate(made):
                own, features = self._forward(member, batch)
                logits.append(own)
                values.append(own)
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

        def build(progress: Progress) -> Tensors:
            logits = (self._forward(member, batch)[0] for batch in self._batches(inputs))
            return {"logits": collect(logits, progress, place.count)}

        return self._get(key, place, build, member)["logits"]

    def _get(
        self, key: Key, place: Place, build: Callable[[Progress], Tensors], member: int = 0
    ) -> Tensors:
        keep = self.working_set.keeps(key, self.run)
        return self.chunks.get(key, place.split, place.epoch, build, keep, member)

    def _store(
        self, key: Key, place: Place, name: str, parts: list[Tensor], member: int = 0
    ) -> None:
        """Store batches of outputs as the chunk of a place, unless it is there."""
        self._get(key, place, lambda progress: {name: torch.cat(parts)}, member)

    def _logit_key(self, place: Place, member: int) -> Key:
        name = self.teacher.fingerprints[member]
        return self.chunks.keys.logits(place.split, place.epoch, name, place.part)

    def _feature_key(self, place: Place) -> Key:
        name = self.teacher.fingerprints[0]
        return self.chunks.keys.teacher_features(place.split, place.epoch, name, place.part)

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
