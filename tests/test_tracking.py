"""Trials sent to MLflow and to Weights & Biases, read back with MLflow's client and from files."""

import json
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import study_folders as folders

from kdtune import tracking
from kdtune.config.study import Study
from kdtune.tracking import Tracker

# not importorskip, which would load them in every process of a test run
NEEDED = ("mlflow", "wandb", "alembic")  # with Alembic MLflow's database files
pytestmark = pytest.mark.skipif(
    not all(map(find_spec, NEEDED)), reason="pip install -e '.[mlflow,wandb]' alembic"
)

STUDY = Study(name="tracked", run=folders.RUN, space={"alpha": (0.5, 1.0)}, repeats=2)
BOOM = "ValueError: boom"


def trial(alpha: float, repeat: int, number: int = 0) -> Any:
    """Return what Tune's callbacks get of a trial."""
    run = folders.at(alpha, repeat)
    values = {name: run.value(name) for name in STUDY.task.names}
    trial_id = f"{run.trial_id}{number}".replace("-", "")
    return SimpleNamespace(trial_id=trial_id, config=values | {"repeat": repeat})


def report(tracker: Tracker, one: Any, accuracies: Sequence[float], error: str = "") -> None:
    vals = [{"acc": acc, "ce": None, "n_examples": 4} for acc in accuracies]
    epochs = [{"number": i, "seconds": 2.0, "splits": {"val": val}} for i, val in enumerate(vals)]
    tracker.on_trial_result(0, [], one, {"epochs": epochs, "error": error or None})


def run_trials(name: str) -> list[str]:
    """Send a completed, a failed, a pruned and an interrupted trial; return what is printed."""
    printed, pruned = list[str](), {folders.at(1.0, 0).trial_id}
    with Tracker(name, STUDY, pruned, printed.append) as tracker:
        for alpha, repeat in ((0.5, 0), (0.5, 1), (1.0, 0), (1.0, 1)):
            one = trial(alpha, repeat)
            fails = (alpha, repeat) == (0.5, 1)
            tracker.on_trial_start(0, [], one)
            if fails:  # its worker dies first; the epoch is reported again
                report(tracker, one, [0.25])
                tracker.on_trial_start(0, [], one)
            report(tracker, one, [0.25, 0.5], error=BOOM if fails else "")
            if (alpha, repeat) != (1.0, 1):
                tracker.on_trial_complete(0, [], one)
    return printed


STATES = {
    "alpha = 0.5, repeat 0": "completed",
    "alpha = 0.5, repeat 1": "failed",
    "alpha = 1, repeat 0": "pruned",
    "alpha = 1, repeat 1": "interrupted",
}


def test_trials_in_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    database = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    assert run_trials("mlflow") == [f"mlflow: experiment tracked of {database}"]
    client = MlflowClient(database)
    experiment = client.get_experiment_by_name("tracked")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert {name: run.data.tags["status"] for name, run in runs.items()} == STATES
    assert [runs[name].info.status for name in STATES] == ["FINISHED", "FAILED", "KILLED", "KILLED"]
    failed = runs["alpha = 0.5, repeat 1"]
    expected = {"config": "alpha = 0.5", "repeat": "1", "student": "resnet18", "error": BOOM}
    assert expected.items() <= failed.data.tags.items()
    config = {name: str(v) for name, v in folders.at(0.5, 1).config.items() if v is not None}
    ids = {"repeat": "1", "config_id": folders.at(0.5, 1).config_id}
    assert (config | ids).items() <= failed.data.params.items()
    assert "temperature" not in runs["alpha = 1, repeat 0"].data.params  # it has no effect there
    history = client.get_metric_history(failed.info.run_id, "val/acc")
    assert [(point.step, point.value) for point in history] == [(0, 0.25), (1, 0.5)]
    assert set(failed.data.metrics) == {"val/acc", "seconds"}


def records_of(file: Path) -> Iterator[bytes]:
    """Yield the records of a .wandb file: LevelDB's log format, whose blocks hold fragments."""
    block, header, full, first, last = 32768, 7, 1, 2, 4
    data, position, joined = file.read_bytes(), header, b""
    while position + header <= len(data):
        if block - position % block < header:  # the rest of a block is padding
            position += block - position % block
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + header])
        piece = data[position + header : position + header + length]
        joined = piece if kind in (full, first) else joined + piece
        if kind in (full, last):
            yield joined
        position += header + length


