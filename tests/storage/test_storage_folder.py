"""Folders of kdtune's own that can no longer be used, against what is not their fault.

Real disks that fill up, fail or become read-only: tests/studies/test_full_disks.py and
test_failing_folders.py.
"""

import errno
import math
import os
import tempfile
from pathlib import Path

import pytest

from kdtune.config.text import FolderUnusableError, InputError
from kdtune.storage import folder as module
from kdtune.storage.folder import FULL, describe_folder_fault, folder_faults_described

NUMBERS = (errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ENOENT)


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study's folder, with a temporary folder beside it."""
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    folder = tmp_path / "runs" / "s"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """Folders that take no new file, with the number of the error: root may write anywhere."""
    numbers: dict[Path, int] = {}
    make = tempfile.TemporaryFile

    def refuse(dir: Path) -> object:
        if dir in numbers:
            raise OSError(numbers[dir], os.strerror(numbers[dir]))
        return make(dir=dir)

    monkeypatch.setattr(module.tempfile, "TemporaryFile", refuse)
    return numbers


def error(number: int, file: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if file is None else [str(file)]))


def sentence(place: Path, number: int) -> str:
    return f"{place} cannot be used any more ({os.strerror(number)}"


def in_driver(raised: Exception, study: Path) -> str | None:
    return describe_folder_fault(raised, study, in_driver=True)


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: errno.errorcode[number])
def test_a_folder_that_takes_no_file_is_named(
    number: int, study: Path, refused: dict[Path, int]
) -> None:
    refused[study] = number
    for raised in (error(number), error(number, study / "trials" / "t" / "x")):
        for described in (describe_folder_fault(raised, study), in_driver(raised, study)):
            assert described is not None and described.startswith(f"{sentence(study, number)}); ")
            assert "run the same command again to resume" in described


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: errno.errorcode[number])
def test_errors_of_other_files_are_those_of_the_run(number: int, study: Path) -> None:
    """As of the user's data or training function, also without a name and inside the study."""
    for raised in (
        error(number),
        error(number, study.parent / "data" / "1.png"),
        error(number, study / "trials" / "t" / "files" / "mine"),
    ):
        assert describe_folder_fault(raised, study) is None
    assert in_driver(error(number), study) is None
    assert in_driver(error(number, study.parent / "data" / "1.png"), study) is None


def test_the_driver_names_a_file_of_the_study_in_a_folder_that_takes_others(study: Path) -> None:
    file = study / "epochs" / "00000.jsonl"
    described = in_driver(error(errno.ENOENT, file), study)
    assert described is not None and described.startswith(sentence(file, errno.ENOENT))
    assert "What is left is kept, what is gone is computed again" in described


def test_a_study_that_is_gone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was named by a relative path."""
    monkeypatch.chdir(study.parents[1])
    study.rmdir()
    for raised in (error(errno.ENOENT, study / "trials" / "x"), error(errno.EIO)):
        for place in (study, Path("runs/s")):
            described = describe_folder_fault(raised, place)
            assert described is not None and described.startswith(sentence(study, errno.ENOENT))


@pytest.mark.parametrize("number", FULL, ids=lambda number: errno.errorcode[number])
def test_a_full_disk_is_one_of_kdtunes_unless_the_error_names_another(
    number: int, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM_BYTES", math.inf)
    of_ray = tmp_path / "tmp" / "kdtune-1" / "ray" / "x"
    for raised, place in ((error(number), study), (error(number, of_ray), tmp_path / "tmp")):
        described = describe_folder_fault(raised, study)
        assert described is not None and described.startswith(sentence(place, number))
        assert "MB are free" in described
    for mine in (tmp_path / "x", tmp_path / "tmp" / "x"):
        assert describe_folder_fault(error(number, mine), study) is None
        described = in_driver(error(number, mine), study)  # which runs no function of the user's
        assert described is not None and described.startswith(sentence(mine, number))


def test_a_disk_with_room_is_not_the_one_that_is_full(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training function writes to a full disk of its own, without the name of the file."""
    monkeypatch.setattr(module, "ROOM_BYTES", 0.0)
    assert describe_folder_fault(error(errno.ENOSPC), study) is None
    assert in_driver(error(errno.ENOSPC), study) is None
    inside = error(errno.ENOSPC, study / "trials" / "t" / "checkpoint.pt")
    assert describe_folder_fault(inside, study) is not None  # a part that was deleted


def test_a_place_of_the_users_in_the_temporary_folder_is_not_kdtunes(
    study: Path, refused: dict[Path, int]
) -> None:
    mine = study.parents[1] / "tmp" / "data"
    for folder in (mine, mine.parent):
        refused[folder] = errno.EACCES
        assert describe_folder_fault(error(errno.EACCES, mine / "ants" / "1.png"), study) is None
        assert describe_folder_fault(error(errno.EACCES), study) is None
    of_ray = error(errno.EACCES, mine.parent / "kdtune-1" / "ray" / "x")
    described = describe_folder_fault(of_ray, study)
    assert described is not None and described.startswith(sentence(mine.parent, errno.EACCES))


def test_an_error_of_a_folder_takes_the_place_of_its_effect(
    study: Path, refused: dict[Path, int]
) -> None:
    with pytest.raises(RuntimeError, match="a bug"), folder_faults_described(study):
        raise RuntimeError("a bug")
    refused[study] = errno.EROFS
    with (
        pytest.raises(FolderUnusableError, match="Read-only") as raised,
        folder_faults_described(study),
    ):
        raise RuntimeError("of torch") from error(errno.EROFS, study / "teacher" / "x")
    assert raised.value.exit_code == 1
    with (
        pytest.raises(InputError, match="the image"),
        folder_faults_described(study, in_driver=True),
    ):
        raise InputError("the image 1.png cannot be read") from error(errno.EIO)


def test_what_led_to_an_error_is_looked_at(study: Path, refused: dict[Path, int]) -> None:
    """torch, safetensors and Ray raise errors of their own in place of the system's."""
    refused[study] = errno.EROFS
    of_torch = RuntimeError("unexpected pos 576 vs 534")
    of_torch.__context__ = error(errno.EROFS)
    of_ray = RuntimeError("a task")
    of_ray.cause = error(errno.EROFS)  # type: ignore[attr-defined]
    of_rust = RuntimeError("I/O error: Read-only file system (os error 30)")
    for raised in (of_torch, of_ray, of_rust):
        assert describe_folder_fault(raised, study) is not None
    of_ray.cause = of_ray  # type: ignore[attr-defined]
    assert describe_folder_fault(of_ray, study) is None
    assert list(study.iterdir()) == []
