"""Data of arrays, torch datasets, factories and objects, and images without labels."""

import json
import os
import struct
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import own_data
import pytest
import torch
from photos import photo, save, save_photos
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import datasets
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.arrays import add_extra
from kdtune.data.checks import data_record, describe_data, find_copies
from kdtune.data.dataset import Data
from kdtune.data.folder import verify
from kdtune.data.sources import StudyData, load_data
from kdtune.data.views import Views
from kdtune.raytune.objects import freeze, thaw

LABELS = np.arange(10) % 2


@pytest.fixture
def own_module(monkeypatch):
    """Let a function of the user's return something; return the name that a run is given."""

    def own_module(made):
        module = ModuleType("own_module")
        module.make = made if callable(made) else lambda: made
        monkeypatch.setitem(sys.modules, "own_module", module)
        return "own_module:make"

    return own_module


@pytest.fixture
def load(own_module):
    return lambda made, **run: load_data(Run(data=own_module(made), **run))


def pair(inputs, labels=LABELS):
    return {"train": (inputs, labels), "val": (inputs, labels)}


@pytest.mark.parametrize(
    "inputs",
    [
        np.linspace(0, 1, 30, dtype=np.float32).reshape(10, 3),
        np.arange(40).reshape(10, 4),
        torch.rand(10, 3, 6, 6, dtype=torch.float64),
        torch.arange(10 * 4 * 6 * 6).remainder(255).to(torch.uint8).view(10, 4, 6, 6),
    ],
    ids=["table", "whole numbers", "float64", "four channels"],
)
def test_tensors_of_any_shape_and_type_are_taken_as_they_are(load, inputs):
    data = load(pair(inputs))
    expected = torch.as_tensor(inputs)
    assert data.kind == "tensors" and data.classes == ("0", "1")
    views = Views(data.splits["train"], torch.tensor([3, 1]), Run(augment="none"), 0, 1)
    (batch,) = views.batches()
    assert batch.dtype == expected.dtype and torch.equal(batch, expected[[3, 1]])


def test_bytes_with_one_or_three_channels_are_images_wherever_the_channels_are(load):
    grey = np.arange(10 * 5 * 6, dtype=np.uint8).reshape(10, 5, 6)
    rgb = np.arange(10 * 3 * 5 * 6).astype(np.uint8).reshape(10, 3, 5, 6)
    forms = [(grey, grey[:, None]), (grey[..., None], grey[:, None]), (rgb, rgb)]
    for given, expected in [*forms, (rgb.transpose(0, 2, 3, 1), rgb)]:
        data = load(pair(given))
        assert data.kind == "images"
        assert torch.equal(data.splits["val"].inputs, torch.from_numpy(expected))
    ambiguous = np.zeros((10, 3, 5, 3), np.uint8)  # channels first, as torch has them
    assert load(pair(ambiguous)).splits["val"].inputs.shape == (10, 3, 5, 3)


class Pairs(Dataset):
    def __init__(self, *pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, i):
        return self.pairs[i]


def test_datasets_are_read_item_by_item(load):
    images = [to_pil_image(photo(i, 6, 8)) for i in range(4)]
    colour = load({"train": Pairs(*((x, i % 2) for i, x in enumerate(images)))}, val_share=0.5)
    both = torch.cat([s.inputs for s in colour.splits.values()])
    assert colour.kind == "images" and both.shape == (4, 3, 6, 8)
    expected = {pil_to_tensor(x).numpy().tobytes() for x in images}
    assert {x.numpy().tobytes() for x in both} == expected
    of_grey = load({"train": Pairs(*((x.convert("L"), "ab"[i % 2]) for i, x in enumerate(images)))})
    assert of_grey.splits["train"].inputs.shape[1] == 1 and of_grey.classes == ("a", "b")
    rows = TensorDataset(torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 0, 1, 0, 1]))
    arrays = (np.arange(4.0, dtype=np.float32).reshape(2, 2), [0, 1])
    some = load({"train": Subset(rows, [5, 0, 2, 1]), "val": arrays, "test": None})
    assert some.splits["train"].inputs.tolist() == [[10, 11], [0, 1], [4, 5], [2, 3]]
    assert some.splits["train"].labels.tolist() == [1, 0, 0, 1] and "test" not in some.splits


