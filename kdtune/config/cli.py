"""The command line: one grammar for every command, `[EXPERIMENT.py] [--flags]`.

Flags win over the experiment, the experiment over the defaults. Nothing here imports torch or Ray,
so that `--help` and a misspelt flag are answered at once.
"""

import dataclasses
import importlib
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from kdtune.config.defaults import fashion
from kdtune.config.errors import InputError, UserError
from kdtune.config.files import describe_missing
from kdtune.config.hyperparameters import HYPERPARAMETERS, Range
from kdtune.config.reading import docs, read
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.user_code import user_code

Command = Literal["search", "teacher", "distill", "analysis", "report"]


ABOUT = {
    "search": "Study a distillation: every configuration, over the same repeats. A hyperparameter "
    "given several values, or a range (--lr 1e-4..1e-1:log), is searched: --alpha 0.1 0.5 1.",
    "teacher": "Fine-tune a study's teacher.",
    "distill": "One distillation run; prints its epochs.",
}


ONLY_SEARCH = {"search", "samples", "plain_share", "policy", "race_level", "confirm", "stop_early"}


ONLY_SEARCH |= {"repeats", "until_decided", "level", "budget", "warm_start"}


ONLY_SEARCH |= {"gpus_per_trial", "address"}


HIDDEN = {
    "search": {"repeat", "until_decided"},
    "teacher": {*ONLY_SEARCH, "repeat", "alpha", "loss", "temperature"}
    | {"student", "student_weights", "trainable", "batch_norm", "train_images", "lr", "epochs"},
    "distill": ONLY_SEARCH,
}
"""Fields that are no flags of a command."""


UNNAMED = "that-of-the-data"


def start(command: Command) -> NoReturn:
    """Be `python -m kdtune.<command>`: parse the command line, then load the module, run its main.

    In this order, since the modules load torch and Ray; and under their own names, since what is
    defined in `__main__` is not what others import.
    """

    def main() -> int:
        grammar = read if command in ("analysis", "report") else parse
        asked = grammar(command, sys.argv[1:])
        return int(importlib.import_module(f"kdtune.{command}").main(asked))

    answer(main, resumes=command in ("search", "teacher"))


def answer(main: Callable[[], int], resumes: bool = False) -> NoReturn:
    """Run a command; bad input gets one sentence and exit code 2, Ctrl-C exit code 130.

    Args:
        main: the command, returns its exit code.
        resumes: whether the same command goes on where it was cut.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt as stop:
        reason = f" ({stop})" if str(stop) else ""
        rest = "; the same command goes on from here" if resumes else ""
        print(f"interrupted{reason}{rest}", file=sys.stderr)
        code = 130
    except BrokenPipeError:  # | head
        sys.stderr.close()
        code = 141
    sys.exit(code)


def parse(command: Command, arguments: list[str]) -> Study:
    """The study that the command line asks for.

    Raises InputError for values that cannot be; ends the process as tyro does for unknown flags
    (exit code 2, the nearest flag named) and for --help.
    """
    import tyro

    base, arguments = _base(arguments)
    kinds: list[tuple[str, Any, Any]] = []
    texts = docs(Run) | docs(Study)
    for f, default in _flags(command, base):
        kind: Any = f.type
        if command == "search" and f.name in HYPERPARAMETERS:
            kind = _or_range(kind) if kind in (int, float) else kind
            kind = tuple[kind, ...]
        elif f.name == "repeats":
            kind = int | Literal["auto"]
        kinds.append((f.name, Annotated[kind, tyro.conf.arg(help=texts[f.name])], default))
    flags: Any = tyro.cli(
        dataclasses.make_dataclass("Flags", kinds),
        args=arguments,
        prog=f"python -m kdtune.{command}",
        description=f"{ABOUT[command]}\n\n[EXPERIMENT.py] may stand before the flags: a file "
        f"with `study = kdtune.Study(...)`; flags win over it.",
    )
    return _lay_over(base, base.space if command == "search" else {}, vars(flags))


def _base(arguments: list[str]) -> tuple[Study, list[str]]:
    """What the flags are laid over: the experiment, or the default study, or plain defaults."""
    if arguments and not arguments[0].startswith("-"):
        return _experiment(Path(arguments[0])), arguments[1:]
    words = [part for word in arguments for part in word.split("=", 1)]
    own_data = "--data" in words and words[words.index("--data") :][1:2] != ["fashion"]
    return Study(name=UNNAMED) if own_data else fashion(), arguments


def _experiment(file: Path) -> Study:
    if not file.is_file() or file.suffix != ".py":
        near = get_close_matches(file.name, [p.name for p in file.parent.glob("*.py")], n=1)
        hint = f"; did you mean {file.parent / near[0]}?" if near else ""
        raise InputError(
            f"an experiment must be a Python file (.py), but {describe_missing(file)}{hint}"
        )
    with user_code(f"{file} cannot be run"):
        study = runpy.run_path(str(file)).get("study")
    if not isinstance(study, Study):
        raise InputError(f"{file} must define `study = kdtune.Study(...)`, but got {study!r}")
    return study


def _or_range(kind: type[int] | type[float]) -> Any:
    """A number, or a range of numbers, as tyro reads one."""
    import tyro

    def read(words: list[str]) -> int | float | str:
        # a range is parsed in _lay_over: tyro replaces the words of an error raised here
        return words[0] if ".." in words[0] else kind(words[0])

    spec = tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{kind.__name__.upper()}|LOW..HIGH[:log]",
        instance_from_str=read,
        is_instance=lambda value: isinstance(value, int | float | str),
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[kind | str, spec]


def _flags(command: Command, base: Study) -> list[tuple[Any, Any]]:
    """(field, default) of each flag, the study's own first."""
    flags = []
    for owner in (base, base.run):
        for f in dataclasses.fields(owner):
            if f.name in HIDDEN[command] or f.name in ("run", "space"):
                continue
            default = getattr(owner, f.name)
            if command == "search" and f.name in HYPERPARAMETERS:
                values = base.values(f.name)
                default = (str(values),) if isinstance(values, Range) else values
            elif f.name == "repeats" and base.until_decided:
                default = "auto"
            flags.append((f, default))
    return flags


def _lay_over(base: Study, space: Mapping[str, Any], flags: dict[str, Any]) -> Study:
    run_names = {f.name for f in dataclasses.fields(Run)}
    numbers: Any = {f.name: f.type for f in dataclasses.fields(Run) if f.type in (int, float)}
    space, fixed, own = dict(space), {}, {}
    for name, value in flags.items():
        if name not in run_names:
            own[name] = value
        elif not isinstance(value, tuple):
            fixed[name] = value
        elif name in numbers and (ranges := [v for v in value if isinstance(v, str)]):
            if len(value) > 1:
                shown = " ".join(map(str, value))
                raise InputError(f"{name} must be a list or one range, but got {shown}")
            space[name] = Range.parse(ranges[0], numbers[name])
        elif len(value) == 1:
            fixed[name] = value[0]
            space.pop(name, None)
        else:
            space[name] = value
    if own.get("repeats") == "auto":
        own |= {"repeats": base.repeats, "until_decided": True}
    elif "repeats" in own:
        own["until_decided"] = False
        if base.until_decided and own["budget"] == base.budget:
            own["budget"] = None  # the experiment's own, for as many repeats as it takes
    if own["name"] == UNNAMED:
        own["name"] = ""  # that of the data's folder
    run = replace(base.run, **fixed).absolute()
    return replace(base, run=run, space=space, **own)
