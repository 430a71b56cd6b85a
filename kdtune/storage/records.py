"""Writer and reader of a study's records: JSON lines, epoch by epoch."""

import json
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from kdtune.config.base_run import BaseRun
from kdtune.config.errors import InputError, first_line
from kdtune.config.files import EPOCHS, LOCK, PROVENANCE, STUDY
from kdtune.config.migrations import check_schema, migrate, schema_of
from kdtune.config.study import Study
from kdtune.storage.correctness import CORRECT
from kdtune.storage.record_check import RecordCheck
from kdtune.storage.rounds import Round
from kdtune.storage.schema import (
    Line,
    describe_first,
    parse_line,
    parse_provenance,
    parse_study,
)

PART = re.compile(r"\d{5,9}\.jsonl")
"""Name of a part of the records."""
Mark = Literal["drop", "restore"]
"""Kinds of records that exclude a trial from the study, or include it again."""


class Records:
    """Writer of a study's records; a context manager that closes the current part.

    The records are parts, epochs/NNNNN.jsonl; a new one begins at each start of the driver and with
    each `roll`.
    """

    def __init__(self, folder: Path):
        self._parts = folder / EPOCHS
        self._parts.mkdir(parents=True, exist_ok=True)
        self._file = self._new_part()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self, run: BaseRun, attempt: int, phase: str = "search") -> Line:
        """Record that a trial starts, in a phase of the search (see `planning.ledger`)."""
        return self._write(
            "start", run, attempt, config=run.config, epochs=run.planned_epochs, phase=phase
        )

    def epoch(
        self,
        run: BaseRun,
        attempt: int,
        epoch: int,
        seconds: float,
        splits: Mapping[str, Mapping[str, float | int | None]],
        correct: str | None = None,
    ) -> list[Line]:
        """Record an epoch of a trial, one line per split.

        Args:
            run: The trial's run.
            attempt: Its number, from 0.
            epoch: Number of the epoch, from 0.
            seconds: Wall time of the epoch.
            splits: Metrics of each split.
            correct: Correctness of each example of val, see `storage.correctness`; of the last
                epoch only.
        """
        own = {"epoch": epoch, "seconds": seconds}
        extra = {} if correct is None else {"val": {CORRECT: correct}}
        return [
            self._write(
                "epoch", run, attempt, split=split, **metrics, **own, **extra.get(split, {})
            )
            for split, metrics in splits.items()
        ]

    def end(
        self,
        run: BaseRun,
        attempt: int,
        status: str,
        error: str | None = None,
        node: str | None = None,
    ) -> Line:
        """Record that a trial ended: completed, pruned or failed, on the machine `node`."""
        return self._write("end", run, attempt, status=status, error=error, node=node)

    def mark(self, kind: Mark, trial: Mapping[str, Any], reason: str | None = None) -> Line:
        """Record that a trial is dropped from the study, or restored.

        Args:
            kind: "drop" or "restore".
            trial: Its `trial_id`, `config_id` and `repeat`, as in any of its records.
            reason: Why.
        """
        names = {name: trial[name] for name in ("trial_id", "config_id", "repeat")}
        return self._append({"kind": kind, **names, "time": time.time(), "reason": reason})

    def finalists(self, round_: Round) -> Line:
        """Record the finalists of a round of final repeats, before the first of them starts."""
        return self._append(round_.to_line() | {"time": time.time()})

    def roll(self) -> None:
        """Begin a new part, so that those before never change again; an empty one is kept."""
        if self._file.tell():
            self._file.close()
            self._file = self._new_part()

    def close(self) -> None:
        """Close the current part."""
        self._file.close()

    def _new_part(self) -> TextIO:
        number = max((int(p.stem) for p in list_parts(self._parts)), default=-1) + 1
        return (self._parts / f"{number:05d}.jsonl").open("x", encoding="utf-8")

    def _write(self, kind: str, run: BaseRun, attempt: int, **values: Any) -> Line:
        names = {"trial_id": run.trial_id, "config_id": run.config_id, "repeat": run.repeat}
        line = {"kind": kind, **names, "attempt": attempt, "time": time.time(), **values}
        return self._append(line)

    def _append(self, line: Line) -> Line:
        """Write a line.

        Raises:
            OSError: It cannot be written, or the file was deleted, so that nobody would read it.
        """
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
            os.stat(self._file.name)
        except OSError as error:
            error.filename = self._file.name  # which those of writing lack
            raise
        return line


