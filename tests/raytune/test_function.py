"""A trial of a training function, here without Ray: its reports are caught."""

import linecache
import runpy
import shutil
from pathlib import Path
from typing import Any

import own_functions
import pandas as pd
import pytest
from own_functions import study_of
from s3_service import S3

from kdtune.raytune.function import function_epochs, run_trial
from kdtune.raytune.machines import fingerprints_of
from kdtune.storage.records import unpack_correct
from kdtune.storage.store import Store


def epochs_of(reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [epoch for report in reports for epoch in report["epochs"]]


def test_an_array_is_its_mean_and_is_kept_per_example(
    tmp_path: Path, reports: list[dict[str, Any]]
) -> None:
    study = study_of(own_functions.wave, tmp_path, epochs=3)
    run_trial(function_epochs, {"alpha": 0.5, "repeat": 1}, study)
    assert reports[-1]["error"] is None
    found = epochs_of(reports)
    assert [e["splits"]["val"]["acc"] for e in found] == [5 / 8, 6 / 8, 7 / 8]
    assert [e["splits"]["val"]["n_examples"] for e in found] == [8] * 3
    assert found[0]["splits"]["test"] == {"n_examples": None, "acc": 0.5}
    run = study.base_run.sample(alpha=0.5, repeat=1)
    frame = pd.read_parquet(study.folder / "trials" / run.trial_id / "predictions.parquet")
    assert frame.acc.tolist() == [1.0] * 7 + [0.0] and set(frame.split) == {"val"}
    assert "correct" not in found[1]
    right = unpack_correct({**found[2]["splits"]["val"], "correct": found[2]["correct"]})
    assert right is not None and right.tolist() == [True] * 7 + [False]


def test_generators_are_seeded_by_the_repeat(tmp_path: Path, reports: list[dict[str, Any]]) -> None:
    """Here without a plan of epochs: the trial ends when its function does."""
    study, noise = study_of(own_functions.wave, tmp_path), []
    for alpha, repeat in ((0.5, 1), (1.0, 1), (0.5, 2), (0.5, 1)):
        run_trial(function_epochs, {"alpha": alpha, "repeat": repeat}, study)
        noise.append(epochs_of(reports)[-1]["splits"]["val"]["noise"])
    assert noise[0] == noise[1] == noise[3] != noise[2]
    assert reports[-1]["error"] is None and len(epochs_of(reports)) == 4 * 3


ONLY = 'InputError: metric must be "val/NAME" with a NAME of letters, digits and _, '


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("raises", "RuntimeError: no more data"),
        ("nothing", "ValueError: train yielded nothing, but must yield a dict of metrics"),
        ("nan", "Diverged: val/acc is nan in epoch 0"),
        ("no score", "ValueError: train must yield val/acc in each epoch, but yielded ['val/loss"),
        ("no split", "ValueError: a metric must be named train/NAME, val/NAME or test/NAME, not"),
        ("lengths", "ValueError: arrays of val must have one value per example each"),
        ("percent", "ValueError: val/acc must be a share in [0, 1], as kdtune's acc is, but is 81"),
        ("reserved", ONLY),
        ("exits", "InputError: train ended: it calls sys.exit(0) ("),
        ("control", ONLY),
        ("short", "ValueError: train yielded 1 epochs, but there are 3"),
        ("soft", "ValueError: val/acc must be 0 or 1 for each example"),  # for the test of auto
    ],
)
def test_what_a_function_does_wrong_is_said(
    tmp_path: Path, reports: list[dict[str, Any]], kind: str, message: str
) -> None:
    own = {"epochs": 3, "space": {"kind": (kind,)}, "baseline": {}}
    study = study_of(own_functions.failing, tmp_path, **own)
    if kind == "soft":
        auto = {"until_decided": True, "budget": "9runs", "policy": "race", "epochs": 1}
        study = study_of(own_functions.soft, tmp_path, **auto)
    run_trial(function_epochs, {"kind": kind, "alpha": 0.5, "repeat": 0}, study)
    assert reports[-1]["error"].startswith(message) and len(reports[-1]["error"]) < 5000
    assert list(study.folder.glob("trials/*/error.txt"))


@pytest.mark.parametrize("name", ["state", "done"])
def test_files_of_epochs_that_were_never_heard_of_are_deleted(
    tmp_path: Path, reports: list[dict[str, Any]], name: str
) -> None:
    """A state that is ahead of its epochs, or of a trial that was complete and then dropped."""
    study = study_of(own_functions.saves_too_early, tmp_path, epochs=2)
    run = study.base_run.sample(alpha=0.5, repeat=0)
    folder = study.folder / "trials" / run.trial_id / "files"
    folder.mkdir(parents=True)
    (folder / name).touch()
    run_trial(function_epochs, {"alpha": 0.5, "repeat": 0}, study)
    assert reports[-1]["error"] is None
    assert [epoch["number"] for epoch in epochs_of(reports)] == [0, 1]
    assert not folder.exists()  # nothing of the user's is in it


def test_the_files_of_a_trial_travel_through_the_store(
    s3: S3, tmp_path: Path, reports: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one machine has written is there on another one; the log of epochs is not kept."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    study = study_of(own_functions.stops_once, f"s3://kdtune/{tmp_path.name}", epochs=3)
    sample = {"alpha": 0.5, "repeat": 0}
    run_trial(function_epochs, sample, study)
    assert reports[-1]["error"] == "RuntimeError: once" and len(epochs_of(reports)) == 2
    shutil.rmtree(study.folder)  # another machine
    reports.clear()
    run_trial(function_epochs, sample, study)
    assert reports[-1]["error"] is None
    assert [e["splits"]["val"]["began"] for e in epochs_of(reports)] == [0, 0, 2]
    place = f"trials/{study.base_run.sample(**sample).trial_id}"
    kept = Store(str(study.uri)).names(place)
    assert f"{place}/files/state.json" in kept and not any("kdtune-epochs" in n for n in kept)


def test_the_fingerprint_of_a_script_is_of_all_that_its_function_needs(tmp_path: Path) -> None:
    def of(helper: str, comment: str = "") -> str:
        text = (
            f"{comment}\ndef helper(x):\n    return {helper}\n"
            "def train(config, repeat):\n    yield {'val/acc': helper(config['alpha'])}\n"
        )
        (tmp_path / "script.py").write_text(text)
        linecache.clearcache()
        train = runpy.run_path(str(tmp_path / "script.py"))["train"]
        return fingerprints_of(study_of(train, tmp_path), None)

    assert of("x") == of("x", "# a comment elsewhere") != of("x / 2")
