"""Content-addressed cache of tensors on disk, shared by all processes of a machine."""

import hashlib
import json
import os
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal, NamedTuple

import numpy as np
import PIL
import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kdtune.config import files
from kdtune.config.fields import HUB, is_function_name
from kdtune.config.run import Run
from kdtune.config.text import InputError, first_line
from kdtune.models.code_hash import source_digest

# Files of the cache: safetensors with their key and a checksum inside.


Tensors = dict[str, Tensor]


def read(path: Path, text: str) -> Tensors | None:
    """Return the tensors of an entry; None if the file is missing, damaged or of another key.

    Args:
        path: the file.
        text: the key as it must stand in the file.

    Raises:
        StrangerError: others own the file or may write it.
    """
    try:
        with files.open_trusted(path) as opened:
            # nobody else may write the folder, so this is the file that was checked
            with safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            if metadata.get("key") != text or metadata.get("crc") != str(checksum(tensors)):
                return None
            with suppress(OSError):
                os.utime(opened.fileno())  # used now, so evicted late
    except files.StrangerError:
        raise
    except (OSError, SafetensorError):
        return None
    return tensors


def checksum(tensors: Tensors) -> int:
    """Return the CRC-32 of names, types, shapes and bytes."""
    crc = 0
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc


# Keys of the cache: all that the numbers of a cache entry depend on, and nothing else.
#
# A key that lacks a part gives old numbers silently; a key with a part too many computes equal
# numbers again. So all keys are made here, and a test changes each part in turn. Hyperparameters
# that do not change a stream (alpha, temperature, lr, epochs, the optimiser, ...) never enter.


_Kind = Literal["views", "logits", "teacher-features", "features"]
_KINDS: tuple[_Kind, ...] = ("views", "logits", "teacher-features", "features")
"""Kinds of cache entries. Building an entry may need entries of an earlier kind."""

Parts = dict[str, str | int | float | bool | None]

_FORMAT = 3
"""Version of the layout of an entry. Entries of another version are not found."""


AUGMENTED_SPLITS = ("train", "extra")
"""Splits that are augmented, and seen in another order in each epoch."""


@dataclass(frozen=True)
class Place:
    """Images of one pass over a split: all of them, or consecutive ones."""

    split: str
    """train, val, test or extra."""
    epoch: int
    """Of train; of val and test that before the evaluation; number of the pass over extra."""
    first: int = 0
    """Position of the first one in the order of the pass."""
    count: int = 0
    """Their number; 0: all images."""

    @property
    def range(self) -> Parts:
        """Which images these are; {} for all."""
        return {"first": self.first, "count": self.count} if self.count else {}


