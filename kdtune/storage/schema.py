"""Schema of the JSON files of a study, and the one reader of them.

Whatever is not as declared here is refused while it is read: other types, numbers that are not
finite or out of range, missing fields, deep nesting. So nothing behind the reader checks again.
Texts may be shown anywhere: their control characters are escaped.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    JsonValue,
    TypeAdapter,
    ValidationError,
    with_config,
)
from pydantic_core import ErrorDetails, from_json
from typing_extensions import TypedDict  # pydantic needs it on Python 3.11

from kdtune.config.base_run import name_trial
from kdtune.config.text import printable
from kdtune.storage.rounds import FINALISTS

Line = dict[str, Any]

STRICT = ConfigDict(strict=True, allow_inf_nan=False)
OPEN = STRICT | ConfigDict(extra="allow")
"""For records with fields of later versions, and with metrics of the user's own."""

Text = Annotated[str, AfterValidator(printable)]
Count = Annotated[int, Field(ge=0, le=2**53)]
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0)]
ConfigId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
TrialId = Annotated[str, Field(pattern=r"^[0-9a-f]{8}-r\d{2,16}$")]
"""A folder has this name."""


def _as_is(text: str) -> str:
    """Return a text; raise ValueError if it has characters that may not be shown."""
    if printable(text) != text:
        raise ValueError("holds control characters")
    return text


ConfigValue = int | float | Annotated[str, AfterValidator(_as_is)] | None
"""Of a hyperparameter: it is compared with those of the study, so it is not escaped."""


class OfTrial(TypedDict):
    """What every record of a trial has."""

    trial_id: TrialId
    config_id: ConfigId
    repeat: Count
    time: Seconds


@with_config(OPEN)
class Start(OfTrial):
    """A trial starts."""

    kind: Literal["start"]
    attempt: Count
    config: dict[str, ConfigValue]
    epochs: Count | None
    phase: NotRequired[Literal["search", "confirm", "final"]]


@with_config(OPEN)
class Epoch(OfTrial):
    """Metrics of one split after an epoch of a trial, besides these fields."""

    kind: Literal["epoch"]
    attempt: Count
    split: Literal["train", "val", "test"]
    epoch: Count
    seconds: Seconds
    n_examples: NotRequired[Count | None]
    correct: NotRequired[str | None]


@with_config(OPEN)
class End(OfTrial):
    """A trial ended."""

    kind: Literal["end"]
    attempt: Count
    status: Literal["completed", "pruned", "failed"]
    error: Text | None
    node: Text | None


@with_config(OPEN)
class Mark(OfTrial):
    """A trial is dropped from the study, or restored."""

    kind: Literal["drop", "restore"]
    reason: Text | None


class Pair(TypedDict):
    """The finalists of one student."""

    student: Text
    baseline: ConfigId | None
    distilled: ConfigId | None


@with_config(OPEN)
class Finalists(TypedDict):
    """The finalists of a round of final repeats."""

    kind: Literal["finalists"]
    round: Count
    first_repeat: Count
    finalists: list[Pair]
    ranking: Annotated[list[ConfigId], Field(min_length=1)]
    default: ConfigId | None
    time: Seconds


LINE: TypeAdapter[Any] = TypeAdapter(
    Annotated[Start | Epoch | End | Mark | Finalists, Discriminator("kind")]
)


@with_config(OPEN)
class StudyFile(TypedDict):
    """The envelope of study.json; `Study` checks the fields of a study."""

    schema: NotRequired[Annotated[int, Field(ge=1)]]
    fingerprints: NotRequired[dict[str, Text]]
    run: NotRequired[dict[str, JsonValue]]
    space: dict[str, list[JsonValue] | dict[str, JsonValue]]


STUDY_FILE: TypeAdapter[Any] = TypeAdapter(StudyFile)


class Extra(TypedDict):
    """Images without labels."""

    examples: Count
    source: Text


@with_config(OPEN)
class ValCut(TypedDict):
    """The part of train that is val."""

    share: float
    seed: int


