"""A study's folder: what is written at its end, and which study continues a saved one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from photos import photo, save
from PIL import Image
from s3_service import S3
from study_folders import RUN, at, draw, make, write_predictions, write_records
from whole_predictions import write_whole_predictions

import kdtune
from kdtune.config.files import PREDICTIONS, PROVENANCE, STUDENT, STUDY, THUMBNAILS
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.sources import load_data, load_fashion
from kdtune.raytune.folder import finish, remove_parts, write_study
from kdtune.raytune.identity import check_same, is_moved, merge_with_saved, read_if_saved
from kdtune.results.comparison import Criterion
from kdtune.results.examples import most_different, read_arms
from kdtune.storage.folder import lock_study
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import SavedStudy
from kdtune.training.run import check_study


def train_of(folder: Path, names: list[str], frame: pd.DataFrame) -> None:
    """Stand for the runs: their students and predictions."""
    for name in names:
        own = folder / "trials" / name
        own.mkdir(parents=True)
        (own / STUDENT).write_text(f"weights of {name}")
        frame[frame.trial_id == name].to_parquet(own / PREDICTIONS, index=False)


def students(folder: Path) -> dict[str, str]:
    files = sorted((folder / "students").glob("*.safetensors"))
    return {file.name: file.read_text() for file in files}


def test_what_a_study_has_given_outlives_the_folders_of_its_runs(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 3), out=str(tmp_path), keep="all")
    frame = write_predictions(made)
    train_of(folder, list(made.trials.trial_id), frame)
    (folder / PREDICTIONS).unlink()
    finish(folder, Mirror(made.study))
    want = {f"repeat-{r:02d}.safetensors": f"weights of {at(0.5, r).trial_id}" for r in range(3)}
    assert students(folder) == want
    first = pd.read_parquet(folder / PREDICTIONS)
    assert set(first.trial_id) == set(made.trials.trial_id)

    shutil.rmtree(folder / "trials")
    finish(folder, Mirror(made.study))
    assert students(folder) == want
    pd.testing.assert_frame_equal(pd.read_parquet(folder / PREDICTIONS), first)

    write_records(folder, {at(0.5, 3): [0.1, 0.2, 0.8]})
    more = kdtune.load(folder)
    new = frame[frame.trial_id == at(0.5, 0).trial_id].assign(trial_id=at(0.5, 3).trial_id)
    train_of(folder, [at(0.5, 3).trial_id], new)
    finish(folder, Mirror(made.study))
    want["repeat-03.safetensors"] = f"weights of {at(0.5, 3).trial_id}"
    assert students(folder) == want
    grown = pd.read_parquet(folder / PREDICTIONS)
    assert len(grown) == len(first) + len(new) and set(grown.trial_id) == set(more.trials.trial_id)


def test_a_study_ends_with_thumbnails_of_the_images_that_its_report_shows(tmp_path: Path) -> None:
    """They are made from the data once: another call needs no data."""
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 3), out=str(tmp_path))
    made = write_whole_predictions(made, [str(k) for k in range(10)], 500)
    finish(folder, Mirror(made.study))
    shown = most_different(read_arms(made, Criterion())["val"])
    files = sorted((folder / THUMBNAILS).iterdir())
    assert [file.name for file in files] == [f"val-{i:06d}.png" for i in sorted(shown["image"])]
    images = load_fashion().splits["val"].inputs
    assert isinstance(images, torch.Tensor)
    for file in files:
        want = images[int(file.stem.partition("-")[2]), 0].numpy()
        np.testing.assert_array_equal(np.asarray(Image.open(file)), want)
    (folder / STUDY).write_text((folder / STUDY).read_text().replace('"fashion"', '"gone"'))
    finish(folder, Mirror(made.study))
    assert sorted((folder / THUMBNAILS).iterdir()) == files
    shutil.rmtree(folder / THUMBNAILS)
    finish(folder, Mirror(made.study))
    assert not (folder / THUMBNAILS).exists()


def weights(folder: Path) -> set[str]:
    """Return the runs whose weights are in trials/."""
    return {file.parent.name for file in folder.glob(f"trials/*/{STUDENT}")}


@pytest.mark.parametrize("keep", ["best", "all", "none"])
def test_students_that_are_kept(tmp_path: Path, keep: str) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path), keep=keep)
    every = set(made.trials.trial_id)
    train_of(folder, sorted(every), write_predictions(made))
    for _ in range(2):  # the same command again changes nothing
        finish(folder, Mirror(made.study))
        assert weights(folder) == (every if keep == "all" else set())
        best = {f"repeat-{r:02d}.safetensors": f"weights of {at(0.5, r).trial_id}" for r in (0, 1)}
        assert students(folder) == ({} if keep == "none" else best)
        assert len(list(folder.glob(f"trials/*/{PREDICTIONS}"))) == 4
        assert kdtune.load(folder).warnings == []


def test_a_new_best_whose_students_were_deleted_is_said_with_the_remedy(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path))
    train_of(folder, list(made.trials.trial_id), write_predictions(made))
    finish(folder, Mirror(made.study))
    plain = {at(1.0, r): [0.9, 0.95, 0.99] for r in (1, 2)}  # now it is the best
    write_records(folder, plain)
    new = folder / "trials" / at(1.0, 2).trial_id
    new.mkdir()
    (new / STUDENT).write_text("new")
    before = kdtune.load(folder).warnings  # not finished: the old best is exported
    assert not [w for w in before if w.startswith("the students")]
    finish(folder, Mirror(made.study))
    assert students(folder) == {"repeat-02.safetensors": "new"}
    gone = [at(1.0, r).trial_id for r in (0, 1)]
    (warning,) = (w for w in kdtune.load(folder).warnings if w.startswith("the students"))
    assert "the students of the best configuration of 2 of " in warning
    assert f"--drop {' '.join(gone)}) and repeat" in warning and "--rerun-dropped" in warning


def test_a_store_keeps_the_same_students_and_another_machine_loses_none(
    s3: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "one machine"))
    study = Study(name="made", out=f"s3://kdtune/{tmp_path.name}")
    own = {"name": "made", "out": study.out}
    made = make(study.folder, draw({0.5: 0.05, 1.0: 0.0}, 2), **own)
    train_of(study.folder, list(made.trials.trial_id), write_predictions(made))
    mirror = Mirror(made.study)
    mirror.push("study.json", "trials")
    finish(study.folder, mirror)
    assert mirror.store is not None
    names = mirror.store.names()
    assert not [n for n in names if n.endswith(STUDENT)]
    there = [n for n in names if n.startswith("students/")]
    assert there == [
        *(f"students/repeat-{r:02d}.safetensors" for r in (0, 1)),
        "students/students.json",
    ]

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another machine"))
    new_head = Mirror(made.study)
    new_head.pull("study.json")
    new_head.pull_folders("epochs")
    finish(study.folder, new_head)
    assert mirror.store.names("students") == there
    assert students(study.folder)["repeat-01.safetensors"] == f"weights of {at(0.5, 1).trial_id}"


def test_transforms_of_the_models_are_kept_and_their_warnings_shown(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path))
    train_of(folder, list(made.trials.trial_id), write_predictions(made))
    views = {"image_size": 28, "eval_crop": 0.875, "eval_interpolation": "bicubic"}
    own = {"size": 24, "channels": None, "mean": [0.3], "std": [0.4], "interpolation": "bilinear"}
    student, other = f"student {made.study.run.student}", "teacher net"
    view = {"kind": "images", "shape": [1, 28, 28], "dtype": "uint8"}
    source = {"name": made.study.run.student, "file": "mine.py", "source": "ab", "licence": "mit"}
    once = {"classes": ["a", "b"], "views": views, "input": view}
    first = {"models": {student: own | {"crop": 0.9}}, "warnings": ["net is doubtful"]}
    later = {
        "models": {other: own | {"crop": None}},
        "warnings": ["net is doubtful", "so is this"],
    }
    for provenance in (once | first | {"sources": {student: source}}, once | later, None):
        write_study(made.study, {}, provenance)
    record = json.loads((folder / PROVENANCE).read_text())
    assert set(record["models"]) == {student, other} and record["views"] == views
    assert record["input"] == view and record["sources"] == {student: source}
    assert {"versions", "classes", "command"} <= set(record)
    assert kdtune.load(folder).warnings[:2] == ["net is doubtful", "so is this"]
    finish(folder, Mirror(made.study))
    named = json.loads((folder / "students" / "students.json").read_text())
    assert named["preprocessing"] == views | own  # the student's own crop was not used
    assert named["classes"] == ["a", "b"] and named["input"] == view
    assert named["model"] == source | {"weights": "unknown"}
    assert [one["repeat"] for one in named["students"]] == [0, 1]
    assert named["configuration"]["config_id"] == made.best()


KILLED = """
import os, signal, sys
from pathlib import Path
from kdtune.config.files import atomic_write
with atomic_write(Path(sys.argv[1])) as part:
    part.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_were_writing_is_removed(tmp_path: Path) -> None:
    """But for what other commands may be writing now, and the user's own files."""
    dead = ("study.json", "teacher/1/teacher.json", "trials/t/checkpoint.pt")
    alive = ("report.html", "figures/a.svg", "students/best.onnx", "mine", "teacher/2/teacher.json")
    files = (*dead, "trials/t/files/.kdtune-epochs.json", *alive, "trials/t/files/mine")
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("whole")
    for name in ("study.json", "trials/t/checkpoint.pt"):
        command = [sys.executable, "-c", KILLED, tmp_path / name]
        assert subprocess.run(command).returncode == -signal.SIGKILL
    for name in files:
        (tmp_path / f"{name}.0123abcd.part").write_text("half")
    (tmp_path / "trials/t/files/state.part").touch()
    old = time.time() - 3601
    os.utime(tmp_path / "teacher/1/teacher.json.0123abcd.part", (old, old))
    assert len(list(tmp_path.rglob("*.part"))) == len(files) + 3
    remove_parts(tmp_path)
    left = {str(part.relative_to(tmp_path)) for part in tmp_path.rglob("*.part")}
    kept = {f"{name}.0123abcd.part" for name in (*alive, "trials/t/files/mine")}
    assert left == kept | {"trials/t/files/state.part"}
    assert all((tmp_path / name).read_text() == "whole" for name in files)


RUN = replace(RUN, augment="crop", teacher_lr=0.01)  # a saved study is resolved
OLD = Study(name="old", run=RUN, space={"alpha": (0.1, 0.5, 1)}, repeats=4)
PRINTS = {"data": "d", "teacher": "t", "student": "s"}


def merge(asked: Study, old: Study = OLD) -> tuple[Study, list[str]]:
    """The study that continues the old one, and what is said about it."""
    lines: list[str] = []
    return merge_with_saved(asked, SavedStudy(old, PRINTS), lines.append), lines


def of_run(**values: Any) -> Study:
    return replace(OLD, run=replace(RUN, **values))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (of_run(epochs=10), "epochs: 3 → 10"),
        (replace(OLD, space={"alpha": (0.5, 1)}), "alpha lacks 0.1"),
        (of_run(augment="none"), "augment: crop → none"),
        (replace(OLD, cpus_per_trial=2), "cpus_per_trial: 1 → 2"),
        (replace(OLD, space={"alpha": Range(0.2, 1)}, search="tpe"), "alpha: 0.1, 0.5, 1 → 0.2..1"),
        (of_run(epochs=10, lr=0.1), "lr: 0.05 → 0.1; epochs: 3 → 10"),
        (of_run(teacher_temperature=2), "teacher_temperature: None → 2"),
    ],
)
def test_a_refusal_names_each_field_and_both_ways_out(asked: Study, words: str) -> None:
    with pytest.raises(InputError) as caught:
        merge(asked)
    text = str(caught.value)
    assert text == (
        f"runs/old holds another study ({words}); restore these settings to continue it, or give "
        f"this one another name (--name OTHER) or folder (--out FOLDER)"
    )


@pytest.mark.parametrize(
    ("old", "asked", "refused"),
    [
        (1, {"cpus_per_trial": None}, False),  # both are one thread of a CPU
        (None, {"cpus_per_trial": 1}, False),
        (None, {"cpus_per_trial": 2}, True),
        (None, {"cpus_per_trial": 2, "device": "cuda"}, False),  # a GPU computes
        (1, {"cpus_per_trial": 2, "address": "auto", "gpus": 4}, False),
        (1, {"cpus_per_trial": 2, "address": "auto"}, True),  # perhaps a cluster without GPUs
        (1, {"cpus_per_trial": 2, "address": "auto", "device": "cpu"}, True),
    ],
)
def test_cores_of_a_trial_matter_without_a_gpu_alone(
    old: int | None, asked: dict[str, Any], refused: bool
) -> None:
    before = replace(OLD, cpus_per_trial=old)
    if refused:
        with pytest.raises(InputError, match="cpus_per_trial: 1 → 2"):
            merge(replace(before, **asked), before)
    else:
        merge(replace(before, **asked), before)


@pytest.mark.parametrize(
    "asked",
    [
        OLD,
        replace(OLD, space={"alpha": (0.1, 0.3, 0.5, 1)}, repeats=6),
        of_run(augment=None, teacher_lr=None),  # the recorded values are taken
        of_run(data="/elsewhere", augment="crop", student_weights="/elsewhere/s.safetensors"),
        of_run(lr_step_size=7, dkd_beta=3),  # without effect
        replace(  # with images that have no labels, in further configurations
            OLD,
            run=replace(RUN, extra="more"),
            space={"alpha": (0.1, 0.5, 1), "extra_share": (0.0, 0.5)},
        ),
        replace(OLD, cache="/elsewhere", gpus=0, name="renamed"),
    ],
)
def test_what_continues_a_study(asked: Study) -> None:
    recorded = replace(asked.run, augment="crop", teacher_lr=0.01)
    assert merge(asked) == (replace(asked, run=recorded), [])


def test_images_without_labels_are_compared_by_content() -> None:
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


AUTO = replace(OLD, until_decided=True, budget="90runs", level=0.01)
RANDOM = replace(OLD, search="random", samples=4, plain_share=0.25)


@pytest.mark.parametrize(
    ("asked", "old", "want", "words"),
    [
        (replace(OLD, repeats=2), OLD, OLD, "already has 4 repeats; ignoring --repeats 2"),
        (
            OLD,
            AUTO,
            AUTO,
            "was begun with --repeats auto; continuing with --budget 90runs and --level 0.01",
        ),
        (
            OLD,
            replace(OLD, keep="all"),
            replace(OLD, keep="all"),
            "was begun with --keep all; ignoring --keep best, so that no students are deleted",
        ),
        (replace(OLD, keep="all"), OLD, replace(OLD, keep="all"), ""),
        (OLD, replace(OLD, keep="none"), OLD, ""),
        (
            replace(RANDOM, plain_share=0.5),
            RANDOM,
            RANDOM,
            "was begun with --plain-share 0.25; continuing with it",
        ),
    ],
)
def test_a_saved_value_that_wins_is_said(asked: Study, old: Study, want: Study, words: str) -> None:
    assert merge(asked, old) == (want, [f"runs/old {words}"] * bool(words))


def test_a_flag_wins_over_the_saved_share_without_distillation() -> None:
    given = replace(RANDOM, plain_share=0.5, flags=("plain_share",))
    assert merge(given, RANDOM)[0].plain_share == 0.5


def test_contents_are_compared(tmp_path: Path) -> None:
    study, lines = replace(OLD, out=str(tmp_path)), list[str]()
    check_same(study, None, PRINTS, lines.append)
    check_same(study, SavedStudy(OLD, PRINTS), PRINTS, lines.append)
    assert lines == []
    for name in PRINTS:
        with pytest.raises(
            InputError, match=rf"the {name} .*changed since .*{name[0]} → x.*--name"
        ):
            check_same(study, SavedStudy(OLD, PRINTS), PRINTS | {name: "x"}, lines.append)


def test_what_version_0_1_cannot_tell_is_said() -> None:
    lines: list[str] = []
    saved = SavedStudy(OLD, {"data": "d"})
    moved = of_run(student_weights="/elsewhere/s.pt", teacher_weights="/elsewhere/t.pt")
    old_files = of_run(student_weights="/here/s.pt", teacher_weights="/here/t.pt")
    check_same(moved, SavedStudy(old_files, {"data": "d"}), PRINTS, lines.append)
    assert len(lines) == 1 and "to compare the teacher and the student with" in lines[0]
    with pytest.raises(InputError, match="student_weights: default → none"):
        check_same(of_run(student_weights="none"), saved, PRINTS, lines.append)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A data set of two classes as files."""
    folder = tmp_path / "photos"
    for split, count in (("train", 4), ("val", 2)):
        for number in range(2 * count):
            file = folder / split / "ab"[number % 2] / f"{number}.png"
            save(photo(number + 100 * count, 32, 32), file, grey=True)
    return folder


def test_a_study_goes_on_in_another_folder_with_its_data_elsewhere(
    tmp_path: Path, photos: Path
) -> None:
    """A finished one, renamed, whose data has moved; its data must be the same, byte for byte."""
    run = Run(
        **{"data": str(photos), "image_size": 32, "teacher_epochs": 0, "epochs": 2, "lr": 0.05},
        **{"teacher": "squeezenet1_1", "student": "squeezenet1_1"},
        **{"teacher_weights": "none", "student_weights": "none"},
    )
    study = Study(name="before", out=str(tmp_path / "runs"), run=run, repeats=1)
    with lock_study(study.folder):
        write_study(study, check_study(study, load_data(study.run)))
        curves = {r: [0.5, 0.6] for r in study.runs()}
        write_records(study.folder, curves)
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

    other = Path(shutil.copytree(elsewhere, tmp_path / "other"))
    save(photo(7, 32, 32), other / "val" / "a" / "0.png", grey=True)
    with pytest.raises(InputError, match=rf"the data in {other} has changed since"):
        kdtune.run(replace(moved, run=replace(run, data=str(other))))


def test_a_folder_in_which_no_study_begins_is_removed(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "x"
    with pytest.raises(InputError, match="wrong"), lock_study(folder):
        assert read_if_saved(folder) is None
        with pytest.raises(InputError, match="in use by another process"), lock_study(folder):
            pass
        raise InputError("wrong")
    assert not (tmp_path / "runs").exists()
    make(folder, {0.5: [0.7]})
    with pytest.raises(InputError, match="wrong"), lock_study(folder):
        raise InputError("wrong")
    assert (folder / "study.json").exists()
