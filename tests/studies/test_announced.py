"""A study under a real Ray with a tracker that works, one that is silent, and --notify."""

import socket
from dataclasses import replace
from pathlib import Path

import pytest
from wandb_files import read_runs

import kdtune
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.search import main
from kdtune.storage.records import read_lines

pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")


@pytest.mark.slow  # wandb starts; each tracker alone: tests/tracking
@pytest.mark.usefixtures("shared_ray", "one_at_a_time")
def test_a_study_with_trackers_and_a_command(
    taught: Study,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    told = tmp_path / "told.txt"
    command = f"cat > '{told}'; echo \"$KDTUNE_STATUS\" >> '{told}'"
    study = replace(taught, space={"alpha": (0.5, 1.0)}, repeats=1)
    study = replace(study, tracker=("mlflow", "wandb"), notify=command)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert main(study) == 0
    results = kdtune.load(study.folder)
    assert list(results.trials.status) == ["completed"] * 2
    shown = capsys.readouterr().out
    assert "warning: mlflow" in shown and "warning: wandb" not in shown
    assert told.read_text() == f"{results.verdict()}\ncompleted\n"

    runs = {run["name"]: run for run in read_runs(tmp_path)}
    assert sorted(runs) == ["alpha = 0.5, repeat 0", "alpha = 1, repeat 0"]
    assert {run["exit_code"] for run in runs.values()} == {0}
    recorded = {
        (f"alpha = {start['config']['alpha']:g}, repeat 0", line["epoch"]): line["acc"]
        for start in read_lines(study.folder)[0]
        if start["kind"] == "start"
        for line in read_lines(study.folder)[0]
        if line["trial_id"] == start["trial_id"] and line.get("split") == "val"
    }
    sent = {
        (name, step): values["val/acc"]
        for name, run in runs.items()
        for step, values in run["history"].items()
        if "val/acc" in values
    }
    assert sent == recorded and len(sent) == 6

    told.unlink()
    with pytest.raises(InputError, match="holds another study"):  # wrong input: nobody is told
        main(replace(study, run=replace(study.run, epochs=9)))
    assert not told.exists()
