"""Studies whose folder fails while they run: one sentence, and the same command goes on.

Needs root: each disk is an ext4 file system in a file of the test.
"""

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from disks import Disk, why_not
from drivers import Driver, check_steady, recomputed_epochs, wait_until
from own_functions import study_of

from kdtune.config.study import Study
from kdtune.storage.records import read_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(why_not() is not None, reason=str(why_not())),
]
AGAIN = "run the same command again"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with Disk(tmp_path) as disk:
        yield disk


@pytest.fixture
def study(disk: Disk) -> Study:
    changes = {"space": {"alpha": (0.25, 1.0)}, "repeats": 2, "epochs": 8}
    return study_of("own_functions:steady", disk.place / "runs", **changes)


def resume(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the same command again, which completes the study; return what it has printed."""
    with Driver(study, tmp_path / "d", 0.6) as driver:
        assert driver.wait() == 0, driver.said()
    check_steady(study, tmp_path, monkeypatch)
    return driver.said()


def end_in_a_sentence(driver: Driver) -> str:
    """Return the sentence with which a driver ends; nothing else of it may be left or printed."""
    assert driver.wait() == 1, driver.said()
    said = driver.said()
    assert driver.left() == []
    assert "Traceback" not in said and said.count("error: ") == 1, said
    return said.partition("error: ")[2].strip()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (Disk.become_read_only, "cannot be used any more (Read-only file system); "),
        (Disk.fail, "cannot be used any more (Input/output error); "),
    ],
    ids=["read-only", "failing"],
)
def test_a_folder_that_fails_in_mid_study(
    spoil: Callable[[Disk], None],
    words: str,
    disk: Disk,
    study: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Driver(study, tmp_path / "d", 0.6) as driver:
        wait_until(lambda: driver.epochs() >= 3)
        spoil(disk)
        said = end_in_a_sentence(driver)
    assert f"{study.folder} {words}" in said and AGAIN in said
    disk.mend()
    resume(study, tmp_path, monkeypatch)
    ends = [line for line in read_lines(study.folder)[0] if line["kind"] == "end"]
    assert {line["status"] for line in ends} == {"completed"}


@pytest.mark.parametrize("gone", ["epochs", "study.json", "."])
def test_parts_of_the_folder_are_deleted_in_mid_study(
    gone: str, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is kept: without study.json nothing is computed again."""
    with Driver(study, tmp_path / "d", 0.6) as driver:
        wait_until(lambda: driver.epochs() >= 3)
        if gone == "study.json":
            (study.folder / gone).unlink()
        else:
            shutil.rmtree(study.folder / gone, ignore_errors=True)  # trials write meanwhile
        said = end_in_a_sentence(driver)
    assert str(study.folder) in said and "(No such file or directory)" in said
    assert AGAIN in said
    said = resume(study, tmp_path, monkeypatch)
    if gone == "study.json":
        assert "has records but no study.json" in said
        starts = [line["trial_id"] for line in read_lines(study.folder)[0] if "config" in line]
        assert len(starts) == 4


def test_a_silent_mount_is_waited_for(
    disk: Disk, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Driver(study, tmp_path / "d", 0.6) as driver:
        wait_until(lambda: driver.epochs() >= 3)
        with disk.frozen():
            time.sleep(20)
        assert driver.wait() == 0, driver.said()
        said = driver.said()
    assert "Traceback" not in said, said
    assert not any(recomputed_epochs(study.folder).values())
    check_steady(study, tmp_path, monkeypatch)
