"""Configuration of one distillation run."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kdtune.config import effects
from kdtune.config.base_run import BaseRun
from kdtune.config.fields import (
    OF_STUDENT,
    Config,
    Hyperparameter,
    Setting,
    Value,
    check_fields,
)
from kdtune.config.names import DataName, ModelName, Role, Weights, is_named_data, pairs
from kdtune.config.objects import Objects
from kdtune.config.run_checks import check_run, take_objects

if TYPE_CHECKING:
    from kdtune.config.task import Task

Trainable = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Augment = Literal["none", "crop", "resized-crop", "trivial"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["constant", "step", "cosine", "onecycle"]
Precision = Literal["fp32", "bf16"]
Keep = Literal["last", "best"]

TEACHER_REPEAT = -1
"""The repeat that teacher number 0 is trained in, and number k in this one - k: no student is
trained on the same augmented images."""


@dataclass(frozen=True)
class Run(BaseRun):
    """Configuration of one distillation run: one student learns from one teacher.

        >>> run = kdtune.Run(data="photos", teacher="resnet50", student="resnet18", lr=0.01)
        >>> run.alpha, run.epochs
        (0.5, 25)

    The defaults are those of the command line with --data, meant for photographs and pretrained
    models. Without --data the command line has the study of `kdtune.config.defaults.fashion()`.

    In Python, `data`, `teacher` and `student` may also be objects: a dict of datasets or arrays, a
    module, a function that makes one. The field then holds the object's name, and the object is in
    `objects`. A teacher that is an object is not fine-tuned unless teacher_epochs says so.

    A field is declared once, here: its type, bounds, effect and help. A hyperparameter, which a
    study may search, is annotated with `Hyperparameter`.
    """

    data: DataName = "fashion"
    """Data: "fashion" (the embedded Fashion-MNIST subset), torchvision:NAME (such as
    torchvision:CIFAR10), module:factory, or a folder with train/, val/ and optionally test/, each
    with one subfolder of images per class."""
    data_root: Annotated[str | None, Setting(defines=False)] = None
    """Folder that holds the files of torchvision:NAME. None: torchvision in the user's cache
    folder."""
    download: Annotated[bool, Setting(defines=False)] = False
    """Download the files of torchvision:NAME if they are not in --data-root."""
    val_share: Annotated[float, Setting(above=0, below=1)] = 0.2
    """Share of train that becomes val where the data have no val: drawn with the seed, the same
    share of each class."""
    folds: Annotated[int | None, Setting(low=2, commands=OF_STUDENT)] = None
    """Pool train and val, and split them anew in each repeat: N folds of equal size with the same
    share of each class, of which one is val and the others are train. Each repeat takes the next
    fold and, after all N, a new partition into folds. Each repeat has a teacher of its own,
    fine-tuned on its train. Test stays apart. None: the data's own val, the same in all repeats."""
    train_images: Annotated[int | None, Setting(low=1, commands=OF_STUDENT)] = None
    """Number of labelled images that the student learns from, drawn evenly over the classes. None:
    all of train."""
    image_size: Annotated[int | None, Setting(low=1, high=4096)] = None
    """Side of the augmented images in pixels. None: the largest input size of the models."""
    augment: Annotated[Augment | None, Setting(resolved=True)] = None
    """Augmentation of the training images: "crop" (pad by an eighth, crop, flip), "resized-crop"
    (RandomResizedCrop, flip), "trivial" (crop or resized-crop as the data need it, then
    TrivialAugment) or "none". None: "crop" for images of one size, "resized-crop" for files."""
    eval_crop: Annotated[float | None, Setting(above=0, high=1, resolved=True)] = None
    """Side of the central crop of val and test images, as a share of the resized image's shorter
    side; 1 crops only to a square. None: that of the teacher's published evaluation transform, else
    0.875; but 1 for images of one size that are no larger than the teacher's input."""
    eval_interpolation: Annotated[Interpolation | None, Setting(resolved=True)] = None
    """Interpolation with which val and test images are resized, and those of train unless
    RandomResizedCrop does it. None: that of the teacher's published evaluation transform, else
    bilinear."""
    teacher: Annotated[ModelName, Hyperparameter(unless={"alpha": 1}, of_study=True)] = "resnet50"
    """Teacher: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, or
    module:factory, a function of the number of classes that returns a module. NAME+NAME is an
    ensemble: the mean probability."""
    teachers: Annotated[int, Setting(low=1)] = 1
    """Number of teachers that are fine-tuned by the same recipe, with other random weights of the
    head or of all layers, another order and another augmentation: repeat r learns from teacher r
    mod N. With 3 or more, conclusions are about new teachers of this recipe. 1: the same teacher in
    all repeats."""
    teacher_weights: Weights = "default"
    """Weights of the teacher: "default" (the library's, downloaded), "none" (random), a file
    (.safetensors, or a checkpoint of torch.save) or the folder of another study, whose fine-tuned
    teacher is used. With several teachers, TEACHER=WEIGHTS for each that has not the default."""
    teacher_mean: Annotated[tuple[float, ...] | None, Setting(low=0, high=1)] = None
    """Mean of each channel, or one for all, that the teacher's input is normalised with after
    scaling to [0, 1]. None: that of the model."""
    teacher_std: Annotated[tuple[float, ...] | None, Setting(above=0, high=1)] = None
    """Standard deviation of each channel, or one for all, that the teacher's input is normalised
    with. None: that of the model."""
    teacher_size: Annotated[int | None, Setting(low=1, high=4096)] = None
    """Side of the teacher's input in pixels. None: that of the model."""
    teacher_interpolation: Annotated[Interpolation | None, Setting(resolved=True)] = None
    """Interpolation with which larger images are shrunk to the teacher's input size. None: that of
    the model."""
    teacher_epochs: Annotated[
        int | None, Hyperparameter(low=0, unless={"alpha": 1}, of_study=True, resolved=True)
    ] = None
    """Epochs of fine-tuning the teacher before the study. 0: use its weights as they are."""
    teacher_trainable: Annotated[Trainable | None, Setting(resolved=True)] = None
    """Layers of the teacher that are fine-tuned: all, or only the head (its last layer)."""
    teacher_batch_norm: Annotated[BatchNorm | None, Setting(resolved=True)] = None
    """Mode of the teacher's batch norm layers while it is fine-tuned, "train" or "eval"."""
    teacher_optimizer: Annotated[Optimizer | None, Setting(resolved=True)] = None
    """Optimizer of the teacher."""
    teacher_lr: Annotated[float | None, Setting(above=0, resolved=True)] = None
    """Learning rate of the teacher."""
    teacher_momentum: Annotated[float | None, Setting(low=0, below=1, resolved=True)] = None
    """Momentum of the teacher's optimizer sgd."""
    teacher_weight_decay: Annotated[float | None, Setting(low=0, resolved=True)] = None
    """Weight decay of the teacher."""
    teacher_schedule: Annotated[Schedule | None, Setting(resolved=True)] = None
    """Learning rate schedule of the teacher."""
    teacher_lr_step_size: Annotated[int | None, Setting(low=1, resolved=True)] = None
    """Epochs between two decays of the teacher's learning rate with the schedule step."""
    teacher_lr_gamma: Annotated[float | None, Setting(above=0, high=1, resolved=True)] = None
    """Factor of each decay of the teacher's learning rate."""
    teacher_batch_size: Annotated[int | None, Setting(low=1, resolved=True)] = None
    """Images per step of the teacher."""
    teacher_augment: Annotated[Augment | None, Setting(resolved=True)] = None
    """Augmentation of the teacher's training images. None: that of --augment."""
    teacher_train_images: Annotated[int | None, Setting(low=1)] = None
    """Number of labelled images that the teacher is fine-tuned on. None: all of train."""
    teacher_keep: Keep = "last"
    """Epoch of the teacher's fine-tuning whose weights are kept: "last", or "best" (highest
    accuracy on val, which is optimistic)."""
    teacher_min_acc: Annotated[float | None, Setting(low=0, high=1, defines=False)] = None
    """Least accuracy of every teacher on val. If one is less accurate, no student is trained."""
    student: Annotated[ModelName, Hyperparameter(commands=OF_STUDENT, of_study=True)] = "resnet18"
    """Student: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, or
    module:factory."""
    student_weights: Annotated[Weights, Setting(commands=OF_STUDENT)] = "default"
    """Initial weights of the student: "default", "none" or a file. With several students,
    STUDENT=WEIGHTS for each that has not the default."""
    student_mean: Annotated[
        tuple[float, ...] | None, Setting(low=0, high=1, commands=OF_STUDENT)
    ] = None
    """Mean of each channel, or one for all, that the student's input is normalised with after
    scaling to [0, 1]. None: that of the model."""
    student_std: Annotated[
        tuple[float, ...] | None, Setting(above=0, high=1, commands=OF_STUDENT)
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
    optimizer: Annotated[Optimizer, Hyperparameter(commands=OF_STUDENT)] = "sgd"
    """Optimizer."""
    lr: Annotated[float, Hyperparameter(above=0, commands=OF_STUDENT)] = 1e-3
    """Learning rate of the student. With the schedule "onecycle" it is the peak."""
    momentum: Annotated[
        float, Hyperparameter(low=0, below=1, when={"optimizer": "sgd"}, commands=OF_STUDENT)
    ] = 0.9
    """Momentum."""
    weight_decay: Annotated[float, Hyperparameter(low=0, commands=OF_STUDENT)] = 0.0
    """Weight decay (decoupled with adamw)."""
    schedule: Annotated[Schedule, Hyperparameter(commands=OF_STUDENT)] = "step"
    """Learning rate schedule: constant, step (StepLR), cosine (to 0, updated every epoch) or
    onecycle (updated every batch)."""
    lr_step_size: Annotated[
        int, Hyperparameter(low=1, when={"schedule": "step"}, commands=OF_STUDENT)
    ] = 7
    """Epochs between two decays of the learning rate."""
    lr_gamma: Annotated[
        float, Hyperparameter(above=0, high=1, when={"schedule": "step"}, commands=OF_STUDENT)
    ] = 0.1
    """Factor of each decay of the learning rate."""
    epochs: Annotated[int, Hyperparameter(low=1, commands=OF_STUDENT)] = 25
    """Passes over the training images."""
    batch_size: Annotated[int, Hyperparameter(low=1, commands=OF_STUDENT)] = 32
    """Images per step. The last batch of an epoch may be smaller."""
    precision: Precision = "fp32"
    """"fp32", or "bf16": both models under autocast; losses are computed in float32."""
    seed: int = 0
    """Seed of the study: with the repeat it fixes everything random."""
    repeat: Annotated[int, Setting(commands=("distill",))] = 0
    """Number of the repeat, from 0. All configurations are trained in the same repeats."""
    study_values: Annotated[tuple[tuple[str, Value | None], ...], Setting(commands=())] = field(
        default=(), compare=False
    )
    """Set by the study: student, teacher and teacher_epochs that it began with. `config_id` leaves
    them out, so that ids do not change when a study is extended to several models."""
    objects: Annotated[Objects, Setting(defines=False, commands=())] = field(
        default_factory=Objects, compare=False, repr=False
    )
    """Objects that were passed as data, teacher or student, by the names in those fields. Not part
    of study.json."""

    def __post_init__(self) -> None:
        take_objects(self)
        for f in fields(self):  # JSON has lists
            if isinstance(value := getattr(self, f.name), list):
                inner = (tuple(v) if isinstance(v, list) else v for v in value)
                object.__setattr__(self, f.name, tuple(inner))
        check_fields(self)
        for role in ("teacher", "student"):
            name, models = f"{role}_weights", getattr(self, role).split("+")
            weights = getattr(self, name)
            if isinstance(weights, str) and any(weights.startswith(f"{m}=") for m in models):
                object.__setattr__(self, name, (weights,))  # of one model only
        check_run(self)

    @property
    def config(self) -> Config:
        """The hyperparameters, with None for those that have no effect."""
        owner: type = type(self)
        values = {name: getattr(self, name) for name in effects.hyperparameters_of(owner)}
        return effects.canonical(values, effects.conditional_of_class(owner))

    @cached_property
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, the same in every repeat."""
        return effects.config_hash(self.config, type(self), dict(self.study_values))

    @property
    def task(self) -> "Task":
        """The declarations of distillation."""
        from kdtune.config.task import DISTILLATION  # made of the fields of this class

        return DISTILLATION

    def sample(self, **values: Any) -> "Run":
        """Return the run with a sample of a search space.

        Training without distillation is measured against the teacher that the study began with.
        """
        run = replace(self, **values)
        if run.alpha != 1:
            return run
        own = {n: v for n, v in self.study_values if n != "student"}
        return replace(run, **own)  # type: ignore[arg-type]

    @property
    def split_repeat(self) -> int:
        """The repeat whose train and val the run uses; a teacher's training uses the students'."""
        return self.repeat if self.repeat >= 0 else TEACHER_REPEAT - self.repeat

    @property
    def teacher_number(self) -> int:
        """Number of the teacher of the run's repeat, from 0.

        Repeat k is the first one with teacher number k.
        """
        if self.teacher_epochs == 0:
            return 0
        return self.split_repeat if self.folds else self.split_repeat % self.teachers

    @property
    def teacher_repeat(self) -> int:
        """The negative repeat in which the run's teacher is trained."""
        return TEACHER_REPEAT - self.teacher_number

    @property
    def teacher_members(self) -> tuple["Run", ...]:
        """The run with each member of its teacher, an ensemble or not, as its teacher."""
        return tuple(replace(self, teacher=name) for name in self.teacher.split("+"))

    def weights_of(self, role: Role) -> str:
        """Return the weights of the run's teacher (no ensemble) or student."""
        model, weights = getattr(self, role), getattr(self, f"{role}_weights")
        return weights if isinstance(weights, str) else dict(pairs(weights)).get(model, "default")

    def absolute(self) -> "Run":
        """Return the same run with absolute paths of data and weights."""

        def path(value: str, *words: str) -> str:
            return value if value in words else str(Path(value).expanduser().absolute())

        def weights(value: Weights) -> Weights:
            if isinstance(value, str):
                return path(value, "default", "none")
            return tuple(f"{model}={path(w, 'default', 'none')}" for model, w in pairs(value))

        return replace(
            self,
            data=self.data if is_named_data(self.data) else path(self.data),
            data_root=self.data_root and path(self.data_root),
            teacher_weights=weights(self.teacher_weights),
            student_weights=weights(self.student_weights),
        )

    @property
    def augmentation(self) -> Augment:
        """Augmentation of the training images; unset, that of the default study or of a folder."""
        return self.augment or ("crop" if self.data == "fashion" else "resized-crop")


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on nothing else."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
