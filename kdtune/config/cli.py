"""Command lines: `python -m kdtune.<command> [EXPERIMENT.py] [--flags]`.

Flags take precedence over the experiment, the experiment over the defaults. Nothing here imports
torch, Ray or pandas, so that `--help` and misspelt flags are answered at once. tyro parses every
command line; it is imported only for that, so that reading a study is fast.
"""

import contextlib
import dataclasses
import inspect
import io
import os
import runpy
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, NoReturn, TypeVar

from kdtune import __version__
from kdtune.config import fields
from kdtune.config.files import existing_file, not_writable_by_all
from kdtune.config.run import DISTILLATION, Run
from kdtune.config.study import Scope, Study, check_new_study, fashion
from kdtune.config.task import Range, ends_of
from kdtune.config.text import InputError, UserError, printable, printable_lines, shown, user_code

# The commands. A new one is an entry of `COMMANDS` and a module `kdtune.NAME` with `main(flags) ->
# int` and, unless it takes a study, `FLAGS`, the classes of its flags; `parse(words)` if it takes
# more than the flags of one class.

EXIT_CODES = {
    0: "success",
    1: "no run completed, --check has found something, an image could not be read, or an exported "
    "file differs from its student",
    2: "invalid input",
    3: "a warning, with --strict",
    130: "interrupted",
    141: "the reader of the output has ended",
    143: "terminated",
}
"""What the exit codes mean, in a few words; docs/commands.md says when each occurs."""


@dataclass(frozen=True)
class Command:
    """A command, and how it may end."""

    summary: str
    """What it does, in one line."""
    other_codes: tuple[int, ...] = ()
    """Exit codes that --help lists besides 0, 2 and 130; keys of `EXIT_CODES`."""
    resumes: bool = False
    """Whether the same command continues where it was interrupted."""


COMMANDS = {
    "search": Command(
        "Run a study: every configuration in every repeat. Repeat it to resume.",
        (1,),
        resumes=True,
    ),
    "distill": Command("Run one distillation and print its epochs.", (1,)),
    "teacher": Command("Fine-tune the teacher of a study.", resumes=True),
    "analysis": Command(
        "Print the table, comparison and conclusion of a study or a csv file.", (3,)
    ),
    "report": Command("Write report.html and the figures of a study."),
    "predict": Command(
        "Predict the classes of images with a student that a study has trained.", (1,)
    ),
    "export": Command("Export a student to ONNX or torch.export, checked on test; --int8.", (1,)),
    "convert": Command("Convert the weights of another tool to alpha and temperature."),
    "completion": Command("Print the script that completes commands and flags in a shell."),
}
"""The commands by name, in the order of `kdtune --help`."""


def start(command: str, words: Sequence[str] | None = None) -> NoReturn:
    """Run a command of kdtune and end the process with its exit code.

    The command line is parsed before torch, Ray or pandas are imported.

    Args:
        command: A key of `COMMANDS`.
        words: Its command line; None: that of the process.
    """
    arguments = sys.argv[1:] if words is None else list(words)

    def main() -> int:
        if arguments[:1] == ["--version"]:
            print(f"kdtune {__version__}")
            return 0
        argument = parse_command(command, arguments)
        if isinstance(argument, Study):
            check_new_study(argument)
        with not_writable_by_all():
            # the module under its own name: Ray cannot unpickle what `__main__` defines
            return int(import_module(f"kdtune.{command}").main(argument))

    warnings.formatwarning = _format_warning  # type: ignore[assignment]
    run_and_exit(main, resumes=COMMANDS[command].resumes)


def parse_command(command: str, words: Sequence[str]) -> Any:
    """Return what `main` of a command takes.

    For --help and unknown flags it ends the process, as `parse_flags` does.

    Raises:
        InputError: A value is not allowed.
    """
    if command in fields.ALL_COMMANDS:
        return parse(command, list(words))
    module = import_module(f"kdtune.{command}")
    if hasattr(module, "parse"):
        return module.parse(list(words))
    return parse_own_flags(module.FLAGS[0], command, words)


# The process of a command.

_format_of_python = warnings.formatwarning


