"""Trials of a training function of the user's own. Imports no torch."""

import inspect
import json
import math
import random
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from ray import tune

from kdtune.config import files
from kdtune.config.run import derive_seed
from kdtune.config.study import Study
from kdtune.config.task import SPLITS, BaseRun, Train, load_function, own_metric, parse_metric
from kdtune.config.text import Diverged, user_code
from kdtune.statistics.selection import rungs
from kdtune.storage.folder import MARK, describe_folder_fault
from kdtune.storage.mirror import Mirror
from kdtune.storage.records import CORRECT, pack_correct

# What a training function of the user's own yields: its epochs, checked. Imports no torch.


_Values = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class EpochReport:
    """Results of one epoch."""

    number: int
    """0, 1, 2, ..."""
    seconds: float
    """Wall time."""
    splits: Mapping[str, Mapping[str, float | int | None]]
    """Metrics by split, and n_examples."""
    correct: str | None = None
    """In the last epoch: the correctness of each example of val, as of `pack_correct`."""
    examples: Mapping[str, Mapping[str, _Values]] = field(default_factory=dict)
    """Values per example, [N], of a function's metrics that it gives as arrays, by split. They are
    not reported."""

    @property
    def recorded(self) -> dict[str, Any]:
        """What is reported and recorded of it."""
        values = {"number": self.number, "seconds": self.seconds, "splits": self.splits}
        return values if self.correct is None else values | {CORRECT: self.correct}


def yielded(train: Callable[[], object]) -> Iterator[Any]:
    """Call a training function and yield what it yields; one of one epoch may return its dict.

    sys.exit() is an error here: Ray takes it for a trial that has completed.
    """
    with user_code("train ended", only_exits=True):
        result = train()
        if isinstance(result, Mapping):
            result = [result]
        if not isinstance(result, Iterable) or isinstance(result, str | bytes):
            name = type(result).__name__
            raise ValueError(f"train must yield dicts of metrics, but returned {name}")
        yield from result


def parse_epoch(result: object, study: Study, run: BaseRun, number: int) -> EpochReport:
    """Return an epoch of what a training function has yielded, without its time.

    Args:
        result: SPLIT/NAME to a number, or to an array of a value per example, [N], whose mean is
            the metric; and perhaps "epoch", its number.
        study: Says whether its test needs binary values.
        run: Names the metric on val that it must hold.
        number: Of the epoch, unless it says another.
    """
    score = run.task.score
    if not isinstance(result, Mapping):
        raise ValueError(f"train must yield dicts of metrics, but yielded {result!r:.80}")
    splits: dict[str, dict[str, float | int | None]] = {}
    examples: dict[str, dict[str, _Values]] = {}
    for key, value in result.items():
        if key == "epoch":
            number = int(value)
            continue
        split = str(key).partition("/")[0]
        name = parse_metric(str(key), split if split in SPLITS else "val")
        values = _as_numbers(key, value)
        if values.ndim == 1:
            examples.setdefault(split, {})[name] = values
        mean = float(values.mean())
        # JSON has neither NaN nor infinity
        splits.setdefault(split, {})[name] = mean if math.isfinite(mean) else None
        if own_metric(name).unit == "points" and math.isfinite(mean) and not 0 <= mean <= 1:
            raise ValueError(
                f"{key} must be a share in [0, 1], as kdtune's {name} is, but is {mean:g}; divide "
                f"a percentage by 100, or give the metric another name"
            )
    if score not in splits.get("val", {}):
        raise ValueError(
            f"train must yield val/{score} in each epoch, but yielded {list(result)!r:.200}"
        )
    if splits["val"][score] is None:
        raise Diverged(f"val/{score} is {float(np.mean(result[f'val/{score}']))} in epoch {number}")
    for split, metrics in splits.items():
        counts = {len(values) for values in examples.get(split, {}).values()}
        if len(counts) > 1:
            raise ValueError(f"arrays of {split} must have one value per example each")
        splits[split] = {"n_examples": next(iter(counts), None), **metrics}
    correct = _correct(examples.get("val", {}).get(score), study, run, number)
    return EpochReport(number, 0.0, splits, correct, examples)


def _correct(score: _Values | None, study: Study, run: BaseRun, number: int) -> str | None:
    """Return the correctness of val's examples in the last epoch, if their score is binary."""
    if score is None:
        return None
    if not np.isin(score, (0, 1)).all():
        if not study.until_decided:
            return None
        raise ValueError(
            f"val/{run.task.score} must be 0 or 1 for each example, or one number, with repeats "
            f"auto, whose test needs binary values; yield its mean"
        )
    planned = run.planned_epochs
    is_last = study.until_decided if planned is None else number + 1 == planned
    return pack_correct(score == (1 if run.task.sign > 0 else 0)) if is_last else None