def test_strings_become_sorted_classes_and_groups_are_known_by_content(load):
    x = torch.zeros(4, 2)
    train = (x, ["wasp", "ant", "bee", "ant"])
    data = load({"train": train, "validation": (x[:2], ["bee", "ant"])})
    assert data.classes == ("ant", "bee", "wasp")
    assert data.splits["train"].labels.tolist() == [2, 0, 1, 0]
    assert data.splits["val"].labels.tolist() == [1, 0]
    named = load(pair(torch.zeros(10, 2)) | {"classes": ("no", "yes")})
    assert named.classes == ("no", "yes")
    made = pair(torch.arange(20.0).reshape(10, 2))
    one, other = np.arange(10) // 3, np.array(["p"] * 4 + ["q"] * 6)
    data = load(made | {"groups": {"train": torch.from_numpy(one), "val": other}})
    assert data.splits["train"].groups.tolist() == list("0001112223")
    assert data.splits["val"].groups.tolist() == other.tolist()
    prints = {load(made).fingerprint, data.fingerprint}
    prints.add(load(made | {"groups": {"train": one, "val": other[::-1]}}).fingerprint)
    assert len(prints) == 3 and load(made | {"groups": None}).fingerprint in prints
    content = freeze(data, buffers := [])
    assert thaw(content, buffers).splits["val"].groups.tolist() == other.tolist()


def test_groups_stay_with_their_files_in_the_datasets_order(load, tmp_path):
    save_photos(tmp_path, 3)
    made = datasets.ImageFolder(tmp_path / "train")
    made.samples.reverse()  # as a file system may list them
    names = [Path(file).stem for file, _ in made.samples]
    groups = {"train": names, "val": names}
    split = load({"train": made, "val": made, "groups": groups}).splits["val"]
    assert [Path(file).stem for file in split.inputs] == split.groups.tolist()


X = torch.zeros(10, 2)
ONE = {"train": LABELS, "val": LABELS}
FAULTS = {
    "no dict of groups": (lambda: pair(X) | {"groups": LABELS}, "be a dict .* but are ndarray"),
    "groups of one split": (
        lambda: pair(X) | {"groups": {"train": LABELS}},
        r"but there are \{'train': 10\} for \{'train': 10, 'val': 10\}",
    ),
    "groups of numbers": (lambda: pair(X) | {"groups": ONE | {"val": X}}, "groups of .* are float"),
    "one group": (lambda: pair(X) | {"groups": ONE | {"val": LABELS * 0}}, "must .* are of 0;"),
    "unknown key": (lambda: {"trian": (X, LABELS)}, "only, but has 'trian'"),
    "no labels": (lambda: {"train": X}, r"own_module:make \(train\) must be a pair .* got Tensor"),
    "empty": (lambda: pair(X[:0], LABELS[:0]), r"each with a label, but has 0 examples"),
    "from 1": (lambda: pair(X, LABELS + 1), "none of .'0'.; number the classes from 0"),
    "one class": (lambda: pair(X, LABELS * 0), "at least two classes, but has 0 alone"),
    "one-hot": (lambda: pair(X, np.eye(10)), r"\[N\], but are float64 \[10, 10\]"),
    "ragged": (lambda: pair([[1, 2], [3]]), "an array of numbers of one shape, but got list"),
    "other type in val": (
        lambda: {"train": (X, LABELS), "val": (X.long(), LABELS)},
        r"as train \(\[2\] of float32\), .* has 10 examples \(\[2\] of int64\) and 10 labels",
    ),
    "unknown in val": (
        lambda: {"train": (X[:2], ["a", "b"]), "val": (X[:1], ["c"])},
        r"\(val\) must be classes of train, but got .'c'.",
    ),
    "sizes differ": (
        lambda: {"train": Pairs((X[0], 0), (X[0, :1], 1))},
        r"like the first, \[2\] .* but item 1 has \[1\]",
    ),
    "raises": (lambda: 1 / 0, r"cannot be made: ZeroDivisionError: .*test_arrays.py, line"),
}


@pytest.mark.parametrize(("made", "words"), FAULTS.values(), ids=FAULTS)
def test_faults_are_refused_in_one_sentence(load, made, words):
    with pytest.raises(InputError, match=words) as caught:
        load(made)
    assert "own_module:make" in str(caught.value) and "\n" not in str(caught.value)


def test_random_data_are_the_same_in_every_process_and_known_by_content(load):
    def drawn():
        rows = torch.randn(20, 3) + torch.from_numpy(np.random.rand(20, 1))  # noqa: NPY002
        return {"train": (rows, np.arange(20) % 2)}

    state = torch.get_rng_state()
    first, again = load(drawn), load(drawn)
    assert torch.equal(torch.get_rng_state(), state) and first.fingerprint == again.fingerprint
    base, other = torch.zeros(10, 2), LABELS.copy()
    other[:2] = 1, 0
    forms = [pair(base), pair(base + 1), pair(base.double()), pair(base.view(10, 1, 2))]
    forms += [pair(base, other), pair(base) | {"classes": "ab"}]
    forms += [pair(base) | {"test": (base, LABELS)}]
    prints = {load(drawn, seed=1).fingerprint, load(drawn, val_share=0.3).fingerprint}
    prints |= {first.fingerprint, *(load(form).fingerprint for form in forms)}
    assert len(prints) == 10
    with pytest.raises(InputError, match=r"pass them again: kdtune.Run\(data=Pets\)"):
        load_data(Run(data="object:Pets"))


