"""Configuration of one distillation run."""

import hashlib
import json
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from kdtune.config import effects
from kdtune.config.base_run import BaseRun
from kdtune.config.bounds import MAX_INTEGER, MAX_REPEAT
from kdtune.config.fields import Config, Setting, Value, check_fields
from kdtune.config.names import Role, Weights, is_named_data, is_named_extra, pairs
from kdtune.config.objects import Objects
from kdtune.config.run_checks import check_run, take_objects
from kdtune.config.run_data import Augment, DataFields
from kdtune.config.run_objective import ObjectiveFields
from kdtune.config.run_student import StudentFields
from kdtune.config.run_teacher import TeacherFields
from kdtune.config.run_training import TrainingFields
from kdtune.config.teacher_outputs import take_output_file

if TYPE_CHECKING:
    from kdtune.config.task import Task

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
    models. Without --data the command line has the study of `kdtune.config.defaults.fashion()`.

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
