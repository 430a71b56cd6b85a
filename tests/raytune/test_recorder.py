"""Records of trials that Ray gives up; of the others, under a real Ray: test_search.py."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from simulated_runs import LISTS, make

from kdtune.planning.plan import Plan
from kdtune.raytune.adapters import RepeatSearcher
from kdtune.raytune.machines import Capacity
from kdtune.raytune.progress import ProgressDisplay
from kdtune.raytune.recorder import Recorder
from kdtune.storage.mirror import Mirror, RecordsUploader
from kdtune.storage.records import Records, read_lines
from kdtune.streams.cache import Cache

LOST = "Failure # 1\nThe actor died because its node has died. Node Id: 04"
DIED = "Failure # 1\nThe actor died because of an out-of-memory error"


@pytest.fixture
def recorder(tmp_path: Path) -> Iterator[Recorder]:
    study = replace(make("grid", LISTS, "all"), out=str(tmp_path), name="s")
    plan = Plan(study)
    display = ProgressDisplay(plan, Cache(str(tmp_path / "cache"), 1.0))
    with Records(study.folder) as records:
        uploader = RecordsUploader(Mirror(study), records)
        monitor: Any = None  # of machines, which needs Ray
        capacity: Any = Capacity.__new__(Capacity)  # its machines are Ray's, too
        capacity._limit = 4
        yield Recorder(study, plan, display, records, uploader, monitor, capacity)


def begin(recorder: Recorder, searcher: RepeatSearcher, error: Path, started: bool) -> Any:
    """A trial that Tune has made, perhaps started, and whose error is in the file."""
    trial = SimpleNamespace(config=searcher.suggest("a"), error_file=str(error))
    if started:
        recorder.on_trial_start(0, [], trial)
    return trial


@pytest.mark.parametrize("started", [True, False])
def test_a_run_of_a_lost_machine_is_suggested_again(
    recorder: Recorder, tmp_path: Path, started: bool
) -> None:
    searcher = RepeatSearcher(recorder.plan, lambda: 1)
    (tmp_path / "error.txt").write_text(LOST)
    trial = begin(recorder, searcher, tmp_path / "error.txt", started)
    assert searcher.suggest("b") is None  # one at a time
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
    trial = begin(recorder, searcher, tmp_path / "error.txt", started)
    recorder.on_trial_error(0, [], trial)
    start, end = read_lines(recorder.study.folder)[0]
    assert (start["kind"], end["status"]) == ("start", "failed") and error in end["error"]
    assert searcher.suggest("b") not in (None, trial.config)
