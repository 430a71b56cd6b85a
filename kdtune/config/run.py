"""Configuration of one distillation run, with its checks and migrations."""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from kdtune.config import fields as effects
from kdtune.config.fields import (
    MAX_BATCH,
    MAX_BETA,
    MAX_COUNT,
    MAX_EPOCHS,
    MAX_INTEGER,
    MAX_LR,
    MAX_REPEAT,
    MAX_REPEATS,
    MAX_STEP_SIZE,
    MAX_TEMPERATURE,
    MAX_WEIGHT,
    MAX_WEIGHT_DECAY,
    MIN_STD,
    MIN_TEMPERATURE,
    OF_STUDENT,
    REST,
    Config,
    DataName,
    Hyperparameter,
    ModelName,
    Role,
    Setting,
    Value,
    Weights,
    check,
    check_fields,
    check_weights,
    is_named_data,
    is_named_extra,
    is_output_file,
    pairs,
)
from kdtune.config.files import check_place
from kdtune.config.objects import KINDS, Objects, importable_name
from kdtune.config.text import InputError

if TYPE_CHECKING:
    from kdtune.config.task import Task


# What plan, records and tables know of a trial, whatever it trains.


def name_trial(config_id: str, repeat: int) -> str:
    """Return the name of the trial of a configuration in a repeat."""
    return f"{config_id}-r{repeat:02d}"


class BaseRun(ABC):
    """One trial: a configuration in a repeat. Its subclasses are frozen dataclasses."""

    repeat: int
    seed: int

    @property
    @abstractmethod
    def task(self) -> Task:
        """What the trials of the study train."""

    @property
    @abstractmethod
    def config(self) -> Config:
        """The hyperparameters, with None for those that have no effect."""

    @property
    @abstractmethod
    def config_id(self) -> str:
        """Eight hex digits that name the configuration, the same in every repeat."""

    @abstractmethod
    def sample(self, **values: Any) -> Self:
        """Return the run with a sample of a search space, and perhaps another repeat."""

    def at(self, repeat: int) -> Self:
        """Return the run of the same configuration in another repeat."""
        return replace(self, repeat=repeat)  # type: ignore[type-var]

    def value(self, name: str) -> Value:
        """Return the value of a hyperparameter, whether it has an effect or not."""
        found: Value = getattr(self, name)
        return found

    def resolved_value(self, name: str) -> Value:
        """Return the value of a hyperparameter; if None stands for another's value, that one."""
        found, like = self.value(name), self.task.hyperparameters[name].like
        return self.value(like) if found is None and like is not None else found

    @property
    def planned_epochs(self) -> int | None:
        """Number of epochs of the trial; None if it is not known."""
        found: int | None = getattr(self, "epochs", None)
        return found

    @property
    def trial_id(self) -> str:
        """Name of the trial: this configuration in this repeat."""
        return name_trial(self.config_id, self.repeat)

    @property
    def is_baseline(self) -> bool:
        """Whether the configuration belongs to the baseline."""
        return self.task.is_baseline(self.config)

    @property
    def group(self) -> str:
        """The configurations that this one is compared with: those of its student."""
        return "" if self.task.group is None else str(self.value(self.task.group))


# Teachers that are only a file: their names, and what a run or study with one may have.
#
# `--teacher PATH/outputs.parquet` names a file of logits or probabilities. The teacher's name is
# then
# "outputs.parquet", the name of the file, and its path stands among the weights. So a study goes
# on
# where the file has moved, as with files of weights.


NETWORKS_ONLY = "write its outputs into a file first (python -m kdtune.teacher --dump FILE)"
"""Advice for a teacher that must be combined with a file."""


def take_output_file(run: Run) -> None:
    """Replace the path of a teacher that is a file by its name; the path becomes its weights.

    Call it while the run is being made: it is changed.

    Raises:
        InputError: The run has other weights for the same name.
    """
    path = run.teacher
    if not is_output_file(path) or "+" in path:  # `check_output_file` refuses ensembles
        return
    check_place("teacher", path)
    name, weights = Path(path).name, run.teacher_weights
    if isinstance(weights, str):
        if not _is_path_of(weights, path):
            _check_unused(path, weights)
            object.__setattr__(run, "teacher_weights", path)
    elif name not in dict(pairs(weights)):
        object.__setattr__(run, "teacher_weights", (*weights, f"{name}={path}"))
    object.__setattr__(run, "teacher", name)
    if run.teacher_epochs is None:
        object.__setattr__(run, "teacher_epochs", 0)


