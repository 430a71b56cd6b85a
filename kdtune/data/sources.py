"""Data sets by name or path."""

import hashlib
import inspect
import io
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
import torch
from filelock import FileLock

from kdtune.config import fields, text
from kdtune.config.fields import HUB, pairs
from kdtune.config.files import atomic_write, cache_folder, check_uri, make_folder
from kdtune.config.run import Run
from kdtune.config.text import InputError, did_you_mean, first_line, list_some, shown
from kdtune.data import arrays
from kdtune.data import dataset as data_set
from kdtune.data.arrays import RawSplit, load_user_data, make_data
from kdtune.data.dataset import Data, Groups, combine_hashes, name_splits, with_groups
from kdtune.data.folder import load_folder

if TYPE_CHECKING:
    import pandas as pd

# Classification datasets of torchvision: `torchvision:NAME`.
#
# How a dataset names its splits follows from the parameters of its class: `train` (CIFAR10),
# `split` (Food101), or none of them (EuroSAT, whose images are all train).

_Arguments = Mapping[str, Any]

_CONVENTIONS: Mapping[str, Mapping[str, Sequence[_Arguments]]] = {
    "train": {"train": [{"train": True}], "test": [{"train": False}]},
    "split": {
        "train": [{"split": "train"}, {"split": "trainval"}],
        "val": [{"split": "val"}, {"split": "valid"}],
        "test": [{"split": "test"}],
    },
    "": {"train": [{}]},
}
"""Arguments for each split, by the parameter that a dataset's class has. Of several, the first that
the class accepts are used."""
_OTHERS: Mapping[str, Mapping[str, Sequence[_Arguments]]] = {
    "EMNIST": {
        "train": [{"split": "balanced", "train": True}],
        "test": [{"split": "balanced", "train": False}],
    }
}
"""Arguments for each split of datasets that follow none of the conventions."""
_NOT_DATASETS = {"ImageFolder", "DatasetFolder", "VisionDataset", "LSUNClass"}
"""Names in torchvision.datasets that are no datasets: base classes, and a part of LSUN."""


def load_torchvision(name: str, root: str | None, download: bool) -> Data:
    """Return a dataset of torchvision.

    CIFAR10 and CIFAR100 come as Python pickles. They are read by torchvision's own code, which
    compares their MD5 with the published one first.

    Args:
        name: of the class in torchvision.datasets.
        root: folder that holds its files. None: the folder torchvision in the user's cache folder.
        download: download files that are missing.

    Returns:
        The dataset, without val if it has none.

    Raises:
        InputError: there is no such dataset, or its files are missing.
    """
    data_name, dataset_class = f"torchvision:{name}", _dataset_class(name)
    folder = Path(root).expanduser() if root else cache_folder() / "torchvision"
    parameters = inspect.signature(dataset_class).parameters
    convention = next((word for word in ("train", "split") if word in parameters), "")
    datasets = {}
    for split, candidates in _OTHERS.get(name, _CONVENTIONS[convention]).items():
        made = (
            _make_dataset(data_name, dataset_class, folder, arguments, download)
            for arguments in candidates
        )
        dataset = next((dataset for dataset in made if dataset is not None), None)
        if dataset is not None:
            datasets[split] = dataset
    if "train" not in datasets:
        raise InputError(
            f"{data_name} has no split for training; write a function that returns its splits, and "
            f"name it: --data module:function"
        )
    raw = {s: arrays.read_dataset(dataset, f"{data_name} ({s})") for s, dataset in datasets.items()}
    return make_data(data_name, raw, arrays.class_names(datasets["train"]), os.path.abspath(folder))


@cache
def _is_supported(dataset_class: Any) -> bool:
    """Return True for labelled images whose class requires no argument but root and split."""
    parameters = inspect.signature(dataset_class).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]
    # a class with labels takes a transform of them, or passes its keywords on to one that does
    labelled = any(p.name == "target_transform" or p.kind is p.VAR_KEYWORD for p in parameters)
    return labelled and needed in (["root"], ["root", "split"])


def _dataset_class(name: str) -> Any:
    """Return the class of a name among those of labelled images that only need a folder."""
    from torchvision import datasets

    listed = sorted(set(datasets.__all__) - _NOT_DATASETS)
    names = [other for other in listed if _is_supported(getattr(datasets, other))]
    if name in names:
        return getattr(datasets, name)
    hint = did_you_mean(f"torchvision:{name}", [f"torchvision:{other}" for other in names], most=3)
    raise InputError(f"torchvision has no dataset {name} of labelled images{hint}")


