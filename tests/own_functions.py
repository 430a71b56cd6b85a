"""Training functions for tests, named as users name theirs: `own_functions:wave`."""

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdtune.config.study import Study


def study_of(train: Any, out: object, **changes: Any) -> Study:
    own: dict[str, Any] = {"space": {"alpha": (0.5, 1.0)}, "baseline": {"alpha": 1.0}}
    return Study(train=train, out=str(out), **own | changes)


def wave(config: dict[str, Any], repeat: int) -> Iterator[dict[str, Any]]:
    """Three epochs whose last accuracy is the share of 8 correct examples; draws from numpy."""
    noise = np.random.random()  # noqa: NPY002  kdtune seeds it
    for epoch in range(3):
        right = np.arange(8) < 4 + epoch + (config["alpha"] < 1)
        yield {"val/acc": right, "val/noise": noise, "test/acc": 0.5, "train/acc": 0.9}


def climbs(config: dict[str, Any], repeat: int) -> Iterator[dict[str, Any]]:
    """Eight epochs; a smaller alpha ends higher, with a little noise. Fails beside torch."""
    if "torch" in sys.modules:
        raise RuntimeError("its worker has loaded torch")
    end = 0.9 - 0.3 * config["alpha"] + 0.01 * np.random.random()  # noqa: NPY002  kdtune seeds it
    yield from ({"val/acc": end * (1 - 0.5**epoch)} for epoch in range(1, 9))


def stops_once(config: dict[str, Any], repeat: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Three epochs, of which the first call yields two and then raises; keeps its state."""
    state = folder / "state.json"
    done = json.loads(state.read_text()) if state.exists() else 0
    for epoch in range(done, 3):
        yield {"epoch": epoch, "val/acc": 0.1 * epoch, "val/began": done}
        state.write_text(json.dumps(epoch + 1))
        if done == 0 and epoch == 1:
            raise RuntimeError("once")


def saves_too_early(config: dict[str, Any], repeat: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Two epochs; its state is from epoch 1 on that of a call that was never heard of."""
    first = 1 if (folder / "state").exists() else 2 if (folder / "done").exists() else 0
    for epoch in range(first, 2):
        yield {"epoch": epoch, "val/acc": 0.5}


def soft(config: dict[str, Any], repeat: int) -> dict[str, Any]:
    """One epoch with probabilities per example."""
    return {"val/acc": np.array([0.2, 0.9])}


def failing(config: dict[str, Any], repeat: int) -> Iterator[dict[str, Any]]:
    """What goes wrong is the value of the hyperparameter."""
    kind = config["kind"]
    if kind == "raises":
        raise RuntimeError("no more data")
    if kind == "nothing":
        return
    if kind == "exits":
        sys.exit(0)
    yield {
        "control": {"val/acc": 1.0, "val/\x1b[31m": 1.0},
        "nan": {"val/acc": float("nan")},
        "no score": {"val/loss": 1.0},
        "no split": {"acc": 1.0},
        "lengths": {"val/acc": [1, 0], "val/other": [1, 0, 1]},
        "short": {"val/acc": 1.0},
        "percent": {"val/acc": 81.0},
        "reserved": {"val/acc": 1.0, "val/label": 1.0},
    }[kind]


def steady(config: dict[str, Any], repeat: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Eight epochs whose numbers follow from all epochs before; keeps its state.

    They last KDTUNE_TEST_SECONDS each.
    """
    state = folder / "state.json"
    epoch, value = json.loads(state.read_text()) if state.exists() else (0, 0.5)
    while epoch < 8:
        time.sleep(float(os.environ.get("KDTUNE_TEST_SECONDS", "0.1")))
        value = (3.7 * value * (1 - value) + 0.1 * config["alpha"] + 0.01 * repeat) % 1
        yield {"epoch": epoch, "val/acc": value, "test/acc": value / 2}
        epoch += 1
        part = folder / "state.part"
        part.write_text(json.dumps((epoch, value)))
        part.replace(state)


def dies_once(config: dict[str, Any], repeat: int, folder: Path) -> Iterator[dict[str, Any]]:
    """`steady`, whose process dies once in epoch 2 of repeat 1."""
    for epoch in steady(config, repeat, folder):
        if repeat == 1 and epoch["epoch"] == 2 and not (folder / "died").exists():
            (folder / "died").touch()
            os._exit(1)
        yield epoch
