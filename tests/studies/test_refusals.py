"""Studies that are refused, before any work and in a sentence; Ray does not even start."""

from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import kdtune
from kdtune.config.cli import run_and_exit
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError, NodeMismatchError, UserError
from kdtune.search import main


def test_a_driver_holds_the_lock_before_it_reads_the_study(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else two drivers that start at once could each write over the other's study.json."""
    study.folder.mkdir(parents=True)

    def read(folder: Path) -> None:
        with pytest.raises(Timeout):
            FileLock(folder / ".lock").acquire(timeout=0)
        raise InputError("read")

    monkeypatch.setattr("kdtune.raytune.driver.read_if_saved", read)
    with pytest.raises(InputError, match="read"):
        kdtune.run(study)
    with (
        FileLock(study.folder / ".lock"),
        pytest.raises(InputError, match="is in use by another process"),
    ):
        kdtune.run(study)
    assert study.folder.exists()  # it was there before


@pytest.mark.parametrize(
    ("kind", "code"), [(InputError, 2), (NodeMismatchError, 2), (LeaseLostError, 1)]
)
def test_an_error_that_the_user_can_act_on_is_a_sentence(
    kind: type[UserError],
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(study: Study) -> None:
        raise kind("this cannot be")

    monkeypatch.setattr("kdtune.raytune.driver.run", refuse)
    with pytest.raises(SystemExit) as ended:
        run_and_exit(lambda: main(Study()), resumes=True)
    assert ended.value.code == code and capsys.readouterr().err == "error: this cannot be\n"


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
        ({"data": "no-such-folder"}, "no-such-folder"),
        ({"train_images": 5000}, "train_images=5000"),
        ({"teacher": "resnet51"}, "did you mean .*, resnet50, "),
        ({"student_weights": "gone.safetensors"}, "gone.safetensors"),
        ({"student": "squeezenet1_0", "trainable": "head"}, "is not its last operation"),
    ],
)
def test_bad_input_is_said_before_any_work(study: Study, change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        kdtune.run(replace(study, run=replace(study.run, **change)))
    assert not study.folder.exists()
