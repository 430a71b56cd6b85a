"""The default study, the recipe of teachers, and trackers."""

from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, get_args

import pytest

import kdtune
from kdtune.config import study as trackers
from kdtune.config.cli import parse
from kdtune.config.defaults import describe_teacher_default, fashion, teacher_recipe
from kdtune.config.run import Run
from kdtune.config.study import Study, TrackerName
from kdtune.config.text import InputError
from kdtune.tracking.callbacks import CLIENTS


@pytest.mark.parametrize(
    ("kind", "given", "want"),
    [
        ("pretrained", {}, {"optimizer": "sgd", "lr": 1e-3, "epochs": 10, "batch_norm": "train"}),
        ("pretrained", {"trainable": "head"}, {"lr": 1e-1, "batch_norm": "eval"}),
        ("pretrained", {"optimizer": "adamw"}, {"lr": 1e-4, "weight_decay": 1e-2}),
        ("pretrained", {"trainable": "head", "batch_norm": "train"}, {"batch_norm": "train"}),
        ("random", {}, {"optimizer": "adamw", "lr": 1e-3, "schedule": "onecycle", "epochs": 30}),
        ("random", {"optimizer": "sgd"}, {"lr": 0.1, "weight_decay": 1e-4}),
        ("random", {"optimizer": "nesterov"}, {"lr": 0.1, "weight_decay": 1e-4}),
        ("finished", {}, {"epochs": 0, "optimizer": "sgd"}),
        ("finished", {"epochs": 3}, {"epochs": 3}),
        ("random", {"lr": 0.5, "epochs": 1}, {"lr": 0.5, "epochs": 1}),
    ],
)
def test_recipe(kind: Any, given: dict[str, Any], want: dict[str, Any]) -> None:
    recipe = teacher_recipe(kind, given)
    assert {name: recipe[name] for name in want} == want
    assert all(hasattr(Run(), f"teacher_{name}") for name in recipe)


def test_help_has_the_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    assert describe_teacher_default("lr").startswith("None: 0.001 (sgd, nesterov) or 0.0001 ")
    assert describe_teacher_default("epochs") == (
        "None: 10 for pretrained weights, 30 for random ones, 0 for a finished teacher of kdtune."
    )
    with pytest.raises(SystemExit):
        parse("search", ["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "10 for pretrained weights, 30 for random ones" in shown
    assert "With other --data the default is resnet50." in shown  # of --teacher
    assert "With other --data the default is 0.001." in shown  # of --lr


def test_other_data_have_the_defaults_of_a_run() -> None:
    study = parse("search", ["--data", "photos"])
    assert study == Study(run=Run(data="photos").absolute())
    assert parse("search", []).run == fashion().run


def test_flags_that_were_given() -> None:
    words = ["--lr", "0.1", "--teacher-lr=0.2", "--no-download", "--alpha", "0", "1"]
    assert set(parse("search", words).flags) == {"lr", "teacher_lr", "download", "alpha"}
    assert parse("search", ["--name", "cache"]).flags == ("name",)  # a value is no flag
    assert "flags" not in parse("search", words).to_json()


@pytest.mark.parametrize("command", ["search", "teacher"])
def test_given_weights_replace_the_recipe_of_the_default_study(command: Any) -> None:
    """Its teacher begins with random weights; the recipe of others depends on these."""
    for flag in ("--teacher-weights", "--teacher_weights"):
        run = parse(command, [flag, "runs/other", "--teacher-lr", "0.5"]).run
        assert (run.teacher_epochs, run.teacher_optimizer, run.teacher_lr) == (None, None, 0.5)
    assert parse(command, ["--teacher-lr", "0.5"]).run.teacher_epochs == 20


def test_the_table_of_trackers_has_the_names_of_the_flag() -> None:
    assert set(get_args(TrackerName)) == set(CLIENTS)


def test_several_trackers_by_flag_and_in_python() -> None:
    assert parse("search", ["--tracker", "mlflow", "wandb"]).tracker == ("mlflow", "wandb")
    assert Study(tracker="wandb").tracker == ("wandb",)
    assert parse("search", []).tracker == ()
    assert parse("search", ["--notify", "mail me"]).notify == "mail me"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("mlfow",), "tracker must be one of mlflow, wandb, but got 'mlfow'; did you mean mlflow"),
        (("mlflow", "mlflow"), "tracker must name each tracker once"),
    ],
)
def test_wrong_names_are_refused(names: tuple[str, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        Study(tracker=names)  # type: ignore[arg-type]


def test_the_command_line_lists_the_trackers(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse("search", ["--tracker", "mlfow"])
    assert ended.value.code == 2
    shown = "".join(capsys.readouterr())
    assert "mlflow" in shown and "wandb" in shown


@pytest.mark.parametrize("spec", [None, ModuleSpec("wandb", None)])  # a folder named wandb
def test_a_missing_package_is_named_before_any_work(
    spec: ModuleSpec | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "find_spec", lambda name: spec)
    study = replace(Study(tracker=("wandb",)), out=str(tmp_path / "runs"))
    with pytest.raises(InputError, match=r"needs wandb: pip install 'kdtune\[wandb\]'"):
        kdtune.run(study)
    assert not (tmp_path / "runs").exists()


def test_a_study_with_trackers_is_the_same_study() -> None:
    told = Study(tracker=("mlflow",), notify="mail me")
    assert told == Study() and told.to_json() == Study().to_json()
