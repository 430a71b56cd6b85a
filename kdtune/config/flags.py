"""Flags of the command lines: those of analysis and report, and how a field becomes a flag.

tyro parses every command line. It is imported only for that, so that reading a study is fast.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_origin

from kdtune.config import effects
from kdtune.config.bounds import MAX_COUNT, MAX_PARAMS
from kdtune.config.commands import describe_exit_codes, program
from kdtune.config.errors import InputError
from kdtune.config.fields import (
    ALL_COMMANDS,
    Declaration,
    Hyperparameter,
    Setting,
    check_fields,
    declarations,
    docstring,
    docstrings,
)
from kdtune.config.hyperparameters import HYPERPARAMETERS
from kdtune.config.metrics import COMPARABLE, METRICS
from kdtune.config.study import Format, Scope
from kdtune.config.table_flags import TableFlags, check_kind, is_table, put_tables_first
from kdtune.config.trackers import TrackFlags
from kdtune.config.words import check_given_once, check_not_empty

_COLUMN = dict.fromkeys(("repeat", "epoch", "example"), "COLUMN")
METAVARS = {"run": "RUN", "runs": "RUN [RUN ...]", "tables": "TABLE [TABLE ...]", **_COLUMN}
"""What --help shows in place of a value, for fields whose type does not say it."""

_place = Setting(place=True)
_names = Setting(choices=lambda: HYPERPARAMETERS)
_metrics = Setting(choices=lambda: tuple(METRICS))
_comparable = Setting(choices=lambda: COMPARABLE)


@dataclass(frozen=True)
class ReportFlags:
    """Write report.html and figures/ into a study's folder: one page that works offline.

    Of several studies of the same data it is one page that compares them.
    """

    runs: Annotated[tuple[str, ...], _place]
    """Folder of the study, or s3://BUCKET/PREFIX/NAME. Several are compared with the first."""
    out: Annotated[str | None, _place] = None
    """Folder for report.html and figures/. None: the study's own. With several studies the file of
    the page; None: comparison-NAME-NAME.html."""
    metric: Annotated[str | None, _comparable] = None
    """Metric, on val, in which configurations are compared with the baseline. None: the one that
    decides the search, acc for distillation."""
    scope: Scope = "last"
    """Epoch that represents a trial: the last, the one with the best val accuracy (optimistic), or
    the mean of the last five."""
    baseline: str | None = None
    """Baseline of the comparison: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]. None: that of the study, alpha=1 for distillation."""
    max_ms: Annotated[float | None, Setting(above=0, high=MAX_COUNT)] = None
    """Limit on the student's latency at batch size 1, in milliseconds: the conclusion names the
    best student within it. None: the study's own."""
    max_params: Annotated[int | None, Setting(low=1, high=MAX_PARAMS)] = None
    """Limit on the student's number of parameters, as --max-ms. None: the study's own."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class AnalysisFlags:
    """Print the results of a study: the table, the comparison with the baseline, the conclusion.

    Several studies of the same data are compared with the first; the studies of a folder are
    listed. A table of results made elsewhere (csv, parquet, an Optuna storage) has flags of its
    own: python -m kdtune.analysis results.csv --help.
    """

    runs: Annotated[tuple[str, ...], _place]
    """Folder of the study, or s3://BUCKET/PREFIX/NAME. Several are compared with the first. A
    folder of studies is listed."""
    by: Annotated[tuple[str, ...], _names] = ()
    """Hyperparameters that distinguish the rows. By default those that were searched."""
    columns: Annotated[tuple[str, ...], _metrics] = ()
    """Metrics of the table, on val. By default acc, ce, teacher_acc, logit_diff and agreement; of a
    training function all that it reports."""
    metric: Annotated[str | None, _comparable] = None
    """Metric, on val, in which configurations are compared with the baseline. None: the one that
    decides the search, acc for distillation."""
    scope: Scope = "last"
    """Epoch that represents a trial: the last, the one with the best val accuracy (optimistic), or
    the mean of the last five."""
    baseline: str | None = None
    """Baseline of the comparison: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]. None: that of the study, alpha=1 for distillation."""
    format: Format = "md"
    """Format of the table; md is for reading, csv and json have all columns."""
    pooled: bool = False
    """Mean and sd over all epochs of all repeats, as in the starting repository's table. That sd
    describes the learning curve, not the variation between repeats."""
    strict: bool = False
    """Exit with code 3 if a trial is missing, failed or truncated, or the records look wrong."""
    drop: tuple[str, ...] = ()
    """Runs to drop from the study, by trial_id: they stay in the records, count in no table and are
    not run again (unless the search has --rerun-dropped)."""
    restore: tuple[str, ...] = ()
    """Dropped runs that count again, by trial_id."""
    reason: str | None = None
    """Why runs are dropped or restored."""
    max_ms: Annotated[float | None, Setting(above=0, high=MAX_COUNT)] = None
    """Limit on the student's latency at batch size 1, in milliseconds: the conclusion names the
    best student within it. None: the study's own."""
    max_params: Annotated[int | None, Setting(low=1, high=MAX_PARAMS)] = None
    """Limit on the student's number of parameters, as --max-ms. None: the study's own."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class Flag:
    """A flag of a command line."""

    name: str
    """With underscores, the name of the field; with one at the end if it is a word of Python."""
    kind: Any
    """Its type, as tyro reads it."""
    help: str
    default: Any = dataclasses.MISSING
    """Without a default it is a positional argument."""
    metavar: str | None = None
    """What --help shows in place of the value; None: what tyro derives from the type."""
    choices: tuple[str, ...] = ()
    """Words that it may have, beside those of its type; shells complete them."""
    place: bool = False
    """Whether it is a path or URI, see `Setting.place`."""

    @property
    def given_name(self) -> str | None:
        """Its name on the command line where it is not that of the field: "from" for from_."""
        return self.name.rstrip("_") if self.name.endswith("_") else None


def flags_of(owner: type) -> Iterator[Flag]:
    """Yield the flags of a dataclass: its fields, with their types, defaults, help and choices."""
    texts = docstrings(owner)
    defaults = {f.name: f.default for f in dataclasses.fields(owner)}
    for name, declared in declarations(owner).items():
        metavar = metavar_of(declared) or METAVARS.get(name)
        about, choices = help_of(declared, texts[name]), choices_of(declared)
        place = declared.setting.place
        yield Flag(name, declared.kind, about, defaults[name], metavar, choices, place)


def reading_flags(command: str) -> Iterator[Flag]:
    """Yield the flags of "analysis" or "report", each once: those for studies, then for tables."""
    owners = (AnalysisFlags, TableFlags) if command == "analysis" else (ReportFlags,)
    yield from {flag.name: flag for owner in reversed(owners) for flag in flags_of(owner)}.values()


def choices_of(declared: Declaration) -> tuple[str, ...]:
    """Return the words that a field may have, where its type does not say them."""
    return () if declared.setting.choices is None else tuple(declared.setting.choices())


def metavar_of(declared: Declaration) -> str | None:
    """Return the words that a field may have, as --help lists them; None if its type has them."""
    if not (choices := choices_of(declared)):
        return None
    words = f"{{{','.join(choices)}}}"
    return f"{words} [...]" if get_origin(declared.kind) is tuple else words


def help_of(declared: Declaration, text: str) -> str:
    """Return the help of a field: its docstring, its bounds and when it has an effect."""
    setting = declared.setting
    sentences = [text, f"Must {setting.requirement}." if setting.requirement else ""]
    if isinstance(setting, Hyperparameter):
        sentences += _describe_effect(declared.name, setting)
    return " ".join(filter(None, sentences))


def _describe_effect(name: str, setting: Hyperparameter) -> Iterator[str]:
    for other, values in setting.when.items():
        words = " or ".join(map(str, values if isinstance(values, tuple) else (values,)))
        yield f"Only used with {other} {words}."
    for other, value in setting.unless.items():
        yield f"Not used with {other} {value}."
    if name == effects.SUM_WEIGHT:
        yield "Only used with a sum of two losses, A+B."
    elif setting.of_objective:
        losses = effects.objective_names()
        taking = [loss for loss in losses if name in (effects.objective_parameters(loss) or ())]
        words = f"{', '.join(taking)} or " if taking else ""
        yield f"Only used with loss {words}module:function."


def parse_flags(
    command: str, description: str, flags: Sequence[Flag], arguments: Sequence[str]
) -> dict[str, Any]:
    """Return the value of each flag of a command line.

    For --help, unknown flags and values of another type it ends the process as tyro does: exit code
    0 or 2, with the nearest flag named.

    Raises:
        InputError: A flag is given twice, or a path is empty.
    """
    import tyro

    check_given_once(arguments)
    fields: list[Any] = []
    for flag in flags:
        marks: list[Any] = [
            tyro.conf.arg(name=flag.given_name, help=flag.help, metavar=flag.metavar)
        ]
        if flag.default is dataclasses.MISSING:
            fields.append((flag.name, Annotated[flag.kind, tyro.conf.Positional, *marks]))
        else:
            fields.append((flag.name, Annotated[flag.kind, *marks], flag.default))
    parsed: Any = tyro.cli(
        dataclasses.make_dataclass("Flags", fields),
        args=arguments,
        prog=program(command),
        description=f"{description}\n\n{describe_exit_codes(command)}",
        config=() if command in ALL_COMMANDS else (tyro.conf.FlagCreatePairsOff,),
    )
    values = dict(vars(parsed))
    check_not_empty({flag.name: values[flag.name] for flag in flags if flag.place})
    return values


def parse_own(owner: type, command: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Return the values of the flags that a dataclass declares; see `parse_flags`."""
    return parse_flags(command, docstring(owner), tuple(flags_of(owner)), arguments)


