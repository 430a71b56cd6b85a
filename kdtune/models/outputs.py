"""Teachers: one network, the mean of several, or a table of outputs."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
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
from kdtune.config.text import InputError, first_line, list_some, shown
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
        """Return the record of `text`, None without; raise ValueError if it is damaged."""
        return None if text is None else TypeAdapter(OutputsRecord).validate_json(text, strict=True)


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

    has_normalization = True
    """It has no input that a wrong preprocessing could spoil."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The views that the outputs were made of, as far as they are known."""
        views = {} if self.record is None else self.record.views
        size, crop = views.get("image_size"), views.get("eval_crop")
        interpolation = views.get("eval_interpolation", "bilinear")
        return Preprocessing(size=size, crop=crop, interpolation=interpolation)

    @property
    def like_probabilities(self) -> bool:
        """Whether the logits of each example lie in [0, 1] and have the sum 1, within 0.01."""
        numbers = torch.cat(list(self.logits.values()))
        numbers = numbers[~numbers.isnan().any(1)]
        is_one = (numbers.sum(1) - 1).abs() <= _TOLERANCE
        return bool(((numbers >= 0) & (numbers <= 1)).all() and is_one.all())

    def fingerprint(self) -> str:
        """Return the digest, as `Classifier.fingerprint` returns a network's."""
        return self.digest

    def place(self, device: torch.device, precision: str) -> "OutputTeacher":
        """Return the teacher, which stays on the CPU: its logits are put into batches there."""
        return self


# Reading a file of outputs, .parquet or .npz; docs/teachers.md describes the formats.
#
# Nothing is unpickled. Both formats are read into rows of lists, which are then checked and turned
# into logits. Probabilities p become the logits log(max(p, 1e-8)), minus their mean over the
# classes: a constant changes no probability, but the loss "mse" and the metric "logit_diff".

Array = NDArray[np.generic]
Bools = NDArray[np.bool_]
Integers = NDArray[np.int64]

_SPLITS = ("train", "val", "test")
_TOP = "top_classes"
_TOLERANCE = 0.01
"""How far the sum of an example's probabilities may lie from 1, since they may be rounded."""
_REQUIREMENTS = {
    "logits": "be finite numbers of float32, one for each of the",
    "probabilities": f"be numbers with the sum 1 (within {_TOLERANCE}), none below 0 (outputs "
    "before the softmax are logits), one for each of the",
    "top_probabilities": f"be numbers with a sum of at most 1, or of 1 for all classes (within "
    f"{_TOLERANCE}), none below 0, one for each of top_classes, which are some of the",
    _TOP: "be, each once, by name or by number from 0, some of the",
}
"""What each column of outputs must be; the classes of the data follow."""
_FLOOR = 1e-8
"""Least probability of a class. Its logarithm is finite, and e to the 18 times below 1."""


@dataclass(frozen=True, eq=False)
class OutputsOfSplit:
    """Outputs of the examples of a split, or of examples that are named by their files."""

    split: str | None
    """None: examples are named by their files."""
    ids: Array
    """Of each example: its index in the split, int64, or its file, str; [N]."""
    logits: NDArray[np.float32]
    """[N, K], with the classes in the order of the data."""


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
        named, rows = (_read_npz if file.suffix == ".npz" else _read_parquet)(file)
    names = None if named is None else _class_names(file.name, named, classes)
    parts = [
        OutputsOfSplit(part.split, part.ids, _to_logits(part, classes, names or classes))
        for part in rows
    ]
    return OutputTable(file.name, tuple(parts), _digest(rows, names), read_outputs_record(file))


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
            f"{file}: `classes` must be a list of the {len(classes)} classes of the data "
            f"({list_some(classes, 3)}) in any order, but got {json.dumps(named, default=str)[:60]}"
        )
    return names


