"""Teachers: one network, the mean of several, or a table of outputs."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import Tensor

from kdtune.config.files import atomic_write, describe_missing
from kdtune.config.text import InputError, first_line
from kdtune.models.classifier import Classifier, Preprocessing

# Teachers that are only a table of outputs: their logits on the examples of a data set.

_RECORD = "kdtune"
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
            names = {entry.name for entry in fields(OutputsRecord)}
            if not isinstance(values, dict) or values.keys() != names:
                return None
            record = TypeAdapter(OutputsRecord).validate_json(text or "", strict=True)
            record.preprocessing_of_views  # noqa: B018 - checks the values
        except (RecursionError, ValueError) as error:
            raise ValueError(f"its entry {_RECORD} is damaged: {first_line(error, 120)}") from None
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


# Reading a file of outputs, .parquet or .npz; docs/teachers.md describes the formats.
#
# Nothing is unpickled. The arrays of an .npz file are put into the table that a .parquet file
# holds, whose rows are then checked and turned into logits. Probabilities p become the logits
# log(max(p, 1e-8)), minus their mean over the classes: a constant changes no probability, but the
# loss "mse" and the metric "logit_diff".

Array = NDArray[np.generic]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

_SPLITS = ("train", "val", "test")
_TOP = "top_classes"
_REQUIREMENTS = {
    "logits": "be {classes} finite numbers of float32, one for each class of the data",
    "probabilities": "be {classes} numbers, one for each class of the data, none below 0 and with "
    "the sum 1 (within {tolerance}); outputs before the softmax are logits",
    "top_probabilities": "be a number for each of top_classes, none below 0 and with a sum of at "
    "most 1, or of 1 for all classes (within {tolerance})",
    _TOP: "be classes of the data, each once, by name ({listed}) or as numbers from 0 to {last}",
}
"""What each column of outputs must be."""
_MAX_VALUES = 6
"""Values of a row that an error shows."""
_FLOOR = 1e-8
"""Least probability of a class. Its logarithm is finite, and e to the 18 times below 1."""
_TOLERANCE = 0.01
"""How far the sum of an example's probabilities may lie from 1, since they may be rounded."""


@dataclass(frozen=True, eq=False)
class OutputsOfSplit:
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
    parts: tuple[OutputsOfSplit, ...]
    digest: str
    """16 hex digits that change with the numbers, the ids and the names of the classes."""
    record: OutputsRecord | None
    """What kdtune has written into it; None in files of others."""


@dataclass(frozen=True)
class _Lists:
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
class _Rows:
    """Outputs of a split, or of examples that are named by their files, as a file lists them."""

    file: str
    split: str | None
    ids: Array
    numbers: Integers
    """Number of each row in the file's table, for errors."""
    columns: Mapping[str, _Lists]
    """The column of the kind of outputs first; with top_probabilities also top_classes."""

    @property
    def kind(self) -> str:
        """Which outputs there are, one of `_REQUIREMENTS`."""
        return next(iter(self.columns))


def read_outputs(file: Path, classes: tuple[str, ...]) -> OutputTable:
    """Return the content of a file of outputs.

    Args:
        file: A .parquet or .npz file.
        classes: Of the data.

    Raises:
        InputError: The file does not exist, cannot be read, or has no outputs for these classes.
    """
    with _reading(file):
        is_npz = file.suffix == ".npz"
        tables = _read_npz(file) if is_npz else {file.name: pq.read_table(file)}
        metadata = next(iter(tables.values())).schema.metadata or {}
        named = json.loads(metadata.get(b"classes", b"null"))
        record = OutputsRecord.of(metadata.get(_RECORD.encode()))
        rows = [part for where, table in tables.items() for part in _rows(where, table)]
    names = None if named is None else _class_names(file.name, named, classes)
    parts = [
        OutputsOfSplit(part.split, part.ids, _to_logits(part, classes, names or classes))
        for part in rows
    ]
    return OutputTable(file.name, tuple(parts), _digest(rows, names), record)


def read_outputs_record(file: Path) -> OutputsRecord | None:
    """Return what kdtune has written into a file of outputs, without reading its numbers.

    Raises:
        InputError: The file does not exist or cannot be read.
    """
    with _reading(file):
        if file.suffix != ".npz":
            return OutputsRecord.of((pq.read_schema(file).metadata or {}).get(_RECORD.encode()))
        with np.load(file, allow_pickle=False) as archive:
            return OutputsRecord.of(str(archive[_RECORD]) if _RECORD in archive else None)


