"""Whatever is written into a study's folder stays in it, and is not every user's to write."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_study import write_small_study

import kdtune
from kdtune.config.files import FOLDERS, atomic_write, check_links, not_writable_by_all
from kdtune.config.text import InputError
from kdtune.deploy.subject import writable
from kdtune.report import ReportFlags
from kdtune.report import main as report
from kdtune.storage.folder import lock_study


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_study(tmp_path_factory.mktemp("runs") / "small").folder


@pytest.fixture
def study(small: Path, tmp_path: Path) -> Path:
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


def test_a_report_replaces_a_link_and_leaves_what_it_leads_to(study: Path, victim: Path) -> None:
    for name in ("report.html", "figures/differences.svg"):
        (study / name).parent.mkdir(exist_ok=True)
        (study / name).symlink_to(victim / "file")
    assert report(ReportFlags(runs=(str(study),))) == 0
    assert not (study / "report.html").is_symlink()
    assert "<html" in (study / "report.html").read_text()
    assert not [path for path in study.rglob("*") if path.is_symlink() or path.suffix == ".part"]


@pytest.mark.parametrize("name", [*FOLDERS, "trials/abc", "tune/tuner.pkl", "teacher/2"])
def test_a_folder_inside_a_study_must_be_no_link(study: Path, victim: Path, name: str) -> None:
    place = study / name
    if place.is_dir():
        shutil.rmtree(place)
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(victim / "file" if name.endswith(".pkl") else victim)
    expected = f"{place} must be no symbolic link, since files would be written to where it leads, "
    with pytest.raises(InputError) as refused:
        report(ReportFlags(runs=(str(study),)))
    if name != "epochs":  # whose records are missing
        assert str(refused.value).startswith(expected + str(victim))
    with pytest.raises(InputError, match="must be no symbolic link"), lock_study(study):
        pass
    if name == "students":
        with pytest.raises(InputError, match="must be no symbolic link"), writable(place):
            pass


def test_a_study_may_itself_be_reached_through_a_link(study: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(study)
    (study / "data.csv").symlink_to(tmp_path / "elsewhere")  # the user's own, not written
    assert report(ReportFlags(runs=(str(link),))) == 0
    with lock_study(link):
        check_links(link)
    assert kdtune.load(link).status == kdtune.load(study).status
    assert link.is_symlink() and (study / "report.html").is_file()


def test_a_lock_is_not_taken_through_a_link(study: Path, victim: Path) -> None:
    """It would be truncated."""
    (study / ".lock").symlink_to(victim / "file")
    with pytest.raises(InputError, match="cannot be written"), lock_study(study):
        pass


def test_a_file_is_written_aside_under_a_name_that_nobody_foresees(tmp_path: Path) -> None:
    names = set()
    for _ in range(3):
        with atomic_write(tmp_path / "file") as part:
            names.add(part.name)
            assert part.stat().st_size == 0 and part.parent == tmp_path
            part.write_text("new")
    assert len(names) == 3 and not any(str(os.getpid()) == n.split(".")[1] for n in names)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_is_every_users_to_write_even_without_a_umask(study: Path) -> None:
    before = os.umask(0)
    try:
        with not_writable_by_all():
            report(ReportFlags(runs=(str(study),)))
            with lock_study(study.parent / "new"):
                (study.parent / "new" / "trials").mkdir()
        assert os.umask(0) == 0  # restored
        with atomic_write(study / "alone") as part:
            part.write_text("")
    finally:
        os.umask(before)
    made = [study / "report.html", study / "alone", *(study / "figures").rglob("*")]
    made += [study / "figures", study.parent / "new", *(study.parent / "new").iterdir()]
    assert {path for path in made if path.stat().st_mode & 0o002} == set()
    assert (study / "report.html").stat().st_mode & 0o777 == 0o664  # the rest is the umask's
