"""The recipe: settings that follow from data and models where they are not set."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from torch import Tensor

from kdtune.config import fields
from kdtune.config.fields import Role, declarations, is_output_file, pairs, searchable
from kdtune.config.records import InputRecord, ModelRecord, RecipeRow
from kdtune.config.run import HYPERPARAMETERS, TEACHER_TRAINING, Augment, Run
from kdtune.config.study import OF_FUNCTION, Study, describe_fixed_students, fashion
from kdtune.config.task import Values, ends_of
from kdtune.config.text import InputError, printable_lines
from kdtune.data.checks import find_copies, find_shared_groups
from kdtune.data.dataset import Data, DataKind
from kdtune.data.folder import small_side
from kdtune.data.sources import StudyData, load_data
from kdtune.data.views import eval_resizing
from kdtune.models.classifier import (
    Classifier,
    describe_missing_preprocessing,
    describe_preprocessing,
)
from kdtune.models.outputs import Model, OutputsRecord, OutputTeacher, networks, read_outputs_record
from kdtune.models.registry import PREPROCESSING, build_model, describe_new_head
from kdtune.models.weights import FinishedTeacher, licence_of, read_finished, teacher_file
from kdtune.streams.views import view_shape, view_size, with_precision

# Settings of a run that follow from its data and models where they are not given.


OF_EACH_MODEL = {"teacher_interpolation", "student_interpolation", "batch_norm"}
"""Settings for which None is the value of each model, or of each value of `trainable`, since a
study may have several."""
DEFAULT_AUGMENT: dict[DataKind, Augment] = {
    "files": "resized-crop",
    "images": "crop",
    "tensors": "none",
}
"""Augmentation by the kind of data; small image files have that of images. Of these a resized crop
shows so little that a teacher was right on 57 % of the views, and on 92 % of test."""
OF_INPUT = ("orientation", "eval_crop", "eval_interpolation")
"""Settings of the transform of val and test images."""
BEFORE_ORIENTATION = {"orientation": "stored"}
"""What the views of records of earlier versions, which do not say it, were."""
OF_IMAGES = ["augment", "teacher_augment", "image_size", "eval_crop", "eval_interpolation"]
OF_IMAGES += [f"{r}_{name}" for r in ("teacher", "student") for name in PREPROCESSING]
"""Settings without a meaning for data that are no images."""


def resolve(run: Run, members: Sequence[Run] = (), data: StudyData | None = None) -> Run:
    """Return the run with a value for every setting that depends on its data and models.

    Args:
        run: The run.
        members: The run with each teacher of its study, if these are not `run.teacher_members`.
            All have the same recipe.
        data: The data of its study; None reads them, if they are needed.

    Raises:
        InputError: The data or a model do not exist.
    """
    run = with_weights_of_studies(run)
    resolved = {n for n, d in declarations(Run).items() if d.setting.resolved} - OF_EACH_MODEL
    if all(getattr(run, name) is not None for name in resolved):
        return run
    of_run = load_data(run) if data is None else data.of(run)
    values = _teacher_recipe(run, of_run, members or run.teacher_members) | _transforms(run, of_run)
    values["train_draw"] = "study" if run.train_images is None else "repeat"
    return replace(run, **{n: v for n, v in values.items() if getattr(run, n) is None})


def with_weights_of_studies(run: Run) -> Run:
    """Return the run with files of weights in place of the folders of studies.

    Raises:
        InputError: A study has no fine-tuned teacher, or several.
    """
    if isinstance(weights := run.teacher_weights, str):
        return replace(run, teacher_weights=teacher_file(weights))
    return replace(run, teacher_weights=tuple(f"{m}={teacher_file(w)}" for m, w in pairs(weights)))


def kind_of_weights(members: Sequence[Run], data: Data) -> fields.WeightsKind:
    """Return the kind of weights that the teachers of a study begin with.

    They count as finished if all are. If one is random, so that it has much to learn, they count as
    random.
    """
    networks = [member for member in members if not is_output_file(member.teacher)]
    weights = [member.weights_of("teacher") for member in networks]
    if "none" in weights:
        return "random"
    finished = [read_finished(Path(file).expanduser()) for file in weights]
    is_finished = all(record is not None and record.classes == data.classes for record in finished)
    return "finished" if is_finished else "pretrained"


def _teacher_recipe(run: Run, data: Data, members: Sequence[Run]) -> dict[str, Any]:
    """Return the recipe of the teacher as teacher_*."""
    members = [replace(member, teacher_weights=run.teacher_weights) for member in members]
    kind = kind_of_weights(members, data)
    values = {name: getattr(run, f"teacher_{name}") for name in fields.TEACHER_RECIPE}
    recipe = fields.teacher_recipe(kind, values)
    return {f"teacher_{name}": value for name, value in recipe.items()}


def _transforms(run: Run, data: Data) -> dict[str, Any]:
    """Return the defaults of the augmentations and of the evaluation transform."""
    default = _default_augment(data)
    values = {"augment": default, "teacher_augment": run.augment or default, "orientation": "exif"}
    if data.kind == "tensors":
        _refuse_image_settings(run, data)
        return values | {"eval_crop": 1.0, "eval_interpolation": "bilinear"}
    is_given = all(getattr(run, name) is not None for name in OF_INPUT)
    return values if is_given else values | _evaluation(run, data)


def _evaluation(run: Run, data: Data) -> dict[str, Any]:
    """Return the evaluation transform that the run's teacher publishes, or the first of several.

    Its crop is for photographs: images that are no larger than the teacher's input are not cropped.
    A file of outputs has the transform that it was written with; without a record, that of the
    student is taken.
    """
    first = run.teacher_members[0]
    role: Role = "teacher"
    if is_output_file(first.teacher):
        record = read_outputs_record(Path(first.weights_of("teacher")).expanduser())
        if record is not None and record.views:
            return {name: (BEFORE_ORIENTATION | record.views)[name] for name in OF_INPUT}
        role = "student"  # nothing else is known
    published = untrained(first, data, role).preprocessing
    images = data.splits["val"].inputs
    side = min(images.shape[-2:]) if isinstance(images, Tensor) else small_side(data)
    small = side is not None and side <= (published.size or math.inf)
    crop = eval_resizing(run, files=data.photos).crop if published.crop is None else published.crop
    return {"eval_crop": 1.0 if small else crop, "eval_interpolation": published.interpolation}


def _refuse_image_settings(run: Run, data: Data) -> None:
    """Raise InputError if a setting of images is given for other data."""
    shape = list(data.splits["train"].example(0).shape)
    for name in OF_IMAGES:
        value = getattr(run, name)
        if value in (None, "none", 1.0, "bilinear"):  # the last two may be defaults that it kept
            continue
        flag = f"--{name.replace('_', '-')}"
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else value
        raise InputError(
            f"{flag} is for images, but the examples of {run.data} are tensors of shape {shape}, "
            f"and got {flag} {shown}; leave it out. Models take such tensors as they are."
        )


def resolve_study(study: Study, data: StudyData, begun: bool = False) -> Study:
    """Return the study with resolved settings and one size of views for all its models.

    So the streams are shared and the comparisons fair. A study with one student and one teacher
    keeps `image_size`, whose default is the larger input size of the two.

    Args:
        study: The study.
        data: Its data.
        begun: Whether it continues one with results, whose views keep their size.

    Raises:
        InputError: The data or a model do not exist, or a model that is added to a study of one
            student and one teacher needs other views than these.
    """
    study, study_data = with_precision(study), data.of(study.run)
    run = _with_searched_augment(study, study_data)
    if len(trainable := set(_names(study, "trainable"))) == 1:
        run = replace(run, batch_norm=replace(run, trainable=trainable.pop()).batch_norm_mode)
    study = replace(study, run=resolve(run, teachers(study), data))
    if study.run.image_size is not None or len(students(study)) * len(teachers(study)) == 1:
        return study
    models = StudyModels.of(study, study_data)
    of_teacher = {run.teacher: model for run, model in models.teachers}
    ensembles = [[of_teacher[n] for n in name.split("+")] for name in _names(study, "teacher")]
    sizes = {
        view_size(study.run, study_data, student, *members)
        for _, student in models.students
        for members in ensembles
    }
    if len(sizes) == 1:
        return study
    if begun:
        raise InputError(
            f"the models of a study must see images of one size, but those of {study.folder} need "
            f"{', '.join(map(str, sorted(sizes)))} pixels; begin another study (--name OTHER)"
        )
    return replace(study, run=replace(study.run, image_size=max(sizes)))


def _with_searched_augment(study: Study, data: Data) -> Run:
    """Return the study's run whose teacher does not depend on the augmentations searched.

    Raises InputError if one of them is for images and the data are none.
    """
    run, values = study.run, study.space.get("augment", ())
    if not values:
        return run
    if data.kind == "tensors":
        for value in ends_of(values):
            _refuse_image_settings(replace(run, augment=value), data)  # type: ignore[arg-type]
    return replace(run, teacher_augment=run.teacher_augment or _default_augment(data))


def _default_augment(data: Data) -> Augment:
    return DEFAULT_AUGMENT["images" if small_side(data) else data.kind]


def untrained(run: Run, data: Data, role: Role) -> Classifier:
    """Return the run's teacher (no ensemble) or student with random weights.

    It has the input size and the preprocessing of the weights that the run names, and is built
    without them: quickly, and on machines that lack the file.
    """
    return build_model(run, role, len(data.classes), seed=0, weights="none")


def untrained_teacher(run: Run, data: Data) -> Model:
    """Return the run's teacher (no ensemble) with random weights; a file of outputs without them.

    Of a file, only the record is read.
    """
    if not is_output_file(run.teacher):
        return untrained(run, data, "teacher")
    record = read_outputs_record(Path(run.weights_of("teacher")).expanduser())
    return OutputTeacher(run.teacher, digest="", logits={}, record=record)


class StudyModels(NamedTuple):
    """The models of a study with random weights, each with the study's run that has it."""

    students: list[tuple[Run, Classifier]]
    teachers: list[tuple[Run, Model]]
    """The members of an ensemble one by one; or files of outputs."""

    @staticmethod
    def of(study: Study, data: Data) -> "StudyModels":
        """Build the models of `students` and `teachers`.

        Raises:
            InputError: A model does not exist.
        """
        return StudyModels(
            [(run, untrained(run, data, "student")) for run in students(study)],
            [(run, untrained_teacher(run, data)) for run in teachers(study)],
        )

    def networks(self) -> Iterator[tuple[Role, Run, Classifier]]:
        """Yield the role, the run and the model of each that is no file of outputs."""
        for run, model in self.teachers:
            if isinstance(model, Classifier):
                yield "teacher", run, model
        for run, student in self.students:
            yield "student", run, student


