"""Data of the user's own and of torchvision: what they become, and what is refused in a sentence.

The reference of torchvision's datasets is torchvision's own reading of the same files.
"""

import os
import shutil
import struct
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from photos import photo
from torch.utils.data import Dataset, Subset, TensorDataset
from torchvision import datasets
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.dataset import hash_files
from kdtune.data.sources import clear_cached_data, load_data
from kdtune.data.views import Views

LABELS = np.arange(10) % 2


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    clear_cached_data()


@pytest.fixture
def load(monkeypatch):
    """Load what a function of the user's returns."""

    def load(made, **run):
        module = ModuleType("own_data")
        module.make = made if callable(made) else lambda: made
        monkeypatch.setitem(sys.modules, "own_data", module)
        clear_cached_data()
        return load_data(Run(data="own_data:make", **run))

    return load


def pair(inputs, labels=LABELS):
    return {"train": (inputs, labels), "val": (inputs, labels)}


@pytest.mark.parametrize(
    "inputs",
    [
        np.linspace(0, 1, 30, dtype=np.float32).reshape(10, 3),
        np.arange(40).reshape(10, 4),
        torch.randn(10, 2, 5, generator=torch.Generator().manual_seed(0)),
        torch.arange(10) < 4,
        torch.rand(10, 3, 6, 6, dtype=torch.float64),
        torch.arange(10 * 4 * 6 * 6).remainder(255).to(torch.uint8).view(10, 4, 6, 6),
        torch.ones(10, 7, dtype=torch.uint8),
    ],
    ids=lambda x: f"{tuple(x.shape)} {x.dtype}",
)
def test_tensors_of_any_shape_and_type_are_taken_as_they_are(load, inputs):
    data = load(pair(inputs))
    expected = torch.as_tensor(inputs)
    assert data.kind == "tensors" and data.classes == ("0", "1")
    views = Views(data.splits["train"], torch.tensor([3, 1]), Run(augment="none"), 0, 1)
    (batch,) = views.batches(workers=2)
    assert batch.dtype == expected.dtype and torch.equal(batch, expected[[3, 1]])


def test_bytes_with_one_or_three_channels_are_images_wherever_the_channels_are(load):
    grey = np.arange(10 * 5 * 6, dtype=np.uint8).reshape(10, 5, 6)
    rgb = np.arange(10 * 3 * 5 * 6).astype(np.uint8).reshape(10, 3, 5, 6)
    forms = {
        "NHW": (grey, grey[:, None]),
        "NHW1": (grey[..., None], grey[:, None]),
        "NCHW": (rgb, rgb),
        "NHWC": (rgb.transpose(0, 2, 3, 1), rgb),
    }
    for given, expected in forms.values():
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
    grey = load(pair(*TensorDataset(torch.ones(4, 1), torch.tensor([0, 1, 0, 1])).tensors))
    assert grey.kind == "tensors"
    of_grey = load({"train": Pairs(*((x.convert("L"), "ab"[i % 2]) for i, x in enumerate(images)))})
    assert of_grey.splits["train"].inputs.shape[1] == 1 and of_grey.classes == ("a", "b")
    rows = TensorDataset(torch.arange(12.0).view(6, 2), torch.tensor([0, 1, 0, 1, 0, 1]))
    some = load({"train": Subset(rows, [5, 0, 2, 1]), "val": rows, "test": None})
    assert some.splits["train"].inputs.tolist() == [[10, 11], [0, 1], [4, 5], [2, 3]]
    assert some.splits["train"].labels.tolist() == [1, 0, 0, 1] and "test" not in some.splits


def test_labels_of_one_element_are_numbers(load):
    x = torch.arange(4.0)[:, None]
    for label in (torch.tensor([1]), np.array([1]), torch.tensor(1), np.int64(1)):
        data = load({"train": Pairs((x[0], label - 1), (x[1], label)), "val": (x[:2], [0, 1])})
        assert data.splits["train"].labels.tolist() == [0, 1]


def test_strings_become_sorted_classes_and_names_are_kept(load):
    x = torch.zeros(4, 2)
    data = load(
        {"train": (x, ["wasp", "ant", "bee", "ant"]), "validation": (x[:2], ["bee", "ant"])}
    )
    assert data.classes == ("ant", "bee", "wasp")
    assert data.splits["train"].labels.tolist() == [2, 0, 1, 0]
    assert data.splits["val"].labels.tolist() == [1, 0]
    named = load(pair(torch.zeros(10, 2)) | {"classes": ("no", "yes")})
    assert named.classes == ("no", "yes")


