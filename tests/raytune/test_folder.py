"""A study's folder: what is written at its end, and which study continues a saved one."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from photos import photo, save
from PIL import Image
from s3_service import S3
from small_students import PLAIN
from study_folders import RUN, at, draw, make, write_predictions, write_records

import kdtune
from kdtune.config.files import PREDICTIONS, PROVENANCE, STUDENT, STUDY, THUMBNAILS
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.sources import load_data, load_fashion
from kdtune.raytune import folder as study_folder
from kdtune.raytune.folder import check_same, finish, is_moved, read_if_saved, write_study
from kdtune.results.comparison import Criterion
from kdtune.results.examples import most_different, read_arms
from kdtune.storage.folder import lock_study
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import SavedStudy, read_saved
from kdtune.training.run import check_study


def train_of(folder: Path, names: list[str], frame: pd.DataFrame) -> None:
    """Stand for the runs: their students and predictions."""
    for name in names:
        place = folder / "trials" / name
        place.mkdir(parents=True)
        (place / STUDENT).write_text(f"weights of {name}")
        frame[frame.trial_id == name].to_parquet(place / PREDICTIONS, index=False)


def students(folder: Path) -> dict[str, str]:
    files = sorted((folder / "students").glob("*.safetensors"))
    return {file.name: file.read_text() for file in files}


def best_students(repeats: int) -> dict[str, str]:
    """Return the students of alpha 0.5, as `train_of` writes them."""
    names = {f"repeat-{r:02d}.safetensors": at(0.5, r).trial_id for r in range(repeats)}
    return {file: f"weights of {name}" for file, name in names.items()}


@pytest.fixture
def made(tmp_path: Path, without_texts: None) -> kdtune.Results:
    """A study of two configurations and two repeats, of which alpha 0.5 is the better one."""
    folder = tmp_path / "made"
    results = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path))
    train_of(folder, list(results.trials.trial_id), write_predictions(results))
    return results


def test_what_a_study_has_given_outlives_the_folders_of_its_runs(made: kdtune.Results) -> None:
    folder, study = made.folder, replace(made.study, keep="all")
    (folder / STUDY).write_text(study.to_json())
    frame = pd.read_parquet(folder / PREDICTIONS)
    (folder / PREDICTIONS).unlink()
    finish(folder, Mirror(study))
    assert students(folder) == best_students(2)
    weights = {file.parent.name for file in folder.glob(f"trials/*/{STUDENT}")}
    first = pd.read_parquet(folder / PREDICTIONS)
    assert weights == set(first.trial_id) == set(made.trials.trial_id)

    shutil.rmtree(folder / "trials")
    new = frame[frame.trial_id == at(0.5, 0).trial_id].assign(trial_id=at(0.5, 2).trial_id)
    write_records(folder, {at(0.5, 2): [0.1, 0.2, new.correct.mean()]})
    train_of(folder, [at(0.5, 2).trial_id], new)
    finish(folder, Mirror(study))
    assert students(folder) == best_students(3)
    grown = pd.read_parquet(folder / PREDICTIONS)
    assert len(grown) == len(first) + len(new)
    assert set(grown.trial_id) == set(kdtune.load(folder).trials.trial_id)


@pytest.mark.usefixtures("without_texts")
def test_a_study_ends_with_thumbnails_of_the_images_that_its_report_shows(tmp_path: Path) -> None:
    """They are made from the data once: another call needs no data."""
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 3), out=str(tmp_path))
    write_predictions(made, classes=[str(k) for k in range(10)])
    made = kdtune.load(folder)
    finish(folder, Mirror(made.study))
    shown = most_different(read_arms(made, Criterion())["val"])
    images: Any = load_fashion().splits["val"].inputs
    (folder / STUDY).write_text((folder / STUDY).read_text().replace('"fashion"', '"gone"'))
    finish(folder, Mirror(made.study))
    files = {f"val-{number:06d}.png": number for number in shown["image"]}
    assert set(files) == {file.name for file in (folder / THUMBNAILS).iterdir()}
    for name, number in files.items():
        image = np.asarray(Image.open(folder / THUMBNAILS / name))
        np.testing.assert_array_equal(image, images[number, 0].numpy())


@pytest.mark.parametrize("keep", ["best", "none"])
def test_students_that_are_kept(made: kdtune.Results, keep: Any) -> None:
    folder, study = made.folder, replace(made.study, keep=keep)
    (folder / STUDY).write_text(study.to_json())
    for _ in range(2):  # the same command again changes nothing
        finish(folder, Mirror(study))
        assert not list(folder.glob(f"trials/*/{STUDENT}"))
        assert students(folder) == ({} if keep == "none" else best_students(2))
        assert len(list(folder.glob(f"trials/*/{PREDICTIONS}"))) == 4
    assert kdtune.load(folder).warnings == []


def test_a_new_best_whose_students_were_deleted_is_said_with_a_remedy(made: kdtune.Results) -> None:
    folder = made.folder
    finish(folder, Mirror(made.study))
    write_records(folder, {at(1.0, 2): [0.9, 0.95, 0.99]})  # now it is the best
    new = folder / "trials" / at(1.0, 2).trial_id
    new.mkdir()
    (new / STUDENT).write_text("new")
    finish(folder, Mirror(made.study))
    assert students(folder) == {"repeat-02.safetensors": "new"}
    gone = [at(1.0, r).trial_id for r in (0, 1)]
    (warning,) = (w for w in kdtune.load(folder).warnings if w.startswith("the students"))
    assert f"--drop {' '.join(gone)}) and repeat" in warning and "--rerun-dropped" in warning


@pytest.mark.usefixtures("without_texts")
def test_a_store_keeps_the_same_students_and_another_machine_loses_none(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
    study = Study(name="made", out=f"s3://kdtune/{tmp_path.name}")
    made = make(study.folder, draw({0.5: 0.05, 1.0: 0.0}, 2), name="made", out=study.out)
    train_of(study.folder, list(made.trials.trial_id), write_predictions(made))
    mirror = Mirror(made.study)
    mirror.push("study.json", "trials")
    finish(study.folder, mirror)
    assert mirror.store is not None
    assert not [name for name in mirror.store.names() if name.endswith(STUDENT)]
    stored = [f"students/{name}" for name in (*best_students(2), "students.json")]
    assert mirror.store.names("students") == stored

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    new_head = Mirror(made.study)
    new_head.pull("study.json")
    new_head.pull_folders("epochs")
    finish(study.folder, new_head)
    assert mirror.store.names("students") == stored
    assert students(study.folder) == best_students(2)


def test_transforms_of_the_models_are_kept_and_their_warnings_shown(made: kdtune.Results) -> None:
    """Those of an earlier command, too."""
    folder = made.folder
    views = {"image_size": 28, "eval_crop": 0.875, "eval_interpolation": "bicubic"}
    model = {"size": 24, "channels": None, "mean": [0.3], "std": [0.4], "interpolation": "bilinear"}
    student = f"student {made.study.run.student}"
    source = {"name": made.study.run.student, "file": "mine.py", "source": "ab", "licence": "mit"}
    doubt = "net is doubtful"
    data = {"classes": ["a", "b"], "views": views}
    own = {"models": {student: model | {"crop": 0.9}}, "sources": {student: source}}
    teacher = {"models": {"teacher net": model | {"crop": None}}}
    warned = teacher | {"warnings": [doubt, "so is this"]}
    for provenance in (data | own | {"warnings": [doubt]}, data | warned, None):
        write_study(made.study, {}, provenance)
    assert set(json.loads((folder / PROVENANCE).read_text())["models"]) == {student, "teacher net"}
    assert kdtune.load(folder).warnings[:2] == [doubt, "so is this"]
    finish(folder, Mirror(made.study))
    named = json.loads((folder / "students" / "students.json").read_text())
    assert named["preprocessing"] == views | model  # the student's own crop was not used
    assert named["classes"] == ["a", "b"]
    assert named["model"] == source | {"weights": "unknown"}


def test_what_killed_processes_were_writing_is_removed(tmp_path: Path) -> None:
    """But for what other commands may be writing now, and the user's own files."""
    dead = ["study.json", "teacher/1/teacher.json", "trials/t/files/.kdtune-epochs.json"]
    alive = ["report.html", "teacher/2/teacher.json", "figures/a.svg", "trials/t/files/mine"]
    for number, name in enumerate((*dead, *alive)):
        part = tmp_path / f"{name}.0123abcd.part"
        part.parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("whole")
        part.write_text("half")
        if number not in (3, 4):  # written now
            os.utime(part, (time.time() - 3601,) * 2)
    study_folder.remove_parts(tmp_path)
    left = {str(part.relative_to(tmp_path)) for part in tmp_path.rglob("*.part")}
    assert left == {f"{name}.0123abcd.part" for name in alive}
    assert all((tmp_path / name).read_text() == "whole" for name in (*dead, *alive))


