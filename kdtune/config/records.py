"""Records of costs, teachers and students: the content of JSON files."""

import json
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from PIL import ExifTags, Image

from kdtune.config.fields import MAX_COUNT, MAX_PARAMS, Role, Setting, check_fields
from kdtune.config.files import COSTS, STUDENTS_CONFIG, TEACHER_ACCURACY, atomic_write
from kdtune.config.run import Orientation, Run, migrate_run
from kdtune.config.text import DAMAGED, InputError, first_line

# Cost of a model: its numbers, their file, and limits on them.


MEASURED = Setting(low=0, high=1e30)
"""Bounds of a number of a model: none is greater."""


@dataclass(frozen=True)
class Cost:
    """Size, work and speed of a student or a teacher, measured once for a study."""

    role: Role
    model: str
    """Name, as the user gives it."""
    params: Annotated[int, MEASURED]
    """Number of parameters."""
    bytes: Annotated[int, MEASURED]
    """Size of its weights as a safetensors file."""
    flops: Annotated[int | None, MEASURED]
    """Floating-point operations of one example; a multiply-add counts as two, element-wise
    operations are not counted. None: not known, since the model has operations without a count."""
    latency_ms: Annotated[float, MEASURED]
    """Median time of one example, from view to logits, in milliseconds."""
    latency_ms_iqr: Annotated[float | None, MEASURED]
    """Interquartile range of that time. None: too few measurements."""
    latency32_ms: Annotated[float, MEASURED]
    """Median time of a batch of 32 examples, in milliseconds."""
    latency32_ms_iqr: Annotated[float | None, MEASURED]
    """Interquartile range of that time. None: too few measurements."""
    threads: Annotated[int, MEASURED]
    """Threads of the CPU that the measurement may use."""
    device: str
    """"cpu" or "cuda"."""
    hardware: str
    """Name of the CPU or GPU."""
    precision: str
    """"fp32" or "bf16"."""
    torch: str
    """Version of PyTorch."""


def write_costs(folder: Path, costs: Sequence[Cost]) -> None:
    """Write costs.json of a study."""
    with atomic_write(folder / COSTS) as part:
        text = json.dumps({"schema": 1, "models": [asdict(cost) for cost in costs]}, indent=2)
        part.write_text(text, encoding="utf-8")


def read_costs(folder: Path) -> list[Cost]:
    """Return the costs in a study's folder; [] if the file is missing or damaged.

    The driver measures what is missing when it next runs trials.
    """
    names = {field.name for field in fields(Cost)}
    with suppress(OSError, *DAMAGED):
        models: list[dict[str, Any]] = json.loads((folder / COSTS).read_text("utf-8"))["models"]
        # a later version may have added fields
        costs = [Cost(**{k: v for k, v in model.items() if k in names}) for model in models]
        for cost in costs:
            check_fields(cost)
        return costs
    return []


@dataclass(frozen=True)
class Limits:
    """Limits on the cost of a student; raises InputError for impossible ones."""

    max_ms: Annotated[float | None, Setting(above=0, high=MAX_COUNT)] = None
    """Greatest median latency at batch size 1 in milliseconds."""
    max_params: Annotated[int | None, Setting(low=1, high=MAX_PARAMS)] = None
    """Greatest number of parameters."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __bool__(self) -> bool:
        """Return True if there is a limit."""
        return self.max_ms is not None or self.max_params is not None

    def or_else(self, other: "Limits") -> "Limits":
        """Return these limits, with those of `other` where there is none."""
        ms = other.max_ms if self.max_ms is None else self.max_ms
        params = other.max_params if self.max_params is None else self.max_params
        return Limits(ms, params)


NO_LIMITS = Limits()


# Accuracy of a study's teachers: the record teacher/accuracy.json.
#
# It is written before the first run, and read by tables, warnings and the report.


@dataclass(frozen=True)
class Accuracy:
    """Accuracy of a teacher on a split."""

    n: int
    """Number of examples."""
    correct: int
    """Examples that are classified correctly."""
    largest_class: int
    """Examples of the most frequent class."""

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
    """By split: train (the images that students learn from, not augmented), val, perhaps test."""
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

    @property
    def key(self) -> TeacherKey:
        """What tells the teacher from the others of its study."""
        return TeacherKey(self.teacher, self.epochs, self.number)

    @property
    def recipe_name(self) -> str:
        """The teacher in words, without its number."""
        if not self.epochs:
            return self.teacher
        return f"{self.teacher} ({self.epochs} epoch{'s' * (self.epochs > 1)})"

    @property
    def name(self) -> str:
        """The teacher in words."""
        return f"{self.recipe_name}, {self.which}" if self.which else self.recipe_name


def read_teacher_accuracy(folder: Path) -> list[TeacherAccuracy]:
    """Return the record in a study's folder; [] if there is none, or it is damaged."""
    with suppress(OSError, *DAMAGED):
        return [_read(one) for one in json.loads((folder / TEACHER_ACCURACY).read_text("utf-8"))]
    return []


def write_teacher_accuracy(folder: Path, records: Sequence[TeacherAccuracy]) -> None:
    """Write the record into a study's folder."""
    file = folder / TEACHER_ACCURACY
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(file) as part:
        part.write_text(json.dumps([asdict(one) for one in records], indent=2), encoding="utf-8")


def _read(values: Mapping[str, Any]) -> TeacherAccuracy:
    """Return a record; raise ValueError or another error for values that none has."""
    splits = {split: Accuracy(**counts) for split, counts in values["splits"].items()}
    record = TeacherAccuracy(**{**values, "splits": splits})
    for part in (record, *splits.values()):
        check_fields(part)
    for one in splits.values():
        if not (one.n > 0 <= one.correct <= one.n and 0 <= one.largest_class <= one.n):
            raise ValueError(f"an accuracy must be a share of examples, but got {one!r}")
    return record


# Content of students/students.json: all that predicting with a study's students needs.
#
#         1   versions before 0.2: the fields of the best configuration's run, and in most of them
#                 `preprocessing`
#         2   `schema`, and the fields of `StudentsRecord`
#
# The schema is raised when the meaning of the file changes. A new field with a default does not
# raise
# it.


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


# EXIF orientation of images of Pillow, read without the rest of their EXIF data.


UNREADABLE = (
    *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
    *(LookupError, TypeError, ArithmeticError, AttributeError, EOFError, struct.error, zlib.error),
)
"""Errors of Pillow for a file that is no image, or a damaged one."""


TURNS = {
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
    **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE},
    **{6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90},
}
"""How an image is shown, by its EXIF orientation; 1 is as stored."""


def oriented(image: Image.Image, orientation: Orientation | None) -> Image.Image:
    """Return an image as its EXIF data say, or as it is stored.

    Args:
        image: of Pillow.
        orientation: whether it is rotated and mirrored as its EXIF data say; None: it is.
    """
    if orientation == "stored":
        return image
    # first, since some formats load in getexif; a second load after a failure returns black
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:  # damaged EXIF data say nothing
        return image
    # not ImageOps.exif_transpose, which also writes the other EXIF data anew and may fail
    return image if turn is None else image.transpose(turn)
