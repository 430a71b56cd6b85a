"""The examples in the docstrings of the public API give what they say.

Every example runs in a folder that holds the complete studies `runs/small` and `runs/tiny`, so that
nothing is trained and no Ray starts.
"""

import doctest
import inspect
from collections.abc import Iterator
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from small_students import FASHION, run_here
from study_folders import write_small_study

import kdtune

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.REPORT_NDIFF
MODULES = sorted({f"kdtune.{place}" for place in kdtune._MODULES.values()})
OTHERS = ["kdtune.reporting.build", "kdtune.results.results"]
"""Modules of the base class of `Results` and of what its properties return."""


def docstrings(module: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield name and docstring of a module, its functions and classes, and their members.

    doctest's own finder skips cached properties.
    """
    yield module.__name__, inspect.getdoc(module) or ""
    for name, value in vars(module).items():
        if getattr(value, "__module__", None) == module.__name__:
            yield f"{module.__name__}.{name}", inspect.getdoc(value) or ""
            for part, member in vars(value).items() if inspect.isclass(value) else ():
                if inspect.isroutine(member) or isinstance(member, property | cached_property):
                    yield f"{module.__name__}.{name}.{part}", inspect.getdoc(member) or ""


def examples() -> Iterator[doctest.DocTest]:
    """Yield the examples of each docstring that has some."""
    for place in [*MODULES, *OTHERS]:
        module = import_module(place)
        for name, text in docstrings(module):
            test = doctest.DocTestParser().get_doctest(text, {}, name, module.__file__, None)
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


@pytest.mark.parametrize("name", list(EXAMPLES))
def test_an_example_gives_what_it_says(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    test = EXAMPLES[name]
    test.globs = {"kdtune": kdtune, "pd": pd, "results": kdtune.load("runs/small")}
    if name.startswith("kdtune.config.text."):  # helpers, which are not public
        test.globs |= vars(import_module("kdtune.config.text"))
    told: list[str] = []
    with pd.option_context("display.width", 100):
        runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
