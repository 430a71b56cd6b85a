"""What Ray runs: configuration + repeat -> distill -> tune.report."""

import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from ray import tune

from kdtune.config.errors import InputError
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.statistics.early_stopping import rungs
from kdtune.storage.mirror import Mirror
from kdtune.streams.resources import Resources
from kdtune.training.metrics import Epoch
from kdtune.training.run import CHECKPOINT, distill
from kdtune.training.teacher import RECORD, WEIGHTS, fine_tune, is_ready

REPORT_SECONDS = 0.5
"""Epochs are reported together if they are shorter: a report costs 5 ms of CPU over all."""


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
    place = f"trials/{run.trial_id}"
    folder, mirror = study.folder / place, Mirror(study)
    unsaid: list[Epoch] = []
    said = time.monotonic()
    error = None
    try:
        mirror.pull(f"{place}/{CHECKPOINT}")
        _fetch_teacher(study.run, mirror)  # whose recipe makes it, whatever is searched
        with mirror.push_in_background(f"{place}/{CHECKPOINT}") as send:
            for epoch in distill(run, study.folder / "teacher", Resources.of(study), folder, send):
                unsaid.append(epoch)
                if _at_rung(study, run, epoch) or time.monotonic() - said >= REPORT_SECONDS:
                    tune.report(as_report(unsaid))
                    unsaid, said = [], time.monotonic()
        mirror.push(place)
        mirror.clear(place)
    except Exception as caught:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "error.txt").write_text(traceback.format_exc())
        with suppress(OSError):  # perhaps the store is what failed
            mirror.push(f"{place}/error.txt")
        error = f"{type(caught).__name__}: {caught}"
    tune.report(as_report(unsaid, error))


def _fetch_teacher(run: Run, mirror: Mirror) -> None:
    """Have the teacher on this machine; raises InputError where also the store's is damaged."""
    with suppress(InputError):  # what was cut off here may be whole there
        if is_ready(run, mirror.folder / "teacher"):
            return
    mirror.pull(f"teacher/{WEIGHTS}", f"teacher/{RECORD}")
    is_ready(run, mirror.folder / "teacher")


def _at_rung(study: Study, run: Run, epoch: Epoch) -> bool:
    """Whether the run may be stopped after this epoch."""
    return study.stop_early and run.repeat == 0 and epoch.number + 1 in rungs(run.epochs)


def as_report(epochs: list[Epoch], error: str | None = None) -> dict[str, Any]:
    """What Tune is told: all of the epochs, and the last one's numbers for TensorBoard."""
    last = epochs[-1].splits if epochs else {}
    curves = {
        split: {name: value for name, value in metrics.items() if value is not None}
        for split, metrics in last.items()
    }
    said = [{"number": e.number, "seconds": e.seconds, "splits": e.splits} for e in epochs]
    return {"epochs": said, "error": error, **curves}


def train_teacher(study: Study) -> Iterator[Epoch]:
    """The teacher's epochs: a Ray task whose results come one by one, where a GPU is."""
    torch.set_num_threads(study.cpus_per_trial)
    mirror = Mirror(study)
    mirror.pull_folders("teacher")
    send = partial(mirror.push, "teacher")  # not beside the training, which deletes its last state
    yield from fine_tune(study.run, study.folder / "teacher", Resources.of(study), send)
    mirror.push("teacher")
    mirror.delete_removed("teacher")