def parse_track(command: str, arguments: Sequence[str]) -> TrackFlags:
    """Return what the command line of "track" asks for; see `parse_flags`."""
    return TrackFlags(**parse_own(TrackFlags, command, arguments))


def track_flags(command: str) -> Iterator[Flag]:
    """Return the flags of "track"."""
    return flags_of(TrackFlags)


def parse_reading(
    command: str, arguments: Sequence[str]
) -> AnalysisFlags | ReportFlags | TableFlags:
    """Return what the command line of "analysis" or "report" asks for; see `parse_flags`.

    "analysis" has other flags for a table of results than for a study.
    """
    kind: Any = AnalysisFlags if command == "analysis" else ReportFlags
    if command == "analysis" and (tables := [word for word in arguments if is_table(word)]):
        kind, arguments = TableFlags, put_tables_first(list(arguments))
        check_kind(arguments, TableFlags, AnalysisFlags, tables[0])
    elif command == "analysis":
        place = next((word for word in arguments if not word.startswith("-")), "none")
        check_kind(list(arguments), AnalysisFlags, TableFlags, place)
    values = parse_flags(command, docstring(kind), tuple(flags_of(kind)), arguments)
    if not values.get("runs", values.get("tables")):
        raise InputError(
            f"RUN must be given, the folder of a study (python -m kdtune.{command} runs/NAME)"
        )
    for name, value in values.items():
        given = any(word.split("=")[0] == f"--{name}" for word in arguments)
        if value == () and given:
            raise InputError(f"{name} must have at least one value (--{name} NAME [NAME ...])")
    return kind(**values)  # type: ignore[no-any-return]
