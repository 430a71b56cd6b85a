"""Data sets from arrays, torch datasets and factories, and images without labels."""

import importlib
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets.folder import IMG_EXTENSIONS, default_loader

from kdtune.config.fields import REST, is_function_name
from kdtune.config.objects import Passed
from kdtune.config.run import Run
from kdtune.config.text import IMAGE_CHANNELS, VAL_NAMES, InputError, first_line, user_code
from kdtune.data.dataset import (
    Data,
    Extra,
    Split,
    combine_hashes,
    hash_files,
    hash_tensor,
    name_splits,
    pixels,
)
from kdtune.data.folder import OTHER_FORMATS, READ_ALREADY, describe_left_out, find_class_images

# Data sets from arrays: checks and conversion of inputs and labels.


_MAX_NAMED = 5
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
    inputs = {split: _as_images(own.inputs) for split, own in raw.items()}
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


def _as_tensor(values: Any, what: str) -> Tensor:
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


def _as_images(inputs: Tensor | tuple[str, ...]) -> Tensor | tuple[str, ...]:
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
    if (mine := _describe_inputs(own)) != (other := _describe_inputs(train)):
        raise InputError(
            f"the examples of {name} must have one shape and type, but train has {other} and "
            f"{split} has {mine}"
        )


def _common_folder(*inputs: Tensor | tuple[str, ...]) -> str:
    """Return the innermost folder that holds all image files; "" without any."""
    files = [file for own in inputs if isinstance(own, tuple) for file in own]
    return os.path.commonpath([os.path.dirname(file) for file in files]) if files else ""


def _describe_inputs(inputs: Tensor | tuple[str, ...]) -> str:
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
    more = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {more} more" if more > 0 else "")


# Examples and labels of torch's map-style datasets.


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
    if _is_plain_torchvision(dataset):
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


def _is_plain_torchvision(dataset: Any) -> bool:
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
    inputs, known = _as_tensor(images, "images"), _as_tensor(labels, "labels")
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
        tensors = [_as_tensor(x, f"item {i} of {what}") for i, x in enumerate(examples)]
    first = tensors[0]
    for i, x in enumerate(tensors):
        if x.shape != first.shape or x.dtype != first.dtype:
            raise InputError(
                f"the items of {what} must have one shape and type, but item 0 has "
                f"{list(first.shape)} of {first.dtype} and item {i} has {list(x.shape)} of "
                f"{x.dtype}; resize or pad them in the dataset"
            )
    return torch.stack(tensors)


# Data sets of the user's own: `module:factory`, a function without arguments; passed objects.


_KEYS = ("train", *VAL_NAMES, "test", "classes")


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
    with _seeded(), user_code(f"the data {name} cannot be made"):
        made = source() if callable(source) else source
        splits = _splits(name, made)
        raw = {split: _read(value, f"{name} ({split})") for split, value in splits.items()}
    return make_data(
        name, raw, _classes(name, made), _common_folder(*(own.inputs for own in raw.values()))
    )


def _splits(name: str, made: Any) -> dict[str, Any]:
    """Return the splits by name; raise InputError if there are others, or two of val."""
    if not isinstance(made, Mapping):
        raise InputError(
            f'{name} must return a dict such as {{"train": (inputs, labels), "val": ...}}, but '
            f"returned {type(made).__name__}"
        )
    if unknown := [key for key in made if key not in _KEYS]:
        raise InputError(
            f"{name} must have the keys train, val, test and classes only, but has {unknown[0]!r}"
        )
    named = name_splits([key for key in made if made[key] is not None], name)
    return {split: made[key] for split, key in named.items()}


