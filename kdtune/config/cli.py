"""Command lines: `python -m kdtune.<command> [EXPERIMENT.py] [--flags]`."""

import atexit
import contextlib
import dataclasses
import gc
import io
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, fields, make_dataclass, replace
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, NoReturn, Union, get_args, get_origin

from kdtune import __version__
from kdtune.config import fields as effects
from kdtune.config.conventions import CONVENTIONS
from kdtune.config.fields import (
    ALL_COMMANDS,
    MAX_BATCH,
    MAX_COUNT,
    MAX_PARAMS,
    MAX_REPEAT,
    Declaration,
    Hyperparameter,
    Setting,
    StudyCommand,
    check_fields,
    declarations,
    docstring,
    docstrings,
    is_output_file,
    searchable,
)
from kdtune.config.files import check_place, describe_missing, not_writable_by_all
from kdtune.config.run import Optimizer, Run
from kdtune.config.study import (
    TEACHER_RECIPE,
    Device,
    Format,
    Scope,
    Study,
    describe_teacher_default,
    fashion,
)
from kdtune.config.task import COMPARABLE, HYPERPARAMETERS, METRICS, Range, ends_of
from kdtune.config.text import (
    InputError,
    UserError,
    printable,
    printable_lines,
    repr_or_type,
    shown,
    user_code,
)

# Table of the commands; `kdtune --help`, exit codes and shell completion follow from it.
#
#         python -m kdtune                     lists the commands
#         python -m kdtune search --gpus 4     the same as python -m kdtune.search --gpus 4
#         kdtune search --gpus 4               the same, as a console script
#
# A new command is one entry of `COMMANDS` and a module `kdtune.NAME` with `main(flags) -> int`.


EXIT_CODES = {
    0: "success",
    1: "no run completed, an image could not be read, or an exported file differs from its student",
    2: "invalid input",
    3: "a warning, with --strict",
    130: "interrupted",
    141: "the reader of the output has ended",
    143: "terminated",
}
"""What the exit codes mean, in a few words; docs/commands.md says when each occurs."""
_OF_ALL = (0, 2, 130)
"""Exit codes in the help of every command."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command: the functions that read its command line, and how it may end."""

    summary: str
    """What it does, in one line."""
    parser: str
    """FILE:FUNCTION in kdtune.config. It takes the command's name and the words of its command
    line, and returns the argument of `main` in the module kdtune.NAME."""
    flags: str
    """FILE:FUNCTION in kdtune.config. It takes the command's name and returns its `Flag`s."""
    exit_codes: tuple[int, ...] = _OF_ALL
    """Exit codes that --help lists; keys of `EXIT_CODES`."""
    resumes: bool = False
    """Whether the same command continues where it was interrupted."""
    uses_ray: bool = False
    """Whether it imports Ray."""
    collects_garbage: bool = True
    """Whether cyclic garbage is collected; a short process is faster without."""


_of_study = partial(Command, parser="cli:parse", flags="cli:study_flags")
_of_reading = partial(Command, parser="cli:parse_reading", flags="cli:reading_flags")
COMMANDS = {
    "search": _of_study(
        summary="Run a study: every configuration in every repeat. Repeat it to resume.",
        exit_codes=(0, 1, 2, 130),
        resumes=True,
        uses_ray=True,
    ),
    "distill": _of_study(
        summary="Run one distillation and print its epochs.", exit_codes=(0, 1, 2, 130)
    ),
    "teacher": _of_study(summary="Fine-tune the teacher of a study.", resumes=True),
    "analysis": _of_reading(
        summary="Print the table, comparison and conclusion of a study or a csv file.",
        exit_codes=(0, 2, 3, 130),
    ),
    "report": _of_reading(
        summary="Write report.html and the figures of a study.", collects_garbage=False
    ),
    "predict": Command(
        summary="Predict the classes of images with a student that a study has trained.",
        parser="cli:parse_predict_command",
        flags="cli:predict_flags",
        exit_codes=(0, 1, 2, 130),
    ),
    "export": Command(
        summary="Export a student to ONNX or torch.export, checked on test; --int8.",
        parser="cli:parse_export",
        flags="cli:export_flags",
        exit_codes=(0, 1, 2, 130),
    ),
    "convert": Command(
        summary="Convert the weights of another tool to alpha and temperature.",
        parser="cli:parse_convert",
        flags="cli:convert_flags",
    ),
    "completion": Command(
        summary="Print the script that completes commands and flags in a shell.",
        parser="cli:parse_completion",
        flags="cli:flags",
    ),
}
"""The commands by name, in the order of `kdtune --help`."""


def parse_command(name: str, words: Sequence[str]) -> Any:
    """Return what `main` of a command takes.

    For --help and unknown flags it ends the process, as `flags.parse_flags` does.

    Raises:
        InputError: A value is not allowed.
    """
    return _function(COMMANDS[name].parser)(name, list(words))


def command_flags(name: str) -> "Iterable[Flag]":
    """Return the flags of a command."""
    flags: Iterable[Flag] = _function(COMMANDS[name].flags)(name)
    return flags