RUN = replace(RUN, augment="crop", teacher_lr=0.01)  # a saved study is resolved
OLD = Study(name="old", run=RUN, space={"alpha": (0.1, 0.5, 1)}, repeats=4)
PRINTS = {"data": "d", "teacher": "t", "student": "s"}


def merge(asked: Study, old: Study = OLD) -> tuple[Study, list[str]]:
    """The study that continues the old one, and what is said about it."""
    lines: list[str] = []
    return study_folder.merge_with_saved(asked, SavedStudy(old, PRINTS), lines.append), lines


def of_run(**values: Any) -> Study:
    return replace(OLD, run=replace(RUN, **values))


ONE_CORE = replace(OLD, cpus_per_trial=1)
"""A saved study whose trials have one core each: that matters without a GPU alone."""
CLUSTER = replace(ONE_CORE, cpus_per_trial=2, address="auto")


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (replace(OLD, space={"alpha": (0.5, 1)}), "alpha lacks 0.1"),
        (of_run(augment="none"), "augment: crop → none"),
        (replace(OLD, space=OLD.space | {"train_images": (20, 30)}), "train_images: None → 20, 30"),
        (replace(OLD, space={"alpha": Range(0.2, 1)}, search="tpe"), "alpha: 0.1, 0.5, 1 → 0.2..1"),
        (of_run(epochs=10, lr=0.1), "lr: 0.05 → 0.1; epochs: 3 → 10"),
        (of_run(groups="p[0-9]"), "groups: None → p[0-9]"),
        (replace(OLD, metric="auc"), "metric: val/acc → val/auc"),
        (of_run(teacher_temperature=2), "teacher_temperature: None → 2"),
        (replace(OLD, cpus_per_trial=2), "cpus_per_trial: 1 → 2"),
        (CLUSTER, "cpus_per_trial: 1 → 2"),  # perhaps a cluster without GPUs
        (replace(CLUSTER, device="cpu"), "cpus_per_trial: 1 → 2"),
    ],
)
def test_a_refusal_names_each_field_and_both_ways_out(asked: Study, words: str) -> None:
    with pytest.raises(InputError) as caught:
        merge(asked)
    assert str(caught.value) == (
        f"runs/old holds another study ({words}); restore these settings to continue it, or give "
        f"this one another name (--name OTHER) or folder (--out FOLDER)"
    )