def _make_dataset(
    data_name: str, dataset_class: Any, root: Path, arguments: _Arguments, download: bool
) -> Any:
    """Return the dataset that a class makes of these arguments; None if it has no such split.

    Raises InputError if its files are missing or cannot be downloaded.
    """
    # a class may pass its keywords on, so the parameter may be one of a base class
    signatures = (inspect.signature(base.__init__) for base in dataset_class.__mro__)
    can_download = any("download" in signature.parameters for signature in signatures)
    try:
        if not (download and can_download):
            return dataset_class(str(root), **arguments)
        root.mkdir(parents=True, exist_ok=True)
        # processes of one machine download once
        with FileLock(root / f".{data_name.partition(':')[2]}.lock"):
            return dataset_class(str(root), **arguments, download=True)
    except Exception as error:  # the datasets raise many kinds
        # " You can use download=True" is advice for callers in Python; the remedy names the flag
        reason = first_line(error).partition(" You can use")[0].rstrip(".")
        # how torchvision refuses a split that the class does not have
        if isinstance(error, ValueError) and reason.startswith("Unknown value"):
            return None
        attempt = f"{'downloaded to' if download and can_download else 'read from'} {root}"
        remedy = ", or download them (--download)" if can_download and not download else ""
        raise InputError(
            f"{data_name} cannot be {attempt} ({reason}). Name the folder of its files "
            f"(--data-root FOLDER){remedy}."
        ) from None


# A table with a row for each image file: `TABLE.csv`, `TABLE.parquet`.

_SPLITS = ("train", *text.VAL_NAMES, "test")


def load_table(file: Path, columns: tuple[str, ...] | None = None) -> Data:
    """Return the data set of a table of image files.

    The examples of a split are in the order that a folder gives them: by class, then by path.

    Args:
        file: csv or parquet with the columns path (below the table's folder, or absolute, or of
            objects in a store: s3://BUCKET/NAME), label and perhaps split and group. Without split,
            all rows are train.
        columns: ROLE=COLUMN for columns with other names, see `Run.columns`.

    Returns:
        The data set, without val if no row has it.

    Raises:
        InputError: the table cannot be read, or a row does not fit; the message names the first.
    """
    import pandas as pd  # which kdtune.predict does without

    names = {role: role for role in fields.TABLE_COLUMNS} | dict(pairs(columns or ()))
    rows, folder = _read_table(file, names), os.path.abspath(file.parent)

    def describe(row: int, role: str) -> str:
        return f"row {row + 1} below the header of {file}, column {names[role]}"

    def check(role: str, fits: Iterable[bool], requirement: str) -> None:
        if not all(fits := list(fits)):
            row = fits.index(False)
            raise InputError(
                f"{describe(row, role)} must be {requirement}, but is "
                f"{shown(rows[role].iloc[row])}; correct or remove the row"
            )

    for role in rows:
        check(role, rows[role] != "", "filled")
    paths = rows["path"]
    if paths.str.contains("://").any():
        are_objects = paths.str.fullmatch(r"\w+://[^/]+/.+") & ~paths.str.contains(
            "..", regex=False
        )
        check("path", are_objects, "an object as those of other rows, s3://BUCKET/NAME")
        folder, paths = str(_copy_objects(paths)), paths.str.replace("://", "/")
    files = pd.Index([os.path.normpath(os.path.join(folder, path)) for path in paths])
    are_readable = (os.path.isfile(path) and os.access(path, os.R_OK) for path in files)
    check("path", are_readable, f"a local file that can be read, absolute or below {folder}")
    check("path", ~files.duplicated(), "an image that no row above has")
    check("split", rows["split"].isin(_SPLITS), f"one of {', '.join(_SPLITS)}")
    splits = name_splits(rows["split"].unique().tolist(), str(file))
    of_train = rows["label"][rows["split"] == "train"]
    check("label", rows["label"].isin(of_train), "a class that rows of train have")

    classes = sorted(of_train.unique())
    if all(label.isdecimal() for label in classes):
        classes.sort(key=int)
    number = {label: k for k, label in enumerate(classes)}
    rows = rows.assign(
        file=files, folder=files.map(os.path.dirname), number=rows["label"].map(number)
    ).sort_values(["number", "folder", "file"])
    parts = {split: rows[rows["split"] == word] for split, word in splits.items()}
    raw = {s: RawSplit(tuple(part["file"]), part["label"].tolist()) for s, part in parts.items()}
    is_below = os.path.commonpath([folder, *files]) == folder
    root = folder if is_below else arrays.common_folder(tuple(files))
    data = make_data(str(file), raw, classes, root)
    data = replace(data, describe_row=lambda f: f" ({describe(files.get_loc(f), 'path')})")
    if "group" not in rows:
        return data
    return with_groups(str(file), data, {s: p["group"].to_numpy(np.str_) for s, p in parts.items()})


