"""Records of a study: their schema, writer and reader."""

import base64
import fcntl
import json
import os
import re
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TextIO

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, ConfigDict, Field, JsonValue, TypeAdapter, with_config
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from kdtune.config.files import EPOCHS, LOCK, PROVENANCE, STUDY
from kdtune.config.records import describe_fault
from kdtune.config.run import migrate
from kdtune.config.study import Study
from kdtune.config.task import BaseRun
from kdtune.config.text import InputError, printable

# Correctness of each example as short text, for the records.
#
# With it the plan of a study knows, from the records alone, how much an accuracy depends on the
# images. N examples take N / 6 characters.


CORRECT = "correct"
"""Name of the text in the records of val at the last epoch."""


_OF_GROUPS = "groups "
"""Beginning of the text where it has float64 in place of bits."""


def pack_correct(correct: ArrayLike) -> str:
    """Return whether each of N predictions is correct, bool [N], as bits in base64.

    Of data with groups: a number for each group, float [G], see `intervals.by_group`.
    """
    values = np.asarray(correct)
    if values.dtype == bool:
        return base64.b64encode(np.packbits(values).tobytes()).decode()
    return _OF_GROUPS + base64.b64encode(values.astype("<f8").tobytes()).decode()


def unpack_correct(line: Mapping[str, Any]) -> NDArray[Any] | None:
    """Return whether each prediction is correct, bool [N], from a record of a split.

    None for records of version 0.12 and older, which lack it, and for damaged ones.
    """
    with suppress(AttributeError, KeyError, TypeError, ValueError):
        text = line[CORRECT].removeprefix(_OF_GROUPS)
        packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
        if text != line[CORRECT]:
            return packed.view("<f8").astype(np.float64)
        count = int(line["n_examples"])
        if -(-count // 8) == len(packed):
            return np.unpackbits(packed, count=count).astype(bool)
    return None


# Schema of the JSON files of a study, and the one reader of them.
#
# Whatever is not as declared here is refused while it is read: other types, numbers that are not
# finite or out of range, missing fields, deep nesting. So nothing behind the reader checks again.
# Texts may be shown anywhere: their control characters are escaped.


Line = dict[str, Any]

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
OPEN = STRICT | ConfigDict(extra="allow")
"""For records with fields of later versions, and with metrics of the user's own."""

Text = Annotated[str, AfterValidator(printable)]
_Count = Annotated[int, Field(ge=0, le=2**53)]
Seconds = Annotated[float, Field(ge=0)]
ConfigId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-r\d{2,16}$")]
"""A folder has this name."""


ConfigValue = int | float | str | None
"""Of a hyperparameter: it is compared with those of the study, so it is not escaped."""


class OfTrial(TypedDict):
    """What every record of a trial has."""

    trial_id: TrialId
    config_id: ConfigId
    repeat: _Count
    time: Seconds


class Start(OfTrial):
    """A trial starts."""

    kind: Literal["start"]
    attempt: _Count
    config: dict[str, ConfigValue]
    epochs: _Count | None
    phase: NotRequired[Literal["search", "confirm", "final"]]
    elapsed: NotRequired[Seconds]
    """Time that the study has taken, over all its commands; versions before --hours lack it."""


class _EpochLine(OfTrial):
    """Metrics of one split after an epoch of a trial, besides these fields."""

    kind: Literal["epoch"]
    attempt: _Count
    split: Literal["train", "val", "test"]
    epoch: _Count
    seconds: Seconds
    n_examples: NotRequired[_Count | None]
    correct: NotRequired[str | None]


class End(OfTrial):
    """A trial ended."""

    kind: Literal["end"]
    attempt: _Count
    status: Literal["completed", "pruned", "failed"]
    error: Text | None
    node: Text | None
    elapsed: NotRequired[Seconds]
    """As of `Start`."""


class MarkLine(OfTrial):
    """A trial is dropped from the study, or restored."""

    kind: Literal["drop", "restore"]
    reason: Text | None


class FinalPair(TypedDict):
    """The finalists of one student; None for an arm without any score."""

    student: Text
    baseline: ConfigId | None
    distilled: ConfigId | None


class _FinalistsLine(TypedDict):
    """The finalists of a round of final repeats."""

    kind: Literal["finalists"]
    round: _Count
    first_repeat: _Count
    finalists: list[FinalPair]
    ranking: Annotated[list[ConfigId], Field(min_length=1)]
    default: ConfigId | None
    time: Seconds


_AnyLine = Start | _EpochLine | End | MarkLine | _FinalistsLine
LINE: TypeAdapter[Any] = TypeAdapter(Annotated[_AnyLine, Field(discriminator="kind")], config=OPEN)


@with_config(OPEN)
class StudyFile(TypedDict):
    """The envelope of study.json; `Study` checks the fields of a study."""

    schema: NotRequired[Annotated[int, Field(ge=1)]]
    fingerprints: NotRequired[dict[str, Text]]
    run: NotRequired[dict[str, JsonValue]]
    space: dict[str, list[JsonValue] | dict[str, JsonValue]]


STUDY_FILE: TypeAdapter[Any] = TypeAdapter(StudyFile)


_OBJECT: TypeAdapter[dict[str, Any]] = TypeAdapter(dict[str, JsonValue])


def parse_object(text: bytes) -> dict[str, Any]:
    """Return a JSON object with its texts as they may be shown anywhere, see `printable`.

    For provenance.json and teacher.json, on which no number depends. Raises ValueError if it is no
    object.
    """
    return _printable_texts(_OBJECT.validate_json(text))  # type: ignore[no-any-return]


def _printable_texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_printable_texts(part) for part in value]
    if isinstance(value, dict):
        return {printable(name): _printable_texts(part) for name, part in value.items()}
    return printable(value) if isinstance(value, str) else value


