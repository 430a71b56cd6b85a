"""Settings of a run that follow from its data and models where they are not given."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from kdtune.config.defaults import TEACHER_RECIPE, WeightsKind, teacher_recipe
from kdtune.config.errors import InputError
from kdtune.config.fields import declarations
from kdtune.config.hyperparameters import ends_of
from kdtune.config.names import Role, is_output_file, pairs
from kdtune.config.run import Run
from kdtune.config.run_data import Augment
from kdtune.config.study import Study
from kdtune.data.dataset import Data, Kind
from kdtune.data.sources import load_data
from kdtune.data.views import evaluation
from kdtune.models.classifier import Classifier
from kdtune.models.ensemble import Model
from kdtune.models.finished import read_finished, teacher_file
from kdtune.models.registry import build_model
from kdtune.streams.shards import view_size
from kdtune.training.output_teacher import load_output_teacher

OF_EACH_MODEL = ("teacher_interpolation", "student_interpolation")
"""Settings for which None is the value of each model, since a study may have several."""
DEFAULT_AUGMENT: dict[Kind, Augment] = {
    "files": "resized-crop",
    "images": "crop",
    "tensors": "none",
}
"""Augmentation by the kind of data."""
OF_VIEWS = ("orientation", "eval_crop", "eval_interpolation")
"""Settings of the transform of val and test images."""
BEFORE_ORIENTATION = {"orientation": "stored"}
"""What the views of records of earlier versions, which do not say it, were."""
OF_IMAGES = (
    *("augment", "teacher_augment", "image_size", "eval_crop", "eval_interpolation"),
    *(f"{r}_{n}" for r in ("teacher", "student") for n in ("mean", "std", "size", "interpolation")),
)
"""Settings without a meaning for data that are no images."""


def resolve(run: Run, members: Sequence[Run] = ()) -> Run:
    """Return the run with a value for every setting that depends on its data and models.

    Args:
        run: The run.
        members: The run with each teacher of its study, if these are not `run.teacher_members`.
            All have the same recipe.

    Raises:
        InputError: The data or a model do not exist.
    """
    run = with_weights_of_studies(run)
    names = [n for n, d in declarations(Run).items() if d.setting.resolved]
    names = [n for n in names if n not in OF_EACH_MODEL]
    if all(getattr(run, name) is not None for name in names):
        return run
    values = _teacher_recipe(run, members or run.teacher_members) | _transforms(run)
    return replace(run, **{n: v for n, v in values.items() if getattr(run, n) is None})


def with_weights_of_studies(run: Run) -> Run:
    """Return the run with files of weights in place of the folders of studies.

    Raises:
        InputError: A study has no fine-tuned teacher, or several.
    """
    if isinstance(given := run.teacher_weights, str):
        return replace(run, teacher_weights=teacher_file(given))
    return replace(run, teacher_weights=tuple(f"{m}={teacher_file(w)}" for m, w in pairs(given)))


def kind_of_weights(members: Sequence[Run]) -> WeightsKind:
    """Return the kind of weights that the teachers of a study begin with.

    They count as finished if all are. If one is random, so that it has much to learn, they count as
    random.
    """
    networks = [member for member in members if not is_output_file(member.teacher)]
    weights = [member.weights_of("teacher") for member in networks]
    if "none" in weights:
        return "random"
    finished = [read_finished(Path(own).expanduser()) for own in weights]
    classes = load_data(members[0]).classes
    is_finished = all(own is not None and own.classes == classes for own in finished)
    return "finished" if is_finished else "pretrained"


def _teacher_recipe(run: Run, members: Sequence[Run]) -> dict[str, Any]:
    """Return the recipe of the teacher as teacher_*."""
    given = {name: getattr(run, f"teacher_{name}") for name in TEACHER_RECIPE}
    recipe = teacher_recipe(
        kind_of_weights([replace(m, teacher_weights=run.teacher_weights) for m in members]), given
    )
    return {f"teacher_{name}": value for name, value in recipe.items()}


def _transforms(run: Run) -> dict[str, Any]:
    """Return the defaults of the augmentations and of the evaluation transform."""
    values: dict[str, Any] = {"orientation": "exif"}
    if run.augment is None or run.eval_crop is None or run.eval_interpolation is None:
        data = load_data(run)
        if data.kind == "tensors":
            _refuse_image_settings(run, data)
            values |= {"eval_crop": 1.0, "eval_interpolation": "bilinear"}
        values["augment"] = DEFAULT_AUGMENT[data.kind]
    values["teacher_augment"] = run.augment or values.get("augment")
    if "eval_crop" not in values and None in [getattr(run, name) for name in OF_VIEWS]:
        values |= _evaluation(run)
    return values


def _evaluation(run: Run) -> dict[str, Any]:
    """Return the evaluation transform that the run's teacher publishes, or the first of several.

    Its crop is for photographs: images that are no larger than the teacher's input are not cropped.
    A file of outputs has the transform that it was written with; without a record, that of the
    student is taken.
    """
    data, first = load_data(run), run.teacher_members[0]
    if is_output_file(first.teacher):
        record = load_output_teacher(first).record
        if record is not None and record.views:
            return {name: (BEFORE_ORIENTATION | record.views)[name] for name in OF_VIEWS}
        published = untrained(run, "student").preprocessing  # nothing else is known
    else:
        published = untrained(first, "teacher").preprocessing
    images = data.splits["val"].inputs
    small = isinstance(images, Tensor) and min(images.shape[-2:]) <= (published.size or math.inf)
    crop = evaluation(run, files=data.photos).crop if published.crop is None else published.crop
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


def resolve_study(study: Study, begun: bool = False) -> Study:
    """Return the study with resolved settings and one size of views for all its models.

    So the streams are shared and the comparisons fair. A study with one student and one teacher
    keeps `image_size`, whose default is the larger input size of the two.

    Args:
        study: The study.
        begun: Whether it continues one with results, whose views keep their size.

    Raises:
        InputError: The data or a model do not exist, or a model that is added to a study of one
            student and one teacher needs other views than these.
    """
    study = replace(study, run=resolve(_with_searched_augment(study), teachers(study)))
    if study.run.image_size is not None or len(students(study)) * len(teachers(study)) == 1:
        return study
    data = load_data(study.run)
    own = [untrained(run, "student") for run in students(study)]
    of_teacher = {run.teacher: untrained_teacher(run) for run in teachers(study)}
    names = [str(name).split("+") for name in _names(study, "teacher")]
    members = [[of_teacher[name] for name in ensemble] for ensemble in names]
    every = {view_size(study.run, data, student, *t) for student in own for t in members}
    if len(every) == 1:
        return study
    if begun:
        raise InputError(
            f"the models of a study must see images of one size, but those of {study.folder} need "
            f"{', '.join(map(str, sorted(every)))} pixels; begin another study (--name OTHER)"
        )
    return replace(study, run=replace(study.run, image_size=max(every)))


def _with_searched_augment(study: Study) -> Run:
    """Return the study's run whose teacher does not depend on the augmentations searched.

    Raises InputError if one of them is for images and the data are none.
    """
    run, values = study.run, study.space.get("augment", ())
    if not values:
        return run
    data = load_data(run)
    if data.kind == "tensors":
        for value in ends_of(values):
            _refuse_image_settings(replace(run, augment=value), data)  # type: ignore[arg-type]
    return replace(run, teacher_augment=run.teacher_augment or DEFAULT_AUGMENT[data.kind])


def untrained(run: Run, role: Role) -> Classifier:
    """Return the run's teacher (no ensemble) or student with random weights.

    It has the input size and the preprocessing of the weights that the run names, and is built
    without them: quickly, and on machines that lack the file.
    """
    return build_model(run, role, len(load_data(run).classes), seed=0, weights="none")


def untrained_teacher(run: Run) -> Model:
    """Return the run's teacher (no ensemble) with random weights, or its file of outputs."""
    is_file = is_output_file(run.teacher)
    return load_output_teacher(run) if is_file else untrained(run, "teacher")