@pytest.mark.parametrize(
    "asked",
    [
        replace(OLD, space={"alpha": (0.1, 0.3, 0.5, 1)}, repeats=6),
        of_run(augment=None, teacher_lr=None, precision="auto"),  # the recorded values are taken
        of_run(data="/elsewhere", augment="crop", student_weights="/elsewhere/s.safetensors"),
        of_run(lr_step_size=7, dkd_beta=3),  # without effect
        # with images that have no labels, in further configurations
        replace(
            OLD, run=replace(RUN, extra="more"), space={**OLD.space, "extra_share": (0.0, 0.5)}
        ),
        replace(OLD, cache="/elsewhere", gpus=0, name="renamed"),
        ONE_CORE,  # both are one thread of a CPU
        replace(OLD, cpus_per_trial=2, device="cuda"),  # a GPU computes
        replace(CLUSTER, gpus=4),
    ],
)
def test_what_continues_a_study(asked: Study) -> None:
    recorded = replace(asked.run, augment="crop", teacher_lr=0.01, precision="fp32")
    assert merge(asked) == (replace(asked, run=recorded), [])


def test_contents_are_compared_in_place_of_paths(capsys: pytest.CaptureFixture[str]) -> None:
    prints = PRINTS | {"extra images": "e"}
    old, moved, rest = (
        of_run(extra=extra, extra_share=0.5, train_images=60) for extra in ("a", "b/c", "rest")
    )
    saved = SavedStudy(old, prints)
    for asked in (moved, rest):
        assert merge(asked, old)[0] == asked
        assert is_moved(asked, saved) and not is_moved(old, saved)
    check_same(moved, saved, prints)
    with pytest.raises(InputError, match="without labels of --extra rest have changed since"):
        check_same(rest, saved, prints | {"extra images": "others"})
    with pytest.raises(InputError, match=r"extra_share: 0\.5 → 0"):
        merge(of_run(train_images=60), old)
    check_same(OLD, SavedStudy(OLD, PRINTS), PRINTS)
    assert capsys.readouterr().out == ""
    for name in PRINTS:
        words = rf"the {name} .*changed since .*{name[0]} → x.*--name"
        with pytest.raises(InputError, match=words):
            check_same(OLD, SavedStudy(OLD, PRINTS), PRINTS | {name: "x"})


