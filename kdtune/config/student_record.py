"""Content of students/students.json: all that predicting with a study's students needs.

    1   versions before 0.2: the fields of the best configuration's run, and in most of them
        `preprocessing`
    2   `schema`, and the fields of `StudentsRecord`

The schema is raised when the meaning of the file changes. A new field with a default does not raise
it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from kdtune.config.errors import DAMAGED, InputError, first_line
from kdtune.config.fields import check_fields
from kdtune.config.files import STUDENTS_CONFIG
from kdtune.config.migrations import migrate_run
from kdtune.config.run import Run

SCHEMA = 2
REMEDY = "repeat the study's command, which writes the file again, or copy the whole folder again"


@dataclass(frozen=True)
class ModelRecord:
    """What the students are built from."""

    name: str
    """As the user gave it: a name of torchvision or kdtune, timm/NAME or module:factory."""
    file: str | None = None
    """File of the factory's module when the study ran; None for models of libraries."""
    source: str = ""
    """Digest of the source of the factory and of the user's modules that it imports."""
    licence: str = "unknown"
    """Licence of the initial weights, as their library states it."""
    weights: str = "unknown"
    """Initial weights: "default", "none" or a file."""


@dataclass(frozen=True)
class InputRecord:
    """One view of the data, which is what the students take."""

    kind: str
    """"files" (images of any size), "images" (of one size) or "tensors"."""
    shape: tuple[int, ...]
    """Shape of one view: (C, H, W) of an image."""
    dtype: str
    """Type of its numbers, such as "uint8"."""


@dataclass(frozen=True)
class StudentRecord:
    """One student, a file of weights."""

    repeat: int
    file: str
    trial_id: str = ""
    sha256: str = ""
    """Digest of the file; "" if it is not known."""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Metrics at the last epoch, by split (val, test) and name (acc, ce, ...)."""


@dataclass(frozen=True, kw_only=True)
class StudentsRecord:
    """The students of a study's best configuration, and what predicting with them needs."""

    schema: int = SCHEMA
    study: str = ""
    """Name of the study."""
    model: ModelRecord
    classes: tuple[str, ...] = ()
    """Names of the K classes; () if they are not known."""
    input: InputRecord | None = None
    """One view; None if it is not known."""
    preprocessing: Mapping[str, Any] | None = None
    """`image_size`, `orientation`, `eval_crop` and `eval_interpolation`, which turn an image into a
    view, and the other fields of `models.Preprocessing`, which turn it into the model's input.
    None: the data are no images, or it is not known."""
    students: tuple[StudentRecord, ...] = ()
    """The students that the study kept, by repeat."""
    configuration: Mapping[str, Any] = field(default_factory=dict)
    """The best configuration and its metrics; see `results.student_metrics`."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of kdtune, torch and others that ran the study."""
    run: Mapping[str, Any]
    """Fields of the best configuration's run."""

    def to_json(self) -> str:
        """Return the content of the file."""
        return json.dumps(asdict(self), indent=2)

    @property
    def configured_run(self) -> Run:
        """The run of the best configuration, of the fields that this version knows."""
        values = migrate_run(self.run)
        return Run(**{f.name: values[f.name] for f in fields(Run) if f.name in values})


def read_students_record(folder: Path) -> StudentsRecord:
    """Return the content of a folder's students.json.

    Raises:
        InputError: The file is missing, damaged or of a newer version of kdtune.
    """
    file = folder / STUDENTS_CONFIG
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"a folder of students must hold {STUDENTS_CONFIG}, but {folder} does not; {REMEDY}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is damaged ({first_line(error)}); {REMEDY}") from None
    if not isinstance(values, dict):
        raise InputError(f"{file} is damaged (it is no JSON object); {REMEDY}")
    schema = values.get("schema", 1)
    if isinstance(schema, int) and schema > SCHEMA:
        raise InputError(
            f"{file} was written by a newer version of kdtune (schema {schema}, but this version "
            f"reads schema {SCHEMA} and older); update kdtune to read it"
        )
    try:
        record = _from_1(values) if schema == 1 else _from_2(values)
        record.configured_run  # noqa: B018 - checks the values
        _check(record)
    except DAMAGED as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{file} is damaged ({reason}); {REMEDY}") from None
    return record


def _from_1(values: Mapping[str, Any]) -> StudentsRecord:
    run = {key: value for key, value in values.items() if key != "preprocessing"}
    return StudentsRecord(
        run=run,
        model=ModelRecord(run["student"]),
        preprocessing=values.get("preprocessing"),
        schema=1,
    )


def _from_2(values: Mapping[str, Any]) -> StudentsRecord:
    known = {f.name: values[f.name] for f in fields(StudentsRecord) if f.name in values}
    own = known.get("input")
    return StudentsRecord(
        **known
        | {
            "model": ModelRecord(**_known(ModelRecord, values["model"])),
            "input": own and InputRecord(own["kind"], _listed(own["shape"]), own["dtype"]),
            "classes": _listed(values["classes"]),
            "students": tuple(
                StudentRecord(**_known(StudentRecord, one)) for one in values["students"]
            ),
        }
    )


def _listed(values: object) -> tuple[Any, ...]:
    """Return the items of a list; raise TypeError for a text, which has items, too."""
    if not isinstance(values, list):
        raise TypeError(f"a list is expected, but got a {type(values).__name__}")
    return tuple(values)


def _check(record: StudentsRecord) -> None:
    """Raise InputError, which is a ValueError, for a value of another type."""
    for part in (record, record.model, record.input, *record.students):
        if part is not None:
            check_fields(part)
    own = record.input
    if own is not None and not all(type(n) is int and 0 < n < 2**31 for n in own.shape):
        raise ValueError(f"the shape of the input must be whole numbers, but is {own.shape}")
    if not all(isinstance(name, str) for name in record.classes):
        raise ValueError("the names of the classes must be a list of texts")
    for name in ("preprocessing", "configuration", "versions", "run"):
        value = getattr(record, name)
        if not isinstance(value, Mapping) and (name, value) != ("preprocessing", None):
            raise ValueError(f"{name} must be an object, but is a {type(value).__name__}")


def _known(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of fields that this version knows."""
    return {f.name: values[f.name] for f in fields(owner) if f.name in values}