def _as_numbers(key: str, value: Any) -> _Values:
    try:
        values = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{key} must be a number or an array [N], but is {value!r:.80}") from None
    if values.ndim > 1 or not values.size:
        raise ValueError(f"{key} must be a number or an array [N], but has {values.shape}")
    return values


# Reports of a trial to Tune. Imports neither torch nor a trial's own libraries.


REPORT_SECONDS = 0.5
"""Shorter epochs are reported together: a report costs 5 ms of CPU time in all."""

MAX_ERROR = 2000
"""Letters of an error that the records keep; the trial's error.txt has it whole."""


def shown_names(study: Study) -> list[str]:
    """Return the hyperparameters that name a configuration on the terminal."""
    return study.searched or list(study.task.baseline) or list(study.space)[:1]


class Reporter:
    """Reports the epochs of a trial to Tune, several at a time if they are short."""

    def __init__(self, study: Study, run: BaseRun):
        planned = run.planned_epochs
        prunes = study.stop_early and run.repeat == 0
        self._rungs = rungs(planned) if prunes and planned is not None else []
        self._unreported: list[EpochReport] = []
        self._warnings: list[str] = []
        self._last = time.monotonic()

    def add(self, epoch: EpochReport) -> None:
        """Report the epoch now if the trial may be pruned after it, else with later ones."""
        self._unreported.append(epoch)
        at_rung = epoch.number + 1 in self._rungs
        if at_rung or time.monotonic() - self._last >= REPORT_SECONDS:
            self.report()

    def warn(self, sentence: str) -> None:
        """Have a sentence about the trial's machine or files shown with the next report."""
        self._warnings.append(sentence)

    def report(self, error: str | None = None) -> None:
        """Report the epochs that have not been reported, and why the trial failed, if it did."""
        last = self._unreported[-1].splits if self._unreported else {}
        curves = {  # the last metrics, for TensorBoard
            split: {name: value for name, value in metrics.items() if value is not None}
            for split, metrics in last.items()
        }
        epochs = [epoch.recorded for epoch in self._unreported]
        tune.report({"epochs": epochs, "error": error, "warnings": self._warnings, **curves})
        self._unreported, self._warnings, self._last = [], [], time.monotonic()


def describe_failure(error: Exception, mirror: Mirror, place: str) -> str:
    """Return what is reported of an exception; write its traceback into the trial's folder."""
    folder = mirror.folder / place
    # before a folder that is gone is made again
    fault = describe_folder_fault(error, mirror.folder)
    with suppress(OSError):  # perhaps the disk or the store is what failed
        folder.mkdir(parents=True, exist_ok=True)
        with files.atomic_write(folder / "error.txt") as part:
            part.write_text(traceback.format_exc(), encoding="utf-8", errors="backslashreplace")
        mirror.push(f"{place}/error.txt")
    if fault is not None:
        return MARK + fault
    # the names of files may hold bytes that are no text
    text = str(error)[:MAX_ERROR].encode("utf-8", "backslashreplace").decode("utf-8")
    return f"{type(error).__name__}: {text}"


# A trial, whatever makes its epochs; and the epochs of a training function of the user's own.


class CannotResumeError(RuntimeError):
    """A function goes on after an epoch that it has not yielded, or with no epoch at all."""

    def __init__(self, first: int, logged: int):
        super().__init__(
            f"train begins at epoch {first}, but only {logged} epochs were yielded before; save "
            f"the state of an epoch after its yield"
        )


MakeEpochs = Callable[[Study, Any, Mirror, Reporter], Generator[EpochReport, None, None]]
"""Function of the study, a run, the mirror of its folder, and the reporter, which gets sentences
about the machine and its files. It yields the epochs of the run, from where an earlier attempt
ended, and leaves what is kept of the trial in its folder."""


@files.not_writable_by_all()  # another machine's Ray may have another umask
def run_trial(make_epochs: MakeEpochs, config: dict[str, Any], study: Study) -> None:
    """Run one trial and report its epochs to Tune.

    A run that raises is reported as failed, with the reason, and its worker stays in use. Ray
    restarts a trial only if its worker died; it then resumes from what the run itself has saved.

    Args:
        make_epochs: `distillation_epochs` or `function_epochs`.
        config: A sample of the study's space, and the repeat.
        study: The study.
    """
    run = study.base_run.sample(**config)
    place = trial_folder(run)
    mirror, reporter, error = Mirror(study), Reporter(study, run), None
    try:
        with closing(make_epochs(study, run, mirror, reporter)) as epochs:
            for epoch in epochs:
                reporter.add(epoch)
        mirror.push(place)
        mirror.clear(place)
    except Exception as caught:
        error = describe_failure(caught, mirror, place)
    torch = sys.modules.get("torch")
    if error is not None and torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()  # a run that did not fit leaves no memory to the next
    reporter.report(error)


def trial_folder(run: BaseRun) -> str:
    """Return the folder of a run's trial, below that of its study."""
    return f"trials/{run.trial_id}"


