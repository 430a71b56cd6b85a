"""Fields of a run: the training of the student."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kdtune.config.bounds import (
    MAX_BATCH,
    MAX_BETA,
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_LR,
    MAX_STEP_SIZE,
    MAX_WEIGHT_DECAY,
)
from kdtune.config.fields import OF_STUDENT, Hyperparameter, Setting

Trainable = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Optimizer = Literal["sgd", "nesterov", "adamw"]
Schedule = Literal["constant", "step", "multistep", "cosine", "onecycle"]
Precision = Literal["fp32", "bf16"]

LR_MILESTONES = (0.625, 0.75, 0.875)
"""Shares of the epochs after which multistep decays by default; of 240 epochs 150, 180 and 210."""


@dataclass(frozen=True)
class TrainingFields:
    """Optimiser, schedule, regularisation and batches."""

    optimizer: Annotated[Optimizer, Hyperparameter(commands=OF_STUDENT)] = "sgd"
    """Optimizer: sgd, nesterov (sgd with Nesterov's momentum, which must be above 0) or adamw."""
    lr: Annotated[float, Hyperparameter(above=0, high=MAX_LR, commands=OF_STUDENT)] = 1e-3
    """Learning rate of the student. With the schedule "onecycle" it is the peak."""
    momentum: Annotated[
        float,
        Hyperparameter(
            low=0, below=1, when={"optimizer": ("sgd", "nesterov")}, commands=OF_STUDENT
        ),
    ] = 0.9
    """Momentum."""
    weight_decay: Annotated[
        float, Hyperparameter(low=0, high=MAX_WEIGHT_DECAY, commands=OF_STUDENT)
    ] = 0.0
    """Weight decay (decoupled with adamw)."""
    schedule: Annotated[Schedule, Hyperparameter(commands=OF_STUDENT)] = "step"
    """Learning rate schedule: constant, step (StepLR), multistep (MultiStepLR, see
    --lr-milestones), cosine (to 0, updated every epoch) or onecycle (updated every batch)."""
    lr_step_size: Annotated[
        int,
        Hyperparameter(low=1, high=MAX_STEP_SIZE, when={"schedule": "step"}, commands=OF_STUDENT),
    ] = 7
    """Epochs between two decays of the learning rate."""
    lr_gamma: Annotated[
        float,
        Hyperparameter(
            above=0, high=1, when={"schedule": ("step", "multistep")}, commands=OF_STUDENT
        ),
    ] = 0.1
    """Factor of each decay of the learning rate."""
    lr_milestones: Annotated[tuple[float, ...], Setting(above=0, below=1, commands=OF_STUDENT)] = (
        LR_MILESTONES
    )
    """Decays of the schedule multistep, as ascending shares of the epochs: of 240 epochs, the
    default decays after 150, 180 and 210."""
    warmup_epochs: Annotated[
        int,
        Hyperparameter(
            low=0,
            high=MAX_EPOCHS,
            when={"schedule": ("constant", "step", "multistep", "cosine")},
            neutral=0,
            commands=OF_STUDENT,
        ),
    ] = 0
    """Epochs, fewer than --epochs, in which the learning rate rises linearly, batch by batch, to
    that of the schedule. step and multistep decay by the epoch's number in the run; cosine falls
    over the epochs that remain."""
    clip_norm: Annotated[
        float, Hyperparameter(low=0, high=MAX_COUNT, neutral=0, commands=OF_STUDENT)
    ] = 0.0
    """Largest norm of the gradient of all parameters together; a longer gradient is scaled down. 0:
    no limit."""
    ema: Annotated[float, Hyperparameter(low=0, below=1, neutral=0, commands=OF_STUDENT)] = 0.0
    """Decay per step of an exponential moving average of the student's weights and running
    statistics, at most (1 + n) / (10 + n) after n steps. The average is the student that is
    evaluated and saved. 0: no average."""
    label_smoothing: Annotated[
        float,
        Hyperparameter(low=0, below=1, unless={"alpha": 0}, neutral=0, commands=OF_STUDENT),
    ] = 0.0
    """Label smoothing: share of the labels' weight that is spread evenly over all classes (Szegedy
    et al., 2016). The metric ce is without it."""
    mixup: Annotated[
        float, Hyperparameter(low=0, high=MAX_BETA, neutral=0, commands=OF_STUDENT)
    ] = 0.0
    """Mixup: parameter a of Beta(a, a), from which each batch draws the share with which its images
    are averaged with each other (Zhang et al., 2018); the larger share is that of an image's own
    label. 0: no mixup. With mixup and cutmix, each batch has one of them."""
    cutmix: Annotated[
        float, Hyperparameter(low=0, high=MAX_BETA, neutral=0, commands=OF_STUDENT)
    ] = 0.0
    """CutMix: parameter a of Beta(a, a), from which each batch draws the share of the area that its
    images keep; the rest, a rectangle clipped at the border, is of another image of the batch (Yun
    et al., 2019). 0: no CutMix."""
    extra_share: Annotated[
        float,
        Hyperparameter(low=0, below=1, unless={"alpha": 1}, neutral=0, commands=OF_STUDENT),
    ] = 0.0
    """Share of each batch that is images of --extra. An epoch is a pass over the labelled images,
    so with a larger share it has more steps."""
    epochs: Annotated[int, Hyperparameter(low=1, high=MAX_EPOCHS, commands=OF_STUDENT)] = 25
    """Passes over the training images."""
    batch_size: Annotated[int, Hyperparameter(low=1, high=MAX_BATCH, commands=OF_STUDENT)] = 32
    """Images per step. The last batch of an epoch may be smaller."""
    precision: Precision = "fp32"
    """"fp32", or "bf16": both models under autocast; losses are computed in float32."""
