"""Rows of a file of outputs as logits, checked: of logits, probabilities or the largest of these.

Probabilities p become the logits log(max(p, 1e-8)), minus their mean over the classes: a constant
changes no probability, but the loss "mse" and the metric "logit_diff".
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdtune.config.errors import InputError

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
