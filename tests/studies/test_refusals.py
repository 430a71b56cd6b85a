"""Studies that are refused, before any work and in a sentence; Ray does not even start."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

import kdtune
from kdtune.config.cli import run_and_exit
from kdtune.config.study import Study
from kdtune.config.text import InputError, LeaseLostError, NodeMismatchError, UserError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.registry import build
from kdtune.models.weights import save_weights
from kdtune.raytune.folder import write_study
from kdtune.raytune.identity import check_same, merge_with_saved, read_if_saved
from kdtune.search import main
from kdtune.streams.views import Resources
from kdtune.training.recipe import resolve_study
from kdtune.training.run import check_study
from kdtune.training.teacher import fine_tune


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
    assert study.folder.exists()  # it was there before


def test_a_study_that_another_process_runs_is_refused(study: Study) -> None:
    study.folder.mkdir(parents=True)
    with (
        FileLock(study.folder / ".lock"),
        pytest.raises(InputError, match="is in use by another process"),
    ):
        kdtune.run(study)


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


def test_more_gpus_than_there_are_is_refused(study: Study) -> None:
    with pytest.raises(InputError, match=r"got --gpus 4. Use --gpus 0, which runs on the CPUs"):
        kdtune.run(replace(study, gpus=4), ray_init={"num_gpus": 0})
    assert not study.folder.exists() and not study.folder.parent.exists()


def test_a_place_that_cannot_be_written_or_reached_is_refused(study: Study, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/tiny cannot be written .*--out FOLDER"):
        kdtune.run(replace(study, name="tiny", out=str(tmp_path / "file")))
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


def merged(study: Study) -> Study:
    """The study as its folder makes it go on."""
    return merge_with_saved(study, read_if_saved(study.folder))


def test_other_weights_under_the_same_name_are_no_study_to_go_on_with(
    study: Study, tmp_path: Path
) -> None:
    file = tmp_path / "student.safetensors"
    run = replace(study.run, student_weights=str(file))
    study = replace(study, run=run, space={"alpha": (0.0, 1.0)}, repeats=1)
    save_weights(build(run.student, "none", 10, seed=1).net, file)
    study.folder.mkdir(parents=True)
    made_of = check_study(resolve_study(study, StudyData(study.run)), load_data(study.run))
    write_study(study, made_of)
    check_same(study, read_if_saved(study.folder), made_of)
    save_weights(build(run.student, "none", 10, seed=2).net, file)
    with pytest.raises(InputError, match=r"the student .* has changed since"):
        kdtune.run(study)
    assert not (study.folder / "trials").exists()


def test_a_study_has_one_teacher(study: Study, tmp_path: Path) -> None:
    study.folder.mkdir(parents=True)
    (study.folder / "study.json").write_text(study.to_json())
    wider = replace(study, run=replace(study.run, batch_size=20))
    merged(replace(wider, space={**study.space, "batch_size": (study.run.batch_size, 20)}))
    other = replace(study, run=replace(study.run, teacher_epochs=2))
    with pytest.raises(InputError, match="teacher_epochs: 1 → 2"):
        merged(other)
    # but it may be given another one besides
    assert merged(replace(study, space={**study.space, "teacher_epochs": (1, 2)}))


def test_a_folder_has_one_teacher(study: Study, teacher_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "teacher")
    (folder / "teacher.json").write_text('{"run": {}, "data": "other"}')
    with pytest.raises(InputError, match="holds another teacher"):
        next(fine_tune(study.run, folder, Resources()))


@pytest.mark.parametrize("name", ["teacher.json", "teacher.safetensors"])
def test_a_damaged_teacher_is_said_before_any_run(
    study: Study, teacher_folder: Path, name: str
) -> None:
    file = shutil.copytree(teacher_folder, study.folder / "teacher") / name
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(InputError, match=r"teacher is damaged \(.*\); remove that folder"):
        kdtune.run(study)
    assert not (study.folder / "trials").exists()
