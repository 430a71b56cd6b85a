"""The names that users import, and how modules of kdtune import from each other."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kdtune

PACKAGE = Path(kdtune.__file__).parent


@pytest.mark.parametrize("name", kdtune.__all__)
def test_a_public_name_is_that_of_its_module(name: str) -> None:
    module = import_module(f"kdtune.{kdtune._MODULES[name]}")
    assert getattr(kdtune, name) is getattr(module, name)


def test_the_package_says_that_it_is_typed() -> None:
    """What type checkers see: tests/typed_script.py."""
    assert (PACKAGE / "py.typed").is_file()


def test_other_names_are_errors() -> None:
    with pytest.raises(AttributeError, match="module 'kdtune' has no attribute 'Stduy'"):
        kdtune.Stduy  # noqa: B018


def test_the_names_of_a_configuration_load_neither_torch_nor_pandas() -> None:
    code = (
        "import kdtune, sys; assert 'run' in dir(kdtune); kdtune.Study(run=kdtune.Run());"
        "assert not {'torch', 'ray', 'pandas', 'tyro', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _defined(tree: ast.Module) -> set[str]:
    """The names that a module itself defines at its top."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def test_imports_name_the_module_that_defines() -> None:
    trees = {file: ast.parse(file.read_text()) for file in PACKAGE.rglob("*.py")}
    names = {file: _defined(tree) for file, tree in trees.items()}
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kdtune"):
            place = PACKAGE.parent / str(node.module).replace(".", "/")
            home = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            for alias in node.names:
                is_module = (place / alias.name).is_dir() or (place / f"{alias.name}.py").is_file()
                assert alias.name in names[home] or is_module, f"{node.module}.{alias.name}"
