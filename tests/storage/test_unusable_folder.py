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
from kdtune.storage import folder as unusable_folder
from kdtune.storage.folder import FULL, WORDS, Fault, fault_of_driver, faults_said, find_fault

RESUMES = "run the same command again"


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

    monkeypatch.setattr(unusable_folder.tempfile, "TemporaryFile", refuse)
    return numbers


def error(number: int, file: Path | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([] if file is None else [str(file)]))


@pytest.mark.parametrize("number", WORDS, ids=lambda number: errno.errorcode[number])
def test_a_folder_that_takes_no_file_is_named(
    number: int, study: Path, refused: dict[Path, int]
) -> None:
    refused[study] = number
    for raised in (error(number), error(number, study / "trials" / "t" / "x")):
        assert find_fault(raised, study) == Fault(study, number)
        said = str(fault_of_driver(raised, study))
        what, remedy = WORDS[number]
        assert said == f"{study} {what} ({os.strerror(number)}); {remedy}"
        assert RESUMES in said


@pytest.mark.parametrize("number", WORDS, ids=lambda number: errno.errorcode[number])
def test_errors_of_other_files_are_those_of_the_run(number: int, study: Path) -> None:
    """As of the user's data or training function, also without a name and inside the study."""
    for raised in (
        error(number),
        error(number, study.parent / "data" / "1.png"),
        error(number, study / "trials" / "t" / "files" / "mine"),
    ):
        assert find_fault(raised, study) is None
    assert fault_of_driver(error(number), study) is None
    assert fault_of_driver(error(number, study.parent / "data" / "1.png"), study) is None


def test_the_driver_names_a_file_of_the_study_in_a_folder_that_takes_others(study: Path) -> None:
    file = study / "epochs" / "00000.jsonl"
    said = str(fault_of_driver(error(errno.ENOENT, file), study))
    assert said.startswith(f"{file} is gone (No such file or directory); if it was a mount")
    assert "What is left is kept, what is gone is computed again" in said
    wrapped = ValueError("a bug")
    wrapped.__context__ = error(errno.ENOENT, file)
    assert fault_of_driver(wrapped, study) is None  # which deserves its traceback


def test_a_study_that_is_gone(study: Path) -> None:
    study.rmdir()
    for raised in (error(errno.ENOENT, study / "trials" / "x"), error(errno.EIO)):
        assert find_fault(raised, study) == Fault(study, errno.ENOENT)


@pytest.mark.parametrize("number", FULL, ids=lambda number: errno.errorcode[number])
def test_a_full_disk_is_one_of_kdtunes_unless_the_error_names_another(
    number: int, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unusable_folder, "ROOM_BYTES", math.inf)
    assert find_fault(error(number), study) == Fault(study, number)
    of_ray = tmp_path / "tmp" / "kdtune-1" / "ray" / "x"
    assert find_fault(error(number, of_ray), study) == Fault(tmp_path / "tmp", number)
    for mine in (tmp_path / "x", tmp_path / "tmp" / "x"):
        assert find_fault(error(number, mine), study) is None
        said = fault_of_driver(error(number, mine), study)
        assert str(said).startswith(f"the disk of {mine.parent} is full: ")
    said = fault_of_driver(error(number), study)
    assert isinstance(said, FolderUnusableError) and said.exit_code == 1
    assert "is full: " in str(said) and RESUMES in str(said)


def test_a_disk_with_room_is_not_the_one_that_is_full(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a training function writes to a full disk of its own, without the name of the file."""
    monkeypatch.setattr(unusable_folder, "ROOM_BYTES", 0.0)
    assert find_fault(error(errno.ENOSPC), study) is None
    assert fault_of_driver(error(errno.ENOSPC), study) is None
    inside = error(errno.ENOSPC, study / "trials" / "t" / "checkpoint.pt")
    assert find_fault(inside, study) == Fault(study, errno.ENOSPC)  # a part that was deleted


def test_a_place_of_the_users_in_the_temporary_folder_is_not_kdtunes(
    study: Path, refused: dict[Path, int]
) -> None:
    mine = study.parents[1] / "tmp" / "data"
    for folder in (mine, mine.parent):
        refused[folder] = errno.EACCES
        assert find_fault(error(errno.EACCES, mine / "ants" / "1.png"), study) is None
        assert find_fault(error(errno.EACCES), study) is None
    refused[mine.parent] = errno.EROFS
    of_ray = error(errno.EROFS, mine.parent / "kdtune-1" / "ray" / "x")
    assert find_fault(of_ray, study) == Fault(mine.parent, errno.EROFS)


def test_a_relative_folder_that_is_gone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(study.parents[1])
    study.rmdir()
    wrapped = RuntimeError("Tune")
    wrapped.__context__ = error(errno.ENOENT, study / "epochs" / "00000.jsonl")
    said = fault_of_driver(wrapped, Path("runs/s"))
    assert str(said).startswith(f"{study} is gone (No such file or directory); if it was a mount")


def test_an_error_of_a_folder_takes_the_place_of_its_effect(
    study: Path, refused: dict[Path, int]
) -> None:
    with pytest.raises(RuntimeError, match="a bug"), faults_said(study):
        raise RuntimeError("a bug")
    refused[study] = errno.EROFS
    with pytest.raises(FolderUnusableError, match="has become read-only"), faults_said(study):
        raise RuntimeError("of torch") from error(errno.EROFS, study / "teacher" / "x")


def test_what_led_to_an_error_is_looked_at(study: Path, refused: dict[Path, int]) -> None:
    """torch, safetensors and Ray raise errors of their own in place of the system's."""
    refused[study] = errno.EROFS
    of_torch = RuntimeError("unexpected pos 576 vs 534")
    of_torch.__context__ = error(errno.EROFS)
    of_ray = RuntimeError("a task")
    of_ray.cause = error(errno.EROFS)  # type: ignore[attr-defined]
    of_rust = RuntimeError("I/O error: Read-only file system (os error 30)")
    for raised in (of_torch, of_ray, of_rust):
        assert find_fault(raised, study) == Fault(study, errno.EROFS)
    of_ray.cause = of_ray  # type: ignore[attr-defined]
    assert find_fault(of_ray, study) is None


def test_a_sentence_for_the_user_stays(study: Path, refused: dict[Path, int]) -> None:
    refused[study] = errno.EIO
    said = InputError("the image 1.png cannot be read (Input/output error)")
    said.__context__ = error(errno.EIO)
    assert fault_of_driver(said, study) is None


def test_the_question_leaves_nothing(study: Path) -> None:
    assert find_fault(error(errno.EROFS, study / "gone" / "x"), study) is None
    assert list(study.iterdir()) == []
