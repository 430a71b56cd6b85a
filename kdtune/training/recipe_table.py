"""The recipe of a study as a table: every setting that has an effect, and where it came from."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdtune.config.defaults import TEACHER_RECIPE, WeightsKind, fashion
from kdtune.config.fields import declarations, searchable
from kdtune.config.hyperparameters import HYPERPARAMETERS, Values
from kdtune.config.names import Role, is_output_file
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.study_checks import OF_FUNCTION
from kdtune.data.sources import load_data
from kdtune.models.finished import read_finished
from kdtune.models.preprocessing import describe_preprocessing
from kdtune.models.registry import PREPROCESSING
from kdtune.training.recipe import kind_of_weights, students, teachers, untrained, untrained_teacher

UNSHOWN = {
    *("name", "out", "run", "space", "flags", "until_decided", "address", "cache", "cache_gb"),
    *("repeat", "study_values", "objects", "data_root", "download", "tracker", "notify", "train"),
    "dump",
    *(f"{role}_{name}" for role in ("teacher", "student") for name in PREPROCESSING),
}
ONLY_WITH = {
    **{"samples": ("search", ("random", "tpe")), "race_level": ("policy", ("race",))},
    **{"confirm": ("policy", ("race",)), "level": ("until_decided", (True,))},
    "budget": ("until_decided", (True,)),
}
"""Settings of a study that have an effect only with these values of another."""


KINDS: dict[WeightsKind, str] = {
    "pretrained": "pretrained weights",
    "random": "random weights",
    "finished": "a finished teacher",
}
WHOLE = ("teacher_train_images",)
"""Settings for which None means all."""
MAX_WIDTH = 44
"""Characters of a path that are printed; of a longer one the last."""


class RecipeRow(NamedTuple):
    """One setting of a study."""

    setting: str
    value: str
    source: str
    """flag, experiment (or Python), saved study, model's own, or a default with its condition."""


def recipe_rows(asked: Study, study: Study, saved: Study | None) -> list[RecipeRow]:
    """Return the settings of a study that have an effect.

    Args:
        asked: The study as flags, experiment or Python ask for it.
        study: The same study as it is run, resolved and merged with the saved one.
        saved: The study that its folder held.
    """
    rows = []
    for owner in (Run, Study):
        for name in declarations(owner):
            of_function = owner is Study and name in OF_FUNCTION
            if name in UNSHOWN or of_function or not _has_effect(name, study):
                continue
            value, source = _value(name, study), _source(name, asked, study, saved)
            shown = "all" if name in WHOLE and value is None else _shown(value)
            rows.append(RecipeRow(name, shown, source))
    return [*rows, *_input_rows(asked, study)]