def _is_path_of(weights: str, path: str) -> bool:
    """Return True if the weights are the file whose name stands as the teacher already."""
    return Path(path).name == path and Path(weights).name == path


def _check_unused(path: str, weights: str) -> None:
    """Raise InputError if a teacher that is a file is given other weights, too."""
    named = Path(path).name == path and is_output_file(weights)
    if weights not in ("default", "none") and (named or not is_output_file(weights)):
        raise InputError(
            f"--teacher-weights must be left out with a teacher that is a file, but got "
            f"--teacher {path} and --teacher-weights {weights}; if {path} was renamed, give "
            f"--teacher-weights {Path(path).name}={weights}"
        )


def with_output_files(
    weights: Weights, teacher: str, teachers: Iterable[Any]
) -> tuple[tuple[Any, ...], Weights]:
    """Return the teachers of a space, each file by its name, and the weights with their paths.

    Args:
        weights: Of the teachers, as they were given.
        teacher: The teacher of the study's run.
        teachers: Values of the space, as they were given.

    Raises:
        InputError: Two files have the same name.
    """
    given = tuple(teachers)
    files = [t for t in given if isinstance(t, str) and is_output_file(t) and "+" not in t]
    if not files:
        return given, weights
    if isinstance(weights, str) and is_output_file(weights):
        weights = (f"{teacher}={weights}",)  # it is the path of one of them only
    elif isinstance(weights, str):
        networks = [m for t in given if t not in files for m in str(t).split("+")]
        others = () if weights == "default" else tuple(f"{m}={weights}" for m in networks)
        weights = others
    known = dict(pairs(weights))
    for path in files:
        before = known.setdefault(name := Path(path).name, path)
        if path not in (before, name):
            raise InputError(
                f"--teacher must name files with different names, but got {before} and {path}; "
                f"rename one of them"
            )
    named = tuple(Path(t).name if t in files else t for t in given)
    return named, tuple(f"{model}={file}" for model, file in known.items())


def check_output_file(run: Run) -> None:
    """Raise InputError if the run cannot learn from a teacher that is a file."""
    if is_output_file(run.student):
        raise InputError(
            f"--student must be a network, but got the file {run.student}; only a teacher can be a "
            f"file of outputs"
        )
    members = run.teacher.split("+")
    files = [name for name in members if is_output_file(name)]
    if not files:
        return
    if len(members) > 1:
        raise InputError(
            f"--teacher must have no file in an ensemble, and the path of a file no +, but got "
            f"--teacher {run.teacher}; write the mean of the probabilities into one file"
        )
    if "=" in run.teacher:
        raise InputError(f"--teacher must be a file without = in its name, but got {run.teacher}")
    if run.teacher_epochs not in (None, 0):
        raise InputError(
            f"--teacher-epochs must be 0 with a teacher that is a file ({run.teacher}), but it is "
            f"{run.teacher_epochs}; give --teacher-epochs 0, or leave it out. To fine-tune another "
            f"teacher of the study, {NETWORKS_ONLY}."
        )
    if run.teachers > 1:
        raise InputError(
            f"--teachers must be 1 with a teacher that is a file ({run.teacher}), but got "
            f"--teachers {run.teachers}; leave it out"
        )
    _check_same_images(run)


def _check_same_images(run: Run) -> None:
    """Raise InputError if the student would learn from images that the file has no outputs for."""
    if run.alpha == 1:  # which uses the teacher on val and test only
        return
    if run.augment not in (None, "none"):
        raise InputError(
            f"--augment must be none with a teacher that is a file ({run.teacher}), which has "
            f"outputs for the unchanged images only, but it is {run.augment}; give --augment none"
        )
    for name, share in (("mixup", run.mixup), ("cutmix", run.cutmix)):
        if share:
            raise InputError(
                f"--{name} must be 0 with a teacher that is a file ({run.teacher}), which has "
                f"outputs for the unchanged images only, but it is {share:g}; leave it out"
            )
    if run.extra_share:
        raise InputError(
            f"--extra-share must be 0 with a teacher that is a file ({run.teacher}), which has no "
            f"outputs for the images of --extra, but it is {run.extra_share:g}; leave it out"
        )


