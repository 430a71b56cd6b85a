"""The names that users import."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import kdtune


def test_public_names_are_those_of_their_modules() -> None:
    for name in kdtune.__all__:
        module = import_module(f"kdtune.{kdtune._MODULES[name]}")
        assert getattr(kdtune, name) is getattr(module, name)
    assert (Path(kdtune.__file__).parent / "py.typed").is_file()
    with pytest.raises(AttributeError, match="module 'kdtune' has no attribute 'Stduy'"):
        kdtune.Stduy  # noqa: B018


def test_the_names_of_a_configuration_load_neither_torch_nor_pandas() -> None:
    code = (
        "import kdtune, sys; assert 'run' in dir(kdtune); kdtune.Study(run=kdtune.Run());"
        "assert not {'torch', 'ray', 'pandas', 'tyro', 'optuna'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
