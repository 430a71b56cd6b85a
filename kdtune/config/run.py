"""One distillation run: its fields, their checks, its name. Neither torch nor Ray."""

import hashlib
import json
import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from kdtune.config.errors import InputError
from kdtune.config.hyperparameters import HYPERPARAMETERS, Config, canonical

Loss = str
LOSSES = ("kl", "mse", "dkd", "ls")
Trainable = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Augment = Literal["none", "crop", "resized-crop"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "onecycle"]
Precision = Literal["fp32", "bf16"]

TEACHER_REPEAT = -1
"""The repeat a teacher is trained in: no student ever sees the same views."""


@dataclass(frozen=True)
class Run:
    """One distillation run: one student learns from one teacher."""

    data: str = "fashion"
    """Images: "fashion" (the embedded Fashion-MNIST subset), or a folder with train/, val/ and
    perhaps test/, in each of them one subfolder of images a class."""
    train_images: int | None = None
    """Labelled images that the student learns from, drawn evenly over the classes. None: all of
    train. The teacher is always fine-tuned on all of train."""
    image_size: int | None = None
    """Side of a view in pixels. None: the larger input size of the two models."""
    augment: Augment | None = None
    """Training views: "crop" (pad by an eighth, crop, flip), "resized-crop" (RandomResizedCrop,
    flip) or "none". None: "crop" for fashion, "resized-crop" for a folder."""
    teacher: str = "resnet50"
    """Teacher: a torchvision name, timm/NAME, or module:factory, a function of the class count."""
    teacher_weights: str = "default"
    """Teacher's weights: "default" (the library's, downloaded), "none" (random) or a file
    (.safetensors, or a .pt state dict)."""
    teacher_epochs: int = 25
    """Epochs of fine-tuning the teacher before the study. 0: take its weights as they are."""
    teacher_lr: float = 1e-3
    """Learning rate of the teacher's fine-tuning. All else about it is as for the student."""
    student: str = "resnet18"
    """Student: a torchvision name, timm/NAME, or module:factory."""
    student_weights: str = "default"
    """Student's initial weights: "default", "none" or a file."""
    trainable: Trainable = "all"
    """Layers of the student that learn: all, or only the head (its last layer)."""
    batch_norm: BatchNorm = "train"
    """Mode of the student's batch norm layers while it learns: "train" (batch statistics, running
    statistics drift, even under a frozen backbone) or "eval" (frozen statistics)."""
    loss: str = "kl"
    """Distillation term: "kl" (softened probabilities, times T squared), "mse" (logits), "dkd"
    (decoupled), "ls" (standardised logits) or module:function."""
    alpha: float = 0.5
    """Weight of the labels' cross-entropy, in [0, 1]; the teacher's term has 1 - alpha.
    1 is plain training, 0 is the teacher only."""
    temperature: float = 4.0
    """Temperature T > 0 that softens the probabilities of "kl", "dkd" and "ls"."""
    dkd_alpha: float = 1.0
    """Weight of the target class in "dkd", >= 0."""
    dkd_beta: float = 8.0
    """Weight of the other classes in "dkd", >= 0."""
    optimizer: Optimizer = "sgd"
    """Optimiser."""
    lr: float = 1e-3
    """Learning rate, > 0. With "onecycle" its peak."""
    momentum: float = 0.9
    """Momentum of sgd, in [0, 1)."""
    weight_decay: float = 0.0
    """Weight decay, >= 0 (decoupled with adamw)."""
    schedule: Schedule = "step"
    """Learning rate over time: constant, step (StepLR), cosine (to 0, an epoch a step) or onecycle
    (a step a batch)."""
    lr_step_size: int = 7
    """Epochs between two decays of "step"."""
    lr_gamma: float = 0.1
    """Factor of each decay of "step", in (0, 1]."""
    epochs: int = 25
    """Passes over the training images, >= 1."""
    batch_size: int = 32
    """Images a step, >= 1. The last batch of an epoch may be smaller."""
    precision: Precision = "fp32"
    """"fp32", or "bf16": both models under autocast; losses stay in float32."""
    seed: int = 0
    """Seed of the study: with the repeat it fixes everything random."""
    repeat: int = 0
    """Number of the repeat, >= 0. The same repeats meet every configuration."""

    def __post_init__(self) -> None:
        check_types(self)
        fits = self.loss in LOSSES or ":" in self.loss
        check(self, "loss", fits, f"be one of {', '.join(LOSSES)}, or module:function")
        check(self, "alpha", 0 <= self.alpha <= 1, "lie in [0, 1]")
        check(self, "temperature", 0 < self.temperature <= 1000, "lie in (0, 1000]")
        for name in ("lr", "teacher_lr"):
            check(self, name, 0 < getattr(self, name) < math.inf, "be greater than 0")
        check(self, "momentum", 0 <= self.momentum < 1, "lie in [0, 1)")
        check(self, "weight_decay", 0 <= self.weight_decay < math.inf, "be 0 or more")
        check(self, "lr_gamma", 0 < self.lr_gamma <= 1, "lie in (0, 1]")
        for name in ("epochs", "batch_size", "lr_step_size"):
            check(self, name, getattr(self, name) >= 1, "be 1 or more")
        check(self, "teacher_epochs", self.teacher_epochs >= 0, "be 0 or more")
        check(self, "repeat", self.repeat >= TEACHER_REPEAT, "be 0 or more")
        for name in ("train_images", "image_size"):
            value = getattr(self, name)
            check(self, name, value is None or value >= 1, "be 1 or more")
        check(self, "image_size", (self.image_size or 1) <= 4096, "be at most 4096")

    @property
    def config(self) -> Config:
        """The hyperparameters, without those that have no effect (see `canonical`)."""
        return canonical({name: getattr(self, name) for name in HYPERPARAMETERS})

    @cached_property
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, whatever the repeat."""
        text = json.dumps(self.config, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    @property
    def trial_id(self) -> str:
        """Name of the one run of this configuration in this repeat."""
        return f"{self.config_id}-r{self.repeat:02d}"

    def absolute(self) -> "Run":
        """The same run with absolute paths of data and weights."""

        def path(value: str, *words: str) -> str:
            return value if value in words else str(Path(value).expanduser().absolute())

        return replace(
            self,
            data=path(self.data, "fashion"),
            teacher_weights=path(self.teacher_weights, "default", "none"),
            student_weights=path(self.student_weights, "default", "none"),
        )

    @property
    def augmentation(self) -> Augment:
        """The training views' augmentation, resolved."""
        return self.augment or ("crop" if self.data == "fashion" else "resized-crop")


def derive_seed(*parts: int | str) -> int:
    """A seed in [0, 2**63) that depends on every part: the same in any process, on any machine."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def check(config: Any, name: str, holds: object, must: str) -> None:
    """Raise InputError unless the field's value is as it must be."""
    if not holds:
        raise InputError(f"{name} must {must}, but got {name}={getattr(config, name)!r}")


def check_types(config: Any) -> None:
    """Every field has its type; words are among the choices. For experiments, which are Python."""
    for f in fields(config):
        value = getattr(config, f.name)
        kinds = get_args(f.type) if get_origin(f.type) in (Union, UnionType) else (f.type,)
        if value is None and NoneType in kinds:
            continue
        choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), ())
        if choices:
            check(config, f.name, value in choices, f"be one of {', '.join(choices)}")
        elif float in kinds:
            holds = isinstance(value, float | int) and not isinstance(value, bool)
            check(config, f.name, holds and math.isfinite(value), "be a number")
        elif int in kinds:
            holds = isinstance(value, int) and not isinstance(value, bool)
            check(config, f.name, holds, "be a whole number")
        elif bool in kinds:
            check(config, f.name, isinstance(value, bool), "be True or False")
        elif str in kinds:
            check(config, f.name, isinstance(value, str), "be text")