def run_command(name: str, argument: Any) -> int:
    """Run a command and return its exit code.

    Its module is loaded under its own name: Ray cannot unpickle what `__main__` defines.
    """
    with not_writable_by_all():
        return int(import_module(f"kdtune.{name}").main(argument))


def _function(place: str) -> Callable[..., Any]:
    file, _, name = place.partition(":")
    function: Callable[..., Any] = getattr(import_module(f"kdtune.config.{file}"), name)
    return function


def unknown_command(word: str) -> InputError:
    """Return the error for a word that is no command; it names the nearest one."""
    if word.startswith("-"):
        return InputError(
            f"flags must follow a command, but got {word} first; kdtune --help lists the commands"
        )
    near = get_close_matches(word, COMMANDS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "kdtune --help lists them"
    return InputError(f"COMMAND must be a command of kdtune, but got {word}; {hint}")


def version() -> str:
    """Return what --version prints."""
    return f"kdtune {__version__}"


def program(name: str) -> str:
    """Return a command as its user calls it: by the console script or by its module."""
    if Path(sys.argv[0]).stem == "kdtune":
        return f"kdtune {name}"
    return f"python -m kdtune.{name}"


def describe_exit_codes(name: str) -> str:
    """Return the exit codes of a command as a sentence for --help."""
    codes = (f"{code} {EXIT_CODES[code]}" for code in COMMANDS[name].exit_codes)
    return f"Exit codes: {'; '.join(codes)}."


def overview() -> str:
    """Return the help of `kdtune`: its commands with one line each."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: kdtune COMMAND ...            (or: python -m kdtune.COMMAND ...)",
            "",
            "Hyperparameter studies of knowledge distillation for classifiers on Ray Tune.",
            "",
            *lines,
            "",
            "kdtune COMMAND --help lists the flags and exit codes of a command.",
            "kdtune --version prints the version.",
        ]
    )


# Flags of `kdtune.analysis` for a table of results that was made elsewhere.


_SUFFIXES = ".csv .tsv .txt .parquet .pq .db .sqlite .sqlite3 .xlsx .xls .zip"
SUFFIXES = frozenset(_SUFFIXES.split())
"""Endings of the names of tables, and of files that are refused as tables."""


@dataclass(frozen=True)
class TableFlags:
    """Compare configurations in a table of results: summary, comparison and conclusion.

    The table has one row per run, or per run and epoch. Formats: csv and parquet.
    """

    tables: tuple[str, ...]
    """File of the table. Several files are read as one table; the column file has their names."""
    by: tuple[str, ...] = ()
    """Columns of the hyperparameters that distinguish the configurations."""
    repeat: str | None = None
    """Column of the random seed. Configurations with the same seeds are compared pairwise by seed;
    others as independent samples. If the column only numbers the runs and the runs had no common
    seeds, add --unpaired."""
    metric: str | None = None
    """Column that is compared."""
    epoch: str | None = None
    """Column of the epoch, if there is one row per run and epoch: the last epoch of each run
    counts."""
    example: str | None = None
    """Column of the image or example, if there is one row per run and example with, for example,
    0 or 1 for correct. Then intervals hold for new repeats and new examples."""
    columns: tuple[str, ...] = ()
    """Columns of other metrics in the summary."""
    baseline: str | None = None
    """Baseline of the comparison: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]. None: alpha=1 if the table has it."""
    higher_is_better: bool = False
    """Higher values of the metric are better. By default they are, unless its name has a word such
    as loss, error, nll or ce."""
    lower_is_better: bool = False
    """Lower values of the metric are better."""
    points: bool = False
    """The metric is a share in [0, 1] or [0, 100]: differences are percentage points. By default
    that is so if it is named like an accuracy."""
    unpaired: bool = False
    """The same repeat does not mean the same random seed: compare independent samples (Welch)."""
    pooled: bool = False
    """Mean and SD over all epochs of all runs in the summary, as some papers report them. That SD
    mixes the learning curve with the differences between runs."""
    keep_incomplete: bool = False
    """Runs with fewer epochs than the others count. By default they are named and left out."""
    format: Format = "md"
    """Format of the tables; md is for reading, csv and json have all columns."""
    strict: bool = False
    """Exit with code 3 if there are warnings."""

    def __post_init__(self) -> None:
        check_fields(self)
        for place in self.tables:
            table_file(place)
        for name, example in (("by", "alpha"), ("repeat", "seed"), ("metric", "acc")):
            if not getattr(self, name):
                raise InputError(
                    f"--{name} must name a column of {self.tables[0]} (such as --{name} {example})"
                )
        if self.higher_is_better and self.lower_is_better:
            raise InputError("--higher-is-better must not be used with --lower-is-better")

    @property
    def direction(self) -> bool | None:
        """Whether higher values are better; None: not given."""
        return True if self.higher_is_better else False if self.lower_is_better else None


def table_file(place: str) -> Path:
    """Return the file of a table; raise InputError if there is none."""
    check_place("tables", place)
    file = Path(place).expanduser()
    if not file.is_file():
        names = [other.name for other in file.parent.glob("*.*")]
        near = get_close_matches(file.name, names, n=1, cutoff=0.75)
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise InputError(f"a table of results must be a file, but {describe_missing(file)}{hint}")
    return file


def is_table(word: str) -> bool:
    """Return whether a word of a command line names a table of results, not a study."""
    if word.startswith("-"):
        return False
    file = os.path.expanduser(word)  # what cannot be a path is said later, by check_place
    if "://" in word or os.path.isdir(file):
        return False
    suffix = os.path.splitext(file)[1].lower()
    return suffix in SUFFIXES or (os.path.isfile(file) and suffix != ".json")


def put_tables_first(arguments: list[str]) -> list[str]:
    """Return the words of a command line with the tables first.

    So `--by alpha temperature results.csv` does not take the table for a hyperparameter.
    """
    return sorted(arguments, key=lambda word: not is_table(word))


def check_kind(arguments: list[str], own: type, other: type, what: str) -> None:
    """Raise InputError for a flag that is for studies, not tables, or the other way round.

    Args:
        arguments: words of the command line.
        own: the class of flags that are allowed.
        other: the class of flags of the other kind.
        what: what is read, in words.
    """
    allowed = {f.name for f in fields(own)}
    for word in arguments:
        name = word.split("=")[0].removeprefix("--").replace("-", "_")
        if word.startswith("--") and name in {f.name for f in fields(other)} - allowed:
            kind = "table of results" if other is TableFlags else "study of kdtune"
            raise InputError(f"{word.split('=')[0]} must be used with a {kind}, but got {what}")


# Words of a command line: how numbers and ranges are read, and what is refused.


def check_given_once(arguments: Sequence[str]) -> None:
    """Raise InputError if a flag is given twice: only the last of them would have an effect.

    For a flag that takes a list, `--alpha 0 --alpha 1`, that is not what one means.
    """
    first: dict[str, str] = {}
    for word in arguments:
        if word == "--":
            return
        flag = word.partition("=")[0].replace("_", "-")
        name = flag.removeprefix("--").removeprefix("no-")
        if not word.startswith("--"):
            continue
        if name in first:
            both = flag if first[name] == flag else f"{first[name]} and {flag}"
            raise InputError(
                f"a flag must be given once, but got {both}{' twice' * (first[name] == flag)}; "
                f"leave out one of them, or give all values after one (--alpha 0 0.5)"
            )
        first[name] = flag


def check_not_empty(places: Mapping[str, object]) -> None:
    """Raise InputError if a path is empty, as of a shell's variable that is not set."""
    for name, value in places.items():
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise InputError(f"{name} must be a path, but is empty; is a variable not set?")