# Checks of a run's configuration beyond the type and bounds of one field; objects in it.


def check_run(run: Run) -> None:
    """Raise InputError if loss, schedule, weights, repeat or teachers cannot be as given."""
    _check_loss(run)
    for name in ("lr_milestones", "teacher_lr_milestones"):
        decays = getattr(run, name)
        rising = all(a < b for a, b in itertools.pairwise(decays))
        check(run, name, rising, "be shares of the epochs in ascending order, each once")
    check_extra(run)
    if run.optimizer == "nesterov":
        check(run, "momentum", run.momentum > 0, "be greater than 0 with --optimizer nesterov")
    check_weights("teacher_weights", run.teacher_weights)
    check_output_file(run)
    check_weights("student_weights", run.student_weights)
    fits = run.repeat >= -run.teachers or run.folds is not None
    check(run, "repeat", fits, f"be {-run.teachers} or more")
    if run.teachers > 1 and run.folds is not None:
        raise InputError(
            f"--teachers must be 1 with --folds, since each repeat then has its own teacher, but "
            f"got --teachers {run.teachers}; leave out one of them"
        )
    if run.teachers > 1 and run.teacher_epochs == 0:
        raise InputError(
            f"--teachers must be 1 with --teacher-epochs 0, since all teachers would be the same, "
            f"but got --teachers {run.teachers}; fine-tune them (--teacher-epochs 10)"
        )


def _check_loss(run: Run) -> None:
    """Raise InputError unless the loss is an objective or a sum of two different ones."""
    terms = effects.terms_of(run.loss)
    allowed = f"{', '.join(effects.objective_names())} or module:function"
    for term in terms:
        what = "one of" if len(terms) == 1 else "a sum A+B of two of"
        check(run, "loss", effects.is_objective(term), f"be {what} {allowed}")
    check(run, "loss", len(terms) <= 2, "have at most two terms, A+B")
    fits = len(set(terms)) == len(terms)
    check(run, "loss", fits, f"be a sum of two different losses ({terms[0]} alone is enough)")


def check_warmup(schedule: str, warmup_epochs: float, epochs: float) -> None:
    """Raise InputError unless a warm-up, which onecycle has not, ends before the training.

    It is no check of `Run`: of a study's configurations each must fulfil it, and not the run whose
    values they replace.
    """
    if schedule != "onecycle" and warmup_epochs >= epochs:
        raise InputError(
            f"--warmup-epochs must be less than --epochs, but got --warmup-epochs "
            f"{warmup_epochs:g} with --epochs {epochs:g}; give fewer epochs of warm-up, or more "
            f"epochs"
        )


def check_extra(run: Run) -> None:
    """Raise InputError if images without labels and their share of a batch do not fit."""
    if run.extra_share > 0 and run.extra is None:
        raise InputError(
            f"--extra-share must be 0 without --extra, but got --extra-share {run.extra_share:g}; "
            f"give a folder of images without labels (--extra FOLDER)"
        )
    if run.extra_share > 0 and run.batch_size < 2:
        raise InputError(
            f"--batch-size must be 2 or more with --extra-share, since each batch has an image "
            f"with a label and one without, but got --batch-size {run.batch_size}"
        )
    if run.extra == REST and run.train_images is None:
        raise InputError(
            "--extra rest must have --train-images, since it means the images of train that these "
            "leave out; give their number, or a folder of images (--extra FOLDER)"
        )
    if run.extra is not None and run.extra.startswith("torchvision:"):
        raise InputError(
            f"--extra must be a folder of images, rest or module:factory, but got --extra "
            f"{run.extra}; write a function that returns the dataset, and give its module:function"
        )