def _format_warning(message: Any, category: Any, filename: str, *place: Any) -> str:
    """Return a line for a warning of kdtune; those of libraries keep their file and line."""
    if filename.startswith(str(Path(__file__).parents[1])):
        return f"warning: {printable_lines(str(message))}\n"
    return _format_of_python(message, category, filename, *place)


def run_and_exit(main: Callable[[], int], resumes: bool = False) -> NoReturn:
    """Run a command and end the process; print errors for the user as one sentence each.

    Args:
        main: The command; returns its exit code.
        resumes: Whether the same command continues where it was interrupted.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a character that the encoding lacks is escaped
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            code = main()
        except SystemExit as end:  # of tyro, after --help
            code = int(end.code or 0)
        sys.stdout.flush()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt as stop:
        reason = f" ({printable(str(stop))})" if str(stop) else ""
        rest = "; run the same command again to resume" if resumes else ""
        with contextlib.suppress(OSError):  # of a terminal that is closed
            print(f"interrupted{reason}{rest}", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # | head; Python would complain when it flushes at the exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    sys.exit(code)


# Flags: how a field becomes a flag.


class Flag(NamedTuple):
    """A flag of a command line: a field of the dataclass that tyro reads."""

    name: str
    """With underscores, the name of the field; with one at the end if it is a word of Python."""
    kind: Any
    """Its type, annotated with its help."""
    default: Any
    """MISSING: it is a positional argument."""


def _flag(name: str, kind: Any, about: str, default: Any, metavar: str | None = None) -> Flag:
    """Return a flag with its help, and what the help shows in place of its value."""
    import tyro

    word = name.rstrip("_") if name.endswith("_") else None
    annotation = tyro.conf.arg(name=word, help=about, metavar=metavar)
    if default is MISSING:
        return Flag(name, Annotated[kind, tyro.conf.Positional, annotation], default)
    return Flag(name, Annotated[kind, annotation], default)


def flags_of(owner: type) -> Iterator[Flag]:
    """Yield the flags of a dataclass: its fields, with their types, defaults, help and choices."""
    texts = fields.docstrings(owner)
    for field in dataclasses.fields(owner):
        declared = fields.declarations(owner)[field.name]
        about = _help_of(declared, texts[field.name])
        yield _flag(field.name, declared.kind, about, field.default, declared.setting.metavar)


def _help_of(declared: fields.Declaration, text: str) -> str:
    """Return the help of a field: its docstring, its bounds and when it has an effect."""
    sentences = [text] if text else []
    if declared.bounds:
        sentences.append(f"Must lie in {declared.bounds.interval}.")
    setting = declared.setting
    if not isinstance(setting, fields.Hyperparameter):
        return " ".join(sentences)
    for other, values in setting.when.items():
        words = values if isinstance(values, tuple) else (values,)
        sentences.append(f"Only used with {other} {' or '.join(map(str, words))}.")
    sentences += [f"Not used with {other} {value}." for other, value in setting.unless.items()]
    if declared.name == fields.SUM_WEIGHT:
        sentences.append("Only used with a sum of two losses, A+B.")
    elif setting.of_objective:
        taking = ", ".join(
            loss for loss in fields.LOSSES if declared.name in fields.LOSSES[loss].takes
        )
        sentences.append(f"Only used with loss {taking} or module:function.")
    return " ".join(sentences)


_Flags = TypeVar("_Flags")


def parse_flags(
    command: str, description: str, flags: Iterable[Flag], arguments: Sequence[str]
) -> dict[str, Any]:
    """Return the value of each flag of a command line.

    For --help, unknown flags and values of another type it ends the process as tyro does: exit code
    0 or 2, with the nearest flag named.

    Raises:
        InputError: A flag is given twice, or a list without a value.
    """
    import tyro

    given = names_of_flags(arguments)
    for name in given:
        if given.count(name) > 1:  # only the last of them would have an effect
            raise InputError(
                f"a flag must be given once, but got --{name.replace('_', '-')} twice; leave out "
                f"one of them, or give all values after one (--alpha 0 0.5)"
            )
    listed = sorted((0, 2, 130, *COMMANDS[command].other_codes))
    codes = (f"{code} {EXIT_CODES[code]}" for code in listed)
    is_script = Path(sys.argv[0]).stem == "kdtune"
    parsed: Any = tyro.cli(
        dataclasses.make_dataclass(command, flags),
        args=arguments,
        prog=f"kdtune {command}" if is_script else f"python -m kdtune.{command}",
        description=f"{description}\n\nExit codes: {'; '.join(codes)}.",
        config=() if command in fields.ALL_COMMANDS else (tyro.conf.FlagCreatePairsOff,),
    )
    values = dict(vars(parsed))
    for name in given:
        if values.get(name) == ():
            raise InputError(f"{name} must have at least one value (--{name} VALUE [VALUE ...])")
    return values


def parse_own_flags(
    owner: type[_Flags], command: str, arguments: Sequence[str], about: str = ""
) -> _Flags:
    """Return the flags that a dataclass declares, see `parse_flags`.

    Args:
        owner: The dataclass; its docstring is the description.
        command: The command.
        arguments: Its words.
        about: More for the description.
    """
    description = f"{inspect.getdoc(owner)}{about}"
    return owner(**parse_flags(command, description, flags_of(owner), arguments))


def names_of_flags(arguments: Sequence[str]) -> list[str]:
    """Return the names of the flags in the words of a command line, with underscores."""
    names = []
    for word in arguments:
        if word == "--":
            break
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--").replace("-", "_")
            names.append(name.removeprefix("no_"))
    return names


@dataclass(frozen=True)
class ComparisonFlags:
    """Flags of analysis and report: what is read, and how its configurations are compared."""

    runs: Annotated[tuple[str, ...], fields.Setting(path=True, metavar="RUN [RUN ...]")]
    """Folder of the study, or s3://BUCKET/PREFIX/NAME. Several are compared with the first."""
    metric: Annotated[
        str | None, fields.Setting(metavar=fields.one_of(DISTILLATION.comparable))
    ] = None
    """Metric, on val, in which configurations are compared with the baseline. None: the one that
    decides the search, acc for distillation."""
    scope: Scope = "last"
    """Epoch that represents a trial: the last, the one with the best val accuracy (optimistic), or
    the mean of the last five."""
    baseline: str | None = None
    """Baseline of the comparison: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]. None: that of the study, alpha=1 for distillation."""
    max_ms: fields.Positive | None = None
    """Limit on the student's latency at batch size 1, in milliseconds: the conclusion names the
    best student within it. None: the study's own."""
    max_params: fields.Params | None = None
    """Limit on the student's number of parameters, as --max-ms. None: the study's own."""
    equal: fields.NotNegative = 0.0
    """Difference that does not matter to you, in percentage points of shares such as acc, else in
    the unit of the metric: of the configurations that may be the best, none is left out because
    another one is better by less."""
    for_one_study: ClassVar[tuple[str, ...]] = ("max_ms", "max_params", "equal")

    def __post_init__(self) -> None:
        fields.check_fields(self)
        fields.check(self, "runs", self.runs, "be given, folders of studies (such as runs/NAME)")

    def check_for_several(self) -> None:
        """Raise InputError if a flag of `for_one_study` is given."""
        for name in self.for_one_study:
            is_unset = getattr(self, name) in (None, (), False)
            fields.check(self, name, is_unset, "be left out with several studies")


