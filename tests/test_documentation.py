"""ARCHITECTURE.md, docs/ and CONTRIBUTING.md against the code: traces, packages, tables, messages.

The examples in the docstrings of the public API give what they say. Every one runs in a folder that
holds the complete studies `runs/small` and `runs/tiny`: nothing is trained and no Ray starts.
"""

import ast
import contextlib
import csv
import doctest
import inspect
import re
import runpy
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path
from pkgutil import resolve_name
from types import FrameType

import pandas as pd
import pytest
from small_students import FASHION, run_here
from study_folders import write_small_study
from tiny_run import TINY

import kdtune
from kdtune import distill, report
from kdtune.config.cli import parse_command
from kdtune.config.study import Study

ROOT = Path(kdtune.__file__).parents[1]
PACKAGE = ROOT / "kdtune"
DOCS = ROOT / "docs"
TEXT = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
HEADINGS = re.findall(r"^## (.*)$", TEXT, re.M)
TREES = {f.relative_to(PACKAGE).as_posix(): ast.parse(f.read_text()) for f in PACKAGE.rglob("*.py")}
Place = tuple[str, str]
"""A file and the qualified name of a function or class in it."""


def trace(heading: str) -> list[Place]:
    """Return the places of a numbered list, in its order."""
    section = TEXT.split(f"## {heading}\n")[1].split("\n## ")[0]
    places = []
    for line in re.findall(r"^\d+\. (.*)$", section, re.M):
        for file, names in re.findall(r"`(\S+\.py)` ((?:`[\w.]+`(?:, )?)+)", line):
            places += [(file, name) for name in re.findall(r"`([\w.]+)`", names)]
    return places