@contextmanager
def _reading(file: Path) -> Iterator[None]:
    """Raise InputError for a file that is missing or cannot be read."""
    if not file.is_file():
        raise InputError(
            f"a teacher whose name ends in {file.suffix} must be a file of its outputs, but "
            f"{describe_missing(file)}; python -m kdtune.teacher --dump {file.name} writes one"
        )
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # the libraries that read the files raise many kinds
        raise InputError(
            f"{file} must be a {file.suffix} file of a teacher's outputs, but cannot be read "
            f"({first_line(error, 120)})"
        ) from None


def _class_names(file: str, named: Any, classes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the classes in the order of a file; raise InputError unless they are the data's."""
    # whole numbers are names, too
    is_valid = isinstance(named, list) and all(type(name) in (str, int) for name in named)
    names = tuple(map(str, named)) if is_valid else ()
    if len(names) != len(classes) or set(names) != set(classes):
        raise InputError(
            f"{file}: `classes` must be a list of the classes of the data, {_listed(classes)}, in "
            f"any order, but got {json.dumps(named, default=str)[:60]}"
        )
    return names


def _listed(names: tuple[str, ...]) -> str:
    """Return the first names, and how many there are if these are more."""
    shown = ", ".join(names[:3])
    return shown if len(names) <= 3 else f"{shown}, ... ({len(names)})"


def _digest(parts: list[_Rows], classes: tuple[str, ...] | None) -> str:
    """Return 16 hex digits that change with the content of a file, not with its format.

    It is of the numbers as they stand in the file, since a logarithm may have other last bits on
    another machine.
    """
    digests: dict[str, Any] = {}
    for part in parts:
        outputs = part.columns[part.kind]
        columns: dict[str, Array] = {"ids": part.ids, "lengths": outputs.lengths}
        columns[part.kind] = outputs.values.astype(np.float32)
        if _TOP in part.columns:
            columns[_TOP] = part.columns[_TOP].values
        for name, values in columns.items():
            is_text = values.dtype.kind == "U"
            content = "\0".join(values.tolist()).encode() + b"\0" if is_text else values.tobytes()
            digests.setdefault(f"{part.split} {name}", hashlib.sha256()).update(content)
    named = {name: digest.hexdigest() for name, digest in digests.items()}
    text = json.dumps([classes, named], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _kind_of(source: str, present: Iterable[str]) -> str:
    """Return which kind of outputs there is; raise InputError unless it is one."""
    columns = [name for name in _REQUIREMENTS if name in present]
    if columns not in (["logits"], ["probabilities"], ["top_probabilities", _TOP]):
        raise InputError(
            f"{source} must have logits, or probabilities, or top_classes with top_probabilities, "
            f"but has {' and '.join(columns) or 'none of these'}"
        )
    return columns[0]


def _read_npz(file: Path) -> dict[str, pa.Table]:
    """Return the arrays of each split of an .npz file as the table of a .parquet file."""
    archive = np.load(file, allow_pickle=False)
    if not isinstance(archive, np.lib.npyio.NpzFile):
        raise ValueError("it is one array of numpy.save; numpy.savez writes several with names")
    with archive:
        arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
    splits = [split for split in _SPLITS if any(name.startswith(f"{split}_") for name in arrays)]
    if not splits:
        raise InputError(
            f"{file.name} must have arrays such as train_logits and val_logits, but has "
            f"{', '.join(arrays) or 'none'}"
        )
    metadata = {}
    if "classes" in arrays:
        metadata["classes"] = json.dumps(arrays["classes"].tolist(), default=str)
    if _RECORD in arrays:
        metadata[_RECORD] = str(arrays[_RECORD])
    tables = {f"{file.name}, {split}": _npz_split(file.name, split, arrays) for split in splits}
    return {name: table.replace_schema_metadata(metadata) for name, table in tables.items()}


def _npz_split(file: str, split: str, arrays: Mapping[str, NDArray[Any]]) -> pa.Table:
    """Return the rows of a split of an .npz file."""
    start = f"{split}_"
    present = [name.removeprefix(start) for name in arrays if name.startswith(start)]
    kind = _kind_of(f"{file}, {split}", present)
    columns: dict[str, Any] = {}
    for name in (kind, _TOP) if kind == "top_probabilities" else (kind,):
        values = arrays[start + name]
        if values.ndim != 2 or values.dtype.kind not in ("fiuU" if name == _TOP else "fiu"):
            raise _array_error(file, start + name, "[N, K] of numbers", values)
        width = values.shape[1]
        columns[name] = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
    count = len(arrays[start + kind])
    ids = arrays.get(f"{start}ids", np.arange(count))
    if ids.shape != (count,) or ids.dtype.kind not in "iuU":
        shape = f"[{count}] of indices or files, one for each row of {start}{kind}"
        raise _array_error(file, f"{start}ids", shape, ids)
    columns["split"] = [split] * count
    columns["example" if ids.dtype.kind != "U" else "file"] = ids
    return pa.table(columns)


def _array_error(file: str, name: str, shape: str, array: NDArray[Any]) -> InputError:
    got = f"{array.dtype} {list(array.shape)}"
    return InputError(f"{file}: {name} must be an array {shape}, but is {got}")


def _rows(file: str, table: pa.Table) -> Iterator[_Rows]:
    """Yield the rows of each split that has some; or all rows, if they name files."""
    numbers, names = np.arange(len(table)), table.column_names
    kind = _kind_of(file, names)
    if "file" in names and table["file"].null_count < len(table):
        yield _rows_of(file, kind, None, table, numbers)
        return
    if "split" not in names or "example" not in names:
        raise InputError(
            f"{file} must have the columns split and example (the index in the split), or file, "
            f"but has {', '.join(names)}"
        )
    splits = np.array([str(name) for name in table["split"].to_pylist()])
    unknown = ~np.isin(splits, _SPLITS)
    if unknown.any():
        row = int(unknown.argmax())
        raise _row_error(file, row, "split", "be train, val or test", splits[row])
    for split in _SPLITS:
        chosen = splits == split
        if chosen.any():
            yield _rows_of(file, kind, split, table.filter(pa.array(chosen)), numbers[chosen])


def _rows_of(file: str, kind: str, split: str | None, table: pa.Table, numbers: Integers) -> _Rows:
    """Return the outputs of the rows of a split, or of files."""
    name = "example" if split else "file"
    column = table[name]
    if column.null_count or (split and not pa.types.is_integer(column.type)):
        requirement = "be the index in the split, a whole number" if split else "be given"
        row = int(column.is_null().to_numpy().argmax())  # 0 if the type of all is another
        raise _row_error(file, numbers[row], name, requirement, column[row].as_py())
    if split:
        ids: Array = column.to_numpy().astype(np.int64)
    else:
        ids = np.array([str(name) for name in column.to_pylist()], dtype=np.str_)
    columns = {kind: _lists(file, table, kind)}
    if kind == "top_probabilities":
        columns[_TOP] = _lists(file, table, _TOP)
    return _Rows(file, split, ids, numbers, columns)


def _lists(file: str, table: pa.Table, name: str) -> _Lists:
    """Return a column of lists; a missing list is an empty one."""
    column = table[name].combine_chunks()
    if isinstance(column, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        values, types = column.flatten(), pa.types
        if types.is_floating(values.type) or types.is_integer(values.type):
            return _Lists(values.to_numpy(zero_copy_only=False), lengths.astype(np.int64))
        if name == _TOP and (types.is_string(values.type) or types.is_large_string(values.type)):
            texts = np.array([str(value) for value in values.to_pylist()], dtype=np.str_)
            return _Lists(texts, lengths.astype(np.int64))
    kinds = "numbers or names" if name == _TOP else "numbers"
    raise InputError(
        f"{file}: {name} must be a column of lists of {kinds}, but is of type {column.type}"
    )


def _row_error(file: str, row: int, column: str, requirement: str, got: object) -> InputError:
    return InputError(f"{file}, row {row} (from 0): {column} must {requirement}, but got {got}")


def _check_rows(rows: _Rows, column: str, good: Bools, classes: tuple[str, ...]) -> None:
    """Raise InputError for the first row that is not good, [N], with the values in its column."""
    if good.all():
        return
    row = int((~good).argmax())
    requirement = _REQUIREMENTS[column].format(
        classes=len(classes),
        tolerance=_TOLERANCE,
        listed=_listed(classes),
        last=len(classes) - 1,
    )
    lists = rows.columns[column]
    values = lists.values[lists.rows == row].tolist()
    shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in values[:_MAX_VALUES]]
    text = ", ".join(shown) + f", ... ({len(values)})" * (len(values) > len(shown))
    raise _row_error(rows.file, rows.numbers[row], column, requirement, text or "none")


def _to_logits(
    rows: _Rows, classes: tuple[str, ...], order: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return the logits of the rows, float32 [N, K], with the classes in the order of the data.

    Args:
        rows: As the file lists them.
        classes: Those of the data.
        order: The same classes, in the order of the file.

    Raises:
        InputError: A row is not what `_REQUIREMENTS` says.
    """
    if rows.kind == "top_probabilities":
        return _from_probabilities(_spread(rows, classes, order))
    outputs = rows.columns[rows.kind]
    _check_rows(rows, rows.kind, outputs.lengths == len(classes), classes)
    columns = [order.index(name) for name in classes]
    matrix = outputs.values.reshape(len(outputs.lengths), len(classes))
    if rows.kind == "logits":  # without a copy in float64: a file may be large
        with np.errstate(over="ignore"):  # refused in the next line
            logits = matrix.astype(np.float32)
        good: Bools = np.all(np.isfinite(logits), axis=1)
        _check_rows(rows, rows.kind, good, classes)
        return logits if order == classes else logits[:, columns]
    p = matrix.astype(np.float64)[:, columns]
    sums = p.sum(1)
    good = (p >= 0).all(1) & (sums <= 1 + _TOLERANCE) & (sums >= 1 - _TOLERANCE)
    _check_rows(rows, rows.kind, good, classes)
    return _from_probabilities(p)


def _from_probabilities(p: NDArray[np.float64]) -> NDArray[np.float32]:
    logits = np.log(np.maximum(p, _FLOOR))
    centred: NDArray[np.float64] = logits - logits.mean(1, keepdims=True)
    return centred.astype(np.float32)


def _spread(rows: _Rows, classes: tuple[str, ...], order: tuple[str, ...]) -> NDArray[np.float64]:
    """Return all probabilities, [N, K]: what the top classes leave is spread over the others."""
    outputs, top = rows.columns[rows.kind], rows.columns[_TOP]
    lengths, shape = outputs.lengths, (len(outputs.lengths), len(classes))
    _check_rows(rows, rows.kind, (top.lengths == lengths) & (lengths > 0), classes)
    numbers: dict[Any, int] = {name: k for k, name in enumerate(classes)}
    if top.values.dtype.kind in "iu":
        numbers = {k: numbers[name] for k, name in enumerate(order)}
    columns = np.array([numbers.get(v, -1) for v in top.values.tolist()], dtype=np.int64)
    times = np.zeros(shape, dtype=np.int64)
    np.add.at(times, (top.rows, columns), 1)
    good = np.all(times <= 1, axis=1)
    good[top.rows[columns < 0]] = False
    _check_rows(rows, _TOP, good, classes)
    p = np.zeros(shape)
    p[top.rows, columns] = outputs.values
    sums = p.sum(1)
    is_whole = lengths == len(classes)
    good = (p >= 0).all(1) & (sums <= 1 + _TOLERANCE) & (~is_whole | (sums >= 1 - _TOLERANCE))
    _check_rows(rows, rows.kind, good, classes)
    others = np.maximum(len(classes) - lengths, 1)
    rest = np.maximum(1 - sums, 0) / others
    return np.where(times > 0, p, rest[:, None])


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
        arrays: dict[str, Any] = {"classes": np.array(classes), _RECORD: np.array(record.text)}
        for split, outputs in splits.items():
            arrays[f"{split}_logits"] = outputs.logits
            arrays[f"{split}_ids"] = np.array(outputs.files or np.arange(len(outputs.logits)))
        with atomic_write(file) as part, part.open("wb") as stream:
            np.savez_compressed(stream, **arrays)
        return
    table = pa.concat_tables(_tables(splits))
    metadata = {"classes": json.dumps(classes), _RECORD: record.text}
    with atomic_write(file) as part:
        # logits seldom repeat, so a dictionary of them is only slow
        columns = ["split", "file"]
        pq.write_table(table.replace_schema_metadata(metadata), part, use_dictionary=columns)


def _tables(splits: Mapping[str, SplitOutputs]) -> Iterator[pa.Table]:
    """Yield the rows of each split."""
    for split, outputs in splits.items():
        count, width = outputs.logits.shape
        offsets = pa.array(np.arange(count + 1) * width, type=pa.int32())
        values = pa.array(outputs.logits.ravel(), type=pa.float32())
        yield pa.table(
            {
                "split": pa.array([split] * count, type=pa.string()),
                "example": pa.array(np.arange(count), type=pa.int64()),
                "file": pa.array(outputs.files or [None] * count, type=pa.string()),
                "logits": pa.ListArray.from_arrays(offsets, values),
            }
        )


# Teachers of a study.


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