def parse_baseline(text: str | None) -> dict[str, fields.Value] | None:
    """Return {"alpha": 1.0} for the value "alpha=1" of --baseline; None for None."""
    if text is None:
        return None
    values: dict[str, fields.Value] = {}
    for part in text.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if not name or not value or name in values:
            raise InputError(
                f"--baseline must be NAME=VALUE[,NAME=VALUE...], each name once, but got {text}"
            )
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = value
    return values


# Commands that take a study.

SEARCH_HELP = (
    "Run a hyperparameter study of knowledge distillation: every configuration in the same "
    "repeats. A hyperparameter given several values, or a range (--lr 1e-4..1e-1:log, --alpha "
    "0.001..0.999:logit), is searched: --alpha 0.1 0.5 1."
)
NAME_OF_DATA = "name-of-the-data"
"""Default of --name with other data than the default study's: the name of the data's folder."""
_OF_DISTILLATION = "keep max_ms max_params against margin loader_workers cache cache_gb check"
NOT_OF_FUNCTIONS = tuple(_OF_DISTILLATION.split())
"""Fields of a study that have flags, but no effect on a training function."""


def parse(command: fields.StudyCommand, arguments: list[str]) -> Study:
    """Return the study that a command line asks for.

    For --help and unknown flags it ends the process, see `parse_flags`.

    Raises:
        InputError: A value is not allowed, or the experiment cannot be run.
    """
    base, arguments = _base(arguments)
    summary = SEARCH_HELP if command == "search" else COMMANDS[command].summary
    about = (
        f"{summary}\n\n[EXPERIMENT.py] may stand before the flags: a file with "
        f"`study = kdtune.Study(...)`; flags take precedence over it."
    )
    if base.train is not None and command != "search":
        raise InputError(
            f"kdtune.{command} is for distillation, but the experiment has train=...; use "
            f"python -m kdtune.search"
        )
    parsed = parse_flags(command, about, study_flags(command, base), arguments)
    given = names_of_flags(arguments)
    values = {name: value for name, value in parsed.items() if name in given}
    flags = tuple(values)
    teachers = values.get("teacher", "")
    teachers = (teachers,) if isinstance(teachers, str) else teachers
    if base == fashion() and (
        "teacher_weights" in values or all(map(fields.is_output_file, teachers))
    ):
        # the default study's recipe is for teachers with random weights
        recipe = {f"teacher_{name}" for name in fields.TEACHER_RECIPE}
        values |= dict.fromkeys(recipe - values.keys())
    study = _lay_over(base, command, values)
    is_file = "cache" in values and Path(str(study.cache)).expanduser().is_file()
    fields.check(study, "cache", not is_file, "be a folder")
    return replace(study, flags=flags)


