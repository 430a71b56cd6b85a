"""The state of a run in a file."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kdtune.config.files import atomic_write
from kdtune.models.classifier import Classifier
from kdtune.training.metrics import Epoch


class Checkpoint:
    """The state of a run in a file: kept after each epoch, of very short ones after several.

    What a crash costs is one epoch, or 100 times what keeping a state takes, but no more than one
    epoch and two seconds.

    Args:
        file: of the state.
        sent: is called when a new state is there, to bring it to safety.
    """

    SHARE = 0.01
    """Of the time that may go into keeping states, unless they would grow older than `SECONDS`."""
    SECONDS = 2.0

    def __init__(self, file: Path, sent: Callable[[], None] = lambda: None):
        self.file, self._sent = file, sent
        self._cost, self._unkept = math.inf, math.inf  # seconds

    def keep(
        self, student: Classifier, optimizer: Optimizer, scheduler: LRScheduler, past: list[Epoch]
    ) -> None:
        """Keep the state after the last epoch of the past, unless that comes too often."""
        self._unkept += past[-1].seconds
        if self._unkept < min(self._cost / self.SHARE, self.SECONDS):
            return
        began = time.perf_counter()
        state = {
            "student": student.net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scheduler": {k: v for k, v in scheduler.state_dict().items() if not callable(v)},
            "epochs": [vars(epoch) for epoch in past],
        }
        with atomic_write(self.file) as aside:
            torch.save(state, aside)
        self._sent()
        took = time.perf_counter() - began
        self._cost, self._unkept = min(took, 2 * self._cost), 0.0  # once slow is not always slow

    def load(
        self, student: Classifier, optimizer: Optimizer, scheduler: LRScheduler
    ) -> list[Epoch]:
        """Put a run back to its state, if there is one; returns its past."""
        try:
            state: dict[str, Any] = torch.load(self.file, map_location="cpu", weights_only=True)
        except Exception:  # none, or damaged, which torch answers with many types: begin again
            return []
        student.net.load_state_dict(state["student"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        return [Epoch(**values) for values in state["epochs"]]
