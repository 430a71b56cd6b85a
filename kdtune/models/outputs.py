"""Teachers: one network, the mean of several, or a table of outputs."""

import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdtune.config.files import atomic_write, describe_missing
from kdtune.config.text import InputError, first_line
from kdtune.models.classifier import Classifier, Preprocessing

# Teachers that are only a table of outputs: their logits on the examples of a data set.


METADATA = "kdtune"
"""Entry of a file's metadata with its `OutputsRecord`, as JSON."""


@dataclass(frozen=True)
class OutputsRecord:
    """Record that kdtune keeps in a file of outputs which it has written."""

    teacher: str
    """Name of the network."""
    data: str
    """Fingerprint of the data."""
    has_cut_val: bool
    """Whether val was cut from train in these data."""
    views: dict[str, Any]
    """`image_size`, `orientation`, `eval_crop` and `eval_interpolation` of the images that the
    network saw; {} for data that are no images."""

    @property
    def text(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def of(text: str | bytes | None) -> "OutputsRecord | None":
        """Return the record of `text`; None if there is none, or another version's.

        Raises:
            ValueError: It is damaged.
        """
        try:
            values = json.loads(text or "null")
            record = OutputsRecord(**values)
            record.preprocessing_of_views  # noqa: B018 - checks the values
        except TypeError:  # null, or other fields
            return None
        except (AttributeError, OverflowError, RecursionError, ValueError) as error:
            raise ValueError(f"its entry {METADATA} is damaged: {first_line(error, 120)}") from None
        texts = all(isinstance(text, str) for text in (record.teacher, record.data))
        if not texts or not isinstance(record.has_cut_val, bool):
            raise ValueError(f"its entry {METADATA} is damaged: a value has another type")
        return record

    @property
    def preprocessing_of_views(self) -> Preprocessing:
        """The views in the form of a preprocessing; raises InputError for impossible values."""
        size, crop = self.views.get("image_size"), self.views.get("eval_crop")
        interpolation = self.views.get("eval_interpolation", "bilinear")
        return Preprocessing(size=size, crop=crop, interpolation=interpolation)


@dataclass(frozen=True, eq=False)
class OutputTeacher:
    """A teacher without a network: its logits on the examples of a data set."""

    name: str
    """Of the teacher in its study: that of the file, unless this was renamed."""
    digest: str
    """16 hex digits that change with the numbers of the file."""
    logits: Mapping[str, Tensor] = field(repr=False)
    """Of each split, float32 [N, K] in the split's own order; NaN for examples of train that the
    file lacks."""
    record: OutputsRecord | None = None
    """What the file says about itself."""

    is_normalized = True
    """It has no input that a wrong preprocessing could spoil."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The views that the outputs were made of, as far as they are known."""
        return Preprocessing() if self.record is None else self.record.preprocessing_of_views

    def fingerprint(self) -> str:
        """Return the digest, as `Classifier.fingerprint` returns a network's."""
        return self.digest

    def place(self, device: torch.device, precision: str) -> "OutputTeacher":
        """Return the teacher, which stays on the CPU: its logits are put into batches there."""
        return self


# Rows of a file of outputs as logits, checked: of logits, probabilities or the largest of these.
#
# Probabilities p become the logits log(max(p, 1e-8)), minus their mean over the classes: a
# constant
# changes no probability, but the loss "mse" and the metric "logit_diff".


Array = NDArray[np.generic]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

FLOOR = 1e-8
"""Least probability of a class. Its logarithm is finite, and e to the 18 times below 1."""
TOLERANCE = 0.01
"""How far the sum of an example's probabilities may lie from 1, since they may be rounded."""


@dataclass(frozen=True)
class Lists:
    """A list of values for each of N rows."""

    values: Array
    """The values of all rows, one row after the other."""
    lengths: Integers
    """How many each row has, [N]."""

    @property
    def rows(self) -> Integers:
        """The row of each value."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


@dataclass(frozen=True)
class Rows:
    """Outputs of some examples, as a file lists them."""

    file: str
    where: Callable[[int], str]
    """Returns, in words, where a row stands in the file."""
    kind: str
    """Name of the column: logits, probabilities or top_probabilities."""
    outputs: Lists
    top: Lists | None = None
    """Classes of top_probabilities, by number or name."""

    def error(self, row: int, text: str) -> InputError:
        """Return the error for a row."""
        return InputError(f"{self.file}, {self.where(row)}: {text}")

    def refuse(self, bad: Bools, text: Callable[[int], str]) -> None:
        """Raise InputError for the first row that is bad.

        Args:
            bad: Whether each row is, [N].
            text: Returns what is wrong with a row.
        """
        if bad.any():
            row = int(bad.argmax())
            raise self.error(row, text(row))


def to_logits(rows: Rows, classes: tuple[str, ...], order: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the logits of the rows, float32 [N, K], with the classes in the order of the data.

    Args:
        rows: As the file lists them.
        classes: Those of the data.
        order: The same classes, in the order of the file.

    Raises:
        InputError: A row has too few or too many values, or values that are no logits or no
            probabilities.
    """
    _check_finite(rows)
    if rows.kind == "top_probabilities":
        return _from_probabilities(_spread(rows, classes, order))
    lengths = rows.outputs.lengths
    rows.refuse(
        lengths != len(classes),
        lambda row: (
            f"{rows.kind} must have {len(classes)} numbers, one for each class of the data, but "
            f"has {lengths[row]}"
        ),
    )
    columns = [order.index(name) for name in classes]
    matrix = rows.outputs.values.reshape(len(lengths), len(classes))
    if rows.kind == "logits":  # without a copy in float64: a file may be large
        with np.errstate(over="ignore"):  # refused in the next line
            logits = matrix.astype(np.float32)
        rows.refuse(
            np.any(~np.isfinite(logits), axis=1),
            lambda row: (
                f"logits must lie between -3.4e38 and 3.4e38, as float32 does, but one is "
                f"{matrix[row][~np.isfinite(logits[row])][0]:.3g}"
            ),
        )
        return logits if order == classes else logits[:, columns]
    matrix = matrix.astype(np.float64)[:, columns]
    _check_probabilities(rows, matrix.sum(1), whole=np.ones(len(matrix), dtype=np.bool_))
    return _from_probabilities(matrix)


def _check_finite(rows: Rows) -> None:
    finite = np.isfinite(rows.outputs.values)
    if not finite.all():
        row = int(rows.outputs.rows[~finite][0])
        raise rows.error(row, f"{rows.kind} must be finite numbers, but one is not")


def _from_probabilities(values: Floats) -> NDArray[np.float32]:
    """Return the logits of probabilities, see the head of this file."""
    logits = np.log(np.maximum(values, FLOOR))
    centred: Floats = logits - logits.mean(1, keepdims=True)
    return centred.astype(np.float32)


def _check_probabilities(rows: Rows, sums: Floats, whole: Bools) -> None:
    """Raise InputError unless the values are probabilities.

    Args:
        rows: As the file lists them.
        sums: Sum of the values of each row, [N].
        whole: Whether a row has all classes, so that its sum must be 1, [N].
    """
    if (low := rows.outputs.values.astype(np.float64) < 0).any():
        row = int(rows.outputs.rows[low][0])
        raise rows.error(row, f"{rows.kind} must not be below 0, but one is")
    wrong = (sums > 1 + TOLERANCE) | (whole & (sums < 1 - TOLERANCE))
    rows.refuse(
        wrong,
        lambda row: (
            f"{rows.kind} must have {'the sum 1' if whole[row] else 'a sum of at most 1'} (within "
            f"{TOLERANCE:g}), but it is {sums[row]:.4g}; outputs before the softmax are logits"
        ),
    )


def _spread(rows: Rows, classes: tuple[str, ...], order: tuple[str, ...]) -> Floats:
    """Return all probabilities, [N, K]: what the top classes leave is spread over the others."""
    assert rows.top is not None  # noqa: S101 - the caller has looked
    top, lengths, count = rows.top, rows.outputs.lengths, len(classes)
    rows.refuse(
        top.lengths != lengths,
        lambda row: (
            f"top_classes and top_probabilities must have equally many values, but have "
            f"{top.lengths[row]} and {lengths[row]}"
        ),
    )
    rows.refuse(lengths == 0, lambda row: "top_probabilities must have a value, but is empty")
    columns = _columns(rows, top, classes, order)
    given = np.zeros((len(lengths), count), dtype=np.int64)
    np.add.at(given, (top.rows, columns), 1)
    rows.refuse(np.any(given > 1, axis=1), lambda row: "top_classes must name each class once")
    matrix = np.zeros((len(lengths), count))
    matrix[top.rows, columns] = rows.outputs.values
    sums = matrix.sum(1)
    _check_probabilities(rows, sums, whole=lengths == count)
    others = np.maximum(count - lengths, 1)
    rest = np.maximum(1 - sums, 0) / others
    return np.where(given > 0, matrix, rest[:, None])


def _columns(rows: Rows, top: Lists, classes: tuple[str, ...], order: tuple[str, ...]) -> Integers:
    """Return the number of each top class in the data."""
    if top.values.dtype.kind in "iu":
        numbers = top.values.astype(np.int64)
        of_data = np.array([classes.index(name) for name in order])
        known = (numbers >= 0) & (numbers < len(order))
        columns = of_data[np.where(known, numbers, 0)]
        allowed = f"be numbers from 0 to {len(order) - 1}"
    else:
        index = {name: number for number, name in enumerate(classes)}
        columns = np.array([index.get(str(name), -1) for name in top.values], dtype=np.int64)
        known, allowed = columns >= 0, f"be classes of the data ({_listed(classes)})"
    bad = np.zeros(len(top.lengths), dtype=np.bool_)
    bad[top.rows[~known]] = True

    def text(row: int) -> str:
        unknown = top.values[(top.rows == row) & ~known][0]
        return f"top_classes must {allowed}, but got {unknown}"

    rows.refuse(bad, text)
    return columns


def class_names(file: str, given: object) -> tuple[str, ...]:
    """Return the names of the classes as a file has them; whole numbers are names, too.

    Args:
        file: Its name.
        given: What the file has, of JSON or an array.

    Raises:
        InputError: It is no list of names.
    """
    of_names = isinstance(given, list) and all(type(name) in (str, int) for name in given)
    if not isinstance(given, list) or not of_names:
        shown = json.dumps(given, default=str)[:60]
        raise InputError(f"{file}: `classes` must be a list of names, but got {shown}")
    return tuple(map(str, given))


def indices(numbers: Array, where: Callable[[int], str]) -> Integers:
    """Return indices of examples as int64; raise InputError where one is too large for that.

    Args:
        numbers: Whole numbers of any type, [N].
        where: Returns, in words, where a row's index stands in the file.
    """
    found = numbers.astype(np.int64)
    wrapped = (found < 0) & (numbers.dtype.kind == "u")
    if wrapped.any():
        row = int(wrapped.argmax())
        raise InputError(
            f"{where(row)} must be the index of an example in the split, but got {numbers[row]}"
        )
    return found


def class_order(
    file: str, given: tuple[str, ...] | None, classes: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the classes in the order of a file; without names in the file, that of the data.

    Args:
        file: Its name.
        given: The names in the file; None if it has none.
        classes: Those of the data.

    Raises:
        InputError: They are other classes.
    """
    if given is None:
        return classes
    if len(set(given)) == len(given) and set(given) == set(classes):
        return given
    raise InputError(
        f"{file} must have outputs for the classes of the data, {_listed(classes)}, but its "
        f"`classes` are {_listed(given)}"
    )


def _listed(names: tuple[str, ...]) -> str:
    """Return the first names, and how many there are if these are more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ... ({len(names)})"


# Size of a file of outputs in memory, before it is read: a small file may unpack to any size.


def check_npz_size(file: Path) -> None:
    """Raise ValueError if the arrays of a .npz file do not fit into the memory."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            _check(sum(part.file_size for part in archive.infolist()))


def check_parquet_size(file: Path, columns: Collection[str]) -> None:
    """Raise ValueError if columns of a .parquet file do not fit into the memory.

    What counts is the number of values: encoded, one value may stand for millions.
    """
    metadata, count = pq.read_metadata(file), 0
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            if chunk.path_in_schema.partition(".")[0] in columns:
                count += chunk.num_values
    _check(8 * count)


def _check(nbytes: int) -> None:
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if nbytes > memory // 2:
        raise ValueError(
            f"it unpacks to {nbytes / 1e9:,.1f} GB, more than half of the memory, which has "
            f"{memory / 1e9:,.1f} GB"
        )


# Reading a file of a teacher's outputs, .parquet or .npz.
#
# docs/teachers.md describes the formats. Nothing is unpickled.


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


# Writing a file of a teacher's outputs, .parquet or .npz.


@dataclass(frozen=True)
class SplitOutputs:
    """Logits of a split that are to be written."""

    logits: NDArray[np.float32]
    """[N, K] in the split's own order."""
    files: tuple[str, ...] | None
    """Of each example; None where examples are no files."""


def write_outputs(
    file: Path,
    splits: Mapping[str, SplitOutputs],
    classes: tuple[str, ...],
    record: OutputsRecord,
) -> None:
    """Write a teacher's logits as .parquet or .npz.

    Args:
        file: Its ending decides the format.
        splits: By name.
        classes: Of the data.
        record: What the logits were made of.
    """
    if file.suffix == ".npz":
        arrays: dict[str, Any] = {"classes": np.array(classes), METADATA: np.array(record.text)}
        for split, own in splits.items():
            arrays[f"{split}_logits"] = own.logits
            ids = np.arange(len(own.logits)) if own.files is None else np.array(own.files)
            arrays[f"{split}_ids"] = ids
        with atomic_write(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        return
    table = pa.concat_tables(_tables(splits))
    metadata = {"classes": json.dumps(classes), METADATA: record.text}
    with atomic_write(file) as part:
        # logits seldom repeat, so a dictionary of them is only slow
        columns = ["split", "file"]
        pq.write_table(table.replace_schema_metadata(metadata), part, use_dictionary=columns)


def _tables(splits: Mapping[str, SplitOutputs]) -> Iterator[pa.Table]:
    """Yield the rows of each split."""
    for split, own in splits.items():
        count, width = own.logits.shape
        offsets = pa.array(np.arange(count + 1) * width, type=pa.int32())
        values = pa.array(own.logits.ravel(), type=pa.float32())
        yield pa.table(
            {
                "split": pa.array([split] * count, type=pa.string()),
                "example": pa.array(np.arange(count), type=pa.int64()),
                "file": pa.array(own.files or [None] * count, type=pa.string()),
                "logits": pa.ListArray.from_arrays(offsets, values),
            }
        )


# Teachers: one network, the mean probability of several, or a table of outputs.


Model = Classifier | OutputTeacher
"""A network, or the outputs of one."""


def networks(models: Iterable[Model]) -> tuple[Classifier, ...]:
    """Return those of the models that are networks."""
    return tuple(model for model in models if isinstance(model, Classifier))


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher: one classifier, an ensemble of several, or a table of outputs."""

    members: tuple[Classifier, ...]
    """Empty for a table of outputs."""
    fingerprints: tuple[str, ...]
    """Content hash of each member, or of the table."""
    outputs: OutputTeacher | None = None
    """The table; None for networks."""

    @staticmethod
    def of(models: Sequence[Model]) -> "Teacher":
        """Return the teacher of these models, which are hashed here; a table stands alone."""
        tables = [model for model in models if isinstance(model, OutputTeacher)]
        hashes = tuple(model.fingerprint() for model in models)
        return Teacher(networks(models), hashes, tables[0] if tables else None)

    @property
    def models(self) -> tuple[Model, ...]:
        """The members, or the table."""
        return self.members if self.outputs is None else (self.outputs,)


def combine(logits: Sequence[Tensor]) -> Tensor:
    """Return the logits of an ensemble: the log of the mean of its members' probabilities.

    Their mean over the classes is 0, as that of a network's logits nearly is: a constant changes no
    probability, but the loss "mse" and the metric "logit_diff". The logits of a single member are
    returned as they are.

    Args:
        logits: float32 [B, K] of each member.
    """
    if len(logits) == 1:
        return logits[0]
    log_p = torch.stack([values.double().log_softmax(1) for values in logits])
    mean = log_p.logsumexp(0) - math.log(len(logits))
    return (mean - mean.mean(1, keepdim=True)).float()