@with_config(OPEN)
class DataSet(TypedDict, total=False):
    """The data of a study."""

    kind: Text
    examples: dict[Text, dict[Text, Count]]
    examples_text: dict[Text, Text]
    val_cut: ValCut | None
    extra: Extra | None


@with_config(OPEN)
class Machine(TypedDict, total=False):
    """The machine of the driver."""

    system: Text | None
    processor: Text | None
    cores: Count | None


class RecipeRow(TypedDict):
    """A setting of the recipe and where its value comes from."""

    setting: Text
    value: Text
    source: Text


@with_config(OPEN)
class Provenance(TypedDict, total=False):
    """provenance.json: how and with what a study was begun. No number depends on it."""

    data: Text
    teacher: Text
    student: Text
    classes: list[Text]
    data_set: DataSet
    machine: Machine
    python: Text
    versions: dict[Text, Text]
    command: list[Text]
    warnings: list[Text]
    recipe: list[RecipeRow]
    models: dict[Text, dict[str, JsonValue]]
    sources: dict[Text, dict[str, JsonValue]]
    views: dict[str, JsonValue]
    input: dict[str, JsonValue] | None


PROVENANCE: TypeAdapter[Any] = TypeAdapter(Provenance)


class TeacherEpoch(TypedDict):
    """Accuracy of a teacher after an epoch of its fine-tuning."""

    epoch: int
    train: NotRequired[Share | None]
    val: NotRequired[Share | None]


@with_config(OPEN)
class TeacherFile(TypedDict, total=False):
    """teacher.json, as far as results and report show it."""

    run: dict[str, JsonValue]
    classes: list[Text] | None
    kept_epoch: int | None
    acc_before: Share | None
    history: list[TeacherEpoch] | None
    epochs: Count
    val: dict[str, float | None] | None


TEACHER: TypeAdapter[Any] = TypeAdapter(TeacherFile)


def parse_line(text: bytes) -> Line:
    """Return a record; raise ValueError if it is none."""
    line: Line = LINE.validate_json(text)
    if line["kind"] != FINALISTS and line["trial_id"] != name_trial(
        line["config_id"], line["repeat"]
    ):
        raise ValueError("trial_id must be made of config_id and repeat")
    return line


def parse_study(text: bytes) -> dict[str, Any]:
    """Return the content of study.json; raise ValueError if it is none."""
    values: dict[str, Any] = STUDY_FILE.validate_json(text)
    return values


def parse_provenance(text: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return the content of provenance.json, and why fields of it are left out.

    Raises:
        ValueError: It is no JSON object.
    """
    return _without_damaged(PROVENANCE, text)


def parse_teacher(text: bytes) -> dict[str, Any]:
    """Return the content of teacher.json without fields that are damaged.

    Raises:
        ValueError: It is no JSON object.
    """
    return _without_damaged(TEACHER, text)[0]


def _without_damaged(adapter: TypeAdapter[Any], text: bytes) -> tuple[dict[str, Any], list[str]]:
    """Return the fields of an object that are as declared, and why others are not."""
    try:
        return adapter.validate_json(text), []
    except ValidationError as error:
        faults = {str(e["loc"][0]): describe(e) for e in error.errors() if e["loc"]}
        if not faults:
            raise
    kept = {name: own for name, own in from_json(text).items() if name not in faults}
    return adapter.validate_python(kept), list(faults.values())


def describe(error: ErrorDetails) -> str:
    """Return one error of a ValidationError in words, such as "classes.3: a valid string"."""
    place = ".".join(str(part) for part in error["loc"])
    words = str(error["msg"]).removeprefix("Input should be ").removeprefix("Value error, ")
    return printable(f"{place}: {words}" if place else words)


def describe_first(error: ValueError) -> str:
    """Return the first error of what a parser of this module has raised, in words."""
    return describe(error.errors()[0]) if isinstance(error, ValidationError) else str(error)