def _copy_objects(uris: Iterable[str]) -> Path:
    """Return the folder of copies SCHEME/BUCKET/NAME of objects, in the cache folder."""
    from kdtune.storage.store import Store  # obstore takes long to import

    folder, names = make_folder(cache_folder(), "objects"), defaultdict[str, list[str]](list)
    for scheme, bucket, name in (re.split("://|/", uri, maxsplit=2) for uri in uris):
        names[f"{scheme}://{bucket}"].append(os.path.normpath(name))
    for bucket, of_bucket in names.items():
        check_uri(bucket)
        try:
            Store(bucket).copy_changed(of_bucket, folder / bucket.replace("://", "/"))
        except OSError as error:
            raise InputError(f"{bucket} cannot be read ({first_line(error)})") from None
    return folder


def _read_table(file: Path, names: Mapping[str, str]) -> "pd.DataFrame":
    """Return the columns path, label, split and perhaps group of a table, as text.

    Args:
        file: The table.
        names: Column of each role; "" for none.
    """
    import pandas as pd  # as above

    try:
        if file.suffix == ".csv":
            options = {"keep_default_na": False, "skipinitialspace": True, "index_col": False}
            table = pd.read_csv(file, dtype=str, **options)
        else:
            table = pd.read_parquet(file, dtype_backend="pyarrow")
    except (OSError, ValueError) as error:
        raise InputError(f"the table {file} cannot be read ({first_line(error)})") from None
    rows = pd.DataFrame(index=table.index)
    for role, column in names.items():
        if column in table:
            rows[role] = table[column].astype("string").fillna("").str.strip()
        elif role in ("path", "label") or column not in ("", role):
            raise InputError(
                f"{file} must have a column {column} for the {role} of each image, but has "
                f"{list_some([*table.columns], 10)}; name another one (--columns {role}=COLUMN)"
            )
    return rows if "split" in rows else rows.assign(split="train")


# Data sets of Hugging Face: `hf:NAME`, and `hf:FOLDER` of `datasets.Dataset.save_to_disk`.


def load_hub(name: str, columns: tuple[str, ...] | None) -> Data:
    """Return a data set that the package `datasets` reads.

    The files of its images, as they are stored, are written to the cache folder once.

    Args:
        name: hf:NAME or hf:FOLDER.
        columns: ROLE=COLUMN where there are several columns of images or of class labels, and of
            groups, see `Run.columns`.

    Returns:
        The data set, without val if it has none.

    Raises:
        InputError: there is no such data set, or it does not fit.
    """
    datasets, source = text.import_package("datasets", name), name.removeprefix(HUB)
    names, raw, groups = dict(pairs(columns or ())), dict[str, RawSplit](), dict[str, Groups]()
    with text.user_code(f"the data {name} cannot be read"):
        folder = Path(source).expanduser()
        is_saved = folder.is_dir()
        made = datasets.load_from_disk(folder) if is_saved else datasets.load_dataset(source)
        made = made if isinstance(made, dict) else {"train": made}
        splits = {split: made[key] for split, key in name_splits([*made], name).items()}
        features = splits["train"].features
        for role, kind in (("path", datasets.Image), ("label", datasets.ClassLabel)):
            fitting = [n for n, feature in features.items() if isinstance(feature, kind)]
            asked = [names[role]] if role in names else fitting
            if len(asked) != 1 or asked[0] not in fitting:
                raise InputError(
                    f"{name} must have one column of the type {kind.__name__} for the {role} of "
                    f"each image, but has {shown(fitting)}; name it (--columns {role}=COLUMN)"
                )
            names[role] = asked[0]
        prints = combine_hashes(*(rows._fingerprint for rows in splits.values()), names["path"])
        root = make_folder(cache_folder(), "images", prints)
        for split, rows in splits.items():
            stored = rows.cast_column(names["path"], datasets.Image(decode=False))
            files = [make_folder(root, split) / str(i) for i in range(len(rows))]
            for i in (i for i, file in enumerate(files) if not file.exists()):
                image = stored[i][names["path"]]
                with atomic_write(files[i]) as part:
                    part.write_bytes(image["bytes"] or Path(image["path"]).read_bytes())
            raw[split] = RawSplit(tuple(map(str, files)), [*rows[names["label"]]])
            if "group" in names or "group" in features:
                groups[split] = np.array([*map(str, rows[names.get("group", "group")])])
    data = make_data(name, raw, features[names["label"]].names, str(root))
    return with_groups(name, data, groups) if groups else data


