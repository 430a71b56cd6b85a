"""What Ray runs: configuration + repeat -> distill -> tune.report."""

import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from ray import tune

from kdtune.config import Run, Study
from kdtune.distill import distill
from kdtune.stream import Resources
from kdtune.teacher import fine_tune
from kdtune.train import Epoch


def run_of(study: Study, config: dict[str, Any]) -> Run:
    """The run that a sample of the study's space makes: the base run with the sample laid over."""
    return replace(study.run, **config)


def run_trial(config: dict[str, Any], study: Study) -> None:
    """One trial: one distillation run, reporting its epochs.

    A run that raises is reported as failed, with its reason, and its worker serves on; only a
    worker that dies is Ray's to start again, from the run's own checkpoint.
    """
    run = run_of(study, config)
    torch.set_num_threads(study.cpus_per_trial)
    folder = study.folder / "trials" / run.trial_id
    try:
        for epoch in distill(run, study.folder / "teacher", Resources.of(study), folder):
            tune.report(as_report(epoch))
    except Exception as error:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc())
        tune.report({"error": f"{type(error).__name__}: {error}"})


def as_report(epoch: Epoch) -> dict[str, Any]:
    """What Tune is told of an epoch: {"epoch", "seconds", "train": {...}, "val": {...}, ...}."""
    splits = {
        split: {name: value for name, value in metrics.items() if value is not None}
        for split, metrics in epoch.splits.items()
    }
    return {"epoch": epoch.number, "seconds": epoch.seconds, **splits}


def train_teacher(study: Study) -> Iterator[Epoch]:
    """The teacher's epochs: a Ray task whose results come one by one, where a GPU is."""
    torch.set_num_threads(study.cpus_per_trial)
    yield from fine_tune(study.run, study.folder / "teacher", Resources.of(study))
