"""Data and weights as they are named on a command line."""

import re
from pathlib import Path
from typing import Literal

from kdtune.config.fields import requirement_error

Role = Literal["teacher", "student"]
Weights = str | tuple[str, ...]
"""One value for all models, or MODEL=WEIGHTS for each of several."""


def pairs(weights: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return model and weights of each MODEL=WEIGHTS."""
    return [(model, file) for model, _, file in (text.partition("=") for text in weights)]


def check_weights(name: str, weights: Weights) -> None:
    """Raise InputError unless weights are one word or file, or MODEL=WEIGHTS of several models."""
    if isinstance(weights, tuple) and not all(m and w for m, w in pairs(weights)):
        raise requirement_error(
            name, "be one value, or MODEL=WEIGHTS for each of several models", " ".join(weights)
        )


def is_named_data(data: str) -> bool:
    """Return True if data are named, not a folder: fashion, torchvision:NAME, module:factory."""
    return data == "fashion" or re.fullmatch(r"[A-Za-z_][\w.]+:[A-Za-z_]\w*", data) is not None


def name_of_data(data: str) -> str:
    """Return the name of data: that of a folder, or of the dataset or function."""
    if is_named_data(data):
        return data.removeprefix("torchvision:").replace(":", "-")
    return Path(data).name
