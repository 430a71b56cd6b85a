"""Keys of the cache: all that the numbers of a cache entry depend on, and nothing else.

A key that lacks a part gives old numbers silently; a key with a part too many computes equal
numbers again. So all keys are made here, and a test changes each part in turn. Hyperparameters that
do not change a stream (alpha, temperature, lr, epochs, the optimiser, ...) never enter.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import metadata
from typing import Literal

import numpy as np
import PIL
import torch
import torchvision

from kdtune.config.run import Run

Kind = Literal["views", "logits", "teacher-features", "features"]
KINDS: tuple[Kind, ...] = ("views", "logits", "teacher-features", "features")
"""Kinds of cache entries. Building an entry may need entries of an earlier kind."""

Parts = dict[str, str | int | float | bool | None]

FORMAT = 3
"""Version of the layout of an entry. Entries of another version are not found."""


TRAINING = ("train", "extra")
"""Splits that are augmented, and seen in another order in each epoch."""


@dataclass(frozen=True)
class Part:
    """Consecutive images of one pass over a split."""

    epoch: int
    """Number of the pass."""
    first: int
    """Position of the first one in the order of the pass."""
    count: int


@dataclass(frozen=True)
class Key:
    """Key of one cache entry."""

    kind: Kind
    parts: Mapping[str, str | int | float | bool | None]

    @cached_property
    def text(self) -> str:
        """The key as JSON, in which the order of the parts does not matter."""
        return json.dumps({"format": FORMAT, "kind": self.kind, **self.parts}, sort_keys=True)

    @cached_property
    def name(self) -> str:
        """Hash of the key, 32 hex digits: the name of the entry's file."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:32]

    @property
    def of_one_repeat(self) -> bool:
        """Whether other repeats have other numbers."""
        return "repeat" in self.parts


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
        return split not in TRAINING or self.run.augmentation == "none"

    def mixes(self, split: str) -> bool:
        """Return True if the models see views of the split that are mixed with each other."""
        return split == "train" and self.run.mixes

    def same_inputs(self, split: str) -> bool:
        """Return True if what the models see is the same in every epoch and repeat."""
        return self.same_views(split) and not self.mixes(split)

    def views(self, split: str, epoch: int, first: int, count: int) -> Key:
        """Return the key of `count` views of the epoch, from position `first` on."""
        return Key("views", self._views(split, epoch) | {"first": first, "count": count})

    def logits(self, split: str, epoch: int, teacher: str, part: Part | None = None) -> Key:
        """Return the key of the logits of the teacher with this fingerprint.

        Args:
            split: train, val, test or extra.
            epoch: of train; number of the pass over extra.
            teacher: fingerprint.
            part: if they are those of a part of the epoch.
        """
        parts = self._views(split, epoch) | self._computation | _of_part(part)
        if self.mixes(split):
            parts |= self._batches(epoch) | self._mixing
        return Key("logits", parts | {"teacher": teacher})

    def teacher_features(
        self, split: str, epoch: int, teacher: str, part: Part | None = None
    ) -> Key:
        """Return the key of the features of the teacher, which come from the pass of its logits."""
        return Key("teacher-features", self.logits(split, epoch, teacher, part).parts)

    def features(
        self,
        split: str,
        epoch: int,
        student: str,
        per_image: bool = False,
        part: Part | None = None,
    ) -> Key:
        """Return the key of the features of the student's frozen backbone.

        Args:
            split: train, val or test.
            epoch: training epoch; for val and test the one before the evaluation.
            student: fingerprint of the backbone.
            per_image: whether the features of train are computed once, image by image, and not
                batch by batch in every epoch.
            part: if they are those of a part of the epoch.
        """
        run = self.run
        parts = self._views(split, epoch) | self._computation | _of_part(part)
        parts |= {"student": student, "batch_norm": run.batch_norm}
        by_batch = split == "train" and not per_image
        # in train mode the running statistics, which val and test are evaluated with, follow
        # the batches of all epochs so far
        if by_batch or run.batch_norm == "train":
            parts |= self._batches(epoch) | (self._mixing if run.mixes else {})
        if split != "train" and run.batch_norm == "train":
            transform = self._transform("train")
            parts |= {f"train_{name}": value for name, value in transform.items()}
        return Key("features", parts)

    def per_image(self, student: str) -> Key:
        """Return the key of the answer whether a backbone treats each image by itself."""
        parts = self._views("train", 0) | self._computation
        return Key("features", parts | {"student": student, "question": "per image"})

    def _views(self, split: str, epoch: int) -> Parts:
        run = self.run
        parts: Parts = {
            "data": self.extra if split == "extra" else self.data,
            "split": split,
            "size": self.size,
            **self._transform(split),
            # what decodes and resizes; torch's resizing has other code for other CPUs
            "pillow": PIL.__version__,
            "torchvision": torchvision.__version__,
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
        }
        if split == "train":
            parts |= {"train_images": run.train_images, "study_seed": run.seed}
            if not self.same_views(split):
                parts |= {"repeat": run.repeat, "epoch": epoch}
            elif run.train_images is None:  # the seed draws the subset and nothing else
                del parts["study_seed"]
        elif not self.same_views(split):
            parts |= {"study_seed": run.seed, "repeat": run.repeat, "epoch": epoch}
        return parts

    def _transform(self, split: str) -> Parts:
        """Return the settings of the run that make the split's views from its images."""
        run = self.run
        augment = run.augmentation if split in TRAINING else "none"
        parts: Parts = {"augment": augment}
        if augment != "resized-crop":  # which resizes by itself
            parts["interpolation"] = run.eval_interpolation
        if augment == "none":
            parts["crop"] = run.eval_crop
        # entries of earlier versions, which read images as they are stored, have no such part
        if self.files and run.orientation != "stored":
            parts["orientation"] = "exif"
        return parts

    def _batches(self, epoch: int) -> Parts:
        """Return what the training batches of an epoch depend on, besides the views."""
        run = self.run
        parts: Parts = {"batch_size": run.labelled_per_batch, "train_images": run.train_images}
        return parts | {"study_seed": run.seed, "repeat": run.repeat, "epoch": epoch}

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
            "timm": timm_version(),
            "inference_batch": self.inference_batch,
        }


def _of_part(part: Part | None) -> Parts:
    return {} if part is None else {"first": part.first, "count": part.count}


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, such as "NVIDIA H100" or "Apple M3"; "cpu" for the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return torch.backends.mps.get_name() if device.type == "mps" else device.type


@cache
def timm_version() -> str | None:
    """Return the version of timm, which has code of models; None if it is not installed."""
    try:
        return metadata.version("timm")
    except metadata.PackageNotFoundError:
        return None
