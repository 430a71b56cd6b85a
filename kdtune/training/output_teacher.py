"""The teacher of a file of outputs: its rows matched with the examples of the data."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.dataset import Data
from kdtune.models.outputs import OutputsOfSplit, OutputTable, OutputTeacher, read_outputs

_MAX_SHOWN = 3
"""Ids that an error names."""
MAX_MATCHED = 4
"""Teachers that a process keeps for its next runs."""
_matched: dict[tuple[Any, ...], OutputTeacher] = {}
"""By file, its size and time, data, and the part of train that the student learns from."""


def load_output_teacher(run: Run, data: Data) -> OutputTeacher:
    """Return the run's teacher, which is a file; a process matches it with the data once.

    Raises:
        InputError: The file cannot be read, its classes are others, or its ids are not those of the
            examples: of train those that the student learns from, all of val and all of test.
    """
    file = Path(run.weights_of("teacher")).expanduser()
    stat = file.stat() if file.is_file() else None
    version = None if stat is None else (stat.st_size, stat.st_mtime_ns)
    subset = () if run.train_images is None else (run.train_images, run.seed)
    key = (file, version, run.teacher, data.fingerprint, *subset)
    if key not in _matched:
        _matched[key] = _match(run, data, read_outputs(file, data.classes))
        while len(_matched) > MAX_MATCHED:
            del _matched[next(iter(_matched))]
    return _matched[key]


def clear_output_teachers() -> None:
    """Drop the teachers that this process keeps."""
    _matched.clear()


def file_names(data: Data, split: str) -> tuple[str, ...] | None:
    """Return the file of each example, relative to the data's folder; None if they are no files."""
    inputs = data.splits[split].inputs
    if not isinstance(inputs, tuple):
        return None
    return tuple(Path(file).relative_to(data.root).as_posix() for file in inputs)


def _match(run: Run, data: Data, table: OutputTable) -> OutputTeacher:
    """Return the logits of the table in the order of the data."""
    if any(part.are_files for part in table.parts):
        found = _by_file(run, data, table)
    else:
        _check_indices(run, data, table)
        found = _by_index(data, table)
    for split, logits in found.items():
        index = data.subset(run).numpy() if split == "train" else np.arange(len(logits))
        lacking = index[np.isnan(logits[index, 0])]
        if len(lacking):
            raise InputError(
                f"{table.file} must have outputs for all {len(index):,} examples of {split}"
                f"{' that the student learns from' if split == 'train' else ''}, but lacks "
                f"{_examples(_names(data, split, lacking, table))}"
            )
    tensors = {split: torch.from_numpy(values) for split, values in found.items()}
    return OutputTeacher(run.teacher, table.digest, tensors, table.record)


def _empty(data: Data) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the logits of each split before any is known, NaN [N, K]."""
    shapes = {split: (len(data.splits[split]), len(data.classes)) for split in _labelled(data)}
    return {split: np.full(shape, np.nan, dtype=np.float32) for split, shape in shapes.items()}


def _labelled(data: Data) -> list[str]:
    return [split for split in data.splits if split != "extra"]


def _by_index(data: Data, table: OutputTable) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the logits of each split from rows with the index of their example."""
    found = _empty(data)
    for part in table.parts:
        split = str(part.split)
        count = len(data.splits[split]) if split in data.splits else 0
        numbers = part.ids.astype(np.int64)
        unknown = numbers[(numbers < 0) | (numbers >= count)]
        if len(unknown):
            raise InputError(
                f"{table.file} must have outputs for the {count:,} examples of {split} alone, "
                f"numbered from 0, but has {_examples(unknown.tolist())}"
            )
        _refuse_duplicates(table, part, f" of {split}")
        found[split][numbers] = part.logits
    return found


def _by_file(
    run: Run, data: Data, table: OutputTable
) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the logits of each split from rows with the file of their example."""
    found = _empty(data)
    names = {split: file_names(data, split) for split in _labelled(data)}
    if any(own is None for own in names.values()):
        raise InputError(
            f"{table.file} must name the examples by split and index (example), since those of "
            f"--data {run.data} are no files, but names them by file"
        )
    place = {file: (s, i) for s, own in names.items() for i, file in enumerate(own or ())}
    whole = OutputsOfSplit(
        None,
        np.concatenate([_relative(part, data) for part in table.parts]),
        np.concatenate([part.logits for part in table.parts]),
    )
    unknown = [file for file in whole.ids.tolist() if file not in place]
    if unknown:
        raise InputError(
            f"{table.file} must have outputs for the files of --data {run.data} alone, named "
            f"relative to it, such as {next(iter(place))}, but has {_examples(unknown)}"
        )
    _refuse_duplicates(table, whole, "")
    for row, file in enumerate(whole.ids.tolist()):
        split, number = place[file]
        found[split][number] = whole.logits[row]
    return found


def _relative(part: OutputsOfSplit, data: Data) -> Any:
    """Return the ids of a part relative to the folder of the data, without a leading ./ ."""
    if not part.are_files:
        raise InputError("train_ids, val_ids and test_ids must all be indices, or all be files")
    root = f"{Path(data.root).as_posix()}/"
    names = [Path(str(name)).as_posix().removeprefix(root) for name in part.ids.tolist()]
    return np.array(names, dtype=np.str_)


def _check_indices(run: Run, data: Data, table: OutputTable) -> None:
    """Raise InputError where the index of an example may be that of another one in the file."""
    record, again = table.record, "write the file again (python -m kdtune.teacher --dump)"
    if data.fold is not None:
        raise InputError(
            f"{table.file} must name the examples by file with --folds, since their index differs "
            f"between repeats; leave out --folds"
        )
    if record is not None and record.data != data.fingerprint:
        raise InputError(
            f"{table.file} must be of the same data as the study, but was written for others "
            f"(fingerprint {record.data}, not {data.fingerprint}); {again}"
        )
    if record is None and data.cut is not None:
        raise InputError(
            f"{table.file} must name the examples by file, since val is cut from train and their "
            f"index depends on the cut; give --data {run.data} a val, or {again}"
        )


def _refuse_duplicates(table: OutputTable, part: OutputsOfSplit, where: str) -> None:
    index = pd.Index(part.ids)
    if index.has_duplicates:
        twice = index[index.duplicated()].unique().tolist()
        raise InputError(
            f"{table.file} must have each example{where} once, but has more than one row for "
            f"{_examples(twice)}"
        )


def _names(
    data: Data, split: str, numbers: np.ndarray[Any, np.dtype[np.int64]], table: OutputTable
) -> Sequence[object]:
    """Return examples as the table names them."""
    files = file_names(data, split) if table.parts and table.parts[0].are_files else None
    return [number if files is None else files[number] for number in numbers.tolist()]


def _examples(ids: Sequence[object]) -> str:
    """Return how many ids there are and the first of them."""
    more = ", ..." if len(ids) > _MAX_SHOWN else ""
    return f"{len(ids):,} ({', '.join(map(str, ids[:_MAX_SHOWN]))}{more})"
