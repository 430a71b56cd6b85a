"""What a repeat fixes, built once, shared by every configuration.

For a repeat, the order of the images, their augmented views, the labels, the teacher's logits on
exactly those views and, where the student's backbone is frozen, its features are functions of the
data, the models, the repeat and the epoch, and of nothing that is searched. A `Stream` hands them
out batch by batch; what is costly comes a chunk (one epoch of one split) at a time from the cache.
Logits are kept raw: temperature comes later.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import PIL
import torch
import torchvision
from torch import Tensor

from kdtune.cache import Key, Tensors, Tick
from kdtune.config import InputError, Run, derive_seed
from kdtune.data import Data
from kdtune.models import Classifier
from kdtune.resources import Resources
from kdtune.views import Views

INFERENCE_BATCH = {"cpu": 32, "cuda": 256}
"""Views a forward pass of a frozen model. On a CPU 32 fit the caches (64 took the default teacher
twice as long a view). Part of the key, since it moves the last bits."""
EVALUATION_BATCH = 64
HELD_BYTES = 2 * 10**9
"""Views of one split and epoch are held in memory up to this size, else made batch by batch."""


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
    """

    def __init__(
        self,
        run: Run,
        data: Data,
        student: Classifier,
        teacher: Classifier | None,
        resources: Resources,
        teacher_print: str | None = None,
    ):
        self.run, self.data, self.student, self.teacher = run, data, student, teacher
        self.resources, self.size = resources, view_size(run, data, student, teacher)
        self.subset = data.subset(run)
        self.frozen = run.trainable == "head"
        self._known_print = teacher_print
        self._ticks: list[Tick] = []
        self._held: dict[tuple[str, str], tuple[Key, Tensors]] = {}
        if teacher is not None:
            teacher.freeze().set_mode(False)
        if self.frozen:
            student.freeze(head=False)
            # of the initial weights: a run that goes on loads its statistics afterwards
            self._student_print = student.fingerprint(with_head=False)

    def train(self, epoch: int) -> Iterator[Batch]:
        """The training batches of an epoch, in the repeat's order."""
        return self._batches("train", epoch, self.run.batch_size)

    def evaluate(self, split: str, epoch: int) -> Iterator[Batch]:
        """The batches of val or test in their own order, for the student after this epoch."""
        return self._batches(split, epoch, EVALUATION_BATCH)

    def _batches(self, split: str, epoch: int, size: int) -> Iterator[Batch]:
        labels = self.data.splits[split].labels[self._index(split, epoch)]
        teacher = None if self.teacher is None else self._logits(split, epoch)
        features = self._features(split, epoch) if self.frozen else None
        views = iter(()) if self.frozen else self._view_batches(split, epoch, size)
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            yield Batch(
                views=None if self.frozen else self._move(next(views)),
                # cloned: a file's alignment, unlike the allocator's, moves a product's last bits
                features=None if features is None else self._move(features[part].clone()),
                labels=self._move(labels[part]),
                teacher=None if teacher is None else self._move(teacher[part]),
            )

    def _index(self, split: str, epoch: int) -> Tensor:
        if split != "train":
            return torch.arange(len(self.data.splits[split]))
        return self.subset[epoch_order(self.run, len(self.subset), epoch)]

    # -- views ---------------------------------------------------------------------------------

    def _view_batches(self, split: str, epoch: int, size: int) -> Iterator[Tensor]:
        views = self._views(split, epoch)
        if self._epoch_bytes(split) > HELD_BYTES:
            return views.batches(size, self.resources.loader_workers)
        return iter(self._all_views(views, split, epoch).split(size))

    def _all_views(self, views: Views, split: str, epoch: int) -> Tensor:
        def build(tick: Tick) -> Tensors:
            return {
                "views": _collect(
                    views.batches(workers=self.resources.loader_workers), tick, len(views)
                )
            }

        # a frozen backbone looks at views once, through its builder: not worth the disk
        shared = self.teacher is not None and not self.frozen
        keep = shared and self._stream_bytes <= self.resources.cache.limit / 2
        key = self._view_key(split, epoch)
        return self._chunk("views", split, epoch, key, build, keep)["views"]

    def _views(self, split: str, epoch: int) -> Views:
        index = self._index(split, epoch)
        training = epoch if split == "train" else None
        return Views(self.data.splits[split], index, self.run, self.size, training)

    def _epoch_bytes(self, split: str) -> int:
        count = len(self.subset) if split == "train" else len(self.data.splits[split])
        return count * self._channels * self.size**2

    @cached_property
    def _channels(self) -> int:
        images = self.data.splits["train"].images
        return images.shape[1] if isinstance(images, Tensor) else 3

    @property
    def _stream_bytes(self) -> int:
        return self._epoch_bytes("train") * self.run.epochs * self.resources.repeats

    # -- teacher -------------------------------------------------------------------------------

    def _logits(self, split: str, epoch: int) -> Tensor:
        teacher = self.teacher
        assert teacher is not None
        key = self._view_key(split, epoch) | self._compute_key | {"teacher": self._teacher_print}

        def build(tick: Tick) -> Tensors:
            batches = self._view_batches(split, epoch, self._inference_batch)
            with torch.no_grad():
                logits = (teacher(self._move(views)).cpu() for views in batches)
                return {"logits": _collect(logits, tick, len(self._index(split, epoch)))}

        return self._chunk("logits", split, epoch, key, build)["logits"]

    @property
    def _inference_batch(self) -> int:
        return INFERENCE_BATCH[self.resources.device.type]

    @cached_property
    def _teacher_print(self) -> str:
        assert self.teacher is not None
        return self._known_print or self.teacher.fingerprint()

    # -- features of a frozen backbone ---------------------------------------------------------

    def _features(self, split: str, epoch: int) -> Tensor:
        """Features, float32 [N, ...]; a training chunk leaves its statistics in the student.

        With batch norm in train mode they depend on the batch, and those of val on how far the
        running statistics have drifted: a run walks through its epochs in order, so the student
        always stands where the builder of this chunk stood.
        """
        run, drifts = self.run, self.run.batch_norm == "train"
        key = self._view_key(split, epoch) | self._compute_key
        key |= {"student": self._student_print, "batch_norm": run.batch_norm}
        if split == "train" or drifts:
            key |= {"batch_size": run.batch_size}
            key |= {"study_seed": run.seed, "repeat": run.repeat, "epoch": epoch}
            key |= {"train_images": run.train_images}
        build = self._train_features if split == "train" else self._eval_features

        def build_chunk(tick: Tick) -> Tensors:
            return build(split, epoch, tick)

        chunk = self._chunk("features", split, epoch, key, build_chunk)
        if split == "train" and drifts:
            self.student.net.load_state_dict(
                {k.removeprefix("state."): v for k, v in chunk.items() if k != "features"},
                strict=False,
            )
        return chunk["features"]

    def _train_features(self, split: str, epoch: int, tick: Tick) -> Tensors:
        self.student.set_mode(True, self.run.batch_norm == "train")
        features = []
        for step, views in enumerate(self._view_batches(split, epoch, self.run.batch_size)):
            seed_step(self.run, epoch, step)
            with torch.no_grad():
                features.append(self.student.features(self._move(views)).cpu())
            tick(step * self.run.batch_size, len(self.subset))
        state = {f"state.{k}": v.cpu().clone() for k, v in self._statistics().items()}
        return {"features": torch.cat(features), **state}

    def _eval_features(self, split: str, epoch: int, tick: Tick) -> Tensors:
        self.student.set_mode(False)
        batches = self._view_batches(split, epoch, self._inference_batch)
        with torch.no_grad():
            features = (self.student.features(self._move(views)).cpu() for views in batches)
            return {"features": _collect(features, tick, len(self.data.splits[split]))}

    def _statistics(self) -> Tensors:
        """Batch norm's running statistics, and whatever else the network keeps in buffers."""
        kept = self.student.net.state_dict()
        return {name: kept[name] for name, _ in self.student.net.named_buffers() if name in kept}

    # -- chunks --------------------------------------------------------------------------------

    def _view_key(self, split: str, epoch: int) -> dict[str, str | int | float | bool | None]:
        key: dict[str, str | int | float | bool | None] = {
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
    def _compute_key(self) -> dict[str, str | int | float | bool | None]:
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
            "inference_batch": self._inference_batch,
        }

    def _chunk(
        self,
        kind: str,
        split: str,
        epoch: int,
        key: Key,
        build: Callable[[Tick], Tensors],
        keep: bool = True,
    ) -> Tensors:
        """The chunk of this key: the one at hand, the cache's, or a new one."""
        held = self._held.get((kind, split))
        if held is not None and held[0] == key:
            return held[1]
        when = f"repeat {self.run.repeat}, epoch {epoch}" if split == "train" else split
        what = f"{kind}, {when}"
        cache = self.resources.cache
        if keep:
            tensors = cache.get(kind, key, what, lambda tick: self._track(tick, build))
        else:
            tensors = build(self._tick)
        self._held[kind, split] = (key, tensors)
        return tensors

    def _track(self, tick: Tick, build: Callable[[Tick], Tensors]) -> Tensors:
        """Build, telling this tick of all that is made on the way: views, too, are progress."""
        self._ticks.append(tick)
        try:
            return build(self._tick)
        finally:
            self._ticks.pop()

    def _tick(self, done: int, total: int) -> None:
        for tick in self._ticks:
            tick(done, total)

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.resources.device, non_blocking=True)


def _collect(batches: Iterator[Tensor], tick: Tick, total: int) -> Tensor:
    parts, done = [], 0
    for batch in batches:
        parts.append(batch)
        done += len(batch)
        tick(done, total)
    return torch.cat(parts)
