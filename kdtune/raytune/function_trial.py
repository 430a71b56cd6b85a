"""A trial that calls a training function of the user's own. Imports no torch."""

import inspect
import json
import math
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from kdtune.config.base_run import BaseRun
from kdtune.config.files import PREDICTIONS, atomic_write, not_writable_by_all
from kdtune.config.function_run import Train, load_function
from kdtune.config.run import derive_seed
from kdtune.config.study import Study
from kdtune.raytune.function_epochs import FunctionEpoch, parse_epoch, yielded
from kdtune.raytune.reporter import EpochReport, Reporter, describe_failure, make_run
from kdtune.storage.correctness import pack_correct
from kdtune.storage.mirror import Mirror

FILES = "files"
"""Folder of a trial that its function may write to; it is kept, and is there again on resuming."""
LOG = ".kdtune-epochs.json"
"""The epochs that the function has yielded so far, in its folder."""


class CannotResumeError(RuntimeError):
    """A function goes on after an epoch that it has not yielded, or with no epoch at all."""

    def __init__(self, first: int, known: int):
        super().__init__(
            f"train begins at epoch {first}, but only {known} epochs were yielded before; save the "
            f"state of an epoch after its yield"
        )


@not_writable_by_all()  # another machine's Ray may have another umask
def run_function_trial(config: dict[str, Any], study: Study, concurrent: int | None = None) -> None:
    """Run one trial, a call of the study's training function, and report its epochs to Tune.

    A function that raises is reported as failed, with the reason, and its worker stays in use. Ray
    restarts a trial only if its worker died; the function then finds what it has written to its
    folder.

    Args:
        config: A sample of the study's space, and the repeat.
        study: The study.
        concurrent: Trials that run at a time; not used.
    """
    run = make_run(study, config)
    place = f"trials/{run.trial_id}"
    mirror, reporter = Mirror(study), Reporter(study, run)
    try:
        mirror.pull_folders(f"{place}/{FILES}")
        folder = study.folder / place / FILES
        folder.mkdir(parents=True, exist_ok=True)
        with mirror.push_in_background(f"{place}/{FILES}") as push:
            epoch = _report_epochs(study, run, folder, reporter, push)
        _save_examples(run, epoch, study.folder / place / PREDICTIONS)
        mirror.push(place)
        (folder / LOG).unlink(missing_ok=True)
        mirror.delete(f"{place}/{FILES}/{LOG}")
        if not any(folder.iterdir()):
            folder.rmdir()
        mirror.clear(place)
        error = None
    except Exception as caught:
        with suppress(OSError):  # perhaps the store is what failed
            mirror.push(f"{place}/{FILES}")  # a retry goes on from them
        error = describe_failure(caught, mirror, place)
    reporter.report(error)


def _report_epochs(
    study: Study, run: BaseRun, folder: Path, reporter: Reporter, push: Callable[[], None]
) -> FunctionEpoch:
    """Call the training function and report its epochs; return the last one.

    The epochs are also kept in the trial's folder, since a worker may die before Tune has got them.
    A function that resumes after them does not yield them again.
    """
    try:
        return _call_and_report(study, run, folder, reporter, push)
    except CannotResumeError:  # its files are of an earlier, perhaps completed trial
        shutil.rmtree(folder)
        folder.mkdir()
        return _call_and_report(study, run, folder, reporter, push)


def _call_and_report(
    study: Study, run: BaseRun, folder: Path, reporter: Reporter, push: Callable[[], None]
) -> FunctionEpoch:
    """Call the training function once; see `_report_epochs`."""
    known = _read_log(folder)
    reports: list[EpochReport] = []
    began = time.monotonic()
    for epoch in call(study, run, folder, len(known)):
        if not reports:
            reports = known[: epoch.number]
            for report in reports:
                reporter.add(report)
        reports.append(_report(epoch, study, run, time.monotonic() - began))
        with atomic_write(folder / LOG) as part:
            part.write_text(json.dumps([asdict(one) for one in reports]), encoding="utf-8")
        reporter.add(reports[-1])
        push()
        began = time.monotonic()
    return epoch


