"""Readers of tables of results: csv, parquet, Optuna storages, exports of Weights & Biases."""

import csv
import io
import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdtune.config.cli import table_file
from kdtune.config.text import InputError, first_line, printable

# Trials of an Optuna storage, a SQLite database or a journal file, as a table of results.


Tidy = tuple[pd.DataFrame, list[str]]
"""A table with one row per run (or run and epoch), and warnings."""
DIRECTIONS = "higher_is_better"
"""Attribute of a table: whether higher values are better, by metric, where the source says it."""


def read_sqlite(file: Path, epoch: str | None, study: str | None) -> Tidy:
    """Return the trials of an Optuna storage in a SQLite database; it is opened read-only."""
    connection = sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)
    try:
        tables = {row[0] for row in connection.execute("select name from sqlite_master")}
    except sqlite3.DatabaseError as error:
        raise InputError(f"{file} cannot be read as a SQLite database: {error}") from error
    finally:
        connection.close()
    if not {"studies", "trials"} <= tables:
        raise InputError(
            f"a SQLite database must be an Optuna storage, but {file} has other tables"
        )
    from optuna.storages import RDBStorage

    def load() -> Any:
        return RDBStorage(f"sqlite:///{file.resolve().as_uri()}?mode=ro&uri=true")

    return _read(file, load, epoch, study)


def read_journal(file: Path, epoch: str | None, study: str | None) -> Tidy:
    """Return the trials of an Optuna storage in a journal file."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return _read(file, lambda: JournalStorage(JournalFileBackend(str(file))), epoch, study)


def _read(file: Path, load: Callable[[], Any], epoch: str | None, study: str | None) -> Tidy:
    """Return the completed trials of a study.

    Columns: number, the parameters, the user attributes, and value (value_0, value_1, ... or the
    names of the metrics if there are several). With the epoch "step": a row per trial and
    intermediate value, which is the value then.
    """
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        storage = load()
        names = optuna.get_all_study_names(storage)
        if study is None and len(names) == 1:
            study = names[0]
        if study not in names:
            raise InputError(
                f"--study must be one of the storage's ({', '.join(names) or 'none'}), but got "
                f"{study or 'none'}"
            )
        found = optuna.load_study(study_name=study, storage=storage)
        trials, metrics = found.get_trials(deepcopy=False), _metric_names(found)
    except InputError:
        raise
    except Exception as error:  # of another version, locked or damaged
        raise InputError(
            f"{file} cannot be read as an Optuna storage: {first_line(error)}"
        ) from error
    finally:
        optuna.logging.set_verbosity(verbosity)
    if not trials:
        raise InputError(f"a table of results must have rows, but study {study} has no trial")
    rows = [row for trial in trials for row in _trial_rows(trial, metrics, epoch == "step")]
    frame = pd.DataFrame(rows)
    done = frame.pop("state") == "COMPLETE"
    by_trial = pd.DataFrame([{"state": t.state.name} for t in trials])["state"]
    _, notes = only_done(by_trial.to_frame(), by_trial == "COMPLETE", by_trial, "complete")
    frame.attrs[DIRECTIONS] = {
        name: direction.name == "MAXIMIZE"
        for name, direction in zip(metrics, found.directions, strict=True)
    }
    if not done.any():
        raise InputError(f"study {study} of {file} must have complete trials, but has none")
    return frame[done].reset_index(drop=True), notes


def _metric_names(study: Any) -> list[str]:
    if study.metric_names:
        return list(study.metric_names)
    n = len(study.directions)
    return ["value"] if n == 1 else [f"value_{i}" for i in range(n)]


def _trial_rows(trial: Any, metrics: Sequence[str], steps: bool) -> list[dict[str, Any]]:
    row = {"number": trial.number, "state": trial.state.name}
    row |= {name: v for name, v in trial.user_attrs.items() if not isinstance(v, list | dict)}
    row |= trial.params
    if steps:
        return [row | {"step": s, metrics[0]: v} for s, v in trial.intermediate_values.items()]
    return [row | dict(zip(metrics, trial.values or [], strict=False))]


def only_done(frame: pd.DataFrame, done: pd.Series, states: pd.Series, wanted: str) -> Tidy:
    """Return the runs that are done, and a warning that counts the others by state."""
    if done.all():
        return frame, []
    counts = states[~done].astype(str).value_counts()
    others = ", ".join(f"{n} {state}" for state, n in counts.items())
    note = f"{(~done).sum()} of {len(frame)} runs are not {wanted} and are left out ({others})"
    return frame[done].reset_index(drop=True), [note]


# Readers of tables of results: csv, parquet, Optuna storages, exports of Weights & Biases.
#
# `READERS` is the table of file formats, `LAYOUTS` that of csv files which are no tidy table. A
# file
# is recognised by its content. Nothing is unpickled, and no file is written.


HEAD = 4096
"""Bytes of a file that tell its format."""
DELIMITERS = ",;\t|"


@dataclass(frozen=True)
class Reader:
    """A format of files."""

    name: str
    recognizes: Callable[[bytes], bool]
    """Whether the first bytes of a file are of this format."""
    read: Callable[[Path, str | None, str | None], Tidy]
    """read(file, epoch, study): the table; for Optuna, see `table_optuna`."""


@dataclass(frozen=True)
class Layout:
    """A way in which another program lays out a csv file."""

    name: str
    recognizes: Callable[[pd.DataFrame], bool]
    tidy: Callable[[pd.DataFrame], Tidy]


def read_table(place: str, epoch: str | None = None, study: str | None = None) -> Tidy:
    """Return the table of a file and warnings about it.

    Args:
        place: A csv or parquet file, the journal file or SQLite database of an Optuna storage, also
            as sqlite:///FILE.
        epoch: Column of the epoch: "step" asks Optuna for its intermediate values.
        study: Name of the study in an Optuna storage; None if there is only one.

    Raises:
        InputError: The file does not exist or cannot be read.
    """
    file = table_file(place)
    with file.open("rb") as stream:
        head = stream.read(HEAD)
    if not head.strip():
        raise InputError(f"a table of results must have rows, but {file} is empty")
    reader = next(reader for reader in READERS if reader.recognizes(head))
    if study is not None and not reader.name.startswith("Optuna"):
        raise InputError(f"--study must be used with an Optuna storage, but {file} is none")
    frame, notes = reader.read(file, epoch, study)
    return _without_controls(frame), notes


def _without_controls(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with its names and texts as `text.printable` returns them."""

    def safe(value: object) -> object:
        return printable(value) if isinstance(value, str) else value

    for name in frame.select_dtypes(["object", "string", "category"]):
        frame[name] = frame[name].map(safe)
    return frame.rename(columns=safe)