def function_epochs(
    study: Study, run: BaseRun, mirror: Mirror, reporter: Reporter
) -> Generator[EpochReport, None, None]:
    """Call the study's training function and yield its epochs.

    The epochs are also kept in the trial's folder, since a worker may die before Tune has got them.
    A function that resumes after them does not yield them again. What it has written to its folder
    it finds there.
    """
    place = trial_folder(run)
    written = f"{place}/{files.TRIAL_FILES}"
    folder = study.folder / written
    mirror.pull_folders(written)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with mirror.push_in_background(written) as push:
            try:
                epoch = yield from _logged_epochs(study, run, folder, push)
            except CannotResumeError:  # its files are of an earlier, perhaps completed trial
                shutil.rmtree(folder)
                folder.mkdir()
                epoch = yield from _logged_epochs(study, run, folder, push)
    except Exception:
        with suppress(OSError):  # perhaps the store is what failed
            mirror.push(written)  # a retry goes on from them
        raise
    _save_examples(run, epoch, study.folder / place / files.PREDICTIONS)
    mirror.push(place)
    (folder / files.EPOCHS_LOG).unlink(missing_ok=True)
    mirror.delete(f"{written}/{files.EPOCHS_LOG}")
    if not any(folder.iterdir()):
        folder.rmdir()


def _logged_epochs(
    study: Study, run: BaseRun, folder: Path, push: Callable[[], None]
) -> Generator[EpochReport, None, EpochReport]:
    """Yield the epochs of the log and those of a call of the function; return the last one."""
    logged = _read_log(folder)
    reports: list[EpochReport] = []
    began = time.monotonic()
    for epoch in call(study, run, folder, len(logged)):
        if not reports:
            reports = logged[: epoch.number]
            yield from reports
        reports.append(replace(epoch, seconds=time.monotonic() - began))
        recorded = [report.recorded for report in reports]
        files.write_text(folder / files.EPOCHS_LOG, json.dumps(recorded))
        yield reports[-1]
        push()
        began = time.monotonic()
    return reports[-1]


def call(study: Study, run: BaseRun, folder: Path, logged: int = 0) -> Iterator[EpochReport]:
    """Call the training function of a study; yield its epochs, checked.

    Python's, numpy's and, if the function's module uses it, torch's generators are seeded from the
    study's seed and the repeat before the call, so that a worker leaves nothing to the next trial.

    Args:
        study: Names the function.
        run: The configuration and the repeat.
        folder: Given to a function with a parameter of this name.
        logged: Number of epochs that an earlier call has yielded.

    Raises:
        ValueError: What it yields is not as documented in `Study.train`.
        InputError: It calls sys.exit().
        CannotResumeError: It goes on after an epoch that no call has yielded.
        Diverged: The metric that decides is NaN or infinite.
    """
    train: Train = study.train if callable(study.train) else load_function(str(study.train))
    _seed(derive_seed("train", run.seed, run.repeat))
    options = {"folder": folder} if "folder" in inspect.signature(train).parameters else {}
    values = {name: value for name, value in run.config.items() if value is not None}
    planned, due = run.planned_epochs, None
    for result in yielded(lambda: train(values, run.repeat, **options)):
        epoch = parse_epoch(result, study, run, due or 0)
        if due is None and epoch.number > logged:
            raise CannotResumeError(epoch.number, logged)
        if due is not None and epoch.number != due:
            raise ValueError(f"train must yield epoch {due} next, but yielded epoch {epoch.number}")
        if planned is not None and epoch.number >= planned:
            raise ValueError(f"train yielded epoch {epoch.number}, but there are {planned} epochs")
        due = epoch.number + 1
        yield epoch
    if due is None and (logged or any(folder.iterdir())):
        raise CannotResumeError(logged, logged)
    if due is None:
        raise ValueError("train yielded nothing, but must yield a dict of metrics per epoch")
    if planned is not None and due < planned:
        raise ValueError(f"train yielded {due} epochs, but there are {planned}")


def _read_log(folder: Path) -> list[EpochReport]:
    """Return the epochs that earlier calls have yielded."""
    with suppress(OSError, ValueError, TypeError):  # none, or damaged
        epochs = json.loads((folder / files.EPOCHS_LOG).read_text("utf-8"))
        return [EpochReport(**values) for values in epochs]
    return []


def _save_examples(run: BaseRun, epoch: EpochReport, file: Path) -> None:
    """Write the values per example of val and test; nothing if there are none."""
    import pandas as pd

    parts = []
    for split in ("val", "test"):
        if values := epoch.examples.get(split):
            n = len(next(iter(values.values())))
            columns = {"trial_id": run.trial_id, "split": split, "example": np.arange(n)}
            parts.append(pd.DataFrame({**columns, **values}))
    if not parts:
        return
    with files.atomic_write(file) as part:
        pd.concat(parts, ignore_index=True).to_parquet(part, index=False)


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  the user's function may draw from it
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(seed)
