"""Data sets from arrays: checks and conversion of inputs and labels."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdtune.config.errors import InputError, first_line
from kdtune.config.inputs import IMAGE_CHANNELS
from kdtune.data.content import combine_hashes, hash_files, hash_tensor
from kdtune.data.dataset import Data, Split

MAX_NAMED_CLASSES = 5
"""Classes that an error message lists."""


class RawSplit(NamedTuple):
    """Inputs and labels of a split as they were given."""

    inputs: Tensor | tuple[str, ...]
    """Tensor [N, ...], or image files."""
    labels: Any
    """Whole numbers or strings, [N]: tensor, array or list."""


def make_data(
    name: str, raw: Mapping[str, RawSplit], classes: Sequence[str] | None, root: str = ""
) -> Data:
    """Return the data set of these splits.

    Args:
        name: of the data, for errors.
        raw: by split: train and perhaps val and test.
        classes: names of the classes 0 to K - 1. None: the sorted labels if these are strings, else
            their numbers.
        root: folder that image files are named relative to.

    Raises:
        InputError: inputs or labels do not fit.
    """
    inputs = {split: as_images(own.inputs) for split, own in raw.items()}
    labels = {split: _label_array(f"{name} ({split})", own.labels) for split, own in raw.items()}
    for split, own in inputs.items():
        _check_inputs(name, split, own, inputs["train"])
        if len(own) != len(labels[split]):
            raise InputError(
                f"{name} ({split}) must have one label for each example, but has {len(own)} "
                f"examples and {len(labels[split])} labels"
            )
    names, numbers = _numbered(name, labels, classes)
    splits, hashes = dict[str, Split](), list[str]()
    for split, own in inputs.items():
        if isinstance(own, Tensor):
            content, stamps = hash_tensor(own), None
        else:
            content, stamps = hash_files(Path(root), own)
        splits[split] = Split(numbers[split], own, stamps)
        hashes += [split, content, hash_tensor(numbers[split])]
    is_files = isinstance(inputs["train"], tuple)
    return Data(names, splits, combine_hashes(*names, *hashes), photos=is_files, root=root)


# -- inputs ------------------------------------------------------------------------------------


def as_tensor(values: Any, what: str) -> Tensor:
    """Return an array or tensor as a tensor of the same type on the CPU.

    Args:
        values: a tensor, an array, or nested lists of numbers.
        what: names them in an error.

    Raises:
        InputError: they are not numbers of a type that torch has.
    """
    if isinstance(values, Tensor):
        return values.detach().cpu()
    try:
        array = np.asarray(values)
        # a copy in the machine's byte order, which torch may write to
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("=")))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} must be a tensor or an array of numbers of one shape, but got "
            f"{type(values).__name__} ({first_line(error, 100)})"
        ) from None


def as_images(inputs: Tensor | tuple[str, ...]) -> Tensor | tuple[str, ...]:
    """Return inputs with images as uint8 [N, C, H, W], and all others as they are.

    Images are bytes [N, H, W] or [N, C, H, W] with one or three channels. With channels last,
    [N, H, W, C], they are permuted, unless the second dimension may be the channels as well.
    """
    if not isinstance(inputs, Tensor) or inputs.dtype != torch.uint8:
        return inputs
    if inputs.ndim == 3:
        return inputs.unsqueeze(1)
    last = inputs.ndim == 4 and inputs.shape[-1] in IMAGE_CHANNELS
    if last and inputs.shape[1] not in IMAGE_CHANNELS:
        return inputs.permute(0, 3, 1, 2).contiguous()
    return inputs


def _check_inputs(
    name: str, split: str, own: Tensor | tuple[str, ...], train: Tensor | tuple[str, ...]
) -> None:
    """Raise InputError if a split is empty or its examples are not like those of train."""
    if (isinstance(own, Tensor) and own.ndim == 0) or not len(own):
        raise InputError(f"{name} ({split}) must have examples, [N, ...], but has none")
    if (mine := describe_inputs(own)) != (other := describe_inputs(train)):
        raise InputError(
            f"the examples of {name} must have one shape and type, but train has {other} and "
            f"{split} has {mine}"
        )


def common_folder(*inputs: Tensor | tuple[str, ...]) -> str:
    """Return the innermost folder that holds all image files; "" without any."""
    files = [file for own in inputs if isinstance(own, tuple) for file in own]
    return os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""


def describe_inputs(inputs: Tensor | tuple[str, ...]) -> str:
    """Return the shape and type of an example in words."""
    if not isinstance(inputs, Tensor):
        return "image files"
    return f"{list(inputs.shape[1:])} of {str(inputs.dtype).removeprefix('torch.')}"


# -- labels ------------------------------------------------------------------------------------


def _label_array(what: str, labels: Any) -> np.ndarray[Any, Any]:
    """Return labels as an array [N] of int64 or str; raise InputError if they are neither."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim != 1:
        raise InputError(
            f"the labels of {what} must be one class for each example, [N], but have the shape "
            f"{list(array.shape)}"
        )
    if array.dtype.kind in "biu":
        return array.astype(np.int64)
    if array.dtype.kind in "UO" and all(isinstance(label, str) for label in array.tolist()):
        return array.astype(str)
    raise InputError(
        f"the labels of {what} must be whole numbers or strings, but have the type {array.dtype}"
    )


def _numbered(
    name: str, labels: Mapping[str, np.ndarray[Any, Any]], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the names of the classes, and each split's labels as their numbers, int64 [N]."""
    if len({values.dtype.kind for values in labels.values()}) > 1:
        raise InputError(f"the labels of {name} must be numbers or strings in all splits alike")
    if labels["train"].dtype.kind == "U":
        names = tuple(classes or sorted(set(labels["train"].tolist())))
        numbers = {split: _of_strings(name, split, own, names) for split, own in labels.items()}
    else:
        largest = max(int(values.max()) for values in labels.values())
        names = tuple(classes) if classes else tuple(str(k) for k in range(largest + 1))
        for split, own in labels.items():
            _check_range(name, split, own, len(names))
        numbers = {split: torch.from_numpy(own) for split, own in labels.items()}
    if len(names) < 2:
        raise InputError(f"{name} must have at least two classes, but has {', '.join(names)} alone")
    counts = torch.bincount(numbers["train"], minlength=len(names))
    if missing := [names[k] for k in (counts == 0).nonzero()[:, 0].tolist()]:
        raise InputError(
            f"{name} (train) must have examples of each of its {len(names)} classes, but has none "
            f"of {_listed(missing)}; number the classes from 0 without gaps"
        )
    return names, numbers


def _of_strings(
    name: str, split: str, labels: np.ndarray[Any, Any], names: tuple[str, ...]
) -> Tensor:
    """Return the number of each label; raise InputError if one is no class."""
    number = {label: k for k, label in enumerate(names)}
    if unknown := sorted(set(labels.tolist()) - number.keys()):
        raise InputError(
            f"the labels of {name} ({split}) must be classes of train, but {_listed(unknown)} "
            f"{'are' if len(unknown) > 1 else 'is'} none"
        )
    return torch.tensor([number[label] for label in labels.tolist()], dtype=torch.int64)


def _check_range(name: str, split: str, labels: np.ndarray[Any, Any], classes: int) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError(
            f"the labels of {name} ({split}) must lie between 0 and {classes - 1} (one less than "
            f"the number of classes), but got {low if low < 0 else high}"
        )


def _listed(names: Sequence[str]) -> str:
    """Return the first few names."""
    more = len(names) - MAX_NAMED_CLASSES
    return ", ".join(names[:MAX_NAMED_CLASSES]) + (f" and {more} more" if more > 0 else "")