@dataclass(frozen=True)
class Key:
    """Key of one cache entry."""

    kind: _Kind
    parts: Parts

    @cached_property
    def text(self) -> str:
        """The key as JSON, in which the order of the parts does not matter."""
        return json.dumps({"format": _FORMAT, "kind": self.kind, **self.parts}, sort_keys=True)

    @cached_property
    def name(self) -> str:
        """Hash of the key, 32 hex digits: the name of the entry's file."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Keys:
    """Keys of the chunks of one run.

    Args:
        run: names the augmentation, the seeds, the precision and the mode of batch norm.
        data: fingerprint of the data set.
        size: side of a view in pixels.
        device: where the models run.
        inference_batch: views in a forward pass of a frozen model.
        extra: fingerprint of the images without labels, if there are any.
        files: whether the examples are image files.
    """

    run: Run
    data: str
    size: int
    device: torch.device
    inference_batch: int
    extra: str | None = None
    files: bool = False

    def same_views(self, split: str) -> bool:
        """Return True if the views of the split are the same in every epoch and repeat.

        These are the views before they are mixed.
        """
        return split not in AUGMENTED_SPLITS or self.run.augmentation == "none"

    def mixes(self, split: str) -> bool:
        """Return True if the models see views of the split that are mixed with each other."""
        return split == "train" and self.run.mixes

    def same_inputs(self, split: str) -> bool:
        """Return True if what the models see is the same in every epoch and repeat."""
        return self.same_views(split) and not self.mixes(split)

    def views(self, place: Place) -> Key:
        """Return the key of views."""
        return Key("views", self._views(place) | place.range)

    def logits(self, place: Place, teacher: str) -> Key:
        """Return the key of the logits of the teacher with this fingerprint."""
        parts = self._views(place) | self._computation | place.range
        if self.mixes(place.split):
            parts |= self._batches(place.epoch) | self._mixing
        parts |= _of_transformers(self.run.teacher)
        return Key("logits", parts | {"teacher": teacher})

    def teacher_features(self, place: Place, teacher: str) -> Key:
        """Return the key of the features of the teacher, which come from the pass of its logits."""
        return Key("teacher-features", self.logits(place, teacher).parts)

    def features(self, place: Place, student: str, per_image: bool = False) -> Key:
        """Return the key of the features of the student's frozen backbone.

        Args:
            place: Of the images.
            student: Fingerprint of the backbone.
            per_image: Whether the features of train are computed once, image by image, and not
                batch by batch in every epoch.
        """
        run, split, epoch = self.run, place.split, place.epoch
        parts = self._views(place) | self._computation | place.range
        parts |= {"student": student, "batch_norm": run.batch_norm_mode}
        parts |= _of_transformers(run.student)
        by_batch = split == "train" and not per_image
        # With batch norm in train mode, val and test are evaluated with running statistics, which
        # follow the training batches of all epochs so far. So these features, too, depend on the
        # epoch, on what the batches are made of, and on how the images of train are augmented.
        if by_batch or run.batch_norm_mode == "train":
            parts |= self._batches(epoch) | (self._mixing if run.mixes else {})
        if split != "train" and run.batch_norm_mode == "train":
            transform = self._transform("train")
            parts |= {f"train_{name}": value for name, value in transform.items()}
        return Key("features", parts)

    def per_image(self, student: str) -> Key:
        """Return the key of the answer whether a backbone treats each image by itself."""
        parts = self._views(Place("train", 0)) | self._computation
        return Key("features", parts | {"student": student, "question": "per image"})

    def _views(self, place: Place) -> Parts:
        run, split, epoch = self.run, place.split, place.epoch
        parts: Parts = {
            "data": self.extra if split == "extra" else self.data,
            "split": split,
            "size": self.size,
            **self._transform(split),
            # what decodes and resizes; torch's resizing has other code for other CPUs
            "pillow": PIL.__version__,
            "torchvision": version_of("torchvision"),
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }
        if split == "train":
            parts |= self._drawn | {"study_seed": run.seed}
            if not self.same_views(split):
                parts |= {"repeat": run.repeat, "epoch": epoch} | self._sampler
            elif run.train_images is None:  # the seed draws the subset and nothing else
                del parts["study_seed"]
        elif not self.same_views(split):
            parts |= {"study_seed": run.seed, "repeat": run.repeat, "epoch": epoch}
        return parts

    def _transform(self, split: str) -> Parts:
        """Return the settings of the run that make the split's views from its images."""
        run = self.run
        augment = run.augmentation if split in AUGMENTED_SPLITS else "none"
        parts: Parts = {"augment": augment}
        if is_function_name(augment):
            parts["source"] = self._source
        if augment != "resized-crop":  # which resizes by itself
            parts["interpolation"] = run.eval_interpolation
        if augment == "none":
            parts["crop"] = run.eval_crop
        # entries of earlier versions, which read images as they are stored, have no such part
        if self.files and run.orientation != "stored":
            parts["orientation"] = "exif"
        return parts

    @cached_property
    def _source(self) -> str:
        """Hash of the user's modules behind the run's augmentation."""
        return source_digest([self.run.augmentation.partition(":")[0]], nn.Module())

    def _batches(self, epoch: int) -> Parts:
        """Return what the training batches of an epoch depend on, besides the views."""
        run = self.run
        parts: Parts = {"batch_size": run.labelled_per_batch, "study_seed": run.seed}
        return parts | self._drawn | self._sampler | {"repeat": run.repeat, "epoch": epoch}

    @property
    def _sampler(self) -> Parts:
        """Return what decides how often an epoch has an image, if that is not once."""
        return {} if self.run.sampler == "shuffle" else {"sampler": self.run.sampler}

    @property
    def _drawn(self) -> Parts:
        """Return what decides, besides the seed, which images of train the run sees."""
        parts: Parts = {"train_images": self.run.train_images}
        if self.run.repeat_of_draw is not None:  # entries of earlier versions have no such part
            parts |= {"draw": "repeat", "repeat": self.run.repeat_of_draw}
        return parts

    @property
    def _mixing(self) -> Parts:
        """Return what decides how the images of a given batch are mixed."""
        # numpy draws, and other versions may draw other numbers
        run, drawn_by = self.run, np.__version__
        return {"mixup": float(run.mixup), "cutmix": float(run.cutmix), "numpy": drawn_by}

    @cached_property
    def _computation(self) -> Parts:
        """Whatever can change the last bits of a forward pass, besides the model and its input."""
        return {
            "precision": self.run.precision,
            "layout": "channels_last",
            "device": device_name(self.device),
            "threads": torch.get_num_threads() if self.device.type == "cpu" else None,
            "timm": version_of("timm"),
            "inference_batch": self.inference_batch,
        }


