"""Batches and cached views of a split, and what a run runs on."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdtune.config.fields import takes_features
from kdtune.config.run import Precision, Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.task import ends_of
from kdtune.config.text import InputError
from kdtune.data.dataset import Data
from kdtune.data.views import Views
from kdtune.streams.cache import AUGMENTED_SPLITS, Cache, Key, Keys, Place, ReportProgress, Tensors

if TYPE_CHECKING:  # it loads pyarrow
    from kdtune.models.outputs import Model

# Batches: consecutive examples of a split, with all that a run needs of them.


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
    def labelled(self) -> Batch:
        """The images that have a label."""
        if not self.unlabelled:
            return self
        return replace(self[: len(self) - self.unlabelled], unlabelled=0)

    def __getitem__(self, rows: slice | Tensor) -> Batch:
        """Return some of the examples."""
        return self._map(lambda tensor: tensor[rows])

    def to(self, device: torch.device) -> Batch:
        """Return the batch on this device.

        A CUDA device gets it from pinned memory. The copy then does not wait for the GPU, so the
        process prepares the next batch meanwhile.
        """
        if device.type == "cuda":
            return self._map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
        return self._map(lambda tensor: tensor.to(device))

    def followed_by(self, other: Batch) -> Batch:
        """Return the examples of this batch and then of the other, which has the same parts."""
        mine, others = self._parts(), other._parts()
        joined: dict[str, Any] = {name: torch.cat([x, others[name]]) for name, x in mine.items()}
        return Batch(**joined)

    def _parts(self) -> dict[str, Tensor]:
        """Return the tensors by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def _map(self, change: Callable[[Tensor], Tensor]) -> Batch:
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


# What a run runs on: its device, cache, threads and loader workers; checks of the machine.


MAX_LOADER_WORKERS = 16
"""More processes than this by default would wait for each other's batches and for memory."""
ProgressCallback = Callable[[str, int, int], None]
"""watch(noun, done, total): how many images of a cache entry have been built so far."""


def ignore_progress(noun: str, done: int, total: int) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Resources:
    """Device, cache, threads and loader workers of a run."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: Cache = field(default_factory=lambda: Cache(gigabytes=0))
    loader_workers: int = 0
    """Processes that make views. 0: the run's own process."""
    threads: int = 1
    """Threads of torch in the run's own process; who starts the run sets them."""
    teacher_features: bool = False
    """Whether runs that share the cache compare features. The pass that gives a teacher's logits
    then gives its features, too."""
    watch: ProgressCallback = ignore_progress
    """Called while a cache entry is built."""

    @staticmethod
    def of(study: Study, photos: bool = False) -> Resources:
        """Return what the study gives each of its runs on this machine.

        Args:
            study: The study.
            photos: Whether its examples are image files, which a GPU's loader workers decode.

        Raises InputError if other users may write the cache.
        """
        device, cache = device_of(study), Cache(study.cache, study.cache_gb)
        cache.check()
        cores = study.cpus_per_trial or (1 if device.type == "cpu" else local_cpus())
        workers = loader_workers(study, photos, device, cores)
        return Resources(
            device=device,
            cache=cache,
            loader_workers=workers,
            # with a GPU the work of the CPU is that of the loader workers
            threads=cores if device.type == "cpu" else max(1, cores - workers),
            teacher_features=compares_features(study),
        )


def device_of(study: Study, gpus: int | None = None) -> torch.device:
    """Return the device of the study's runs on a machine.

    Args:
        study: Names the device, or leaves the choice to the machine.
        gpus: CUDA GPUs of the machine; None for those that this process sees.
    """
    if study.device != "auto":
        return torch.device(study.device)
    has_gpu = torch.cuda.is_available() if gpus is None else gpus > 0
    return torch.device("cuda" if has_gpu and study.may_use_gpus else "cpu")


def count_gpus(study: Study) -> int:
    """Return the number of GPUs of this machine: CUDA's, or the one that MPS reaches."""
    if study.device == "mps":
        return int(torch.backends.mps.is_available())
    return torch.cuda.device_count()


