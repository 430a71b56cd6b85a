"""Record of the transforms between a study's images and the inputs of its models."""

from dataclasses import asdict, dataclass
from typing import Any

from kdtune.config.study import Study
from kdtune.config.study_objects import describe_fixed_students
from kdtune.data.sources import load_data
from kdtune.models.classifier import describe_assumption
from kdtune.streams.shards import view_size
from kdtune.training.other_cut import find_leaks
from kdtune.training.recipe import students, teachers, untrained


@dataclass(frozen=True)
class Transforms:
    """What provenance.json says of a study's images and models."""

    views: dict[str, Any]
    """`image_size`, `eval_crop` and `eval_interpolation`. The shorter side of an image is resized
    to image_size / eval_crop, then the central square of image_size is cropped."""
    models: dict[str, dict[str, Any]]
    """The fields of each model's `Preprocessing`, by "teacher NAME" or "student NAME"."""
    warnings: list[str]
    """Sentences on models without preprocessing of their own, on students whose initial weights do
    not vary, on examples that splits share, and on teachers that may have trained on val."""


def transforms_of(study: Study) -> Transforms:
    """Return the transforms of a resolved study; only warnings if its data are no images.

    Raises:
        InputError: the data or a model do not exist.
    """
    run, data = study.run, load_data(study.run)
    others = [*describe_fixed_students(study), *find_leaks(study)]
    if data.kind == "tensors":
        return Transforms({}, {}, others)
    of_teachers = [untrained(own, "teacher") for own in teachers(study)]
    of_students = [untrained(own, "student") for own in students(study)]
    named = {f"teacher {model.name}": model for model in of_teachers}
    named |= {f"student {model.name}": model for model in of_students}
    assumed = {model.name: model for model in named.values() if not model.is_normalized}
    views = {
        "image_size": view_size(run, data, *named.values()),
        **{name: getattr(run, name) for name in ("eval_crop", "eval_interpolation")},
    }
    return Transforms(
        views,
        {name: asdict(model.preprocessing) for name, model in named.items()},
        [*map(describe_assumption, assumed.values()), *others],
    )