def read_tables(places: Sequence[str], epoch: str | None, study: str | None) -> Tidy:
    """Return the rows of one or several files; of several, the column "file" has their names."""
    if len(places) == 1:
        return read_table(places[0], epoch, study)
    frames, warnings = [], []
    for place in places:
        frame, notes = read_table(place, epoch, study)
        frames.append(frame.assign(file=Path(place).stem))
        warnings += [f"{place}: {note}" for note in notes]
    return pd.concat(frames, ignore_index=True), warnings


def _read_parquet(file: Path, epoch: str | None, study: str | None) -> Tidy:
    try:
        frame = pd.read_parquet(file)
    except Exception as error:  # pyarrow has many
        raise InputError(f"{file} cannot be read as parquet: {first_line(error)}") from error
    return frame if frame.index.name is None else frame.reset_index(), []


def _read_csv(file: Path, epoch: str | None, study: str | None) -> Tidy:
    """Return the table of a text file, with any usual delimiter and decimal comma."""
    text = _decode(file)
    lines = text.splitlines()
    if not text.strip():  # bytes that only say the encoding
        raise InputError(f"a table of results must have rows, but {file} is empty")
    header = lines[0]
    delimiter = max(DELIMITERS, key=header.count)  # the comma if there is none
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
    if delimiter == ";":
        frame = frame.apply(_decimal_comma)
    layout = next((layout for layout in LAYOUTS if layout.recognizes(frame)), None)
    return layout.tidy(frame) if layout else (frame, [])


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


