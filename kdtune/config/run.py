"""Configuration of one distillation run, with its checks and migrations."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from kdtune.config import fields
from kdtune.config.fields import Bounds, Hyperparameter, ModelName, Setting, Weights, check, pairs
from kdtune.config.files import check_path, existing_file
from kdtune.config.objects import KINDS, Objects, importable_name
from kdtune.config.task import METRICS, BaseRun, Range, Task, Values, models_of, to_list_or_range
from kdtune.config.text import InputError, user_code

# The run.

LR_MILESTONES = (0.625, 0.75, 0.875)
"""Shares of the epochs after which multistep decays by default; of 240 epochs 150, 180 and 210."""

Share = Annotated[float, Bounds("[0, 1]")]
PositiveShare = Annotated[float, Bounds("(0, 1]")]
LearningRate = Annotated[float, Bounds("(0, 1000000]")]
PositiveWeight = Annotated[float, Bounds("(0, 1000000]")]
Weight = Annotated[float, Bounds("[0, 1000000]")]
"""Weight of a term of the loss, or of the decay of weights."""
Temperature = Annotated[float, Bounds("[0.0001, 1000]")]
Beta = Annotated[float, Bounds("[0, 1000]")]
"""Parameter a of Beta(a, a), which is then almost always close to 1/2."""
Std = Annotated[float, Bounds("[0.000001, 1]")]
"""Standard deviation that inputs in [0, 1] are divided by; below, float32 has no digits left."""
EpochsOrZero = Annotated[int, Bounds("[0, 1000000]")]
StepSize = Annotated[int, Bounds(f"[1, {fields.MAX_INTEGER}]")]
"""Epochs between decays. A step size far above the number of epochs means: no decay."""
Pixels = Annotated[int, Bounds("[1, 4096]")]

Augment = Literal["none", "crop", "resized-crop", "trivial"]
Interpolation = Literal["nearest", "bilinear", "bicubic"]
Orientation = Literal["exif", "stored"]
Trainable = Literal["all", "head"]
BatchNorm = Literal["train", "eval"]
Precision = Literal["fp32", "bf16", "fp16", "auto"]
Keep = Literal["last", "best"]
TrainDraw = Literal["repeat", "study"]
Sampler = Literal["shuffle", "balanced"]

OF_TEACHER = ("teacher", "teacher_epochs")
"""Hyperparameters of the teacher, which without distillation is only measured."""
TEACHER_REPEAT = -1
"""The repeat that teacher number 0 is trained in, and number k in this one - k: no student is
trained on the same augmented images."""

_STUDENT = Setting(commands=fields.OF_STUDENT)
_RESOLVED = Setting(resolved=True)
_COLUMNS = f"[{fields.one_of(fields.TABLE_COLUMNS)}=COLUMN [...]]"
_LOSSES = fields.one_of([*fields.LOSSES, "module:function", "A+B"])
_AUGMENTS = fields.one_of(["None", *get_args(Augment), "module:function"])
_CLASS_WEIGHTS = Hyperparameter(unless={"alpha": 0}, neutral="none", metavar="none|balanced|FILE")
_OF_LOSS = Hyperparameter(of_objective=True)
_WEIGHTS = Setting(path=True, pairs=True)
_BASELINE = {"alpha": 1}
_OF_ALL = Hyperparameter(commands=fields.ALL_COMMANDS, of_study=True, resolved=True)
_WARMUP = Hyperparameter(when=fields.that_take("warmup_epochs"), neutral=0)


@dataclass(frozen=True)
class Run(BaseRun):
    """Configuration of one distillation run: one student learns from one teacher.

        >>> run = kdtune.Run(data="photos", teacher="resnet50", student="resnet18", lr=0.01)
        >>> run.alpha, run.epochs
        (0.5, 25)

    The defaults are those of the command line with --data, meant for photographs and pretrained
    models. Without --data the command line has the study of `kdtune.config.study.fashion()`.

    In Python, `data`, `teacher` and `student` may also be objects: a dict of datasets or arrays, a
    module, a function that makes one. The field then holds the object's name, and the object is in
    `objects`. A teacher that is an object is not fine-tuned unless teacher_epochs says so.
    """

    data: Annotated[fields.DataName, Setting(path=True)] = "fashion"
    """Data: "fashion" (the embedded Fashion-MNIST subset), torchvision:NAME (such as
    torchvision:CIFAR10), hf:NAME (of Hugging Face, or a folder that `datasets` has saved),
    module:factory, a folder with one subfolder of images per class, a folder with train/, val/
    and optionally test/, each with such subfolders, or a table of image files (.csv, .parquet), see
    --columns."""
    columns: Annotated[tuple[str, ...] | None, Setting(defines=False, metavar=_COLUMNS)] = None
    """Columns of a table of image files that are not named path (below the table's folder, or
    absolute), label, split (train, val or test) and group (see --groups), such as path=FILE
    label=CLASS. split and group may be missing; split= ignores such a column. None: these
    names. Of hf:NAME, path=IMAGES label=CLASSES group=GROUPS where the types do not tell."""
    data_root: Annotated[str | None, Setting(defines=False, path=True)] = None
    """Folder that holds the files of torchvision:NAME. None: torchvision in the user's cache
    folder."""
    download: Annotated[bool, Setting(defines=False)] = False
    """Download the files of torchvision:NAME if they are not in --data-root."""
    val_share: fields.Fraction = 0.2
    """Share of train that becomes val where the data have no val: drawn with the seed, the same
    share of each class."""
    groups: str | None = None
    """Regular expression that finds the group of each image file (speaker, patient, video) in its
    path below the folder of its split, such as "(p[0-9]+)_" for ants/p7_12.jpg: what the first
    parentheses enclose, or all that it matches. A val or folds that are cut from train never divide
    a group, and conclusions are about new groups. None: images are independent, unless a function
    of data returns groups or a table has them."""
    folds: Annotated[int | None, Bounds("[2, 1000000]"), _STUDENT] = None
    """Pool train and val, and split them anew in each repeat: N folds of equal size with the same
    share of each class, of which one is val and the others are train. Each repeat takes the next
    fold and, after all N, a new partition into folds. Each repeat has a teacher of its own,
    fine-tuned on its train. Test stays apart. None: the data's own val, the same in all repeats."""
    train_images: Annotated[fields.Count | None, Hyperparameter(of_study=True)] = None
    """Number of labelled images that the student learns from, drawn evenly over the classes. None:
    all of train. Of several numbers, fewer images are a part of more, and each number has its own
    comparison with training without distillation. See --budget-per."""
    budget_per: Annotated[Literal["steps", "epochs"], _STUDENT] = "steps"
    """What students of several --train-images have alike: "steps" (an epoch of each has as many
    images as --train-images has at most: it passes over fewer images several times) or "epochs"
    (an epoch is one pass, so that fewer images have fewer steps)."""
    largest_train_images: Annotated[fields.Count | None, Setting(commands=(), defines=False)] = None
    """Set by the study: the largest of several --train-images. None: there is one number."""
    train_draw: Annotated[TrainDraw | None, replace(_STUDENT, resolved=True)] = None
    """How often the --train-images are drawn: "repeat" (anew in each repeat, so that conclusions
    hold for new draws) or "study" (once, the same images in all repeats). None: repeat; but study
    for a study that an earlier version of kdtune began."""
    extra: Annotated[str | None, Setting(commands=fields.OF_STUDENT, path=True)] = None
    """Images without labels, from which the student learns what the teacher says of them: a folder
    of images, in which subfolders have no meaning; module:factory; or "rest", the images of train
    that --train-images leaves out. Labels that they may have are not used. See --extra-share."""
    image_size: Pixels | None = None
    """Side of the augmented images in pixels. None: the largest input size of the models."""
    augment: Annotated[str | None, replace(_OF_ALL, metavar=_AUGMENTS)] = None
    """Augmentation of the training images: "crop" (pad by an eighth, crop, flip), "resized-crop"
    (RandomResizedCrop, flip), "trivial" (crop or resized-crop as the data need it, then
    TrivialAugment), "none", or your own as module:function, such as a transform of
    torchvision.transforms.v2. None: "crop" for images of one size and for files of at most 64
    pixels, "resized-crop" for other files."""
    orientation: Annotated[Orientation | None, _RESOLVED] = None
    """Orientation of image files: "exif" (rotated and mirrored as their EXIF data say, as viewers
    show them) or "stored" (as the pixels are stored in the file). None: exif; but stored for a
    study that an earlier version of kdtune began."""
    eval_crop: Annotated[PositiveShare | None, _RESOLVED] = None
    """Side of the central crop of val and test images, as a share of the resized image's shorter
    side; 1 crops only to a square. None: that of the teacher's published evaluation transform, else
    0.875; but 1 for images of one size, and files of at most 64 pixels, that are no larger than the
    teacher's input."""
    eval_interpolation: Annotated[Interpolation | None, _RESOLVED] = None
    """Interpolation with which val and test images are resized, and those of train unless
    RandomResizedCrop does it. None: that of the teacher's published evaluation transform, else
    bilinear."""
    teacher: Annotated[ModelName, replace(_OF_ALL, unless=_BASELINE, resolved=False)] = "resnet50"
    """Teacher: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME, hf:NAME (of
    Hugging Face, or a folder that `transformers` has saved), or module:factory, a function of the
    number of classes that returns a module. NAME+NAME is an ensemble: the mean probability. A file
    of outputs, .parquet or .npz, is a teacher without a network (docs/teachers.md); it needs
    --augment none."""
    teachers: fields.Repeats = 1
    """Number of teachers that are fine-tuned by the same recipe, with other random weights of the
    head or of all layers, another order and another augmentation: repeat r learns from teacher r
    mod N. With 3 or more, conclusions are about new teachers of this recipe. 1: the same teacher in
    all repeats."""
    teacher_weights: Annotated[Weights, _WEIGHTS] = "default"
    """Weights of the teacher: "default" (the library's, downloaded), "none" (random), a file
    (.safetensors, or a checkpoint of torch.save) or the folder of another study, whose fine-tuned
    teacher is used. With several teachers, TEACHER=WEIGHTS for each that has not the default."""
    teacher_mean: tuple[Share, ...] | None = None
    """Mean of each channel, or one for all, that the teacher's input is normalised with after
    scaling to [0, 1]. None: that of the model."""
    teacher_std: tuple[Std, ...] | None = None
    """Standard deviation of each channel, or one for all, that the teacher's input is normalised
    with. None: that of the model."""
    teacher_size: Pixels | None = None
    """Side of the teacher's input in pixels. None: that of the model."""
    teacher_interpolation: Annotated[Interpolation | None, _RESOLVED] = None
    """Interpolation with which larger images are shrunk to the teacher's input size. None: that of
    the model."""
    teacher_epochs: Annotated[EpochsOrZero | None, replace(_OF_ALL, unless=_BASELINE)] = None
    """Epochs of fine-tuning the teacher before the study. 0: use its weights as they are. None: 10
    for pretrained weights, 30 for random ones, 0 for a finished teacher of kdtune."""
    teacher_trainable: Annotated[Trainable | None, _RESOLVED] = None
    """Layers of the teacher that are fine-tuned: all, or only the head (its last layer). None:
    all."""
    teacher_batch_norm: Annotated[BatchNorm | None, _RESOLVED] = None
    """Mode of the teacher's batch norm layers while it is fine-tuned, "train" or "eval". None:
    train, "eval" where only the head is trained."""
    teacher_optimizer: Annotated[fields.Optimizer | None, _RESOLVED] = None
    """Optimizer of the teacher. None: sgd for pretrained weights, adamw for random ones."""
    teacher_lr: Annotated[LearningRate | None, _RESOLVED] = None
    """Learning rate of the teacher. None: that of its optimizer for all layers of pretrained
    weights (sgd 0.001, adamw 0.0001), for their head alone (sgd 0.1, adamw 0.01) or for random
    weights (sgd 0.1, adamw 0.001); docs/recipe.md has those of the others."""
    teacher_momentum: Annotated[fields.BelowOne | None, _RESOLVED] = None
    """Momentum of the teacher's optimizer, if that takes one. None: 0.9."""
    teacher_weight_decay: Annotated[Weight | None, _RESOLVED] = None
    """Weight decay of the teacher. None: 0.0001 (sgd, nesterov), 0.01 (adamw) or 0 (others)."""
    teacher_schedule: Annotated[fields.Schedule | None, _RESOLVED] = None
    """Learning rate schedule of the teacher. None: cosine for pretrained weights, onecycle for
    random ones."""
    teacher_lr_step_size: Annotated[StepSize | None, _RESOLVED] = None
    """Epochs between two decays of the teacher's learning rate with the schedule step. None: 7."""
    teacher_lr_gamma: Annotated[PositiveShare | None, _RESOLVED] = None
    """Factor of each decay of the teacher's learning rate with the schedule step or multistep.
    None: 0.1."""
    teacher_lr_milestones: tuple[fields.Fraction, ...] = LR_MILESTONES
    """Decays of the teacher's learning rate with the schedule multistep, as ascending shares of the
    epochs."""
    teacher_batch_size: Annotated[fields.BatchSize | None, _RESOLVED] = None
    """Images per step of the teacher. None: 32 for pretrained weights, 64 for random ones."""
    teacher_augment: Annotated[str | None, replace(_RESOLVED, metavar=_AUGMENTS)] = None
    """Augmentation of the teacher's training images. None: that of --augment."""
    teacher_train_images: fields.Count | Literal["same"] | None = None
    """Number of labelled images that the teacher is fine-tuned on; "same": those of the student, so
    that each of several --train-images and, where each repeat draws them, each repeat has a teacher
    of its own. None: all of train."""
    teacher_keep: Keep = "last"
    """Epoch of the teacher's fine-tuning whose weights are kept: "last", or "best" (highest
    accuracy on val, which is optimistic)."""
    teacher_min_acc: Annotated[Share | None, Setting(defines=False)] = None
    """Least accuracy of every teacher on val. If one is less accurate, no student is trained."""
    student: Annotated[ModelName, Hyperparameter(of_study=True)] = "resnet18"
    """Student: a torchvision name, cifar_resnet20 (also 32, 44, 56, 110), timm/NAME,
    hf:NAME or module:factory."""
    student_weights: Annotated[Weights, replace(_WEIGHTS, commands=fields.OF_STUDENT)] = "default"
    """Initial weights of the student: "default", "none" or a file. With several students,
    STUDENT=WEIGHTS for each that has not the default."""
    student_mean: Annotated[tuple[Share, ...] | None, _STUDENT] = None
    """Mean of each channel, or one for all, that the student's input is normalised with after
    scaling to [0, 1]. None: that of the model."""
    student_std: Annotated[tuple[Std, ...] | None, _STUDENT] = None
    """Standard deviation of each channel, or one for all, that the student's input is normalised
    with. None: that of the model."""
    student_size: Annotated[Pixels | None, _STUDENT] = None
    """Side of the student's input in pixels. None: that of the model."""
    student_interpolation: Annotated[Interpolation | None, replace(_STUDENT, resolved=True)] = None
    """Interpolation with which larger images are shrunk to the student's input size. None: that of
    the model."""
    trainable: Annotated[Trainable, Hyperparameter()] = "all"
    """Layers of the student that are trained: all, or only the head (its last layer)."""
    batch_norm: Annotated[BatchNorm | None, Hyperparameter(resolved=True)] = None
    """Mode of the student's batch norm layers during training: "train" (batch statistics; running
    statistics change even under a frozen backbone) or "eval" (running statistics, frozen). None:
    train, "eval" where only the head is trained; but train for a study that an earlier version of
    kdtune began."""
    allow_random_backbone: Annotated[bool, Setting(commands=fields.OF_STUDENT, defines=False)] = (
        False
    )
    """Train the head alone (--trainable head) also of a student with random weights."""
    loss: Annotated[str, Hyperparameter(unless=_BASELINE, metavar=_LOSSES)] = "kl"
    """Distillation loss: "kl" (KL divergence of the softened probabilities, times T squared), "mse"
    (of the logits), "dkd" (decoupled: label and other classes apart), "ls" (kl of standardised
    logits), "dist" (correlation of the probabilities), "nkd" (cross-entropy of the label, kl of the
    other classes), "features_mse" and "features_cosine" (of the inputs of the last layers, through
    a projector), your own as module:function, or a sum of two, "kl+dist" (see loss_weight)."""
    alpha: Annotated[Share, Hyperparameter()] = 0.5
    """Weight of the cross-entropy with the labels; the distillation loss has weight 1 - alpha.
    1 is training without distillation, 0 uses the teacher only."""
    temperature: Annotated[Temperature, _OF_LOSS] = 4.0
    """Temperature T that divides the logits of student and teacher before the softmax."""
    teacher_temperature: Annotated[
        Temperature | None, Hyperparameter(like="temperature", of_objective=True)
    ] = None
    """Temperature of the teacher's logits, where it is another than the student's. None: the same
    temperature."""
    dkd_alpha: Annotated[Weight, _OF_LOSS] = 1.0
    """Weight of the target-class term of decoupled distillation (Zhao et al., 2022)."""
    dkd_beta: Annotated[Weight, _OF_LOSS] = 8.0
    """Weight of the non-target-class term of decoupled distillation (Zhao et al., 2022)."""
    dist_beta: Annotated[Weight, Hyperparameter(neutral=2, of_objective=True)] = 2.0
    """Weight of the correlation over the classes of an image in the loss dist (Huang et al.,
    2022)."""
    dist_gamma: Annotated[Weight, Hyperparameter(neutral=2, of_objective=True)] = 2.0
    """Weight of the correlation over the images of a batch in the loss dist (Huang et al.,
    2022)."""
    nkd_gamma: Annotated[Weight, Hyperparameter(neutral=1.5, of_objective=True)] = 1.5
    """Weight of the classes other than the label in the loss nkd (Yang et al., 2023)."""
    loss_weight: Annotated[PositiveWeight, Hyperparameter(neutral=1, of_objective=True)] = 1.0
    """Weight of the second of two losses: A+B is A + loss_weight * B."""
    optimizer: Annotated[fields.Optimizer, Hyperparameter()] = "sgd"
    """Optimizer: PyTorch's of that name. nesterov is sgd with Nesterov's momentum, which must be
    above 0. See docs/recipe.md."""
    lr: Annotated[LearningRate, Hyperparameter()] = 1e-3
    """Learning rate of the student. With the schedule "onecycle" it is the peak."""
    momentum: Annotated[fields.BelowOne, Hyperparameter(when=fields.that_take("momentum"))] = 0.9
    """Momentum."""
    weight_decay: Annotated[Weight, Hyperparameter()] = 0.0
    """Weight decay. With adamw it is decoupled; with the others it is added to the gradient."""
    schedule: Annotated[fields.Schedule, Hyperparameter()] = "step"
    """Learning rate schedule: constant, step (StepLR), multistep (MultiStepLR, see
    --lr-milestones), cosine (to 0, updated every epoch) or onecycle (updated every batch)."""
    lr_step_size: Annotated[StepSize, Hyperparameter(when=fields.that_take("lr_step_size"))] = 7
    """Epochs between two decays of the learning rate."""
    lr_gamma: Annotated[PositiveShare, Hyperparameter(when=fields.that_take("lr_gamma"))] = 0.1
    """Factor of each decay of the learning rate."""
    lr_milestones: Annotated[tuple[fields.Fraction, ...], _STUDENT] = LR_MILESTONES
    """Decays of the schedule multistep, as ascending shares of the epochs: of 240 epochs, the
    default decays after 150, 180 and 210."""
    warmup_epochs: Annotated[EpochsOrZero, _WARMUP] = 0
    """Epochs, fewer than --epochs, in which the learning rate rises linearly, batch by batch, to
    that of the schedule. step and multistep decay by the epoch's number in the run; cosine falls
    over the epochs that remain."""
    clip_norm: Annotated[fields.NotNegative, Hyperparameter(neutral=0)] = 0.0
    """Largest norm of the gradient of all parameters together; a longer gradient is scaled down. 0:
    no limit."""
    ema: Annotated[fields.BelowOne, Hyperparameter(neutral=0)] = 0.0
    """Decay per step of an exponential moving average of the student's weights and running
    statistics, at most (1 + n) / (10 + n) after n steps. The average is the student that is
    evaluated and saved. 0: no average."""
    label_smoothing: Annotated[fields.BelowOne, Hyperparameter(unless={"alpha": 0}, neutral=0)] = (
        0.0
    )
    """Label smoothing: share of the labels' weight that is spread evenly over all classes (Szegedy
    et al., 2016). The metric ce is without it."""
    class_weights: Annotated[str, _CLASS_WEIGHTS] = "none"
    """Weights of the classes in the cross-entropy with the labels, whose mean is a weighted one:
    "balanced" (inversely proportional to the number of training images), "none", or a file, .json
    or .csv, of a weight above 0 for each class. The metric ce and the distillation loss are without
    them."""
    sampler: Annotated[Sampler, Hyperparameter(neutral="shuffle")] = "shuffle"
    """Training images of an epoch: "shuffle" (each once) or "balanced" (as many in all, with equal
    shares of the classes; an image that is drawn again is augmented anew)."""
    mixup: Annotated[Beta, Hyperparameter(neutral=0)] = 0.0
    """Mixup: parameter a of Beta(a, a), from which each batch draws the share with which its images
    are averaged with each other (Zhang et al., 2018); the larger share is that of an image's own
    label. 0: no mixup. With mixup and cutmix, each batch has one of them."""
    cutmix: Annotated[Beta, Hyperparameter(neutral=0)] = 0.0
    """CutMix: parameter a of Beta(a, a), from which each batch draws the share of the area that its
    images keep; the rest, a rectangle clipped at the border, is of another image of the batch (Yun
    et al., 2019). 0: no CutMix."""
    extra_share: Annotated[fields.BelowOne, Hyperparameter(unless=_BASELINE, neutral=0)] = 0.0
    """Share of each batch that is images of --extra. An epoch is a pass over the labelled images,
    so with a larger share it has more steps."""
    epochs: Annotated[fields.Epochs, Hyperparameter()] = 25
    """Passes over the training images."""
    batch_size: Annotated[fields.BatchSize, Hyperparameter()] = 32
    """Images per step. The last batch of an epoch may be smaller."""
    precision: Precision = "fp32"
    """"fp32"; "bf16" or "fp16": both models under autocast, in fp16 with a gradient scaler; losses
    are computed in float32. "auto": bf16 where the hardware has it, else fp16 on a GPU that has it,
    else fp32; a study keeps the precision that it began with."""
    seed: Annotated[int, Bounds(f"[{-fields.MAX_INTEGER}, {fields.MAX_INTEGER}]")] = 0
    """Seed of the study: with the repeat it fixes everything random."""
    repeat: Annotated[int, Bounds("[-1000000, 1000000]"), Setting(commands=("distill",))] = 0
    """Number of the repeat, from 0. All configurations are trained in the same repeats."""
    study_values: Annotated[tuple[tuple[str, fields.Value | None], ...], Setting(commands=())] = (
        field(default=(), compare=False)
    )
    """Set by the study: student, teacher, teacher_epochs, augment and train_images that it began
    with. `config_id` leaves them out, so that ids do not change when a study is extended to several
    models or augmentations. With several train_images that is None: ids have the number."""
    objects: Annotated[Objects, Setting(defines=False, commands=())] = field(
        default_factory=Objects, compare=False, repr=False
    )
    """Objects that were passed as data, teacher or student, by the names in those fields. Not part
    of study.json."""

    def __post_init__(self) -> None:
        _take_objects(self)
        for f in dataclasses.fields(self):  # JSON has lists
            if isinstance(value := getattr(self, f.name), list):
                inner = (tuple(v) if isinstance(v, list) else v for v in value)
                object.__setattr__(self, f.name, tuple(inner))
        fields.check_fields(self)
        object.__setattr__(self, "class_weights", read_class_weights(self.class_weights))
        _take_output_file(self)
        for role in ("teacher", "student"):
            weights = paired(getattr(self, f"{role}_weights"), getattr(self, role).split("+"))
            object.__setattr__(self, f"{role}_weights", weights)
        _check_run(self)

    @property
    def task(self) -> Task:
        """The declarations of distillation."""
        return DISTILLATION if self.largest_train_images is None else DISTILLATION_BY_SIZE

    def sample(self, **values: Any) -> Run:
        """Return the run with a sample of a search space.

        Training without distillation is measured against the teacher that the study began with.
        """
        run = replace(self, **values)
        if run.alpha != 1:
            return run
        teacher = {n: v for n, v in self.study_values if n in OF_TEACHER}
        return replace(run, **teacher)  # type: ignore[arg-type]

    def value(self, name: str) -> fields.Value:
        """Return the value of a hyperparameter, whether it has an effect or not."""
        return self.batch_norm_mode if name == "batch_norm" else super().value(name)

    @property
    def batch_norm_mode(self) -> BatchNorm:
        """Mode of the student's batch norm layers; unset, what its trainable layers need."""
        return self.batch_norm or ("eval" if self.trainable == "head" else "train")

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
        if self.folds or self.draws_for_teacher:
            return self.split_repeat
        return self.split_repeat % self.teachers

    @property
    def teacher_images(self) -> int | None:
        """Number of the student's images that the teacher learns from; None: it has its own."""
        return self.train_images if self.teacher_train_images == "same" else None

    @property
    def teacher_repeat(self) -> int:
        """The negative repeat in which the run's teacher is trained."""
        return TEACHER_REPEAT - self.teacher_number

    @property
    def teacher_members(self) -> tuple[Run, ...]:
        """The run with each member of its teacher, an ensemble or not, as its teacher."""
        return tuple(replace(self, teacher=name) for name in self.teacher.split("+"))

    def weights_of(self, role: fields.Role) -> str:
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

        is_folder = self.extra is not None and not fields.is_named_extra(self.extra)
        hub = fields.HUB * self.data.startswith(fields.HUB)
        name = self.data.removeprefix(fields.HUB)
        is_path = Path(name).expanduser().exists() if hub else not fields.is_named_data(name)
        return replace(
            self,
            data=hub + path(name) if is_path else self.data,
            data_root=self.data_root and path(self.data_root),
            extra=path(str(self.extra)) if is_folder else self.extra,
            teacher_weights=weights(self.teacher_weights),
            student_weights=weights(self.student_weights),
        )

    @property
    def augmentation(self) -> str:
        """Augmentation of the training images; unset, that of the default study or of a folder."""
        return self.augment or ("crop" if self.data == "fashion" else "resized-crop")

    @property
    def repeat_of_draw(self) -> int | None:
        """The repeat that draws the training images; None if all repeats have the same."""
        is_drawn = self.train_images is not None and self.train_draw != "study"
        return self.split_repeat if is_drawn else None

    @property
    def draws_for_teacher(self) -> bool:
        """Whether each repeat has a teacher that learns from the images that the repeat draws."""
        return self.teacher_train_images == "same" and self.repeat_of_draw is not None

    @property
    def whole_draw(self) -> Run:
        """The run with the most training images, whose views and logits all sizes share.

        It is the run itself where these depend on batches, see `streams.stream`, or on the size.
        """
        depends = self.trainable == "head" or self.mixes or self.sampler != "shuffle"
        depends = depends or self.teacher_train_images == "same"
        if self.largest_train_images is None or depends:
            return self
        return replace(self, train_images=self.largest_train_images)

    @property
    def passes(self) -> int:
        """Passes over the training images in an epoch, of which the last may be cut short."""
        if self.largest_train_images is None or self.budget_per == "epochs":
            return 1
        return -(-self.largest_train_images // (self.train_images or self.largest_train_images))

    @property
    def compares_features(self) -> bool:
        """Whether the distillation term compares features of teacher and student."""
        return self.alpha != 1 and fields.takes_features(self.loss)

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


def paired(weights: Weights, models: Sequence[str]) -> Weights:
    """Return MODEL=WEIGHTS of one of the models as a pair; else the weights as they are."""
    if isinstance(weights, str) and any(weights.startswith(f"{model}=") for model in models):
        return (weights,)
    return weights


def read_class_weights(value: str) -> str:
    """Return "none", "balanced" and JSON as they are, and the weights of a file as JSON.

    So a study is the same wherever the file is.

    Raises:
        InputError: The file does not exist, or has other content.
    """
    if value in ("none", "balanced") or value.startswith("{"):
        return value
    file = existing_file("--class-weights other than none, balanced", "class_weights", value)
    forms = '{"ant": 1, "bee": 2.5}, or .csv with the columns class and weight'
    with user_code(f"--class-weights must be a file, .json such as {forms}, but got {value}"):
        text = file.read_text("utf-8-sig")
        if file.suffix == ".json":
            rows = json.loads(text, object_pairs_hook=list)
        else:
            rows = [(row["class"], row["weight"]) for row in csv.DictReader(text.splitlines())]
        weights = {name: float(weight) for name, weight in rows}
        if len(weights) < len(rows) or not all(0 < w < math.inf for w in weights.values()):
            raise ValueError("each class must be there once, with a weight above 0")
    return json.dumps(weights, sort_keys=True)


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on nothing else."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


# Hyperparameters: the fields of a run that a configuration may set. The others define the study.

_SCHEMA_1 = """
loss alpha temperature optimizer lr momentum weight_decay schedule lr_step_size lr_gamma epochs
batch_size trainable batch_norm
"""
SCHEMA_1 = tuple(_SCHEMA_1.split())
"""Hyperparameters of kdtune 0.1, in the order of its columns. Never add to it: ids of saved studies
are hashes of all of these, also of those without effect (as None)."""
HYPERPARAMETERS = tuple(dict.fromkeys((*SCHEMA_1, *fields.searchable(Run))))
"""By name: those of version 0.1 first."""
OF_STUDY = tuple(name for name, setting in fields.searchable(Run).items() if setting.of_study)
"""Hyperparameters whose first value in a study is neutral, see `Run.study_values`."""

DISTILLATION = Task(
    hyperparameters={name: fields.searchable(Run)[name] for name in HYPERPARAMETERS},
    metrics=METRICS,
    score="acc",
    baseline={"alpha": 1},
    table_metrics=("acc", "ce", "teacher_acc", "logit_diff", "agreement"),
    groups=("student",),
    baseline_words="training without distillation",
    subject="Distillation",
    is_distillation=True,
    always_in_id=SCHEMA_1,
)
"""The task of `Run`: a student learns from a teacher."""
DISTILLATION_BY_SIZE = replace(DISTILLATION, groups=("student", "train_images"))
"""The same with several numbers of training images."""
LIKE = DISTILLATION.like
"""Hyperparameters whose value None stands for the value of another one, with that one's name."""


def complete(
    config: Mapping[str, Any], study_values: Mapping[str, Any] | None = None
) -> fields.Config:
    """Return a recorded configuration with the hyperparameters that later versions have added.

    They have their neutral values where they have an effect, else None. So a configuration is the
    same whether it was recorded before or after a hyperparameter was added.

    Args:
        config: The recorded configuration.
        study_values: Of the study, see `Run.study_values`; without them these are None.
    """
    missing = [name for name in HYPERPARAMETERS if name not in config]
    if not missing:
        return dict(config)
    neutral = {name: setting.neutral for name, setting in DISTILLATION.hyperparameters.items()}
    whole = DISTILLATION.canonical({**neutral, **(study_values or {}), **config})
    return dict(config) | {name: whole[name] for name in missing}


def active_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a recorded configuration that have an effect, see `complete`."""
    whole = DISTILLATION.resolved(complete(config))
    return {name: value for name, value in whole.items() if value is not None}


def sample_values(config: Mapping[str, Any], base: Run) -> dict[str, Any]:
    """Return the values with which `base.sample` makes the run of a recorded configuration.

    A None that stands for the value of another hyperparameter stays None where `base` has it.
    """
    values = active_values(config)
    alike = [n for n, other in LIKE.items() if values.get(n) == values.get(other)]
    return {n: v for n, v in values.items() if n not in alike or base.value(n) is not None}


def to_values(name: str, values: object) -> Values:
    """Return the values of a run's hyperparameter as a tuple or a range.

    Raises InputError for anything else, for a name that is no hyperparameter, and for a None that
    stands for the value of another one.
    """
    if name not in HYPERPARAMETERS:
        raise InputError(f"{name} cannot be searched; {', '.join(HYPERPARAMETERS)} can")
    listed = to_list_or_range(name, values)
    if name == "class_weights" and not isinstance(listed, Range):
        return tuple(read_class_weights(str(value)) for value in listed)
    if isinstance(listed, Range):
        if fields.declarations(Run)[name].number_kind is float:
            return replace(listed, low=float(listed.low), high=float(listed.high))
        return listed
    if None in listed and (name in LIKE or len(listed) > 1):
        equal = f"the values of {LIKE[name]} that it may equal" if name in LIKE else "others"
        raise InputError(f"{name} must be searched among values, but got None; give {equal}")
    return listed


# The teacher's training: the fields with a counterpart teacher_NAME. teacher_temperature does not
# train it: it belongs to the student's loss.

_NAMES = [f.name for f in dataclasses.fields(Run)]
RECIPE = [n for n in _NAMES if f"teacher_{n}" in _NAMES and n != "temperature"]
"""Fields of a run whose counterpart teacher_NAME trains the teacher."""
TEACHER_TRAINING = (*(f"teacher_{name}" for name in RECIPE), "teacher_keep")
"""All settings that have an effect only if the teacher is fine-tuned."""


# Checks of a run beyond the type and bounds of one field.


def _check_run(run: Run) -> None:
    """Raise InputError if fields of a run contradict each other."""
    terms = fields.terms_of(run.loss)
    are_losses = all(map(fields.is_loss, terms)) and len(set(terms)) == len(terms) <= 2
    losses = f"be one of {', '.join(fields.LOSSES)} or module:function, or a sum A+B of two of them"
    check(run, "loss", are_losses, losses)
    for name in ("augment", "teacher_augment"):
        words, value = get_args(Augment), getattr(run, name)
        is_augmentation = value in (None, *words) or fields.is_function_name(value)
        check(run, name, is_augmentation, f"be one of {', '.join(words)} or module:function")
    for name in ("lr_milestones", "teacher_lr_milestones"):
        rising = all(a < b for a, b in itertools.pairwise(getattr(run, name)))
        check(run, name, rising, "be shares of the epochs in ascending order, each once")
    for name in ("teacher_weights", "student_weights"):
        weights = getattr(run, name)
        named = [] if isinstance(weights, str) else pairs(weights)
        are_pairs = all(map(all, named)) and len(dict(named)) == len(named)
        check(run, name, are_pairs, "be one value, or MODEL=WEIGHTS once for each of several")
    try:
        re.compile(run.groups or "")
    except re.error as error:
        check(run, "groups", False, f"be a regular expression ({error})")
    roles = [role for role, _ in pairs(run.columns or ())]
    are_roles = {*roles} <= {*fields.TABLE_COLUMNS} and len({*roles}) == len(roles)
    check(run, "columns", are_roles, f"be {'|'.join(fields.TABLE_COLUMNS)}=COLUMN, each once")
    is_table = (
        run.columns is None or fields.is_image_table(run.data) or run.data.startswith(fields.HUB)
    )
    check(run, "columns", is_table, "be left out unless --data is a table or hf:NAME")
    if any(map(fields.is_output_file, run.teacher.split("+"))):
        _check_output_file(run)
    extra, share = run.extra or "", run.extra_share
    check(run, "extra_share", extra or share == 0, "be 0 without --extra FOLDER")
    check(run, "batch_size", run.batch_size > 1 or share == 0, "be 2 or more with --extra-share")
    has_rest = extra != fields.REST or run.train_images is not None
    check(run, "extra", has_rest, "be a folder without --train-images, whose rest it would be")
    has_momentum = run.optimizer != "nesterov" or run.momentum > 0
    check(run, "momentum", has_momentum, "be greater than 0 with --optimizer nesterov")
    check(
        run, "student", not fields.is_output_file(run.student), "be a network, no file of outputs"
    )
    has_teacher = run.folds is not None or run.draws_for_teacher
    is_one, with_flag = run.teachers == 1, "--folds" if run.folds else "--teacher-train-images same"
    each = f"be 1 with {with_flag}: each repeat has its teacher"
    check(run, "teachers", is_one or not has_teacher, each)
    is_tuned = run.teacher_train_images != "same" or run.teacher_epochs != 0
    needs = "be left out with a teacher that is not fine-tuned (--teacher-epochs 0)"
    check(run, "teacher_train_images", is_tuned, needs)
    check(run, "teachers", is_one or run.teacher_epochs != 0, "be 1 with --teacher-epochs 0")


def _check_output_file(run: Run) -> None:
    """Raise InputError for what a teacher cannot be or do that is a file of outputs."""
    is_path = not {"+", "="} & set(run.teacher)
    check(run, "teacher", is_path, "have no + or = if it is a file; an ensemble is a file of means")
    of_file = f"with a teacher that is a file ({run.teacher})"
    tuned = f"be 0 {of_file}; kdtune.teacher --dump FILE writes the outputs of a tuned one"
    check(run, "teacher_epochs", not run.teacher_epochs, tuned)
    check(run, "teachers", run.teachers == 1, f"be 1 {of_file}")
    if run.alpha == 1:  # without distillation the teacher is used on val and test only
        return
    for name, value in (("augment", "none"), ("mixup", 0), ("cutmix", 0), ("extra_share", 0)):
        is_unchanged = getattr(run, name) in (None, value)
        check(run, name, is_unchanged, f"be {value} {of_file}, which has no changed images")


def check_warmup(schedule: fields.Schedule, warmup_epochs: float, epochs: float) -> None:
    """Raise InputError unless a warm-up, which onecycle has not, ends before the training.

    It is no check of `Run`: of a study's configurations each must fulfil it, and not the run whose
    values they replace.
    """
    if "warmup_epochs" in fields.SCHEDULES[schedule].takes and warmup_epochs >= epochs:
        raise InputError(
            f"--warmup-epochs must be less than --epochs, but got --warmup-epochs "
            f"{warmup_epochs:g} with --epochs {epochs:g}"
        )


# Objects that are passed as data, teacher or student: a field then holds the object's name.


def _take_objects(run: Run) -> None:
    """Put objects that were passed into `Run.objects`; call it while the run is being made.

    Raises:
        InputError: A field cannot have the object it was given.
    """
    if callable(run.extra):  # one that no other process can import is refused, as it is no text
        object.__setattr__(run, "extra", importable_name(run.extra) or run.extra)
    # JSON has {} for no objects
    objects = run.objects if isinstance(run.objects, Objects) else Objects()
    for kind in KINDS:
        name, objects = objects.named(kind, value := getattr(run, kind))
        if name is value:
            continue
        object.__setattr__(run, kind, name)
        if kind == "data":
            continue
        weights = _weights_with_functions(getattr(run, f"{kind}_weights"), [name], objects)
        object.__setattr__(run, f"{kind}_weights", weights)
        if kind == "teacher" and run.teacher_epochs is None:
            object.__setattr__(run, "teacher_epochs", 0)
    object.__setattr__(run, "objects", objects)


def _weights_with_functions(weights: Weights, names: Sequence[str], objects: Objects) -> Weights:
    """Return weights in which functions that were passed have no others than they make.

    Args:
        weights: As they were given. One value other than "default" is for all models.
        names: Of models.
        objects: Says which of them are functions. A module has its own weights by default.
    """
    if isinstance(weights, str) and weights != "default":
        return weights
    passed = () if isinstance(weights, str) else weights
    models = {model for model, _ in pairs(passed)}
    new = [f"{name}=none" for name in names if name in objects.functions and name not in models]
    return (*passed, *new) or weights


def with_objects(run: Run, space: Mapping[str, Any]) -> tuple[Run, Mapping[str, Any]]:
    """Return run and space of a study with models that the space lists as objects in `Run.objects`.

    The space then lists their names. Objects that are not used are dropped.

    Raises:
        InputError: The space cannot have an object.
    """
    objects, listed, changes = run.objects, dict(space), dict[str, Any]()
    for role in ("teacher", "student"):
        if isinstance(values := space.get(role), list | tuple):
            names = []
            for value in values:
                name, objects = objects.named(role, value)
                names.append(name)
            listed[role] = tuple(names)
            are_objects = all(a is not b for a, b in zip(names, values, strict=True))
            has_epochs = run.teacher_epochs is not None or "teacher_epochs" in space
            if role == "teacher" and are_objects and not has_epochs:
                changes["teacher_epochs"] = 0
    if not (objects or objects.functions):
        return run, space
    models = {r: models_of(listed.get(r, (getattr(run, r),))) for r in ("teacher", "student")}
    used = [run.data, *models["teacher"], *models["student"]]
    unused = {f"{name}=none" for name in objects.functions - set(used)}
    for role, names in models.items():
        weights = _weights_with_functions(getattr(run, f"{role}_weights"), names, objects)
        if not isinstance(weights, str):  # without those of functions that the study lacks
            weights = tuple(pair for pair in weights if pair not in unused) or "default"
        changes[f"{role}_weights"] = weights
    return replace(run, **changes, objects=objects.only(used)), listed


# Teachers that are only a file: `--teacher PATH/outputs.parquet` names a file of logits or
# probabilities. The teacher's name is then "outputs.parquet", the name of the file, and its path
# stands among the weights. So a study goes on where the file has moved, as with files of weights.


def _take_output_file(run: Run) -> None:
    """Replace the path of a teacher that is a file by its name; the path becomes its weights.

    Call it while the run is being made: it is changed.

    Raises:
        InputError: The run has other weights for the same name.
    """
    path = run.teacher
    if not fields.is_output_file(path) or "+" in path:  # `_check_output_file` refuses ensembles
        return
    check_path("teacher", path)
    name, weights = Path(path).name, run.teacher_weights
    if not isinstance(weights, str):
        if name not in dict(pairs(weights)):
            object.__setattr__(run, "teacher_weights", (*weights, f"{name}={path}"))
    elif name != path or Path(weights).name != path:  # else they are the path of this file already
        other_file = name == path and fields.is_output_file(weights)
        if weights not in ("default", "none") and (
            other_file or not fields.is_output_file(weights)
        ):
            raise InputError(
                f"--teacher-weights must be left out with a teacher that is a file, but got "
                f"--teacher {path} and --teacher-weights {weights}; if {path} was renamed, give "
                f"--teacher-weights {name}={weights}"
            )
        object.__setattr__(run, "teacher_weights", path)
    object.__setattr__(run, "teacher", name)
    if run.teacher_epochs is None:
        object.__setattr__(run, "teacher_epochs", 0)


def with_output_files(run: Run, space: Mapping[str, Any]) -> tuple[Run, Mapping[str, Any]]:
    """Return run and space of a study, in which teachers that are files have their names.

    Their paths are weights of the run.

    Raises:
        InputError: Two files have the same name.
    """
    teachers, weights = space.get("teacher"), run.teacher_weights
    if not isinstance(teachers, list | tuple):
        return run, space
    files = [
        t for t in teachers if isinstance(t, str) and fields.is_output_file(t) and "+" not in t
    ]
    if not files:
        return run, space
    if isinstance(weights, str) and fields.is_output_file(weights):
        weights = (f"{run.teacher}={weights}",)  # it is the path of one of them only
    elif isinstance(weights, str):
        networks = [m for t in teachers if t not in files for m in str(t).split("+")]
        weights = () if weights == "default" else tuple(f"{m}={weights}" for m in networks)
    paths = dict(pairs(weights))
    for path in files:
        before = paths.setdefault(name := Path(path).name, path)
        if path not in (before, name):
            raise InputError(
                f"--teacher must name files with different names, but got {before} and {path}; "
                f"rename one of them"
            )
    names = tuple(Path(t).name if t in files else t for t in teachers)
    weights = tuple(f"{model}={file}" for model, file in paths.items())
    return replace(run, teacher_weights=weights), {**space, "teacher": names}


def use_names(run: Run, space: Mapping[str, Any]) -> tuple[Run, dict[str, Values]]:
    """Return run and space of a study with the names of objects and files, and tuples or ranges.

    Raises:
        InputError: The space cannot have a name or a value.
    """
    run, named = with_objects(*with_output_files(run, space))
    return run, {name: to_values(name, values) for name, values in named.items()}


# Schema of study.json, and migrations from older ones. It is raised when the meaning of a study's
# files changes, not for a new field with a default.
#
#     1   version 0.1: the fields of the study alone; the fingerprints stand in provenance.json
#     2   `schema`, `fingerprints` of data, teacher and student, and the fields of the study
#     3   the teacher has a recipe of its own (teacher_*), val and test a transform of their own
#     4   the finalists are recorded before their final repeats start, see `storage.records`
#     5   without `batch_norm`, a student of which only the head is trained has it in eval mode

SCHEMA = 5


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
    schema, migrated = int(values.get("schema", 1)), dict(values)
    if schema > SCHEMA:
        raise InputError(
            f"this study was written by a newer version of kdtune (schema {schema}, but this "
            f"version reads schema {SCHEMA} and older); update kdtune to read it"
        )
    if schema == 1:
        # Version 0.1 hashed the source of a factory's module into the fingerprint of a model. For
        # the models of kdtune that was kdtune/models.py, which no longer exists. So only the
        # fingerprints of models from libraries, which have no such source, are used.
        saved, run = provenance or {}, values["run"]
        names = ["data", *(m for m in ("teacher", "student") if ":" not in str(run[m]))]
        fingerprints = {name: saved[name] for name in names if name in saved}
        migrated = {"fingerprints": fingerprints, **migrated}
    if schema <= 2:
        # earlier versions kept the students of all runs: a resumed study must not delete them
        migrated = {"keep": "all", **migrated, "run": migrate_run(values["run"])}
    if isinstance(run := migrated.get("run"), Mapping):
        before = _BEFORE | ({"batch_norm": "train"} if schema <= 4 else {})
        migrated["run"] = {**before, **run}
    return migrated | {"schema": SCHEMA}


_BEFORE = {"orientation": "stored", "train_draw": "study"}
"""How images were read and drawn before these fields were introduced."""


def migrate_run(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run that was saved by an earlier version in the present schema.

    Until schema 2 the teacher was fine-tuned with the student's settings, all layers on all of
    train, and the augmentation decided how val and test were cropped.
    """
    if "teacher_trainable" in values:
        return {**_BEFORE, **values}
    copied = ("optimizer", "momentum", "weight_decay", "schedule", "lr_step_size", "lr_gamma")
    photos = values.get("data", "fashion") != "fashion"
    augment = values.get("augment") or ("resized-crop" if photos else "crop")
    return {
        **_BEFORE,
        **values,
        **{f"teacher_{name}": values[name] for name in (*copied, "batch_size") if name in values},
        "teacher_trainable": "all",
        "teacher_batch_norm": "train",
        "teacher_augment": augment,
        "augment": augment,
        "eval_crop": 0.875 if augment == "resized-crop" else 1.0,
        "eval_interpolation": "bilinear",
        "teacher_interpolation": "bilinear",
        "student_interpolation": "bilinear",
    }


COMPARED_BY_CONTENT = ("data", "extra", "teacher_weights", "student_weights")
"""Fields of a run that are paths: a teacher stays the same where its files have moved."""
