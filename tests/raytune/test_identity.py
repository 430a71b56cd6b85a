"""A complete study is only read: when, and without torch and Ray."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path

import pytest

import kdtune
from kdtune.config.study import Study
from kdtune.raytune.folder import finish, read_complete, write_study
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_saved

STORED = Path(__file__).parents[1] / "goldens" / "studies" / "schema_4"
READ = """
import sys
from pathlib import Path
from kdtune.raytune.folder import read_complete
from kdtune.storage.records import read_study
assert read_complete(read_study(Path(sys.argv[1]))).status.startswith("complete")
print(sorted({"torch", "ray"} & set(sys.modules)))
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with a complete study and all that is written at the end."""
    place = tmp_path_factory.mktemp("finished")
    with chdir(place):
        folder = Path(shutil.copytree(STORED, Path("runs") / "schema_4"))
        saved = read_saved(folder)
        write_study(saved.study, saved.fingerprints)
        finish(folder, Mirror(saved.study))
    return place


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A complete study in the current folder."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return read_saved(Path("runs") / "schema_4").study


def test_a_complete_study_is_read_without_torch_and_ray(study: Study) -> None:
    results = read_complete(study)
    assert results is not None and results.verdict() == kdtune.load(study.folder).verdict()
    words = [sys.executable, "-c", READ, str(study.folder)]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def rewrite(study: Study) -> None:
    file = study.folder / "study.json"
    file.write_text(file.read_text() + "\n")


def add_a_part(study: Study) -> None:
    file = study.folder / "epochs" / "00009.jsonl"
    file.write_text("")
    later = (study.folder / "summary.md").stat().st_mtime + 1
    os.utime(file, (later, later))


CHANGES = {
    "another repeat": lambda study: replace(study, repeats=study.repeats + 1),
    "another value": lambda study: replace(study, space={**study.space, "lr": (0.01, 0.02)}),
    "data elsewhere": lambda study: replace(study, run=replace(study.run, data="elsewhere")),
    "a command to notify": lambda study: replace(study, notify="true"),
    "no summary": lambda study: (study.folder / "summary.md").unlink(),
    "no student": lambda study: (study.folder / "students/repeat-01.safetensors").unlink(),
    "records after the summary": add_a_part,
    "an earlier form of study.json": rewrite,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_may_be_left_to_do_is_left_to_the_driver(
    change: Callable[[Study], Study | None], study: Study
) -> None:
    assert read_complete(change(study) or study) is None
