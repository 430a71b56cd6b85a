"""Which study continues a saved one: refusals that name the fields, identity by content.

The refusals are hand-worked; fingerprints are made up, but for a data set that is moved.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from photos import photo, save
from study_folders import RUN, make, write_records

import kdtune
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.sources import clear_cached_data, load_data
from kdtune.raytune.folder import check_same, is_moved, merge_with_saved, read_if_saved, write_study
from kdtune.storage.folder import lock_study
from kdtune.storage.records import SavedStudy
from kdtune.training.run import check_study

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
        (replace(OLD, space={"alpha": (0.3, 1)}), "alpha lacks 0.1, 0.5"),
        (replace(OLD, space={"alpha": (0.1, 0.5)}, plain_share=0), "alpha lacks 1"),
        (of_run(student="resnet34"), "student: resnet18 → resnet34"),
        (of_run(seed=1), "seed: 0 → 1"),
        (of_run(augment="none"), "augment: crop → none"),
        (of_run(train_images=60), "train_images: None → 60"),
        (of_run(teacher_lr=0.1), "teacher_lr: 0.01 → 0.1"),
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


def test_the_size_of_views_of_several_models_is_kept() -> None:
    """It is computed from all models, and the same command does not name it."""
    old = of_run(image_size=24)
    assert merge(OLD, old)[0].run.image_size == 24
    with pytest.raises(InputError, match="image_size: 24 → 32"):
        merge(of_run(image_size=32), old)


def test_a_value_without_effect_is_not_named() -> None:
    old = Study(run=replace(RUN, loss="mse"), space={"alpha": (0.1, 1)})
    other = replace(old, run=replace(old.run, temperature=2, epochs=5))
    with pytest.raises(InputError, match=r"\(epochs: 3 → 5\)"):
        merge(other, old)


def test_a_saved_value_that_wins_is_said() -> None:
    study, lines = merge(replace(OLD, repeats=2))
    assert study == OLD
    assert lines == ["runs/old already has 4 repeats; ignoring --repeats 2"]
    auto = replace(OLD, until_decided=True, budget="90runs", level=0.01)
    study, lines = merge(OLD, auto)
    assert study == auto
    assert lines == [
        "runs/old was begun with --repeats auto; continuing with --budget 90runs and --level 0.01"
    ]


def test_a_temperature_of_the_teacher_that_comes_or_goes_is_named() -> None:
    """None, the temperature itself, is compared with ranges and lists without an error."""
    random = replace(OLD, search="random", samples=4)
    wide = replace(random, space={**OLD.space, "teacher_temperature": Range(1, 8)})
    for one, other, words in ((wide, random, "1..8 → None"), (random, wide, "None → 1..8")):
        with pytest.raises(InputError, match=rf"\(teacher_temperature: {words}\)"):
            merge(other, one)


def test_the_share_without_distillation_stays_unless_a_flag_says_otherwise() -> None:
    old = replace(OLD, search="random", samples=4, plain_share=0.25)
    study, lines = merge(replace(old, plain_share=0.5), old)
    assert study.plain_share == 0.25
    assert lines == ["runs/old was begun with --plain-share 0.25; continuing with it"]
    given = replace(old, plain_share=0.5, flags=("plain_share",))
    assert merge(given, old)[0].plain_share == 0.5


def test_students_that_a_study_has_kept_are_not_deleted() -> None:
    study, lines = merge(OLD, replace(OLD, keep="all"))
    assert study.keep == "all"
    assert lines == [
        "runs/old was begun with --keep all; ignoring --keep best, so that no students are deleted"
    ]
    assert merge(replace(OLD, keep="all")) == (replace(OLD, keep="all"), [])
    assert merge(OLD, replace(OLD, keep="none")) == (OLD, [])


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
    clear_cached_data()
    with pytest.raises(InputError, match=rf"the data in {other} has changed since"):
        kdtune.run(replace(moved, run=replace(run, data=str(other))))


def test_fingerprints_are_in_study_json(tmp_path: Path) -> None:
    study = replace(OLD, out=str(tmp_path))
    with lock_study(study.folder):
        write_study(study, PRINTS)
    values = json.loads((study.folder / "study.json").read_text())
    assert (values["schema"], values["fingerprints"]) == (4, PRINTS)
    provenance = json.loads((study.folder / "provenance.json").read_text())
    assert set(provenance) == {"python", "versions", "command", "machine"}
    saved = read_if_saved(study.folder)
    assert saved is not None and (saved.study, saved.fingerprints) == (study, PRINTS)


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