RANDOM = replace(OLD, search="random", samples=4, plain_share=0.25)
HALF = replace(RANDOM, plain_share=0.5)
AUTO = replace(OLD, until_decided=True, budget="90runs", level=0.01)


@pytest.mark.parametrize(
    ("asked", "old", "wins", "flags"),
    [
        (replace(OLD, repeats=2), OLD, "old", "--repeats 4"),
        (OLD, AUTO, "old", "--repeats auto --budget 90runs --level 0.01"),
        (OLD, replace(OLD, keep="all"), "old", "--keep all"),
        (replace(OLD, keep="all"), OLD, "asked", ""),
        (OLD, replace(OLD, keep="none"), "asked", ""),
        (HALF, RANDOM, "old", "--plain-share 0.25"),
        (replace(HALF, flags=("plain_share",)), RANDOM, "asked", ""),
    ],
)
def test_a_saved_value_that_wins_is_said(asked: Study, old: Study, wins: str, flags: str) -> None:
    want = old if wins == "old" else asked
    said = f"runs/old was begun with {flags}; continuing with it"
    assert merge(asked, old) == (want, [said] * bool(flags))


@pytest.mark.usefixtures("without_texts")
def test_a_study_goes_on_in_another_folder_with_its_data_elsewhere(tmp_path: Path) -> None:
    """A finished one, renamed, whose data has moved; its data must be the same, byte for byte."""
    photos = tmp_path / "photos"
    for split, count in (("train", 8), ("val", 4)):
        for number in range(count):
            file = photos / split / "ab"[number % 2] / f"{number}.png"
            save(photo(number + 100 * count, 32, 32), file, grey=True)
    net = "factories:photo_student"
    run = replace(PLAIN, data=str(photos), image_size=32, teacher=net, student=net, epochs=2)
    study = Study(name="before", out=str(tmp_path / "runs"), run=run, repeats=1)
    with lock_study(study.folder):
        write_study(study, check_study(study, load_data(study.run)))
        write_records(study.folder, {run: [0.5, 0.6] for run in study.runs()})
    before = kdtune.load(study.folder).trials

    shutil.move(study.folder, tmp_path / "copies" / "after")
    elsewhere = Path(shutil.move(photos, tmp_path / "elsewhere"))
    moved = replace(study, name="after", out=str(tmp_path / "copies"))
    moved = replace(moved, run=replace(run, data=str(elsewhere)))
    saved = read_if_saved(moved.folder)
    assert saved is not None and is_moved(moved, saved)
    after = kdtune.run(moved, ray_init={"no such argument": 1})  # Ray is not even started
    assert after.trials.equals(before)
    again = read_if_saved(moved.folder)
    assert again is not None and again.study.run.data == str(elsewhere)
    assert again.fingerprints == saved.fingerprints and not is_moved(moved, again)

    save(photo(7, 32, 32), elsewhere / "val" / "a" / "0.png", grey=True)
    other = Path(shutil.move(elsewhere, tmp_path / "other"))
    with pytest.raises(InputError, match=rf"the data in {other} has changed since"):
        kdtune.run(replace(moved, run=replace(run, data=str(other))))


# -- a complete study is only read: when, and without torch and Ray --


STORED = Path(__file__).parents[1] / "goldens" / "studies" / "schema_4"
READ = """
import sys
from pathlib import Path
from kdtune.raytune.folder import read_complete
from kdtune.storage.records import read_study
assert read_complete(read_study(Path(sys.argv[1]))).status.startswith("complete")
print(sorted({"torch", "ray", "optuna", "obstore"} & set(sys.modules)))
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
def complete(finished: Path, here: Path) -> Study:
    """A complete study in the current folder."""
    shutil.copytree(finished, here, dirs_exist_ok=True)
    return read_saved(Path("runs") / "schema_4").study


def test_a_complete_study_is_read_without_torch_and_ray(complete: Study) -> None:
    results = study_folder.read_complete(complete)
    assert results is not None and results.verdict() == kdtune.load(complete.folder).verdict()
    words = [sys.executable, "-c", READ, str(complete.folder)]
    done = subprocess.run(words, env=os.environ, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


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
    change: Callable[[Study], Study | None], complete: Study
) -> None:
    assert study_folder.read_complete(change(complete) or complete) is None