# Round of final repeats: the record that fixes its finalists before the first of them starts.


FINALISTS = "finalists"
"""Kind of the record."""


@dataclass(frozen=True)
class Round:
    """A round of final repeats and the configurations that run it."""

    number: int
    """From 0. A study that is extended begins another round."""
    first_repeat: int
    """Number of the first of its repeats."""
    pairs: tuple[FinalPair, ...]
    """The finalists of each student."""
    ranking: tuple[str, ...]
    """The finalists by search and confirmation, the best first, by config_id."""
    default: str | None = None
    """config_id of the recipe's default, which runs the round, too, and takes no part in any
    decision; None if it is not among the study's configurations."""
    is_recorded: bool = True
    """Whether the finalists were recorded before their first final repeat; versions before schema 4
    did not do that, and `pairs` and `ranking` of their studies are empty."""

    @property
    def finalists(self) -> frozenset[str]:
        """The config_id of each finalist."""
        return frozenset(self.ranking)

    def best(self, among: Collection[str]) -> str | None:
        """Return the best finalist, by search and confirmation, of those that are `among`."""
        return next((config for config in self.ranking if config in among), None)

    def to_line(self) -> dict[str, Any]:
        """Return the content of the record, without its time."""
        return {
            "kind": FINALISTS,
            "round": self.number,
            "first_repeat": self.first_repeat,
            "finalists": list(self.pairs),
            "best": self.ranking[0],
            "ranking": list(self.ranking),
            "default": self.default,
        }

    @staticmethod
    def from_line(line: Mapping[str, Any]) -> "Round":
        """Return the round of a record; raise KeyError or TypeError if it is damaged."""
        pairs, ranking = tuple(line["finalists"]), tuple(line["ranking"])
        return Round(line["round"], line["first_repeat"], pairs, ranking, line["default"])


# Check of a study's records against each other, beyond their form.


class _RecordCheck:
    """Check of each record against the study's metric and the records before it."""

    def __init__(self, study: Study | None):
        self._planned: dict[str, int | None] = {}
        self._seen: dict[str, int] = {}
        self._score = None if study is None else study.task.score

    def counts(self, line: Line) -> bool:
        """Return whether the next record counts.

        It does not if its trial has not started, or is recorded as completed without its last
        epochs.

        Raises:
            ValueError, KeyError: It lacks the metric that decides.
        """
        if line["kind"] == FINALISTS:
            return True
        kind, trial = line["kind"], line["trial_id"]
        if kind == "start":
            self._planned[trial] = line["epochs"]
        if trial not in self._planned:
            return False
        if kind == "epoch" and line["split"] == "val":
            if self._score is not None and line[self._score] is None:
                raise ValueError(f"{self._score} must be a number")
            self._seen[trial] = line["epoch"] + 1
        if kind == "end" and line["status"] == "completed":
            return self._seen.get(trial, 0) >= max(1, self._planned[trial] or 0)
        return True


# Writer and reader of a study's records: JSON lines, epoch by epoch.


_PART = re.compile(r"\d{5,9}\.jsonl")
"""Name of a part of the records."""
Mark = Literal["drop", "restore"]
"""Kinds of records that exclude a trial from the study, or include it again."""


