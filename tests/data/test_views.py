"""Views and mixtures against torchvision's own transforms and by hand, and laws."""

import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from typing import Any

import pytest
import torch
from own_data import erased, noisy, text
from photos import photo, save
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.dataset import Data, Split
from kdtune.data.sources import load_data
from kdtune.data.views import (
    Box,
    Mixture,
    Views,
    check_augmentation,
    check_mixing,
    probe_views,
    resized,
)

RUN = Run(data="fashion", seed=3, repeat=1)
INDEX = torch.arange(5, 69)


@cache
def fashion() -> Data:
    return load_data(Run())


def training_views(run=RUN, epoch=0, index=INDEX, size=28, batch=64, workers=0):
    views = Views(fashion().splits["train"], index, run, size, epoch)
    return torch.cat(list(views.batches(batch, workers)))


OWN = {
    "torchvision.transforms.v2:RandAugment": v2.RandAugment(),
    "own_data:erased": erased,
    "own_data:noisy": lambda x: noisy(x, torch.Generator().manual_seed(torch.initial_seed())),
}
CROP = v2.Compose([v2.RandomResizedCrop(28, antialias=True), v2.RandomHorizontalFlip()])


@pytest.mark.parametrize("augment", ["crop", "resized-crop", "trivial", *OWN])
def test_views_do_not_depend_on_workers_batches_or_order(augment):
    run = replace(RUN, augment=augment)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    views = training_views(run)
    assert views.shape == (64, 1, 28, 28) and views.dtype == torch.uint8
    for workers in (1, 2) if augment in ("trivial", *OWN) else (0,):
        assert torch.equal(training_views(run, batch=10, workers=workers), views)
    assert torch.equal(training_views(run, index=INDEX.flip(0)).flip(0), views)
    if augment == "own_data:erased":
        with get_context("spawn").Pool(1) as another_process:
            assert torch.equal(another_process.apply(training_views, (run,)), views)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("augment", "change"), [("resized-crop", CROP), *OWN.items()])
def test_a_view_is_the_change_of_the_image_under_its_seed(augment: str, change: Callable) -> None:
    images = fashion().splits["train"].inputs
    before = images.clone()
    views = training_views(replace(RUN, augment=augment), epoch=2)
    assert torch.equal(images, before)
    for i, view in zip(INDEX.tolist(), views, strict=True):
        torch.manual_seed(derive_seed("view", RUN.seed, RUN.repeat, 2, i))
        assert torch.equal(view, change(images[i].clone()))


FAULTY = {
    "lambda image, generator: image[:, 1:]": r"size, \[1, 28, 28\], but .*uint8 \[1, 27, 28\] for",
    "lambda image, generator: image / 255": r"torch.uint8 .* torch.float32 \[1, 28, 28\]",
    "lambda image, generator: [image]": "but returned <class 'list'>",
    "lambda image: image": r"failed on an image of the shape \[1, 28, 28\]: TypeError",
    "lambda image, generator: image ^ random.randrange(256)": "the same image for the same seed",
    "3": "cannot be made: TypeError: 3 is not a callable",
    "lambda: 1 / 0": "cannot be made: ZeroDivisionError",
}


@pytest.mark.parametrize("code", FAULTY)
def test_an_augmentation_that_makes_no_views_is_refused(code, monkeypatch):
    monkeypatch.setattr("own_data.wrong", eval(code), raising=False)
    with pytest.raises(InputError, match=f"the augmentation own_data:wrong .*{FAULTY[code]}"):
        check_augmentation(replace(RUN, augment="own_data:wrong"), fashion(), 28)
    monkeypatch.setattr("own_data.wrong", lambda: erased)
    check_augmentation(replace(RUN, augment="own_data:wrong"), fashion(), 28)


def test_a_crop_is_the_one_that_its_seed_draws():
    images = fashion().splits["train"].inputs
    run = replace(RUN, alpha=0.1, lr=0.5, epochs=7)  # which change no view
    for i, view in zip(INDEX.tolist(), training_views(run, epoch=2), strict=True):
        draw = random.Random(derive_seed("view", RUN.seed, RUN.repeat, 2, i))
        top, left, flip = draw.randint(0, 6), draw.randint(0, 6), draw.random() < 0.5
        padded = torch.nn.functional.pad(images[i], (3, 3, 3, 3))
        crop = padded[:, top : top + 28, left : left + 28]
        assert torch.equal(view, crop.flip(-1) if flip else crop)


