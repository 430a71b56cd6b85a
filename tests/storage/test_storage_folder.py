"""Folders of kdtune's own that can no longer be used, and that stay in their place.

Real disks that fail or become read-only: tests/studies/test_disturbed_studies.py.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from study_folders import write_small_study

import kdtune
from kdtune.config.files import atomic_write, not_writable_by_all
from kdtune.config.text import FolderUnusableError, InputError
from kdtune.report import ReportFlags
from kdtune.report import main as report
from kdtune.storage import folder as module
from kdtune.storage.folder import FULL, describe_folder_fault, folder_faults_described, lock_study


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


@pytest.mark.parametrize("number", (errno.EROFS, errno.ENOENT))
def test_a_folder_that_takes_no_file(number: int, study: Path, refused: dict[Path, int]) -> None:
    """Errors of other files, as of the user's data or training function, are those of the run.

    torch, Ray and safetensors raise errors of their own in place of the system's.
    """
    file, data = study / "trials" / "t" / "x", study.parent / "data" / "1.png"
    of_torch, of_ray = RuntimeError("unexpected pos 576 vs 534"), RuntimeError("a task")
    of_torch.__context__ = of_ray.cause = error(number)  # type: ignore[attr-defined]
    own = (error(number), of_torch, of_ray, RuntimeError(f"I/O error: ... (os error {number})"))
    for raised in (*own, error(number, data), error(number, file.parent / "files" / "a")):
        assert describe_folder_fault(raised, study) is None
    for raised in (error(number), error(number, data)):
        assert in_driver(raised, study) is None
    refused[study] = number
    for raised in (*own, error(number, file)):
        for described in (describe_folder_fault(raised, study), in_driver(raised, study)):
            assert described is not None and described.startswith(f"{sentence(study, number)}); ")
            assert "run the same command again to resume" in described


def test_a_study_that_is_gone(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that was named by a relative path."""
    monkeypatch.chdir(study.parents[1])
    study.rmdir()
    for raised in (error(errno.ENOENT, study / "trials" / "x"), error(errno.EIO)):
        for place in (study, Path("runs/s")):
            described = describe_folder_fault(raised, place)
            assert described is not None and described.startswith(sentence(study, errno.ENOENT))


def test_a_full_disk_is_kdtunes_unless_the_error_names_another(study: Path, tmp_path: Path) -> None:
    of_ray = tmp_path / "tmp" / "kdtune-1" / "ray" / "x"
    for number in FULL:
        for raised, place in ((error(number), study), (error(number, of_ray), tmp_path / "tmp")):
            described = describe_folder_fault(raised, study)
            assert described is not None and described.startswith(sentence(place, number))
            assert "MB are free" in described
        for mine in (tmp_path / "x", tmp_path / "tmp" / "x"):
            assert describe_folder_fault(error(number, mine), study) is None
            described = in_driver(error(number, mine), study)  # which runs no function of users
            assert described is not None and described.startswith(sentence(mine, number))
    inside = error(errno.ENOSPC, study / "trials" / "t" / "checkpoint.pt")
    assert describe_folder_fault(inside, study) is not None  # a part that was deleted


def test_an_error_of_a_folder_stands_for_its_effect(study: Path, refused: dict[Path, int]) -> None:
    with pytest.raises(RuntimeError, match="a bug"), folder_faults_described(study):
        raise RuntimeError("a bug")
    refused[study] = errno.EROFS
    read_only = pytest.raises(FolderUnusableError, match="Read-only")
    with read_only as raised, folder_faults_described(study):
        raise RuntimeError("of torch") from error(errno.EROFS, study / "teacher" / "x")
    assert raised.value.exit_code == 1
    of_input = pytest.raises(InputError, match="the image")
    with of_input, folder_faults_described(study, in_driver=True):
        raise InputError("the image 1.png cannot be read") from error(errno.EIO)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("runs") / "small").folder


@pytest.fixture
def copied(small: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small, tmp_path / "small"))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A folder that must stay as it is."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "file").write_text("precious")
    yield folder
    assert [path.name for path in folder.iterdir()] == ["file"]
    assert (folder / "file").read_text() == "precious"


@pytest.fixture
def no_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    assert os.umask(before) == 0  # restored


@pytest.mark.usefixtures("one_figure")
def test_a_report_replaces_links_and_nothing_of_it_is_every_users_to_write(
    copied: Path, victim: Path, tmp_path: Path, no_umask: None
) -> None:
    """The study itself may be reached through a link."""
    link, new, figures = tmp_path / "link", tmp_path / "new", copied / "figures"
    link.symlink_to(copied)
    (copied / "data.csv").symlink_to(tmp_path / "elsewhere")  # the user's own, not written
    for name in ("report.html", "figures/loss.svg"):
        (copied / name).parent.mkdir(exist_ok=True, mode=0o755)
        (copied / name).symlink_to(victim / "file")
    with not_writable_by_all():
        assert report(ReportFlags(runs=(str(link),))) == 0
        with lock_study(new):
            (new / "trials").mkdir()
    with atomic_write(copied / "alone") as part:
        part.write_text("")
    assert "<html" in (copied / "report.html").read_text()
    assert [path.name for path in copied.rglob("*") if path.is_symlink()] == ["data.csv"]
    assert not list(copied.rglob("*.part"))
    made = [copied / "report.html", copied / "alone", new, *figures.rglob("*"), *new.iterdir()]
    assert {path for path in made if path.stat().st_mode & 0o002} == set()
    assert (copied / "report.html").stat().st_mode & 0o777 == 0o664  # the rest is the umask's
    assert link.is_symlink() and kdtune.load(link).status == kdtune.load(copied).status


def test_a_file_is_written_aside_under_a_name_that_nobody_foresees(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with atomic_write(tmp_path / "file") as part:
            names.add(part.name)
            assert part.parent == tmp_path
            part.write_text("new")
    assert len(names) == 3 and not any(str(os.getpid()) == n.split(".")[1] for n in names)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
