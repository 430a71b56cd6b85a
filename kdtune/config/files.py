"""Files, whole or not at all, and what to say of those that are not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_aside(file: Path) -> Iterator[Path]:
    """A path to write to, renamed to the file at the end: a reader sees the old one or the new.

    Where the writing fails, nothing is left of it.
    """
    aside = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        yield aside
        os.replace(aside, file)
    finally:
        aside.unlink(missing_ok=True)


def none_of(path: Path) -> str:
    """That a path is not what it should be, in words: of another kind, or not there."""
    return f"{path} is none" if path.exists() else f"there is no {path}"


STUDY = "study.json"


LOCK = ".lock"


PREDICTIONS = "predictions.parquet"


PROVENANCE = "provenance.json"


def default_folder() -> Path:
    """The folder kdtune in the user's cache folder (XDG)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kdtune"