@dataclass(frozen=True)
class SavedStudy:
    """A study as its folder has it, migrated to the present schema."""

    study: Study
    fingerprints: dict[str, str]
    """Content hashes of the data, the teacher and the student, as far as they are known."""


def read_saved(folder: Path) -> SavedStudy:
    """Return the study of a folder and the fingerprints of what it is made of.

    Raises:
        InputError: There is no study, it cannot be read, or it is of a newer version of kdtune.
    """
    file = folder / STUDY
    if not file.is_file():
        raise InputError(f"a study's folder must hold {STUDY}, but {folder} does not")
    try:
        values = parse_study(file.read_bytes())
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    except ValueError as error:
        raise _no_study(file, describe_first(error)) from None
    check_schema(schema_of(values), str(folder))
    try:
        values = migrate(values, read_provenance(folder))
        return SavedStudy(Study.from_values(values), dict(values["fingerprints"]))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _no_study(file, first_line(error)) from None


def _no_study(file: Path, reason: str) -> InputError:
    return InputError(f"{file} is not a study of this version of kdtune ({reason})")


def read_study(folder: Path) -> Study:
    """Return the study of a folder; raise InputError as `read_saved` does."""
    return read_saved(folder).study


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return the content of provenance.json without damaged fields; {} if it is missing."""
    return _provenance(folder)[0]


def provenance_faults(folder: Path) -> list[str]:
    """Return a sentence if provenance.json is damaged, else nothing."""
    faults = _provenance(folder)[1]
    if not faults:
        return []
    more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
    return [
        f"{PROVENANCE} is damaged ({faults[0]}{more}): what it said of data, models and machine is "
        f"left out, and no result depends on it"
    ]


def _provenance(folder: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        return parse_provenance((folder / PROVENANCE).read_bytes())
    except FileNotFoundError:
        return {}, []
    except OSError as error:
        return {}, [str(error.strerror)]
    except ValueError as error:
        return {}, [describe_first(error)]


def read_lines(folder: Path, study: Study | None = None) -> tuple[list[Line], list[str]]:
    """Return all lines of a study in the order written, and the places of unreadable records."""
    unreadable: list[str] = []
    return list(iter_lines(folder, unreadable, study)), unreadable


def is_running(folder: Path) -> bool:
    """Return whether a process of this machine holds the study's folder; False if unknown."""
    try:
        import fcntl

        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):  # Windows; a copied or a read-only folder
        return False
    return False


def iter_lines(folder: Path, unreadable: list[str], study: Study | None = None) -> Iterator[Line]:
    """Yield the lines of a study in the order written; skip records that cannot be right.

    What is yielded is as `storage.schema` declares it. A record of a trial without a start is left
    out, for the tables as for the search that resumes: the trial runs again. So is the end of a
    trial that is recorded as completed without its last epochs; it was cut off.

    Args:
        folder: Folder of the study.
        unreadable: Gets the place of each skipped line, as file:line.
        study: Says which configurations and metrics are possible. None: any.
    """
    check = RecordCheck(study)
    for place, text in _texts(folder, unreadable):
        try:
            line = parse_line(text)
            counts = check.counts(line)
        except (ValueError, KeyError, TypeError):
            unreadable.append(place)
            continue
        if counts:
            yield line


def _texts(folder: Path, unreadable: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the place and the text of each line of the records."""
    parts = list_parts(folder / EPOCHS)
    copies = set((folder / EPOCHS).glob("*.jsonl")) - set(parts)  # that somebody has made
    unreadable.extend(sorted(file.name for file in copies))
    for file in parts:
        try:
            with file.open("rb") as texts:
                yield from ((f"{file.name}:{n}", text) for n, text in enumerate(texts, 1))
        except OSError:
            unreadable.append(file.name)


def list_parts(folder: Path) -> list[Path]:
    """Return the parts of the records in epochs/, the first one first."""
    return sorted(file for file in folder.glob("*.jsonl") if PART.fullmatch(file.name))