def _base(arguments: list[str]) -> tuple[Study, list[str]]:
    """Return the study that flags are laid over, and the flags.

    It is the experiment, the default study, or one with the defaults of the fields for other data.
    """
    if arguments and not arguments[0].startswith("-"):
        file = existing_file("an experiment", "EXPERIMENT", arguments[0], ".py")
        with user_code(f"{file} cannot be run"):
            study = runpy.run_path(str(file)).get("study")
        if not isinstance(study, Study):
            got = shown(study)
            raise InputError(f"{file} must define `study = kdtune.Study(...)`, but got {got}")
        return study, arguments[1:]
    words = [part for word in arguments for part in word.split("=", 1)]
    other_data = "--data" in words and words[words.index("--data") :][1:2] != ["fashion"]
    return Study(name=NAME_OF_DATA) if other_data else fashion(), arguments


def study_flags(command: fields.StudyCommand, base: Study) -> Iterator[Flag]:
    """Yield the flags of a command that takes a study, with the values of the base study.

    First come those of the study, then those of its run or, with a training function, of its space.
    """
    texts = fields.docstrings(Study)
    for name, declared in fields.declarations(Study).items():
        if command not in declared.setting.commands or (base.train and name in NOT_OF_FUNCTIONS):
            continue
        kind, default = declared.kind, getattr(base, name)
        if name == "repeats":
            kind = int | Literal["auto"]
            default = "auto" if base.until_decided else default
        about = _help_of(declared, texts[name])
        yield _flag(name, kind, about, default, declared.setting.metavar)
    yield from _run_flags(command, base) if base.train is None else _space_flags(base)


def _run_flags(command: fields.StudyCommand, base: Study) -> Iterator[Flag]:
    """Yield the flags of the fields of `Run`; a search takes several values of hyperparameters."""
    texts, is_default_study, of_other_data = fields.docstrings(Run), base == fashion(), Run()
    for name, declared in fields.declarations(Run).items():
        if command not in declared.setting.commands:
            continue
        about, default = _help_of(declared, texts[name]), getattr(base.run, name)
        other = getattr(of_other_data, name)
        if is_default_study and (name in base.space or default != other):
            about += f" With other --data the default is {other}."
        if command == "search" and name in fields.searchable(Run):
            number = declared.number_kind
            yield _list_flag(name, number or declared.kind, about, base, declared.setting.metavar)
        else:
            yield _flag(name, declared.kind, about, default, declared.setting.metavar)


