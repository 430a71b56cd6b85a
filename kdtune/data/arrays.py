"""Data sets from arrays, torch datasets and factories, and images without labels."""

import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Subset, TensorDataset

from kdtune.config.fields import REST, is_function_name
from kdtune.config.objects import Passed
from kdtune.config.run import Run
from kdtune.config.text import (
    IMAGE_CHANNELS,
    VAL_NAMES,
    InputError,
    first_line,
    import_named,
    shown,
    user_code,
)
from kdtune.data import dataset as data_set
from kdtune.data.dataset import Data, Extra, Split, combine_hashes, hash_tensor, name_splits
from kdtune.data.folder import IMAGE_SUFFIXES, OTHER_FORMATS, describe_left_out, scan_images

# Data sets from arrays: checks and conversion of inputs and labels.

_Inputs = Tensor | tuple[str, ...]
"""Examples: a tensor [N, ...], or image files."""


class RawSplit(NamedTuple):
    """Inputs and labels of a split as they were given."""

    inputs: _Inputs
    labels: Any
    """Whole numbers or strings, [N]: tensor, array or list; None if they do not matter."""


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
    inputs = {split: _as_images(values.inputs) for split, values in raw.items()}
    labels = {s: _label_array(f"{name} ({s})", values.labels) for s, values in raw.items()}
    for split, examples in inputs.items():
        count = 0 if _is_empty(examples) else len(examples)
        kind, kind_of_train = _describe_inputs(examples), _describe_inputs(inputs["train"])
        if not count or kind != kind_of_train or count != len(labels[split]):
            raise InputError(
                f"{name} ({split}) must have examples [N, ...] of the same shape and type as train "
                f"({kind_of_train}), each with a label, but has {count} examples ({kind}) and "
                f"{len(labels[split])} labels"
            )
    names, numbers = _number_classes(name, labels, classes)
    splits, hashes = dict[str, Split](), list[str]()
    for split, examples in inputs.items():
        content, stamps = _hash_inputs(examples, root)
        splits[split] = Split(numbers[split], examples, stamps)
        hashes += [split, content, hash_tensor(numbers[split])]
    is_files = isinstance(inputs["train"], tuple)
    return Data(names, splits, combine_hashes(*names, *hashes), photos=is_files, root=root)


def _hash_inputs(inputs: _Inputs, root: str) -> tuple[str, Tensor | None]:
    """Return a hash of examples, and the stamps of image files."""
    if isinstance(inputs, Tensor):
        return hash_tensor(inputs), None
    hashed = data_set.hash_files(Path(root), inputs)
    return hashed.hash, hashed.stamps


def _as_tensor(values: Any, noun: str) -> Tensor:
    """Return an array or tensor as a tensor of the same type on the CPU.

    Args:
        values: a tensor, an array, or nested lists of numbers.
        noun: names them in an error.

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
            f"{noun} must be a tensor or an array of numbers of one shape, but got "
            f"{type(values).__name__} ({first_line(error, 100)})"
        ) from None


def _as_images(inputs: _Inputs) -> _Inputs:
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


def _is_empty(inputs: _Inputs) -> bool:
    return (isinstance(inputs, Tensor) and inputs.ndim == 0) or not len(inputs)


def common_folder(*inputs: _Inputs) -> str:
    """Return the innermost folder that holds all image files; "" without any."""
    files = [file for examples in inputs if isinstance(examples, tuple) for file in examples]
    return os.path.commonpath(map(os.path.dirname, files)) if files else ""


def _describe_inputs(inputs: _Inputs) -> str:
    """Return the shape and type of an example in words."""
    if not isinstance(inputs, Tensor):
        return "image files"
    return f"{list(inputs.shape[1:])} of {str(inputs.dtype).removeprefix('torch.')}"


def _label_array(noun: str, labels: Any, role: str = "labels") -> np.ndarray[Any, Any]:
    """Return labels or groups as an array [N] of int64 or str; raise InputError for others."""
    array = labels.detach().cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    if array.ndim == 1 and array.dtype.kind in "biu":
        return array.astype(np.int64)
    if array.ndim == 1 and all(isinstance(label, str) for label in array.tolist()):
        return array.astype(str)
    raise InputError(
        f"the {role} of {noun} must be whole numbers or strings, one for each example, [N], but "
        f"are {array.dtype} {list(array.shape)}"
    )


def _number_classes(
    name: str, labels: Mapping[str, np.ndarray[Any, Any]], classes: Sequence[str] | None
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Return the names of the classes, and each split's labels as their numbers, int64 [N]."""
    if labels["train"].dtype.kind == "U":
        names = tuple(classes or sorted(set(labels["train"].tolist())))
        number: dict[Any, int] = {label: k for k, label in enumerate(names)}
        allowed = "classes of train"
    else:
        count = 1 + max(int(v.max()) for v in labels.values() if v.dtype.kind == "i")
        names = tuple(classes or map(str, range(count)))
        number = {k: k for k in range(len(names))}
        allowed = f"from 0 to {len(names) - 1}, one less than the number of classes"
    for split, values in labels.items():
        if unknown := sorted(set(values.tolist()) - number.keys()):
            raise InputError(
                f"the labels of {name} ({split}) must be {allowed}, but got {shown(unknown)}"
            )
    if len(names) < 2:
        raise InputError(f"{name} must have at least two classes, but has {', '.join(names)} alone")
    present = set(labels["train"].tolist())
    if missing := [names[k] for label, k in number.items() if label not in present]:
        raise InputError(
            f"{name} (train) must have examples of each of its {len(names)} classes, but has none "
            f"of {shown(missing)}; number the classes from 0 without gaps"
        )
    numbers = {
        split: torch.tensor([number[label] for label in values.tolist()], dtype=torch.int64)
        for split, values in labels.items()
    }
    return names, numbers


