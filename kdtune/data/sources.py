"""Data sets by name or path.

A name is an entry of `SOURCES`, torchvision:NAME, module:factory or that of a passed object;
anything else is the path of a folder of images.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
import torch

from kdtune.config.errors import InputError
from kdtune.config.names import is_named_data, is_object
from kdtune.config.objects import Passed
from kdtune.config.run import Run
from kdtune.data.dataset import Data, Split, ValCut
from kdtune.data.extra import clear_cached_extra
from kdtune.data.folder import load_folder
from kdtune.data.folds import FoldCut, cut_fold
from kdtune.data.torchvision_data import dataset_names, load_torchvision
from kdtune.data.user_data import load_user_data, read_passed_data
from kdtune.data.val_cut import cut_val


def load_fashion() -> Data:
    """Return the embedded Fashion-MNIST subset: 2,000 train, 500 val and 1,000 test images."""
    content = (resources.files("kdtune") / "assets" / "fashion.npz").read_bytes()
    arrays = dict(np.load(io.BytesIO(content)))
    splits = {
        name: Split(
            labels=torch.from_numpy(arrays[f"{name}_labels"]).long(),
            inputs=torch.from_numpy(arrays[f"{name}_images"]).unsqueeze(1),
        )
        for name in ("train", "val", "test")
    }
    classes = tuple(str(name) for name in arrays["classes"])
    return Data(classes, splits, hashlib.sha256(content).hexdigest()[:16], photos=False)


SOURCES: Mapping[str, Callable[[], Data]] = {"fashion": load_fashion}
"""Functions that load the data sets that have a name."""


def load_data(run: Run) -> Data:
    """Return the data set of a run, with a val that is cut from train if it has none.

    With `Run.folds`, train and val are those of the run's repeat. A process loads each data set
    once; `clear_cached_data` makes it forget them.

    Raises:
        InputError: the data do not exist, or do not fit; see `load_folder`, `load_torchvision` and
            `load_user_data`.
    """
    if is_object(run.data):
        return _load_passed(run, run.objects.get("data", run.data))
    whole = _load(run.data, run.data_root, run.download)
    if run.folds is not None:
        fold = FoldCut(run.seed, run.folds, run.split_repeat)
        return _load_fold(run.data, run.data_root, run.download, fold)
    if "val" in whole.splits:
        return whole
    cut = ValCut(run.seed, run.val_share)
    return _load_with_val(run.data, run.data_root, run.download, cut)


def _load_passed(run: Run, passed: Passed) -> Data:
    """Return the data set of a passed object, which is read once."""
    whole: Data = passed.once("data", lambda: read_passed_data(run.data, passed))
    if run.folds is not None:
        return _fold_of_passed(passed, FoldCut(run.seed, run.folds, run.split_repeat))
    if "val" in whole.splits:
        return whole
    cut = ValCut(run.seed, run.val_share)
    return passed.once(cut, lambda: cut_val(whole, cut))  # type: ignore[no-any-return]


def folder_differs(run: Run) -> bool | None:
    """Return whether the folder of a run's data now holds others than this process has read.

    None if the data are in no folder of images.

    Raises:
        InputError: the folder can no longer be read; see `load_folder`.
    """
    if run.data in SOURCES or is_named_data(run.data):
        return None
    known = _load(run.data, run.data_root, run.download)
    return load_folder(Path(run.data).expanduser()).fingerprint != known.fingerprint


def clear_cached_data() -> None:
    """Drop the data sets that this process has loaded."""
    _load.cache_clear()
    _load_with_val.cache_clear()
    _load_fold.cache_clear()
    _fold_of_passed.cache_clear()
    clear_cached_extra()


@cache
def _load(name: str, root: str | None, download: bool) -> Data:
    """Return the data set of this name, or the one in the folder of this path."""
    if name in SOURCES:
        return SOURCES[name]()
    if not is_named_data(name):
        folder = Path(name).expanduser()
        if folder.name in dataset_names() and not folder.exists():
            raise InputError(
                f"there is no folder {folder}; the dataset of torchvision is "
                f"--data torchvision:{folder.name}"
            )
        return load_folder(folder)
    home, _, own = name.partition(":")
    return load_torchvision(own, root, download) if home == "torchvision" else load_user_data(name)


@cache
def _load_with_val(name: str, root: str | None, download: bool, cut: ValCut) -> Data:
    return cut_val(_load(name, root, download), cut)


@lru_cache(maxsize=4)  # each holds a copy of the examples that are tensors
def _load_fold(name: str, root: str | None, download: bool, cut: FoldCut) -> Data:
    return cut_fold(_load(name, root, download), cut)


@lru_cache(maxsize=4)
def _fold_of_passed(passed: Passed, cut: FoldCut) -> Data:
    return cut_fold(passed.notes["data"], cut)
