"""The wheel and the sdist as a package index would get them, and what pip installs from them.

References: the files of kdtune/ in the checkout, and twine's check of the metadata.
"""

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

import kdtune

ROOT = Path(__file__).parents[2]
MAX_WHEEL_BYTES = 3_000_000

pytestmark = pytest.mark.slow  # half a minute
for tool in ("build", "hatchling", "twine"):
    pytest.importorskip(tool)


class Built(NamedTuple):
    wheel: Path
    sdist: Path


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist of the checkout, and the wheel of that sdist, built without the network."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return Built(wheel, sdist)


def run(*line: object, cwd: Path | None = None) -> str:
    words = [str(word) for word in line]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=250, cwd=cwd, env=clean)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_metadata_are_accepted(built: Built) -> None:
    said = run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built)
    assert said.count("PASSED") == 2


def test_the_wheel_holds_the_package_and_nothing_else(built: Built) -> None:
    info = f"kdtune-{kdtune.__version__}.dist-info"
    licences = ("LICENSE", "kdtune/assets/LICENSE.fashion-mnist")
    of_pip = {f"{info}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    of_pip |= {f"{info}/licenses/{name}" for name in licences}
    of_docs = {"kdtune/reporting/glossary.md"}  # docs/glossary.md, which the report shows
    found = (file for file in (ROOT / "kdtune").rglob("*") if file.is_file())
    files = {str(f.relative_to(ROOT)) for f in found if "__pycache__" not in f.parts}
    members = set(zipfile.ZipFile(built.wheel).namelist())
    assert members == files | of_pip | of_docs and "kdtune/py.typed" in members
    assert built.wheel.stat().st_size < MAX_WHEEL_BYTES


def test_the_wheel_is_installed_into_a_fresh_environment(built: Built, tmp_path: Path) -> None:
    """Its dependencies are those of this environment."""
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "-q", "--no-deps", "--no-index", "--no-compile", built.wheel)
    (packages_folder,) = (venv / "lib").glob("python*/site-packages")
    (packages_folder / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    script = venv / "bin" / "kdtune"
    assert run(script, "--version", cwd=tmp_path) == f"kdtune {kdtune.__version__}\n"
    assert "\n  search " in run(script, cwd=tmp_path)
    packages = run(python, "-c", "import kdtune; print(kdtune.__file__)", cwd=tmp_path)
    site = Path(packages.strip()).parents[1]
    assert site.is_relative_to(venv)
