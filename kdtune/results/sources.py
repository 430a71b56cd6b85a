"""Readers of tables of results that were made elsewhere: csv and parquet.

A file is recognised by its content. Nothing is unpickled, and no file is written.
"""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdtune.config.files import existing_file
from kdtune.config.text import InputError, first_line, printable

_DELIMITERS = ",;\t|"
_OTHER_FORMATS = {b"PK\x03\x04": "a workbook or zip file", b"SQLite format 3\0": "a database"}
"""What files of other formats begin with."""


def read_tables(places: Sequence[str]) -> pd.DataFrame:
    """Return the rows of one or several files; of several, the column "file" has their names.

    Raises:
        InputError: A file does not exist or cannot be read.
    """
    if len(places) == 1:
        return read_table(places[0])
    frames = [read_table(place).assign(file=Path(place).stem) for place in places]
    return pd.concat(frames, ignore_index=True)


def read_table(place: str) -> pd.DataFrame:
    """Return the table of a csv or parquet file.

    Raises:
        InputError: The file does not exist or cannot be read.
    """
    file = existing_file("a table of results", "tables", place)
    data = file.read_bytes()
    for begin, kind in _OTHER_FORMATS.items():
        if data.startswith(begin):
            raise InputError(
                f"a table of results must be csv or parquet, but {file} is {kind}. Save the table "
                f"as CSV UTF-8."
            )
    frame = _read_parquet(file) if data.startswith(b"PAR1") else _read_csv(file, data)

    def safe(value: object) -> object:
        return printable(value) if isinstance(value, str) else value

    for name in frame.select_dtypes(["object", "string", "category"]):
        frame[name] = frame[name].map(safe)
    return frame.rename(columns=safe)


def _read_parquet(file: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(file)
    except Exception as error:  # pyarrow has many
        raise InputError(f"{file} cannot be read as parquet: {first_line(error)}") from error
    return frame if frame.index.name is None else frame.reset_index()


def _read_csv(file: Path, data: bytes) -> pd.DataFrame:
    """Return the table of a text file, with any usual delimiter and decimal comma."""
    is_utf_16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")  # as Excel writes it
    try:
        text = data.decode("utf-16" if is_utf_16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16, as its first two bytes say" if is_utf_16 else "UTF-8"
        raise InputError(
            f"{file} must be {kind}, but byte {error.start} is {error.object[error.start]:#x}. "
            f"Save it as UTF-8 (iconv -f latin1 -t utf-8; in Excel: CSV UTF-8)."
        ) from error
    if not text.strip():
        raise InputError(f"a table of results must have rows, but {file} is empty")
    header = text.splitlines()[0]
    delimiter = max(_DELIMITERS, key=header.count)  # the comma if there is none
    names = next(csv.reader([header], delimiter=delimiter))
    _check_header(names, file)
    try:
        frame = pd.read_csv(io.StringIO(text), sep=delimiter, skipinitialspace=True)
    except (ValueError, pd.errors.ParserError) as error:
        raise InputError(
            f"{file} cannot be read as a csv file (delimiter {delimiter!r}): {first_line(error)}"
        ) from error
    if not isinstance(frame.index, pd.RangeIndex):
        raise InputError(
            f"rows of {file} must have the {len(names)} fields that its first line names, but they "
            f"have more"
        )
    frame = frame.rename(columns=lambda name: str(name).strip())
    return frame.apply(_decimal_comma) if delimiter == ";" else frame


def _check_header(names: list[str], file: Path) -> None:
    """Raise InputError unless the first line of a csv file names columns, each once."""
    if all(re.fullmatch(r"\s*[-+]?[\d.,]+(e[-+]?\d+)?\s*", name, re.IGNORECASE) for name in names):
        raise InputError(
            f"the first line of {file} must name the columns, but got {', '.join(names[:5])}"
        )
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise InputError(
            f"columns of a table must have different names, but {file} has {twice[0]!r} twice"
        )


def _decimal_comma(column: pd.Series) -> pd.Series:
    """Return a column of numbers such as 0,5 as numbers."""
    texts = column.dropna().astype(str)
    if not len(texts) or not texts.str.fullmatch(r"[-+]?\d+(,\d+)?([eE]-?\d+)?").all():
        return column
    return pd.to_numeric(column.astype(str).str.replace(",", "."), errors="coerce")