def check_distinct(name: str, values: Sequence[object]) -> None:
    """Raise InputError if a list on a command line has a value twice."""
    for number, value in enumerate(values):
        if value in values[:number]:
            again = printable(str(value))
            raise InputError(f"{name} must list each value once, but got {again} twice")


def number_or_range(kind: type[int] | type[float], optional: bool = False) -> Any:
    """Return a type that tyro reads as a number, a range of numbers or, if `optional`, None."""
    import tyro

    def read(words: list[str]) -> int | float | str | None:
        if optional and words[0] == "None":
            return None
        # a range is parsed later, by parse_range: tyro replaces the words of an error raised here
        return words[0] if ".." in words[0] else kind(words[0])

    optional_type: Any = NoneType if optional else kind
    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{kind.__name__.upper()}|LOW..HIGH[:log|:logit]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int | float | str | optional_type),
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[kind | str | optional_type, spec]


def parse_range(name: str, values: tuple[Any, ...], kind: Any) -> Range | None:
    """Return the range that a flag's values are; None if they are a list."""
    texts = [value for value in values if isinstance(value, str)]
    if kind not in (int, float) or not texts:
        return None
    if len(values) > 1:
        shown = " ".join(map(str, values))
        raise InputError(f"{name} must be a list or one range, but got {shown}")
    return Range.parse(texts[0], kind)


# Flags of the command lines: those of analysis and report, and how a field becomes a flag.
#
# tyro parses every command line. It is imported only for that, so that reading a study is fast.


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
    listed. A table of results made elsewhere (csv, parquet) has flags of its
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


# Command line of an experiment with a training function: flags of its study and of its space.


NOT_USED = ("keep", "max_ms", "max_params", "loader_workers", "cache", "cache_gb")
"""Fields of a study that have flags, but no effect on a training function."""


def function_flags(base: Study) -> Iterator[Flag]:
    """Yield the flags of a search: those of the study, then one per hyperparameter."""
    texts = docstrings(Study)
    for name, declared in declarations(Study).items():
        if "search" not in declared.setting.commands or name in NOT_USED:
            continue
        kind, default = declared.kind, getattr(base, name)
        if name == "repeats":
            kind = int | Literal["auto"]
            default = "auto" if base.until_decided else default
        about, place = help_of(declared, texts[name]), declared.setting.place
        yield Flag(name, kind, about, default, metavar_of(declared), place=place)
    for name, values in base.space.items():
        one: Any = _kind(base, name)
        if one is not None and name.isidentifier() and name not in declarations(Study):
            if one in (int, float):
                one = number_or_range(one)
            kind = tuple[one, ...]
            default = (str(values),) if isinstance(values, Range) else values
            yield Flag(name, kind, "Hyperparameter of the training function.", default)


