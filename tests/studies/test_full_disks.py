"""A disk that is full: one sentence with its folder, and the study goes on with room.

Needs root: each disk is a tmpfs of the test.
"""

import os
import subprocess
import sys
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


def fill(disk: Path, left: int) -> None:
    """Fill a disk until only some bytes are left."""
    free = os.statvfs(disk)
    size = free.f_bavail * free.f_frsize - left
    (disk / "ballast").write_bytes(b"x" * size)


def small(study: Study) -> Study:
    study = replace(study, space={"alpha": (0.0, 1.0)}, repeats=1, keep="none")
    return replace(study, run=replace(study.run, epochs=6))


@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_the_disk_of_a_study_is_full(
    taught: Study, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is filled when the first epoch has been recorded."""
    calm = small(taught)
    study = replace(calm, out=str(disk / "runs"))

    def fill_at_once(*_: object) -> None:
        if not (disk / "ballast").exists():
            fill(disk, left=6_000)

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


@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_the_disk_of_the_cache_is_full(
    taught: Study, disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said by the driver, once, and the numbers are the same."""
    calm = small(taught)
    fill(disk, left=40_000)
    study = replace(calm, name="full", cache=str(disk / "cache"))
    kdtune.run(study)
    said = capsys.readouterr().out
    assert said.count(f"the cache folder {disk / 'cache'} cannot be written") == 1
    assert "No space left on device" in said
    kdtune.run(calm)
    pd.testing.assert_frame_equal(numbers(study.folder), numbers(calm.folder))
    assert not list(disk.rglob("*.part"))


BEGIN = """
from kdtune.config.text import InputError
from kdtune.config.study import Study
from kdtune.raytune.session import ray_session
try:
    with ray_session(Study(gpus=0), None):
        print("Ray has begun")
except InputError as error:
    print(error)
"""


def test_the_disk_of_rays_folder_is_full() -> None:
    """Each place of it is: /tmp itself is a small disk, for this process alone."""
    mount = "mount -t tmpfs -o size=4m tmpfs /tmp && exec"
    command = ["unshare", "-m", "sh", "-c", f'{mount} "$@"', "sh", sys.executable, "-c", BEGIN]
    environment = {k: v for k, v in os.environ.items() if k not in ("RAY_TMPDIR", "TMPDIR")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert ended.stdout.startswith(
        "Ray's temporary files need a writable folder with 20 MB of free"
    )
    assert "there are only /tmp (4.19 MB)" in ended.stdout, ended.stderr
    assert ended.stdout.endswith("; make room, or name another folder with TMPDIR\n")
