"""The study with Ray Tune, as in its tutorial for PyTorch: tune.Tuner, a function, tune.report."""

import tempfile
from typing import Any

import ray
import torch
from loop import train, train_teacher
from ray import tune
from task import Outcome, Task, load_task, show
from torch import nn


def run(config: dict[str, Any], task: Task, teacher: nn.Module) -> None:
    """Train one student."""
    torch.manual_seed(config["repeat"])
    student = task.network("student")
    setting = config["setting"]
    for score in train(task, student, task.epochs, task.images, teacher, *setting):
        tune.report({"accuracy": score})


if __name__ == "__main__":
    task = load_task()
    teacher = train_teacher(task)
    ray.init(address="local", num_gpus=0, include_dashboard=False)
    space = {
        "setting": tune.grid_search(list(task.settings)),
        "repeat": tune.grid_search(list(range(task.repeats))),
    }
    with tempfile.TemporaryDirectory() as folder:
        tuner = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(run, task=task, teacher=teacher), resources={"cpu": 1}
            ),
            param_space=space,
            run_config=tune.RunConfig(name="study", storage_path=folder),
        )
        results = tuner.fit()
        runs = []
        for i in range(len(results)):
            result: Any = results[i]
            scores = result.metrics_dataframe["accuracy"].tolist()
            alpha, temperature = result.config["setting"]
            runs.append(Outcome(alpha, temperature, result.config["repeat"], scores))
    show(runs)
    task.done(runs)
