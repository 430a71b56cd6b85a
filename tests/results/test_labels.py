"""Labels: models by short names, by full ones where two would be alike; both temperatures."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from study_folders import RUN, write_records

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.results.frames import config_label, distinguishing, label_by_config, short_model
from kdtune.results.results import Results


def trials(*students: str) -> pd.DataFrame:
    rows = [{"config_id": name, "config/student": name, "config/alpha": 0.5} for name in students]
    return pd.DataFrame(rows)


def test_short_names() -> None:
    assert short_model("resnet18") == "resnet18"
    assert short_model("timm/tf_efficientnet_lite0") == "tf_efficientnet_lite0"
    assert short_model("my.models:net+timm/vit") == "net+vit"


def test_labels_tell_configurations_apart() -> None:
    names = ["student", "alpha"]
    short = label_by_config(trials("a:small", "a:large"), names)
    assert short == {
        "a:small": "student = small, alpha = 0.5",
        "a:large": "student = large, alpha = 0.5",
    }
    full = label_by_config(trials("a:net", "b:net"), names)
    assert full["b:net"] == "student = b:net, alpha = 0.5" and len(set(full.values())) == 2


def test_an_alpha_close_to_1_is_not_called_1() -> None:
    """alpha = 1 is the baseline."""
    shown = [config_label({"alpha": x}, ["alpha"], prefix="") for x in (0.99997, 1.0, 0.00123456)]
    assert shown == ["alpha = 0.99997", "alpha = 1", "alpha = 0.001235"]


def write(folder: Path, space: dict[str, tuple[float, ...]], run: Run = RUN) -> Results:
    """Write a study with a run of each configuration of a grid; the accuracies rise by 1 point."""
    study = Study(run=run, space=space, repeats=1, out=str(folder), name="two")
    for number, own in enumerate(study.runs()):
        write_records(study.folder, {own: [0.5 + number / 100] * 3})
    (study.folder / "study.json").write_text(study.to_json())
    return kdtune.load(study.folder)


@pytest.mark.parametrize("fixed", [False, True])
def test_both_temperatures_are_shown_as_numbers(fixed: bool, tmp_path: Path) -> None:
    """Equal ones, too: None would read as a teacher that is not softened."""
    space = {"temperature": (4.0,) if fixed else (1.0, 4.0), "teacher_temperature": (1.0, 4.0)}
    results = write(tmp_path, space | {"alpha": (0.5,)})
    given = [(t, own) for t in space["temperature"] for own in space["teacher_temperature"]]
    if fixed:
        labels = {f"alpha = 0.5, teacher T = {own:g}" for _, own in given}
    else:
        labels = {f"alpha = 0.5, T = {t:g}, teacher T = {own:g}" for t, own in given}
    assert set(results.trials.label) == labels | {"alpha = 1"}
    table = results.summary()
    assert len(table) == len(given) + 1
    own = table[table.alpha != 1]
    assert sorted(own.teacher_temperature) == sorted(own for _, own in given)
    assert list(table[table.alpha == 1].teacher_temperature) == ["-"]


def test_a_temperature_that_is_not_searched_is_not_shown_twice(tmp_path: Path) -> None:
    results = write(tmp_path, {"temperature": (1.0, 4.0), "alpha": (0.5,)})
    assert set(results.trials.label) == {"alpha = 0.5, T = 1", "alpha = 0.5, T = 4", "alpha = 1"}
    # also where a folder is read without its study, and all that differs is shown
    names = distinguishing(results.trials, [])
    assert "temperature" in names and "teacher_temperature" not in names
    other = write(tmp_path / "9", {"temperature": (1.0, 9.0)}, replace(RUN, teacher_temperature=9))
    assert "teacher_temperature" in distinguishing(other.trials, [])


def test_sums_are_shown_with_their_weights(tmp_path: Path) -> None:
    space = {"loss": ("kl", "kl+dist"), "loss_weight": (0.5, 2.0), "alpha": (0.5,)}
    assert set(write(tmp_path, space).trials.label) == {
        "alpha = 0.5, loss = kl",
        "alpha = 0.5, loss = kl+dist, loss_weight = 0.5",
        "alpha = 0.5, loss = kl+dist, loss_weight = 2",
        "alpha = 1",
    }