def local_cpus() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def loader_workers(study: Study, photos: bool, device: torch.device, cores: int) -> int:
    """Return how many processes make the views of a run that has so many cores.

    Tensors are augmented faster than workers start; so only files have workers by default, and
    one core is left to the run's own process, which keeps the GPU busy.
    """
    if study.loader_workers is not None:
        return study.loader_workers
    if device.type == "cpu" or not photos:
        return 0
    return min(cores - 1, MAX_LOADER_WORKERS)


def losses_of(study: Study) -> tuple[str, ...]:
    """Return the distillation losses that the study compares; none at alpha = 1."""
    if set(ends_of(study.values("alpha"))) == {1}:
        return ()
    return tuple(map(str, study.values("loss")))  # type: ignore[arg-type]


def compares_features(study: Study) -> bool:
    """Return True if a distillation loss of the study compares features."""
    return any(map(takes_features, losses_of(study)))


KEPT_BYTES = 2**31 - 1
KEEPS_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(KEPT_BYTES),
}
"""Environment variables of Ray's workers in a study of photographs. glibc would return large
tensors to the system, which clears the memory of each next one. With small tensors these make a
study slower (experiments/README.md)."""
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
"""The same parameters of glibc's `mallopt`, for this process."""


def local_resources(study: Study, photos: bool, watch: ProgressCallback) -> Resources:
    """Return the resources of a command on this machine, and set its number of threads.

    Raises InputError if the machine has too few GPUs, or a device without the run's precision.
    """
    check_gpus(study, count_gpus(study))
    resources = replace(Resources.of(study, photos), watch=watch)
    check_precision(study.run, resources.device)
    torch.set_num_threads(resources.threads)
    if photos:
        _keep_memory()
    return resources


