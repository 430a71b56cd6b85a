"""Fields of a run: the student."""

from dataclasses import dataclass
from typing import Annotated

from kdtune.config.bounds import MIN_STD
from kdtune.config.fields import OF_STUDENT, Hyperparameter, Setting
from kdtune.config.names import ModelName, Weights
from kdtune.config.run_data import Interpolation
from kdtune.config.run_training import BatchNorm, Trainable


@dataclass(frozen=True)
class StudentFields:
    """The student, its initial weights, its preprocessing and what of it is trained."""

    student: Annotated[ModelName, Hyperparameter(commands=OF_STUDENT, of_study=True)] = "resnet18"
    """Student: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, or
    module:factory."""
    student_weights: Annotated[Weights, Setting(commands=OF_STUDENT, place=True, pairs=True)] = (
        "default"
    )
    """Initial weights of the student: "default", "none" or a file. With several students,
    STUDENT=WEIGHTS for each that has not the default."""
    student_mean: Annotated[
        tuple[float, ...] | None, Setting(low=0, high=1, commands=OF_STUDENT)
    ] = None
    """Mean of each channel, or one for all, that the student's input is normalised with after
    scaling to [0, 1]. None: that of the model."""
    student_std: Annotated[
        tuple[float, ...] | None, Setting(low=MIN_STD, high=1, commands=OF_STUDENT)
    ] = None
    """Standard deviation of each channel, or one for all, that the student's input is normalised
    with. None: that of the model."""
    student_size: Annotated[int | None, Setting(low=1, high=4096, commands=OF_STUDENT)] = None
    """Side of the student's input in pixels. None: that of the model."""
    student_interpolation: Annotated[
        Interpolation | None, Setting(commands=OF_STUDENT, resolved=True)
    ] = None
    """Interpolation with which larger images are shrunk to the student's input size. None: that of
    the model."""
    trainable: Annotated[Trainable, Hyperparameter(commands=OF_STUDENT)] = "all"
    """Layers of the student that are trained: all, or only the head (its last layer)."""
    batch_norm: Annotated[BatchNorm, Hyperparameter(commands=OF_STUDENT)] = "train"
    """Mode of the student's batch norm layers during training: "train" (batch statistics; running
    statistics change even under a frozen backbone) or "eval" (running statistics, frozen)."""