def _digest(parts: list[_Rows], classes: tuple[str, ...] | None) -> str:
    """Return 16 hex digits that change with the content of a file, not with its format.

    It is of the numbers as they stand in the file, since a logarithm may have other last bits on
    another machine.
    """
    digests: dict[str, Any] = {}
    for part in parts:
        columns = {"ids": part.ids, "lengths": part.columns[part.kind].lengths}
        columns |= {name: lists.values for name, lists in part.columns.items()}
        columns[part.kind] = columns[part.kind].astype(np.float32)
        for name, values in columns.items():
            is_text = values.dtype.kind == "U"
            content = "\0".join(values.tolist()).encode() + b"\0" if is_text else values.tobytes()
            digests.setdefault(f"{part.split} {name}", hashlib.sha256()).update(content)
    named = {name: digest.hexdigest() for name, digest in digests.items()}
    text = json.dumps([classes, named], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _output_columns(source: str, present: Iterable[str]) -> list[str]:
    """Return the columns of the outputs; raise InputError unless they are of one kind."""
    columns = [name for name in _REQUIREMENTS if name in present]
    if columns not in (["logits"], ["probabilities"], ["top_probabilities", _TOP]):
        raise InputError(
            f"{source} must have logits, or probabilities, or top_classes with top_probabilities, "
            f"but has {' and '.join(columns) or 'none of these'}"
        )
    return columns


def _read_npz(file: Path) -> tuple[Any, list[_Rows]]:
    """Return the names of the classes in an .npz file, None without, and its rows."""
    with np.load(file, allow_pickle=False) as archive:
        arrays: dict[str, NDArray[Any]] = {name: archive[name] for name in archive.files}
    splits = [split for split in _SPLITS if any(name.startswith(f"{split}_") for name in arrays)]
    if not splits:
        raise InputError(
            f"{file.name} must have arrays such as train_logits and val_logits, but has "
            f"{', '.join(arrays) or 'none'}"
        )
    named = arrays["classes"].tolist() if "classes" in arrays else None
    return named, [_npz_split(file.name, split, arrays) for split in splits]


def _npz_split(file: str, split: str, arrays: Mapping[str, NDArray[Any]]) -> _Rows:
    """Return the rows of a split of an .npz file."""
    start, columns = f"{split}_", dict[str, _Lists]()
    present = [name.removeprefix(start) for name in arrays if name.startswith(start)]
    for name in _output_columns(f"{file}, {split}", present):
        values = arrays[start + name]
        if values.ndim != 2:
            raise _list_error(file, start + name, f"the shape {list(values.shape)}")
        count, width = values.shape
        columns[name] = _lists(file, start + name, values.ravel(), np.full(count, width))
    ids = arrays.get(f"{start}ids", np.arange(count))
    if ids.shape != (count,) or ids.dtype.kind not in "iuU":
        raise InputError(
            f"{file}: {start}ids must be an array [{count}] of indices or files, one for each row "
            f"of outputs, but is {ids.dtype} {list(ids.shape)}"
        )
    are_files = ids.dtype.kind == "U"
    ids = ids if are_files else ids.astype(np.int64)
    return _Rows(f"{file}, {split}", None if are_files else split, ids, np.arange(count), columns)


def _lists(file: str, name: str, values: Array, lengths: Array) -> _Lists:
    """Return a column of outputs; raise InputError unless its lists are of numbers, or of names."""
    is_top = name.endswith(_TOP)
    if is_top and values.dtype.kind == "O":
        values = values.astype(np.str_)
    if values.dtype.kind not in ("iuU" if is_top else "fiu"):
        raise _list_error(file, name, f"the type {values.dtype}")
    return _Lists(values, lengths.astype(np.int64))


def _list_error(file: str, name: str, got: str) -> InputError:
    kinds = "numbers or names" if name.endswith(_TOP) else "numbers"
    return InputError(f"{file}: {name} must be a list of {kinds} for each example, but has {got}")


def _read_parquet(file: Path) -> tuple[Any, list[_Rows]]:
    """Return the names of the classes in a .parquet file, None without, and its rows.

    These are those of each split that has some; or all, if they name files.
    """
    table = pq.read_table(file)
    named = json.loads((table.schema.metadata or {}).get(b"classes", b"null"))
    numbers, names = np.arange(len(table)), table.column_names
    if "file" in names and table["file"].null_count < len(table):
        return named, [_rows_of(file.name, None, table, numbers)]
    if "split" not in names or "example" not in names:
        raise InputError(
            f"{file.name} must have the columns split and example (the index in the split), or "
            f"file, but has {', '.join(names)}"
        )
    splits = np.array([str(name) for name in table["split"].to_pylist()])
    unknown = ~np.isin(splits, _SPLITS)
    if unknown.any():
        row = int(unknown.argmax())
        raise _row_error(file.name, row, "split", "be train, val or test", splits[row])
    parts = {split: splits == split for split in _SPLITS}
    return named, [
        _rows_of(file.name, split, table.filter(pa.array(chosen)), numbers[chosen])
        for split, chosen in parts.items()
        if chosen.any()
    ]


def _rows_of(file: str, split: str | None, table: pa.Table, numbers: Integers) -> _Rows:
    """Return the outputs of the rows of a split, or of files."""
    name = "example" if split else "file"
    column = table[name]
    if column.null_count or (split and not pa.types.is_integer(column.type)):
        requirement = "be the index in the split, a whole number" if split else "be given"
        row = int(column.is_null().to_numpy().argmax())  # 0 if the type of all is another
        raise _row_error(file, numbers[row], name, requirement, column[row].as_py())
    ids = np.array(column.to_pylist(), dtype=np.int64 if split else np.str_)
    columns = dict[str, _Lists]()
    for name in _output_columns(file, table.column_names):
        lists = table[name].combine_chunks()
        if not hasattr(lists, "value_lengths"):
            raise _list_error(file, name, f"the type {lists.type}")
        lengths = lists.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
        columns[name] = _lists(file, name, lists.flatten().to_numpy(zero_copy_only=False), lengths)
    return _Rows(file, split, ids, numbers, columns)


def _row_error(file: str, row: int, column: str, requirement: str, got: object) -> InputError:
    return InputError(f"{file}, row {row} (from 0): {column} must {requirement}, but got {got}")


def _check_rows(rows: _Rows, column: str, good: Bools, classes: tuple[str, ...]) -> None:
    """Raise InputError for the first row that is not good, [N], with the values in its column."""
    if good.all():
        return
    row = int((~good).argmax())
    requirement, lists = _REQUIREMENTS[column], rows.columns[column]
    requirement += f" {len(classes)} classes of the data ({list_some(classes, 3)})"
    got = shown(lists.values[lists.rows == row].tolist())
    raise _row_error(rows.file, rows.numbers[row], column, requirement, got)


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
        p, is_listed = _top_probabilities(rows, classes, order)
    else:
        outputs = rows.columns[rows.kind]
        _check_rows(rows, rows.kind, outputs.lengths == len(classes), classes)
        columns = [order.index(name) for name in classes]
        matrix = outputs.values.reshape(len(outputs.lengths), len(classes))
        if rows.kind == "logits":  # without a copy in float64: a file may be large
            with np.errstate(over="ignore"):  # refused in the next line
                logits = matrix.astype(np.float32)
            _check_rows(rows, rows.kind, np.all(np.isfinite(logits), axis=1), classes)
            return logits if order == classes else logits[:, columns]
        p, is_listed = matrix.astype(np.float64)[:, columns], np.ones((len(matrix), 1), np.bool_)
    sums, is_whole = p.sum(1), is_listed.all(1)
    good = (p >= 0).all(1) & (sums <= 1 + _TOLERANCE) & (~is_whole | (sums >= 1 - _TOLERANCE))
    _check_rows(rows, rows.kind, good, classes)
    if not is_whole.all():  # what the top classes leave is spread over the others
        others = np.maximum((~is_listed).sum(1), 1)
        p = np.where(is_listed, p, (np.maximum(1 - sums, 0) / others)[:, None])
    log_p: NDArray[np.float64] = np.log(np.maximum(p, _FLOOR))
    centred: NDArray[np.float64] = log_p - log_p.mean(1, keepdims=True)
    return centred.astype(np.float32)


def _top_probabilities(
    rows: _Rows, classes: tuple[str, ...], order: tuple[str, ...]
) -> tuple[NDArray[np.float64], Bools]:
    """Return the probabilities of the listed classes, 0 for the others, and which these are.

    Both are [N, K], see `_to_logits`.
    """
    outputs, top = rows.columns[rows.kind], rows.columns[_TOP]
    lengths = outputs.lengths
    _check_rows(rows, rows.kind, (top.lengths == lengths) & (lengths > 0), classes)
    numbers: dict[Any, int] = {name: k for k, name in enumerate(classes)}
    if top.values.dtype.kind in "iu":
        numbers = {k: numbers[name] for k, name in enumerate(order)}
    columns = np.array([numbers.get(v, -1) for v in top.values.tolist()], dtype=np.int64)
    times = np.zeros((len(lengths), len(classes)), dtype=np.int64)
    np.add.at(times, (top.rows, columns), 1)
    good = np.all(times <= 1, axis=1)
    good[top.rows[columns < 0]] = False
    _check_rows(rows, _TOP, good, classes)
    p = np.zeros(times.shape)
    p[top.rows, columns] = outputs.values
    return p, times > 0


# Writing a file of a teacher's outputs, .parquet or .npz.


@dataclass(frozen=True)
class SplitOutputs:
    """Logits of a split that are to be written."""

    logits: NDArray[np.float32]
    """[N, K] in the split's own order."""
    files: tuple[str, ...] | None
    """Of each example; None where examples are no files."""


def write_outputs(
    file: Path, splits: Mapping[str, SplitOutputs], classes: tuple[str, ...], record: OutputsRecord
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
    tables = []
    for split, outputs in splits.items():
        count, width = outputs.logits.shape
        offsets = pa.array(np.arange(count + 1) * width, type=pa.int32())
        values = pa.array(outputs.logits.ravel(), type=pa.float32())
        columns = {
            "split": pa.array([split] * count, type=pa.string()),
            "example": pa.array(np.arange(count), type=pa.int64()),
            "file": pa.array(outputs.files or [None] * count, type=pa.string()),
            "logits": pa.ListArray.from_arrays(offsets, values),
        }
        tables.append(pa.table(columns))
    table = pa.concat_tables(tables)
    metadata = {"classes": json.dumps(classes), _RECORD: record.text}
    with atomic_write(file) as part:
        # logits seldom repeat, so a dictionary of them is only slow
        texts = ["split", "file"]
        pq.write_table(table.replace_schema_metadata(metadata), part, use_dictionary=texts)


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
