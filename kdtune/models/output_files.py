"""Reading a file of a teacher's outputs, .parquet or .npz.

docs/teachers.md describes the formats. Nothing is unpickled.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kdtune.config.errors import InputError, first_line
from kdtune.config.files import describe_missing
from kdtune.models.output_rows import (
    Array,
    Lists,
    Rows,
    class_names,
    class_order,
    indices,
    to_logits,
)
from kdtune.models.output_size import check_npz_size, check_parquet_size
from kdtune.models.outputs import METADATA, OutputsRecord

SPLITS = ("train", "val", "test")
KINDS = ("logits", "probabilities", "top_probabilities")
TOP = "top_classes"
UNREADABLE = (
    *(OSError, EOFError, ValueError, pa.ArrowException, zipfile.BadZipFile, zlib.error),
    # an encrypted archive; a damaged shape; deep nesting; metadata of other types
    *(RuntimeError, MemoryError, RecursionError, AttributeError),
)
"""Errors of the libraries that read the files."""


@dataclass(frozen=True, eq=False)
class Part:
    """Outputs of the examples of a split, or of examples that are named by their files."""

    split: str | None
    """None: the file does not say."""
    ids: Array
    """Of each example: its index in the split, int64, or its file, str; [N]."""
    logits: NDArray[np.float32]
    """[N, K], with the classes in the order of the data."""

    @property
    def are_files(self) -> bool:
        """Whether examples are named by their files."""
        return self.ids.dtype.kind not in "iu"


@dataclass(frozen=True, eq=False)
class OutputTable:
    """The content of a file of outputs."""

    file: str
    parts: tuple[Part, ...]
    digest: str
    """16 hex digits that change with the numbers, the ids and the names of the classes."""
    record: OutputsRecord | None
    """What kdtune has written into it; None in files of others."""


def read_outputs(file: Path, classes: tuple[str, ...]) -> OutputTable:
    """Return the content of a file of outputs.

    Args:
        file: A .parquet or .npz file.
        classes: Of the data.

    Raises:
        InputError: The file does not exist, cannot be read, or has no outputs for these classes.
    """
    if not file.is_file():
        raise InputError(
            f"a teacher whose name ends in {file.suffix} must be a file of its outputs, but "
            f"{describe_missing(file)}; python -m kdtune.teacher --dump {file.name} writes one"
        )
    try:
        content = _read_npz(file) if file.suffix == ".npz" else _read_parquet(file)
    except InputError:  # which is a ValueError
        raise
    except UNREADABLE as error:
        reason = first_line(error, 120)
        raise InputError(
            f"{file} must be a {file.suffix} file of a teacher's outputs, but cannot be read "
            f"({reason})"
        ) from None
    order = class_order(file.name, content.classes, classes)
    parts = [Part(s, ids, to_logits(rows, classes, order)) for s, ids, rows in content.parts]
    return OutputTable(file.name, tuple(parts), _digest(content), content.record)


@dataclass(frozen=True)
class _Content:
    """A file before its numbers are checked."""

    parts: list[tuple[str | None, Array, Rows]]
    classes: tuple[str, ...] | None
    record: OutputsRecord | None


def _digest(content: _Content) -> str:
    """Return 16 hex digits that change with the content of a file, not with its format.

    It is of the numbers as they stand in the file, since a logarithm may have other last bits on
    another machine.
    """
    digests: dict[str, Any] = {}
    for split, ids, rows in content.parts:
        columns: dict[str, Array] = {"ids": ids, "lengths": rows.outputs.lengths}
        columns[rows.kind] = rows.outputs.values.astype(np.float32)
        columns |= {} if rows.top is None else {TOP: rows.top.values}
        for name, values in columns.items():
            is_text = values.dtype.kind == "U"
            part = "\0".join(values.tolist()).encode() + b"\0" if is_text else values.tobytes()
            digests.setdefault(f"{split} {name}", hashlib.sha256()).update(part)
    named = {name: digest.hexdigest() for name, digest in digests.items()}
    text = json.dumps([content.classes, named], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# -- parquet -----------------------------------------------------------------------------------


def _read_parquet(file: Path) -> _Content:
    """Return the content of a parquet file with a row for each example."""
    metadata = pq.read_schema(file).metadata or {}
    present = pq.read_schema(file).names
    kind = _kind_of(file.name, present)
    wanted = {"split", "example", "file", kind} | ({TOP} if kind == "top_probabilities" else set())
    check_parquet_size(file, wanted)
    table = pq.read_table(file, columns=[name for name in present if name in wanted])
    if kind == "top_probabilities" and TOP not in present:
        raise InputError(f"{file.name} must have the column {TOP} beside {kind}")
    ids, splits = _parquet_ids(file.name, table)
    outputs = _parquet_lists(file.name, table, kind)
    top = _parquet_lists(file.name, table, TOP) if kind == "top_probabilities" else None
    parts: list[tuple[str | None, Array, Rows]] = []
    for split in [None] if splits is None else [s for s in SPLITS if (splits == s).any()]:
        chosen = np.arange(len(ids)) if splits is None else np.flatnonzero(splits == split)
        own = None if top is None else _select(top, chosen)

        def where(row: int, chosen: Array = chosen) -> str:
            return f"row {chosen[row]} (from 0)"

        parts.append(
            (split, ids[chosen], Rows(file.name, where, kind, _select(outputs, chosen), own))
        )
    named = b"classes" in metadata
    classes = class_names(file.name, json.loads(metadata[b"classes"])) if named else None
    record = OutputsRecord.of(metadata.get(METADATA.encode()))
    return _Content(parts, classes, record)


def _parquet_ids(file: str, table: pa.Table) -> tuple[Array, Array | None]:
    """Return the ids of all rows, and their splits if these are needed."""
    if "file" in table.column_names and table["file"].null_count < len(table):
        if table["file"].null_count:
            row = int(table["file"].is_null().to_numpy().argmax())
            raise InputError(f"{file}, row {row} (from 0): file must be given for each example")
        return np.array([str(name) for name in table["file"].to_pylist()], dtype=np.str_), None
    missing = [name for name in ("split", "example") if name not in table.column_names]
    if missing:
        raise InputError(
            f"{file} must have the columns split and example (the index in the split), or file, "
            f"but has no {' and no '.join(missing)}"
        )
    column = table["example"]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InputError(f"{file}: example must be the index in the split, a whole number")
    splits = np.array([str(name) for name in table["split"].to_pylist()])
    unknown = ~np.isin(splits, SPLITS)
    if unknown.any():
        row = int(unknown.argmax())
        raise InputError(
            f"{file}, row {row} (from 0): split must be train, val or test, but is {splits[row]}"
        )
    return indices(column.to_numpy(), lambda row: f"{file}, row {row} (from 0): example"), splits


def _parquet_lists(file: str, table: pa.Table, name: str) -> Lists:
    """Return a column of lists."""
    column = table[name].combine_chunks()
    if not hasattr(column, "flatten") or not hasattr(column.type, "value_type"):
        raise InputError(f"{file}: {name} must be a column of lists, but is of type {column.type}")
    if column.null_count:
        row = int(column.is_null().to_numpy(zero_copy_only=False).argmax())
        raise InputError(f"{file}, row {row} (from 0): {name} must be a list, but is missing")
    lengths = column.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    values = column.flatten()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        return Lists(np.array([str(v) for v in values.to_pylist()], dtype=np.str_), lengths)
    if not (pa.types.is_floating(values.type) or pa.types.is_integer(values.type)):
        raise InputError(f"{file}: {name} must have numbers, but has {values.type}")
    return Lists(values.to_numpy(zero_copy_only=False), lengths)


def _select(lists: Lists, rows: NDArray[np.int64]) -> Lists:
    """Return the lists of some rows, which ascend."""
    if len(rows) == len(lists.lengths):
        return lists
    kept = np.zeros(len(lists.lengths), dtype=np.bool_)
    kept[rows] = True
    return Lists(lists.values[np.repeat(kept, lists.lengths)], lists.lengths[rows])


# -- npz ---------------------------------------------------------------------------------------


def _read_npz(file: Path) -> _Content:
    """Return the content of an npz file with arrays for each split."""
    arrays = _npz_arrays(file)
    parts = []
    for split in SPLITS:
        start = f"{split}_"
        own = {n.removeprefix(start): a for n, a in arrays.items() if n.startswith(start)}
        if own:
            parts.append(_npz_part(file.name, split, own))
    if not parts:
        raise InputError(
            f"{file.name} must have arrays such as train_logits and val_logits, but has "
            f"{', '.join(arrays) or 'none'}"
        )
    named = "classes" in arrays
    classes = class_names(file.name, arrays["classes"].tolist()) if named else None
    record = OutputsRecord.of(str(arrays[METADATA])) if METADATA in arrays else None
    return _Content(parts, classes, record)


def _npz_arrays(file: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of an npz file; raise ValueError if it has something else."""
    check_npz_size(file)
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it is one array of numpy.save; numpy.savez writes several with names")
    with archive:
        arrays = {name: archive[name] for name in archive.files}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # NumPy returns the bytes of other files
            raise ValueError(f"{name} in it is no array")
    return arrays


