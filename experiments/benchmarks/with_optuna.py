"""The study with Optuna, as in its example for PyTorch: objective, suggest, report, optimize."""

import optuna
import torch
from loop import train, train_teacher
from task import Outcome, load_task, show

if __name__ == "__main__":
    task = load_task()
    teacher = train_teacher(task)

    def objective(trial: optuna.Trial) -> float:
        """Train one student."""
        setting = task.settings[trial.suggest_int("setting", 0, len(task.settings) - 1)]
        torch.manual_seed(trial.suggest_int("repeat", 0, task.repeats - 1))
        student, score = task.network("student"), 0.0
        scores = train(task, student, task.epochs, task.images, teacher, *setting)
        for epoch, score in enumerate(scores):
            trial.report(score, epoch)
        return score

    grid = {"setting": range(len(task.settings)), "repeat": range(task.repeats)}
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.GridSampler(grid))
    study.optimize(objective)
    runs = []
    for trial in study.trials:
        alpha, temperature = task.settings[trial.params["setting"]]
        scores = [*trial.intermediate_values.values()]
        runs.append(Outcome(alpha, temperature, trial.params["repeat"], scores))
    show(runs)
    task.done(runs)
