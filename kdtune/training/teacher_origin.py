"""Identity of a teacher: the training that makes it, and whether a saved one was made by that."""

import hashlib
import json
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdtune.config.errors import DAMAGED, InputError, first_line
from kdtune.config.fields import OF_STUDENT, searchable
from kdtune.config.migrations import migrate_run
from kdtune.config.run import TEACHER_REPEAT, Run
from kdtune.data.sources import load_data
from kdtune.models.checkpoints import check_whole
from kdtune.models.finished import RECORD, WEIGHTS
from kdtune.models.registry import PREPROCESSING
from kdtune.training.recipe import resolve, untrained

COMPARED_BY_CONTENT = ("data", "extra", "teacher_weights", "student_weights")
"""Fields of a run that are paths: a teacher stays the same where its files have moved."""
RECIPE = (
    *("trainable", "batch_norm", "optimizer", "lr", "momentum", "weight_decay", "schedule"),
    *("lr_step_size", "lr_gamma", "lr_milestones", "epochs", "batch_size"),
    *("augment", "train_images"),
)
"""Fields of a run for which the teacher has its own, teacher_*."""


def teacher_run(run: Run) -> Run:
    """Return the run that fine-tunes the teacher (no ensemble) by its own recipe, as a student."""
    run = resolve(run)
    of_student = {n for n, setting in searchable(Run).items() if setting.commands == OF_STUDENT}
    reset = (of_student | {"extra"}) - {"student", "alpha"}
    unused: dict[str, Any] = {f.name: f.default for f in fields(Run) if f.name in reset}
    own: dict[str, Any] = {name: getattr(run, f"teacher_{name}") for name in RECIPE}
    own |= {f"student_{name}": getattr(run, f"teacher_{name}") for name in PREPROCESSING}
    return replace(
        run,
        **unused | own | {"epochs": max(1, own["epochs"])},
        student=run.teacher,
        student_weights=run.weights_of("teacher"),
        teacher_weights=run.weights_of("teacher"),
        alpha=1.0,
        repeat=run.teacher_repeat,
        study_values=(),
    )


def teacher_recipe(run: Run) -> dict[str, Any]:
    """Return all that a run's teacher depends on, by name, but for the contents of files.

    Hyperparameters without effect on it are None, so they distinguish no teachers.
    """
    own = teacher_run(run)
    names = ["seed", "precision", "image_size", "train_images", "teacher_keep"]
    names += [f"student_{name}" for name in PREPROCESSING]
    if own.augmentation != "resized-crop":
        names.append("eval_interpolation")
    if own.teacher_keep == "best" or own.augmentation == "none":
        names += ["eval_crop", "eval_interpolation"]  # val decides, or train is resized like it
    if own.schedule == "multistep":
        names.append("lr_milestones")
    recipe = {name: getattr(own, name) for name in names} | {"augment": own.augmentation}
    # older records do not name it, and it has no effect on other data
    if own.orientation != "stored" and load_data(run).kind == "files":
        recipe["orientation"] = own.orientation
    if own.repeat != TEACHER_REPEAT:  # older records have none: theirs is teacher number 0
        recipe["repeat"] = own.repeat
    return recipe | own.config


@dataclass(frozen=True)
class Origin:
    """Everything that a fine-tuned teacher depends on."""

    recipe: dict[str, Any]
    data: str
    """Fingerprint of the data."""
    weights: str
    """Content hash of the file of its initial weights, or "default" or "none"."""


def origin_of(run: Run) -> Origin:
    """Return what the run's teacher must be made of."""
    weights = _weights_hash(run.weights_of("teacher"))
    return Origin(teacher_recipe(run), load_data(run).fingerprint, weights)


def origin_of_saved(run: Run, folder: Path) -> Origin | None:
    """Return what the teacher in a folder was made of; None if there is no teacher.

    Raises InputError if it is damaged.
    """
    if not ((folder / RECORD).exists() and (folder / WEIGHTS).exists()):
        return None
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        check_whole(folder / WEIGHTS)
        # fields that were added after the record was written had their defaults
        made_by = _without_default(Run(**migrate_run(record["run"])), run)
        weights = _recorded_weights(record.get("weights"), made_by.weights_of("teacher"), run)
        return Origin(teacher_recipe(made_by), record["data"], weights)
    except (OSError, *DAMAGED) as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"the teacher in {folder} is damaged ({reason}); remove that folder, and the same "
            f"command fine-tunes it again"
        ) from None


def _without_default(made_by: Run, run: Run) -> Run:
    """Return the run that made a teacher, without an interpolation that is the model's own.

    Records of older versions name it; now it stands in none unless it is given.
    """
    if run.teacher_interpolation is not None or made_by.teacher_interpolation is None:
        return made_by
    same = untrained(run, "teacher").preprocessing.interpolation == made_by.teacher_interpolation
    return replace(made_by, teacher_interpolation=None) if same else made_by


def _recorded_weights(recorded: str | None, weights: str, run: Run) -> str:
    """Return the content hash of the initial weights that a saved teacher was made from.

    Where there is nothing to compare, a file of the same name counts as the same: kdtune 0.1
    recorded no hash, and a finished teacher does not need the file any more.
    """
    own = run.weights_of("teacher")
    same_name = Path(weights).name == Path(own).name
    if same_name and (recorded is None or not Path(own).expanduser().is_file()):
        return _weights_hash(own)
    return recorded or _weights_hash(weights)


def _weights_hash(weights: str) -> str:
    """Return the content hash of a file of weights; "default", "none" or a missing file by name."""
    file = Path(weights).expanduser()
    if weights in ("default", "none") or not file.is_file():
        return file.name
    stat = file.stat()
    return _file_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)
def _file_hash(file: Path, size: int, modified_ns: int) -> str:
    """Return the SHA-256 of a file; size and time make an edited file another entry."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
