"""Records of costs, teachers and students: the content of JSON files."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, NamedTuple

from kdtune.config.fields import Params, Positive, Role, check_fields
from kdtune.config.files import COSTS, STUDENTS_CONFIG, TEACHER_ACCURACY, write_text
from kdtune.config.run import Run, migrate_run
from kdtune.config.text import DAMAGED, InputError, first_line, printable

# Reading and writing.


def _read(kind: Any, text: str | bytes) -> Any:
    """Return the records of JSON; fields that this version does not know are ignored.

    Raises ValueError for values of other types.
    """
    # imported here, since a command line is read without it
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_json(text, strict=True)


def _read_if_good(kind: Any, file: Path) -> Any:
    """Return the records of a file; None if it is missing or damaged."""
    with suppress(OSError, ValueError):
        return _read(kind, file.read_bytes())


def _write(file: Path, content: object) -> None:
    write_text(file, json.dumps(content, indent=2))


# Recipe of a study.


class RecipeRow(NamedTuple):
    """One setting of a study."""

    setting: str
    value: str
    source: str
    """flag, experiment (or Python), saved study, model's own, or a default with its condition."""


# Cost of a model: its numbers, their file, and limits on them.


@dataclass(frozen=True)
class Cost:
    """Size, work and speed of a student or a teacher, measured once for a study."""

    role: Role
    model: str
    """Name, as the user gives it."""
    params: int
    """Number of parameters."""
    bytes: int
    """Size of its weights as a safetensors file."""
    flops: int | None
    """Floating-point operations of one example; a multiply-add counts as two, element-wise
    operations are not counted. None: not known, since the model has operations without a count."""
    latency_ms: float
    """Median time of one example, from view to logits, in milliseconds."""
    latency_ms_iqr: float | None
    """Interquartile range of that time. None: too few measurements."""
    latency32_ms: float | None
    """Median time of a batch of 32 examples, in milliseconds. None: it would have taken more than
    the second that is for the latencies of a model."""
    latency32_ms_iqr: float | None
    """Interquartile range of that time. None: too few measurements."""
    threads: int
    """Threads of the CPU that the measurement may use."""
    device: str
    """"cpu" or "cuda"."""
    hardware: str
    """Name of the CPU or GPU."""
    precision: str
    """"fp32", "bf16" or "fp16"."""
    torch: str
    """Version of PyTorch."""


def write_costs(folder: Path, costs: Sequence[Cost]) -> None:
    """Write costs.json of a study."""
    _write(folder / COSTS, {"schema": 1, "models": [asdict(cost) for cost in costs]})


def read_costs(folder: Path) -> list[Cost]:
    """Return the costs in a study's folder; [] if the file is missing or damaged.

    The driver measures what is missing when it next runs trials.
    """
    content = _read_if_good(_Costs, folder / COSTS)
    return content.models if content else []


@dataclass(frozen=True)
class _Costs:
    """Content of costs.json."""

    models: list[Cost]


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of a student; raises InputError for impossible ones."""

    max_ms: Positive | None = None
    """Greatest median latency at batch size 1 in milliseconds."""
    max_params: Params | None = None
    """Greatest number of parameters."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __bool__(self) -> bool:
        """Return True if there is a limit."""
        return self.max_ms is not None or self.max_params is not None

    def or_else(self, other: "Limits") -> "Limits":
        """Return these limits, with those of `other` where there is none."""
        return Limits(self.max_ms or other.max_ms, self.max_params or other.max_params)


NO_LIMITS = Limits()


# Accuracy of a study's teachers: the record teacher/accuracy.json. It is written before the first
# run, and read by tables, warnings and the report.


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a teacher on a split."""

    n: int
    """Number of examples."""
    correct: int
    """Examples that are classified correctly."""
    largest_class: int
    """Examples of the most frequent class."""
    of: int | None = None
    """Examples of the split, if only some of them were measured."""

    @property
    def share(self) -> float:
        """Share of correct examples, in [0, 1]."""
        return self.correct / self.n

    def __str__(self) -> str:
        return f"{100 * self.share:.1f}%"


class TeacherKey(NamedTuple):
    """What tells a teacher from the others of its study."""

    teacher: str
    epochs: int
    number: int
    images: int | None


@dataclass(frozen=True)
class Alternative:
    """A change with which a teacher is right on other examples of train, as a hint at a fault."""

    part: Literal["classes", "input"]
    """What is changed: the order of its classes, or its input."""
    change: str
    """The change in words."""
    n: int
    """Number of examples."""
    correct: int
    """Examples that are classified correctly without it."""
    gained: int
    """Examples that are classified correctly with it alone."""
    lost: int
    """Examples that are classified correctly without it alone."""

    @staticmethod
    def of(part: Literal["classes", "input"], change: str, right: Any, other: Any) -> "Alternative":
        """Return the change with which `other`, bool [N], are right in place of `right`."""
        gained, lost = int((other & ~right).sum()), int((right & ~other).sum())
        return Alternative(part, change, len(right), int(right.sum()), gained, lost)

    @property
    def shares(self) -> tuple[float, float]:
        """Share of correct examples without the change and with it, in [0, 1]."""
        return self.correct / self.n, (self.correct + self.gained - self.lost) / self.n


class EpochTime(NamedTuple):
    """Seconds that an epoch of a student is expected to take, before any of its runs has ended."""

    training: float
    """Of each run: its steps and its evaluation."""
    stream: float
    """Of the views and of the teacher's pass, which the runs of a repeat share."""
    once: float
    """In all, not of each epoch: of what all runs share."""


