"""optuna.db of simulated studies, read by Optuna itself."""

import time
import warnings
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import optuna
import pytest
from play import play
from simulated_runs import LISTS, RANGES, curve, make

from kdtune.config.run import Run
from kdtune.planning.ledger import Ledger
from kdtune.planning.proposals import export

matplotlib.use("Agg")


@pytest.mark.parametrize(("search", "space"), [("grid", LISTS), ("tpe", RANGES)])
def test_optuna_reads_the_export(search: str, space: dict, tmp_path: Path) -> None:
    study = make(search, space, "all")
    study = replace(study, out=str(tmp_path))
    study.folder.mkdir(parents=True)
    lines = [line | {"time": 1e9 + k} for k, line in enumerate(play(study, curve))]
    file = export(study, lines)
    loaded = optuna.load_study(study_name=study.name, storage=f"sqlite:///{file}")
    ledger = Ledger(study)
    for line in lines:
        ledger.add_record(line)
    assert len(loaded.trials) == len(ledger.configs)
    for trial in loaded.trials:
        state = ledger.configs[trial.user_attrs["config_id"]]
        scores = list(state.scores.values())
        assert trial.value == pytest.approx(np.mean(scores))
        assert trial.user_attrs["sd"] == pytest.approx(np.std(scores, ddof=1))
        assert trial.user_attrs["n"] == 4
        assert [trial.user_attrs[f"repeat/{r}"] for r in range(4)] == scores
        assert trial.params["lr"] == state.run.lr and trial.params["alpha"] == state.run.alpha
        assert ("temperature" in trial.params) == (search == "tpe" and not state.is_baseline)
        assert trial.duration is not None and trial.duration.total_seconds() > 0
    assert set(optuna.importance.get_param_importances(loaded)) >= {"lr", "alpha"}
    with warnings.catch_warnings(action="ignore"):  # experimental
        optuna.visualization.matplotlib.plot_slice(loaded, params=["lr"])
    again = f"sqlite:///{export(study, lines)}"  # replaces the file, adds nothing to it
    same = optuna.load_study(study_name=study.name, storage=again)
    assert len(same.trials) == len(loaded.trials)


def test_failed_and_pruned_configurations(tmp_path: Path) -> None:
    study = make("grid", LISTS, "race", stop_early=True)
    study = replace(study, out=str(tmp_path))
    study.folder.mkdir(parents=True)

    def faulty(run: Run) -> list[float] | None:
        return None if run.lr == 1e-1 else curve(run)

    lines = [line | {"time": time.time()} for line in play(study, faulty)]
    ids = {line["config_id"] for line in lines if line.get("status") == "failed"}
    loaded = optuna.load_study(study_name=study.name, storage=f"sqlite:///{export(study, lines)}")
    failed = [t for t in loaded.trials if t.state == optuna.trial.TrialState.FAIL]
    assert {trial.user_attrs["config_id"] for trial in failed} == ids
