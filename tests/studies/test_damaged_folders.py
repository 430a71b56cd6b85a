"""A folder that loses parts between two calls: the numbers stay the same.

experiments/soak.py damages them while the study runs.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drivers import numbers

import kdtune
from kdtune.config.study import Study
from kdtune.storage.records import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("shared_ray", "one_at_a_time")]


def starts(folder: Path) -> list[str]:
    return [line["trial_id"] for line in read_lines(folder)[0] if line["kind"] == "start"]


def test_what_is_deleted_between_two_calls_is_made_again(study: Study) -> None:
    """The teacher is of the study itself; what is left is kept."""
    study = replace(study, space={"alpha": (0.0, 1.0)}, repeats=1)
    kdtune.run(study)
    folder, expected = study.folder, numbers(study.folder)
    first = starts(folder)
    for name in ("epochs.parquet", "trials.parquet", "summary.md", "predictions.parquet"):
        (folder / name).write_bytes(b"PAR1 damaged")
    for name in ("students", "thumbnails", "tune"):
        shutil.rmtree(folder / name)
    kdtune.run(study)
    assert starts(folder) == first  # nothing is computed again
    pd.testing.assert_frame_equal(numbers(folder), expected)
    assert len(pd.read_parquet(folder / "epochs.parquet")) == len(expected)
    shutil.rmtree(folder / "trials")
    shutil.rmtree(folder / "teacher")
    more = replace(study, repeats=2)
    kdtune.run(more)  # the teacher is made again
    assert starts(folder)[: len(first)] == first and len(starts(folder)) == 2 * len(first)
    again = numbers(folder)
    pd.testing.assert_frame_equal(
        again[again.trial_id.isin(first)].reset_index(drop=True), expected, check_dtype=False
    )
    parts = sorted((folder / "epochs").glob("*.jsonl"))
    parts[0].unlink()  # with the first repeat
    kdtune.run(more)
    pd.testing.assert_frame_equal(numbers(folder), again)