def take_objects(run: Run) -> None:
    """Put objects that were passed as data, teacher or student into `Run.objects`.

    The fields then hold their names. Call it while the run is being made: it is changed.

    Raises:
        InputError: A field cannot have the object it was given.
    """
    if run.extra is not None and not isinstance(run.extra, str):
        object.__setattr__(run, "extra", _name_of_extra(run.extra))
    # JSON has {} for no objects
    objects = run.objects if isinstance(run.objects, Objects) else Objects()
    for kind in KINDS:
        name, objects = objects.named(kind, value := getattr(run, kind))
        if name is value:
            continue
        object.__setattr__(run, kind, name)
        if kind == "data":
            continue
        weights = with_own_weights(getattr(run, f"{kind}_weights"), [name], objects)
        object.__setattr__(run, f"{kind}_weights", weights)
        if kind == "teacher" and run.teacher_epochs is None:
            object.__setattr__(run, "teacher_epochs", 0)
    object.__setattr__(run, "objects", objects)


def _name_of_extra(extra: object) -> str:
    """Return the module:function of a function that makes images without labels."""
    name = importable_name(extra) if callable(extra) else None
    if name is None:
        raise InputError(
            f"extra must be text or a function of a module that every process can import, but got "
            f"a {type(extra).__name__}; write a function that returns the images into a file, and "
            f"give its module:function"
        )
    return name


def with_own_weights(weights: Weights, names: Sequence[str], objects: Objects) -> Weights:
    """Return weights in which functions that were passed have no others than they make.

    Args:
        weights: As they were given. One value other than "default" is for all models.
        names: Of models.
        objects: Says which of them are functions. A module has its own weights by default.
    """
    if isinstance(weights, str) and weights != "default":
        return weights
    given = () if isinstance(weights, str) else weights
    known = {model for model, _ in pairs(given)}
    own = [f"{name}=none" for name in names if name in objects.functions and name not in known]
    return (*given, *own) or weights


# Fields of a run: the data and what is made of them.


