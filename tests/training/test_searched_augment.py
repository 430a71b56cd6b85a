"""A study over the augmentation: one teacher, and ids that older studies keep."""

from dataclasses import replace

import pytest

from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.training.recipe import resolve_study
from kdtune.training.teacher import recorded_recipe
from tests.tiny_run import TINY

SPACE = {"augment": ("crop", "trivial", "none"), "alpha": (0.5, 1.0)}


def test_all_augmentations_have_the_same_teacher() -> None:
    study = resolve_study(Study(run=TINY, space=SPACE), StudyData(TINY))
    runs = study.runs()
    assert {(r.augment, r.alpha) for r in runs} == {
        (a, w) for a in SPACE["augment"] for w in (0.5, 1)
    }
    recipes = [recorded_recipe(run, load_data(run)) for run in runs]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert recipes[0]["augment"] == "crop"
    assert (
        recorded_recipe(resolve_study(Study(run=TINY), StudyData(TINY)).run, load_data(TINY))
        == recipes[0]
    )


def test_the_order_of_the_list_does_not_change_the_teacher() -> None:
    for space in (("none", "crop"), ("trivial", "none")):
        study = resolve_study(Study(run=TINY, space={"augment": space}), StudyData(TINY))
        assert study.run.teacher_augment == "crop"  # as for these data without a search
    own = replace(TINY, teacher_augment="none")
    assert resolve_study(Study(run=own, space=SPACE), StudyData(own)).run.teacher_augment == "none"


def test_data_that_are_no_images_have_no_augmentation() -> None:
    run = replace(TINY, data="own_data:text", teacher="factories:tiny_text", student="factories:x")
    with pytest.raises(InputError, match=r"--augment is for images, but .* got --augment trivial"):
        resolve_study(Study(run=run, space={"augment": ("none", "trivial")}), StudyData(run))


def test_the_augmentation_that_a_study_began_with_is_in_no_id() -> None:
    """As before augmentations could be searched: a study that is extended keeps its runs."""
    before = resolve_study(Study(run=TINY, space={"alpha": (0.5, 1.0)}), StudyData(TINY))
    after = resolve_study(Study(run=before.run, space=SPACE), StudyData(TINY))
    old, new = ({run.config_id: run for run in study.runs()} for study in (before, after))
    assert old.keys() <= new.keys() and len(new) == 6
    assert {new[config].augment for config in old} == {"crop"}


def test_a_range_of_augmentations_and_an_unknown_one_are_refused() -> None:
    with pytest.raises(
        InputError, match="augment must be one of none, crop, resized-crop, trivial"
    ):
        Study(run=TINY, space={"augment": ("crop", "strong")})
    with pytest.raises(InputError, match="augment must be one of"):
        replace(TINY, augment="strong")
    with pytest.raises(InputError, match="among values, but got None; leave None out"):
        Study(run=TINY, space={"augment": (None, "none")})
