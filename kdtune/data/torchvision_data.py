"""Classification datasets of torchvision: `torchvision:NAME`.

How a dataset names its splits follows from the parameters of its class: `train` (CIFAR10), `split`
(Food101), or none of them (EuroSAT, whose images are all train).
"""

import inspect
import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import torchvision
from filelock import FileLock

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import cache_folder
from kdtune.data.arrays import RawSplit, make_data
from kdtune.data.dataset import Data
from kdtune.data.torch_datasets import class_names, read_dataset

Arguments = Mapping[str, Any]

CONVENTIONS: Mapping[str, Mapping[str, Sequence[Arguments]]] = {
    "train": {"train": [{"train": True}], "test": [{"train": False}]},
    "split": {
        "train": [{"split": "train"}, {"split": "trainval"}],
        "val": [{"split": "val"}, {"split": "valid"}],
        "test": [{"split": "test"}],
    },
    "": {"train": [{}]},
}
"""Arguments for each split, by the parameter that a dataset's class has. Of several, the first that
the class knows is taken."""
OTHERS: Mapping[str, Mapping[str, Sequence[Arguments]]] = {
    "EMNIST": {
        "train": [{"split": "balanced", "train": True}],
        "test": [{"split": "balanced", "train": False}],
    },
}
"""Arguments for each split of datasets that follow none of the conventions."""
NO_DATA_SETS = {"ImageFolder", "DatasetFolder", "VisionDataset", "LSUNClass"}
"""Names in torchvision.datasets that are no data sets of their own."""


def load_torchvision(name: str, root: str | None, download: bool) -> Data:
    """Return a dataset of torchvision.

    CIFAR10 and CIFAR100 come as Python pickles. They are read by torchvision's own code, which
    compares their MD5 with the published one first.

    Args:
        name: of the class in torchvision.datasets.
        root: folder that holds its files; None: torchvision in the user's cache folder.
        download: download files that are missing.

    Returns:
        The dataset, without val if it has none.

    Raises:
        InputError: there is no such dataset, or its files are missing.
    """
    full, make = f"torchvision:{name}", _dataset_class(name)
    place = Path(root).expanduser() if root else cache_folder() / "torchvision"
    parameters = inspect.signature(make).parameters
    kind = next((own for own in CONVENTIONS if own in parameters), "")
    found = {}
    for split, candidates in OTHERS.get(name, CONVENTIONS[kind]).items():
        dataset = _first(full, make, place, candidates, download)
        if dataset is not None:
            found[split] = dataset
    if "train" not in found:
        raise InputError(f"{full} has no split for training; use it through module:factory")
    raw: dict[str, RawSplit] = {}
    for split, dataset in found.items():
        raw[split] = read_dataset(dataset, f"{full} ({split})")
    return make_data(full, raw, class_names(found["train"]), os.path.abspath(place))


@cache
def dataset_names() -> list[str]:
    """Return the names of torchvision's datasets of labelled images that need a folder alone."""
    names = sorted(set(torchvision.datasets.__all__) - NO_DATA_SETS)
    return [name for name in names if _is_labelled(getattr(torchvision.datasets, name))]


def _is_labelled(make: Any) -> bool:
    parameters = inspect.signature(make).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    labelled = any(p.name == "target_transform" or p.kind is p.VAR_KEYWORD for p in parameters)
    return labelled and needed in (["root"], ["root", "split"])


def _dataset_class(name: str) -> Any:
    names = dataset_names()
    if name in names:
        return getattr(torchvision.datasets, name)
    near = {own.lower(): own for own in names}
    close = [near[own] for own in get_close_matches(name.lower(), near, n=3, cutoff=0.5)]
    hint = f"; did you mean {', '.join(f'torchvision:{own}' for own in close)}?" if close else ""
    raise InputError(f"torchvision has no dataset {name}{hint}")


def _first(
    full: str, make: Any, root: Path, candidates: Sequence[Arguments], download: bool
) -> Any | None:
    """Return the dataset of the first arguments that its class knows; None if it knows none."""
    for arguments in candidates:
        try:
            return _made(full, make, root, arguments, download)
        except _UnknownSplitError:
            continue
    return None


class _UnknownSplitError(Exception):
    """A dataset has no split of this name."""


def _made(full: str, make: Any, root: Path, arguments: Arguments, download: bool) -> Any:
    """Return the dataset; raise InputError if its files are missing or cannot be downloaded."""
    try:
        if not (download and _can_download(make)):
            return make(str(root), **arguments)
        root.mkdir(parents=True, exist_ok=True)
        # processes of one machine download once
        with FileLock(root / f".{full.partition(':')[2]}.lock"):
            return make(str(root), **arguments, download=True)
    except Exception as error:  # each dataset raises errors of its own
        reason = first_line(error).partition(" You can use")[0].rstrip(".")
        if isinstance(error, ValueError) and reason.startswith("Unknown value"):
            raise _UnknownSplitError from None
        if download:
            raise InputError(
                f"{full} cannot be downloaded to {root} ({reason}). Download it elsewhere, and "
                f"name the folder of its files (--data-root FOLDER)."
            ) from None
        remedy = ", or download them (--download)" if _can_download(make) else ""
        raise InputError(
            f"{full} cannot be read from {root} ({reason}). Name the folder of its files "
            f"(--data-root FOLDER){remedy}."
        ) from None


def _can_download(make: Any) -> bool:
    """Return True if a class, or one that it derives from, takes `download`."""
    return any("download" in inspect.signature(c.__init__).parameters for c in make.__mro__)
