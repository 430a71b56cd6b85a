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

pytest.importorskip("wandb", reason="pip install -e '.[wandb]'")
pytest.importorskip("mlflow", reason="pip install -e '.[mlflow]'")


@pytest.mark.slow  # wandb starts; each tracker alone: tests/test_tracking.py
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
    for trial in results.trials.to_dict("records"):
        val = results.epochs[results.epochs.trial_id == trial["trial_id"]].query("split == 'val'")
        history = runs[f"alpha = {trial['config/alpha']:g}, repeat 0"]["history"].values()
        assert [values["val/acc"] for values in history if "val/acc" in values] == val.acc.tolist()

    told.unlink()
    with pytest.raises(InputError, match="holds another study"):  # wrong input: nobody is told
        main(replace(study, run=replace(study.run, epochs=9)))
    assert not told.exists()
