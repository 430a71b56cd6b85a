"""Data that are passed as objects equal those of a function that makes them."""

import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import own_data
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, TensorDataset

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.dataset import Data
from kdtune.data.sources import load_data

X, LABELS = torch.zeros(10, 2), [0, 1] * 5


class Pictures(Dataset):  # type: ignore[type-arg]
    """Images of Pillow, with a lock that cannot be copied; counts how often it is read."""

    def __init__(self, count: int):
        self.count, self.reads, self.lock = count, 0, threading.Lock()

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        self.reads += 1
        pixels = np.full((4, 4), index, dtype=np.uint8)
        return Image.fromarray(pixels), index % 2


def same(a: Data, b: Data) -> bool:
    assert a.splits.keys() == b.splits.keys()
    return (a.classes, a.fingerprint, a.photos) == (b.classes, b.fingerprint, b.photos) and all(
        torch.equal(a.splits[s].inputs, b.splits[s].inputs)  # type: ignore[arg-type]
        and torch.equal(a.splits[s].labels, b.splits[s].labels)
        for s in a.splits
    )


@pytest.mark.parametrize("make", [own_data.text, own_data.digits])
def test_a_dict_equals_the_function_that_makes_it(make: Callable[[], Any]) -> None:
    by_name = load_data(Run(data=f"own_data:{make.__name__}"))
    assert same(load_data(Run(data=make())), by_name)
    assert same(load_data(Run(data=lambda: make())), by_name)
    folds = Run(data=make(), folds=3, repeat=1)
    assert same(load_data(folds), load_data(replace(folds, data=f"own_data:{make.__name__}")))


def test_datasets_arrays_and_lists_may_stand_side_by_side() -> None:
    train, test = Pictures(6), np.arange(4 * 16, dtype=np.uint8).reshape(4, 4, 4)
    run = Run(data={"train": train, "val": TensorDataset(*_tensors(4)), "test": (test, [0, 1] * 2)})
    data = load_data(run)
    assert {name: split.kind for name, split in data.splits.items()} == dict.fromkeys(
        ("train", "val", "test"), "images"
    )
    assert data.splits["train"].inputs[5].unique().tolist() == [5]
    assert load_data(replace(run, alpha=0.1)) is data and train.reads == 6  # read once


def _tensors(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(count, 1, 4, 4, dtype=torch.uint8), torch.arange(count) % 2


def test_other_data_of_the_same_name_are_other_data() -> None:
    first, second = (Run(data={"train": (X + n, LABELS)}) for n in range(2))
    assert first.data == second.data
    assert load_data(first).fingerprint != load_data(second).fingerprint
    again = Run(data={"train": (X.clone(), list(LABELS))})
    assert load_data(again).fingerprint == load_data(first).fingerprint


FAULTS = {
    "no train": ({"val": (X, LABELS)}, "object:data must have train, but has val"),
    "unknown key": ({"train": (X, LABELS), "tset": (X, LABELS)}, "only, but has 'tset'"),
    "lengths": ({"train": (X, LABELS[:9])}, "has 10 examples and 9 labels"),
    "fractions": ({"train": (X, torch.rand(10))}, "must be whole numbers or strings"),
    "one array": ({"train": X}, r"object:data \(train\) must be a pair .* got Tensor"),
    "shapes": ({"train": (X, LABELS), "val": (X[:, :1], LABELS)}, "one shape and type"),
    "not a dict": (lambda: [1], "must return a dict"),
    "failing": (lambda: 1 / 0, "the data object:lambda cannot be made: ZeroDivisionError"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults_are_refused_in_one_sentence(case: str) -> None:
    data, words = FAULTS[case]
    with pytest.raises(InputError, match=words) as refused:
        load_data(Run(data=data))
    assert "\n" not in str(refused.value)


def test_data_that_are_not_passed_again_are_named() -> None:
    with pytest.raises(InputError, match=r"pass them again: kdtune.Run\(data=Pets\)"):
        load_data(Run(data="object:Pets"))
