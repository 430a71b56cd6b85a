"""Views, and whatever is computed from them, a chunk at a time: at hand, cached, or made anew.

A chunk is what one split gives in one epoch of one repeat. That of views is kept in pieces of
bounded size; where even the cache has no room for them, views pass by a batch at a time.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

import PIL
import torch
import torchvision
from torch import Tensor

from kdtune.config.run import Run, derive_seed
from kdtune.data.dataset import Data
from kdtune.data.views import Views
from kdtune.streams.cache import Key, Tensors, Tick
from kdtune.streams.resources import Resources

INFERENCE_BATCH = {"cpu": 32, "cuda": 256}
"""Views a forward pass of a frozen model. On a CPU 32 fit the caches (64 took the default teacher
twice as long a view). Part of the key, since it moves the last bits."""
PIECE_BYTES = 2**29
"""Views of one split are held in memory, and kept on disk, so many bytes at a time."""

Parts = dict[str, str | int | float | bool | None]
"""Parts of a chunk's key."""


def epoch_order(run: Run, count: int, epoch: int) -> Tensor:
    """Order in which this repeat sees `count` images in this epoch, int64 [count]."""
    seed = derive_seed("order", run.seed, run.repeat, epoch)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def seed_step(run: Run, epoch: int, step: int) -> None:
    """Seed torch for one training step, so that dropout is the same for builder and reader."""
    seed = derive_seed("step", run.seed, run.repeat, epoch, step)
    torch.default_generator.manual_seed(seed)  # a tenth of torch.manual_seed's 0.5 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