# Data sets by name or path.
#
# A name is an entry of `SOURCES`, torchvision:NAME, hf:NAME, module:factory or object:NAME
# (passed in Python); anything else is the path of a table, or of a folder of images.


def load_fashion() -> Data:
    """Return the embedded Fashion-MNIST subset: 2,000 train, 500 val and 1,000 test images."""
    content = (resources.files("kdtune") / "assets" / "fashion.npz").read_bytes()
    stored = dict(np.load(io.BytesIO(content)))
    splits = {
        name: data_set.Split(
            labels=torch.from_numpy(stored[f"{name}_labels"]).long(),
            inputs=torch.from_numpy(stored[f"{name}_images"]).unsqueeze(1),
        )
        for name in ("train", "val", "test")
    }
    classes = tuple(str(name) for name in stored["classes"])
    return Data(classes, splits, hashlib.sha256(content).hexdigest()[:16], photos=False)


SOURCES: Mapping[str, Callable[[], Data]] = {"fashion": load_fashion}
"""Loaders of the data sets that are part of kdtune, by name."""


MAX_CACHED_DATA = 4
"""Size of each cache of `StudyData`; an entry may hold a copy of the examples that are tensors."""


class StudyData:
    """The data of a study, read once. A run gets them unchanged, or with a val cut from train.

    Args:
        run: Any run of the study.

    Raises:
        InputError: The data do not exist, or do not fit; see `load_folder`, `load_table`,
            `load_torchvision`, `load_hub` and `load_user_data`.
    """

    def __init__(self, run: Run):
        self.run = run
        self.token = uuid4().hex
        """Random; tells this reading of the data from all others."""
        whole = _read(run)
        self._whole = data_set.group_files(run.data, whole, run.groups) if run.groups else whole
        self._cut_cache: dict[object, Data] = {}
        self._extra_cache: dict[object, Data] = {}

    def of(self, run: Run) -> Data:
        """Return the data of a run, with a val that is cut from train if they have none.

        With `Run.folds`, train and val are those of the run's repeat.
        """
        if run.folds is not None:
            fold = data_set.FoldCut(run.seed, run.folds, run.split_repeat)
            return _cached(self._cut_cache, fold, lambda: data_set.cut_fold(self._whole, fold))
        if "val" in self._whole.splits:
            return self._whole
        cut = data_set.ValCut(run.seed, run.val_share)
        return _cached(self._cut_cache, cut, lambda: data_set.cut_val(self._whole, cut))

    def with_extra(self, run: Run) -> Data:
        """Return the data of a run with its images without labels as the split "extra".

        Raises:
            InputError: There are no such images, or they are not like those of train.
        """
        data = self.of(run)
        if run.extra is None:
            return data
        key = (data, run.train_images, run.seed, run.repeat_of_draw)
        return _cached(self._extra_cache, key, lambda: arrays.add_extra(data, run, self._extra))

    @cached_property
    def _extra(self) -> arrays.UnlabelledImages | None:
        extra = self.run.extra
        return None if extra is None or extra == fields.REST else arrays.read_extra(extra)


def _cached(cache: dict[object, Data], key: object, make: Callable[[], Data]) -> Data:
    """Return an entry of a cache, made if it is missing; the least recently used one is dropped."""
    cache[key] = cache.pop(key) if key in cache else make()  # moves it to the end of the dict
    while len(cache) > MAX_CACHED_DATA:
        del cache[next(iter(cache))]
    return cache[key]


def load_data(run: Run) -> Data:
    """Read the data set of one run, see `StudyData`."""
    return StudyData(run).of(run)


def _read(run: Run) -> Data:
    """Return the data set that `run.data` names: a passed object, a name, a table or a folder."""
    name = run.data
    if fields.is_object(name):
        passed = run.objects.get("data", name)
        whole: Data = passed.once("data", lambda: load_user_data(name, passed))
        return whole
    if name in SOURCES:
        return SOURCES[name]()
    if not fields.is_named_data(name):
        path = Path(name).expanduser()
        return load_table(path, run.columns) if fields.is_image_table(name) else load_folder(path)
    if name.startswith("torchvision:"):
        return load_torchvision(name.removeprefix("torchvision:"), run.data_root, run.download)
    if name.startswith(HUB):
        return load_hub(name, run.columns)
    return load_user_data(name)
