"""Data sets of the user's own: `module:factory`, a function without arguments; passed objects."""

import importlib
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from kdtune.config.errors import InputError
from kdtune.config.inputs import VAL_NAMES
from kdtune.config.objects import Passed
from kdtune.config.user_code import user_code
from kdtune.data.arrays import RawSplit, as_tensor, common_folder, make_data
from kdtune.data.dataset import Data, name_splits
from kdtune.data.torch_datasets import class_names, read_dataset

KEYS = ("train", *VAL_NAMES, "test", "classes")


def load_user_data(name: str) -> Data:
    """Return the data set that a user's function makes.

    The function returns a dict with train and perhaps val and test, each a pair (inputs [N, ...],
    labels [N]) of tensors or arrays, or a torch Dataset of pairs (x, y); `classes` may name the
    classes. Random numbers that the function draws are the same in every process.

    Args:
        name: module:function.

    Returns:
        The data set, without val if the function returns none.

    Raises:
        InputError: the function fails, or what it returns does not fit.
    """
    home, _, attribute = name.partition(":")
    with user_code(f"the data {name} cannot be imported"):
        function = getattr(importlib.import_module(home), attribute)
    return _read_all(name, function)


def read_passed_data(name: str, passed: Passed) -> Data:
    """Return the data set that was passed as an object: a dict, or a function that returns one.

    Args:
        name: of the object.
        passed: the object; or a data set, as another process has read it.

    Returns:
        The data set, see `load_user_data`.

    Raises:
        InputError: it does not fit.
    """
    value = passed.value
    return value if isinstance(value, Data) else _read_all(name, value)


def _read_all(name: str, source: Any) -> Data:
    """Return the data set of a dict, or of the dict that a function returns."""
    with seeded(), user_code(f"the data {name} cannot be made"):
        made = source() if callable(source) else source
        splits = _splits(name, made)
        raw = {split: _read(value, f"{name} ({split})") for split, value in splits.items()}
    return make_data(
        name, raw, _classes(name, made), common_folder(*(own.inputs for own in raw.values()))
    )


def _splits(name: str, made: Any) -> dict[str, Any]:
    """Return the splits by name; raise InputError if there are others, or two of val."""
    if not isinstance(made, Mapping):
        raise InputError(
            f'{name} must return a dict such as {{"train": (inputs, labels), "val": ...}}, but '
            f"returned {type(made).__name__}"
        )
    if unknown := [key for key in made if key not in KEYS]:
        raise InputError(
            f"{name} must have the keys train, val, test and classes only, but has {unknown[0]!r}"
        )
    named = name_splits([key for key in made if made[key] is not None], name)
    return {split: made[key] for split, key in named.items()}


def _read(value: Any, what: str) -> RawSplit:
    """Return the examples of a pair (inputs, labels) or of a dataset."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return RawSplit(as_tensor(value[0], f"the inputs of {what}"), value[1])
    return read_dataset(value, what)


def _classes(name: str, made: Mapping[str, Any]) -> list[str] | None:
    """Return the names of the classes as far as they are given."""
    if made.get("classes") is None:
        return class_names(made["train"])
    with user_code(f"the classes of {name} must be a list of names"):
        classes = [str(label) for label in made["classes"]]
    if len(set(classes)) < len(classes):
        raise InputError(f"the classes of {name} must have different names, but got {classes}")
    return classes


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the global generators, which a function may draw from; restore them at the end."""
    before = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002