def _keep_memory() -> None:
    """Let glibc keep the memory of released tensors, as Ray's workers do; see `mallopt(3)`."""
    with suppress(AttributeError, OSError, TypeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def check_gpus(study: Study, available: int) -> None:
    """Raise InputError if the study asks for a device or for more GPUs than this machine has.

    Args:
        study: Names the device and the number of GPUs.
        available: GPUs of this machine that the study may use.
    """
    if study.device in ("cuda", "mps") and not available:
        raise InputError(
            f"--device must be auto or cpu on this machine, but got --device {study.device}: "
            f"PyTorch finds no such GPU here. Use --device cpu"
        )
    if (study.gpus or 0) > available:
        remedy = f"--gpus {available}" if available else "--gpus 0, which runs on the CPUs"
        raise InputError(
            f"--gpus must be at most the {available} GPUs of this machine, but got --gpus "
            f"{study.gpus}. Use {remedy}"
        )


def check_precision(run: Run, device: torch.device) -> None:
    """Raise InputError if the run asks for a precision on a device that only emulates it.

    On an AVX2-only EPYC a ResNet18 training step of 16 images took 21.9 s in emulated bf16 and
    1.5 s in fp32; on a CPU with bf16 a step of the default teacher took 3.4 times as long in fp16.
    Commands and the driver check this; `distill` itself does not, since emulated numbers are right.
    """
    is_emulated = run.precision == "fp16" or (run.precision == "bf16" and not has_bf16())
    if device.type == "cpu" and is_emulated:
        raise InputError(
            f"--precision must be fp32 on this CPU, but got --precision {run.precision}, which it "
            f"emulates: a training step takes up to 15 times as long. Use --precision auto, or a "
            f"GPU"
        )


def with_precision(study: Study) -> Study:
    """Return the study with the precision that auto stands for on this machine, and print it."""
    if study.run.precision != "auto":
        return study
    precision, reason = _best_precision(device_of(study))
    print(f"--precision auto is {precision} here: {reason}.")
    return replace(study, run=replace(study.run, precision=precision))


def _best_precision(device: torch.device) -> tuple[Precision, str]:
    """Return the precision that auto stands for on a device, and the reason."""
    if device.type == "cpu" and has_bf16():
        return "bf16", "this CPU has bf16 instructions"
    if device.type != "cuda":
        return "fp32", f"this device ({device.type}) is not known to have fast bf16"
    name = torch.cuda.get_device_name()
    if torch.cuda.is_bf16_supported(including_emulation=False):
        return "bf16", f"{name} has bf16"
    # (7, 0): the first with tensor cores, for fp16
    speed = "fast" if torch.cuda.get_device_capability() >= (7, 0) else "slow"
    return ("fp16" if speed == "fast" else "fp32"), f"{name} has {speed} fp16 and no bf16"


def has_bf16() -> bool:
    """Return True if this CPU has bf16 instructions that PyTorch uses."""
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    except (AttributeError, RuntimeError):  # PyTorch was built without oneDNN
        return False


# Chunks: what one split gives in one epoch of one repeat, in memory, from the cache or built.


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


def balanced_order(run: Run, labels: Tensor, epoch: int) -> Tensor:
    """Return the order of as many draws as labels, with equal shares of the classes, int64 [N].

    A class that has fewer images than its share is drawn pass after pass, each in another order.
    The last draws of N that K does not divide are of random classes.
    """
    seed = derive_seed("balanced order", run.seed, run.repeat, epoch)
    generator, drawn = torch.Generator().manual_seed(seed), []
    classes = labels.unique()
    for number, k in enumerate(classes[torch.randperm(len(classes), generator=generator)]):
        share = (len(labels) - number - 1) // len(classes) + 1
        images = (labels == k).nonzero()[:, 0]
        passes = range(-(-share // len(images)))
        orders = [images[torch.randperm(len(images), generator=generator)] for _ in passes]
        drawn.append(torch.cat(orders)[:share])
    return torch.cat(drawn)[torch.randperm(len(labels), generator=generator)]


def number_draws(index: Tensor, count: int) -> Tensor:
    """Return an index of `count` examples with `count` added for each earlier draw of the same."""
    ordered, places = index.sort(stable=True)
    earlier = torch.arange(len(index)) - torch.searchsorted(ordered, ordered)
    return index.scatter_add(0, places, earlier * count)


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
        self._builds: list[tuple[str, ReportProgress]] = []
        self._held: dict[tuple[str, str, int], tuple[Key, Tensors]] = {}

    def count(self, split: str) -> int:
        """Return the number of images of the split that the run sees."""
        return len(self.subset) if split == "train" else len(self.data.splits[split])

    def count_of(self, place: Place) -> int:
        """Return the number of images of a place."""
        return place.count or self.count(place.split)

    def index(self, split: str) -> Tensor:
        """Return which images of the split the run sees, in the split's order, int64 [count]."""
        return self.subset if split == "train" else torch.arange(self.count(split))

    def order(self, split: str, epoch: int) -> Tensor | None:
        """Return the order of the epoch, positions in the index, int64 [count].

        For extra it is that of the pass with this number. With a balanced sampler a position may
        be there several times. None if it is the split's own order, as for val and test.
        """
        if split not in ORDERS:
            return None
        if split == "train" and self.run.sampler == "balanced":
            labels = self.data.splits["train"].labels[self.subset]
            return balanced_order(self.run, labels, epoch)
        return epoch_order(self.run, self.count(split), epoch, ORDERS[split])

    def get(
        self,
        key: Key,
        place: Place,
        build: Callable[[ReportProgress], Tensors],
        keep: bool = True,
        member: int = 0,
    ) -> Tensors:
        """Return the chunk of this key: the one in memory, the cache's, or a new one.

        Args:
            key: its key.
            place: its images.
            build: makes it.
            keep: whether a new one is stored in the cache.
            member: of the teacher, if it is an ensemble.
        """
        split = place.split
        chunk = self._in_memory(key, split, member)
        if chunk is not None:
            return chunk
        kind = key.kind.replace("-", " ")
        noun = f"{kind}, {split}"
        if split in AUGMENTED_SPLITS and "repeat" in key.parts:
            pass_ = "epoch" if split == "train" else "extra images, pass"
            noun = f"{kind}, repeat {self.run.repeat}, {pass_} {place.epoch}"

        def track(progress: ReportProgress) -> Tensors:
            self._builds.append((noun, progress))
            try:
                return build(self._report)
            finally:
                self._builds.pop()

        # frees its memory while the next one is built
        self._held.pop((key.kind, split, member), None)
        cache = self.resources.cache
        if keep:
            tensors = cache.get(key, noun, track)
        else:
            tensors = cache.find(key) or track(lambda done, total: None)
        self._held[key.kind, split, member] = (key, tensors)
        return tensors

    def has(self, key: Key, split: str, member: int = 0) -> bool:
        """Return True if the chunk of this key need not be built."""
        if self._in_memory(key, split, member) is not None:
            return True
        entry = self.resources.cache.find(key)
        if entry is not None:
            self._held[key.kind, split, member] = (key, entry)
        return entry is not None

    def _in_memory(self, key: Key, split: str, member: int) -> Tensors | None:
        held = self._held.get((key.kind, split, member))
        return held[1] if held is not None and held[0] == key else None

    def _report(self, done: int, total: int) -> None:
        """Report progress of the innermost build, as a sign of life of those that wait for it."""
        for _, progress in self._builds:
            progress(done, total)
        self.resources.watch(self._builds[-1][0], done, total)


# Views of a split, in shards of bounded size.
#
# A shard holds consecutive views of one split. Views that fit one shard are held in memory; more
# are stored in the cache shard by shard, or else computed a batch at a time at each use.


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
    width = inputs.element_size() if isinstance(inputs, Tensor) else 1
    return view_shape(data, size).numel() * width


def view_shape(data: Data, size: int) -> torch.Size:
    """Return the shape of one view, which has `size` pixels a side if it is an image."""
    inputs = data.splits["train"].inputs
    if not isinstance(inputs, Tensor):
        return torch.Size((3, size, size))
    return inputs.shape[1:] if data.kind == "tensors" else torch.Size((inputs.shape[1], size, size))


def views_are_read_again(run: Run, split: str, data: Data, teacher: Sequence[Model]) -> bool:
    """Return True if more than one run, or more than one builder, reads the views of a split.

    Otherwise storing them is not worth their room in the cache, nor where they are the data.
    """
    if data.kind == "tensors":
        return False
    if not teacher:  # fine-tuning reads each view of train once; val would be worth little
        return False
    # with batch norm in train mode, each share of images without labels has other features
    if run.trainable == "all" or (run.unlabelled_per_batch and run.batch_norm_mode == "train"):
        return True
    # features replace views, but those of val are computed after each epoch of drifting statistics
    return run.batch_norm_mode == "train" and split != "train"


class ShardedViews:
    """Views of one run.

    Args:
        chunks: the run's chunks.
        stored: splits whose views are stored in the cache.
    """

    def __init__(self, chunks: Chunks, stored: frozenset[str]):
        self.chunks, self.stored = chunks, stored
        self._mapped: dict[str, list[Tensor]] = {}

    def are_recomputed(self, split: str, epoch: int) -> bool:
        """Return True if views are neither held nor stored, but computed at each use.

        A full cache has the views of a pass if it has the first of them.
        """
        if self.chunks.count(split) <= self._shard_length:
            return False
        if split not in self.stored:
            return True
        key = self.chunks.keys.views(Place(split, epoch, 0, self._shard_length))
        return self.chunks.resources.cache.is_full("views") and not self.chunks.has(key, split)

    def of_epoch(self, split: str, epoch: int) -> Iterator[Tensor]:
        """Yield the views of the epoch in its order, [B, ...], some at a time."""
        order = self.chunks.order(split, epoch)
        if order is None or not self.chunks.keys.same_views(split):
            index = self.chunks.index(split)
            if order is not None:
                index = number_draws(index[order], len(self.chunks.data.splits[split]))
            yield from self._in_turn(split, epoch, index)
        elif self.are_recomputed(split, epoch):
            yield from self._computed(split, epoch, self.chunks.index(split)[order])
        else:
            yield from self._permuted(split, order)

    def of_part(self, place: Place) -> Iterator[Tensor]:
        """Yield the views of a part of an epoch in its order, [B, ...], some at a time."""
        split, epoch, first, count = astuple(place)
        order = self.chunks.order(split, epoch)
        assert order is not None  # noqa: S101 - a split with parts has an order
        index, rows = self.chunks.index(split), order[first : first + count]
        if not self.chunks.keys.same_views(split):
            yield self._shard(split, epoch, index[order], first, count)
        elif self.are_recomputed(split, epoch):
            yield from self._computed(split, epoch, index[rows])
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
        if self.are_recomputed(split, epoch):
            yield from self._computed(split, epoch, index)
            return
        for start in range(0, len(index), self._shard_length):
            yield self._shard(split, epoch, index, start, self._shard_length)

    def _shard(self, split: str, epoch: int, index: Tensor, start: int, length: int) -> Tensor:
        part = index[start : start + length]

        def build(progress: ReportProgress) -> Tensors:
            views = self._views(split, epoch, part)
            batches = views.batches(workers=self.chunks.resources.loader_workers)
            return {"views": collect(batches, progress, len(part))}

        place = Place(split, epoch, start, len(part))
        key = self.chunks.keys.views(place)
        return self.chunks.get(key, place, build, split in self.stored)["views"]

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
            key = self.chunks.keys.views(Place(split, 0, start, count))
            entry = self.chunks.resources.cache.find(key)
            if entry is None:
                return []
            shards.append(entry["views"])
        return shards

    def _computed(self, split: str, epoch: int, index: Tensor) -> Iterator[Tensor]:
        """Yield new views of these images, an inference batch at a time."""
        workers = self.chunks.resources.loader_workers
        yield from self._views(split, epoch, index).batches(self._batch, workers)

    def _views(self, split: str, epoch: int, index: Tensor) -> Views:
        chunks = self.chunks
        training = epoch if split in AUGMENTED_SPLITS else None
        examples = chunks.data.splits[split]
        name = "view" if split == "train" else "extra view"
        return Views(examples, index, chunks.run, chunks.size, training, name)

    @property
    def _batch(self) -> int:
        return self.chunks.keys.inference_batch

    @property
    def _shard_length(self) -> int:
        """Views of a shard: whole inference batches, so that shards change no bit of logits."""
        size = view_bytes(self.chunks.data, self.chunks.size)
        return max(1, SHARD_BYTES // (max(size, 1) * self._batch)) * self._batch


# Images without labels: an endless sequence, from which each training batch takes the next few.
#
# The sequence is pass after pass over all of them, each in an order and with views of its own.
# Pass k is for these images what epoch k is for train. It does not depend on how many of them a
# batch takes, so configurations with any batch size and any share have the same views and logits.
# A pass is computed in blocks, since a run may need a small part of it.


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


class ExtraImages:
    """The images without labels of one run.

    Args:
        chunks: The run's chunks.
        block: Returns the images of a part of a pass, with what the models say of them. Its second
            argument is which of the images these are, in their order, int64 [n].
    """

    def __init__(self, chunks: Chunks, block: Callable[[Place, Tensor], Batch]):
        self.run, self.chunks, self.block = chunks.run, chunks, block
        self.count = chunks.count("extra")

    def beside(self, batches: Iterable[Batch], epoch: int, labelled: int) -> Iterator[Batch]:
        """Yield the labelled batches of an epoch, each followed by its images without labels.

        Args:
            batches: The batches.
            epoch: Of training.
            labelled: Images of an epoch that have a label.
        """
        start = epoch * extra_per_epoch(self.run, labelled)
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
        return self.block(Place("extra", epoch, first, len(rows)), rows)


def joined(batch: Batch, extra: Batch) -> Batch:
    """Return a labelled batch followed by images without labels.

    The images of a mixed batch are mixed with each other only; those without labels have their one
    class in both places, so that its share does not matter.
    """
    if batch.partners is not None and batch.shares is not None:
        same = batch.shares[:1].expand(len(extra))
        extra = replace(extra, partners=extra.labels, shares=same)
    return replace(batch.followed_by(extra), unlabelled=len(extra))
