"""Writer and reader of a study's records: JSON lines, epoch by epoch."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, TextIO

from kdtune.config.base_run import BaseRun
from kdtune.config.errors import InputError
from kdtune.config.files import LOCK, PROVENANCE, STUDY
from kdtune.config.migrations import check_schema, migrate, schema_of
from kdtune.config.study import Study
from kdtune.storage.correctness import CORRECT
from kdtune.storage.rounds import FINALISTS, Round

Line = dict[str, Any]
Mark = Literal["drop", "restore"]
"""Kinds of records that exclude a trial from the study, or include it again."""


class Records:
    """Writer of a study's records; a context manager that closes the current part.

    The records are parts, epochs/NNNNN.jsonl; a new one begins at each start of the driver and with
    each `roll`.
    """

    def __init__(self, folder: Path):
        self._parts = folder / "epochs"
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
        number = max((int(p.stem) for p in self._parts.glob("*.jsonl")), default=-1) + 1
        return (self._parts / f"{number:05d}.jsonl").open("x", encoding="utf-8")

    def _write(self, kind: str, run: BaseRun, attempt: int, **values: Any) -> Line:
        names = {"trial_id": run.trial_id, "config_id": run.config_id, "repeat": run.repeat}
        line = {"kind": kind, **names, "attempt": attempt, "time": time.time(), **values}
        return self._append(line)

    def _append(self, line: Line) -> Line:
        self._file.write(json.dumps(line, allow_nan=False) + "\n")
        self._file.flush()
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
        values = json.loads(file.read_text(encoding="utf-8"))
        schema = schema_of(values)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{file} is not a study of this version of kdtune ({error})") from None
    check_schema(schema, str(folder))
    try:
        values = migrate(values, read_provenance(folder))
        return SavedStudy(Study.from_values(values), dict(values["fingerprints"]))
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{file} is not a study of this version of kdtune ({error})") from None


def read_study(folder: Path) -> Study:
    """Return the study of a folder; raise InputError as `read_saved` does."""
    return read_saved(folder).study


def read_provenance(folder: Path) -> dict[str, Any]:
    """Return the content of provenance.json; {} if it is missing or damaged."""
    with suppress(OSError, ValueError):
        record = json.loads((folder / PROVENANCE).read_text(encoding="utf-8"))
        return record if isinstance(record, dict) else {}
    return {}


def read_lines(folder: Path) -> tuple[list[Line], list[str]]:
    """Return all lines of a study in the order written, and the places of incomplete records."""
    incomplete: list[str] = []
    return list(iter_lines(folder, incomplete)), incomplete


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


def iter_lines(folder: Path, incomplete: list[str]) -> Iterator[Line]:
    """Yield the lines of a study in the order written; skip incomplete records.

    A trial that is recorded as completed without its last epochs was cut off. Its end is left out,
    for the tables as for the search that resumes.

    Args:
        folder: Folder of the study.
        incomplete: Gets the place of each skipped line, as file:line.
    """
    planned: dict[str, int] = {}
    seen: dict[str, int] = {}
    for line in _complete_lines(folder, incomplete):
        kind, trial = line["kind"], line.get("trial_id", "")
        if kind == "start":
            planned[trial] = line["epochs"] or 0
        elif kind == "epoch":
            seen[trial] = line["epoch"] + 1
        elif (
            kind == "end"
            and line["status"] == "completed"
            and seen.get(trial, 0) < planned.get(trial, 0)
        ):
            continue
        yield line


def _complete_lines(folder: Path, incomplete: list[str]) -> Iterator[Line]:
    for file in sorted((folder / "epochs").glob("*.jsonl")):
        with file.open(encoding="utf-8", errors="replace") as texts:
            for number, text in enumerate(texts, 1):
                try:
                    line = json.loads(text)
                    _check(line)
                except (ValueError, KeyError, TypeError):
                    incomplete.append(f"{file.name}:{number}")
                else:
                    yield line


def _check(line: Line) -> None:
    """Raise KeyError or TypeError if a line is no record of this version."""
    if line["kind"] == FINALISTS:  # the only record that is about no trial
        Round.from_line(line)
    else:
        line["trial_id"]