def with_function_flags(base: Study, flags: dict[str, Any]) -> Study:
    """Return the base study with the values of the flags."""
    space, own = dict(base.space), {}
    for name, value in flags.items():
        if name in space and name not in declarations(Study):
            ranges = parse_range(name, value, _kind(base, name))
            if ranges is None and value != base.space[name]:
                check_distinct(name, value)
            space[name] = ranges or value
        else:
            own[name] = value
    return replace(base, space=space, **with_repeats(base, own))


def with_repeats(base: Study, own: dict[str, Any]) -> dict[str, Any]:
    """Return the values of flags with --repeats, a number or "auto", as the study has it."""
    if own.get("repeats") == "auto":
        return own | {"repeats": base.repeats, "until_decided": True}
    if "repeats" not in own:
        return own
    # the experiment's own budget is for --repeats auto
    is_of_auto = base.until_decided and own["budget"] == base.budget
    return own | {"until_decided": False} | ({"budget": None} if is_of_auto else {})


def _kind(base: Study, name: str) -> type | None:
    """Return the type of a hyperparameter: int if all its values are whole, float or text.

    None for truth values and mixed lists, which words of a command line do not tell apart.
    """
    kinds = {type(value) for value in ends_of(base.values(name))}
    if kinds <= {int}:
        return int
    if kinds <= {int, float}:
        return float
    return str if kinds == {str} else None


# The process of a command: its standard streams, its current folder, its environment.


ABSOLUTE = ("HOME", "XDG_CACHE_HOME", "TMPDIR")
"""Variables that name a folder. Trials have another current folder, so the paths are absolute."""


def prepare_streams() -> None:
    """Make the standard streams usable, whatever the terminal and its encoding.

    A stream that is closed becomes one to the null device: else the next file that is opened would
    take its number, and child processes would write their output into that file. A character that
    the encoding lacks is written as an escape.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number is free
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115
    for name in ("write", "flush"):
        if sys.stdout is sys.__stdout__:  # not that of a test or a notebook
            setattr(sys.stdout, name, _saying(name))
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")


def check_environment() -> None:
    """Raise InputError if the current folder is gone, or a variable names no absolute path."""
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"the current folder cannot be used ({error.strerror}); change to another folder (cd)"
        ) from None
    for name in ABSOLUTE:
        value = os.environ.get(name)
        if value == "":  # as if it were not set; else ~ would be the root folder
            del os.environ[name]
        elif value is not None and not os.path.isabs(value):
            raise InputError(f"{name} must be an absolute path, but got {name}={shown(value)}")


def check_docstrings() -> None:
    """Raise InputError if Python drops docstrings, without which Ray cannot be imported."""
    if sys.flags.optimize > 1:
        raise InputError(
            "Ray needs docstrings, which Python drops with -OO and PYTHONOPTIMIZE=2; leave it out, "
            "or use -O or PYTHONOPTIMIZE=1"
        )


def _saying(name: str) -> Callable[..., Any]:
    """Return a method of the standard output that raises InputError where it cannot be written.

    A full disk raises OSError without the name of a file, as if it were one of the study's.
    """
    method = getattr(sys.stdout, name)

    def call(*arguments: Any) -> Any:
        try:
            return method(*arguments)
        except BrokenPipeError:  # the reader has ended
            raise
        except OSError as error:
            raise InputError(
                f"the standard output cannot be written ({error.strerror}); direct it elsewhere"
            ) from None

    return call


def end_streams() -> None:
    """Flush the standard streams; what cannot be written is given up, so that exits are silent."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, InputError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


# Command lines: `python -m kdtune.<command> [EXPERIMENT.py] [--flags]`.
#
# Flags take precedence over the experiment, the experiment over the defaults. Nothing here
# imports
# torch or Ray, so that `--help` and misspelt flags are answered at once. The commands and their
# exit
# codes: `kdtune.config.cli`.


ABOUT: dict[StudyCommand, str] = {
    "search": "Run a hyperparameter study of knowledge distillation: every configuration in the "
    "same repeats. A hyperparameter given several values, or a range (--lr 1e-4..1e-1:log, "
    "--alpha 0.001..0.999:logit), is searched: --alpha 0.1 0.5 1.",
    "teacher": "Fine-tune the teacher of a study.",
    "distill": "Run one distillation and print its epochs.",
}

NAME_OF_DATA = "name-of-the-data"
"""Default of --name with other data than the default study's: the name of the data's folder."""

MAX_SHOWN = 80
"""Longest value that an error message shows whole."""


def start(command: str, words: Sequence[str] | None = None) -> NoReturn:
    """Run a command of kdtune and end the process with its exit code.

    The command line is parsed before the module is loaded, since the modules load torch and Ray.

    Args:
        command: A key of `COMMANDS`.
        words: Its command line; None: that of the process.
    """
    arguments = sys.argv[1:] if words is None else list(words)
    if not COMMANDS[command].collects_garbage:
        gc.disable()
        atexit.register(gc.freeze)  # otherwise the exit collects the garbage of the whole run

    def main() -> int:
        check_environment()
        if arguments[:1] == ["--version"]:
            print(version())
            return 0
        argument = parse_command(command, arguments)
        if COMMANDS[command].uses_ray:
            check_docstrings()
        return run_command(command, argument)

    warnings.formatwarning = _format_warning
    run_and_exit(main, resumes=COMMANDS[command].resumes)


