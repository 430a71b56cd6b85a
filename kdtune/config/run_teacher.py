"""Fields of a run: the teacher and its fine-tuning."""

from dataclasses import dataclass
from typing import Annotated, Literal

from kdtune.config.bounds import (
    MAX_BATCH,
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_LR,
    MAX_REPEATS,
    MAX_STEP_SIZE,
    MAX_WEIGHT_DECAY,
    MIN_STD,
)
from kdtune.config.fields import Hyperparameter, Setting
from kdtune.config.names import ModelName, Weights
from kdtune.config.run_data import Augment, Interpolation
from kdtune.config.run_training import (
    LR_MILESTONES,
    BatchNorm,
    Optimizer,
    Schedule,
    Trainable,
)

Keep = Literal["last", "best"]


@dataclass(frozen=True)
class TeacherFields:
    """The teacher, its weights and preprocessing, and how it is fine-tuned."""

    teacher: Annotated[ModelName, Hyperparameter(unless={"alpha": 1}, of_study=True)] = "resnet50"
    """Teacher: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, or
    module:factory, a function of the number of classes that returns a module. NAME+NAME is an
    ensemble: the mean probability. A file of outputs, .parquet or .npz, is a teacher without a
    network (docs/teachers.md); it needs --augment none."""
    teachers: Annotated[int, Setting(low=1, high=MAX_REPEATS)] = 1
    """Number of teachers that are fine-tuned by the same recipe, with other random weights of the
    head or of all layers, another order and another augmentation: repeat r learns from teacher r
    mod N. With 3 or more, conclusions are about new teachers of this recipe. 1: the same teacher in
    all repeats."""
    teacher_weights: Annotated[Weights, Setting(place=True, pairs=True)] = "default"
    """Weights of the teacher: "default" (the library's, downloaded), "none" (random), a file
    (.safetensors, or a checkpoint of torch.save) or the folder of another study, whose fine-tuned
    teacher is used. With several teachers, TEACHER=WEIGHTS for each that has not the default."""
    teacher_mean: Annotated[tuple[float, ...] | None, Setting(low=0, high=1)] = None
    """Mean of each channel, or one for all, that the teacher's input is normalised with after
    scaling to [0, 1]. None: that of the model."""
    teacher_std: Annotated[tuple[float, ...] | None, Setting(low=MIN_STD, high=1)] = None
    """Standard deviation of each channel, or one for all, that the teacher's input is normalised
    with. None: that of the model."""
    teacher_size: Annotated[int | None, Setting(low=1, high=4096)] = None
    """Side of the teacher's input in pixels. None: that of the model."""
    teacher_interpolation: Annotated[Interpolation | None, Setting(resolved=True)] = None
    """Interpolation with which larger images are shrunk to the teacher's input size. None: that of
    the model."""
    teacher_epochs: Annotated[
        int | None,
        Hyperparameter(low=0, high=MAX_EPOCHS, unless={"alpha": 1}, of_study=True, resolved=True),
    ] = None
    """Epochs of fine-tuning the teacher before the study. 0: use its weights as they are."""
    teacher_trainable: Annotated[Trainable | None, Setting(resolved=True)] = None
    """Layers of the teacher that are fine-tuned: all, or only the head (its last layer)."""
    teacher_batch_norm: Annotated[BatchNorm | None, Setting(resolved=True)] = None
    """Mode of the teacher's batch norm layers while it is fine-tuned, "train" or "eval"."""
    teacher_optimizer: Annotated[Optimizer | None, Setting(resolved=True)] = None
    """Optimizer of the teacher."""
    teacher_lr: Annotated[float | None, Setting(above=0, high=MAX_LR, resolved=True)] = None
    """Learning rate of the teacher."""
    teacher_momentum: Annotated[float | None, Setting(low=0, below=1, resolved=True)] = None
    """Momentum of the teacher's optimizer sgd or nesterov."""
    teacher_weight_decay: Annotated[
        float | None, Setting(low=0, high=MAX_WEIGHT_DECAY, resolved=True)
    ] = None
    """Weight decay of the teacher."""
    teacher_schedule: Annotated[Schedule | None, Setting(resolved=True)] = None
    """Learning rate schedule of the teacher."""
    teacher_lr_step_size: Annotated[
        int | None, Setting(low=1, high=MAX_STEP_SIZE, resolved=True)
    ] = None
    """Epochs between two decays of the teacher's learning rate with the schedule step."""
    teacher_lr_gamma: Annotated[float | None, Setting(above=0, high=1, resolved=True)] = None
    """Factor of each decay of the teacher's learning rate with the schedule step or multistep."""
    teacher_lr_milestones: Annotated[tuple[float, ...], Setting(above=0, below=1)] = LR_MILESTONES
    """Decays of the teacher's learning rate with the schedule multistep, as ascending shares of the
    epochs."""
    teacher_batch_size: Annotated[int | None, Setting(low=1, high=MAX_BATCH, resolved=True)] = None
    """Images per step of the teacher."""
    teacher_augment: Annotated[Augment | None, Setting(resolved=True)] = None
    """Augmentation of the teacher's training images. None: that of --augment."""
    teacher_train_images: Annotated[int | None, Setting(low=1, high=MAX_COUNT)] = None
    """Number of labelled images that the teacher is fine-tuned on. None: all of train."""
    teacher_keep: Keep = "last"
    """Epoch of the teacher's fine-tuning whose weights are kept: "last", or "best" (highest
    accuracy on val, which is optimistic)."""
    teacher_min_acc: Annotated[float | None, Setting(low=0, high=1, defines=False)] = None
    """Least accuracy of every teacher on val. If one is less accurate, no student is trained."""
