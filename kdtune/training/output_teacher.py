"""The teacher of a file of outputs: its rows matched with the examples of the data."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.dataset import Data
from kdtune.models.outputs import OutputTable, OutputTeacher, read_outputs

_MAX_SHOWN = 3
"""Examples that an error names."""
_MAX_MATCHED = 4
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
        while len(_matched) > _MAX_MATCHED:
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


def _numbers(data: Data, split: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    return np.arange(len(data.splits[split]))


def _match(run: Run, data: Data, table: OutputTable) -> OutputTeacher:
    """Return the logits of the table in the order of the data."""
    by_file = any(part.split is None for part in table.parts)
    _check_ids(run, data, table, by_file)
    rows = pd.concat([pd.DataFrame({"split": part.split, "id": part.ids}) for part in table.parts])
    splits = [split for split in ("train", "val", "test") if split in data.splits]
    names = file_names if by_file else _numbers
    examples = pd.concat([pd.DataFrame({"split": s, "id": names(data, s)}) for s in splits])
    if by_file:  # relative to the folder of the data, without a leading ./
        root = f"{Path(data.root).as_posix()}/"
        rows["id"] = [Path(name).as_posix().removeprefix(root) for name in rows["id"].map(str)]
    columns = ["id"] if by_file else ["split", "id"]
    have, want = (pd.MultiIndex.from_frame(frame[columns]) for frame in (rows, examples))
    is_needed = (examples["split"] != "train").to_numpy(copy=True)
    is_needed[: len(data.splits["train"])][data.subset(run).numpy()] = True
    for faults, requirement in (
        (rows[~have.isin(want)], "have rows for examples of the data alone, but has others"),
        (rows[have.duplicated()], "have one row for each example, but has more"),
        (
            examples[is_needed & ~want.isin(have)],
            "have a row for each example of val and test, and for those of train that the student "
            "learns from, but lacks some",
        ),
    ):
        wrong = faults["id"] if by_file else faults["split"] + " " + faults["id"].astype(str)
        if len(faults):
            more = ", ..." if len(faults) > _MAX_SHOWN else ""
            raise InputError(
                f"{table.file} must {requirement}: {len(faults):,} "
                f"({', '.join(wrong[:_MAX_SHOWN])}{more})"
            )
    row = have.get_indexer(want)
    logits = np.full((len(examples), len(data.classes)), np.nan, dtype=np.float32)
    logits[row >= 0] = np.concatenate([part.logits for part in table.parts])[row[row >= 0]]
    parts = torch.from_numpy(logits).split([len(data.splits[split]) for split in splits])
    by_split = dict(zip(splits, parts, strict=True))
    return OutputTeacher(run.teacher, table.digest, by_split, table.record)


def _check_ids(run: Run, data: Data, table: OutputTable, by_file: bool) -> None:
    """Raise InputError unless the ids of the rows can tell which examples of the data these are."""
    record, again = table.record, "write the file again (python -m kdtune.teacher --dump)"
    for is_wrong, requirement in (
        (
            by_file and not all(part.split is None for part in table.parts),
            "name all examples by their index, or all by their file",
        ),
        (
            by_file and data.kind != "files",
            f"name the examples by split and index (example), since those of --data {run.data} "
            f"are no files",
        ),
        (
            not by_file and data.fold is not None,
            "name the examples by file with --folds, since their index differs between repeats; "
            "leave out --folds",
        ),
        (
            not by_file and record is not None and record.data != data.fingerprint,
            f"be of the same data as the study (fingerprint {data.fingerprint}); {again}",
        ),
        (
            not by_file and record is None and data.cut is not None,
            f"name the examples by file, since val is cut from train and their index depends on "
            f"the cut; give --data {run.data} a val, or {again}",
        ),
    ):
        if is_wrong:
            raise InputError(f"{table.file} must {requirement}")