def _npz_part(
    file: str, split: str, arrays: Mapping[str, NDArray[Any]]
) -> tuple[str | None, Array, Rows]:
    """Return the outputs of a split; the names of the arrays lack "SPLIT_"."""
    kind = _kind_of(f"{file}, {split}", list(arrays))
    if kind == "top_probabilities" and TOP not in arrays:
        raise InputError(f"{file} must have the array {split}_{TOP} beside {split}_{kind}")
    lists = {}
    for name in (kind, TOP) if kind == "top_probabilities" else (kind,):
        array = arrays[name]
        if array.ndim != 2 or (name == kind and array.dtype.kind not in "fiu"):
            raise InputError(
                f"{file}: {split}_{name} must be an array [N, K] of numbers, but is "
                f"{array.dtype} {list(array.shape)}"
            )
        lists[name] = Lists(array.ravel(), np.full(len(array), array.shape[1], dtype=np.int64))
    count = len(arrays[kind])
    ids = arrays.get("ids", np.arange(count))
    if ids.shape != (count,) or ids.dtype.kind not in "iuU":
        raise InputError(
            f"{file}: {split}_ids must have an index or a file for each of the {count} rows of "
            f"{split}_{kind}, but is {ids.dtype} {list(ids.shape)}"
        )
    rows = Rows(file, lambda row: f"{split}_{kind}[{row}]", kind, lists[kind], lists.get(TOP))
    if ids.dtype.kind == "U":
        return None, ids, rows
    return split, indices(ids, lambda row: f"{file}: {split}_ids[{row}]"), rows


def _kind_of(what: str, present: list[str]) -> str:
    """Return which kind of outputs there is; raise InputError unless it is one."""
    found = [kind for kind in KINDS if kind in present]
    if len(found) != 1:
        raise InputError(
            f"{what} must have one of {', '.join(KINDS)}, but has {' and '.join(found) or 'none'}"
        )
    return found[0]