def students(study: Study) -> list[Run]:
    """Return the study's run with each of its students."""
    return [replace(study.run, student=name) for name in _names(study, "student")]


def teachers(study: Study) -> list[Run]:
    """Return the study's run with each of its teachers; the members of an ensemble one by one.

    A teacher that is fine-tuned for several numbers of epochs is there once for each.
    """
    found: dict[tuple[str, Any], Run] = {}
    for name in _names(study, "teacher"):
        for epochs in _names(study, "teacher_epochs"):
            for run in replace(study.run, teacher=name, teacher_epochs=epochs).teacher_members:
                found.setdefault((run.teacher, epochs), run)
    return list(found.values())


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
    every = (replace(run, repeat=repeat) for repeat in range(repeats) for run in runs)
    return [run for run in every if run.teacher_number == run.repeat]


def whole_teachers(study: Study) -> list[Run]:
    """Return the study's run with each of its teachers, ensembles as they are."""
    return [
        replace(study.run, teacher=name, teacher_epochs=epochs)
        for name in _names(study, "teacher")
        for epochs in _names(study, "teacher_epochs")
    ]


def _names(study: Study, hyperparameter: str) -> tuple[Any, ...]:
    values = study.values(hyperparameter)
    assert isinstance(values, tuple)  # noqa: S101 - Study has checked it
    return values
