"""Record of the transforms between a study's images and the inputs of its models."""

import sys
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from kdtune.config.run import Run
from kdtune.config.student_record import InputRecord, ModelRecord
from kdtune.config.study import Study
from kdtune.config.study_objects import describe_fixed_students
from kdtune.data.dataset import Data
from kdtune.data.extra import with_extra
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier, describe_assumption
from kdtune.models.ensemble import networks
from kdtune.models.weights import licence_of
from kdtune.streams.shards import view_size
from kdtune.training.other_cut import find_faults
from kdtune.training.recipe import OF_VIEWS, students, teachers, untrained, untrained_teacher


@dataclass(frozen=True)
class Transforms:
    """What provenance.json says of a study's images and models."""

    views: dict[str, Any]
    """`image_size`, `orientation`, `eval_crop` and `eval_interpolation`. The shorter side of an
    image is resized to image_size / eval_crop, then the central square of image_size is cropped."""
    models: dict[str, dict[str, Any]]
    """The fields of each model's `Preprocessing`, by "teacher NAME" or "student NAME"."""
    warnings: list[str]
    """Sentences on models without preprocessing of their own, on students whose initial weights do
    not vary, on examples that splits share, on teachers that may have trained on val, and on images
    that were left out."""
    input: dict[str, Any] = field(default_factory=dict)
    """The fields of `InputRecord`: one view of the data."""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The fields of each student's `ModelRecord`, by "student NAME": what it is built from."""


def transforms_of(study: Study) -> Transforms:
    """Return the transforms of a resolved study.

    If its data are no images, there are none between a view and the models.

    Raises:
        InputError: the data or a model do not exist.
    """
    run, data = study.run, load_data(study.run)
    others = [
        *describe_fixed_students(study),
        *find_faults(study),
        *with_extra(data, run).warnings,
    ]
    runs = students(study)
    of_students = [untrained(own, "student") for own in runs]
    pairs = zip(runs, of_students, strict=True)
    sources = {f"student {model.name}": asdict(_source(own, model)) for own, model in pairs}
    if data.kind == "tensors":
        return Transforms({}, {}, others, asdict(_input(data, 0)), sources)
    of_teachers = [untrained_teacher(own) for own in teachers(study)]
    named = {f"teacher {model.name}": model for model in networks(of_teachers)}
    named |= {f"student {model.name}": model for model in of_students}
    assumed = {model.name: model for model in named.values() if not model.is_normalized}
    views = {
        "image_size": (size := view_size(run, data, *of_teachers, *of_students)),
        **{name: getattr(run, name) for name in OF_VIEWS},
    }
    return Transforms(
        views,
        {name: asdict(model.preprocessing) for name, model in named.items()},
        [*map(describe_assumption, assumed.values()), *others],
        asdict(_input(data, size)),
        sources,
    )


def _input(data: Data, size: int) -> InputRecord:
    """Return one view of the data, of `size` pixels a side if it is an image."""
    inputs = data.splits["train"].inputs
    if not isinstance(inputs, Tensor):
        return InputRecord("files", (3, size, size), "uint8")
    shape = tuple(inputs.shape[1:])
    if data.kind == "images":
        shape = (shape[0], size, size)
    return InputRecord(data.kind, shape, str(inputs.dtype).removeprefix("torch."))


def _source(run: Run, student: Classifier) -> ModelRecord:
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
