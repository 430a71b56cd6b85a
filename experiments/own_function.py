"""A training script of one's own: plain PyTorch, nothing of kdtune but the study at the end.

    python -m kdtune.search experiments/own_function.py      # in the folder that holds experiments/

A CNN of 2,000 images of Fashion-MNIST teaches a linear student of 300 of them. The script resumes
by epoch: `folder` is the trial's own, and is there again after a crash.
"""

from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdtune import Study

EPOCHS = 10


@cache
def data() -> dict[str, Tensor]:
    """Return images as float32 [N, 1, 28, 28] and labels as int64 [N] of train, val and test."""
    with np.load(str(files("kdtune") / "assets" / "fashion.npz")) as arrays:
        found = {name: torch.from_numpy(arrays[name]) for name in arrays.files if "_" in name}
    return {n: x[:, None] / 255 if n.endswith("images") else x.long() for n, x in found.items()}


@cache
def teacher_logits() -> Tensor:
    """Return the logits of a CNN on train, [2000, 10]; a process trains it once."""
    torch.manual_seed(0)
    x, y = data()["train_images"], data()["train_labels"]
    layers = [nn.Conv2d(1, 16, 3, 2), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten()]
    net = nn.Sequential(*layers, nn.Linear(1152, 10))
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for epoch in range(12):
        for i in torch.randperm(len(x), generator=torch.Generator().manual_seed(epoch)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[i]), y[i]).backward()
            optimizer.step()
    with torch.no_grad():
        return torch.as_tensor(net(x))


def train(config: dict[str, Any], repeat: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Distil into a linear student; yield the metrics of each epoch."""
    logits = teacher_logits()
    torch.manual_seed(repeat)
    student = nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    optimizer = torch.optim.SGD(student.parameters(), lr=config["lr"], momentum=0.9)
    state, first = folder / "state.pt", 0
    if state.exists():
        first, net, own = torch.load(state, weights_only=True)
        student.load_state_dict(net), optimizer.load_state_dict(own)
    x, y, alpha, t = (*(data()[f"train_{k}"] for k in ("images", "labels")), config["alpha"], 1.0)
    for epoch in range(first, EPOCHS):
        seed = torch.Generator().manual_seed(1000 * repeat + epoch)
        for i in torch.randperm(300, generator=seed).split(32):
            z = student(x[i])
            loss = alpha * F.cross_entropy(z, y[i])
            if alpha < 1:
                t = config["temperature"]
                soft = F.kl_div((z / t).log_softmax(1), (logits[i] / t).softmax(1), reduction="sum")
                loss = loss + (1 - alpha) * t**2 * soft / len(i)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            right = {
                split: student(data()[f"{split}_images"]).argmax(1) == data()[f"{split}_labels"]
                for split in ("val", "test")
            }
        yield {"epoch": epoch, **{f"{split}/acc": correct for split, correct in right.items()}}
        torch.save((epoch + 1, student.state_dict(), optimizer.state_dict()), state)


study = Study(
    name="own-function",
    train="experiments.own_function:train",
    space={"alpha": (0.1, 0.5, 1.0), "temperature": (1, 4), "lr": (0.01, 0.1)},
    baseline={"alpha": 1.0},
    unless={"temperature": {"alpha": 1.0}},
    epochs=EPOCHS,
    repeats=8,
)
