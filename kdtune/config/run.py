"""Configuration of one distillation run."""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from kdtune.config import effects
from kdtune.config.fields import (
    OF_STUDENT,
    Config,
    Hyperparameter,
    Setting,
    check,
    check_fields,
)

Trainable = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Augment = Literal["none", "crop", "resized-crop"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "onecycle"]
Precision = Literal["fp32", "bf16"]

TEACHER_REPEAT = -1
"""The repeat a teacher is trained in: no student is trained on the same augmented images."""


@dataclass(frozen=True)
class Run:
    """Configuration of one distillation run: one student learns from one teacher.

    A field is declared once, here: its type, bounds, effect and help. A hyperparameter, which a
    study may search, is annotated with `Hyperparameter`.
    """

    data: str = "fashion"
    """Images: "fashion" (the embedded Fashion-MNIST subset), or a folder with train/, val/ and
    optionally test/, each with one subfolder of images per class."""
    train_images: Annotated[int | None, Setting(low=1, commands=OF_STUDENT)] = None
    """Number of labelled images that the student learns from, drawn evenly over the classes. None:
    all of train. The teacher is always fine-tuned on all of train."""
    image_size: Annotated[int | None, Setting(low=1, high=4096)] = None
    """Side of the augmented images in pixels. None: the larger input size of the two models."""
    augment: Augment | None = None
    """Augmentation of the training images: "crop" (pad by an eighth, crop, flip), "resized-crop"
    (RandomResizedCrop, flip) or "none". None: "crop" for fashion, "resized-crop" for a folder."""
    teacher: str = "resnet50"
    """Teacher: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, or
    module:factory, a function of the number of classes that returns a module."""
    teacher_weights: str = "default"
    """Weights of the teacher: "default" (the library's, downloaded), "none" (random) or a file
    (.safetensors, or a checkpoint of torch.save)."""
    teacher_epochs: Annotated[int, Setting(low=0)] = 25
    """Epochs of fine-tuning the teacher before the study. 0: use its weights as they are."""
    teacher_lr: Annotated[float, Setting(above=0)] = 1e-3
    """Learning rate of the teacher's fine-tuning. Its other settings are those of the student."""
    student: Annotated[str, Setting(commands=OF_STUDENT)] = "resnet18"
    """Student: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, or
    module:factory."""
    student_weights: Annotated[str, Setting(commands=OF_STUDENT)] = "default"
    """Initial weights of the student: "default", "none" or a file."""
    trainable: Annotated[Trainable, Hyperparameter(commands=OF_STUDENT)] = "all"
    """Layers of the student that are trained: all, or only the head (its last layer)."""
    batch_norm: Annotated[BatchNorm, Hyperparameter(commands=OF_STUDENT)] = "train"
    """Mode of the student's batch norm layers during training: "train" (batch statistics; running
    statistics change even under a frozen backbone) or "eval" (running statistics, frozen)."""
    loss: Annotated[
        str,
        Hyperparameter(unless={"alpha": 1}, choices=effects.objective_choices, commands=OF_STUDENT),
    ] = "kl"
    """Distillation loss, a function of the logits of student and teacher: "kl" (KL divergence of
    the softened probabilities, times T squared), "mse" (of the logits), another of the list, or
    your own as module:function."""
    alpha: Annotated[float, Hyperparameter(low=0, high=1, commands=OF_STUDENT)] = 0.5
    """Weight of the cross-entropy with the labels; the distillation loss has weight 1 - alpha.
    1 is training without distillation, 0 uses the teacher only."""
    temperature: Annotated[
        float, Hyperparameter(above=0, high=1000, of_objective=True, commands=OF_STUDENT)
    ] = 4.0
    """Temperature T that divides the logits of student and teacher before the softmax."""
    dkd_alpha: Annotated[float, Hyperparameter(low=0, of_objective=True, commands=OF_STUDENT)] = 1.0
    """Weight of the target-class term of decoupled distillation (Zhao et al., 2022)."""
    dkd_beta: Annotated[float, Hyperparameter(low=0, of_objective=True, commands=OF_STUDENT)] = 8.0
    """Weight of the non-target-class term of decoupled distillation (Zhao et al., 2022)."""
    optimizer: Annotated[Optimizer, Hyperparameter()] = "sgd"
    """Optimizer."""
    lr: Annotated[float, Hyperparameter(above=0, commands=OF_STUDENT)] = 1e-3
    """Learning rate of the student. With the schedule "onecycle" it is the peak."""
    momentum: Annotated[float, Hyperparameter(low=0, below=1, when={"optimizer": "sgd"})] = 0.9
    """Momentum."""
    weight_decay: Annotated[float, Hyperparameter(low=0)] = 0.0
    """Weight decay (decoupled with adamw)."""
    schedule: Annotated[Schedule, Hyperparameter()] = "step"
    """Learning rate schedule: constant, step (StepLR), cosine (to 0, updated every epoch) or
    onecycle (updated every batch)."""
    lr_step_size: Annotated[int, Hyperparameter(low=1, when={"schedule": "step"})] = 7
    """Epochs between two decays of the learning rate."""
    lr_gamma: Annotated[float, Hyperparameter(above=0, high=1, when={"schedule": "step"})] = 0.1
    """Factor of each decay of the learning rate."""
    epochs: Annotated[int, Hyperparameter(low=1, commands=OF_STUDENT)] = 25
    """Passes over the training images."""
    batch_size: Annotated[int, Hyperparameter(low=1)] = 32
    """Images per step. The last batch of an epoch may be smaller."""
    precision: Precision = "fp32"
    """"fp32", or "bf16": both models under autocast; losses are computed in float32."""
    seed: int = 0
    """Seed of the study: with the repeat it fixes everything random."""
    repeat: Annotated[int, Setting(low=TEACHER_REPEAT, commands=("distill",))] = 0
    """Number of the repeat, from 0. All configurations are trained in the same repeats."""

    def __post_init__(self) -> None:
        check_fields(self)
        allowed = f"{', '.join(effects.objective_names())} or module:function"
        check(self, "loss", effects.is_objective(self.loss), f"be one of {allowed}")

    @property
    def config(self) -> Config:
        """The hyperparameters, with None for those that have no effect."""
        owner: type = type(self)
        names = effects.hyperparameters_of(owner)
        return effects.canonical({name: getattr(self, name) for name in names}, owner)

    @cached_property
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, the same in every repeat."""
        return effects.config_hash(self.config, type(self))

    @property
    def trial_id(self) -> str:
        """Name of the trial: this configuration in this repeat."""
        return f"{self.config_id}-r{self.repeat:02d}"

    def absolute(self) -> "Run":
        """Return the same run with absolute paths of data and weights."""

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
        """Augmentation of the training images, resolved."""
        return self.augment or ("crop" if self.data == "fashion" else "resized-crop")


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on nothing else."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