def _read(value: Any, what: str) -> RawSplit:
    """Return the examples of a pair (inputs, labels) or of a dataset."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return RawSplit(_as_tensor(value[0], f"the inputs of {what}"), value[1])
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
def _seeded() -> Iterator[None]:
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


# Images without labels: a further split of the data, from which only the teacher's word is learnt.
#
# They are those of a folder, those that a function of the user's returns, or "rest": the images of
# train that the student has no labels of. Labels that they may have are dropped when they are read.


_NO_LABEL = -1
"""In place of a label; as a class it is an error wherever it is used."""

_Inputs = Tensor | tuple[str, ...]


@dataclass(frozen=True)
class UnlabelledImages:
    """Images without labels of a folder or function."""

    inputs: _Inputs
    root: str
    """Folder that files are named relative to."""
    warnings: tuple[str, ...]
    """Sentences on images that were left out."""
    fingerprint: str
    stamps: Tensor | None
    """Of files, see `Split`."""


def with_extra(data: Data, run: Run, images: UnlabelledImages | None = None) -> Data:
    """Return the data with the run's images without labels as the split "extra".

    Args:
        data: Of `load_data`.
        run: Its `extra`; None leaves the data as they are.
        images: Those of `read_extra`; None reads them.

    Raises:
        InputError: There are no such images, or they are not like those of train.
    """
    if run.extra is None:
        return data
    if run.extra == REST:
        return _with_rest(data, run.train_images, run.seed)
    images = images or read_extra(run.extra)
    _check_like_train(run.extra, images.inputs, data)
    labels = torch.full((len(images.inputs),), _NO_LABEL)
    split = Split(labels, images.inputs, images.stamps)
    return _joined(data, split, Extra(images.fingerprint, run.extra, images.root), images.warnings)


def _joined(data: Data, own: Split, extra: Extra, warnings: tuple[str, ...] = ()) -> Data:
    splits = {**data.splits, "extra": own}
    return replace(data, splits=splits, extra=extra, warnings=data.warnings + warnings)


def _with_rest(data: Data, train_images: int | None, seed: int) -> Data:
    """Return the data with the images of train that `Data.subset` leaves out."""
    train = data.splits["train"]
    left = torch.ones(len(train), dtype=torch.bool)
    left[data.subset(replace(Run(), train_images=train_images, seed=seed))] = False
    if not left.any():
        raise InputError(
            f"--extra rest must leave images without labels, but --train-images {train_images} "
            f"takes all of train; use fewer, or a folder of images (--extra FOLDER)"
        )
    fingerprint = combine_hashes(data.fingerprint, REST, hash_tensor(left))
    own = train.select(left.nonzero()[:, 0])
    own = replace(own, labels=torch.full((len(own),), _NO_LABEL))
    return _joined(data, own, Extra(fingerprint, REST, data.root))


# -- reading -----------------------------------------------------------------------------------


def read_extra(name: str) -> UnlabelledImages:
    """Read the images of a folder or function.

    Raises:
        InputError: There are none, or the function fails.
    """
    if not is_function_name(name):
        inputs, folder, warnings = _image_files(Path(name).expanduser())
    else:
        inputs, warnings = _call_extra(name), ()
        folder = _common_folder(inputs)
    if isinstance(inputs, Tensor):
        content, stamps = hash_tensor(inputs), None
    else:
        content, stamps = hash_files(Path(folder), inputs)
    return UnlabelledImages(inputs, folder, warnings, combine_hashes("extra", content), stamps)


def _call_extra(name: str) -> _Inputs:
    home, _, attribute = name.partition(":")
    with user_code(f"the images without labels {name} cannot be imported"):
        function = getattr(importlib.import_module(home), attribute)
    with _seeded(), user_code(f"the images without labels {name} cannot be made"):
        inputs = _as_images(_read_extra(function(), name))
    if (isinstance(inputs, Tensor) and inputs.ndim == 0) or not len(inputs):
        raise InputError(f"{name} must return images without labels, [N, ...], but returns none")
    return inputs


def _image_files(root: Path) -> tuple[_Inputs, str, tuple[str, ...]]:
    """Return the image files in a folder and all folders in it, sorted by their names in it."""
    if not root.is_dir():
        raise InputError(
            f"--extra must be a folder of images, rest or module:factory, but there is no folder "
            f"{root}; give one (--extra FOLDER)"
        )
    (images,) = find_class_images([root])
    # a hidden file without a name has no suffix here
    files = [file for file in map(Path, images.images) if file.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise InputError(
            f"--extra must be a folder of images, but {root} has no files with the suffixes "
            f"{', '.join(IMG_EXTENSIONS)}; give another folder"
        )
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    reasons = {OTHER_FORMATS: images.left_out, READ_ALREADY: images.skipped}
    warning = describe_left_out(root, reasons)
    return tuple(map(str, files)), str(root), (warning,) if warning else ()


def _read_extra(value: Any, what: str) -> _Inputs:
    """Return the inputs of a tensor, an array, a pair (inputs, labels) or a dataset."""
    if isinstance(value, Tensor | np.ndarray):
        return _as_tensor(value, f"the images of {what}")
    if isinstance(value, tuple | list) and len(value) == 2:
        return _as_tensor(value[0], f"the images of {what}")
    if isinstance(value, TensorDataset):
        return value.tensors[0]
    if _is_plain_torchvision(_innermost(value)):
        return read_dataset(value, what).inputs
    is_dataset = hasattr(value, "__getitem__") and hasattr(value, "__len__")
    if not is_dataset or isinstance(value, dict | str):
        raise InputError(
            f"{what} must return a tensor or array of images or a torch Dataset with a length, but "
            f"returned {type(value).__name__}"
        )
    return read_dataset(_WithoutLabels(value), what).inputs


def _innermost(dataset: Any) -> Any:
    """Return the dataset below all subsets."""
    while type(dataset) is Subset:
        dataset = dataset.dataset
    return dataset


class _WithoutLabels(Dataset[Any]):
    """A dataset of x or of pairs (x, y), as one of pairs without a meaningful y."""

    def __init__(self, own: Any):
        self.own = own

    def __len__(self) -> int:
        return len(self.own)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        item = self.own[index]
        return (item[0] if isinstance(item, tuple | list) else item), _NO_LABEL


def _check_like_train(name: str, inputs: _Inputs, data: Data) -> None:
    """Raise InputError unless teacher and student can see these images as they see train's."""
    train = data.splits["train"]
    own = Split(torch.empty(len(inputs)), inputs)
    fits = own.kind == train.kind
    if fits and isinstance(inputs, Tensor) and isinstance(train.inputs, Tensor):
        mine, others = inputs, train.inputs
        # views resize images
        fits = mine.dtype == others.dtype and (
            mine.shape[1] == others.shape[1]
            if own.kind == "images"
            else mine.shape[1:] == others.shape[1:]
        )
    if fits:
        return
    same = "channels" if train.kind == "images" else "shape"
    like = "image files" if train.kind == "files" else f"tensors of the same {same} and type"
    raise InputError(
        f"the examples of --extra {name} must be {like}, as those of train, but train has "
        f"{_describe_inputs(train.inputs)} and --extra has {_describe_inputs(inputs)}; convert them"
    )
