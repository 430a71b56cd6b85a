"""Names of a study's files, atomic writes, the cache folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STUDY = "study.json"
PROVENANCE = "provenance.json"
PREDICTIONS = "predictions.parquet"
COSTS = "costs.json"
THUMBNAILS = "thumbnails"
"""Small pictures of the images that the report shows."""
TEACHER = "teacher"
TEACHER_RECORD = "teacher.json"
"""What a fine-tuned teacher was made of, in teacher/ or a folder in it."""
TEACHER_ACCURACY = "teacher/accuracy.json"
LOCK = ".lock"
TRIALS = "trials"
STUDENTS = "students"
STUDENTS_CONFIG = "students.json"
"""The best configuration, in students/."""
EXPORTS = ("best.*", "best-int8.*", "README*.md")
"""Patterns of the files that kdtune.export writes into students/."""
CHECKPOINT = "checkpoint.pt"
"""State of an unfinished run, in trials/<trial_id>."""
STUDENT = "student.safetensors"
"""Weights of a trained student, in trials/<trial_id>."""


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path; at the end rename it to the file.

    Readers see the old file or the whole new one. If writing fails, the temporary file is deleted.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def student_file(repeat: int) -> str:
    """Return the name of a file of weights in students/."""
    return f"repeat-{repeat:02d}.safetensors"


def join_uri(uri: str, name: str) -> str:
    """Return the URI of a name below another URI; options (?region=...) stay at the end."""
    place, mark, options = uri.partition("?")
    return f"{place.rstrip('/')}/{name}{mark}{options}"


def describe_missing(path: Path) -> str:
    """Return why a path is not usable: it does not exist, or is of another kind."""
    return f"{path} is not one" if path.exists() else f"{path} does not exist"


def cache_folder() -> Path:
    """Return kdtune's folder in the user's cache folder (XDG_CACHE_HOME on Linux)."""
    from platformdirs import user_cache_path

    return user_cache_path("kdtune")
