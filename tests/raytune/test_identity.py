"""A complete study is only read: when, and without torch and Ray."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

import kdtune
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.raytune.folder import finish, write_study
from kdtune.raytune.identity import read_complete
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_saved

STORED = Path(__file__).parents[1] / "goldens" / "studies" / "schema_4"
READ = """
import sys
from pathlib import Path
from kdtune.raytune.identity import read_complete
from kdtune.storage.records import read_study
assert read_complete(read_study(Path(sys.argv[1]))).status.startswith("complete")
print(sorted({"torch", "ray"} & set(sys.modules)))
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A complete study in the current folder, with all that is written at the end."""
    monkeypatch.chdir(tmp_path)
    folder = Path(shutil.copytree(STORED, Path("runs") / "schema_4"))
    saved = read_saved(folder)
    write_study(saved.study, saved.fingerprints)
    finish(folder, Mirror(saved.study))
    return saved.study


def test_a_complete_study_is_read_without_torch_and_ray(study: Study) -> None:
    results = read_complete(study)
    assert results is not None and results.verdict() == kdtune.load(study.folder).verdict()
    words = [sys.executable, "-c", READ, str(study.folder)]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def delete(name: str) -> Callable[[Study], Study]:
    def change(study: Study) -> Study:
        (study.folder / name).unlink()
        return study

    return change


def add_a_part(study: Study) -> Study:
    (study.folder / "epochs" / "00009.jsonl").write_text("")
    later = (study.folder / "summary.md").stat().st_mtime + 1
    os.utime(study.folder / "epochs" / "00009.jsonl", (later, later))
    return study


CHANGES = {
    "another repeat": lambda study: replace(study, repeats=study.repeats + 1),
    "another value": lambda study: replace(study, space={**study.space, "lr": (0.01, 0.02)}),
    "data elsewhere": lambda study: replace(study, run=replace(study.run, data="elsewhere")),
    "a command to notify": lambda study: replace(study, notify="true"),
    "no summary": delete("summary.md"),
    "no student": delete("students/repeat-01.safetensors"),
    "records after the summary": add_a_part,
    "an earlier form of study.json": lambda study: (
        (study.folder / "study.json").write_text((study.folder / "study.json").read_text() + "\n")
        and study
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_whatever_may_be_left_to_do_is_left_to_the_driver(
    change: Callable[[Study], Study], study: Study
) -> None:
    assert read_complete(change(study)) is None


def test_another_study_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match=r"holds another study \(epochs: \d+ → 9\)"):
        read_complete(replace(study, run=replace(study.run, epochs=9)))