def _of_transformers(model: str) -> Parts:
    """Return the version of transformers if it computes a model or a member of an ensemble."""
    return {"transformers": version_of("transformers")} if HUB in model else {}


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, such as "NVIDIA H100" or "Apple M3"; "cpu" for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return torch.backends.mps.get_name() if device.type == "mps" else device.type


@cache
def version_of(package: str) -> str | None:
    """Return the version of a package that has code of views or models; None without it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# Content-addressed cache of tensors on disk, shared by all processes of a machine.
#
# An entry is a safetensors file named by the hash of its key. It is written to a temporary file
# and renamed, with its key and a checksum inside. The first process that needs an entry builds it
# and holds the lock of its key; others wait. A process that waits for a builder that has died
# builds the entry itself. An entry that cannot be read is built again, and one that cannot be
# written is not kept, so the numbers are the same as without a cache.
#
# Whoever may write an entry decides numbers of a study. So the folder must be this user's or
# root's, and nobody else's to write, and an entry of another user counts as missing.


PROCESS_START = time.time()
"""Entries that were used since then are those of the study that this process works for."""

MAX_VIEWS_SHARE = 0.5
"""Share of the cache that views may fill: a byte of logits or features costs more to compute."""

COUNTED_SHARE = 0.02
"""Share of the cache that is written before its files are counted again."""

ReportProgress = Callable[[int, int], None]
"""progress(done, total): called by a builder regularly."""

HANG_SECONDS = 60.0
"""A builder without a heartbeat for so long is not shown."""

HEARTBEAT_SECONDS = 0.5

_LOCK_SECONDS = 24 * 3600.0
"""Lock files that nobody has taken for so long are deleted."""


class Building(NamedTuple):
    """An entry that is being built."""

    what: str
    """For people, for example "logits, repeat 3, epoch 7"."""
    done: int
    """Images so far."""
    total: int
    """Images of the whole entry."""
    owner: str
    """For whom: `Cache.owner`."""


class Cache:
    """The cache in a folder.

    Args:
        folder: where the entries are; None for kdtune's folder in the user's cache folder.
        gigabytes: maximum size. 0: no cache. The least recently used entries are deleted first, but
            not those that were used since this process began: all runs of a study read the same
            streams in turn, so if these are larger than the cache, each entry would be deleted
            just before it is read again. What does not fit beside them is not stored.
        owner: names the study whose processes build, since studies may share the folder.
    """

    def __init__(self, folder: str | Path | None = None, gigabytes: float = 20.0, owner: str = ""):
        self.folder = Path(folder).expanduser() if folder else files.cache_folder()
        self.limit, self.owner = int(gigabytes * 1e9), owner
        self._used: dict[_Kind, int] | None = None
        """Bytes that were used since this process began, by kind; None: to be counted."""
        self._uncounted = 0
        """Bytes written since they were counted."""
        self._full = set[_Kind]()
        """Kinds of which an entry did not fit."""
        self.warnings: dict[str, str] = {}
        """Why entries could not be read or written: a sentence for each cause."""

    def get(self, key: Key, what: str, build: Callable[[ReportProgress], Tensors]) -> Tensors:
        """Return the entry of this key, built by `build(progress)` if it is not there.

        Args:
            key: everything that the tensors depend on. A build may get entries of an earlier kind
                only, so that two builders never wait for each other.
            what: the entry in words, for the display of progress.
            build: returns the tensors, and calls progress(done, total) regularly.

        Returns:
            The tensors. If they come from the disk they are memory-mapped and copy-on-write.
        """
        if not self.limit:
            return build(lambda done, total: None)
        entry = self.find(key)
        if entry is not None:
            return entry
        if self.is_full(key.kind):  # nobody need wait for an entry that will not be there
            return build(lambda done, total: None)
        try:
            lock = self._lock(key)
        except OSError as error:  # the folder cannot be created, or has no locks
            self._warn("fault", self._describe(error))
            return build(lambda done, total: None)
        try:
            return self.find(key) or self._build(key, what, build)
        finally:
            lock.release()

    def is_full(self, kind: _Kind) -> bool:
        """Return True if entries of this kind no longer fit; a cache of size 0 is full."""
        if not self.limit or kind in self._full:
            return True
        return not self._has_room(kind, COUNTED_SHARE * self.limit)

    def find(self, key: Key) -> Tensors | None:
        """Return the entry of this key, or None if it is not there; never wait, never build."""
        try:
            return read(self._path(key), key.text) if self.limit else None
        except files.StrangerError as error:
            self._warn("stranger", f"the cache entry {error}, so it is computed again")
            return None

    def check(self) -> None:
        """Raise InputError if other users may change what is in the folder."""
        if self.limit and (distrust := files.distrust_of(self.folder)):
            raise InputError(
                f"the cache must be a folder that only you may write, but {distrust}, who could "
                f"change the logits that runs read; delete it, or name another one (--cache FOLDER)"
            )

    def fault(self) -> str | None:
        """Return why nothing can be written, in a sentence; None if all is well or limit is 0."""
        if not self.limit:
            return None
        try:
            files.make_folder(self.folder)
            with TemporaryFile(dir=self.folder) as probe:
                probe.write(b"kdtune")
        except OSError as error:
            return self._describe(error)
        return None

    def building(self) -> Iterator[Building]:
        """Yield what processes of this owner that are alive are building now."""
        for heartbeat in (self.folder / "building").glob("*.json"):
            with suppress(OSError, ValueError, TypeError):  # of an earlier version, without owner
                built = Building(**json.loads(heartbeat.read_text()))
                is_alive = time.time() - heartbeat.stat().st_mtime < HANG_SECONDS
                if is_alive and built.owner == self.owner:
                    yield built

    def _path(self, key: Key) -> Path:
        return self.folder / key.kind / key.name[:2] / f"{key.name}.safetensors"

    def _lock(self, key: Key) -> FileLock:
        """Wait for the lock of this key and take it; a process that ends gives its lock back."""
        file = self.folder / "locks" / f"{key.kind}-{key.name}.lock"
        files.make_folder(self.folder, file.parent.name)
        lock = FileLock(file, mode=0o644)
        lock.acquire(poll_interval=0.02)
        with suppress(OSError):
            os.utime(file)  # used now, so deleted late
        return lock

    def _build(self, key: Key, what: str, build: Callable[[ReportProgress], Tensors]) -> Tensors:
        heartbeat = self.folder / "building" / f"{key.name}.json"
        last = time.monotonic()  # a build that is shorter than a heartbeat needs no file

        def progress(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last >= HEARTBEAT_SECONDS:
                last = time.monotonic()
                with suppress(OSError):
                    files.make_folder(self.folder, heartbeat.parent.name)
                    built = Building(what, done, total, self.owner)
                    heartbeat.write_text(json.dumps(built._asdict()))

        try:
            tensors = {name: value.contiguous() for name, value in build(progress).items()}
        finally:
            with suppress(OSError):
                heartbeat.unlink()
        try:
            self._write(key, tensors)
        except (OSError, SafetensorError) as error:  # the disk is full or read-only
            self._warn("fault", self._describe(error))
        return tensors

    def _write(self, key: Key, tensors: Tensors) -> None:
        size = sum(t.nbytes for t in tensors.values())
        if not self._has_room(key.kind, size):
            return
        path = self._path(key)
        files.make_folder(self.folder, *path.parent.relative_to(self.folder).parts)
        with files.atomic_write(path) as part:
            save_file(tensors, part, {"key": key.text, "crc": str(checksum(tensors))})
        if self._used is not None:
            self._used[key.kind] += size
        self._uncounted += size
        if self._uncounted > COUNTED_SHARE * self.limit:
            self._used = self._count()
            self._delete_old_locks()

    def _has_room(self, kind: _Kind, size: float) -> bool:
        """Return True if so many bytes of a kind fit beside what this process's study uses."""
        if self._used is None:
            self._used = self._count()
        room: float = self.limit - sum(self._used.values())
        if kind == "views":
            room = min(room, MAX_VIEWS_SHARE * self.limit - self._used[kind])
        if size > room:
            self._full.add(kind)
            self._warn(
                "full",
                f"the cache in {self.folder} is full (--cache-gb {self.limit / 1e9:g}, at most "
                f"half of it for views), so every run computes again what does not fit; give a "
                f"larger --cache-gb",
            )
        return size <= room

    def _count(self) -> dict[_Kind, int]:
        """Delete what exceeds the limit; return the bytes that are in use, by kind."""
        entries, used = [], dict.fromkeys(_KINDS, 0)
        with suppress(OSError):  # a disk that fails is said when an entry is written
            for kind, path in self._entries():
                with suppress(FileNotFoundError):
                    stat = path.stat()
                    entries.append((stat.st_mtime, stat.st_size, kind, path))
        excess = sum(size for _, size, *_ in entries) - self.limit
        for last_used, size, kind, path in sorted(entries):
            if excess > 0:
                path.unlink(missing_ok=True)
                excess -= size
            elif last_used >= PROCESS_START:
                used[kind] += size
        self._uncounted = 0
        return used

    def _entries(self) -> Iterator[tuple[_Kind, Path]]:
        """Yield files with names of entries; the user may keep other files in this folder."""
        for kind in _KINDS:
            for path in (self.folder / kind).glob(f"??/{'[0-9a-f]' * 32}.*"):
                yield kind, path

    def _delete_old_locks(self) -> None:
        """Delete lock files that nobody has taken for a day and nobody holds.

        A process that opens such a file while it is deleted locks nothing, so that two may build
        one entry. That costs time and changes no number.
        """
        for file in (self.folder / "locks").glob("*.lock"):
            with suppress(OSError, Timeout):
                if time.time() - file.stat().st_mtime > _LOCK_SECONDS:
                    with FileLock(file, timeout=0, mode=0o644):
                        file.unlink(missing_ok=True)

    def _warn(self, cause: str, sentence: str) -> None:
        if cause not in self.warnings:
            self.warnings[cause] = sentence
            print(sentence, file=sys.stderr)

    def _describe(self, error: Exception) -> str:
        return (
            f"the cache folder {self.folder} cannot be written ({first_line(error)}), so every "
            f"run computes its own views, logits and features; --cache FOLDER names another "
            f"folder, --cache-gb 0 uses no cache"
        )
