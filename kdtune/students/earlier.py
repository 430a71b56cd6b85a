"""Input of students whose students.json does not record it, as earlier versions wrote it.

It then follows from the run, the models by name and the weights.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.names import Role, is_named_data
from kdtune.config.run import Run
from kdtune.config.student_record import InputRecord, StudentsRecord
from kdtune.data.sources import SOURCES
from kdtune.models.preprocessing import Preprocessing
from kdtune.models.registry import build_model


def known_classes(run: Run) -> tuple[str, ...]:
    """Return the names of the classes if kdtune holds the data itself; else ()."""
    return SOURCES[run.data]().classes if run.data in SOURCES else ()


def input_of(
    record: StudentsRecord, classes: int, weights: Mapping[str, Tensor]
) -> tuple[InputRecord | None, Mapping[str, Any] | None]:
    """Return one view and the preprocessing of students of an earlier version.

    Args:
        record: Without `input`, perhaps without `preprocessing`.
        classes: K.
        weights: State dict of one student.

    Returns:
        The view, None if the data may be other tensors, and the preprocessing as students.json
        would have it, None for tensors.

    Raises:
        InputError: The size of the views is not known.
    """
    run = record.configured_run
    if record.preprocessing is None and ":" in run.data and not run.data.startswith("torchvision:"):
        return None, None
    steps = record.preprocessing or _steps(run, classes)
    files = not is_named_data(run.data)
    channels = 3 if files else _channels(weights)
    size = int(steps["image_size"])
    kind = "files" if files else "images"
    return InputRecord(kind, (channels, size, size), "uint8"), steps


def _steps(run: Run, classes: int) -> dict[str, Any]:
    """Return the preprocessing of a run of version 0.1, which recorded none."""
    own = _preprocessing(run, "student", classes)
    members = [_preprocessing(member, "teacher", classes) for member in run.teacher_members]
    sizes = [p.size for p in (own, *members) if p.size]
    size = run.image_size or max(sizes, default=0)
    if not size and run.data in SOURCES:
        images = SOURCES[run.data]().splits["train"].inputs
        size = images.shape[-1] if isinstance(images, Tensor) else 0
    if not size:
        raise InputError(
            f"the image size of these students is not known, since an earlier version of kdtune "
            f"wrote them; load {run.student} and the weights with plain PyTorch"
        )
    fields = {name: getattr(own, name) for name in ("size", "channels", "mean", "std")}
    return {
        "image_size": size,
        "eval_crop": run.eval_crop,
        "eval_interpolation": run.eval_interpolation,
        "interpolation": own.interpolation,
        **fields,
    }


def _preprocessing(run: Run, role: Role, classes: int) -> Preprocessing:
    return build_model(run, role, classes, seed=0, weights="none").preprocessing


def _channels(weights: Mapping[str, Tensor]) -> int:
    """Return the channels that the first convolution takes; 3 if there is none."""
    first = next((value for value in weights.values() if value.ndim == 4), None)
    return 1 if first is not None and first.shape[1] == 1 else 3
