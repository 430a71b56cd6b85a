"""Models for tests, named as users name theirs: `factories:dropout_student`."""

import json
import os
import time
from pathlib import Path

import torch
from torch import nn

from kdtune.models.classifier import Preprocessing, small_cnn


def tiny_teacher(classes: int) -> nn.Module:
    return small_cnn(classes, width=4)


def tiny_student(classes: int) -> nn.Module:
    return small_cnn(classes, width=2)


def bare_student(classes: int) -> nn.Module:
    net = tiny_student(classes)
    del net.preprocessing
    return net


def colour_teacher(classes: int) -> nn.Module:
    """Tells red, green and yellow apart, of images in [0, 1]."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 3, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(3, classes),
    )
    net[0].weight.data = torch.eye(3).view(3, 3, 1, 1)
    net[4].weight.data = torch.tensor([[4.0, -4, 0], [-4, 4, 0], [3, 3, 0]])
    net[4].bias.data = torch.tensor([0, 0.1, -1])
    net.preprocessing = Preprocessing()  # type: ignore[assignment]
    return net


def dropout_student(classes: int) -> nn.Module:
    """Dropout and batch norm, before the head and in the middle."""
    net = nn.Sequential(
        *(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3)),
        *(nn.Conv2d(4, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.5), nn.Linear(32, classes)),
    )
    net.preprocessing = Preprocessing(mean=(0.3,), std=(0.35,))  # type: ignore[assignment]
    return net


def unreadable_student(classes: int) -> nn.Module:
    """Builds, but does not give its weights."""

    def refuse(*_: object) -> None:
        raise RuntimeError("these weights cannot be read")

    net = small_cnn(classes, width=2)
    net.register_state_dict_pre_hook(refuse)
    return net


def gpu_witness(classes: int) -> nn.Module:
    """Notes the GPU that Ray gave the trial that builds it, and waits for the notes of 4 trials."""
    if "KDTUNE_WITNESS" in os.environ and os.environ.get("CUDA_VISIBLE_DEVICES"):
        notes = Path(os.environ["KDTUNE_WITNESS"]) / "witness"
        with notes.open("a") as file:
            file.write(json.dumps([os.environ["CUDA_VISIBLE_DEVICES"], time.time()]) + "\n")
        until = time.monotonic() + 60
        while len(notes.read_text().splitlines()) < 4 and time.monotonic() < until:
            time.sleep(0.05)
    return tiny_student(classes)


def photo_student(classes: int) -> nn.Module:
    """A student of RGB images whose input is smaller than the views, with other channel means."""
    net = nn.Sequential(
        *(nn.Conv2d(3, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(4)),
        *(nn.Flatten(), nn.Linear(64, classes)),
    )
    own = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.25, 0.3), "interpolation": "bicubic"}
    net.preprocessing = Preprocessing(size=40, **own)  # type: ignore[assignment, arg-type]
    return net
