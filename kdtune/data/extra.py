"""Images without labels: a further split of the data, from which only the teacher's word is learnt.

They are those of a folder, those that a function of the user's returns, or "rest": the images of
train that the student has no labels of. Labels that they may have are dropped when they are read.
"""

import importlib
from dataclasses import replace
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision.datasets.folder import IMG_EXTENSIONS

from kdtune.config.errors import InputError
from kdtune.config.names import REST, is_function_name
from kdtune.config.run import Run
from kdtune.config.user_code import user_code
from kdtune.data.arrays import as_images, as_tensor, common_folder, describe_inputs
from kdtune.data.content import combine_hashes, hash_files, hash_tensor
from kdtune.data.dataset import Data, Extra, Split
from kdtune.data.scan import LEFT_OUT, describe, find_images
from kdtune.data.torch_datasets import is_plain_torchvision, read_dataset
from kdtune.data.user_data import seeded

NO_LABEL = -1
"""In place of a label; as a class it is an error wherever it is used."""

Inputs = Tensor | tuple[str, ...]


def with_extra(data: Data, run: Run) -> Data:
    """Return the data with the run's images without labels as the split "extra".

    Args:
        data: Of `load_data`.
        run: Its `extra`; None leaves the data as they are.

    Raises:
        InputError: There are no such images, or they are not like those of train.
    """
    if run.extra is None:
        return data
    if run.extra == REST:
        return _with_rest(data, run.train_images, run.seed)
    inputs, root, warnings = _load(run.extra)
    _check_like_train(run.extra, inputs, data)
    fingerprint, stamps = _hash(run.extra)
    own = Split(torch.full((len(inputs),), NO_LABEL), inputs, stamps)
    return _joined(data, own, Extra(fingerprint, run.extra, root), warnings)


def extra_differs(folder: str) -> bool:
    """Return whether a folder of images without labels holds others than this process has read.

    Raises:
        InputError: The folder can no longer be read.
    """
    inputs, root, _ = _files(Path(folder).expanduser())
    assert not isinstance(inputs, Tensor)  # noqa: S101 - a folder has files
    return _hash(folder)[0] != combine_hashes("extra", hash_files(Path(root), inputs).hash)


def clear_cached_extra() -> None:
    """Drop the images that this process has loaded."""
    for function in (_load, _hash, _with_rest):
        function.cache_clear()


def _joined(data: Data, own: Split, extra: Extra, warnings: tuple[str, ...] = ()) -> Data:
    splits = {**data.splits, "extra": own}
    return replace(data, splits=splits, extra=extra, warnings=data.warnings + warnings)


@lru_cache(maxsize=4)  # each holds a copy of the examples that are tensors
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
    own = replace(own, labels=torch.full((len(own),), NO_LABEL))
    return _joined(data, own, Extra(fingerprint, REST, data.root))


# -- reading -----------------------------------------------------------------------------------


@cache
def _load(name: str) -> tuple[Inputs, str, tuple[str, ...]]:
    """Return the images of a folder or function, and what is known of their files.

    Returns:
        The images, the folder that files are named relative to, and warnings.

    Raises:
        InputError: There are none, or the function fails.
    """
    if not is_function_name(name):
        root = Path(name).expanduser()
        return _files(root)
    home, _, attribute = name.partition(":")
    with user_code(f"the images without labels {name} cannot be imported"):
        function = getattr(importlib.import_module(home), attribute)
    with seeded(), user_code(f"the images without labels {name} cannot be made"):
        inputs = as_images(_read(function(), name))
    if (isinstance(inputs, Tensor) and inputs.ndim == 0) or not len(inputs):
        raise InputError(f"{name} must return images without labels, [N, ...], but returns none")
    return inputs, common_folder(inputs), ()


def _files(root: Path) -> tuple[Inputs, str, tuple[str, ...]]:
    """Return the image files in a folder and all folders in it, sorted by their names in it."""
    if not root.is_dir():
        raise InputError(
            f"--extra must be a folder of images, rest or module:factory, but there is no folder "
            f"{root}; give one (--extra FOLDER)"
        )
    found = find_images(root, circles=True)
    # a hidden file without a name has no suffix here
    files = [file for file in map(Path, found.images) if file.suffix.lower() in IMG_EXTENSIONS]
    if not files:
        raise InputError(
            f"--extra must be a folder of images, but {root} has no files with the suffixes "
            f"{', '.join(IMG_EXTENSIONS)}; give another folder"
        )
    files.sort(key=lambda file: file.relative_to(root).as_posix())
    left_out = describe(found.left_out, root, LEFT_OUT)
    return tuple(map(str, files)), str(root), (left_out,) if left_out else ()


def _read(value: Any, what: str) -> Inputs:
    """Return the inputs of a tensor, an array, a pair (inputs, labels) or a dataset."""
    if isinstance(value, Tensor | np.ndarray):
        return as_tensor(value, f"the images of {what}")
    if isinstance(value, tuple | list) and len(value) == 2:
        return as_tensor(value[0], f"the images of {what}")
    if isinstance(value, TensorDataset):
        return value.tensors[0]
    if is_plain_torchvision(_innermost(value)):
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
        return (item[0] if isinstance(item, tuple | list) else item), NO_LABEL


@cache
def _hash(name: str) -> tuple[str, Tensor | None]:
    """Return the fingerprint of the images of a folder or function, and the stamps of files."""
    inputs, root, _ = _load(name)
    if isinstance(inputs, Tensor):
        return combine_hashes("extra", hash_tensor(inputs)), None
    content, stamps = hash_files(Path(root), inputs)
    return combine_hashes("extra", content), stamps


def _check_like_train(name: str, inputs: Inputs, data: Data) -> None:
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
        f"{describe_inputs(train.inputs)} and --extra has {describe_inputs(inputs)}; convert them"
    )
