"""Studies that are disturbed while they run: told to end, on failing disks, or with other images.

Each ends in one sentence, and the same command goes on. experiments/soak.py kills them. Disks need
root: each is an ext4 file system in a file of the test.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from drivers import Driver, check_steady, numbers, wait_until
from own_functions import study_of
from photos import photo, save, save_photos
from soak_processes import below

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import DataChangedError, InputError
from kdtune.storage.records import read_lines

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
AGAIN = "run the same command again"

WAYS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGTERM all", "SIGHUP all", "SIGTERM background")
STARTS, TRAINED = "Ray starts", "runs are trained"
IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
"""As the shell starts `python -m kdtune.search &` in a script."""


@pytest.mark.parametrize(
    ("when", "how"),
    [*((when, how) for when in (STARTS, TRAINED) for how in WAYS), (TRAINED, "SIGINT twice")],
)
def test_a_study_that_is_told_to_end(when: str, how: str, tmp_path: Path) -> None:
    code = IGNORED if "background" in how else ""
    changes = {"space": {"alpha": (0.25, 0.5, 1.0)}, "repeats": 4, "epochs": 8}
    study = study_of("own_functions:steady", tmp_path / "runs", **changes)
    with Driver(study, tmp_path / "d", 0.6, code) as driver:
        starts = when == STARTS
        wait_until(lambda: driver.processes("/gcs_server ") if starts else driver.epochs() > 3)
        name, _, whom = how.partition(" ")
        number = getattr(signal, name)
        if whom == "all":  # also Ray's processes, as a closed terminal, `timeout`, a batch system
            os.killpg(driver.process.pid, number)
        else:
            driver.process.send_signal(number)
        if whom == "twice":
            time.sleep(0.4)
            driver.process.send_signal(number)
        assert driver.wait() == 130, driver.said()
        said = driver.said()
        assert f"{AGAIN} to resume" in said and "Traceback" not in said
        if "all" in how:
            assert "error: " not in said and said.count("So far: ") == (when == TRAINED)
        if when == TRAINED and how in WAYS[:3]:
            assert "So far: " in said
        assert driver.left() == []


needs_disk = pytest.mark.skipif(
    os.geteuid() != 0 or not shutil.which("mkfs.ext4"), reason="needs root and mkfs.ext4"
)


def mount(*words: object) -> None:
    subprocess.run(["mount", "-o", *words], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on an ext4 file system of 64 MB."""
    place, image = tmp_path / "disk", tmp_path / "image"
    place.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    mount("loop", image, place)
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.fixture
def study(disk: Path) -> Study:
    changes = {"space": {"alpha": (0.25, 1.0)}, "repeats": 2, "epochs": 8}
    return study_of("own_functions:steady", disk / "runs", **changes)


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


@needs_disk
def test_a_folder_that_fails_in_mid_study(
    disk: Path, study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after an error of its disk; other errors are described alike (storage)."""
    with Driver(study, tmp_path / "d", 0.6) as driver:
        wait_until(lambda: driver.epochs() >= 3)
        mount("remount,abort", disk)  # as the system does when it finds an error
        said = end_in_a_sentence(driver)
    assert f"{study.folder} cannot be used any more (Read-only file system); " in said
    assert AGAIN in said
    subprocess.run(["umount", disk], check=True)
    mount("loop", tmp_path / "image", disk)  # which replays its journal
    resume(study, tmp_path, monkeypatch)
    ends = [line for line in read_lines(study.folder)[0] if line["kind"] == "end"]
    assert {line["status"] for line in ends} == {"completed"}


@needs_disk
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


@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_an_overwritten_image_stops_the_study_which_goes_on_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four repeats of one configuration; no table of two versions of an image."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    save_photos(tmp_path / "photos", 4)
    nets = {"teacher": "cifar_resnet20", "student": "cifar_resnet20", "student_weights": "none"}
    nets |= {"teacher_weights": "none", "teacher_epochs": 1}
    data = {"data": str(tmp_path / "photos"), "image_size": 24, "batch_size": 8}
    run = Run(**data, **nets, lr=0.01, epochs=2)
    places = {"out": str(tmp_path / "runs"), "cache": str(tmp_path / "cache")}
    study = Study(name="s", run=run, space={"alpha": (0.5,)}, plain_share=0, repeats=4, **places)
    file = tmp_path / "photos" / "train" / "ant" / "2.png"
    content = file.read_bytes()

    def overwrite() -> None:
        wait_until(lambda: any(x["kind"] == "end" for x in read_lines(study.folder)[0]))
        save(photo(99), file)

    with ThreadPoolExecutor(1) as other, pytest.raises(DataChangedError) as caught:
        other.submit(overwrite)
        kdtune.run(study)
    assert f"image files were changed or removed ({file}) while the study ran" in str(caught.value)
    results = kdtune.load(study.folder)
    statuses = list(results.trials.status)
    assert "completed" in statuses and 1 <= statuses.count("failed") < 4
    failed = results.trials[results.trials.status == "failed"]
    assert failed.error.str.contains(f"the image {file} has been changed or removed").all()
    assert str(caught.value) in results.warnings

    with pytest.raises(InputError, match=r"the data in .*photos has changed since"):
        kdtune.run(study)
    file.write_bytes(content)
    assert list(kdtune.run(study).trials.status) == ["completed"] * 4

    undisturbed = replace(study, name="undisturbed", cache=str(tmp_path / "another"))
    kdtune.run(undisturbed)
    pd.testing.assert_frame_equal(numbers(study.folder), numbers(undisturbed.folder))


SOAK = Path(__file__).parents[2] / "experiments" / "soak.py"


@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_soak_of_minutes_finds_no_difference_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    flags = ["--minutes", "3", "--only", "grid,folder", "--out", str(out), "--seed", "1"]
    done = subprocess.run([sys.executable, str(SOAK), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((out / "soak.json").read_text())
    assert values["studies"] and all(sum(s["faults"].values()) for s in values["studies"])
    assert "| differences | 0 |" in (out / "soak.md").read_text()
    assert not [p for p in below(os.getpid()) if str(out) in p.command]
