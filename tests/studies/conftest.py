"""A tiny study."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import ray
from tiny_run import TINY

from kdtune.config.study import Study
from kdtune.training.teachers import WEIGHTS


@pytest.fixture(autouse=True)
def ray_is_left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of studies that run share one Ray (`shared_ray`); the others start none."""
    before = "shared_ray" in request.fixturenames or ray.is_initialized()
    yield
    assert ray.is_initialized() == before


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """Three configurations (alpha 0 under mse and kl, plain training) x two repeats."""
    return Study(
        name="tiny",
        out=str(tmp_path / "runs"),
        cache=str(tmp_path / "cache"),
        run=replace(TINY, data="own_data:clothes"),
        space={"alpha": (0.0, 1.0), "loss": ("mse", "kl")},
        repeats=2,
    )


@pytest.fixture
def taught(study: Study, teacher_folder: Path) -> Study:
    """The study with a teacher that is ready."""
    weights = str(teacher_folder / WEIGHTS)
    return replace(study, run=replace(study.run, teacher_weights=weights, teacher_epochs=0))
