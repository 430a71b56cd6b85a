"""A disk that is full: one sentence with its folder, and the study goes on with room.

Needs root: each disk is a tmpfs of the test.
"""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drivers import numbers

import kdtune
from kdtune.config.study import Study
from kdtune.config.text import FolderUnusableError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place])
    if mounted.returncode:
        pytest.skip("mount is not allowed")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_the_disk_of_a_study_is_full(
    taught: Study, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled when the first epoch has been recorded."""
    run = replace(taught.run, epochs=6)
    calm = replace(taught, run=run, space={"alpha": (0.0, 1.0)}, repeats=1, keep="none")
    study = replace(calm, out=str(disk / "runs"))

    def fill_at_once(*_: object) -> None:
        if not (disk / "ballast").exists():
            free = os.statvfs(disk)
            (disk / "ballast").write_bytes(b"x" * (free.f_bavail * free.f_frsize - 6_000))

    with monkeypatch.context() as patch:
        patch.setattr("kdtune.raytune.progress.ProgressDisplay.refresh", fill_at_once)
        with pytest.raises(FolderUnusableError) as full:
            kdtune.run(study)
    said = str(full.value)
    assert f"{study.folder}" in said and "(No space left on device, 0" in said
    assert "make room" in said and "run the same command again to resume" in said
    (disk / "ballast").unlink()
    kdtune.run(study)
    kdtune.run(calm)
    pd.testing.assert_frame_equal(numbers(study.folder), numbers(calm.folder))
