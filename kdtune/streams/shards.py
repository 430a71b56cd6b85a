"""Views of a split, in shards of bounded size.

A shard holds consecutive views of one split. Views that fit one shard are held in memory; more are
stored in the cache shard by shard, or else computed a batch at a time at each use.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.data.dataset import Data
from kdtune.data.views import Views
from kdtune.models.ensemble import Model
from kdtune.streams.batches import collect
from kdtune.streams.cache import Progress
from kdtune.streams.chunks import Chunks
from kdtune.streams.entries import Tensors
from kdtune.streams.keys import TRAINING, Part

SHARD_BYTES = 2**29
"""Maximum size of a shard: so much is held in memory of each split."""


def view_size(run: Run, data: Data, *models: Model | None) -> int:
    """Return the side of a view in pixels; 0 for data that are no images.

    It is the run's image_size, else the larger input size of the models, else the size of the
    images.

    Raises:
        InputError: none of them is given, since photographs have no common size.
    """
    if data.kind == "tensors":
        return 0
    sizes = [m.preprocessing.size for m in models if m is not None and m.preprocessing.size]
    if run.image_size or sizes:
        return run.image_size or max(sizes)
    images = data.splits["train"].inputs
    if not isinstance(images, Tensor):
        raise InputError(
            f"image_size must be given for the photographs in {run.data}, since neither model has "
            f"an input size; give one, such as --image-size 224"
        )
    return images.shape[-1]


def view_bytes(data: Data, size: int) -> int:
    """Return the bytes of one view, which has `size` pixels a side if it is an image."""
    inputs = data.splits["train"].inputs
    if data.kind == "tensors":
        assert isinstance(inputs, Tensor)  # noqa: S101 - as kind and part say
        return inputs[0].nbytes
    return view_shape(data, size).numel()


def view_shape(data: Data, size: int) -> torch.Size:
    """Return the shape of one view, which has `size` pixels a side if it is an image."""
    inputs = data.splits["train"].inputs
    if data.kind == "tensors":
        assert isinstance(inputs, Tensor)  # noqa: S101 - as kind and part say
        return inputs.shape[1:]
    return torch.Size((inputs.shape[1] if isinstance(inputs, Tensor) else 3, size, size))


class ShardedViews:
    """Views of one run.

    Args:
        chunks: the run's chunks.
        stored: splits whose views are stored in the cache.
    """

    def __init__(self, chunks: Chunks, stored: frozenset[str]):
        self.chunks, self.stored = chunks, stored
        self._mapped: dict[str, list[Tensor]] = {}

    def are_recomputed(self, split: str) -> bool:
        """Return True if views are neither held nor stored, but computed at each use."""
        return self.chunks.count(split) > self._shard_length and split not in self.stored

    def of_epoch(self, split: str, epoch: int) -> Iterator[Tensor]:
        """Yield the views of the epoch in its order, [B, ...], some at a time."""
        order = self.chunks.order(split, epoch)
        if order is None or not self.chunks.keys.same_views(split):
            index = self.chunks.index(split)
            yield from self._in_turn(split, epoch, index if order is None else index[order])
        elif self.are_recomputed(split):
            yield from self._computed(split, epoch, self.chunks.index(split)[order])
        else:
            yield from self._permuted(split, order)

    def of_part(self, split: str, part: Part) -> Iterator[Tensor]:
        """Yield the views of a part of an epoch in its order, [B, ...], some at a time."""
        order = self.chunks.order(split, part.epoch)
        assert order is not None  # noqa: S101 - as kind and part say
        index, rows = self.chunks.index(split), order[part.first : part.first + part.count]
        if not self.chunks.keys.same_views(split):
            yield self._shard(split, part.epoch, index[order], part.first, part.count)
        elif self.are_recomputed(split):
            yield from self._computed(split, part.epoch, index[rows])
        else:
            yield from self._permuted(split, rows)

    def in_own_order(self, split: str) -> Iterator[Tensor]:
        """Yield views that are the same in every epoch, in the split's order, some at a time."""
        yield from self._in_turn(split, 0, self.chunks.index(split))

    def sample(self, split: str) -> Iterator[Tensor]:
        """Yield a few views that are the same in every epoch, without making the others."""
        index = self.chunks.index(split)[: self._batch]
        yield from self._computed(split, 0, index)

    def _in_turn(self, split: str, epoch: int, index: Tensor) -> Iterator[Tensor]:
        """Yield the views of these images in this order."""
        if self.are_recomputed(split):
            yield from self._computed(split, epoch, index)
            return
        for start in range(0, len(index), self._shard_length):
            yield self._shard(split, epoch, index, start, self._shard_length)

    def _shard(self, split: str, epoch: int, index: Tensor, start: int, length: int) -> Tensor:
        part = index[start : start + length]

        def build(progress: Progress) -> Tensors:
            views = self._views(split, epoch, part)
            batches = views.batches(workers=self.chunks.resources.loader_workers)
            return {"views": collect(batches, progress, len(part))}

        key = self.chunks.keys.views(split, epoch, start, len(part))
        return self.chunks.get(key, split, epoch, build, split in self.stored)["views"]

    def _permuted(self, split: str, order: Tensor) -> Iterator[Tensor]:
        """Yield views that are the same in every epoch in the order of one, or of a part of it."""
        fit = self.chunks.count(split) <= self._shard_length
        if split not in self._mapped and not fit:
            self._mapped[split] = self._map(split)
        shards = self._mapped.get(split) or []
        if fit:
            shards = [self._shard(split, 0, self.chunks.index(split), 0, self._shard_length)]
        if not shards:
            yield from self._computed(split, 0, self.chunks.index(split)[order])
            return
        for rows in order.split(self._batch):
            views = shards[0].new_empty((len(rows), *shards[0].shape[1:]))
            numbers = rows // self._shard_length
            for number in numbers.unique().tolist():
                chosen = numbers == number
                views[chosen] = shards[number][rows[chosen] % self._shard_length]
            yield views

    def _map(self, split: str) -> list[Tensor]:
        """Return all shards, mapped from the files of the cache; none if one cannot be stored."""
        index, shards = self.chunks.index(split), []
        for start in range(0, len(index), self._shard_length):
            count = len(self._shard(split, 0, index, start, self._shard_length))
            found = self.chunks.resources.cache.find(self.chunks.keys.views(split, 0, start, count))
            if found is None:
                return []
            shards.append(found["views"])
        return shards

    def _computed(self, split: str, epoch: int, index: Tensor) -> Iterator[Tensor]:
        """Yield new views of these images, an inference batch at a time."""
        workers = self.chunks.resources.loader_workers
        yield from self._views(split, epoch, index).batches(self._batch, workers)

    def _views(self, split: str, epoch: int, index: Tensor) -> Views:
        chunks = self.chunks
        training = epoch if split in TRAINING else None
        own = chunks.data.splits[split]
        name = "view" if split == "train" else "extra view"
        return Views(own, index, chunks.run, chunks.size, training, name)

    @property
    def _batch(self) -> int:
        return self.chunks.keys.inference_batch

    @property
    def _shard_length(self) -> int:
        """Views of a shard: whole inference batches, so that shards change no bit of logits."""
        size = view_bytes(self.chunks.data, self.chunks.size)
        return max(1, SHARD_BYTES // (max(size, 1) * self._batch)) * self._batch