# Examples and labels of torch's map-style datasets.


def read_dataset(
    dataset: Any, noun: str, in_order: bool = False, labelled: bool = True
) -> RawSplit:
    """Return all examples of a dataset.

    Those of torchvision's datasets without transforms are taken whole: their arrays, or their list
    of files. Others are read one by one, once: whatever they draw at random is drawn once.

    Args:
        dataset: of pairs (x, y); x is a tensor, an array, a number or an image of Pillow.
        noun: names the dataset in an error.
        in_order: keep the dataset's order; else a list of files is sorted, since some datasets list
            a folder in the order of the file system.
        labelled: False if labels do not matter, so that items may also be x alone.

    Raises:
        InputError: it is no such dataset, or its examples differ in shape or type.
    """
    if isinstance(dataset, TensorDataset) and (len(dataset.tensors) == 2 or not labelled):
        return RawSplit(dataset.tensors[0], dataset.tensors[1] if labelled else None)
    if type(dataset) is Subset:
        # indices count in the dataset's order
        whole = read_dataset(dataset.dataset, noun, in_order=True, labelled=labelled)
        index = torch.as_tensor(dataset.indices, dtype=torch.int64)
        labels = np.asarray(whole.labels)[index.numpy()] if labelled else None
        if isinstance(whole.inputs, Tensor):
            return RawSplit(whole.inputs[index], labels)
        return RawSplit(tuple(whole.inputs[i] for i in index.tolist()), labels)
    if _is_plain_torchvision(dataset):
        raw = _arrays(dataset) or _files(dataset, in_order)
        if raw is not None:
            return raw
    return _one_by_one(dataset, noun, labelled)


def class_names(dataset: Any) -> list[str] | None:
    """Return the names of the classes that a dataset has, or None."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or not names:
        return None
    # ImageNet has a tuple of synonyms for each class
    return [str(name[0]) if isinstance(name, tuple) else str(name) for name in names]


def _is_plain_torchvision(dataset: Any) -> bool:
    """Return True for a dataset of torchvision whose items are its images and labels unchanged."""
    if not type(dataset).__module__.startswith("torchvision.datasets."):
        return False
    from torchvision.datasets.folder import default_loader

    changes = (getattr(dataset, n, None) for n in ("transform", "target_transform", "transforms"))
    has_own_loader = getattr(dataset, "loader", default_loader) is not default_loader
    return not any(changes) and not has_own_loader


def _arrays(dataset: Any) -> RawSplit | None:
    """Return the arrays of a dataset, such as CIFAR10's; None if it has none."""
    images = getattr(dataset, "data", None)
    targets = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if not isinstance(images, Tensor | np.ndarray) or targets is None:
        return None
    inputs, labels = _as_tensor(images, "images"), _as_tensor(targets, "labels")
    if inputs.dtype != torch.uint8 or inputs.ndim < 3 or labels.shape != inputs.shape[:1]:
        return None
    return RawSplit(inputs, labels)


