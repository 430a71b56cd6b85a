"""Finished teachers: files of weights that kdtune has fine-tuned, with what using them needs.

The file of weights says itself which model it is of, for which classes, and how its input is
preprocessed. Files of earlier versions have that in teacher.json beside them.
"""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from kdtune.config.errors import DAMAGED, InputError, first_line
from kdtune.models.preprocessing import Preprocessing

WEIGHTS = "teacher.safetensors"
RECORD = "teacher.json"
METADATA = "kdtune_teacher"
"""Entry of the metadata of the file of weights."""


@dataclass(frozen=True)
class FinishedTeacher:
    """What a file of weights says about the teacher that it holds."""

    model: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: str | None = None
    """Fingerprint of the data that it was fine-tuned on, which depends on how val was cut; None in
    files of earlier versions."""
    has_cut_val: bool = False
    """Whether val was cut from train in these data."""

    @property
    def metadata(self) -> dict[str, str]:
        """Metadata of the file of weights."""
        return {METADATA: json.dumps(asdict(self), sort_keys=True)}


def read_finished(file: Path) -> FinishedTeacher | None:
    """Return what a file of weights says about its teacher; None for files of others.

    Raises:
        InputError: It says so in a way that this version cannot read. Without its preprocessing the
            teacher's predictions would be wrong.
    """
    try:
        if not file.is_file():  # a pipe would never end
            return None
        with safe_open(file, framework="pt") as weights:
            metadata = weights.metadata() or {}
        if METADATA not in metadata and file.name != WEIGHTS:
            return None
    except (OSError, SafetensorError):
        return None  # no file, or of another kind
    if METADATA in metadata:
        try:
            return _finished(**_known(json.loads(metadata[METADATA])))
        except DAMAGED as error:
            raise InputError(
                f"{file} is of a teacher that kdtune has fine-tuned, but what it says of it "
                f"({METADATA} in its metadata) is damaged or of a newer version "
                f"({first_line(error, 120)}); copy the file again, or fine-tune the teacher again"
            ) from None
    try:
        record = json.loads((file.parent / RECORD).read_text(encoding="utf-8"))
        return _finished(record["run"]["student"], record["classes"], record["preprocessing"])
    except (OSError, *DAMAGED):
        return None  # of others, or without a record


def _known(values: object) -> dict[str, Any]:
    """Return what a file says by name; raise ValueError if a name is unknown to this version."""
    if not isinstance(values, dict):
        raise ValueError("it is no JSON object")
    known = {field.name for field in fields(FinishedTeacher)}
    if unknown := [name for name in values if name not in known]:
        raise ValueError(f"it has an entry {unknown[0]!r:.40}")
    if missing := [name for name in ("model", "classes", "preprocessing") if name not in values]:
        raise ValueError(f"it has no entry {missing[0]!r}")
    return values


def _finished(
    model: str,
    classes: list[str],
    preprocessing: dict[str, Any],
    data: str | None = None,
    has_cut_val: bool = False,
) -> FinishedTeacher:
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
        raise TypeError("its classes are no list of texts")
    if not isinstance(model, str) or not isinstance(data, str | None):
        raise TypeError("its model or its data is no text")
    if not isinstance(has_cut_val, bool) or not isinstance(preprocessing, dict):
        raise TypeError("has_cut_val or preprocessing has another type")
    values: dict[str, Any] = {
        k: tuple(v) if isinstance(v, list) else v for k, v in preprocessing.items()
    }
    return FinishedTeacher(model, tuple(classes), Preprocessing(**values), data, has_cut_val)


def teacher_file(weights: str) -> str:
    """Return the file of a study's fine-tuned teacher if weights are its folder; else the weights.

    Raises:
        InputError: The folder holds no fine-tuned teacher, or several.
    """
    folder = Path(weights).expanduser()
    if weights in ("default", "none") or not folder.is_dir():
        return weights
    found = sorted(
        {*folder.glob(WEIGHTS), *folder.glob(f"*/{WEIGHTS}"), *folder.glob(f"*/*/{WEIGHTS}")}
    )
    if len(found) == 1:
        return str(found[0])
    if not found:
        raise InputError(
            f"--teacher-weights must be a file or the folder of a study with a fine-tuned teacher, "
            f"but {weights} holds no {WEIGHTS}; give the file of the weights"
        )
    raise InputError(
        f"--teacher-weights must name one teacher, but {weights} holds {len(found)}: "
        f"{', '.join(map(str, found))}; give one of these files"
    )
