"""The only file of the goldens that knows the inside of kdtune: adapt it when that changes.

The others know command lines, stored studies, dataframes and texts.
"""

import dataclasses
import importlib
import io
import json
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any
from unittest import mock

from kdtune import InputError, Results, Run, Study
from kdtune.__main__ import main

ENVIRONMENT = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
SLOW_TO_IMPORT = ("search", "distill", "teacher")
"""Commands whose modules hold nothing but `main`, and import Ray or torch."""
NOT_IN_JSON = ("tracker", "notify", "dump", "flags")
"""Fields of a study that study.json lacks."""


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
        stack.enter_context(mock.patch.object(warnings, "formatwarning", warnings.formatwarning))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = _print_warning  # pytest would keep them
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())


def _print_warning(message, category, filename, lineno, file=None, line=None):
    sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def parse_command(words: Sequence[str]) -> Ran | dict[str, Any]:
    """Return what a command line parses to, or what is printed if it is refused.

    The command runs up to its `main`, which is replaced; paths need not exist.
    """
    seen: list[Any] = []

    def keep(argument: Any) -> int:
        seen.append(argument)
        return 0

    name = f"kdtune.{words[0]}"
    if words[0] in SLOW_TO_IMPORT and name not in sys.modules:
        replaced: Any = mock.patch.dict(sys.modules, {name: SimpleNamespace(main=keep)})
    else:
        replaced = mock.patch.object(importlib.import_module(name), "main", keep)
    with replaced, mock.patch("kdtune.config.cli.check_new_study"):
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
    return {n: v for n, v in own.items() if n not in base or json.dumps(v) != json.dumps(base[n])}


def _of_flags(flags: Any) -> dict[str, Any]:
    """Return the values of a command's flags that differ from the defaults."""
    fields = dataclasses.fields(flags)
    values = {f.name: getattr(flags, f.name) for f in fields if getattr(flags, f.name) != f.default}
    return {"flags": type(flags).__name__, **values}


def configuration(values: dict[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return id and canonical form of a configuration; None if it is refused."""
    try:
        run = Run(**values)
    except InputError:
        return None
    return run.config_id, run.config


def criteria(results: Results) -> dict[str, Any]:
    """Return criteria by which a study of distillation is judged besides its own, by name."""
    distilled = sorted(results.study.values("alpha"))[1]
    return {
        "ce": results.criterion("ce"),
        "best-epoch": results.criterion(scope="best"),
        "kl, mean of 5": results.criterion("kl", scope="last-5-avg"),
        "other baseline": results.criterion(baseline={"alpha": distilled}),
    }
