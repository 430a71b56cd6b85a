"""Two studies that run at the same time on one cache have the numbers of each alone."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drivers import Driver

import kdtune
from kdtune.config.study import Study

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run_at_once(*studies: Study) -> list[pd.DataFrame]:
    """Run studies, each by a driver with a Ray of its own; return the metrics of their trials."""
    with ExitStack() as stack:
        begun = [
            stack.enter_context(Driver(own, Path(own.out) / f"driver of {own.name}"))
            for own in studies
        ]
        for driver in begun:
            assert driver.wait(600) == 0, driver.said()
    every = [kdtune.load(study.folder).trials.sort_values("trial_id") for study in studies]
    assert all(set(trials.status) == {"completed"} for trials in every)
    return [trials[["trial_id", *(c for c in trials if "@" in c)]] for trials in every]


def test_two_studies_at_once_on_one_cache(taught: Study, tmp_path: Path) -> None:
    """Both build the same streams, of augmented images and the teacher; the cache is empty."""
    run = replace(taught.run, epochs=20)
    one = replace(taught, run=run, name="one", space={"alpha": (0.0, 0.5)}, gpus=0)
    other = replace(one, name="other", space={"lr": (0.01, 0.003), "alpha": (0.0,)})
    together = run_at_once(one, other)
    for study, expected in zip((one, other), together, strict=True):
        cache, out = tmp_path / f"cache of {study.name}", tmp_path / "alone"
        (alone,) = run_at_once(replace(study, cache=str(cache), out=str(out)))
        pd.testing.assert_frame_equal(alone, expected, check_exact=True)