class Chunks:
    """The chunks of one run.

    Args:
        run: fixes them by its data, seed and repeat.
        data: the run's data set, loaded.
        size: side of a view in pixels.
        resources: device, cache and loader workers.
    """

    def __init__(self, run: Run, data: Data, size: int, resources: Resources):
        self.run, self.data, self.size, self.resources = run, data, size, resources
        self.subset = data.subset(run)
        self._building: list[tuple[str, Tick]] = []
        self._held: dict[tuple[str, str], tuple[Key, Tensors]] = {}

    def count(self, split: str) -> int:
        """Images of the split that the run sees."""
        return len(self.subset) if split == "train" else len(self.data.splits[split])

    def index(self, split: str, epoch: int) -> Tensor:
        """Which images, in the order of this epoch, int64 [count]."""
        if split != "train":
            return torch.arange(self.count(split))
        return self.subset[epoch_order(self.run, len(self.subset), epoch)]

    # -- views ---------------------------------------------------------------------------------

    def keeps_views(self, split: str) -> bool:
        """Whether the cache has room for the views of all epochs and repeats."""
        uses = self.run.epochs * self.resources.repeats if split == "train" else 1
        return self._bytes * self.count(split) * uses <= self.resources.cache.limit / 2

    def views_pass(self, split: str, keep: bool) -> bool:
        """Whether views are neither held nor kept, but made each time that they are needed."""
        return self.count(split) > self._piece and not (keep and self.keeps_views(split))

    def views(self, split: str, epoch: int, keep: bool) -> Iterator[Tensor]:
        """Views of the epoch, uint8 [B, C, H, W], an inference batch or a piece at a time.

        Args:
            split: train, val or test.
            epoch: of the views of train.
            keep: whether they are worth the disk.
        """
        index, workers = self.index(split, epoch), self.resources.loader_workers
        if self.views_pass(split, keep):
            yield from self._views(split, epoch, index).batches(self.inference_batch, workers)
            return
        keep = keep and self.keeps_views(split)
        for start in range(0, len(index), self._piece):
            part = index[start : start + self._piece]

            def build(tick: Tick, part: Tensor = part) -> Tensors:
                batches = self._views(split, epoch, part).batches(workers=workers)
                return {"views": collect(batches, tick, len(part))}

            key = self.view_key(split, epoch) | {"first": start, "count": len(part)}
            yield self.get("views", split, epoch, key, build, keep)["views"]

    def _views(self, split: str, epoch: int, index: Tensor) -> Views:
        training = epoch if split == "train" else None
        return Views(self.data.splits[split], index, self.run, self.size, training)

    @cached_property
    def _bytes(self) -> int:
        """Of one view."""
        images = self.data.splits["train"].images
        return (images.shape[1] if isinstance(images, Tensor) else 3) * self.size**2

    @property
    def _piece(self) -> int:
        """Views of a piece: whole inference batches, so that pieces do not move a bit of logits."""
        batch = self.inference_batch
        return max(1, PIECE_BYTES // (self._bytes * batch)) * batch

    # -- keys ----------------------------------------------------------------------------------

    @property
    def inference_batch(self) -> int:
        """Views a forward pass of a frozen model."""
        return INFERENCE_BATCH[self.resources.device.type]

    def view_key(self, split: str, epoch: int) -> Parts:
        """All that views depend on."""
        key: Parts = {
            "data": self.data.fingerprint,
            "split": split,
            "augment": self.run.augmentation,
            "size": self.size,
            "torchvision": torchvision.__version__,
            "pillow": PIL.__version__,
        }
        if split == "train":
            key |= {"train_images": self.run.train_images, "study_seed": self.run.seed}
            key |= {"repeat": self.run.repeat, "epoch": epoch}
        return key

    @cached_property
    def compute_key(self) -> Parts:
        """All that moves a forward pass's last bits."""
        cuda = self.resources.device.type == "cuda"
        return {
            "precision": self.run.precision,
            "layout": "channels_last",
            "device": torch.cuda.get_device_name()
            if cuda
            else torch.backends.cpu.get_cpu_capability(),
            "threads": None if cuda else torch.get_num_threads(),
            "torch": torch.__version__,
            "inference_batch": self.inference_batch,
        }

    # -- at hand, cached, or made anew ---------------------------------------------------------

    def get(
        self,
        kind: str,
        split: str,
        epoch: int,
        key: Key,
        build: Callable[[Tick], Tensors],
        keep: bool = True,
    ) -> Tensors:
        """The chunk or piece of this key: the one at hand, the cache's, or a new one."""
        found = self._at_hand(kind, split, key)
        if found is not None:
            return found
        when = f"repeat {self.run.repeat}, epoch {epoch}" if split == "train" else split
        what = f"{kind}, {when}"

        def track(tick: Tick) -> Tensors:
            self._building.append((what, tick))
            try:
                return build(self._tick)
            finally:
                self._building.pop()

        self._held.pop((kind, split), None)  # not to be held while its successor is made
        cache = self.resources.cache
        tensors = cache.get(kind, key, what, track) if keep else track(lambda done, total: None)
        self._held[kind, split] = (key, tensors)
        return tensors

    def has(self, kind: str, split: str, key: Key) -> bool:
        """Whether the chunk of this key need not be made."""
        if self._at_hand(kind, split, key) is not None:
            return True
        found = self.resources.cache.find(kind, key)
        if found is not None:
            self._held[kind, split] = (key, found)
        return found is not None

    def _at_hand(self, kind: str, split: str, key: Key) -> Tensors | None:
        held = self._held.get((kind, split))
        return held[1] if held is not None and held[0] == key else None

    def _tick(self, done: int, total: int) -> None:
        """So far is what is being built, and alive what waits for it: logits, for their views."""
        for _, tick in self._building:
            tick(done, total)
        self.resources.watch(self._building[-1][0], done, total)


def collect(batches: Iterable[Tensor], tick: Tick, total: int) -> Tensor:
    """The batches [B, ...] as one tensor [total, ...], filled as they come: never held twice."""
    whole, done = torch.empty(0), 0
    for batch in batches:
        if not done:
            whole = torch.empty(total, *batch.shape[1:], dtype=batch.dtype)
        whole[done : done + len(batch)] = batch
        done += len(batch)
        tick(done, total)
    return whole


def rebatched(rows: Iterable[tuple[Tensor, ...]], size: int) -> Iterator[tuple[Tensor, ...]]:
    """The same rows of each column, `size` at a time; the last may be fewer."""
    rest: tuple[Tensor, ...] = ()
    for columns in rows:
        if rest:
            missing = size - len(rest[0])
            rest = tuple(torch.cat([a, b[:missing]]) for a, b in zip(rest, columns, strict=True))
            columns = tuple(column[missing:] for column in columns)
            if len(rest[0]) < size:
                continue
            yield rest
        whole = len(columns[0]) // size * size
        for start in range(0, whole, size):
            yield tuple(column[start : start + size] for column in columns)
        rest = tuple(column[whole:] for column in columns) if whole < len(columns[0]) else ()
    if rest:
        yield rest