def _decode(file: Path) -> str:
    """Return the text of a file: UTF-8, or UTF-16 with its mark, as Excel writes it."""
    data = file.read_bytes()
    mark = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return data.decode("utf-16" if mark else "utf-8-sig")
    except UnicodeDecodeError as error:
        kind = "UTF-16, as its first two bytes say" if mark else "UTF-8"
        raise InputError(
            f"{file} must be {kind}, but byte {error.start} is {error.object[error.start]:#x}. "
            f"Save it as UTF-8 (iconv -f latin1 -t utf-8; in Excel: CSV UTF-8)."
        ) from error


def _decimal_comma(column: pd.Series) -> pd.Series:
    """Return a column of numbers such as 0,5 as numbers."""
    known = column.dropna()
    if not len(known) or not known.astype(str).str.fullmatch(r"[-+]?\d+(,\d+)?([eE]-?\d+)?").all():
        return column
    return pd.to_numeric(column.astype(str).str.replace(",", "."), errors="coerce")


def _is_wandb_chart(frame: pd.DataFrame) -> bool:
    """Return whether a table is a chart's export: the step and a column "RUN - METRIC" per run."""
    wide = [name for name in frame if " - " in name]
    return len(wide) > 0 and len(frame.columns) - len(wide) <= 2


def _from_wandb_chart(frame: pd.DataFrame) -> Tidy:
    """Return a chart's export with a row per run and step.

    Columns: the step, run, the metrics, and one per NAME=VALUE or NAME: VALUE in the runs' names.
    """
    keys = [name for name in frame if " - " not in name]
    wide = [c for c in frame if " - " in c and not c.endswith(("__MIN", "__MAX"))]
    parts = []
    for name in wide:
        run, _, metric = name.rpartition(" - ")
        values = frame[[*keys, name]].rename(columns={name: "value"}).dropna(subset=["value"])
        parts.append(values.assign(run=run, metric=metric))
    long = pd.concat(parts).pivot(index=["run", *keys], columns="metric", values="value")
    long = long.reset_index().rename_axis(columns=None)
    settings = pd.DataFrame([_settings(run) for run in long["run"]], index=long.index)
    for name in settings.columns.difference(long.columns, sort=False):
        numbers = pd.to_numeric(settings[name], errors="coerce")
        text_left = numbers.isna().sum() > settings[name].isna().sum()
        long[name] = settings[name] if text_left else numbers
    return long, []


def _settings(run: str) -> dict[str, str]:
    """Return the settings in a run's name: {"alpha": "0.5", "seed": "1"} for alpha=0.5_seed=1."""
    end = r"(?=[\s,;_-]+[A-Za-z][\w.]*\s*[=:]|[\s,;_]*$)"
    return dict(re.findall(rf"([A-Za-z][A-Za-z\d.]*(?:_[A-Za-z\d.]+)*)\s*[=:]\s*(\S+?){end}", run))


def _is_wandb_runs(frame: pd.DataFrame) -> bool:
    """Return whether a table is the export of a project's table of runs."""
    return {"Name", "State"} <= set(frame.columns) and bool(
        set(frame["State"].dropna().unique())
        & {"finished", "crashed", "failed", "running", "killed"}
    )


def _from_wandb_runs(frame: pd.DataFrame) -> Tidy:
    """Return the finished runs of a table of runs; a warning counts the others."""
    return only_done(frame, frame["State"] == "finished", frame["State"], "finished")


def _refuse_excel(file: Path, epoch: str | None, study: str | None) -> Tidy:
    raise InputError(
        f"a table of results must be csv or parquet, but {file} is a workbook or zip "
        f"file. Save the sheet as CSV UTF-8."
    )


READERS = (
    Reader("parquet", lambda head: head.startswith(b"PAR1"), _read_parquet),
    Reader("Optuna, SQLite", lambda head: head.startswith(b"SQLite format 3\0"), read_sqlite),
    Reader("Optuna, journal", lambda head: head.startswith(b'{"op_code"'), read_journal),
    Reader("Excel", lambda head: head.startswith(b"PK\x03\x04"), _refuse_excel),
    Reader("csv", lambda head: True, _read_csv),
)
LAYOUTS = (
    Layout("chart of Weights & Biases", _is_wandb_chart, _from_wandb_chart),
    Layout("runs of Weights & Biases", _is_wandb_runs, _from_wandb_runs),
)