def students(study: Study) -> list[Run]:
    """Return the study's run with each of its students."""
    return [replace(study.run, student=name) for name in _names(study, "student")]


def teachers(study: Study) -> list[Run]:
    """Return the study's run with each of its teachers; the members of an ensemble one by one.

    A teacher that is fine-tuned for several numbers of epochs, or images, is there once for each.
    """
    members = [member for run in whole_teachers(study) for member in run.teacher_members]
    return list({(r.teacher, r.teacher_epochs, r.train_images): r for r in members}.values())


def numbered(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return runs once for each number of their teacher, see `Run.teacher_number`.

    Repeats that are not planned in advance (racing, --repeats auto) may need every teacher.

    Args:
        study: The study, with --teachers, --folds or neither.
        runs: Of `teachers` or `whole_teachers`.

    Returns:
        The runs, each in the first repeat that its teacher is for.
    """
    fixed = study.policy == "all" and not study.until_decided
    repeats = study.repeats if fixed or study.run.folds else study.run.teachers
    repeated = (replace(run, repeat=repeat) for repeat in range(repeats) for run in runs)
    return [run for run in repeated if run.teacher_number == run.repeat]


def whole_teachers(study: Study) -> list[Run]:
    """Return the study's run with each of its teachers, ensembles as they are."""
    is_same = study.run.teacher_train_images == "same"
    sizes = _names(study, "train_images") if is_same else (study.run.train_images,)
    return [
        replace(study.run, teacher=name, teacher_epochs=epochs, train_images=images)
        for name in _names(study, "teacher")
        for epochs in _names(study, "teacher_epochs")
        for images in sizes
    ]


def _names(study: Study, hyperparameter: str) -> tuple[Any, ...]:
    values = study.values(hyperparameter)
    assert isinstance(values, tuple)  # noqa: S101 - Study has checked it
    return values


# The recipe of a study as a table: every setting that has an effect, and where it came from.


UNSHOWN = {"name", "out", "run", "space", "flags", "until_decided", "address", "cache", "cache_gb"}
UNSHOWN |= {"repeat", "study_values", "objects", "data_root", "download", "tracker", "notify"}
UNSHOWN |= {"train", "dump", "check", "verbose", "val_share", "allow_random_backbone"}
UNSHOWN |= {"largest_train_images"}
UNSHOWN |= {f"{role}_{name}" for role in ("teacher", "student") for name in PREPROCESSING}
UNUSED_WITH = {
    "samples": ("search", "grid"),
    "race_level": ("policy", "all"),
    "confirm": ("policy", "all"),
    "level": ("until_decided", False),
}
"""Settings of a study that have no effect with this value of another."""


def recipe_rows(
    asked: Study, study: Study, saved: Study | None, data: Data, models: StudyModels
) -> list[RecipeRow]:
    """Return the settings of a study that have an effect.

    Args:
        asked: The study as flags, experiment or Python ask for it.
        study: The same study as it is run, resolved and merged with the saved one.
        saved: The study that its folder held.
        data: The data of the study.
        models: Its models.
    """
    rows = []
    for owner in (Run, Study):
        for name in declarations(owner):
            of_function = owner is Study and name in OF_FUNCTION
            if name in UNSHOWN or of_function or not _has_effect(name, study, data):
                continue
            source = _source(name, asked, study, saved, data, models)
            rows.append(RecipeRow(name, _shown(_value(name, study)), source))
    return [*rows, *_input_rows(asked, study.run.image_size, models)]


def describe_config(run: Run) -> str:
    """Return the hyperparameters of a run as text, student and number of images apart.

    Left out are those without effect and those that leave the run as it is without them.
    """
    return ", ".join(
        f"{name} {value}"
        for name, value in run.config.items()
        if name not in ("student", "train_images")
        and value is not None
        and not _is_neutral(name, (value,))
    )


def _has_effect(name: str, study: Study, data: Data) -> bool:
    run = study.run
    if name in HYPERPARAMETERS:
        is_off = _is_neutral(name, study.values(name))
        return study.has_effect(name) and not (is_off and name not in study.flags)
    if name in UNUSED_WITH:
        other, value = UNUSED_WITH[name]
        return bool(getattr(study, other) != value)
    if name in TEACHER_TRAINING:
        is_trained = any(_names(study, "teacher_epochs"))
        return is_trained and _fits_teacher(name.removeprefix("teacher_"), run)
    if name == "lr_milestones":
        return "multistep" in study.values("schedule")  # type: ignore[operator]
    if name == "orientation":
        return data.kind == "files"
    if name == "train_draw":
        return run.train_images is not None
    if name == "budget_per":
        return run.largest_train_images is not None
    return _value(name, study) is not None


def _is_neutral(name: str, values: Values) -> bool:
    """Return True if a hyperparameter has only the value that leaves a run as it is without it."""
    neutral = searchable(Run)[name].neutral
    return neutral is not None and values == (neutral,)


def _fits_teacher(part: str, run: Run) -> bool:
    """Return True if a part of the teacher's recipe has an effect with its optimizer and schedule.

    The conditions are those of the student's field of that name.
    """
    if part == "lr_milestones":
        return run.teacher_schedule == "multistep"
    field = searchable(Run).get(part)
    if field is None:
        return True
    return field.is_used_with({other: getattr(run, f"teacher_{other}") for other in field.when})


def _value(name: str, study: Study) -> Any:
    """Return the value of a setting; of a hyperparameter all values."""
    if name == "repeats" and study.until_decided:
        return "auto"
    if name in HYPERPARAMETERS:
        return study.values(name)
    return getattr(study.run if name in declarations(Run) else study, name)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join("None" if part is None else _shown(part) for part in value)
    if value is None:  # of the images that the teacher learns from
        return "all"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _source(
    name: str, asked: Study, study: Study, saved: Study | None, data: Data, models: StudyModels
) -> str:
    """Return where the value of a setting came from."""
    before, now = _value(name, asked), _value(name, study)
    runs, of_weights = teachers(study), ("teacher_weights", "teacher_epochs")
    if name in of_weights and all(is_output_file(run.teacher) for run in runs):
        return "the file"
    if name in asked.flags and (before == now or saved is None):
        return "flag"
    is_set = name in asked.space or getattr(asked.run, name, None) is not None
    if name == "batch_norm" and before == now == ("eval",) and not is_set:
        return "default for --trainable head"
    by_data = f"default for --data {Path(study.run.data).name}"
    if before != now:  # it was not given
        if saved is not None:
            return "saved study"
        if name.removeprefix("teacher_") in fields.TEACHER_RECIPE:
            return f"default for {kind_of_weights(runs, data)} weights"
        if name in ("eval_crop", "eval_interpolation"):
            published = models.teachers[0][1].preprocessing
            if getattr(published, name.removeprefix("eval_")) == now:
                return "model's own"
        return by_data
    of_fashion, of_others = _value(name, fashion()), _value(name, Study())
    if now != (of_fashion if study.run.data == "fashion" else of_others):
        return "experiment"
    return "default" if of_fashion == of_others else by_data


def _input_rows(asked: Study, view: int | None, models: StudyModels) -> Iterator[RecipeRow]:
    """Yield how the input of each model is preprocessed.

    Args:
        asked: See `recipe_rows`.
        view: `image_size` of the study, if it is given: no model gets larger images.
        models: See `recipe_rows`.
    """
    by_name = {(role, model.name): (run, model) for role, run, model in models.networks()}
    for (role, name), (run, model) in by_name.items():
        source = "model's own" if model.has_normalization else "not known"
        if read_finished(Path(run.weights_of(role)).expanduser()) is not None:
            source = "finished teacher"
        if any(getattr(run, f"{role}_{n}") is not None for n in PREPROCESSING):
            by_flag = any(f"{role}_{n}" in asked.flags for n in PREPROCESSING)
            source = "flag" if by_flag else "experiment"
        steps = model.preprocessing
        if steps.size and view:
            steps = replace(steps, size=min(steps.size, view))
        yield RecipeRow(f"input of {name}", describe_preprocessing(steps), source)


# Teachers of other studies that may have trained on what is now val.
#
# Where val is cut from train, another seed or share cuts other examples. With --folds every example
# of train and val is in val in some repeat.


def describe_weights(models: StudyModels, data: Data) -> list[str]:
    """Return a sentence for each model whose weights are for other classes or another input."""
    sentences = []
    for role, run, model in models.networks():
        sentences.append(describe_new_head(model, run.weights_of(role), len(data.classes)))
        sentences.append(_describe_normalization(run, role, model, data))
    return list(filter(None, dict.fromkeys(sentences)))


def _describe_normalization(run: Run, role: Role, model: Classifier, data: Data) -> str:
    """Return that a model's input is normalised otherwise than its weights have learned; or ""."""
    given = {f"{role}_{name}": getattr(run, f"{role}_{name}") for name in ("mean", "std")}
    weights = run.weights_of(role)  # of a file of others, only its author knows it
    is_known = weights == "default" or read_finished(Path(weights).expanduser()) is not None
    if not is_known or not any(given.values()):
        return ""
    own = untrained(replace(run, **dict.fromkeys(given)), data, role)  # type: ignore[arg-type]
    steps = [replace(each.preprocessing, size=None) for each in (model, own)]
    now, learned = map(describe_preprocessing, steps)
    if now == learned or not own.has_normalization:
        return ""
    return (
        f"the input of the {role} {model.name} is normalised with {now} (--{role}-mean, "
        f"--{role}-std), but its weights have learned from {learned}; leave these flags out"
    )


def find_faults(study: Study, data: Data) -> list[str]:
    """Return a sentence for each fault of data or settings that makes results wrong or too good.

    Training may have seen what val or test measure, copies may be in several classes, or a
    temperature is too high.

    Args:
        study: See `find_other_cuts`.
        data: Its data, with any images without labels.
    """
    of_data = [*find_copies(data), *find_shared_groups(data)]
    return [*of_data, *find_other_cuts(study, data), *_high_temperatures(study)]


USUAL_TEMPERATURE = 50.0
"""Above it, a logit that is larger by 10 has a probability that is larger by less than 22 %."""


def _high_temperatures(study: Study) -> Iterator[str]:
    for name in filter(study.has_effect, ("temperature", "teacher_temperature")):
        highest = max(float(value) for value in ends_of(study.values(name)) if value is not None)
        if highest > USUAL_TEMPERATURE:
            yield (
                f"--{name.replace('_', '-')} {highest:g} is far above the usual 1 to 20: a logit "
                f"that is larger by 10 has a probability that is larger by only "
                f"{100 * math.expm1(10 / highest):.2g}%, and kl is nearly the mean squared error "
                f"of centred logits (Hinton et al., 2015, section 2.1)"
            )


LOW_RATE = 5.0
"""A learning rate of a head is too low if it is so many times below the usual one."""


def check_weights(study: Study, models: StudyModels, data: Data, is_new: bool) -> list[str]:
    """Return the sentences of `describe_weights`, and those on students with a frozen backbone.

    From a frozen backbone that is random, or whose batch norm is in train mode, little is learned.

    Raises:
        InputError: The study is new, and a backbone is random without --allow-random-backbone.
    """
    sentences = describe_weights(models, data)
    if "head" not in _names(study, "trainable"):
        return sentences
    modes = study.space.get("batch_norm", (replace(study.run, trainable="head").batch_norm_mode,))
    highest = max(float(rate) for rate in ends_of(study.values("lr")))
    usual = min(fields.OPTIMIZERS[name].lr_head for name in _names(study, "optimizer"))
    for run, student in models.students:
        if "train" in modes and student.has_batch_norm:  # type: ignore[operator]
            sentences.append(
                f"only the head of the student {run.student} is trained, but the batch norm of its "
                f"frozen layers is in train mode (--batch-norm train), so they normalise by other "
                f"images than those that they were trained on: accuracy is usually worse (0.51 in "
                f"place of 0.71 with --batch-norm eval on 400 photographs)"
            )
        if highest < usual / LOW_RATE:
            sentences.append(
                f"only the head of the student {run.student} is trained, with a learning rate of "
                f"at most {highest:g}; heads on frozen layers usually need about {usual:g}: with "
                f"less, what makes steps larger seems to help (try --lr {usual / 10:g} {usual:g})"
            )
        if not _has_random_backbone(run, data, student):
            continue
        fault = f"the backbone of the student {run.student} is random, so its head alone learns"
        if is_new and not run.allow_random_backbone:
            raise InputError(
                f"--trainable head must have a student with trained weights, but {fault}; train "
                f"the whole network (--trainable all), give weights (--student-weights FILE), or "
                f"allow it (--allow-random-backbone)"
            )
        sentences.append(f"{fault} (--trainable head)")
    return sentences


def _has_random_backbone(run: Run, data: Data, student: Classifier) -> bool:
    """Return True if another seed gives no matrix below the head that `untrained` has given, too.

    Weights that a user's factory loads by itself are the same with each seed; there is no other
    way to know of them.
    """
    if run.weights_of("student") != "none":
        return False
    second = build_model(run, "student", len(data.classes), seed=1)
    are_equal = [
        torch.equal(one, other)
        for one, other in zip(student.parameters(), second.parameters(), strict=True)
        if one.ndim > 1 and one is not student.head.weight and bool((one != one.flatten()[0]).any())
    ]
    return bool(are_equal) and not any(are_equal)


def find_other_cuts(study: Study, data: Data) -> list[str]:
    """Return a sentence for each finished teacher that may have trained on the study's val.

    Its data had the same classes but were others or cut otherwise, and val was cut from train there
    or is here; or the study has --folds. Nothing is known, and so nothing said, of files without a
    record of their data.

    Args:
        study: The study, with files of weights in place of folders (`with_weights_of_studies`).
        data: Its data.
    """
    sentences = {}
    for run in teachers(study):
        weights = run.weights_of("teacher")
        file = Path(weights).expanduser()
        record: FinishedTeacher | OutputsRecord | None
        if is_output_file(run.teacher):
            record = read_outputs_record(file)
        elif (record := read_finished(file)) is not None and record.classes != data.classes:
            continue
        if record is None or record.data is None:
            continue
        is_other = record.data != data.fingerprint
        if data.fold is not None or (is_other and (record.has_cut_val or data.cut is not None)):
            sentences[weights] = (
                f"the teacher {run.teacher} ({weights}) was fine-tuned with another val than this "
                f"study's, so it may have been trained on examples of val, and metrics on val may "
                f"be optimistic; use data with a val folder, the --seed and --val-share of the "
                f"study that fine-tuned it or, with --folds, a teacher that is fine-tuned for each "
                f"repeat"
            )
    return list(sentences.values())


def find_other_views(study: Study, data: Data, models: StudyModels) -> Iterator[str]:
    """Yield a sentence for each file of outputs that was made of other views than the students'.

    Files that kdtune has not written are skipped, since they do not record their views.

    Args:
        study: The study, resolved.
        data: Its data.
        models: Its models.
    """
    for run, teacher in models.teachers:
        if isinstance(teacher, Classifier) or teacher.record is None:
            continue
        views = teacher.record.views
        made_of = BEFORE_ORIENTATION | views if views else {}
        sizes = [view_size(run, data, teacher, student) for _, student in models.students]
        seen = {"image_size": max(sizes), **{name: getattr(run, name) for name in OF_INPUT}}
        if data.kind != "files":  # others have one orientation
            seen["orientation"] = made_of.get("orientation")
        other = [name for name, value in made_of.items() if seen.get(name) != value]
        if other:
            shown = ", ".join(f"{name} {made_of[name]} → {seen[name]}" for name in other)
            flags = " ".join(f"--{name.replace('_', '-')} {seen[name]}" for name in other)
            yield (
                f"the outputs in {run.teacher} were made of other images than the students see "
                f"({shown}); to make them equal, write the file with {flags}"
            )


# Record of the transforms between a study's images and the inputs of its models.


def transforms_of(
    study: Study, data: Data, models: StudyModels, faults: Sequence[str]
) -> dict[str, Any]:
    """Return what provenance.json says of a resolved study's images and models.

    If its data are no images, there are no transforms between a view and the models.

    Args:
        study: The study.
        data: Its data, with any images without labels.
        models: Its models.
        faults: Of `find_faults`.

    Returns:
        views: `image_size`, `orientation`, `eval_crop` and `eval_interpolation`. The shorter side
            of an image is resized to image_size / eval_crop, then the central square of image_size
            is cropped.
        models: The fields of each model's `Preprocessing`, by "teacher NAME" or "student NAME".
        input: The fields of `InputRecord`: one view of the data.
        sources: The fields of each student's `ModelRecord`, by "student NAME".
        warnings: Sentences on models without preprocessing of their own, on students whose initial
            weights do not vary, on examples that splits share, on teachers that may have trained on
            val, and on images that were left out.
    """
    are_images = data.kind != "tensors"
    of_students = [model for _, model in models.students]
    of_teachers = [model for _, model in models.teachers] if are_images else []
    views = {"image_size": view_size(study.run, data, *of_teachers, *of_students)}
    views |= {name: getattr(study.run, name) for name in OF_INPUT}
    inputs = data.splits["train"].inputs
    dtype = inputs.dtype if isinstance(inputs, Tensor) else torch.uint8
    view = InputRecord(
        data.kind, tuple(view_shape(data, views["image_size"])), str(dtype).removeprefix("torch.")
    )
    sources = {f"student {m.name}": asdict(_source_of(run, m)) for run, m in models.students}
    named = {f"teacher {model.name}": model for model in networks(of_teachers)}
    named |= {f"student {model.name}": model for model in of_students}
    assumed = {model.name: model for model in named.values() if not model.has_normalization}
    sentences = list(map(describe_missing_preprocessing, assumed.values())) if are_images else []
    sentences += [*describe_fixed_students(study), *faults, *data.warnings]
    return {
        "views": views if are_images else {},
        "models": {n: asdict(m.preprocessing) for n, m in named.items() if are_images},
        "input": asdict(view),
        "sources": sources,
        "warnings": sentences,
    }


def _source_of(run: Run, student: Classifier) -> ModelRecord:
    """Return what a student is built from."""
    weights = run.weights_of("student")
    home = sys.modules.get(student.name.partition(":")[0]) if student.source else None
    return ModelRecord(
        name=student.name,
        file=getattr(home, "__file__", None),
        source=student.source,
        licence=licence_of(student.net, student.name, weights),
        weights=weights,
    )


# Progress on a terminal: lines that stay, and what is being built for the cache.


MIN_BUILD_SECONDS = 0.5
"""What is built in a shorter time is not shown."""
LINE_SECONDS = 15.0
"""Time between two lines of progress if the output is not a terminal."""


class Progress:
    """Lines that stay, and below them what is being built for the cache.

    If the output is not a terminal, a line every 15 s says what is being built.
    """

    def __init__(self) -> None:
        self.in_notebook = Console().is_jupyter
        """Whether lines go to a notebook: Jupyter, Colab, ..."""
        # in a notebook rich would make an output of every line, and the kernel's stdout says that
        # it is a terminal
        no = False if self.in_notebook else None
        self.console = Console(highlight=False, force_jupyter=no, force_terminal=no)
        # a terminal breaks lines between words; a log has each whole, which can be searched
        self.console.soft_wrap = not self.console.is_terminal
        self._status = self.console.status("")
        self._noun, self._since = "", 0.0
        self._last_line = time.monotonic()

    def print_line(self, text: object) -> None:
        """Print a line that stays."""
        self._status.stop()
        self.console.print(printable_lines(str(text)), markup=False)

    def show_build(self, noun: str, done: int, total: int) -> None:
        """Show what is being built, and how much of it is done; a `ProgressCallback`."""
        now = time.monotonic()
        if noun != self._noun:
            self._noun, self._since = noun, now
        text = describe_build(noun, done, total)
        if done == total:
            self._status.stop()
        elif not self.console.is_terminal:
            if self.is_line_due():
                self.print_line(f"  {text}")
        elif now - self._since > MIN_BUILD_SECONDS:
            self._status.update(text)
            self._status.start()

    def is_line_due(self) -> bool:
        """Return True at most once every LINE_SECONDS."""
        now = time.monotonic()
        if now - self._last_line < LINE_SECONDS:
            return False
        self._last_line = now
        return True


def describe_build(noun: str, done: int, total: int) -> str:
    """Return what is being built, for instance "building logits (3 of 10)"."""
    return f"building {noun} ({done} of {total})"