X = torch.zeros(10, 2)
FAULTS = {
    "no dict": (lambda: [1, 2], "must return a dict"),
    "unknown key": (lambda: {"trian": (X, LABELS)}, "only, but has 'trian'"),
    "no train": (lambda: {"val": (X, LABELS)}, "must have train, but has val"),
    "two of val": (lambda: pair(X) | {"dev": (X, LABELS)}, "but has val and dev"),
    "no labels": (lambda: {"train": X}, r"own_data:make \(train\) must be a pair .* got Tensor"),
    "lengths": (lambda: pair(X, LABELS[:9]), "10 examples and 9 labels"),
    "empty": (lambda: pair(X[:0], LABELS[:0]), r"must have examples, \[N, \.\.\.\], but has none"),
    "negative": (lambda: pair(X, LABELS - 1), "between 0 and .* but got -1"),
    "from 1": (lambda: pair(X, LABELS + 1), "none of 0; number the classes from 0"),
    "one class": (lambda: pair(X, LABELS * 0), "at least two classes, but has 0 alone"),
    "floats": (lambda: pair(X, LABELS / 1), "whole numbers or strings, but have the type float64"),
    "one-hot": (lambda: pair(X, np.eye(10)), r"\[N\], but have the shape \[10, 10\]"),
    "too large": (lambda: pair(X) | {"classes": ["a"]}, "between 0 and 0 .* but got 1"),
    "ragged": (lambda: pair([[1, 2], [3]]), "an array of numbers of one shape, but got list"),
    "words": (lambda: pair(np.array(["a"] * 10)), "an array of numbers"),
    "other type in val": (
        lambda: {"train": (X, LABELS), "val": (X.long(), LABELS)},
        r"train has \[2\] of float32 and val has \[2\] of int64",
    ),
    "unknown in val": (
        lambda: {"train": (X[:2], ["a", "b"]), "val": (X[:1], ["c"])},
        r"\(val\) must be classes of train, but c is none",
    ),
    "sizes differ": (
        lambda: {"train": Pairs((X[0], 0), (X[0, :1], 1))},
        r"item 0 has \[2\] .* and item 1 has \[1\]",
    ),
    "items": (lambda: {"train": Pairs({"x": 1})}, r"must be pairs \(x, y\), but item 0 is dict"),
    "raises": (lambda: 1 / 0, r"cannot be made: ZeroDivisionError: .*test_user_data.py, line"),
}


@pytest.mark.parametrize(("made", "words"), FAULTS.values(), ids=FAULTS)
def test_faults_are_refused_in_one_sentence(load, made, words):
    with pytest.raises(InputError, match=words) as caught:
        load(made)
    assert "own_data:make" in str(caught.value) and "\n" not in str(caught.value)


def test_random_data_are_the_same_in_every_process_and_known_by_content(load):
    def drawn():
        rows = torch.randn(20, 3) + torch.from_numpy(np.random.rand(20, 1))  # noqa: NPY002
        return {"train": (rows, np.arange(20) % 2)}

    torch.manual_seed(4)
    state = torch.get_rng_state()
    first, again = load(drawn), load(drawn)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.fingerprint == again.fingerprint
    prints = {
        first.fingerprint,
        load(drawn, seed=1).fingerprint,
        load(drawn, val_share=0.3).fingerprint,
    }
    base, other = torch.zeros(10, 2), LABELS.copy()
    other[:2] = 1, 0
    for made in (
        *(pair(base), pair(base + 1), pair(base.double()), pair(base.view(10, 1, 2))),
        *(pair(base, other), pair(base) | {"classes": "ab"}, pair(base) | {"test": (base, LABELS)}),
    ):
        prints.add(load(made).fingerprint)
    assert len(prints) == 10


# -- torchvision -------------------------------------------------------------------------------


def write_idx(folder, images, labels, stem):
    """Write images uint8 [N, 28, 28] and labels as in MNIST's files."""
    folder.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">4i", 2051, *images.shape)
    (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images.tobytes())
    head = struct.pack(">2i", 2049, len(labels))
    (folder / f"{stem}-labels-idx1-ubyte").write_bytes(head + labels.astype(np.uint8).tobytes())


def test_torchvisions_arrays_are_taken_whole_and_val_is_cut(tmp_path):
    rng, folder = np.random.default_rng(0), tmp_path / "sets" / "FashionMNIST" / "raw"
    labels = np.arange(60) % 10
    images = rng.integers(0, 255, (60, 28, 28), dtype=np.uint8)
    write_idx(folder, images, labels, "train")
    write_idx(folder, images[:20] ^ 1, labels[:20], "t10k")
    run = Run(data="torchvision:FashionMNIST", data_root=str(tmp_path / "sets"))
    data, reference = load_data(run), datasets.FashionMNIST(tmp_path / "sets", train=False)
    assert data.kind == "images" and data.classes[:2] == ("T-shirt/top", "Trouser")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 50, "val": 10, "test": 20}
    for i in (0, 7):
        image, label = reference[i]
        test = data.splits["test"]
        assert torch.equal(test.inputs[i], pil_to_tensor(image)) and test.labels[i] == label
    assert sorted(data.splits["val"].labels.tolist()) == list(range(10))


