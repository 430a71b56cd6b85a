"""Data and weights as they are named on a command line."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kdtune.config.fields import requirement_error

if TYPE_CHECKING:  # these fields of a run are text, but also take objects, see `config.objects`
    DataName = Any
    ModelName = Any
else:
    DataName = ModelName = str

Role = Literal["teacher", "student"]
Weights = str | tuple[str, ...]
"""One value for all models, or MODEL=WEIGHTS for each of several."""
OUTPUT_SUFFIXES = (".parquet", ".npz")
"""Endings of the files of teachers that are only a file of outputs."""
REST = "rest"
"""Value of `Run.extra`: the images of train that `Run.train_images` leaves out."""
OBJECT = "object:"
"""Beginning of the names of objects that were passed in Python, see `config.objects`."""


def pairs(weights: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return model and weights of each MODEL=WEIGHTS."""
    return [(model, file) for model, _, file in (text.partition("=") for text in weights)]


def check_weights(name: str, weights: Weights) -> None:
    """Raise InputError unless weights are one word or file, or MODEL=WEIGHTS of several models."""
    if isinstance(weights, tuple) and not all(m and w for m, w in pairs(weights)):
        raise requirement_error(
            name, "be one value, or MODEL=WEIGHTS for each of several models", " ".join(weights)
        )


def is_object(name: str) -> bool:
    """Return True for the name of an object that was passed in Python, such as object:SmallNet."""
    return name.startswith(OBJECT)


def is_output_file(name: str) -> bool:
    """Return True if a teacher is a file of outputs, see `kdtune.config.teacher_outputs`."""
    return Path(name).suffix in OUTPUT_SUFFIXES


def is_named_data(data: str) -> bool:
    """Return True if data are named, not a folder: fashion, torchvision:NAME, module:factory."""
    return data == "fashion" or is_object(data) or is_function_name(data)


def is_function_name(name: str) -> bool:
    """Return True for module:name, which is not the path of a folder."""
    return re.fullmatch(r"[A-Za-z_][\w.]+:[A-Za-z_]\w*", name) is not None


def is_named_extra(extra: str) -> bool:
    """Return True if images without labels are named, not a folder: rest, module:factory."""
    return extra == REST or is_function_name(extra)


def name_of_data(data: str) -> str:
    """Return the name of data: that of a folder, or of the dataset or function."""
    if is_named_data(data):
        if is_object(data):
            return re.sub(r"[^A-Za-z0-9_-]", "", data.removeprefix(OBJECT)).lstrip("_-") or "data"
        return data.removeprefix("torchvision:").replace(":", "-")
    return Path(data).name
