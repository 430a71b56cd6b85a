"""Studies sent to Weights & Biases in its offline mode, read back from the files it writes."""

from collections.abc import Iterator
from pathlib import Path
from threading import Event

import pytest
import study_folders as folders
from wandb_files import read_runs

import kdtune
from kdtune.config.study import Study
from kdtune.track import TrackFlags, main
from kdtune.tracking.sync import Sync

pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let wandb write below the test's folder; it reads the variables once in a process."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield
    wandb.teardown()


def send(folder: Path, study: Study) -> None:
    over = Event()
    over.set()
    assert Sync("wandb", study, folder, print).follow(over, lambda: None)


def test_a_study_is_grouped_by_configuration(tmp_path: Path) -> None:
    fates = {(0.5, 1): "failed", (1.0, 1): "pruned"}
    results = folders.make(tmp_path / "runs", {0.5: [0.75, 0.5], 1.0: [0.5, 0.25]}, fates)
    assert main(TrackFlags(str(results.folder), ("wandb",))) == 0
    runs = {run["name"]: run for run in read_runs(tmp_path)}
    trials = [f"alpha = {a}, repeat {r}" for a in (0.5, 1) for r in range(2)]
    assert sorted(runs) == sorted([*trials, "verdict"])
    failed, pruned = runs["alpha = 0.5, repeat 1"], runs["alpha = 1, repeat 1"]
    assert (failed["group"], failed["job_type"]) == ("alpha = 0.5", "search")
    assert set(failed["tags"]) == {"repeat 1", "resnet18", "failed"}
    assert (failed["exit_code"], failed["summary"]["status"]) == (1, "failed")
    assert failed["summary"]["error"] == failed["notes"] == "ValueError: boom"
    assert (pruned["exit_code"], pruned["summary"]["status"]) == (0, "pruned")
    config = {k: v for k, v in folders.at(0.5).config.items() if v is not None}
    assert config.items() <= failed["config"].items() and failed["config"]["repeat"] == 1
    curve = {step: values["val/acc"] for step, values in failed["history"].items()}
    assert curve == dict(enumerate(folders.curve(0.5, 3)))
    verdict = runs["verdict"]
    assert verdict["notes"] == kdtune.load(results.folder).verdict()
    assert {"report.html", "summary.csv", "summary.md"} <= set(verdict["artifact"])
    assert any(name.startswith("figures/") for name in verdict["artifact"])


def test_a_resumed_study_continues_its_runs(tmp_path: Path) -> None:
    first, second = folders.at(0.5), folders.at(1.0)
    folder = tmp_path / "runs"
    study = folders.make(folder, {0.5: [None], 1.0: [None]}).study
    curves = {second: [0.25, 0.5, 0.5], first: [0.25, 0.5]}
    folders.write_records(folder, curves, {first: "running"})
    send(folder, study)
    folders.write_records(folder, {first: [0.25, 0.5, 0.75]}, attempt=1)
    send(folder, study)
    send(folder, study)
    ended, cut, continued = read_runs(tmp_path)  # no more: what has ended is not sent again
    assert ended["summary"]["status"] == "completed"
    assert cut["id"] == continued["id"] != ended["id"]
    assert cut["summary"]["status"] == "interrupted" and cut["exit_code"] == 1
    assert [
        {step: v["val/acc"] for step, v in run["history"].items()} for run in (cut, continued)
    ] == [{0: 0.25, 1: 0.5}, {2: 0.75}]
    assert (continued["summary"]["status"], continued["exit_code"]) == ("completed", 0)
