"""Small studies with their students."""

from dataclasses import replace
from pathlib import Path

import pytest
from small_students import FASHION, TEXT, of_photos, run_here

from kdtune.results.results import Results


@pytest.fixture(scope="session")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studies")


@pytest.fixture(scope="session")
def fashion(studies: Path) -> Results:
    """Grey images of one size; the student is a factory in tests/factories.py."""
    run = replace(FASHION, data="own_data:clothes", augment="crop")
    return run_here(run, studies, "fashion", repeats=3)


@pytest.fixture(scope="session")
def photos(studies: Path) -> Results:
    """Image files; the student is torchvision's."""
    run = of_photos(studies / "images", "shufflenet_v2_x0_5")
    return run_here(run, studies, "photos")


@pytest.fixture(scope="session")
def text(studies: Path) -> Results:
    """Token ids, which are no images."""
    return run_here(TEXT, studies, "text")
