"""Data, augmentations and models of users, named as they name theirs: `own_data:text`."""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from kdtune.data.sources import load_fashion

WORDS = 40
CLASSES = 4


def text() -> dict[str, Any]:
    """Token ids, int64 [N, 12], 0 for padding: each class prefers words of its own."""
    rng = np.random.default_rng(7)

    def split(count: int) -> tuple[Any, Any]:
        labels = rng.integers(0, CLASSES, count)
        liked = 1 + labels[:, None] * 8 + rng.integers(0, 8, (count, 12))
        tokens = np.where(rng.random((count, 12)) < 0.4, liked, rng.integers(1, WORDS, (count, 12)))
        tokens[np.arange(12) >= rng.integers(3, 13, (count, 1))] = 0
        return tokens, np.array(["anger", "fear", "joy", "trust"])[labels]

    return {"train": split(100), "val": split(60), "test": split(40)}


@cache
def clothes() -> dict[str, Any]:
    """Some of the embedded images: most of a run on all of them is the evaluation of val."""
    data, splits = load_fashion(), {}
    for name, count in (("train", 200), ("val", 48), ("test", 36)):
        split = data.splits[name]
        splits[name] = (split.inputs[:count], split.labels[:count])  # type: ignore[index]
    return {**splits, "classes": data.classes}


erased = v2.Compose([v2.RandomResizedCrop(28, antialias=True), v2.RandomErasing(p=1.0)])


def noisy(image: Tensor, generator: torch.Generator) -> Tensor:
    """Change the image in place, as kdtune lets it."""
    noise = torch.randint(0, 60, image.shape, generator=generator, dtype=torch.uint8)
    return image.bitwise_xor_(noise)


class Words(nn.Module):
    """Embedded words, the mean of those that are no padding, dropout and a linear head."""

    def __init__(self, classes: int, width: int, dropout: float = 0.0):
        super().__init__()
        self.embed = nn.Embedding(WORDS, width, padding_idx=0)
        self.mix = nn.Linear(width, width)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        known = (tokens != 0).unsqueeze(-1)
        mean = (self.embed(tokens) * known).sum(1) / known.sum(1)
        return self.head(self.drop(self.mix(mean).relu()))


def encoder(classes: int) -> nn.Module:
    return Words(classes, 32)


def small_reader(classes: int) -> nn.Module:
    return Words(classes, 8, dropout=0.2)
