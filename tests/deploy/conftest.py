"""Small studies to export students from; each test gets a copy."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from small_students import FASHION, TEXT, of_photos, run_here

pytest.importorskip("onnxruntime", reason="pip install -e '.[dev]' brings onnxruntime")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for studies."""
    return tmp_path_factory.mktemp("exported")


@pytest.fixture(scope="session")
def fashion_made(made: Path) -> Path:
    run = replace(FASHION, alpha=0.5)
    return run_here(run, made, "fashion", repeats=3, space={"alpha": (0.5, 1.0)}).folder


@pytest.fixture(scope="session")
def photos_made(made: Path) -> Path:
    run = replace(of_photos(made / "images", "factories:photo_student"), student_size=40)
    return run_here(run, made, "photos").folder


@pytest.fixture(scope="session")
def text_made(made: Path) -> Path:
    return run_here(TEXT, made, "text", repeats=3).folder


@pytest.fixture
def fashion(fashion_made: Path, tmp_path: Path) -> Path:
    """Grey images of one size; 3 repeats of a distilled configuration and of plain training."""
    return shutil.copytree(fashion_made, tmp_path / "fashion")


@pytest.fixture
def photos(photos_made: Path, tmp_path: Path) -> Path:
    """Image files; views of 48 pixels, which the student shrinks to 40 (bicubic)."""
    return shutil.copytree(photos_made, tmp_path / "photos")


@pytest.fixture
def text(text_made: Path, tmp_path: Path) -> Path:
    """Token ids, which are no images; the student has linear layers alone."""
    return shutil.copytree(text_made, tmp_path / "text")
