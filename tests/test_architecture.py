"""ARCHITECTURE.md against the code: its traces, and what the packages say of their files."""

import ast
import re
import shutil
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from graphlib import TopologicalSorter
from pathlib import Path
from types import FrameType

import pytest
from tiny_run import TINY

import kdtune
from kdtune import distill, report
from kdtune.config.cli import parse_command
from kdtune.config.study import Study

ROOT = Path(kdtune.__file__).parents[1]
PACKAGE = ROOT / "kdtune"
TEXT = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
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


def defined(file: str) -> set[str]:
    """Return the qualified names of functions and classes of a file."""
    names = set()

    def visit(node: ast.AST, prefix: str) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                names.add(f"{prefix}{child.name}")
                visit(child, f"{prefix}{child.name}.")

    visit(ast.parse((PACKAGE / file).read_text("utf-8")), "")
    return names


@contextmanager
def calls() -> Iterator[list[Place]]:
    """Collect the places of kdtune in the order of their first calls."""
    seen: dict[Place, None] = {}

    def profile(frame: FrameType, event: str, _: object) -> None:
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(str(PACKAGE)):
            place = Path(file).relative_to(PACKAGE).as_posix(), frame.f_code.co_qualname
            seen.setdefault(place)

    order: list[Place] = []
    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        yield order
    finally:
        sys.setprofile(before)
        order.extend(seen)


def assert_in_order(places: list[Place], order: list[Place]) -> None:
    assert set(places) <= set(order)
    assert sorted(places, key=order.index) == places


HEADINGS = re.findall(r"^## (.*)$", TEXT, re.M)


@pytest.mark.parametrize("heading", [h for h in HEADINGS if trace(h)])
def test_places_of_a_trace_exist(heading: str) -> None:
    places = trace(heading)
    assert len(places) >= 10
    assert [p for p in places if p[1] not in defined(p[0])] == []


def test_alpha_reaches_the_loss_as_the_trace_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with calls() as order:
        distill.main(Study(name="t", run=TINY))
    # those before `main` parse the command line
    places = trace("From `--alpha` to the loss of a step")[3:]
    assert_in_order([p for p in places if p != ("config/study.py", "Study.__post_init__")], order)


def test_a_number_comes_from_its_line_as_the_trace_says(tmp_path: Path) -> None:
    study = shutil.copytree(ROOT / "tests" / "goldens" / "studies" / "schema_4", tmp_path / "s")
    with calls() as order:
        report.main(parse_command("report", [str(study)]))
    assert_in_order(trace("A number of the page back to its line"), order)


@pytest.mark.parametrize("package", sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py")))
def test_a_package_says_what_each_file_is_for(package: str) -> None:
    text = (PACKAGE / package / "__init__.py").read_text("utf-8")
    told = re.findall(r"^- (\w+): ", ast.get_docstring(ast.parse(text)) or "", re.M)
    files = {f.stem for f in (PACKAGE / package).glob("*.py")} - {"__init__"}
    assert set(told) == files and len(told) == len(files)


SAME_IN_EACH_COMMAND = {"main", "parse", "FLAGS"}
WITH_FIGURES = {"Results", "load", "run"}
"""Names of kdtune/search.py, which adds figures to those of the same name below."""


def test_a_public_name_is_defined_in_one_package() -> None:
    packages: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        package = file.relative_to(PACKAGE).parts[0] if file.parent != PACKAGE else ""
        for node in ast.parse(file.read_text("utf-8")).body:
            targets = (
                [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
            )
            names = [target.id for target in targets if isinstance(target, ast.Name)]
            names += [node.name] if isinstance(node, ast.FunctionDef | ast.ClassDef) else []
            for name in names:
                packages.setdefault(name, set()).add(package)
    twice = {n for n, where in packages.items() if len(where) > 1 and not n.startswith("_")}
    assert twice - SAME_IN_EACH_COMMAND == WITH_FIGURES


def imported(file: Path, modules: Collection[str]) -> set[str]:
    """Return the modules that a file imports, also in functions and behind TYPE_CHECKING."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names & set(modules)


def test_no_files_import_each_other_in_a_circle() -> None:
    # kdtune/__init__.py, which is lazy, is left out: whoever imports a file has loaded it before
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts): file
        for file in PACKAGE.rglob("*.py")
        if file.name != "__init__.py"
    }
    graph = {name: imported(file, files) for name, file in files.items()}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle
