"""What is written at the end of a study, from records without training; the rest in test_search."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from s3_service import S3
from study_folders import at, draw, make, write_predictions, write_records
from whole_predictions import write_whole_predictions

import kdtune
from kdtune.config.files import PREDICTIONS, PROVENANCE, STUDENT, STUDY, THUMBNAILS
from kdtune.config.study import Study
from kdtune.data.sources import load_fashion
from kdtune.raytune.folder import finish, remove_parts, write_study
from kdtune.results.comparison import Criterion
from kdtune.results.examples import most_different, read_arms
from kdtune.storage.mirror import Mirror


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


def test_students_of_another_best_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path))
    train_of(folder, list(made.trials.trial_id), write_predictions(made))
    finish(folder, Mirror(made.study))
    shutil.rmtree(folder / "trials")
    write_records(folder, {at(1.0, r): [0.9, 0.95, 0.99] for r in range(2)})  # now plain is best
    finish(folder, Mirror(made.study))
    assert students(folder) == {}


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