def test_torchvisions_files_are_taken_as_files(tmp_path):
    root = tmp_path / "food-101"
    (root / "meta").mkdir(parents=True)
    for split, numbers in (("train", range(5)), ("test", range(5, 7))):
        chosen = {kind: [f"{kind}/{i}" for i in numbers] for kind in ("pie", "soup")}
        (root / "meta" / f"{split}.json").write_text(str(chosen).replace("'", '"'))
        for name in (name for names in chosen.values() for name in names):
            file = root / "images" / f"{name}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            to_pil_image(photo(len(list(root.rglob("*.jpg"))), 20, 30)).save(file)
    data = load_data(Run(data="torchvision:Food101", data_root=str(tmp_path)))
    assert data.kind == "files" and data.photos and data.classes == ("pie", "soup")
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 8, "val": 2, "test": 4}
    image, label = datasets.Food101(tmp_path, split="test")[3]
    assert torch.equal(data.splits["test"].example(3), pil_to_tensor(image)) and label == 1
    first = data.fingerprint
    (root / "images" / "pie" / "0.jpg").write_bytes(b"other")
    clear_cached_data()
    assert load_data(Run(data="torchvision:Food101", data_root=str(tmp_path))).fingerprint != first


@pytest.fixture
def colours(tmp_path):
    """A torchvision ImageFolder of six images, whose list of files is not sorted."""
    for i in range(6):
        file = tmp_path / "colours" / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        to_pil_image(photo(i, 6, 8)).save(file)
    dataset = datasets.ImageFolder(tmp_path / "colours")
    dataset.samples.sort(key=lambda pair: pair[0][-5], reverse=True)
    return dataset


def test_a_subset_of_files_has_the_images_of_its_indices(load, colours):
    for subset in (Subset(colours, [4, 0, 1]), Subset(Subset(colours, [1, 0, 5, 4]), [3, 1, 0])):
        train = load({"train": subset, "val": colours}).splits["train"]
        assert len(train.inputs) == 3
        for i, (image, label) in enumerate(subset):
            assert torch.equal(train.example(i), pil_to_tensor(image)) and train.labels[i] == label


def test_files_that_have_moved_are_the_same_and_the_folder_counts(load, colours, tmp_path):
    for file, _ in colours.samples:
        os.utime(file, (1, 1))  # so that hashes are noted
    data = load({"train": colours, "val": colours})
    assert data.root == str(tmp_path / "colours")
    moved = datasets.ImageFolder(shutil.copytree(colours.root, tmp_path / "elsewhere"))
    assert load({"train": moved, "val": moved}).fingerprint == data.fingerprint
    files = sorted(file for file, _ in colours.samples)
    assert hash_files(tmp_path / "colours", files) != hash_files(tmp_path, files)


def test_a_loader_of_the_users_own_reads_the_files(load, colours):
    dataset = datasets.ImageFolder(
        colours.root, loader=lambda file: torch.tensor([float(file[-5])])
    )
    assert load({"train": dataset, "val": dataset}).splits["val"].inputs[:, 0].tolist() == [
        *(0, 2, 4),
        *(1, 3, 5),
    ]


@pytest.mark.parametrize(
    ("run", "words"),
    [
        (
            {"data": "torchvision:FashionMNIST"},
            r"cannot be read from .*nowhere \(Dataset not found\).*--download",
        ),
        ({"data": "torchvision:CIFAR"}, r"no dataset CIFAR; did you mean torchvision:CIFAR10"),
        ({"data": "torchvision:fashionmnist"}, "did you mean torchvision:FashionMNIST"),
        ({"data": "/no/CIFAR10"}, "no folder /no/CIFAR10; .* --data torchvision:CIFAR10"),
        ({"data": "torchvision:VOCDetection"}, "VOCDetection cannot be read|must be"),
    ],
)
def test_missing_datasets_are_refused_in_one_sentence(tmp_path, run, words):
    with pytest.raises(InputError, match=words) as caught:
        load_data(Run(**run, data_root=str(tmp_path / "nowhere")))
    assert "\n" not in str(caught.value) and not (tmp_path / "nowhere").exists()


def test_a_failed_download_is_one_sentence(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    run = Run(data="torchvision:CIFAR10", data_root=str(tmp_path / "sets"), download=True)
    with pytest.raises(InputError, match=r"CIFAR10 cannot be downloaded to .*sets \(.*no route"):
        load_data(run)
