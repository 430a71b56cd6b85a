"""Studies that are refused, before any work and in a sentence; Ray does not even start."""

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import kdtune
from kdtune.config.study import Study
from kdtune.config.text import InputError


def test_a_driver_holds_the_lock_before_it_reads_the_study(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two drivers that start at once could each write over the other's study.json."""
    study.folder.mkdir(parents=True)

    def read(folder: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(folder / ".lock").acquire(timeout=0)
        raise InputError("read")

    monkeypatch.setattr("kdtune.raytune.folder.read_if_saved", read)
    with pytest.raises(InputError, match="read"):
        kdtune.run(study)
    in_use = pytest.raises(InputError, match="is in use by another process")
    with FileLock(study.folder / ".lock"), in_use:
        kdtune.run(study)
    assert study.folder.exists()  # it was there before


def test_a_place_that_cannot_be_written_or_reached_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/tiny cannot be written .*--out FOLDER"):
        kdtune.run(replace(study, name="tiny", out=str(tmp_path / "file")))
    with pytest.raises(InputError, match=r"got --gpus 4. Use --gpus 0, which runs on the CPUs"):
        kdtune.run(replace(study, gpus=4), ray_init={"num_gpus": 0})
    with pytest.raises(InputError, match=r"no Ray cluster answers at 127.0.0.1:9 .*refused"):
        kdtune.run(replace(study, address="127.0.0.1:9"))
    assert not study.folder.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_images": 5000}, "train_images=5000"),
        ({"teacher": "resnet51"}, "did you mean .*resnet50"),
        ({"student": "squeezenet1_0", "trainable": "head"}, "is not its last operation"),
    ],
)
def test_bad_input_is_said_before_any_work(study: Study, change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        kdtune.run(replace(study, run=replace(study.run, **change)))
    assert not study.folder.exists()
