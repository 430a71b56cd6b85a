"""The only file of the goldens that knows the inside of kdtune: adapt it when that changes.

The others know command lines, stored studies, dataframes and texts.
"""

import dataclasses
import gc
import importlib
import inspect
import io
import json
import os
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pandas as pd

from kdtune import InputError, Results, Run, Study
from kdtune.__main__ import main
from kdtune.config.run import HYPERPARAMETERS

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
        stack.enter_context(mock.patch("atexit.register"))  # of commands that collect no garbage
        stack.enter_context(_warnings_of_a_process())
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        stack.callback(gc.enable if gc.isenabled() else gc.disable)
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

    name = f"kdtune.{words[0]}"
    if words[0] in SLOW_TO_IMPORT and name not in sys.modules:
        replaced: Any = mock.patch.dict(sys.modules, {name: SimpleNamespace(main=keep)})
    else:
        replaced = mock.patch.object(importlib.import_module(name), "main", keep)
    with replaced:
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


@contextmanager
def sharing() -> Iterator[None]:
    """Read each study once, and compute each of its results once; only the time depends on it."""
    from kdtune.results import frames, results, several

    with ExitStack() as stack:
        for module, name in ((results, "load"), (several, "load"), (frames, "_tables")):
            function = _once(getattr(module, name), _state)
            stack.enter_context(mock.patch.object(module, name, function))
        for name, function in vars(results.Results).items():
            if not name.startswith("_") and inspect.isfunction(function):
                stack.enter_context(mock.patch.object(results.Results, name, _once(function, id)))
        stack.enter_context(mock.patch("inspect.getsource", cache(inspect.getsource)))
        stack.callback(gc.enable)
        gc.disable()
        yield


@contextmanager
def without_drawings() -> Iterator[None]:
    """Draw no figure, since drawing takes most of a report's time; its page is otherwise whole."""

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    def empty(canvas: Any, file: Any, **_: Any) -> None:
        file.write('<svg width="1" height="1"></svg>')

    with (
        mock.patch("matplotlib.backends.backend_svg.FigureCanvasSVG.print_svg", empty),
        mock.patch.object(FigureCanvasAgg, "draw", FigureCanvasAgg.get_renderer),
        mock.patch("matplotlib.layout_engine.ConstrainedLayoutEngine.execute"),
    ):
        yield


def _once(function: Callable[..., Any], name: Callable[[Any], Hashable]) -> Callable[..., Any]:
    """Return the function with a memory of its results, by the name of its first argument."""
    known: dict[Any, tuple[Any, Any]] = {}

    def call(first: Any, *arguments: Any, **named: Any) -> Any:
        key = (name(first), repr(arguments), repr(named))
        if key not in known:  # the first argument is kept, so that its id stays its own
            known[key] = first, function(first, *arguments, **named)
        value = known[key][1]
        return value.copy() if isinstance(value, pd.DataFrame) else value

    return call


def _state(place: str | Path) -> Hashable:
    """Return the state of a study's folder: a study whose records have changed is read anew."""
    folder = Path(place)
    files = (*folder.glob("*.*"), *folder.glob("epochs/*"), *folder.glob("students/*"))
    return Path.cwd(), folder, tuple((file.name, file.stat().st_mtime_ns) for file in files)


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


def criteria(results: Results) -> dict[str, Any]:
    """Return criteria by which a study of distillation is judged besides its own, by name."""
    distilled = sorted(results.study.values("alpha"))[1]
    return {
        "ce": results.criterion("ce"),
        "best-epoch": results.criterion(scope="best"),
        "kl, mean of 5": results.criterion("kl", scope="last-5-avg"),
        "other baseline": results.criterion(baseline={"alpha": distilled}),
    }