Augment = Literal["none", "crop", "resized-crop", "trivial"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Orientation = Literal["exif", "stored"]


@dataclass(frozen=True)
class DataFields:
    """Data, labelled and not, and the views of their images."""

    data: Annotated[DataName, Setting(place=True)] = "fashion"
    """Data: "fashion" (the embedded Fashion-MNIST subset), torchvision:NAME (such as
    torchvision:CIFAR10), module:factory, or a folder with train/, val/ and optionally test/, each
    with one subfolder of images per class."""
    data_root: Annotated[str | None, Setting(defines=False, place=True)] = None
    """Folder that holds the files of torchvision:NAME. None: torchvision in the user's cache
    folder."""
    download: Annotated[bool, Setting(defines=False)] = False
    """Download the files of torchvision:NAME if they are not in --data-root."""
    val_share: Annotated[float, Setting(above=0, below=1)] = 0.2
    """Share of train that becomes val where the data have no val: drawn with the seed, the same
    share of each class."""
    folds: Annotated[int | None, Setting(low=2, high=MAX_REPEAT, commands=OF_STUDENT)] = None
    """Pool train and val, and split them anew in each repeat: N folds of equal size with the same
    share of each class, of which one is val and the others are train. Each repeat takes the next
    fold and, after all N, a new partition into folds. Each repeat has a teacher of its own,
    fine-tuned on its train. Test stays apart. None: the data's own val, the same in all repeats."""
    train_images: Annotated[int | None, Setting(low=1, high=MAX_COUNT, commands=OF_STUDENT)] = None
    """Number of labelled images that the student learns from, drawn evenly over the classes. None:
    all of train."""
    extra: Annotated[str | None, Setting(commands=OF_STUDENT, place=True)] = None
    """Images without labels, from which the student learns what the teacher says of them: a folder
    of images, in which subfolders have no meaning; module:factory; or "rest", the images of train
    that --train-images leaves out. Labels that they may have are not used. See --extra-share."""
    image_size: Annotated[int | None, Setting(low=1, high=4096)] = None
    """Side of the augmented images in pixels. None: the largest input size of the models."""
    augment: Annotated[Augment | None, Hyperparameter(of_study=True, resolved=True)] = None
    """Augmentation of the training images: "crop" (pad by an eighth, crop, flip), "resized-crop"
    (RandomResizedCrop, flip), "trivial" (crop or resized-crop as the data need it, then
    TrivialAugment) or "none". None: "crop" for images of one size, "resized-crop" for files."""
    orientation: Annotated[Orientation | None, Setting(resolved=True)] = None
    """Orientation of image files: "exif" (rotated and mirrored as their EXIF data say, as viewers
    show them) or "stored" (as the pixels are stored in the file). None: exif; but stored for a
    study that an earlier version of kdtune began."""
    eval_crop: Annotated[float | None, Setting(above=0, high=1, resolved=True)] = None
    """Side of the central crop of val and test images, as a share of the resized image's shorter
    side; 1 crops only to a square. None: that of the teacher's published evaluation transform, else
    0.875; but 1 for images of one size that are no larger than the teacher's input."""
    eval_interpolation: Annotated[Interpolation | None, Setting(resolved=True)] = None
    """Interpolation with which val and test images are resized, and those of train unless
    RandomResizedCrop does it. None: that of the teacher's published evaluation transform, else
    bilinear."""


# Fields of a run: the loss.


@dataclass(frozen=True)
class ObjectiveFields:
    """The loss, alpha * CE + (1 - alpha) * D, and the hyperparameters of its terms."""

    loss: Annotated[
        str,
        Hyperparameter(unless={"alpha": 1}, choices=effects.objective_choices, commands=OF_STUDENT),
    ] = "kl"
    """Distillation loss: "kl" (KL divergence of the softened probabilities, times T squared), "mse"
    (of the logits), "dkd" (decoupled: label and other classes apart), "ls" (kl of standardised
    logits), "dist" (correlation of the probabilities), "nkd" (cross-entropy of the label, kl of the
    other classes), "features_mse" and "features_cosine" (of the inputs of the last layers, through
    a projector), your own as module:function, or a sum of two, "kl+dist" (see loss_weight)."""
    alpha: Annotated[float, Hyperparameter(low=0, high=1, commands=OF_STUDENT)] = 0.5
    """Weight of the cross-entropy with the labels; the distillation loss has weight 1 - alpha.
    1 is training without distillation, 0 uses the teacher only."""
    temperature: Annotated[
        float,
        Hyperparameter(
            low=MIN_TEMPERATURE, high=MAX_TEMPERATURE, of_objective=True, commands=OF_STUDENT
        ),
    ] = 4.0
    """Temperature T that divides the logits of student and teacher before the softmax."""
    teacher_temperature: Annotated[
        float | None,
        Hyperparameter(
            low=MIN_TEMPERATURE,
            high=MAX_TEMPERATURE,
            like="temperature",
            of_objective=True,
            commands=OF_STUDENT,
        ),
    ] = None
    """Temperature of the teacher's logits, where it is another than the student's. None: the same
    temperature."""
    dkd_alpha: Annotated[
        float, Hyperparameter(low=0, high=MAX_WEIGHT, of_objective=True, commands=OF_STUDENT)
    ] = 1.0
    """Weight of the target-class term of decoupled distillation (Zhao et al., 2022)."""
    dkd_beta: Annotated[
        float, Hyperparameter(low=0, high=MAX_WEIGHT, of_objective=True, commands=OF_STUDENT)
    ] = 8.0
    """Weight of the non-target-class term of decoupled distillation (Zhao et al., 2022)."""
    dist_beta: Annotated[
        float,
        Hyperparameter(low=0, high=MAX_WEIGHT, neutral=2, of_objective=True, commands=OF_STUDENT),
    ] = 2.0
    """Weight of the correlation over the classes of an image in the loss dist (Huang et al.,
    2022)."""
    dist_gamma: Annotated[
        float,
        Hyperparameter(low=0, high=MAX_WEIGHT, neutral=2, of_objective=True, commands=OF_STUDENT),
    ] = 2.0
    """Weight of the correlation over the images of a batch in the loss dist (Huang et al.,
    2022)."""
    nkd_gamma: Annotated[
        float,
        Hyperparameter(low=0, high=MAX_WEIGHT, neutral=1.5, of_objective=True, commands=OF_STUDENT),
    ] = 1.5
    """Weight of the classes other than the label in the loss nkd (Yang et al., 2023)."""
    loss_weight: Annotated[
        float,
        Hyperparameter(above=0, high=MAX_WEIGHT, neutral=1, of_objective=True, commands=OF_STUDENT),
    ] = 1.0
    """Weight of the second of two losses: A+B is A + loss_weight * B."""


# Fields of a run: the training of the student.


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


# Fields of a run: the student.


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


# Fields of a run: the teacher and its fine-tuning.


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


# Configuration of one distillation run.


OF_TEACHER = ("teacher", "teacher_epochs")
"""Hyperparameters of the teacher, which without distillation is only measured."""
TEACHER_REPEAT = -1
"""The repeat that teacher number 0 is trained in, and number k in this one - k: no student is
trained on the same augmented images."""


@dataclass(frozen=True)
class Run(
    # a dataclass takes the fields of its last base first
    TrainingFields,
    ObjectiveFields,
    StudentFields,
    TeacherFields,
    DataFields,
    BaseRun,
):
    """Configuration of one distillation run: one student learns from one teacher.

        >>> run = kdtune.Run(data="photos", teacher="resnet50", student="resnet18", lr=0.01)
        >>> run.alpha, run.epochs
        (0.5, 25)

    The defaults are those of the command line with --data, meant for photographs and pretrained
    models. Without --data the command line has the study of `kdtune.config.study.fashion()`.

    In Python, `data`, `teacher` and `student` may also be objects: a dict of datasets or arrays, a
    module, a function that makes one. The field then holds the object's name, and the object is in
    `objects`. A teacher that is an object is not fine-tuned unless teacher_epochs says so.

    A field is declared once, here or in a base class (`run_data`, `run_teacher`, `run_student`,
    `run_objective`, `run_training`): its type, bounds, effect and help. A hyperparameter, which a
    study may search, is annotated with `Hyperparameter`.
    """

    seed: Annotated[int, Setting(low=-MAX_INTEGER, high=MAX_INTEGER)] = 0
    """Seed of the study: with the repeat it fixes everything random."""
    repeat: Annotated[int, Setting(low=-MAX_REPEAT, high=MAX_REPEAT, commands=("distill",))] = 0
    """Number of the repeat, from 0. All configurations are trained in the same repeats."""
    study_values: Annotated[tuple[tuple[str, Value | None], ...], Setting(commands=())] = field(
        default=(), compare=False
    )
    """Set by the study: student, teacher, teacher_epochs and augment that it began with.
    `config_id` leaves them out, so that ids do not change when a study is extended to several
    models or augmentations."""
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
        take_output_file(self)
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
    def task(self) -> Task:
        """The declarations of distillation."""
        from kdtune.config.task import DISTILLATION  # made of the fields of this class

        return DISTILLATION

    def sample(self, **values: Any) -> Run:
        """Return the run with a sample of a search space.

        Training without distillation is measured against the teacher that the study began with.
        """
        run = replace(self, **values)
        if run.alpha != 1:
            return run
        own = {n: v for n, v in self.study_values if n in OF_TEACHER}
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
    def teacher_members(self) -> tuple[Run, ...]:
        """The run with each member of its teacher, an ensemble or not, as its teacher."""
        return tuple(replace(self, teacher=name) for name in self.teacher.split("+"))

    def weights_of(self, role: Role) -> str:
        """Return the weights of the run's teacher (no ensemble) or student."""
        model, weights = getattr(self, role), getattr(self, f"{role}_weights")
        return weights if isinstance(weights, str) else dict(pairs(weights)).get(model, "default")

    def absolute(self) -> Run:
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
            extra=self.extra
            if self.extra is None or is_named_extra(self.extra)
            else path(self.extra),
            teacher_weights=weights(self.teacher_weights),
            student_weights=weights(self.student_weights),
        )

    @property
    def augmentation(self) -> Augment:
        """Augmentation of the training images; unset, that of the default study or of a folder."""
        return self.augment or ("crop" if self.data == "fashion" else "resized-crop")

    @property
    def compares_features(self) -> bool:
        """Whether the distillation term compares features of teacher and student."""
        return self.alpha != 1 and effects.takes_features(self.loss)

    @property
    def unlabelled_per_batch(self) -> int:
        """Number of images of --extra in a whole batch; at least one image has a label.

        0 without distillation, since only the teacher says anything of them.
        """
        if self.extra is None or self.extra_share == 0 or self.alpha == 1:
            return 0
        return min(max(1, round(self.extra_share * self.batch_size)), self.batch_size - 1)

    @property
    def labelled_per_batch(self) -> int:
        """Number of images with a label in a whole batch."""
        return self.batch_size - self.unlabelled_per_batch

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed with each other."""
        return self.mixup > 0 or self.cutmix > 0


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on nothing else."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# Schema of study.json, and migrations from older ones.
#
#         1   version 0.1: the fields of the study alone; the fingerprints stand in
#     provenance.json
#         2   `schema`, `fingerprints` of data, teacher and student, and the fields of the study
#         3   the teacher has a recipe of its own (teacher_*), val and test a transform of their
#     own
#         4   the finalists are recorded before their final repeats start (see `storage.rounds`)
#
# The schema is raised when the meaning of a study's files changes. A new field with a default
# does
# not raise it.


SCHEMA = 4
INTERPOLATIONS = ("eval_interpolation", "teacher_interpolation", "student_interpolation")


def schema_of(values: Mapping[str, Any]) -> int:
    """Return the schema of a study's JSON."""
    return int(values.get("schema", 1))