def test_torchvisions_arrays_are_taken_whole_and_val_is_cut(tmp_path):
    folder, labels = tmp_path / "FashionMNIST" / "raw", (np.arange(60) % 10).astype(np.uint8)
    images = np.random.default_rng(0).integers(0, 255, (60, 28, 28), dtype=np.uint8)
    folder.mkdir(parents=True)
    for stem, count in (("train", 60), ("t10k", 20)):  # the format of MNIST's files
        head = struct.pack(">4i", 2051, count, 28, 28)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images[-count:].tobytes())
        head = struct.pack(">2i", 2049, count)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(head + labels[-count:].tobytes())
    data = load_data(Run(data="torchvision:FashionMNIST", data_root=str(tmp_path)))
    assert data.kind == "images" and data.classes[:2] == ("T-shirt/top", "Trouser")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 50, "val": 10, "test": 20}
    assert sorted(data.splits["val"].labels.tolist()) == list(range(10))
    image, label = datasets.FashionMNIST(tmp_path, train=False)[7]
    test = data.splits["test"]
    assert torch.equal(test.inputs[7], pil_to_tensor(image)) and test.labels[7] == label


def test_torchvisions_files_are_taken_as_files(tmp_path):
    root = tmp_path / "food-101"
    (root / "meta").mkdir(parents=True)
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        chosen = {kind: [f"{kind}/{i}" for i in numbers] for kind in ("pie", "soup")}
        (root / "meta" / f"{split}.json").write_text(json.dumps(chosen))
        for i, name in enumerate(name for names in chosen.values() for name in names):
            save(photo(i, 20, 30), root / "images" / f"{name}.jpg")
    run = Run(data="torchvision:Food101", data_root=str(tmp_path))
    data = load_data(run)
    assert data.kind == "files" and data.photos and data.classes == ("pie", "soup")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 8, "val": 2, "test": 4}
    image, label = datasets.Food101(tmp_path, split="test")[3]
    assert torch.equal(data.splits["test"].example(3), pil_to_tensor(image)) and label == 1
    (root / "images" / "pie" / "0.jpg").write_bytes(b"other")
    assert load_data(run).fingerprint != data.fingerprint


def test_a_subset_of_files_has_the_images_of_its_indices(load, tmp_path):
    for i in range(6):
        save(photo(i, 6, 8), tmp_path / "colours" / "ab"[i % 2] / f"{i}.png")
    dataset = datasets.ImageFolder(tmp_path / "colours")
    dataset.samples.sort(key=lambda pair: pair[0][-5], reverse=True)  # its list is not sorted
    subset = Subset(Subset(dataset, [1, 0, 5, 4]), [3, 1, 0])
    train = load({"train": subset, "val": dataset}).splits["train"]
    assert len(train.inputs) == 3
    for i, (image, label) in enumerate(subset):
        assert torch.equal(train.example(i), pil_to_tensor(image)) and train.labels[i] == label


def test_a_dict_equals_the_function_that_makes_it() -> None:
    by_name = load_data(Run(data="own_data:text"))
    for data in (own_data.text(), lambda: own_data.text()):
        assert load_data(Run(data=data)).fingerprint == by_name.fingerprint
    folds = Run(data=own_data.text(), folds=3, repeat=1)
    of_name = load_data(replace(folds, data="own_data:text"))
    assert load_data(folds).fingerprint == of_name.fingerprint != by_name.fingerprint


REST = Run(train_images=300, extra="rest")


def with_images(run: Run) -> Data:
    return add_extra(load_data(run), run)


@cache
def fashion() -> Data:
    return load_data(Run())


def rows(split: str, start: int, stop: int) -> Tensor:
    return fashion().splits[split].inputs[start:stop]


def seven() -> Tensor:
    return rows("train", 0, 7)


@pytest.mark.parametrize(
    "form",
    [
        lambda: seven()[:, 0].numpy(),  # without channels
        lambda: (seven(), ["no class of train"] * 7),
        lambda: Pairs(*seven()),  # items of a dataset
        lambda: Pairs(*((image, 3) for image in seven())),
        lambda: Pairs(*(Image.fromarray(image[0].numpy()) for image in seven())),
        lambda: Subset(TensorDataset(rows("train", 0, 20), torch.zeros(20)), range(7)),
    ],
)
def test_a_function_returns_the_images_in_many_forms(own_module: Any, form: Any) -> None:
    run = Run(extra=own_module(form))
    data, by_name = with_images(run), with_images(Run(extra=f"{__name__}:seven"))
    split = data.splits["extra"]
    assert torch.equal(split.inputs, seven())
    assert split.labels.tolist() == [-1] * 7  # whatever labels there were
    assert data.fingerprint == fashion().fingerprint
    assert data.extra.fingerprint == by_name.extra.fingerprint


