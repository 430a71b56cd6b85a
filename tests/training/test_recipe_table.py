"""The recipe of a study: what is shown, where it is said to come from, and what depends on it."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from factories import tiny_student
from tiny_run import TINY

from kdtune.config.cli import parse
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import StudyData, load_data
from kdtune.models.weights import save_weights
from kdtune.raytune.distillation import prepare
from kdtune.training.recipe import (
    RecipeRow,
    StudyModels,
    describe_config,
    recipe_rows,
    resolve_study,
)
from kdtune.training.teachers import recorded_recipe


def rows(asked: Study, saved: Study | None = None) -> dict[str, RecipeRow]:
    return {row.setting: row for row in table_of(asked, asked, saved)}


def table_of(asked: Study, merged: Study, saved: Study | None) -> list[RecipeRow]:
    data = StudyData(asked.run)
    study, own = resolve_study(merged, data), data.of(asked.run)
    return recipe_rows(asked, study, saved, own, StudyModels.of(study, own))


def test_sources_on_the_command_line() -> None:
    words = ["--alpha", "0", "0.5", "--batch-size", "64", "--teacher-optimizer", "sgd"]
    found = rows(parse("search", words))
    assert found["alpha"] == RecipeRow("alpha", "0, 0.5", "flag")
    assert found["batch_size"].source == "flag"  # also where it is the default
    assert found["lr"] == RecipeRow("lr", "0.02", "default for --data fashion")
    assert found["loss"] == RecipeRow("loss", "kl", "default")
    momentum = RecipeRow("teacher_momentum", "0.9", "default for random weights")
    assert found["teacher_momentum"] == momentum
    assert found["eval_crop"] == RecipeRow("eval_crop", "1", "default for --data fashion")
    given = found["input of kdtune.models:fashion_teacher"]
    assert given.source == "model's own" and "mean 0.286, std 0.353" in given.value


def test_what_has_no_effect_is_not_shown() -> None:
    words = ["--student", "factories:bare_student", "--ema", "0", "--clip-norm", "0", "1"]
    found = rows(parse("search", words))
    name = "input of factories:bare_student"
    assert found[name] == RecipeRow(name, "mean 0, std 1", "not known")
    hidden = {"dkd_beta", "momentum", "lr_gamma", "samples", "race_level", "teacher_momentum"}
    assert hidden.isdisjoint(found)
    # the value that leaves a run as it is, unless it was given
    assert {"warmup_epochs", "label_smoothing", "mixup"}.isdisjoint(found)
    assert (found["ema"].value, found["clip_norm"].value) == ("0", "0, 1")
    as_they_are = rows(Study(run=replace(TINY, teacher_epochs=0)))
    assert "teacher_lr" not in as_they_are and as_they_are["teacher_epochs"].value == "0"
    small = rows(Study(run=replace(TINY, image_size=20, student_size=24, teacher_size=16)))
    sizes = [small[f"input of {name}"].value[:8] for name in (TINY.student, TINY.teacher)]
    assert sizes == ["size 20 ", "size 16 "]


def test_weights_for_other_classes_are_said_but_not_those_of_imagenet(tmp_path: Path) -> None:
    file, data = tmp_path / "weights.safetensors", StudyData(TINY)
    study = resolve_study(Study(run=replace(TINY, student_weights=str(file))), data)
    for classes, count in ((7, 1), (10, 0), (1000, 0)):
        save_weights(tiny_student(classes), file)
        prepared = prepare(study, study, None, data)
        said = [text for text in prepared.warnings if "for 7 classes, but the data has 10" in text]
        assert len(said) == count and set(said) <= set(prepared.provenance["warnings"])


def test_sources_in_python_and_of_a_saved_study() -> None:
    study = Study(run=replace(TINY, lr=0.3), repeats=2)
    found = rows(study)
    assert found["lr"].source == found["repeats"].source == "experiment"
    merged = replace(study, repeats=5, run=replace(study.run, teacher_trainable="head"))
    saved = resolve_study(merged, StudyData(study.run))
    sources = {row.setting: row.source for row in table_of(study, merged, saved)}
    assert sources["repeats"] == sources["teacher_trainable"] == "saved study"


def test_the_configuration_of_one_run_has_what_differs_from_neutral() -> None:
    run = resolve_study(Study(run=replace(TINY, lr=0.25, ema=0.9, alpha=0.5)), StudyData(TINY)).run
    pairs = dict(pair.split(" ") for pair in describe_config(run).split(", "))
    assert {"student", "clip_norm", "dkd_beta", "lr_gamma"}.isdisjoint(pairs)
    assert {"lr": "0.25", "ema": "0.9", "alpha": "0.5", "loss": "kl"}.items() <= pairs.items()
    assert "loss" not in describe_config(replace(run, alpha=1.0))


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
