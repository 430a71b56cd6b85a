"""Names of trackers, their packages, and what is refused before a study starts."""

from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import get_args

import pytest

import kdtune
from kdtune.config import study as trackers
from kdtune.config.cli import parse
from kdtune.config.study import Study, TrackerName
from kdtune.config.text import InputError
from kdtune.tracking.callbacks import CLIENTS


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