def make_extra(root: Path) -> Path:
    """Five images: flat, in folders, behind a link to a folder; and what is none."""
    save(photo(1), root / "b.jpg")
    save(photo(2), root / "a" / "z.PNG")
    save(photo(3), root / "a" / "deeper" / "a.jpeg", grey=True)
    save(photo(4), root.parent / "elsewhere" / "c.png")
    save(photo(5), root / "a.png")
    (root / "linked").symlink_to(root.parent / "elsewhere")
    (root / "a" / "circle").symlink_to(root)
    (root / "notes.txt").write_text("no image")
    return root


def test_a_folder_is_read_with_all_its_folders_in_one_order(tmp_path: Path) -> None:
    root, data = make_extra(tmp_path / "extra"), tmp_path / "photos"
    save_photos(data, 1)
    found = with_images(Run(data=str(data), extra=str(root)))
    files = found.splits["extra"].inputs
    names = [os.path.relpath(str(file), root) for file in files]
    assert names == ["a.png", "a/deeper/a.jpeg", "a/z.PNG", "b.jpg", "linked/c.png"]
    verify(found)
    assert found.splits["extra"].example(1).shape == (3, 60, 80)
    assert describe_data(found)[1] == f"Images without labels: 5 (--extra {root})."
    assert data_record(found)["extra"] == {"examples": 5, "source": "extra"}
    assert set(data_record(found)["examples"]) == {"train", "val"}


def test_images_without_labels_that_do_not_fit(own_module: Any, tmp_path: Path) -> None:
    root, data = make_extra(tmp_path / "extra"), tmp_path / "photos"
    save_photos(data, 1)

    def refused(words: str, data: str = str(data), extra: str = str(root)) -> None:
        with pytest.raises(InputError, match=words):
            verify(with_images(Run(data=data, extra=extra)))

    for made, words in (
        (torch.zeros(4, 3, 28, 28).byte(), r"like those of train, \[1, 28, 28\].*\[3, 28, 28\]"),
        (torch.zeros(0, 1, 28, 28).byte(), "images without labels .* but .* has none"),
        ({}, "or inputs alone where labels do not matter, or a torch Dataset.* but got dict"),
    ):
        refused(words, "fashion", own_module(made))
    refused(r"like those of train, \[1, 28, 28\] of uint8.*are image files", "fashion")
    (root / "b.jpg").write_bytes(b"x")
    refused("the image .*b.jpg cannot be read.*replace it")
    root.rename(tmp_path / "gone")
    refused("the folder .*extra cannot be read .No such file")
    root.mkdir()
    refused("suffixes .jpg.* but .*extra has none")


def test_rest_is_what_the_labelled_images_leave_out() -> None:
    with pytest.raises(InputError, match="extra must be a folder without --train-images"):
        Run(extra="rest")
    with pytest.raises(InputError, match="--train-images 2000 takes all of train"):
        with_images(replace(REST, train_images=2000))
    data = with_images(REST)
    subset = data.splits["train"].select(data.subset(REST)).inputs
    rest = data.splits["extra"].inputs
    assert len(subset) == 300
    both = sorted(image.numpy().tobytes() for image in (*subset, *rest))
    assert both == sorted(image.numpy().tobytes() for image in data.splits["train"].inputs)
    of_study = StudyData(REST)
    first, second = map(of_study.with_extra, (REST, replace(REST, lr=0.5)))
    assert first is second  # images are not copied for each configuration
    assert of_study.with_extra(replace(REST, repeat=1)).extra != first.extra
    prints = {None}
    for repeat in range(2):  # the rest of a fold has no image of its val
        data = with_images(replace(REST, folds=4, repeat=repeat))
        rest = {image.numpy().tobytes() for image in data.splits["extra"].inputs}
        assert len(data.splits["extra"]) == len(data.splits["train"]) - 300
        for split in ("val", "test"):
            assert not rest & {image.numpy().tobytes() for image in data.splits[split].inputs}
        prints.add(data.extra and data.extra.fingerprint)
    assert len(prints) == 3


def test_images_of_val_and_test_are_said(own_module: Any) -> None:
    some = torch.cat([rows("train", 0, 5), rows("val", 3, 6), rows("test", 10, 11)])
    val, test = find_copies(with_images(Run(extra=own_module(some))))
    assert val == (
        "3 of the 500 images in val are also in extra (such as val[3] = extra[5]), so metrics on "
        "val are optimistic"
    )
    assert test.startswith("1 of the 1000 images in test are also in extra (such as test[10] =")
    assert find_copies(load_data(Run())) == []
    assert find_copies(with_images(REST)) == []
