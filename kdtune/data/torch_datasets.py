"""Examples and labels of torch's map-style datasets."""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset, TensorDataset
from torchvision.datasets.folder import default_loader

from kdtune.config.errors import InputError
from kdtune.config.user_code import user_code
from kdtune.data.arrays import RawSplit, as_tensor
from kdtune.data.decoding import pixels


def read_dataset(dataset: Any, what: str, in_order: bool = False) -> RawSplit:
    """Return all examples of a dataset.

    Those of torchvision's datasets without transforms are taken whole: their arrays, or their list
    of files. Others are read one by one, once: whatever they draw at random is drawn once.

    Args:
        dataset: of pairs (x, y); x is a tensor, an array, a number or an image of Pillow.
        what: names the dataset in an error.
        in_order: keep the dataset's order; else a list of files is sorted, since some datasets list
            a folder in the order of the file system.

    Raises:
        InputError: it is no such dataset, or its examples differ in shape or type.
    """
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return RawSplit(dataset.tensors[0], dataset.tensors[1])
    if type(dataset) is Subset:
        whole = read_dataset(dataset.dataset, what, in_order=True)  # indices count in its order
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        return RawSplit(_selected(whole.inputs, index), np.asarray(whole.labels)[index.numpy()])
    if is_plain_torchvision(dataset):
        found = _arrays(dataset) or _files(dataset, in_order)
        if found is not None:
            return found
    return _one_by_one(dataset, what)


def class_names(dataset: Any) -> list[str] | None:
    """Return the names of the classes that a dataset has, or None."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not names:
        return None
    # ImageNet has a tuple of synonyms for each class
    return [str(name[0]) if isinstance(name, tuple) else str(name) for name in names]


def _selected(inputs: Tensor | tuple[str, ...], index: Tensor) -> Tensor | tuple[str, ...]:
    if isinstance(inputs, Tensor):
        return inputs[index]
    return tuple(inputs[i] for i in index.tolist())


def is_plain_torchvision(dataset: Any) -> bool:
    """Return True for a dataset of torchvision whose items are its images and labels unchanged."""
    of_torchvision = type(dataset).__module__.startswith("torchvision.datasets.")
    changes = (getattr(dataset, n, None) for n in ("transform", "target_transform", "transforms"))
    has_own_loader = getattr(dataset, "loader", default_loader) is not default_loader
    return of_torchvision and not any(changes) and not has_own_loader


def _arrays(dataset: Any) -> RawSplit | None:
    """Return the arrays of a dataset, such as CIFAR10's; None if it has none."""
    images = getattr(dataset, "data", None)
    labels = next(
        (v for n in ("targets", "labels") if (v := getattr(dataset, n, None)) is not None), None
    )
    if not isinstance(images, Tensor | np.ndarray) or labels is None:
        return None
    inputs, known = as_tensor(images, "images"), as_tensor(labels, "labels")
    if inputs.dtype != torch.uint8 or inputs.ndim < 3 or known.shape != inputs.shape[:1]:
        return None
    return RawSplit(inputs, known)


def _files(dataset: Any, in_order: bool) -> RawSplit | None:
    """Return the files of a dataset, such as Food101's; None if it has no list of them."""
    pairs = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
    if pairs is None:
        files = getattr(dataset, "_image_files", None) or getattr(dataset, "_images", None)
        labels = getattr(dataset, "_labels", None)
        if files is None or labels is None or len(files) != len(labels):
            return None
        pairs = list(zip(files, labels, strict=True))
    if len(pairs) != len(dataset) or not all(_is_file(pair) for pair in pairs):
        return None
    named = [(os.path.abspath(file), int(label)) for file, label in pairs]
    ordered = named if in_order else sorted(named)
    return RawSplit(tuple(file for file, _ in ordered), [label for _, label in ordered])


def _is_file(pair: Any) -> bool:
    return isinstance(pair[0], str | os.PathLike) and isinstance(pair[1], int)


def _one_by_one(dataset: Any, what: str) -> RawSplit:
    """Read all items of a dataset."""
    has_items = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not has_items or isinstance(dataset, Tensor | np.ndarray | Mapping | str):
        raise InputError(
            f"{what} must be a pair (inputs, labels) or a torch Dataset with a length, but got "
            f"{type(dataset).__name__}"
        )
    examples, labels = [], []
    for i in range(len(dataset)):
        with user_code(f"{what} fails at item {i}"):
            item = dataset[i]
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputError(
                f"the items of {what} must be pairs (x, y), but item {i} is {type(item).__name__}"
            )
        examples.append(item[0])
        labels.append(_label(item[1]))
    return RawSplit(_stacked(examples, what), labels)


def _label(label: Any) -> Any:
    """Return a label; that of an array or tensor with one element as a number."""
    if isinstance(label, Tensor | np.ndarray):
        size = label.numel() if isinstance(label, Tensor) else label.size
        return label.item() if size == 1 else label
    return label


def _stacked(examples: list[Any], what: str) -> Tensor:
    """Return examples as one tensor [N, ...]."""
    if not examples:
        return torch.empty(0)
    pillow = [isinstance(x, Image.Image) for x in examples]
    if all(pillow):
        grey = all(x.mode in ("1", "L") for x in examples)
        with user_code(f"{what} has an image that cannot be read"):
            tensors = [pixels(x, "L" if grey else "RGB") for x in examples]
    else:
        tensors = [as_tensor(x, f"item {i} of {what}") for i, x in enumerate(examples)]
    first = tensors[0]
    for i, x in enumerate(tensors):
        if x.shape != first.shape or x.dtype != first.dtype:
            raise InputError(
                f"the items of {what} must have one shape and type, but item 0 has "
                f"{list(first.shape)} of {first.dtype} and item {i} has {list(x.shape)} of "
                f"{x.dtype}; resize or pad them in the dataset"
            )
    return torch.stack(tensors)