def test_trivial_augment_is_torchvisions_after_the_crop_that_the_data_need(tmp_path):
    change, seen = v2.TrivialAugmentWide(), 0
    cropped = training_views(epoch=2)
    views = training_views(replace(RUN, augment="trivial"), epoch=2)
    for i, crop, view in zip(INDEX.tolist(), cropped, views, strict=True):
        seed = derive_seed("view", RUN.seed, RUN.repeat, 2, i)
        torch.manual_seed(derive_seed(seed, "change"))
        assert torch.equal(view, change(crop))
        seen += int(not torch.equal(view, crop))
    assert seen > 32  # a 14th of the changes is none, some others do little
    save(photo(7, 30, 40), tmp_path / "a.png")
    files = Split(torch.tensor([0]), (str(tmp_path / "a.png"),))
    runs = {name: replace(RUN, augment=name) for name in ("trivial", "resized-crop")}
    made = {n: next(Views(files, torch.tensor([0]), r, 20, 0).batches()) for n, r in runs.items()}
    torch.manual_seed(derive_seed(derive_seed("view", RUN.seed, RUN.repeat, 0, 0), "change"))
    assert torch.equal(made["trivial"][0], change(made["resized-crop"][0]))


@pytest.mark.parametrize(
    ("shape", "crop", "resized", "interpolation"),
    [
        ((300, 400), None, 256, "bilinear"),  # as all photographs were evaluated until version 0.2
        ((500, 231), 224 / 232, 232, "bilinear"),
        ((300, 400), 224 / 235, 235, "bicubic"),
        ((90, 120), 224 / 235, 235, "bicubic"),
        ((500, 231), 1.0, 224, "bicubic"),
        ((90, 120), 0.875, 256, "nearest-exact"),
    ],
)
def test_evaluation_views_of_photos_are_torchvisions(tmp_path, shape, crop, resized, interpolation):
    file = tmp_path / "photo.png"
    save(photo(7, *shape), file)
    split = Split(torch.tensor([0]), (str(file),))
    named = None if crop is None else interpolation.partition("-")[0]
    run = replace(RUN, eval_crop=crop, eval_interpolation=named)
    (view,) = next(Views(split, torch.tensor([0]), run, 224).batches())
    mode = v2.InterpolationMode(interpolation)
    reference = v2.Compose([v2.Resize(resized, interpolation=mode), v2.CenterCrop(224)])
    assert torch.equal(view, reference(photo(7, *shape)))
    pillow = v2.functional.pil_to_tensor(reference(Image.open(file)))
    difference = (view.int() - pillow.int()).abs().float()
    if interpolation != "nearest-exact":  # where two pixels are as near, Pillow takes the other
        # Pillow's weights have fewer bits
        assert difference.max() <= 2 and difference.mean() < 0.02


@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_resized_batches_are_torchvisions_on_any_cpu(capability, monkeypatch):
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    for word, mode in v2.InterpolationMode.__members__.items():
        for channels, short in ((1, 20), (3, 47)) if word in ("BILINEAR", "BICUBIC") else ():
            images = torch.stack([photo(seed, 30, 41)[:channels] for seed in range(3)])
            want = v2.functional.resize(images, [short], interpolation=mode)
            assert torch.equal(resized(images, short, mode.value), want)


