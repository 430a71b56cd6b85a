"""The examples in the docstrings of the public API give what they say.

Every example runs in a folder that holds the complete studies `runs/small` and `runs/tiny`, so that
nothing is trained and no Ray starts.
"""

import contextlib
import doctest
import inspect
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest
from small_students import FASHION, run_here
from study_folders import write_small_study

import kdtune

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.REPORT_NDIFF
MODULES = sorted({f"kdtune.{place}" for place in kdtune._MODULES.values()})
PROPERTIES = (property, cached_property)
OTHERS = ["kdtune.reporting.build", "kdtune.results.results"]
"""Modules of the base class of `Results` and of what its properties return."""


def examples() -> Iterator[doctest.DocTest]:
    """Yield the examples of modules, their functions and classes, and their members.

    doctest's own finder skips cached properties.
    """
    for module in map(import_module, [*MODULES, *OTHERS]):
        values = [(name, v) for name, v in vars(module).items() if not name.startswith("__")]
        own = [(n, v) for n, v in values if getattr(v, "__module__", None) == module.__name__]
        for name, value in own:
            members = vars(value).items() if inspect.isclass(value) else ()
            for part, member in [("", value), *members]:
                if part == "" or inspect.isroutine(member) or isinstance(member, PROPERTIES):
                    text = inspect.getdoc(member) or ""
                    where = f"{module.__name__}.{name}.{part}".rstrip(".")
                    test = doctest.DocTestParser().get_doctest(text, {}, where, None, None)
                    if test.examples:
                        yield test


EXAMPLES = {test.name: test for test in examples()}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the study runs/small, and runs/tiny, which has students."""
    folder = tmp_path_factory.mktemp("examples")
    write_small_study(folder / "runs" / "small")
    run_here(FASHION, folder / "runs", "tiny")
    return folder


@pytest.fixture(scope="module")
def results(place: Path) -> kdtune.Results:
    with contextlib.chdir(place):
        return kdtune.load("runs/small")


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_an_example_gives_what_it_says(
    name: str, place: Path, results: kdtune.Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    test = EXAMPLES[name]
    test.globs = {"kdtune": kdtune, "pd": pd, "results": results}
    if name.startswith("kdtune.config.text."):  # helpers, which are not public
        test.globs |= vars(import_module("kdtune.config.text"))
    told: list[str] = []
    with pd.option_context("display.width", 100):
        runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