@dataclass(frozen=True)
class TeacherAccuracy:
    """Accuracy of one teacher, an ensemble or not, on all splits."""

    teacher: str
    epochs: int
    """Epochs of fine-tuning; 0 if the weights are used as they are."""
    weights: str
    """Where its weights are: a file, "default" or "none"; for an ensemble its members."""
    classes: int
    """Number of classes K."""
    splits: Mapping[str, Accuracy]
    """By split: train (images that students learn from, not augmented), val, perhaps test."""
    fingerprint: str
    """Hash of everything that the accuracy depends on."""
    acc_before: float | None = None
    """On val before fine-tuning, in [0, 1]; None if there was none, or the head is new."""
    acc_after: float | None = None
    """On val after fine-tuning, measured on the same images as `acc_before`."""
    number: int = 0
    """Number of the teacher among those of one recipe, see `Run.teacher_number`."""
    which: str = ""
    """The number in words; "" if there is one teacher of this recipe."""
    like_probabilities: bool = False
    """Whether it is a file whose logits look like probabilities."""
    alternatives: tuple[Alternative, ...] = ()
    """Changes with which it is right on more examples, see `training.teachers`."""
    images: int | None = None
    """Number of images that it and its students learned from. None: students of any number."""

    @property
    def key(self) -> TeacherKey:
        """What tells the teacher from the others of its study."""
        return TeacherKey(self.teacher, self.epochs, self.number, self.images)

    @property
    def recipe_name(self) -> str:
        """The teacher in words, without its number."""
        if not self.epochs:
            return self.teacher
        images = "" if self.images is None else f", {self.images:,} images"
        return f"{self.teacher} ({self.epochs} epoch{'s' * (self.epochs > 1)}{images})"

    @property
    def name(self) -> str:
        """The teacher in words."""
        return f"{self.recipe_name}, {self.which}" if self.which else self.recipe_name


def read_teacher_accuracy(folder: Path) -> list[TeacherAccuracy]:
    """Return the record in a study's folder; [] if there is none, or it is damaged."""
    return _read_if_good(list[TeacherAccuracy], folder / TEACHER_ACCURACY) or []


def write_teacher_accuracy(folder: Path, records: Sequence[TeacherAccuracy]) -> None:
    """Write the record into a study's folder."""
    file = folder / TEACHER_ACCURACY
    file.parent.mkdir(parents=True, exist_ok=True)
    _write(file, [asdict(record) for record in records])


# Content of students/students.json: all that predicting with a study's students needs. The schema
# is raised when the meaning of the file changes, not for a new field with a default.
#
#     1   versions before 0.2: the fields of the best configuration's run, and in most of them
#         `preprocessing`
#     2   `schema`, and the fields of `StudentsRecord`

SCHEMA = 2
REMEDY = "repeat the study's command, which writes the file again, or copy the whole folder again"


@dataclass(frozen=True)
class ModelRecord:
    """What the students are built from."""

    name: str
    """As the user gave it: a name of torchvision or kdtune, timm/NAME, hf:NAME or
    module:factory."""
    file: str | None = None
    """File of the factory's module when the study ran; None for models of libraries."""
    source: str = ""
    """Digest of the source of the factory and of the user's modules that it imports; of hf:NAME the
    config of the model, as JSON."""
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
    metrics: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)
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
        return Run(**known_fields(Run, migrate_run(self.run)))


def known_fields(owner: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of the fields of a dataclass, of those that this version knows."""
    return {f.name: values[f.name] for f in fields(owner) if f.name in values}


def read_students_record(folder: Path) -> StudentsRecord:
    """Return the content of a folder's students.json.

    Raises:
        InputError: The file is missing, damaged or of a newer version of kdtune.
    """
    file = folder / STUDENTS_CONFIG
    try:
        text = file.read_text(encoding="utf-8")
        values = json.loads(text)
        schema = values.get("schema", 1)
        if not (isinstance(schema, int) and schema > SCHEMA):
            return _from_1(values) if schema == 1 else _read(StudentsRecord, text)
    except FileNotFoundError:
        raise InputError(
            f"a folder of students must hold {STUDENTS_CONFIG}, but {folder} does not; {REMEDY}"
        ) from None
    except (OSError, *DAMAGED) as error:
        raise InputError(f"{file} is damaged ({describe_fault(error)}); {REMEDY}") from None
    raise InputError(
        f"{file} was written by a newer version of kdtune (schema {schema}, but this version reads "
        f"schema {SCHEMA} and older); update kdtune to read it"
    )


def describe_fault(error: Exception) -> str:
    """Return the first fault that pydantic finds in words, of another error the first line.

    In words is, for example, "classes.3: a valid string".
    """
    if not hasattr(error, "errors"):
        return first_line(error)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    words = str(first["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return printable(f"{field}: {words}" if field else words)


def _from_1(run: Mapping[str, Any]) -> StudentsRecord:
    model, preprocessing = ModelRecord(run["student"]), run.get("preprocessing")
    return StudentsRecord(run=run, model=model, preprocessing=preprocessing, schema=1)