def _space_flags(base: Study) -> Iterator[Flag]:
    """Yield the flags of the hyperparameters of a training function."""
    for name in base.space:
        kind = _kind(base, name)
        if kind is not None and name.isidentifier() and name not in fields.declarations(Study):
            yield _list_flag(name, kind, "Hyperparameter of the training function.", base)


def _list_flag(name: str, kind: Any, about: str, base: Study, metavar: str | None = None) -> Flag:
    """Return the flag of a list; numbers and ranges are text here, which `_list_or_range` reads."""
    listed = base.values(name)
    default = (str(listed),) if isinstance(listed, Range) else listed
    if kind in (int, float):
        metavar = f"{kind.__name__.upper()}|LOW..HIGH[:log|:logit]"
        kind, default = str, tuple(map(str, default))
    return _flag(name, tuple[kind, ...], about, default, metavar and f"[{metavar} [...]]")


def _kind(base: Study, name: str) -> type[int] | type[float] | type[str] | None:
    """Return the type of a hyperparameter: int if all its values are whole, float or text.

    None for truth values and mixed lists, which words of a command line do not tell apart.
    """
    kinds = {type(value) for value in ends_of(base.values(name))}
    if kinds <= {int}:
        return int
    if kinds <= {int, float}:
        return float
    return str if kinds == {str} else None


def _lay_over(base: Study, command: fields.StudyCommand, flags: dict[str, Any]) -> Study:
    """Return the base study with the values of the flags that are given."""
    space = dict(base.space) if command == "search" else {}
    of_run: dict[str, Any] = {}
    of_study: dict[str, Any] = {}
    for name, value in flags.items():
        if base.train is None and name in fields.declarations(Run):
            if isinstance(value, tuple) and name in fields.searchable(Run):
                kind = fields.declarations(Run)[name].number_kind
                space[name] = _list_or_range(name, value, kind, space.get(name))
            else:
                of_run[name] = value
        elif name in fields.declarations(Study):
            of_study[name] = value
        else:
            space[name] = _list_or_range(name, value, _kind(base, name), space[name])
    if of_study.get("name", base.name) == NAME_OF_DATA:
        of_study["name"] = ""
    if "repeats" in of_study:
        is_auto = of_study["repeats"] == "auto"
        of_study |= {"until_decided": is_auto} | ({"repeats": base.repeats} if is_auto else {})
        if base.until_decided and not is_auto and "budget" not in of_study:
            of_study["budget"] = None  # the experiment's own budget is for --repeats auto
    if base.train is not None:
        return replace(base, space=space, **of_study)
    for name in [name for name, values in space.items() if len(ends_of(values)) == 1]:
        (of_run[name],) = ends_of(space.pop(name))
    run = replace(base.run, **of_run, study_values=())
    study = replace(base, run=run, space=space, **of_study)
    return replace(study, run=study.run.absolute())


def _list_or_range(name: str, values: tuple[Any, ...], kind: Any, before: Any) -> Any:
    """Return the list or range that a flag's values are.

    Raises:
        InputError: They are both, or no numbers, or a list has a value twice that the experiment
            has not.
    """
    if kind in (int, float):
        try:
            if any(".." in word for word in values):
                (word,) = values
                return Range.parse(word, kind)
            # the checks of the run refuse None where it is no value
            values = tuple(None if word == "None" else kind(word) for word in values)
        except InputError:
            raise
        except ValueError:
            numbers = "whole numbers" if kind is int else "numbers"
            raise InputError(
                f"{name} must be {numbers} or one range of them, LOW..HIGH, LOW..HIGH:log or "
                f"LOW..HIGH:logit, but got {printable(' '.join(values))}"
            ) from None
    for number, value in enumerate(values):
        if value in values[:number] and values != before:
            again = printable(str(value))
            raise InputError(f"{name} must list each value once, but got {again} twice")
    return values