def check_schema(schema: int, what: str = "this study") -> None:
    """Raise InputError if a schema is newer than this version of kdtune."""
    if schema > SCHEMA:
        raise InputError(
            f"{what} was written by a newer version of kdtune (schema {schema}, but this version "
            f"reads schema {SCHEMA} and older); update kdtune to read it"
        )


def migrate(
    values: Mapping[str, Any], provenance: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the JSON of a study in the present schema.

    Args:
        values: The content of study.json.
        provenance: The content of provenance.json, where schema 1 has the fingerprints.

    Raises:
        InputError: The schema is newer than this version of kdtune.
    """
    schema = schema_of(values)
    check_schema(schema)
    migrated = dict(values)
    if schema == 1:
        migrated = _from_1(migrated, provenance or {})
    if schema <= 2:
        migrated = _from_2(migrated)
    if isinstance(run := migrated.get("run"), Mapping):
        migrated["run"] = _with_orientation(run)
    return migrated | {"schema": SCHEMA}


def _with_orientation(run: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run whose images were read before `Run.orientation` was introduced."""
    return {"orientation": "stored", **run}


def migrate_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run that was saved by an earlier version in the present schema.

    Until schema 2 the teacher was fine-tuned with the student's settings, all layers on all of
    train, and the augmentation decided how val and test were cropped.
    """
    if "teacher_trainable" in values:
        return _with_orientation(values)
    own = ("optimizer", "momentum", "weight_decay", "schedule", "lr_step_size", "lr_gamma")
    photos = values.get("data", "fashion") != "fashion"
    augment = values.get("augment") or ("resized-crop" if photos else "crop")
    shrinks = {name: "bilinear" for name in INTERPOLATIONS}
    return {
        **_with_orientation(values),
        **{f"teacher_{name}": values[name] for name in (*own, "batch_size") if name in values},
        **{"teacher_trainable": "all", "teacher_batch_norm": "train", "teacher_augment": augment},
        **{"augment": augment, "eval_crop": 0.875 if augment == "resized-crop" else 1.0, **shrinks},
    }


def _from_1(values: dict[str, Any], provenance: Mapping[str, Any]) -> dict[str, Any]:
    # Version 0.1 hashed the source of a factory's module into the fingerprint of a model. For the
    # models of kdtune that was kdtune/models.py, which no longer exists. So only the fingerprints
    # of models from libraries, which have no such source, are kept.
    run = values["run"]
    kept = ["data", *(m for m in ("teacher", "student") if ":" not in str(run[m]))]
    fingerprints = {name: provenance[name] for name in kept if name in provenance}
    return {"fingerprints": fingerprints, **values}


def _from_2(values: dict[str, Any]) -> dict[str, Any]:
    # earlier versions kept the students of all runs: a resumed study must not delete them
    return {"keep": "all", **values, "run": migrate_run(values["run"])}
