"""Studies sent to MLflow, read back with its client: a database file, and a server that dies."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import study_folders as folders

import kdtune
from kdtune.config.study import Study
from kdtune.raytune.progress import tracked
from kdtune.storage.records import read_lines
from kdtune.track import TrackFlags, main
from kdtune.tracking import sync
from kdtune.tracking.sync import Sync

pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")
pytest.importorskip("alembic", reason="MLflow's database files need SQLAlchemy and Alembic")

LAST = {0.5: [0.75, 0.5, 0.625], 1.0: [0.5, 0.5, 0.25]}
FATES = {(0.5, 1): "failed", (1.0, 2): "pruned"}


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One database for all tests, which takes seconds to make; a test has its own study."""
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        patch.setenv("MLFLOW_ARTIFACT_ROOT", str(tmp_path_factory.mktemp("artifacts")))
        yield uri


def runs_of(uri: str, study: str) -> dict[str, Any]:
    """Return the runs of a study's experiment by name; no two may have one name."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(study)
    found = client.search_runs([experiment.experiment_id])
    names = [run.info.run_name for run in found]
    assert len(set(names)) == len(names), names
    return dict(zip(names, found, strict=True))


def curve_of(uri: str, run: Any, metric: str = "val/acc") -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return [
        (m.step, m.value) for m in MlflowClient(uri).get_metric_history(run.info.run_id, metric)
    ]


def send(folder: Path, study: Study, said: list[str]) -> bool:
    """Send what a folder holds, as at the end of a search."""
    over = Event()
    over.set()
    return Sync("mlflow", study, folder, said.append).follow(over, lambda: None)


def test_a_study_is_grouped_by_configuration(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # artifacts of a database without a server: ./mlruns
    results = folders.make(tmp_path / "runs" / "grouped", LAST, FATES, name="grouped")
    flags = TrackFlags(str(results.folder), ("mlflow",))
    assert main(flags) == 0
    assert main(flags) == 0  # nothing twice
    runs = runs_of(database, "grouped")
    assert sorted(runs) == sorted(
        ["verdict", "alpha = 0.5", "alpha = 1"]
        + [f"alpha = {a}, repeat {r}" for a in (0.5, 1) for r in range(3)]
    )
    states = {name: (run.info.status, run.data.tags.get("status")) for name, run in runs.items()}
    assert states["alpha = 0.5, repeat 0"] == ("FINISHED", "completed")
    assert states["alpha = 0.5, repeat 1"] == ("FAILED", "failed")
    assert states["alpha = 1, repeat 2"] == ("KILLED", "pruned")
    assert states["alpha = 1"][0] == states["verdict"][0] == "FINISHED"

    failed, parent = runs["alpha = 0.5, repeat 1"], runs["alpha = 0.5"]
    assert failed.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert failed.data.tags["error"] == "ValueError: boom"
    own = {"config": "alpha = 0.5", "repeat": "1", "phase": "search", "student": "resnet18"}
    assert own.items() <= failed.data.tags.items()
    config = folders.at(0.5).config
    expected = {name: str(value) for name, value in config.items() if value is not None}
    assert failed.data.params == {**expected, "repeat": "1"}
    assert "temperature" not in runs["alpha = 1"].data.params  # it has no effect there
    lines = read_lines(results.folder)[0]
    alphas = {x["config_id"]: x["config"]["alpha"] for x in lines if x["kind"] == "start"}
    for line in lines:
        if line["kind"] == "epoch" and line["split"] == "val":
            run = runs[f"alpha = {alphas[line['config_id']]:g}, repeat {line['repeat']}"]
            assert (line["epoch"], line["acc"]) in curve_of(database, run)
    # hand-worked: the completed repeats of alpha = 0.5 are 0.75 and 0.625
    assert parent.data.metrics["val/acc"] == 0.6875 and parent.data.metrics["repeats"] == 2
    assert parent.data.metrics["val_sd/acc"] == pytest.approx(0.125 / 2**0.5)

    verdict = runs["verdict"].data.tags["mlflow.note.content"]
    assert verdict == kdtune.load(results.folder).verdict()
    place = Path(runs["verdict"].info.artifact_uri.removeprefix("file://"))
    assert {"report.html", "summary.csv", "summary.md"} <= {p.name for p in place.iterdir()}
    assert (place / "figures").is_dir()


def test_a_resumed_study_continues_its_runs(database: str, tmp_path: Path) -> None:
    run, said = folders.at(0.5), list[str]()
    study = folders.make(tmp_path, {0.5: [None]}, name="resumed").study
    folders.write_records(tmp_path, {run: [0.25, 0.5]}, {run: "running"})
    assert send(tmp_path, study, said)
    before = runs_of(database, "resumed")
    assert before["alpha = 0.5, repeat 0"].info.status == "KILLED"  # the search has stopped
    assert before["alpha = 0.5, repeat 0"].data.tags["status"] == "interrupted"
    assert before["alpha = 0.5"].info.status == "KILLED"
    folders.write_records(tmp_path, {run: [0.25, 0.5, 0.75]})
    assert send(tmp_path, study, said)
    after = runs_of(database, "resumed")
    assert {n: r.info.run_id for n, r in after.items()} == {
        n: r.info.run_id for n, r in before.items()
    }
    ended = after["alpha = 0.5, repeat 0"]
    assert (ended.info.status, ended.data.tags["status"]) == ("FINISHED", "completed")
    assert curve_of(database, ended) == [(0, 0.25), (1, 0.5), (2, 0.75)]
    assert "status" not in after["alpha = 0.5"].data.tags
    assert not [line for line in said if line.startswith("warning")]


def test_a_failed_trial_that_is_run_again_has_no_error(database: str, tmp_path: Path) -> None:
    run = folders.at(0.5)
    study = folders.make(tmp_path, {0.5: [None]}, name="retried").study
    folders.write_records(tmp_path, {run: []}, {run: "failed"})
    assert send(tmp_path, study, [])
    before = runs_of(database, "retried")["alpha = 0.5, repeat 0"]
    assert (before.info.status, before.data.tags["error"]) == ("FAILED", "ValueError: boom")
    folders.write_records(tmp_path, {run: [0.25, 0.5, 0.75]})
    assert send(tmp_path, study, [])
    after = runs_of(database, "retried")["alpha = 0.5, repeat 0"]
    assert (after.info.status, after.data.tags["error"]) == ("FINISHED", "")
    assert after.info.run_id == before.info.run_id


def test_two_studies_of_one_name_are_not_mixed(database: str, tmp_path: Path) -> None:
    for place in ("a", "b"):
        study = folders.make(tmp_path / place, {0.5: [0.5]}, name="twice").study
        assert send(tmp_path / place, study, [])
    from mlflow import MlflowClient

    client = MlflowClient(database)
    found = client.search_runs([client.get_experiment_by_name("twice").experiment_id])
    assert len(found) == 4 and len({run.data.tags["kdtune.study"] for run in found}) == 2


def test_a_server_that_never_answers_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts in its backlog
        uri = f"http://user:secret@127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        results = folders.make(tmp_path, LAST)
        said: list[str] = []
        began = time.monotonic()
        assert not send(tmp_path, results.study, said)
    assert time.monotonic() - began < 20
    (line,) = said
    assert line.startswith("warning: mlflow has not received everything")
    assert "secret" not in line
    assert f"python -m kdtune.track {tmp_path} --tracker mlflow" in line


def test_a_process_that_cannot_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search waits for its trackers for a limited time; here they wait for a silent server."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
        monkeypatch.setattr("kdtune.raytune.progress.END_SECONDS", 3)
        folders.make(tmp_path, LAST)
        said: list[str] = []
        began = time.monotonic()
        with tracked(["mlflow"], tmp_path, said.append):
            pass
    assert time.monotonic() - began < 30
    assert ["did not receive everything within 3 s" in line for line in said] == [True]


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start MLflow's server with a database and wait until it answers."""
    words = ["--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}", "--workers", "1"]
    words += ["--artifacts-destination", str(folder / "artifacts"), "--port", str(port)]
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", *words],
        env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    for _ in range(240):
        time.sleep(0.5)
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
        except OSError:
            assert server.poll() is None, "the server has ended"
        else:
            return server
    pytest.fail("the server does not answer")