def test_augmentation_does_not_change_evaluation_views(tmp_path):
    data = fashion()
    split = data.splits["val"]
    save(photo(7, 50, 70), tmp_path / "photo.png")
    files = Split(torch.tensor([0]), (str(tmp_path / "photo.png"),) * 3)
    resized = v2.functional.resize(split.inputs[:3], [40], antialias=True)
    runs = [replace(RUN, augment=a) for a in ("none", "crop", "resized-crop")]
    for run in runs:
        assert torch.equal(next(Views(split, torch.arange(3), run, 40).batches()), resized)
    runs = [replace(run, eval_crop=0.8, eval_interpolation="bicubic") for run in runs]
    first, *others = [next(Views(files, torch.arange(3), run, 40).batches()) for run in runs]
    assert all(torch.equal(views, first) for views in others)
    # images of this size are as is
    assert torch.equal(probe_views(data, RUN, 28), split.inputs[:2])
    views = training_views(replace(RUN, augment="none"))
    assert torch.equal(views, data.splits["train"].inputs[INDEX])


def test_training_images_are_cropped_for_evaluation_without_augmentation_only():
    for augment in ("none", "crop", "resized-crop"):
        views = training_views(replace(RUN, augment=augment), size=20, index=INDEX[:8])
        for changed in ({"eval_crop": 0.5}, {"eval_interpolation": "bicubic"}):
            same = augment == "resized-crop" or (augment == "crop" and "eval_crop" in changed)
            run = replace(RUN, augment=augment, **changed)
            other = training_views(run, size=20, index=INDEX[:8])
            assert torch.equal(other, views) == same, (augment, changed)


PHOTO = torch.Size((3, 224, 224))


def test_mixup_by_hand_rounds_images_alone_and_a_share_of_1_changes_nothing() -> None:
    partners = torch.tensor([1, 0])
    images = torch.tensor([[11, 250], [20, 0]], dtype=torch.uint8).view(2, 1, 1, 2)
    mixed = Mixture(partners, 0.7, None).apply(images)
    assert mixed.dtype == torch.uint8
    assert mixed.flatten().tolist() == [14, 175, 17, 75]  # of 13.7, 175, 17.3 and 75
    numbers = torch.tensor([[1.0, 3.0], [2.0, 0.5]])
    want = [[1.25, 2.375], [1.75, 1.125]]
    assert Mixture(partners, 0.75, None).apply(numbers).tolist() == want
    # nor do blocks of images change a pixel
    images = torch.randint(0, 256, (40, *PHOTO), dtype=torch.uint8)
    partners = torch.randperm(40)
    whole = (images.float() * 0.613 + images[partners].float() * (1 - 0.613)).round()
    assert torch.equal(Mixture(partners, 0.613, None).apply(images), whole.to(torch.uint8))
    # and a share of 1 changes nothing
    views = torch.arange(24, dtype=torch.uint8).view(4, 1, 2, 3)
    before, partners = views.clone(), torch.tensor([2, 0, 3, 1])
    for box in (None, Box(1, 1, 0, 3)):
        assert torch.equal(Mixture(partners, 1.0, box).apply(views), before)
    Mixture(partners, 0.0, Box(0, 2, 0, 3)).apply(views)
    assert torch.equal(views, before)  # nor do mixtures change the views of the cache


def tensors(inputs: Tensor) -> Data:
    split = Split(torch.zeros(len(inputs), dtype=torch.int64), inputs)
    return Data(("a", "b"), {"train": split, "val": split}, "x", photos=False)


WORDS = tensors(torch.from_numpy(text()["train"][0]))
TABLE = tensors(torch.zeros(5, 64))
SPECTRA = tensors(torch.zeros(5, 2, 16, 8))


@pytest.mark.parametrize(
    ("data", "space", "message"),
    [
        (WORDS, {"mixup": (0.2,)}, "--mixup must be 0 .* got --mixup 0.2, .* int64 .* leave"),
        (WORDS, {"cutmix": (1.0,)}, r"--cutmix must be 0 .* \[C, H, W\], .* shape \[12\], .*leave"),
        (TABLE, {"cutmix": Range(0.1, 1.0)}, r"the shape \[64\]"),
        (TABLE, {"mixup": (0.2,)}, None),
        (SPECTRA, {"mixup": (0.2,), "cutmix": (1.0,)}, None),
    ],
)
def test_examples_that_cannot_be_mixed_are_refused(
    data: Data, space: dict[str, Any], message: str | None
) -> None:
    study = Study(name="s", run=Run(data="own"), space=space, search="random")
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        check_mixing(study, data)
