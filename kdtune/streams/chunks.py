"""Chunks: what one split gives in one epoch of one repeat, in memory, from the cache or built."""

from collections.abc import Callable

import torch
from torch import Tensor

from kdtune.config.run import Run, derive_seed
from kdtune.data.dataset import Data
from kdtune.streams.cache import Progress
from kdtune.streams.entries import Tensors
from kdtune.streams.keys import TRAINING, Key, Keys
from kdtune.streams.resources import Resources

INFERENCE_BATCH = {"cpu": 32, "cuda": 256, "mps": 64}
"""Views in a forward pass of a frozen model. On a CPU 32 fit its caches (with 64 the default
teacher took twice as long for a view); mps is not measured. Part of the keys, since it can change
the last bits."""
ORDERS = {"train": "order", "extra": "extra order"}
"""First word of the seed of the order of each split that has one."""
HAS_MPS = torch.backends.mps.is_available()
"""Whether this computer has a GPU whose generator must be seeded, too."""


def epoch_order(run: Run, count: int, epoch: int, of: str = "order") -> Tensor:
    """Return the order in which this repeat sees `count` images in this epoch, int64 [count].

    `of` makes it another one for other images.
    """
    seed = derive_seed(of, run.seed, run.repeat, epoch)
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def seed_step(run: Run, epoch: int, step: int) -> None:
    """Seed torch for one training step, so that dropout is the same for builder and reader."""
    seed = derive_seed("step", run.seed, run.repeat, epoch, step)
    torch.default_generator.manual_seed(seed)  # a tenth of torch.manual_seed's 0.5 ms
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
    if HAS_MPS:
        torch.mps.manual_seed(seed)


class Chunks:
    """The chunks of one run. Of each kind, split and member the last one stays in memory.

    Args:
        run: fixes the chunks by its data, models, seed and repeat.
        data: the run's data set, loaded.
        size: side of a view in pixels.
        resources: device, cache and loader workers.
    """

    def __init__(self, run: Run, data: Data, size: int, resources: Resources):
        self.run, self.data, self.size, self.resources = run, data, size, resources
        self.subset = data.subset(run)
        batch = INFERENCE_BATCH[resources.device.type]
        extra = None if data.extra is None else data.extra.fingerprint
        files = data.kind == "files"
        self.keys = Keys(run, data.fingerprint, size, resources.device, batch, extra, files)
        self._builds: list[tuple[str, Progress]] = []
        self._held: dict[tuple[str, str, int], tuple[Key, Tensors]] = {}

    def count(self, split: str) -> int:
        """Return the number of images of the split that the run sees."""
        return len(self.subset) if split == "train" else len(self.data.splits[split])

    def index(self, split: str) -> Tensor:
        """Return which images of the split the run sees, in the split's order, int64 [count]."""
        return self.subset if split == "train" else torch.arange(self.count(split))

    def order(self, split: str, epoch: int) -> Tensor | None:
        """Return the order of the epoch, positions in the index, int64 [count].

        For extra it is that of the pass with this number. None if it is the split's own order, as
        for val and test.
        """
        if split not in ORDERS:
            return None
        return epoch_order(self.run, self.count(split), epoch, ORDERS[split])

    def get(
        self,
        key: Key,
        split: str,
        epoch: int,
        build: Callable[[Progress], Tensors],
        keep: bool = True,
        member: int = 0,
    ) -> Tensors:
        """Return the chunk of this key: the one in memory, the cache's, or a new one.

        Args:
            key: its key.
            split: its split.
            epoch: its epoch, for the display of progress.
            build: makes it.
            keep: whether a new one is stored in the cache.
            member: of the teacher, if it is an ensemble.
        """
        found = self._in_memory(key, split, member)
        if found is not None:
            return found
        kind = key.kind.replace("-", " ")
        what = f"{kind}, {split}"
        if split in TRAINING and key.of_one_repeat:
            place = "epoch" if split == "train" else "extra images, pass"
            what = f"{kind}, repeat {self.run.repeat}, {place} {epoch}"

        def track(progress: Progress) -> Tensors:
            self._builds.append((what, progress))
            try:
                return build(self._report)
            finally:
                self._builds.pop()

        self._held.pop(
            (key.kind, split, member), None
        )  # frees its memory while the next one is built
        cache = self.resources.cache
        if keep:
            tensors = cache.get(key, what, track)
        else:
            tensors = cache.find(key) or track(lambda done, total: None)
        self._held[key.kind, split, member] = (key, tensors)
        return tensors

    def has(self, key: Key, split: str, member: int = 0) -> bool:
        """Return True if the chunk of this key need not be built."""
        if self._in_memory(key, split, member) is not None:
            return True
        found = self.resources.cache.find(key)
        if found is not None:
            self._held[key.kind, split, member] = (key, found)
        return found is not None

    def _in_memory(self, key: Key, split: str, member: int) -> Tensors | None:
        held = self._held.get((key.kind, split, member))
        return held[1] if held is not None and held[0] == key else None

    def _report(self, done: int, total: int) -> None:
        """Report progress of the innermost build, as a sign of life of those that wait for it."""
        for _, progress in self._builds:
            progress(done, total)
        self.resources.watch(self._builds[-1][0], done, total)