def call(study: Study, run: BaseRun, folder: Path, known: int = 0) -> Iterator[FunctionEpoch]:
    """Call the training function of a study; yield its epochs, checked.

    Python's, numpy's and, if the function's module uses it, torch's generators are seeded from the
    study's seed and the repeat before the call, so that a worker leaves nothing to the next trial.

    Args:
        study: Names the function.
        run: The configuration and the repeat.
        folder: Given to a function with a parameter of this name.
        known: Number of epochs that an earlier call has yielded.

    Raises:
        ValueError: What it yields is not as documented in `Study.train`.
        InputError: It calls sys.exit().
        CannotResumeError: It goes on after an epoch that no call has yielded.
        Diverged: The metric that decides is NaN or infinite.
    """
    train: Train = study.train if callable(study.train) else load_function(str(study.train))
    _seed(derive_seed("train", run.seed, run.repeat))
    own = {"folder": folder} if "folder" in inspect.signature(train).parameters else {}
    values = {name: value for name, value in run.config.items() if value is not None}
    planned, due = run.planned_epochs, None
    for given in yielded(lambda: train(values, run.repeat, **own)):
        epoch = parse_epoch(given, run.task.score, due or 0)
        if due is None and epoch.number > known:
            raise CannotResumeError(epoch.number, known)
        if due is not None and epoch.number != due:
            raise ValueError(f"train must yield epoch {due} next, but yielded epoch {epoch.number}")
        if planned is not None and epoch.number >= planned:
            raise ValueError(f"train yielded epoch {epoch.number}, but there are {planned} epochs")
        due = epoch.number + 1
        yield epoch
    if due is None and (known or any(folder.iterdir())):
        raise CannotResumeError(known, known)
    if due is None:
        raise ValueError("train yielded nothing, but must yield a dict of metrics per epoch")
    if planned is not None and due < planned:
        raise ValueError(f"train yielded {due} epochs, but there are {planned}")


def _read_log(folder: Path) -> list[EpochReport]:
    """Return the epochs that earlier calls have yielded."""
    with suppress(OSError, ValueError, TypeError):  # none, or damaged
        return [EpochReport(**own) for own in json.loads((folder / LOG).read_text("utf-8"))]
    return []


def _report(epoch: FunctionEpoch, study: Study, run: BaseRun, seconds: float) -> EpochReport:
    splits: dict[str, dict[str, float | int | None]] = {}
    for split, metrics in epoch.splits.items():
        own = epoch.examples.get(split, {})
        n = len(next(iter(own.values()))) if own else None
        # JSON has neither NaN nor infinity
        known = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
        splits[split] = {"n_examples": n, **known}
    score = epoch.examples.get("val", {}).get(run.task.score)
    is_binary = score is not None and bool(np.isin(score, (0, 1)).all())
    if study.until_decided and score is not None and not is_binary:
        raise ValueError(
            f"val/{run.task.score} must be 0 or 1 for each example, or one number, with repeats "
            f"auto, whose test needs binary values; yield its mean"
        )
    planned, correct = run.planned_epochs, None
    is_last = study.until_decided if planned is None else epoch.number + 1 == planned
    if is_binary and is_last:
        assert score is not None  # noqa: S101 - is_binary says so
        correct = pack_correct(score == (1 if run.task.sign > 0 else 0))
    return EpochReport(epoch.number, seconds, splits, correct)


def _save_examples(run: BaseRun, epoch: FunctionEpoch, file: Path) -> None:
    """Write the values per example of val and test; nothing if there are none."""
    import pandas as pd

    parts = []
    for split in ("val", "test"):
        if own := epoch.examples.get(split):
            n = len(next(iter(own.values())))
            columns = {"trial_id": run.trial_id, "split": split, "example": np.arange(n)}
            parts.append(pd.DataFrame(columns | own))
    if not parts:
        return
    with atomic_write(file) as part:
        pd.concat(parts, ignore_index=True).to_parquet(part, index=False)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the user's function may draw from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
