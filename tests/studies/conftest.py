"""A tiny study."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray import tune

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.raytune.distillation import TeacherPreparation, TeacherTrainer
from kdtune.raytune.recorder import Recorder
from kdtune.training.teacher import WEIGHTS


@pytest.fixture(autouse=True)
def ray_is_left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of studies that run share one Ray (`shared_ray`); the others start none."""
    before = "shared_ray" in request.fixturenames or ray.is_initialized()
    yield
    assert ray.is_initialized() == before


@pytest.fixture
def study(tiny: Run, tmp_path: Path) -> Study:
    """Three configurations (alpha 0 under mse and kl, plain training) x two repeats."""
    return Study(
        name="tiny",
        out=str(tmp_path / "runs"),
        cache=str(tmp_path / "cache"),
        run=tiny,
        space={"alpha": (0.0, 1.0), "loss": ("mse", "kl")},
        repeats=2,
    )


@pytest.fixture
def taught(study: Study, teacher_folder: Path) -> Study:
    """The study with a teacher that is ready."""
    weights = str(teacher_folder / WEIGHTS)
    return replace(study, run=replace(study.run, teacher_weights=weights, teacher_epochs=0))


@pytest.fixture
def in_this_process(shared_ray: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train teachers and run trials in this process, for studies whose numbers are the point.

    To start a process of Ray's takes longer than a tiny study. test_search.py has real ones.
    """

    def fit(trainable: Callable[..., None], recorder: Recorder, _: object) -> None:
        study, plan = recorder.study, recorder.plan
        assert not study.stop_early
        while (run := plan.next_run()) is not None:
            config = {name: run.value(name) for name in study.task.names} | {"repeat": run.repeat}
            trial = SimpleNamespace(config=config, trial_id=run.trial_id)

            def report(result: dict[str, Any], trial: Any = trial) -> None:
                recorder.on_trial_result(0, [], trial, result | {"hostname": "here"})

            recorder.on_trial_start(0, [], trial)
            monkeypatch.setattr(tune, "report", report)
            trainable(config, study=study)
            recorder.on_trial_complete(0, [], trial)
            recorder.raise_failure()

    train = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=TeacherTrainer().train))
    actor = SimpleNamespace(train=train)
    monkeypatch.setattr("kdtune.raytune.driver._fit", fit)
    monkeypatch.setattr(TeacherPreparation, "_start_trainer", lambda self: actor)
    monkeypatch.setattr(TeacherPreparation, "_watched", lambda self, trainer, lines: lines)
    monkeypatch.setattr(ray, "kill", lambda actor: None)