_format_of_python = warnings.formatwarning


def _format_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """Return a line for a warning of kdtune; those of libraries keep their file and line."""
    if filename.startswith(str(Path(__file__).parents[1])):
        return f"warning: {printable_lines(str(message))}\n"
    return _format_of_python(message, category, filename, lineno, line)


def run_and_exit(main: Callable[[], int], resumes: bool = False) -> NoReturn:
    """Run a command and end the process; print errors for the user as one sentence each.

    Args:
        main: The command; returns its exit code.
        resumes: Whether the same command continues where it was interrupted.
    """
    prepare_streams()
    try:
        code = _run(main)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt as stop:
        reason = f" ({printable(str(stop))})" if str(stop) else ""
        rest = "; run the same command again to resume" if resumes else ""
        with suppress(OSError):  # of a terminal that is closed
            print(f"interrupted{reason}{rest}", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # | head
        code = 141
    end_streams()
    sys.exit(code)


def _run(main: Callable[[], int]) -> int:
    """Return the exit code of a command, once its output is written; raise if it cannot be."""
    try:
        code = main()
    except SystemExit:  # of tyro, after --help
        sys.stdout.flush()
        raise
    sys.stdout.flush()
    return code


def parse(command: StudyCommand, arguments: list[str]) -> Study:
    """Return the study that a command line asks for.

    For --help and unknown flags it ends the process, see `parse_flags`.

    Raises:
        InputError: A value is not allowed, or the experiment cannot be run.
    """
    base, arguments = _base(arguments)
    about = (
        f"{ABOUT[command]}\n\n[EXPERIMENT.py] may stand before the flags: a file with "
        f"`study = kdtune.Study(...)`; flags take precedence over it."
    )
    own_function = base.train is not None
    if own_function and command != "search":
        raise InputError(
            f"kdtune.{command} is for distillation, but the experiment has train=...; use "
            f"python -m kdtune.search"
        )
    every = tuple(function_flags(base) if own_function else _flags(command, base))
    values = parse_flags(command, about, every, arguments)
    given = {word.partition("=")[0].removeprefix("--no-").lstrip("-") for word in arguments}
    flags = tuple(name for name in values if name.replace("_", "-") in given)
    if own_function:
        return replace(with_function_flags(base, values), flags=flags)
    begins_otherwise = "teacher_weights" in flags or _is_file(values.get("teacher"))
    if begins_otherwise and base == fashion():  # whose recipe is for random weights
        own = {f"teacher_{name}" for name in TEACHER_RECIPE} - set(flags)
        values |= {name: None for name in own & values.keys()}
    study = _lay_over(base, base.space if command == "search" else {}, values)
    if "cache" in flags and Path(str(study.cache)).expanduser().is_file():
        raise InputError(f"cache must be a folder, but {study.cache} is a file")
    return replace(study, flags=flags)


def _is_file(teacher: Any) -> bool:
    """Return True if the value of --teacher is one file of outputs, or several."""
    names = teacher if isinstance(teacher, tuple) else (teacher,)
    return all(isinstance(name, str) and is_output_file(name) for name in names)


def study_flags(command: StudyCommand) -> Iterator[Flag]:
    """Return the flags of a command that takes a study, with the default study's values."""
    return _flags(command, fashion())


def _base(arguments: list[str]) -> tuple[Study, list[str]]:
    """Return the study that flags are laid over, and the flags.

    It is the experiment, the default study, or a study of plain defaults for other data.
    """
    if arguments and not arguments[0].startswith("-"):
        return _experiment(Path(arguments[0])), arguments[1:]
    words = [part for word in arguments for part in word.split("=", 1)]
    own_data = "--data" in words and words[words.index("--data") :][1:2] != ["fashion"]
    return Study(name=NAME_OF_DATA) if own_data else fashion(), arguments


def _experiment(file: Path) -> Study:
    """Return the study of an experiment, a Python file."""
    check_place("EXPERIMENT", str(file))
    if not file.is_file() or file.suffix != ".py":
        others = [p.name for p in file.parent.glob("*.py") if p.is_file() and p != file]
        near = get_close_matches(file.name, others, n=1)
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise InputError(
            f"an experiment must be a Python file (.py), but {describe_missing(file)}{hint}"
        )
    folder, streams = Path.cwd(), (sys.stdin, sys.stdout, sys.stderr)
    try:
        with user_code(f"{file} cannot be run"):
            study = runpy.run_path(str(file)).get("study")
            shown = repr_or_type(study, MAX_SHOWN)
    finally:  # otherwise nobody would see what the command prints
        sys.stdin, sys.stdout, sys.stderr = streams
    if not isinstance(study, Study):
        raise InputError(f"{file} must define `study = kdtune.Study(...)`, but got {shown}")
    if Path.cwd() != folder:
        warnings.warn(
            f"{file} has changed the working folder from {folder} to {Path.cwd()}; relative paths, "
            f"also those of flags, are relative to the latter",
            stacklevel=1,
        )
    return study


def _flags(command: StudyCommand, base: Study) -> Iterator[Flag]:
    """Yield the flags of a command, the study's own first, with the base study's values."""
    is_default_study, elsewhere = base == fashion(), Study(name=NAME_OF_DATA)
    owners: list[tuple[type, Any]] = [(Study, base), (Run, base.run)]
    for owner, values in owners:
        texts = docstrings(owner)
        for name, declared in declarations(owner).items():
            if command not in declared.setting.commands:
                continue
            kind, default, metavar = declared.kind, getattr(values, name), metavar_of(declared)
            if name == "repeats":
                kind = int | Literal["auto"]
                default = "auto" if base.until_decided else default
            elif command == "search" and name in searchable(Run):
                number = declared.number_kind
                one: Any = kind
                if number is not None:
                    one = number_or_range(number, optional=number != kind)
                kind = tuple[one, ...]
                listed = base.values(name)
                default = (str(listed),) if isinstance(listed, Range) else listed
                metavar = metavar and f"[{metavar} [...]]"
            of_teacher = describe_teacher_default(name.removeprefix("teacher_"))
            text = f"{texts[name]} {of_teacher}" if name.startswith("teacher_") else texts[name]
            about = help_of(declared, text.rstrip())
            if is_default_study:
                about += _default_elsewhere(name, base, elsewhere)
            choices, place = choices_of(declared), declared.setting.place
            yield Flag(name, kind, about, default, metavar, choices, place)


def _default_elsewhere(name: str, base: Study, elsewhere: Study) -> str:
    """Return the sentence on a flag's default with other data, if it differs; else ""."""
    if name not in declarations(Run) or name in ("data", "repeat"):
        return ""
    here, there = (
        (s.values(name) if name in HYPERPARAMETERS else getattr(s.run, name))
        for s in (base, elsewhere)
    )
    if here == there:
        return ""
    shown = there[0] if isinstance(there, tuple) else there
    return f" With other --data the default is {shown}."


def _lay_over(base: Study, space: Mapping[str, Any], flags: dict[str, Any]) -> Study:
    """Return the base study with the values of the flags."""
    space, fixed, own = dict(space), {}, {}
    for name, value in flags.items():
        if name not in declarations(Run):
            own[name] = value
        elif not isinstance(value, tuple) or name not in searchable(Run):
            fixed[name] = value
        elif ranges := parse_range(name, value, declarations(Run)[name].number_kind):
            space[name] = ranges
        elif len(value) == 1:
            fixed[name] = value[0]
            space.pop(name, None)
        else:
            if value != space.get(name):  # an experiment may have made its list as it likes
                check_distinct(name, value)
            space[name] = value
    own = with_repeats(base, own)
    if own["name"] == NAME_OF_DATA:
        own["name"] = ""
    run = replace(base.run, **fixed, study_values=()).absolute()
    return replace(base, run=run, space=space, **own)


# Completion of commands, flags and their choices in a shell: the script that tyro writes.
#
# Words that are neither are completed as file names: experiments, folders of studies, images.


Shell = Literal["bash", "zsh", "fish"]

PROGRAM = "kdtune"
FILE_NAMES: dict[Shell, str] = {
    # tyro answers with one empty word where it knows none, which would erase the word typed
    "bash": """
_kdtune() {
  _tyro_kdtune
  [[ -n "${COMPREPLY[*]}" ]] || COMPREPLY=()
}
complete -o bashdefault -o default -F _kdtune kdtune
""",
    # the file is sourced, or the body of a function of this name in a folder of fpath
    "zsh": """
_kdtune() {
  _tyro_kdtune "$@" || _files
}
if [[ "$funcstack[1]" == _kdtune ]]; then
  _kdtune "$@"
else
  compdef _kdtune kdtune
fi
""",
    "fish": """
function _kdtune
    set -l start (commandline -ct)
    set -l found (_tyro_kdtune | string match -er -- '^'(string escape --style=regex -- "$start"))
    if test -n "$found"
        printf '%s\\n' $found
    else
        __fish_complete_path $start
    end
end
complete --erase --command kdtune
complete --no-files --command kdtune --arguments "(_kdtune)"
""",
}
"""What replaces tyro's registration, so that other words are completed as file names."""


@dataclass(frozen=True)
class CompletionFlags:
    """Print the script that completes commands, flags and their choices in a shell.

    It is for the console script `kdtune`. docs/commands.md says where each shell reads it from.
    """

    shell: Shell
    """The shell."""


def flags(command: str) -> Iterator[Flag]:
    """Return the flags of "completion"."""
    return flags_of(CompletionFlags)


def parse_completion(command: str, arguments: list[str]) -> CompletionFlags:
    """Return what the command line of "completion" asks for; see `parse_flags`."""
    about = docstring(CompletionFlags)
    return CompletionFlags(**parse_flags(command, about, tuple(flags(command)), arguments))


def script(shell: Shell) -> str:
    """Return the script that completes the commands of `COMMANDS` in a shell."""
    import tyro

    kinds = [Annotated[_flags_type(name), tyro.conf.subcommand(name)] for name in COMMANDS]
    whole: Any = Union[tuple(kinds)]  # noqa: UP007 (they are not known in advance)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        tyro.cli(whole, prog=PROGRAM, args=["--tyro-write-completion", shell, "-"])
    text = output.getvalue().strip().removesuffix(f'_tyro_{PROGRAM} "$@"')
    for name, command in COMMANDS.items():  # tyro describes a subcommand by its name
        text = text.replace(
            f"{name!r}: {{'description': {name!r},",
            f"{name!r}: {{'description': {command.summary!r},",
        )
    return text.rstrip() + "\n" + FILE_NAMES[shell]


def _flags_type(command: str) -> type:
    """Return a dataclass of a command's flags, from which tyro makes their completion."""
    import tyro

    fields: list[Any] = []
    for flag in command_flags(command):
        if flag.default is MISSING:
            continue  # tyro completes no positional arguments
        kind, default = _completed_type(flag)
        about = flag.help.partition(". ")[0].rstrip(".")
        metavar = None if _words(flag) else "VALUE"
        marks: list[Any] = [
            tyro.conf.arg(name=flag.given_name, help=about, metavar=metavar, help_behavior_hint="")
        ]
        if command not in ALL_COMMANDS:
            marks.append(tyro.conf.FlagCreatePairsOff)
        fields.append((flag.name, Annotated[kind, *marks], default))
    return make_dataclass(command, fields)


def _completed_type(flag: Flag) -> tuple[Any, Any]:
    """Return the type by which tyro completes a flag, and a value of that type.

    tyro completes the words of a Literal, and nothing for a number. Text it would complete as file
    names, but without a slash after folders; so text is a number here.
    """
    if flag.kind is bool:
        return bool, False
    kind: Any = int
    default: Any = 0
    if words := _words(flag):
        kind, default = Literal[tuple(words)], words[0]
    return (tuple[kind, ...], ()) if get_origin(flag.kind) is tuple else (kind, default)


def _words(flag: Flag) -> list[str]:
    """Return the words that a flag may have, without the placeholders module:function and A+B."""
    return [word for word in flag.choices or _literals(flag.kind) if not {":", "+"} & {*word}]


def _literals(kind: Any) -> tuple[str, ...]:
    """Return the words of all Literals in a type."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _literals(part))


# Flags of `kdtune.convert`.


@dataclass(frozen=True)
class ConvertFlags:
    """Convert another tool's weights to kdtune's alpha and temperature, with equal gradients.

    kdtune's loss is alpha * CE + (1 - alpha) * T² * KL. The parameters have the tool's own names:
    python -m kdtune.convert --from repdistiller gamma=0.1 alpha=0.9 kd_T=4. Those that are left out
    have the tool's defaults. docs/conventions.md has each tool's loss.
    """

    parameters: tuple[str, ...]
    """The tool's parameters."""
    from_: Annotated[str, Setting(choices=lambda: tuple(CONVENTIONS))] = ""
    """The tool."""
    lr: Annotated[float | None, Setting(above=0, high=MAX_COUNT)] = None
    """The tool's learning rate, to be converted, too."""
    weight_decay: Annotated[float | None, Setting(low=0, high=MAX_COUNT)] = None
    """The tool's weight decay, to be converted, too."""
    clip_norm: Annotated[float | None, Setting(low=0, high=MAX_COUNT)] = None
    """The tool's largest norm of the gradient, to be converted, too."""
    optimizer: Optimizer = "sgd"
    """Optimizer, which decides how the learning rate is converted."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def values(self) -> dict[str, str]:
        """The tool's parameters by name. Raises InputError for a word that is not NAME=VALUE."""
        found: dict[str, str] = {}
        for word in self.parameters:
            name, equals, value = word.partition("=")
            # as on the tool's command line: --task-loss-weight=1
            name = name.lstrip("-").replace("-", "_")
            if not (name and equals and value):
                raise InputError(
                    f"a parameter of the tool must be NAME=VALUE, but got {word}; for example "
                    f"--from repdistiller gamma=0.1 alpha=0.9"
                )
            if name in found:
                raise InputError(f"{name} must be given once, but got {name}={found[name]}, {word}")
            found[name] = value
        return found


def convert_flags(command: str) -> Iterator[Flag]:
    """Yield the flags of "convert"."""
    for flag in flags_of(ConvertFlags):
        metavars = {"parameters": "NAME=VALUE", "from_": "TOOL"}
        yield replace(flag, metavar=metavars.get(flag.name, flag.metavar))


def parse_convert(command: str, arguments: Sequence[str]) -> ConvertFlags:
    """Return what the command line of "convert" asks for; see `flags.parse_flags`."""
    tools = "\n\n".join(f"{name}: {tool.signature}" for name, tool in CONVENTIONS.items())
    about = f"{docstring(ConvertFlags)}\n\nTools and their parameters:\n\n{tools}"
    return ConvertFlags(**parse_flags(command, about, tuple(convert_flags(command)), arguments))


# Flags of `python -m kdtune.predict`.


PredictFormat = Literal["table", "csv", "json"]
PREDICT_METAVARS = {"student": "STUDENT", "images": "IMAGE [IMAGE ...]", "repeat": "INT"}
"""What --help shows in place of a value."""


@dataclass(frozen=True)
class PredictFlags:
    """Predict the classes of images with a student that a study has trained.

    Exit code 1 says that some images could not be read; they are named, the others are predicted.
    """

    student: Annotated[str, Setting(place=True)]
    """Folder of the study, s3://BUCKET/PREFIX/NAME, its students/, or one file in students/."""
    images: Annotated[tuple[str, ...], Setting(place=True)]
    """Image files, folders (searched with all their folders) and patterns, quoted: "new/*.jpg"."""
    repeat: Annotated[int | None, Setting(low=0, high=MAX_REPEAT)] = None
    """Repeat of the student. None: that of the file, else the lowest; never the most accurate one,
    whose accuracy would be optimistic."""
    top: Annotated[int, Setting(low=1, high=MAX_COUNT)] = 1
    """Number of the most probable classes that are shown, at most all."""
    format: PredictFormat = "table"
    """Format of the output: a table for reading, or csv or json with each probability in full
    precision."""
    batch_size: Annotated[int, Setting(low=1, high=MAX_BATCH)] = 64
    """Images that are predicted at once."""
    device: Device = "auto"
    """Device of the student: "cuda", "mps" (the GPU of an Apple computer), "cpu", or "auto" (cuda
    if there is such a GPU, else cpu)."""

    def __post_init__(self) -> None:
        check_fields(self)


def predict_flags(command: str) -> Iterator[Flag]:
    """Return the flags of "predict"."""
    return flags_of(PredictFlags)


def parse_predict_command(command: str, arguments: Sequence[str]) -> PredictFlags:
    """Return what the command line of a command named "predict" asks for."""
    return parse_predict(arguments)


def parse_predict(arguments: Sequence[str]) -> PredictFlags:
    """Return what the command line asks for; see `flags.parse_flags`.

    Raises:
        InputError: There is no student or no image, or a value is not allowed.
    """
    about = docstring(PredictFlags)
    named = (
        (flag, PREDICT_METAVARS.get(flag.name, flag.metavar)) for flag in flags_of(PredictFlags)
    )
    flags = tuple(replace(flag, metavar=metavar) for flag, metavar in named)
    if list(arguments) in ([], ["--"]):
        raise InputError(
            "STUDENT and IMAGE must be given, the folder of a study and images (python -m "
            "kdtune.predict runs/NAME image.jpg)"
        )
    values = parse_flags("predict", about, flags, arguments)
    if not values["images"]:
        raise InputError(
            f"IMAGE must be given, an image file, a folder or a pattern (python -m kdtune.predict "
            f"{values['student']} image.jpg)"
        )
    return PredictFlags(**values)


# Flags of `kdtune.export`.


EXPORT_FORMATS = ("onnx", "torch-export", "safetensors")
EXPORT_METAVARS = {"study": "STUDY", "repeat": "INT"}
"""What --help shows in place of a value."""


@dataclass(frozen=True)
class ExportFlags:
    """Export a student of a study's best configuration, checked against PyTorch on its test data.

    The file takes uint8 images [B, C, H, W] and returns logits [B, K]: normalisation is inside. It
    is written to students/best.onnx (best.pt2, best.safetensors), with a JSON file beside it and a
    model card, students/README.md.
    """

    study: Annotated[str, Setting(place=True)]
    """Folder of the study."""
    format: Annotated[str, Setting(choices=lambda: EXPORT_FORMATS)] = "onnx"
    """Format of the file: "onnx" for onnxruntime and others, "torch-export" for PyTorch without
    kdtune, "safetensors" for the weights alone, under the names of the network's layers."""
    int8: bool = False
    """Also write students/best-int8.onnx, calibrated on train images, and compare it with float32:
    accuracy on test, size and latency. Only with format onnx."""
    repeat: Annotated[int | None, Setting(low=0, high=MAX_REPEAT)] = None
    """Repeat of the student. None: the lowest one that is there. The one with the best accuracy
    would be a selection on the data that are to judge it."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_export(self.format, self.int8)


def check_export(format: str, int8: bool) -> None:
    """Raise InputError unless the format is known and fits int8."""
    if format not in EXPORT_FORMATS:
        near = get_close_matches(format, EXPORT_FORMATS, n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"--format must be {', '.join(EXPORT_FORMATS[:-1])} or {EXPORT_FORMATS[-1]}, but got "
            f"{format}{hint}"
        )
    if int8 and format != "onnx":
        raise InputError(f"--int8 must be used with --format onnx, but got --format {format}")


def export_flags(command: str) -> Iterator[Flag]:
    """Yield the flags of "export"."""
    for flag in flags_of(ExportFlags):
        yield replace(flag, metavar=EXPORT_METAVARS.get(flag.name, flag.metavar))


def parse_export(command: str, arguments: Sequence[str]) -> ExportFlags:
    """Return what the command line of "export" asks for; see `flags.parse_flags`.

    Raises:
        InputError: there is no study, or a value is not allowed.
    """
    if list(arguments) in ([], ["--"]):
        raise InputError(
            "STUDY must be given, the folder of a study (python -m kdtune.export runs/NAME)"
        )
    about = docstring(ExportFlags)
    return ExportFlags(**parse_flags(command, about, tuple(export_flags(command)), arguments))