def end(server: subprocess.Popen[bytes]) -> None:
    os.killpg(server.pid, 9)
    server.wait()


@pytest.mark.slow
@pytest.mark.skipif(find_spec("flask") is None, reason="pip install mlflow brings its server")
def test_a_server_that_dies_gets_everything_once_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    uri = f"http://127.0.0.1:{port}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    first, second = folders.at(0.5), folders.at(1.0)
    folder, said = tmp_path / "runs" / "outage", list[str]()
    folders.make(folder, {0.5: [None], 1.0: [None]}, name="outage")

    def wait_for(text: str) -> None:
        for _ in range(240):
            if any(text in line for line in said):
                return
            time.sleep(0.5)
        pytest.fail(f"{text!r} is not in {said}")

    server = serve(tmp_path, port)
    try:
        with tracked(["mlflow"], folder, said.append):
            folders.write_records(folder, {first: [0.25, 0.5]}, {first: "running"})
            wait_for(f"MLflow: {uri}/#/experiments/")
            time.sleep(2 * sync.POLL_SECONDS)
            end(server)
            folders.write_records(folder, {first: [0.25, 0.5, 0.75]})
            wait_for("the study goes on")
            folders.write_records(folder, {second: [0.25, 0.5, 0.5]})
            server = serve(tmp_path, port)
            wait_for("can be reached again")
        runs = runs_of(uri, "outage")
        assert sorted(runs) == sorted(
            ["alpha = 0.5", "alpha = 0.5, repeat 0", "alpha = 1", "alpha = 1, repeat 0", "verdict"]
        )
        assert curve_of(uri, runs["alpha = 0.5, repeat 0"]) == [(0, 0.25), (1, 0.5), (2, 0.75)]
        assert curve_of(uri, runs["alpha = 1, repeat 0"]) == [(0, 0.25), (1, 0.5), (2, 0.5)]
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert sum("warning" in line for line in said) == 1
        from mlflow import MlflowClient

        names = {
            file.path for file in MlflowClient(uri).list_artifacts(runs["verdict"].info.run_id)
        }
        assert {"report.html", "summary.csv"} <= names  # through the server
    finally:
        end(server)
