"""What is written at the end of a study, from records without training; the rest in test_search."""

import json
import shutil
from pathlib import Path

import pandas as pd
from study_folders import at, draw, make, write_predictions, write_records

import kdtune
from kdtune.config.files import PREDICTIONS, PROVENANCE
from kdtune.raytune.study_folder import finish, write_study
from kdtune.storage.mirror import Mirror
from kdtune.training.run import STUDENT
from kdtune.training.transforms import Transforms


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
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 3), out=str(tmp_path))
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


def test_students_of_another_best_are_not_kept(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path))
    train_of(folder, list(made.trials.trial_id), write_predictions(made))
    finish(folder, Mirror(made.study))
    shutil.rmtree(folder / "trials")
    write_records(folder, {at(1.0, r): [0.9, 0.95, 0.99] for r in range(2)})  # now plain is best
    finish(folder, Mirror(made.study))
    assert students(folder) == {}


def test_transforms_of_the_models_are_kept_and_their_warnings_shown(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    made = make(folder, draw({0.5: 0.05, 1.0: 0.0}, 2), out=str(tmp_path))
    train_of(folder, list(made.trials.trial_id), write_predictions(made))
    views = {"image_size": 28, "eval_crop": 0.875, "eval_interpolation": "bicubic"}
    own = {"size": 24, "channels": None, "mean": [0.3], "std": [0.4], "interpolation": "bilinear"}
    student, other = f"student {made.study.run.student}", "teacher net"
    first = Transforms(views, {student: own | {"crop": 0.9}}, ["net is doubtful"])
    later = Transforms(views, {other: own | {"crop": None}}, ["net is doubtful", "so is this"])
    for transforms in (first, later, None):
        write_study(made.study, {}, transforms)
    record = json.loads((folder / PROVENANCE).read_text())
    assert set(record["models"]) == {student, other} and record["views"] == views
    assert {"versions", "classes", "command"} <= set(record)
    assert kdtune.load(folder).warnings[:2] == ["net is doubtful", "so is this"]
    finish(folder, Mirror(made.study))
    named = json.loads((folder / "students" / "students.json").read_text())
    assert named["preprocessing"] == views | own  # the student's own crop was not used
