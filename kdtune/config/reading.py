"""Flags of the commands that read a study, analysis and report.

argparse reads them, not tyro as for the others: a laptop to which a study's folder is copied needs
only pandas, scipy and matplotlib.
"""

import argparse
import ast
import dataclasses
import inspect
import itertools
import textwrap
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, get_args, get_origin

from kdtune.config.errors import InputError
from kdtune.config.study import Format, Scope

SHOWN = ("acc", "ce", "teacher_acc", "logit_diff", "agreement")
"""Metrics of the table."""


@dataclass(frozen=True)
class Reading:
    """Print the table and the verdict of a study."""

    run: str
    """The study's folder, or s3://BUCKET/PREFIX/NAME."""
    by: tuple[str, ...] = ()
    """Hyperparameters that tell the rows apart. None given: those that were searched."""
    columns: tuple[str, ...] = SHOWN
    """Metrics of the table, on val: loss, ce, distill, acc, teacher_acc, gap, logit_diff,
    agreement, kl."""
    metric: str = "acc"
    """Metric that is compared with the baseline: acc, ce, gap, agreement, kl or logit_diff."""
    scope: Scope = "last"
    """Epoch that counts: the last, the one with the best val accuracy (optimistic), or the mean of
    the last five."""
    baseline: str = "alpha=1"
    """What the others are compared with: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]."""
    format: Format = "md"
    """Form of the table; md is for reading, csv and json have all columns."""
    pooled: bool = False
    """Mean and sd over all epochs of all repeats: the starting repository's table. That sd is of a
    learning curve, not of repeats."""
    strict: bool = False
    """Exit with code 3 where a run is missing, failed or truncated, or the records look wrong."""


@dataclass(frozen=True)
class Reporting:
    """Write report.html and figures/ into a study's folder: one page, readable offline."""

    run: str
    """The study's folder, or s3://BUCKET/PREFIX/NAME."""
    out: str | None = None
    """Folder that report.html and figures/ go to. None: the study's own."""
    metric: str = "acc"
    """Metric that is compared with the baseline: acc, ce, gap, agreement, kl or logit_diff."""
    scope: Scope = "last"
    """Epoch that counts: the last, the one with the best val accuracy (optimistic), or the mean of
    the last five."""
    baseline: str = "alpha=1"
    """What the others are compared with: the best configuration with these values,
    NAME=VALUE[,NAME=VALUE...]."""


def read(command: str, arguments: list[str]) -> Reading | Reporting:
    """What the command, "analysis" or "report", is asked for.

    Raises InputError for flags and values that cannot be; ends the process for --help.
    """
    kind: type[Reading] | type[Reporting] = Reading if command == "analysis" else Reporting
    program = f"python -m kdtune.{command}"
    parser = _Parser(prog=program, description=kind.__doc__, allow_abbrev=False)
    texts = docs(kind)
    for f in dataclasses.fields(kind):
        text = texts[f.name].replace("%", "%%")
        if f.default is dataclasses.MISSING:
            parser.add_argument(f.name, help=text)
        elif f.type is bool:
            parser.add_argument(f"--{f.name}", action="store_true", help=text)
        else:
            parser.add_argument(f"--{f.name}", default=f.default, help=text, **_form(f))
    flags, unknown = parser.parse_known_args(arguments)
    if unknown:
        near = get_close_matches(unknown[0], [f"--{f.name}" for f in dataclasses.fields(kind)], n=1)
        hint = f"did you mean {near[0]}?" if near else f"see python -m kdtune.{command} --help"
        raise InputError(f"there is no {unknown[0]} here; {hint}")
    values: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(flags).items()}
    return kind(**values)


def docs(owner: type) -> dict[str, str]:
    """The docstring under each field of a dataclass: its --help."""
    texts = {}
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
    assert isinstance(tree, ast.ClassDef)
    for statement, below in itertools.pairwise(tree.body):
        if isinstance(statement, ast.AnnAssign) and isinstance(below, ast.Expr):
            assert isinstance(statement.target, ast.Name)
            texts[statement.target.id] = " ".join(ast.literal_eval(below.value).split())
    return texts


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def _form(f: Any) -> dict[str, Any]:
    """How a flag takes its values."""
    if get_origin(f.type) is tuple:
        return {"nargs": "+", "metavar": "NAME"}
    if get_origin(f.type) is Literal:
        return {"choices": get_args(f.type)}
    return {"metavar": "TEXT"}
