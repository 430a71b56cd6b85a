"""Checkpoint of a run: its last two states in files, from which an interrupted run resumes."""

import copy
import math
import os
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdtune.config.errors import first_line
from kdtune.config.files import atomic_write, delete, state_files
from kdtune.models.classifier import Classifier
from kdtune.training.averaging import WeightAverage
from kdtune.training.metrics import Epoch
from kdtune.training.predictions import Predictions

FORMAT = 2
"""Of the file; a file of another format is ignored, so its run begins again."""


class BestEpoch(NamedTuple):
    """The best epoch so far, with a copy of the weights after it."""

    number: int
    acc: float
    """Accuracy on val."""
    weights: dict[str, Tensor]


def _better(best: BestEpoch | None, epoch: Epoch, student: Classifier) -> BestEpoch:
    """Return the better of the best epoch so far and the one that has just ended."""
    acc = epoch.splits["val"]["acc"]
    assert acc is not None  # noqa: S101 - val is labelled
    if best is not None and best.acc >= acc:
        return best
    state = student.net.state_dict()
    return BestEpoch(epoch.number, acc, {k: v.detach().cpu().clone() for k, v in state.items()})


def _nothing() -> None:
    """Do nothing after saving."""


def _say_nothing(sentence: str) -> None:
    """Tell nobody of a state that cannot be used."""