def format_recipe(rows: Sequence[RecipeRow]) -> list[str]:
    """Return the table as lines of text."""
    head = RecipeRow("setting", "value", "source")
    table = [head, *(row._replace(value=_shortened(row.value)) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(2)]
    return [f"  {a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in table]


def describe_config(run: Run) -> str:
    """Return the hyperparameters of a run as text, the student apart.

    Left out are those without effect and those that leave the run as it is without them.
    """
    return ", ".join(
        f"{name} {value}"
        for name, value in run.config.items()
        if name != "student" and value is not None and not _is_neutral(name, (value,))
    )


def _shortened(value: str) -> str:
    """Return a long value with the ends of its paths only."""
    if len(value) <= MAX_WIDTH:
        return value
    if ", " not in value:
        return f"...{value[3 - MAX_WIDTH :]}" if "/" in value else value
    pairs = (part.partition("=") for part in value.split(", "))
    return ", ".join(f"{model}{mark}{Path(file).name}" for model, mark, file in pairs)


def _has_effect(name: str, study: Study) -> bool:
    run = study.run
    if name in HYPERPARAMETERS:
        is_off = _is_neutral(name, study.values(name))
        return study.has_effect(name) and not (is_off and name not in study.flags)
    if name in ONLY_WITH:
        other, values = ONLY_WITH[name]
        return getattr(study, other) in values
    part = name.removeprefix("teacher_")
    of_training = (*TEACHER_RECIPE, "lr_milestones", "augment", "train_images", "keep")
    if name.startswith("teacher_") and part in of_training:
        epochs = study.values("teacher_epochs")
        tuned = isinstance(epochs, tuple) and any(epochs)
        return tuned and _fits_teacher(part, run)
    if name == "lr_milestones":
        return "multistep" in study.values("schedule")  # type: ignore[operator]
    if name == "orientation":
        return load_data(run).kind == "files"
    if name == "val_share":
        return False
    return _value(name, study) is not None


def _is_neutral(name: str, values: Values) -> bool:
    """Return True if a hyperparameter has only the value that leaves a run as it is without it."""
    neutral = searchable(Run)[name].neutral
    return neutral is not None and values == (neutral,)


def _fits_teacher(part: str, run: Run) -> bool:
    """Return True if a part of the teacher's recipe has an effect with its optimizer and schedule.

    The conditions are those of the student's field of that name.
    """
    if part == "lr_milestones":
        return run.teacher_schedule == "multistep"
    field = searchable(Run).get(part)
    if field is None:
        return True
    return field.is_used_with({other: getattr(run, f"teacher_{other}") for other in field.when})


def _value(name: str, study: Study) -> Any:
    """Return the value of a setting; of a hyperparameter all values."""
    if name == "repeats" and study.until_decided:
        return "auto"
    if name in HYPERPARAMETERS:
        return study.values(name)
    return getattr(study.run if name in declarations(Run) else study, name)


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value))
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def _source(name: str, asked: Study, study: Study, saved: Study | None) -> str:
    """Return where the value of a setting came from."""
    before, now = _value(name, asked), _value(name, study)
    if name in ("teacher_weights", "teacher_epochs") and _are_files(study):
        return "the file"
    if name in asked.flags and (before == now or saved is None):
        return "flag"
    if saved is not None and before != now:
        return "saved study"
    by_data = f"default for --data {Path(study.run.data).name}"
    if before != now:  # it was not given
        if name.removeprefix("teacher_") in TEACHER_RECIPE:
            return f"default for {KINDS[kind_of_weights(teachers(study))]}"
        return "model's own" if name.startswith("eval_") and _is_published(name, study) else by_data
    here, elsewhere = _value(name, fashion()), _value(name, Study())
    is_fashion = study.run.data == "fashion"
    if here == elsewhere:
        return "default" if now == here else "experiment"
    if now == (here if is_fashion else elsewhere):
        return by_data
    return "experiment"


def _are_files(study: Study) -> bool:
    """Return True if every teacher of the study is a file of outputs."""
    return all(is_output_file(run.teacher) for run in teachers(study))


def _is_published(name: str, study: Study) -> bool:
    """Return True if a part of the evaluation transform is the one that the teacher publishes."""
    published = untrained_teacher(teachers(study)[0]).preprocessing
    own = published.crop if name == "eval_crop" else published.interpolation
    return bool(own == getattr(study.run, name))


def _input_rows(asked: Study, study: Study) -> Iterator[RecipeRow]:
    """Yield how the input of each model is preprocessed."""
    roles: dict[Role, list[Run]] = {"teacher": teachers(study), "student": students(study)}
    for role, runs in roles.items():
        by_flag = any(f"{role}_{name}" in asked.flags for name in PREPROCESSING)
        for name, run in {getattr(run, role): run for run in runs}.items():
            weights = run.weights_of(role)
            if role == "teacher" and is_output_file(run.teacher):  # which has no input
                continue
            finished = read_finished(Path(weights).expanduser())
            model = untrained(run, role)
            values = model.preprocessing
            own = "model's own" if model.is_normalized else "not known"
            source = own if finished is None else "finished teacher"
            given = any(getattr(run, f"{role}_{n}") is not None for n in PREPROCESSING)
            if given:
                source = "flag" if by_flag else "experiment"
            yield RecipeRow(f"input of {name}", describe_preprocessing(values), source)
