"""The recipe of a study: what is shown, and where it is said to come from."""

from dataclasses import replace

from tiny_run import TINY

from kdtune.config.cli import parse
from kdtune.config.study import Study
from kdtune.data.sources import StudyData
from kdtune.training.recipe import (
    RecipeRow,
    StudyModels,
    describe_config,
    recipe_rows,
    resolve_study,
)


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
    assert found["teacher_momentum"] == RecipeRow(
        "teacher_momentum", "0.9", "default for random weights"
    )
    assert found["eval_crop"] == RecipeRow("eval_crop", "1", "default for --data fashion")
    given = found["input of kdtune.models:fashion_teacher"]
    assert given.source == "model's own" and "mean 0.286, std 0.353" in given.value
    bare = rows(parse("search", ["--student", "factories:bare_student"]))
    name = "input of factories:bare_student"
    assert bare[name] == RecipeRow(name, "mean 0, std 1", "not known")


def test_what_has_no_effect_is_not_shown() -> None:
    found = rows(parse("search", []))
    hidden = {"dkd_beta", "momentum", "lr_gamma", "samples", "race_level", "teacher_momentum"}
    assert hidden.isdisjoint(found)
    # the value that leaves a run as it is
    off = {"warmup_epochs", "clip_norm", "ema", "label_smoothing", "mixup"}
    assert off.isdisjoint(found)
    given = rows(parse("search", ["--ema", "0", "--clip-norm", "0", "1"]))
    assert (given["ema"].value, given["clip_norm"].value) == ("0", "0, 1")
    as_they_are = rows(Study(run=replace(TINY, teacher_epochs=0)))
    assert "teacher_lr" not in as_they_are and as_they_are["teacher_epochs"].value == "0"


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
