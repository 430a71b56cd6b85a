"""Views against torchvision's own transforms, and laws of what a view depends on.

The laws: a view is a function of (seed, repeat, epoch, index), and not of the process, the number
of workers, the batch size or the global generator.
"""

import hashlib
import random
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from photos import photo, save
from PIL import Image
from torchvision.transforms import v2

from kdtune.config.run import Run, derive_seed
from kdtune.data.dataset import Split
from kdtune.data.sources import load_data
from kdtune.data.views import Views, samples

RUN = Run(data="fashion", seed=3, repeat=1)
INDEX = torch.arange(5, 69)


def training_views(run=RUN, epoch=0, index=INDEX, size=28, batch=64, workers=0):
    views = Views(load_data(Run()).splits["train"], index, run, size, epoch)
    return torch.cat(list(views.batches(batch, workers)))


@pytest.mark.parametrize("augment", ["crop", "resized-crop", "trivial"])
def test_views_do_not_depend_on_workers_batches_or_order(augment):
    run = replace(RUN, augment=augment)
    views = training_views(run)
    assert views.shape == (64, 1, 28, 28) and views.dtype == torch.uint8
    assert torch.equal(training_views(run, batch=7), views)
    assert torch.equal(training_views(run, batch=10, workers=2), views)
    assert torch.equal(training_views(run, index=INDEX.flip(0)).flip(0), views)


def digest():
    runs = RUN, replace(RUN, augment="resized-crop"), replace(RUN, augment="trivial")
    content = b"".join(training_views(run, epoch=4).numpy().tobytes() for run in runs)
    return hashlib.sha256(content).hexdigest()


def test_views_are_equal_in_a_fresh_process():
    code = "import torch, test_views; torch.manual_seed(9); print(test_views.digest())"
    command, folder = [sys.executable, "-c", code], __file__.rpartition("/")[0]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_views_differ_with_repeat_epoch_seed_and_index():
    views = training_views()
    assert not torch.equal(training_views(epoch=1), views)
    assert not torch.equal(training_views(replace(RUN, repeat=2)), views)
    assert not torch.equal(training_views(replace(RUN, seed=4)), views)
    assert torch.equal(training_views(replace(RUN, alpha=0.1, lr=0.5, epochs=7)), views)
    image = load_data(Run()).splits["train"].inputs[:1]
    twins = Split(torch.zeros(64, dtype=torch.int64), image.expand(64, -1, -1, -1))
    seen = torch.cat(list(Views(twins, torch.arange(64), RUN, 28, 0).batches()))
    assert len(seen.flatten(1).unique(dim=0)) > 32  # of 98 possible; 48 expected


def test_views_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    training_views()
    training_views(replace(RUN, augment="resized-crop"), workers=2)
    samples(load_data(Run()), RUN, 28)
    load_data(Run()).subset(replace(RUN, train_images=100))
    assert torch.equal(torch.get_rng_state(), before)


def test_crop_is_a_shift_of_at_most_an_eighth_perhaps_flipped():
    images = load_data(Run()).splits["train"].inputs[INDEX]
    flips = 0
    for image, view in zip(images, training_views(), strict=True):
        padded = torch.nn.functional.pad(image, (3, 3, 3, 3))
        shifts = padded.unfold(1, 28, 1).unfold(2, 28, 1)[0].reshape(49, 28, 28)
        straight = (shifts == view).flatten(1).all(1).any()
        flipped = (shifts.flip(-1) == view).flatten(1).all(1).any()
        assert straight or flipped
        flips += int(flipped and not straight)
    assert 16 < flips < 48  # 32 expected, sd 4


def test_a_crop_is_the_one_that_its_seed_draws():
    images = load_data(Run()).splits["train"].inputs
    for i, view in zip(INDEX.tolist(), training_views(epoch=2), strict=True):
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


def test_views_of_another_size_are_resized_one_as_many():
    split = load_data(Run()).splits["val"]
    views = next(Views(split, torch.arange(9), RUN, 40).batches())
    for image, view in zip(split.inputs[:9], views, strict=True):
        assert torch.equal(view, v2.functional.resize(image, [40], antialias=True))


@pytest.mark.parametrize("shape", [(300, 400), (256, 256), (500, 231), (90, 120)])
@pytest.mark.parametrize(
    ("crop", "resized", "interpolation"),
    [
        (None, 256, "bilinear"),  # as all photographs were evaluated until version 0.2
        (224 / 232, 232, "bilinear"),
        (224 / 235, 235, "bicubic"),
        (1.0, 224, "bicubic"),
        (0.875, 256, "nearest-exact"),
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


def test_a_central_crop_by_hand():
    """Columns 0, 10, ..., 70: the crop keeps the middle half."""
    image = torch.arange(8, dtype=torch.uint8).repeat(8, 1)[None] * 10
    split = Split(torch.tensor([0]), image[None])
    run = replace(RUN, augment="none", eval_crop=0.5, eval_interpolation="nearest")
    (view,) = next(Views(split, torch.tensor([0]), run, 4).batches())
    assert view[0].tolist() == [[20, 30, 40, 50]] * 4
    (whole,) = next(Views(split, torch.tensor([0]), replace(run, eval_crop=1.0), 4).batches())
    assert whole[0].tolist() == [[10, 30, 50, 70]] * 4  # Pillow takes the pixel right of the centre


def test_the_crop_of_version_0_1_is_rounded_as_then():
    """It multiplied by 256 / 224; migrated studies have the crop 0.875."""
    assert all(round(size / 0.875) == round(size * (256 / 224)) for size in range(1, 4097))


@pytest.mark.parametrize("kind", ["fashion", "files"])
def test_augmentation_does_not_change_evaluation_views(kind, tmp_path):
    split = load_data(Run()).splits["val"]
    if kind == "files":
        save(photo(7, 50, 70), tmp_path / "photo.png")
        split = Split(torch.tensor([0]), (str(tmp_path / "photo.png"),) * 3)
    for changed in ({}, {"eval_crop": 0.8, "eval_interpolation": "bicubic"}):
        runs = [replace(RUN, **changed, augment=a) for a in ("none", "crop", "resized-crop")]
        first, *others = [next(Views(split, torch.arange(3), r, 40).batches()) for r in runs]
        assert all(torch.equal(views, first) for views in others)


def test_training_images_are_cropped_for_evaluation_without_augmentation_only():
    for augment in ("none", "crop", "resized-crop"):
        views = training_views(replace(RUN, augment=augment), size=20)
        for changed in ({"eval_crop": 0.5}, {"eval_interpolation": "bicubic"}):
            same = augment == "resized-crop" or (augment == "crop" and "eval_crop" in changed)
            other = training_views(replace(RUN, augment=augment, **changed), size=20)
            assert torch.equal(other, views) == same, (augment, changed)


def test_evaluation_views_of_fashion_are_the_images():
    data = load_data(Run())
    assert torch.equal(samples(data, RUN, 28), data.splits["val"].inputs[:2])
    views = training_views(replace(RUN, augment="none"))
    assert torch.equal(views, data.splits["train"].inputs[INDEX])
