"""What is written of trials that Ray gives up; the rest under a real Ray in test_search.py."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated_runs import LISTS, make

from kdtune.planning.plan import Plan
from kdtune.raytune.adapters import RepeatSearcher
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.recorder import Recorder
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import read_lines
from kdtune.streams.cache import Cache

LOST = "Failure # 1\nThe actor died because its node has died. Node Id: 04"
DIED = "Failure # 1\nThe actor died because of an out-of-memory error"


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr(
        "kdtune.raytune.recorder.MachineMonitor", lambda study: None
    )  # of machines, which needs Ray
    study = replace(make("grid", LISTS, "all"), out=str(tmp_path), name="s")
    plan = Plan(study)
    return Recorder(
        study, plan, ProgressDisplay(plan, Cache(str(tmp_path / "cache"), 1.0)), Mirror(study)
    )


def begun(recorder: Recorder, searcher: RepeatSearcher, error: Path, started: bool) -> Any:
    """A trial that Tune has made, and started or not, and whose error is in the file."""
    trial = SimpleNamespace(config=searcher.suggest("a"), error_file=str(error))
    if started:
        recorder.on_trial_start(0, [], trial)
    return trial


@pytest.mark.parametrize("started", [True, False])
def test_a_run_that_a_lost_machine_had_is_handed_out_again(
    recorder: Recorder, tmp_path: Path, started: bool
) -> None:
    searcher = RepeatSearcher(recorder.plan, lambda: 1)
    (tmp_path / "error.txt").write_text(LOST)
    trial = begun(recorder, searcher, tmp_path / "error.txt", started)
    assert searcher.suggest("b") is None  # there is room for one
    recorder.on_trial_error(0, [], trial)
    assert searcher.suggest("c") == trial.config
    recorder.on_trial_start(0, [], trial)
    kinds = [(line["kind"], line["attempt"]) for line in read_lines(recorder.study.folder)[0]]
    assert kinds == [("start", i) for i in range(1 + started)]


@pytest.mark.parametrize(("started", "error"), [(True, "died 3 times"), (False, "did not start")])
def test_a_run_whose_worker_died_has_failed(
    recorder: Recorder, tmp_path: Path, started: bool, error: str
) -> None:
    searcher = RepeatSearcher(recorder.plan, lambda: 1)
    (tmp_path / "error.txt").write_text(DIED)
    trial = begun(recorder, searcher, tmp_path / "error.txt", started)
    recorder.on_trial_error(0, [], trial)
    start, end = read_lines(recorder.study.folder)[0]
    assert (start["kind"], end["status"]) == ("start", "failed") and error in end["error"]
    assert searcher.suggest("b") not in (None, trial.config)