def defined(node: ast.AST, prefix: str = "") -> Iterator[str]:
    """Yield the qualified names of functions and classes."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            yield f"{prefix}{child.name}"
            yield from defined(child, f"{prefix}{child.name}.")


def calls_of(run: Callable[[], object]) -> list[Place]:
    """Return the places of kdtune that a function calls, in the order of their first calls."""
    seen: dict[Place, None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if file.startswith(str(PACKAGE)):
            seen.setdefault((Path(file).relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname))

    before = sys.gettrace()
    sys.settrace(note)
    try:
        run()
    finally:
        sys.settrace(before)
    return list(seen)


@pytest.mark.parametrize("heading", [h for h in HEADINGS if trace(h)])
def test_places_of_a_trace_exist(heading: str) -> None:
    places = trace(heading)
    assert len(places) >= 10
    assert [p for p in places if p[1] not in defined(TREES[p[0]])] == []


@pytest.mark.parametrize(
    "heading", ["From `--alpha`", pytest.param("A number of the page", marks=pytest.mark.slow)]
)
@pytest.mark.usefixtures("here")
def test_what_runs_goes_as_the_trace_says(heading: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (places,) = (trace(h) for h in HEADINGS if h.startswith(heading))
    if "alpha" in heading:
        # the estimate takes a step, too
        monkeypatch.setattr("kdtune.teacher.describe_fine_tuning", lambda *_: "")
        run = replace(TINY, epochs=1, train_images=20)
        order = calls_of(lambda: distill.main(Study(name="t", run=run)))
        # those before `main` parse the command line
        places = [p for p in places[3:] if p != ("config/study.py", "Study.__post_init__")]
    else:
        study = shutil.copytree(ROOT / "tests" / "goldens" / "studies" / "schema_4", "s")
        order = calls_of(lambda: report.main(parse_command("report", [str(study)])))
    assert set(places) <= set(order)
    assert sorted(places, key=order.index) == places


@pytest.mark.parametrize("package", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_a_package_says_what_each_file_is_for(package: str) -> None:
    text = ast.get_docstring(TREES[f"{package}/__init__.py"]) or ""
    files = {f.stem for f in (PACKAGE / package).glob("*.py")} - {"__init__"}
    assert sorted(re.findall(r"^- (\w+): ", text, re.M)) == sorted(files)


def test_the_table_of_packages_is_that_of_the_contracts() -> None:
    rows = dict(re.findall(r"^\| `([a-z]+)` \|.*\| (.*) \|$", TEXT, re.M))
    table = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]
    names = {p.parent.name for p in PACKAGE.glob("*/__init__.py")}
    allowed = {}
    for name in names:
        of_it = [c for c in table["contracts"] if f"kdtune.{name}" in c["source_modules"]]
        forbidden = {m.removeprefix("kdtune.") for c in of_it for m in c["forbidden_modules"]}
        rest, few = names - forbidden - {name}, names & forbidden
        is_short = len(few) < len(rest)
        text = ", ".join(sorted(few if is_short else rest)) or "–"
        allowed[name] = f"all but {text}" if is_short else text
    assert rows == allowed


SAME_IN_EACH_COMMAND = {"main", "parse", "FLAGS"}
WITH_FIGURES = {"Results", "load", "run"}
"""Names of kdtune/search.py, which adds figures to those of the same name below."""


def test_a_public_name_is_defined_in_one_package() -> None:
    packages: dict[str, set[str]] = {}
    for file, tree in TREES.items():
        for node in tree.body:
            targets = getattr(node, "targets", [getattr(node, "target", None)])
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for name in names:
                packages.setdefault(name, set()).add(file.rpartition("/")[0])
    twice = {n for n, where in packages.items() if len(where) > 1 and not n.startswith("_")}
    assert twice - SAME_IN_EACH_COMMAND == WITH_FIGURES


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the modules that a file imports, also in functions and behind TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))


def test_no_files_import_each_other_in_a_circle() -> None:
    # kdtune/__init__.py, which is lazy, is left out: whoever imports a file has loaded it before
    files = {
        "kdtune." + file.removesuffix(".py").replace("/", "."): tree
        for file, tree in TREES.items()
        if not file.endswith("__init__.py")
    }
    graph = {name: files.keys() & set(imported(tree)) for name, tree in files.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


PRIVATE_IN_RAY = """_private.node.Node.get_temp_dir_path _private.ray_constants.ENABLE_RAY_CLUSTER
_private.utils.set_sigterm_handler _private.worker._global_node _raylet.Config.initialize
_raylet.AuthenticationTokenLoader.instance _raylet.AuthenticationTokenLoader.reset_cache
cloudpickle.cloudpickle._get_or_create_tracker_id"""


def test_ray_has_the_private_functions_that_kdtune_uses() -> None:
    private = PRIVATE_IN_RAY.split()
    names = {n[4:] for tree in TREES.values() for n in imported(tree) if re.match(r"ray\..*\b_", n)}
    assert [n for n in names if not any(p.startswith(n) for p in private)] == []
    for name in private:
        resolve_name(f"ray.{name}")  # if it fails: see who uses it, and pyproject.toml's bound


DOCTEST_FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.REPORT_NDIFF
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
        runner = doctest.DocTestRunner(optionflags=DOCTEST_FLAGS, verbose=False)
        runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)


def test_contributing_names_tables_and_files_that_exist() -> None:
    links = re.findall(r"\]\((\S+)\)", (ROOT / "llms.txt").read_text("utf-8"))
    assert links and [link for link in links if not (ROOT / link).exists()] == []
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    rows = re.findall(r"^\| an? .*\|$", text, re.M)
    assert len(rows) == 9
    for row in rows:
        words = re.findall(r"`([^`]+)`", row)
        code = "".join((ROOT / word).read_text("utf-8") for word in words if "/" in word)
        names = [word for word in words if re.fullmatch(r"[A-Z]\w+", word)]
        assert [n for n in names if not re.search(rf"^(class )?{n}\b", code, re.M)] == []


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    files = [*(ROOT / "kdtune").rglob("*.py"), ROOT / "kdtune" / "results" / "sentences.toml"]
    text = "".join(file.read_text("utf-8") for file in files)
    text = re.sub(r'"\n *f?"|\\\n', "", text)  # literals and lines that go on
    messages = re.findall(r"^\*\*`(.*?)`\*\*", (DOCS / "troubleshooting.md").read_text(), re.M)
    pieces = [piece.strip() for message in messages for piece in message.split("…")]
    assert len(messages) >= 20 and [piece for piece in pieces if piece not in text] == []


def test_the_page_of_benchmarks_is_that_of_its_measurements() -> None:
    folder = ROOT / "experiments" / "benchmarks"
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        text = runpy.run_path(str(folder / "page.py"))["page"]([*csv.DictReader(file)])
    assert (DOCS / "benchmarks.md").read_text("utf-8") == text


def test_the_api_page_has_every_public_name() -> None:
    text = (DOCS / "api.md").read_text("utf-8")
    assert sorted(re.findall(r":: kdtune\.(\w+)", text)) == sorted(kdtune.__all__)