def _files(dataset: Any, in_order: bool) -> RawSplit | None:
    """Return the files of a dataset, such as Food101's; None if it has no list of them."""
    pairs = getattr(dataset, "samples", None) or getattr(dataset, "_samples", None)
    if pairs is None:
        files = getattr(dataset, "_image_files", None) or getattr(dataset, "_images", None)
        labels = getattr(dataset, "_labels", None)
        if files is None or labels is None or len(files) != len(labels):
            return None
        pairs = list(zip(files, labels, strict=True))
    are_files = all(isinstance(x, str | os.PathLike) and isinstance(y, int) for x, y in pairs)
    if len(pairs) != len(dataset) or not are_files:
        return None
    named = [(os.path.abspath(file), int(label)) for file, label in pairs]
    ordered = named if in_order else sorted(named)
    return RawSplit(tuple(file for file, _ in ordered), [label for _, label in ordered])


def _one_by_one(dataset: Any, noun: str, labelled: bool) -> RawSplit:
    """Read all items of a dataset."""
    has_items = hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")
    if not has_items or isinstance(dataset, Tensor | np.ndarray | Mapping | str):
        raise InputError(
            f"{noun} must be a pair (inputs, labels), or inputs alone where labels do not matter, "
            f"or a torch Dataset with a length, but got {type(dataset).__name__}"
        )
    examples, labels = [], []
    for i in range(len(dataset)):
        with user_code(f"{noun} fails at item {i}"):
            item = dataset[i]
        is_sequence = isinstance(item, tuple | list)
        if labelled and not (is_sequence and len(item) == 2):
            raise InputError(
                f"the items of {noun} must be pairs (x, y), but item {i} is {type(item).__name__}"
            )
        examples.append(item[0] if is_sequence else item)
        label = item[1] if labelled else None
        if isinstance(label, Tensor | np.ndarray) and len(label.reshape(-1)) == 1:
            label = label.item()
        labels.append(label)
    return RawSplit(_stacked(examples, noun), labels)


def _stacked(examples: list[Any], noun: str) -> Tensor:
    """Return examples as one tensor [N, ...]."""
    if not examples:
        return torch.empty(0)
    pillow = [isinstance(x, Image.Image) for x in examples]
    if all(pillow):
        grey = all(x.mode in ("1", "L") for x in examples)
        with user_code(f"{noun} has an image that cannot be read"):
            tensors = [data_set.pixels(x, "L" if grey else "RGB") for x in examples]
    else:
        tensors = [_as_tensor(x, f"item {i} of {noun}") for i, x in enumerate(examples)]
    first = tensors[0]
    for i, x in enumerate(tensors):
        if x.shape != first.shape or x.dtype != first.dtype:
            raise InputError(
                f"the items of {noun} must be like the first, {list(first.shape)} of "
                f"{first.dtype}, but item {i} has {list(x.shape)} of {x.dtype}; resize or pad them"
            )
    return torch.stack(tensors)


# Data sets of the user's own: `module:factory`, a function without arguments; passed objects.

_KEYS = ("train", *VAL_NAMES, "test", "classes", "groups")


def load_user_data(name: str, passed: Passed | None = None) -> Data:
    """Return the data set that a user's function makes, or that was passed as an object.

    The function returns a dict with train and perhaps val and test, each a pair (inputs [N, ...],
    labels [N]) of tensors or arrays, or a torch Dataset of pairs (x, y); `classes` may name the
    classes, and `groups` the group of each example, a dict of splits. Random numbers that the
    function draws are the same in every process.

    Args:
        name: module:function, or that of the object.
        passed: the object, such a function or what it would return.

    Returns:
        The data set, without val if there is none.

    Raises:
        InputError: the function fails, or what it returns does not fit.
    """
    source = import_named("the data", name) if passed is None else passed.value
    with _seeded(), user_code(f"the data {name} cannot be made"):
        made = source() if callable(source) else source
        splits = _splits(name, made)
        groups = _groups(name, made)
        # a list of files is sorted, unless there are groups in its order
        raw = {s: _read(x, f"{name} ({s})", in_order=bool(groups)) for s, x in splits.items()}
    root = common_folder(*(values.inputs for values in raw.values()))
    data = make_data(name, raw, _classes(name, made), root)
    return data_set.with_groups(name, data, groups) if groups else data


def _splits(name: str, made: Any) -> dict[str, Any]:
    """Return the splits by name; raise InputError if there are others, or two of val."""
    if not isinstance(made, Mapping):
        raise InputError(
            f'{name} must return a dict such as {{"train": (inputs, labels), "val": ...}}, but '
            f"returned {type(made).__name__}"
        )
    if unknown := [key for key in made if key not in _KEYS]:
        raise InputError(
            f"{name} must have the keys train, val, test, classes and groups only, but has "
            f"{unknown[0]!r}"
        )
    named = name_splits([key for key in made if made[key] is not None], name)
    return {split: made[key] for split, key in named.items()}


