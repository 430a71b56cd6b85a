"""The only file of the goldens that knows the inside of kdtune: adapt it when that changes.

The others know command lines, stored studies, dataframes and texts.
"""

import dataclasses
import gc
import importlib
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import Any
from unittest import mock

from kdtune import InputError, Results, Run, Study
from kdtune.__main__ import main
from kdtune.config.hyperparameters import HYPERPARAMETERS

ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
NOT_IN_JSON = ("tracker", "notify", "dump", "flags")
"""Fields of a study that study.json lacks."""

# -- commands --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ran:
    """What a command has printed, and its exit code."""

    code: int
    out: str
    err: str


def run_command(words: Sequence[str]) -> Ran:
    """Run `python -m kdtune WORDS` in this process, in the current folder."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with ExitStack() as stack:
        argv = ["kdtune/__main__.py", *words]
        stack.enter_context(mock.patch.object(sys, "argv", argv))
        stack.enter_context(mock.patch.dict(os.environ, ENVIRONMENT))
        stack.enter_context(mock.patch("atexit.register"))  # of commands that collect no garbage
        stack.enter_context(_warnings_of_a_process())
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        stack.callback(gc.enable)
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


@contextmanager
def _warnings_of_a_process() -> Iterator[None]:
    """Print warnings to the standard error as a new process does, also under pytest."""

    def show(message, category, filename, lineno, file=None, line=None):
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))

    before = warnings.formatwarning
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = show
        try:
            yield
        finally:
            warnings.formatwarning = before


def parse_command(words: Sequence[str]) -> Ran | dict[str, Any]:
    """Return what a command line parses to, or what is printed if it is refused.

    The command runs up to its `main`, which is replaced.
    """
    seen: list[Any] = []

    def keep(argument: Any) -> int:
        seen.append(argument)
        return 0

    module = importlib.import_module(f"kdtune.{words[0]}")
    with mock.patch.object(module, "main", keep):
        ran = run_command(words)
    if not seen:
        return ran
    values = _of_study(seen[0]) if isinstance(seen[0], Study) else _of_flags(seen[0])
    return values | ({"stderr": ran.err} if ran.err else {})


def _of_study(study: Study) -> dict[str, Any]:
    """Return the fields of a study that differ from the defaults, and its configurations."""
    own, base = json.loads(study.to_json()), json.loads(Study().to_json())
    values = _difference(own, base)
    if "run" in own:
        values["run"] = _difference(own["run"], base["run"])
    for name in NOT_IN_JSON:
        if value := getattr(study, name):
            values[name] = value
    if study.train is None and study.search == "grid":
        values["config_ids"] = [run.config_id for run in study.runs()]
    return values


def _difference(own: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    # as text: 1 and 1.0 differ
    missing = object()
    return {n: v for n, v in own.items() if _text(v) != _text(base.get(n, missing))}


def _text(value: Any) -> str:
    return json.dumps(value, default=repr)


def _of_flags(flags: Any) -> dict[str, Any]:
    """Return the values of a command's flags that differ from the defaults."""
    fields = dataclasses.fields(flags)
    values = {f.name: getattr(flags, f.name) for f in fields if getattr(flags, f.name) != f.default}
    return {"flags": type(flags).__name__, **values}


# -- configurations --------------------------------------------------------------------------------


def hyperparameters() -> tuple[str, ...]:
    """Return the names of the hyperparameters of a distillation run."""
    return HYPERPARAMETERS


def configuration(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return id and canonical form of a configuration; None if it is refused."""
    try:
        run = Run(**values)
    except InputError:
        return None
    return run.config_id, run.config


# -- results ---------------------------------------------------------------------------------------


def criteria(results: Results) -> dict[str, Any]:
    """Return the criteria by which a study is judged here, by name."""
    found = {"default": results.criterion(), "best-epoch": results.criterion(scope="best")}
    if results.task.is_distillation:
        found["ce"] = results.criterion("ce")
        found["mean-of-5"] = results.criterion("acc", scope="last-5-avg")
    return found


