"""A study over the augmentation: one teacher, and ids that older studies keep."""

from dataclasses import replace
from itertools import product

import pytest

from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.training.recipe import resolve_study
from kdtune.training.teacher import recorded_recipe
from tests.tiny_run import TINY

SPACE = {"augment": ("crop", "trivial", "none"), "alpha": (0.5, 1.0)}


def test_all_augmentations_have_the_same_teacher_in_any_order() -> None:
    study = resolve_study(Study(run=TINY, space=SPACE), StudyData(TINY))
    pairs = {(run.augment, run.alpha) for run in study.runs()}
    assert pairs == set(product(SPACE["augment"], SPACE["alpha"]))
    alone = resolve_study(Study(run=TINY), StudyData(TINY)).run
    recipes = [recorded_recipe(run, load_data(run)) for run in (*study.runs(), alone)]
    assert all(recipe == recipes[0] for recipe in recipes)
    for space in (("none", "crop"), ("trivial", "none")):
        study = resolve_study(Study(run=TINY, space={"augment": space}), StudyData(TINY))
        assert study.run.teacher_augment == "crop"  # as for these data without a search
    run = replace(TINY, teacher_augment="none")
    assert resolve_study(Study(run=run, space=SPACE), StudyData(run)).run.teacher_augment == "none"


def test_the_augmentation_that_a_study_began_with_is_in_no_id() -> None:
    """As before augmentations could be searched: a study that is extended keeps its runs."""
    before = resolve_study(Study(run=TINY, space={"alpha": (0.5, 1.0)}), StudyData(TINY))
    after = resolve_study(Study(run=before.run, space=SPACE), StudyData(TINY))
    old, new = ({run.config_id: run for run in study.runs()} for study in (before, after))
    assert old.keys() <= new.keys() and len(new) == 6
    assert {new[config].augment for config in old} == {"crop"}


def test_augmentations_that_cannot_be_searched_are_refused() -> None:
    with pytest.raises(InputError, match="augment must be one of none, crop, resized-crop, tri"):
        Study(run=TINY, space={"augment": ("crop", "strong")})
    with pytest.raises(InputError, match="among values, but got None"):
        Study(run=TINY, space={"augment": (None, "none")})
    text = replace(TINY, data="own_data:text", teacher="factories:tiny_text", student="factories:x")
    with pytest.raises(InputError, match=r"--augment is for images, but .* got --augment trivial"):
        resolve_study(Study(run=text, space={"augment": ("none", "trivial")}), StudyData(text))
