"""Teachers that are only a file: their names, and what a run or study with one may have.

`--teacher PATH/outputs.parquet` names a file of logits or probabilities. The teacher's name is then
"outputs.parquet", the name of the file, and its path stands among the weights. So a study goes on
where the file has moved, as with files of weights.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdtune.config.errors import InputError
from kdtune.config.names import Weights, is_output_file, pairs
from kdtune.config.places import check_place

if TYPE_CHECKING:
    from kdtune.config.run import Run

NETWORKS_ONLY = "write its outputs into a file first (python -m kdtune.teacher --dump FILE)"
"""Advice for a teacher that must be combined with a file."""


def take_output_file(run: "Run") -> None:
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


def check_output_file(run: "Run") -> None:
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


def _check_same_images(run: "Run") -> None:
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