def _groups(name: str, made: Mapping[str, Any]) -> dict[str, data_set.Groups]:
    """Return the names of the groups by split; {} without groups."""
    if (given := made.get("groups")) is None:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            f'the groups of {name} must be a dict of its splits, such as {{"train": patients}}, '
            f"but are {type(given).__name__}"
        )
    named = name_splits(list(given), f"the groups of {name}")
    arrays = {s: _label_array(f"{name} ({s})", given[key], "groups") for s, key in named.items()}
    return {split: array.astype(np.str_) for split, array in arrays.items()}


def _read(value: Any, noun: str, labelled: bool = True, in_order: bool = False) -> RawSplit:
    """Return the examples of a pair (inputs, labels) or of a dataset; of inputs if unlabelled."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return RawSplit(_as_tensor(value[0], f"the inputs of {noun}"), value[1])
    if not labelled and isinstance(value, Tensor | np.ndarray):
        return RawSplit(_as_tensor(value, noun), None)
    return read_dataset(value, noun, in_order, labelled)


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


# Images without labels: a further split of the data, for which the teacher's outputs are learnt.
#
# They are those of a folder, those that a function of the user's returns, or "rest": the images of
# train that the student has no labels of. Labels that they may have are dropped when they are read.

_NO_LABEL = -1
"""In place of a label; as a class it is an error wherever it is used."""


UnlabelledImages = tuple[Split, Extra, tuple[str, ...]]
"""Images of a folder or function, where they come from, and warnings."""


def add_extra(data: Data, run: Run, images: UnlabelledImages | None = None) -> Data:
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
        return _with_rest(data, run)
    split, extra, warnings = read_extra(run.extra) if images is None else images
    _check_like_train(run.extra, split, data.splits["train"])
    splits = {**data.splits, "extra": split}
    return replace(data, splits=splits, extra=extra, warnings=data.warnings + warnings)


def _with_rest(data: Data, run: Run) -> Data:
    """Return the data with the images of train that `Data.subset` leaves out."""
    train = data.splits["train"]
    left = torch.ones(len(train), dtype=torch.bool)
    left[data.subset(run)] = False
    if not left.any():
        raise InputError(
            f"--extra rest must leave images without labels, but --train-images {run.train_images} "
            f"takes all of train; use fewer, or a folder of images (--extra FOLDER)"
        )
    rest = train.select(left.nonzero()[:, 0])
    rest = replace(rest, labels=torch.full((len(rest),), _NO_LABEL))
    fingerprint = combine_hashes(data.fingerprint, REST, hash_tensor(left))
    extra = Extra(fingerprint, REST, data.root)
    return replace(data, splits={**data.splits, "extra": rest}, extra=extra)


def read_extra(name: str) -> UnlabelledImages:
    """Read the images without labels of a folder or function.

    Raises:
        InputError: There are none, or the function fails.
    """
    inputs: _Inputs
    left_out = list[str]()
    if is_function_name(name):
        function = import_named("the images without labels", name)
        with _seeded(), user_code(f"the images without labels {name} cannot be made"):
            inputs = _as_images(_read(function(), f"what {name} returns", labelled=False).inputs)
        root = common_folder(inputs)
    else:
        root = str(Path(name).expanduser())
        images = scan_images(Path(root))
        left_out = images.left_out
        inputs = tuple(sorted(images.files, key=lambda f: Path(f).relative_to(root).as_posix()))
    if _is_empty(inputs):
        raise InputError(
            f"--extra must be rest, module:factory or a folder, which has images without labels "
            f"(in a folder files with the suffixes {IMAGE_SUFFIXES}), but {name} has none"
        )
    content, stamps = _hash_inputs(inputs, root)
    split = Split(torch.full((len(inputs),), _NO_LABEL), inputs, stamps)
    extra = Extra(combine_hashes("extra", content), name, root)
    warning = describe_left_out(Path(root), {OTHER_FORMATS: left_out})
    return split, extra, (warning,) if warning else ()


def _check_like_train(name: str, extra: Split, train: Split) -> None:
    """Raise InputError unless teacher and student can see these images as they see train's."""

    def form(split: Split) -> tuple[object, ...]:
        if not isinstance(split.inputs, Tensor):
            return (split.kind,)
        end = 2 if split.kind == "images" else None  # views resize images
        return split.kind, split.inputs.dtype, split.inputs.shape[1:end]

    if form(extra) != form(train):
        raise InputError(
            f"the examples of --extra {name} must be like those of train, "
            f"{_describe_inputs(train.inputs)}, but are {_describe_inputs(extra.inputs)}; convert "
            f"them"
        )