def read_run(file: Path) -> dict[str, Any]:
    """Return name, group, tags, notes, config, history, summary and exit code of a run."""
    from wandb.proto import wandb_internal_pb2 as proto

    run: dict[str, Any] = {"config": {}, "history": {}, "summary": {}, "exit_code": None}
    for text in records_of(file):
        record = proto.Record()
        record.ParseFromString(text)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            new = record.run
            run |= {"name": new.display_name, "group": new.run_group}
            run |= {"tags": list(new.tags), "notes": new.notes}
            run["config"] |= {u.key: json.loads(u.value_json) for u in new.config.update}
        elif kind == "history":
            step = run["history"].setdefault(record.history.step.num, {})
            for item in record.history.item:
                step[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "summary":
            for item in record.summary.update:
                run["summary"][item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def read_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Return what the last start of each run has written, by its name.

    wandb's service writes the end of a run a moment after `finish` has returned.
    """
    until = time.monotonic() + 20
    while True:
        files = folder.glob("wandb/offline-run-*/*.wandb")
        runs = [read_run(file) for file in sorted(files, key=lambda f: f.stat().st_mtime_ns)]
        if all(run["exit_code"] is not None for run in runs) or time.monotonic() > until:
            return {run["name"]: run for run in runs}
        time.sleep(0.1)


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let wandb write below the test's folder; it reads the variables once in a process."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    yield
    wandb.teardown()


@pytest.mark.usefixtures("offline")
def test_trials_in_wandb(tmp_path: Path) -> None:
    assert run_trials("wandb") == ["wandb: project tracked (offline)"]
    runs = read_runs(tmp_path)
    assert {name: run["summary"]["status"] for name, run in runs.items()} == STATES
    assert [runs[name]["exit_code"] for name in STATES] == [0, 1, 0, 1]
    failed = runs["alpha = 0.5, repeat 1"]
    assert failed["group"] == "alpha = 0.5" and set(failed["tags"]) == {"repeat 1", "failed"}
    assert failed["summary"]["error"] == failed["notes"] == BOOM
    config = {name: value for name, value in folders.at(0.5, 1).config.items() if value is not None}
    ids = {"repeat": 1, "config_id": folders.at(0.5, 1).config_id}
    assert (config | ids).items() <= failed["config"].items()
    curve = {step: values["val/acc"] for step, values in failed["history"].items()}
    assert curve == {0: 0.25, 1: 0.5}


def test_a_server_that_never_answers_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    began = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts in its backlog
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        printed = run_trials("mlflow")
    assert time.monotonic() - began < 20
    assert not any("secret" in line for line in printed)
    assert printed[-1].startswith("warning: mlflow has not received everything (")
    assert printed[-1].endswith("); the results in the study's folder are complete")


class Flaky:
    """A client whose server is away for the first calls."""

    def __init__(self, study: Study):
        self.failures, self.calls = 3, list[str]()

    def connect(self) -> str:
        return "here"

    def start(self, one: Any) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("away")
        self.calls.append(one.name)

    def log(self, one: Any, epoch: int, metrics: Any) -> None:
        self.calls.append(f"{epoch} {metrics['val/acc']}")

    def end(self, one: Any) -> None:
        self.calls.append(one.status)


def test_nothing_is_lost_by_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.01)
    monkeypatch.setitem(tracking.CLIENTS, "mlflow", Flaky)
    printed: list[str] = []
    with Tracker("mlflow", STUDY, set(), printed.append) as tracker:
        one = trial(0.5, 0)
        tracker.on_trial_start(0, [], one)
        until = time.monotonic() + 20
        while not tracker._client.calls and time.monotonic() < until:  # type: ignore[attr-defined]
            time.sleep(0.01)
        report(tracker, one, [0.25, 0.5])
        tracker.on_trial_complete(0, [], one)
    calls = tracker._client.calls  # type: ignore[attr-defined]
    assert calls == ["alpha = 0.5, repeat 0", "0 0.25", "1 0.5", "completed"]
    assert printed == [
        "mlflow: here",
        "warning: mlflow has failed (ConnectionError: away); the study goes on, and mlflow is "
        "tried again",
    ]


def test_a_client_that_hangs_does_not_keep_the_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "END_SECONDS", 0.2)
    monkeypatch.setattr(Flaky, "start", lambda self, new: time.sleep(30))
    monkeypatch.setitem(tracking.CLIENTS, "mlflow", Flaky)
    began = time.monotonic()
    printed = run_trials("mlflow")
    assert time.monotonic() - began < 10
    assert printed[-1].startswith("warning: mlflow has not received everything (no answer in 0 s)")