class Checkpoint:
    """The state of a run in a file, saved after an epoch; after several if they are very short.

    A crash loses one epoch, or 100 times as long as saving takes, but not more than one epoch and
    two seconds. The state before the last one is kept as well, see `state_files`: if the last one
    is damaged, as a machine without power may leave it, the run resumes from the one before.

    Args:
        file: The file of the last state.
        on_save: Called after each save, for instance to upload the file. An upload is whole or
            does not happen, so a store needs no second state.
        keeps_best: Whether the state also has the weights of the best epoch so far, see `best`.
        owner: What the state is of, such as the id of a trial; that of another is ignored. States
            of earlier versions do not say it.
        say: Is given a sentence if a state cannot be used.
    """

    MAX_TIME_SHARE = 0.01
    """Share of the time that saving may take, as long as the last state is young enough."""
    MAX_AGE_SECONDS = 2.0
    """Training time after which the state is saved at the next epoch, however long that takes."""

    def __init__(
        self,
        file: Path,
        on_save: Callable[[], None] = _nothing,
        keeps_best: bool = False,
        owner: str = "",
        say: Callable[[str], None] = _say_nothing,
    ):
        self.file, self._on_save, self._keeps_best = file, on_save, keeps_best
        self._owner, self._say = owner, say
        self._is_last_whole = False
        """Whether the last state was written or read by this process, so that it is worth keeping
        as the one before."""
        self.best: BestEpoch | None = None
        """The epoch with the highest accuracy on val, the first of equal ones."""
        self._save_seconds, self._unsaved_seconds = math.inf, math.inf

    def save(
        self,
        student: Classifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        past: list[Epoch],
        projector: nn.Module | None = None,
        average: WeightAverage | None = None,
    ) -> None:
        """Save the state after the last of the past epochs, unless the last save is too recent."""
        if self._keeps_best:
            self.best = _better(self.best, past[-1], student)
        self._unsaved_seconds += past[-1].seconds
        due_after = min(self._save_seconds / self.MAX_TIME_SHARE, self.MAX_AGE_SECONDS)
        if self._unsaved_seconds < due_after:
            return
        began = time.perf_counter()
        state = {
            "format": FORMAT,
            "owner": self._owner,
            "student": student.net.state_dict(),
            "projector": None if projector is None else projector.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": {k: v for k, v in scheduler.state_dict().items() if not callable(v)},
            "average": None if average is None else average.state_dict(),
            "epochs": [_values(epoch) for epoch in past],
            # in the same file, so that weights and epochs belong together whenever a crash comes
            "best": None if self.best is None else tuple(self.best),
        }
        # a stream, not the path: only its errors tell that the disk is full
        with atomic_write(self.file) as part, part.open("wb") as stream:
            torch.save(state, stream)
            stream.close()  # an error on closing leaves the last state in its place
            self._keep_last()
        self._is_last_whole = True
        self._on_save()
        took = time.perf_counter() - began
        # at most doubled: one slow save does not make all later ones rare
        self._save_seconds = min(took, 2 * self._save_seconds)
        self._unsaved_seconds = 0.0

    def _keep_last(self) -> None:
        """Make the last state the previous one as well, if it is known to be whole."""
        last, previous = state_files(self.file)
        if not self._is_last_whole:
            if last.is_dir():
                delete(last)  # no file can take the place of a folder
            return
        delete(previous)
        with suppress(OSError), last.open("rb") as stream:
            os.fsync(stream.fileno())  # so that a loss of power cannot damage both states
        try:
            os.link(last, previous)  # the last state also stays where an upload may be reading it
        except FileNotFoundError:  # somebody has deleted it
            pass
        except OSError:  # a file system without links; a crash here leaves only the previous state
            os.replace(last, previous)

    def load(
        self,
        student: Classifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        projector: nn.Module | None = None,
        average: WeightAverage | None = None,
    ) -> list[Epoch]:
        """Restore the last state that can be used, and return its past epochs.

        Without a state, or with states that are damaged, of another format, model or owner, the
        student and the projector are left as they are and the list is empty.
        """
        files = [file for file in state_files(self.file) if file.exists()]
        if not files:
            return []
        before = {name: value.clone() for name, value in student.net.state_dict().items()}
        projected = {} if projector is None else copy.deepcopy(projector.state_dict())
        past, faults = list[Epoch](), list[str]()
        for file in files:
            try:
                past = self._restore(file, student, optimizer, scheduler, projector, average)
            except Exception as error:  # torch answers damage with many types
                if average is not None:
                    average.updates = 0  # the first update replaces the averages
                if projector is not None:
                    projector.load_state_dict(projected)
                student.net.load_state_dict(before)
                faults.append(f"{file} cannot be used ({first_line(error, 100)})")
            else:
                self._is_last_whole = file == self.file
                break
        if faults:
            what = f"resumes after epoch {past[-1].number}" if past else "begins again"
            self._say(f"{' and '.join(faults)}, so the run {what}")
        return past

    def _restore(
        self,
        file: Path,
        student: Classifier,
        optimizer: Optimizer,
        scheduler: LRScheduler,
        projector: nn.Module | None,
        average: WeightAverage | None,
    ) -> list[Epoch]:
        """Restore the state in a file and return its past epochs; raise whatever is wrong."""
        with zipfile.ZipFile(file) as archive:
            if archive.testzip() is not None:  # torch does not compare the checksums
                raise ValueError("it is damaged")
        state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
        if state.get("format") != FORMAT:
            raise ValueError("another version of kdtune has written it")
        if state.get("owner", self._owner) != self._owner:
            raise ValueError("it is of another run")
        past = [_epoch(values) for values in state["epochs"]]
        parts = state["student"], state["optimizer"], state["scheduler"]
        if average is not None:
            average.load_state_dict(state["average"])
        if projector is not None:
            projector.load_state_dict(state["projector"])
        student.net.load_state_dict(parts[0])
        optimizer.load_state_dict(parts[1])
        scheduler.load_state_dict(parts[2])
        self.best = BestEpoch(*best) if (best := state.get("best")) else None
        return past


def _values(epoch: Epoch) -> dict[str, Any]:
    """Return the epoch as numbers, tensors and dicts of them, which torch loads without pickle."""
    predictions = {split: vars(own) for split, own in epoch.predictions.items()}
    return {**vars(epoch), "predictions": predictions}


def _epoch(values: dict[str, Any]) -> Epoch:
    """Return the epoch of `_values`."""
    predictions = {split: Predictions(**own) for split, own in values["predictions"].items()}
    return Epoch(**{**values, "predictions": predictions})