class Records(AbstractContextManager["Records"]):
    """Writer of a study's records; a context manager that closes the current part.

    The records are parts, epochs/NNNNN.jsonl; a new one begins at each start of the driver and with
    each `roll`.

    Args:
        folder: Folder of the study.
        began: When the study would have begun without pauses between its commands, on the clock of
            `time.monotonic`. None: now.
    """

    def __init__(self, folder: Path, began: float | None = None):
        self._began = time.monotonic() if began is None else began
        self._parts = folder / EPOCHS
        self._parts.mkdir(parents=True, exist_ok=True)
        self._file = self._new_part()

    def __exit__(self, *_: object) -> None:
        """Close the current part."""
        self._file.close()

    def start(self, run: BaseRun, attempt: int, phase: str = "search") -> Line:
        """Record that a trial starts, in a phase of the search (see `planning.ledger`)."""
        return self._write(
            "start", run, attempt, config=run.config, epochs=run.planned_epochs, phase=phase
        )

    @property
    def elapsed(self) -> float:
        """Seconds that the study has taken until now, over all its commands."""
        return time.monotonic() - self._began

    def epoch(self, run: BaseRun, attempt: int, report: Mapping[str, Any]) -> list[Line]:
        """Record an epoch of a trial, one line per split.

        Args:
            run: The trial's run.
            attempt: Its number, from 0.
            report: `number` of the epoch, from 0; `seconds`, its wall time; `splits`, the metrics
                of each split; and after the last epoch perhaps `correct`, the correctness of each
                example of val, see `pack_correct`.
        """
        lines, of_epoch = [], {"epoch": report["number"], "seconds": report["seconds"]}
        for split, metrics in report["splits"].items():
            values = {"split": split, **metrics, **of_epoch}
            if split == "val" and CORRECT in report:
                values[CORRECT] = report[CORRECT]
            lines.append(self._write("epoch", run, attempt, **values))
        return lines

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

    def _new_part(self) -> TextIO:
        number = max((int(p.stem) for p in list_parts(self._parts)), default=-1) + 1
        return (self._parts / f"{number:05d}.jsonl").open("x", encoding="utf-8")

    def _write(self, kind: str, run: BaseRun, attempt: int, **values: Any) -> Line:
        names = {"trial_id": run.trial_id, "config_id": run.config_id, "repeat": run.repeat}
        line = {"kind": kind, **names, "attempt": attempt, "time": time.time(), **values}
        if kind != "epoch":
            line["elapsed"] = self.elapsed
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
        values: dict[str, Any] = STUDY_FILE.validate_json(file.read_bytes())
        provenance = read_provenance(folder)
        values = migrate(values, provenance)
        return SavedStudy(Study.from_values(values), dict(values["fingerprints"]))
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file} is not a study of this version of kdtune ({describe_fault(error)})"
        ) from None


def read_study(folder: Path) -> Study:
    """Return the study of a folder; raise InputError as `read_saved` does."""
    return read_saved(folder).study


def read_provenance(folder: Path, faults: list[str] | None = None) -> dict[str, Any]:
    """Return the content of provenance.json; {} if it is missing or damaged.

    Args:
        folder: Folder of the study.
        faults: Gets a sentence if the file is damaged.
    """
    try:
        return parse_object((folder / PROVENANCE).read_bytes())
    except (OSError, ValueError) as error:
        if faults is not None and not isinstance(error, FileNotFoundError):
            faults.append(
                f"{PROVENANCE} is damaged ({describe_fault(error)}): what it said of data, models "
                f"and machine is left out, and no result depends on it"
            )
        return {}


def read_lines(folder: Path, study: Study | None = None) -> tuple[list[Line], list[str]]:
    """Return all lines of a study in the order written, and the places of unreadable records."""
    unreadable: list[str] = []
    return list(iter_lines(folder, unreadable, study)), unreadable


def is_running(folder: Path) -> bool:
    """Return whether a process of this machine holds the study's folder; False if unknown."""
    try:
        with (folder / LOCK).open() as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # a copied or a read-only folder
        return False
    return False


def iter_lines(folder: Path, unreadable: list[str], study: Study | None = None) -> Iterator[Line]:
    """Yield the lines of a study in the order written; skip records that cannot be right.

    What is yielded is as `LINE` declares it. A record of a trial without a start is left
    out, for the tables as for the search that resumes: the trial runs again. So is the end of a
    trial that is recorded as completed without its last epochs; it was cut off.

    Args:
        folder: Folder of the study.
        unreadable: Gets the place of each skipped line, as file:line.
        study: Says which metric decides. None: any.
    """
    check = _RecordCheck(study)
    for position, text in _texts(folder, unreadable):
        try:
            line: Line = LINE.validate_json(text)
            counts = check.counts(line)
        except (ValueError, KeyError):
            unreadable.append(position)
            continue
        if counts:
            yield line


def _texts(folder: Path, unreadable: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield the place and the text of each line of the records."""
    for file in list_parts(folder / EPOCHS):
        try:
            with file.open("rb") as texts:
                yield from ((f"{file.name}:{n}", text) for n, text in enumerate(texts, 1))
        except OSError:
            unreadable.append(file.name)


def list_parts(folder: Path) -> list[Path]:
    """Return the parts of the records in epochs/, the first one first."""
    return sorted(file for file in folder.glob("*.jsonl") if _PART.fullmatch(file.name))
