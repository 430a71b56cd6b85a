"""Data sets: folders, folds, pixels of image files; views and mixtures beside torchvision's."""

import os
import random
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from own_data import erased, noisy, text
from photos import photo, save
from PIL import Image, ImageOps
from sklearn.model_selection import StratifiedGroupKFold
from tiny_run import TINY
from torch import Tensor
from torchvision.transforms import v2

from kdtune.config.run import TEACHER_REPEAT, Run, derive_seed, migrate, migrate_run
from kdtune.config.study import Study
from kdtune.config.task import Range
from kdtune.config.text import InputError
from kdtune.data.checks import data_record, describe_data, find_copies, find_shared_groups
from kdtune.data.dataset import Data, FoldCut, Split, ValCut, cut_fold, cut_val, decode
from kdtune.data.folder import verify
from kdtune.data.sources import StudyData, load_data
from kdtune.data.views import (
    Box,
    Mixture,
    Views,
    check_augmentation,
    check_mixing,
    probe_views,
    resized,
)
from kdtune.training.recipe import resolve

RUN = Run(data="fashion", seed=3, repeat=1)
FIRST_DRAWN = [8, 18, 28, 34, 49]
"""The first of 305 images that versions before 0.2 drew with this seed, in each repeat."""


def make_folder(root):
    """Make train/ and val/ of ants (1 JPEG, 1 grey PNG, a stray .gif) and bees (2 JPEGs)."""
    for split in ("train", "val"):
        save(photo(1), root / split / "ants" / "a.jpg")
        save(photo(2), root / split / "ants" / "b.png", grey=True)
        save(photo(3), root / split / "ants" / "c.gif")
        save(photo(4), root / split / "bees" / "a.jpg")
        save(photo(5), root / split / "bees" / "b.jpeg")
    return root


def test_a_folder_becomes_images_and_labels(tmp_path):
    root = make_folder(tmp_path / "photos")
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:4800].reshape(60, 80)  # of 16 bits
    Image.fromarray(values).save(root / "train" / "ants" / "z.png")
    data = load_data(Run(data=str(root)))
    assert data.classes == ("ants", "bees") and list(data.splits) == ["train", "val"]
    train = data.splits["train"]
    assert data.photos and train.labels.tolist() == [0, 0, 0, 1, 1]
    names = [file.rpartition("/")[2] for file in train.inputs]
    assert names == ["a.jpg", "b.png", "z.png", "a.jpg", "b.jpeg"]
    assert all(train.example(i).shape == (3, 60, 80) for i in range(5))
    grey, deep = train.example(1), train.example(2)
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    assert torch.equal(deep[0], torch.from_numpy(np.rint(values / 257).astype(np.uint8)))
    assert (train.example(3).float() - photo(4).float()).abs().mean() < 4  # JPEG loses a little


def test_fingerprint_depends_on_the_content_not_on_the_path(tmp_path):
    first = make_folder(tmp_path / "first")
    prints = {load_data(Run(data=str(first))).fingerprint}
    same = tmp_path / "elsewhere" / "same"
    shutil.copytree(first, same)
    assert load_data(Run(data=str(same))).fingerprint in prints
    file = same / "val" / "bees" / "a.jpg"
    file.write_bytes(file.read_bytes() + b"\0")
    prints.add(load_data(Run(data=str(same))).fingerprint)
    file.rename(file.with_name("aa.jpg"))
    prints.add(load_data(Run(data=str(same))).fingerprint)
    assert len(prints) == 3


def test_contents_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "photos")
    file = root / "train" / "bees" / "a.jpg"
    just_written, stat = load_data(Run(data=str(root))).fingerprint, file.stat()
    file.write_bytes((content := file.read_bytes())[:-1] + b"\0")
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as on a coarse clock
    assert load_data(Run(data=str(root))).fingerprint != just_written  # which is not kept
    file.write_bytes(content)
    for path in root.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    verify(first := load_data(Run(data=str(root))))
    with monkeypatch.context() as patch:
        patch.setattr("kdtune.data.dataset._content", None)  # nothing is read again
        patch.setattr("kdtune.data.folder.decode", None)
        verify(again := load_data(Run(data=str(root))))
        assert again.fingerprint == first.fingerprint
    file.write_bytes(b"no image at all")
    assert load_data(Run(data=str(root))).fingerprint != first.fingerprint
    with pytest.raises(InputError, match="cannot be read"):
        verify(load_data(Run(data=str(root))))


def test_subset_is_even_and_drawn_by_seed_and_repeat():
    data = load_data(Run())
    labels = data.splits["train"].labels
    subset = data.subset(replace(RUN, train_images=305))
    assert sorted(torch.bincount(labels[subset]).tolist()) == [30] * 5 + [31] * 5
    assert subset.tolist() == sorted(set(subset.tolist()))
    assert torch.equal(data.subset(replace(RUN, lr=0.3, epochs=2, train_images=305)), subset)
    draws = [subset]
    for change in ({"seed": 4}, {"repeat": 6}, {"train_draw": "study"}):
        run = replace(RUN, train_images=305, **change)
        draws.append(data.subset(run))
        assert {*data.subset(replace(run, train_images=100)).tolist()} < {*draws[-1].tolist()}
    assert len({tuple(draw.tolist()) for draw in draws}) == 4
    run = replace(run, repeat=6)  # of the last draw, which is that of versions before 0.2
    assert torch.equal(data.subset(run), draws[-1]) and draws[-1][:5].tolist() == FIRST_DRAWN
    assert torch.equal(data.subset(RUN), torch.arange(2000))
    labels = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0])  # all of a small class before it is uneven
    small = Data(("a", "b"), {"train": Split(labels, torch.zeros(8, 1))}, "", photos=False)
    assert labels[small.subset(replace(RUN, train_images=6))].bincount().tolist() == [4, 2]


FOLDS = 4


def rows(*counts: int) -> Split:
    """Examples of one feature, their number in the pool, with so many of each class."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    return Split(labels, torch.arange(len(labels), dtype=torch.float32)[:, None])


def data(train: Split, **others: Split) -> Data:
    return Data(("a", "b", "c"), {"train": train, **others}, "fingerprint", photos=False)


@pytest.fixture(params=[(9, 21, 13), (4, 4, 5)], ids=str)
def pool(request: pytest.FixtureRequest) -> Data:
    train = rows(*request.param)
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(1))
    test = Split(torch.zeros(2, dtype=torch.int64), torch.full((2, 1), -1.0))
    return data(train.select(order), test=test)


def test_the_vals_of_a_partition_are_disjoint_stratified_and_cover_the_pool(pool: Data) -> None:
    every = pool.splits["train"]
    vals = []
    for repeat in range(FOLDS):
        cut = cut_fold(pool, FoldCut(7, FOLDS, repeat))
        train, val = cut.splits["train"], cut.splits["val"]
        both = torch.cat([train.inputs, val.inputs]).flatten()
        assert sorted(both.tolist()) == sorted(every.inputs.flatten().tolist())
        assert torch.equal(every.labels[cut.numbers("val")], val.labels)
        assert torch.equal(every.inputs[cut.numbers("val")], val.inputs)
        assert torch.equal(every.inputs[cut.numbers("train")], train.inputs)
        assert cut.splits["test"] is pool.splits["test"] and cut.numbers("test").tolist() == [0, 1]
        assert cut.fold is not None and cut.fold.smallest_train <= len(train)
        vals.append(cut.numbers("val"))
    assert sorted(torch.cat(vals).tolist()) == list(range(len(every)))
    counts = torch.stack([every.labels[v].bincount(minlength=3) for v in vals])
    assert (counts.amax(0) - counts.amin(0)).max() <= 1
    assert counts.sum(1).max() - counts.sum(1).min() <= 1


def test_partitions_are_drawn_from_the_seed_and_their_number(pool: Data) -> None:
    def partition(seed: int, number: int) -> list[list[int]]:
        repeats = range(FOLDS * number, FOLDS * (number + 1))
        return [cut_fold(pool, FoldCut(seed, FOLDS, r)).numbers("val").tolist() for r in repeats]

    assert partition(7, 1) == partition(7, 1)
    assert partition(7, 1) not in (partition(8, 1), partition(7, 0), partition(7, 2))


def test_train_and_val_are_pooled_in_this_order_and_copies_are_named() -> None:
    cut = cut_fold(data(rows(4, 4, 4), val=rows(4, 4, 4)), FoldCut(0, FOLDS, 1))
    assert sum(len(cut.splits[name]) for name in ("train", "val")) == 24
    for split in ("train", "val"):
        numbers = cut.numbers(split) % 12  # both have the examples 0 to 11
        assert torch.equal(cut.splits[split].inputs, numbers.float()[:, None])
    assert find_copies(cut_fold(data(rows(8, 8, 8)), FoldCut(0, FOLDS, 0))) == []
    (sentence,) = find_copies(cut)
    assert sentence.startswith("12 of the 24 examples in train and val are copies of others (such")
    assert " = pool[" in sentence


def test_fingerprints_tell_repeats_apart_and_the_study_has_one() -> None:
    own = data(rows(8, 8, 8))
    cuts = [cut_fold(own, FoldCut(0, FOLDS, repeat)) for repeat in range(2 * FOLDS)]
    assert len({cut.fingerprint for cut in cuts}) == 2 * FOLDS
    assert len({cut.study_fingerprint for cut in cuts}) == 1
    others = cut_fold(own, FoldCut(1, FOLDS, 0)), cut_fold(own, FoldCut(0, 3, 0))
    assert len({cuts[0].study_fingerprint, *(cut.study_fingerprint for cut in others)}) == 3
    assert own.study_fingerprint == own.fingerprint
    run = replace(TINY, folds=5, repeat=3)
    of_study = StudyData(run)
    cut = of_study.of(run)
    assert of_study.of(replace(run, repeat=TEACHER_REPEAT - 3)) is cut  # that of its teacher
    assert cut.splits["val"].labels.bincount().tolist() == [50] * 10
    (line,) = describe_data(cut)
    assert line.startswith("Train and val are pooled (2500 examples) and split anew in each repeat")


def test_small_classes_and_too_many_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"--folds 4, and b has 3; use fewer folds"):
        cut_fold(data(rows(9, 3, 9)), FoldCut(0, FOLDS, 0))
    cut = cut_fold(data(rows(9, 9, 9)), FoldCut(0, FOLDS, 3))  # folds of 7, 7, 7 and 6
    assert len(cut.splits["train"]) == 21
    cut.subset(Run(train_images=20))
    for count in (2, 21):
        with pytest.raises(InputError, match=rf"between 3 .* and 20 .*images={count}"):
            cut.subset(Run(train_images=count))


def grouped(seed: int, by_class: bool, classes: int = 3) -> Split:
    """Return 400 examples in groups of unequal sizes, each of one class or of all."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(15, 50))
    group = rng.choice(count, 400, p=rng.dirichlet(np.full(count, rng.choice([1, 2, 20]))))
    labels = group % classes if by_class else rng.integers(0, classes, 400)
    return replace(rows(400), labels=torch.tensor(labels), groups=np.char.mod("p%d", group))


def imbalance(labels: np.ndarray, fold: np.ndarray) -> float:
    """Return the SD over folds of the share of a class, mean over classes: what sklearn lowers."""
    counts = pd.crosstab(fold, labels)
    return float((counts / counts.sum()).std(ddof=0).mean())


def test_folds_of_groups_are_disjoint_and_as_even_as_those_of_scikit_learn() -> None:
    ours, theirs = [], []
    for seed in range(20):
        pool = grouped(seed, by_class=bool(seed % 2))
        labels, groups, fold = pool.labels.numpy(), pool.groups, np.full(400, -1)
        for repeat in range(FOLDS):
            cut = cut_fold(data(pool), FoldCut(7, FOLDS, repeat))
            of_train, of_val = (set(cut.splits[s].groups) for s in ("train", "val"))
            assert not of_train & of_val and set(cut.splits["val"].labels.tolist()) == {0, 1, 2}
            fold[cut.numbers("val")] = repeat
            assert (cut.splits["val"].groups == groups[cut.numbers("val")]).all()
        assert (fold >= 0).all()
        ours.append(imbalance(labels, fold))
        splitter = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed)
        for number, (_, val) in enumerate(splitter.split(labels, labels, groups)):
            fold[val] = number
        theirs.append(imbalance(labels, fold))
    assert np.mean(ours) <= 1.05 * np.mean(theirs)
    again = [cut_fold(data(pool), FoldCut(7, FOLDS, r)).fingerprint for r in (0, 0, FOLDS)]
    assert again[0] == again[1] != again[2]  # another partition


@pytest.mark.parametrize("by_class", [False, True])
def test_a_val_of_whole_groups_has_about_the_share_of_each_class(by_class: bool) -> None:
    shares = []
    for seed in range(10):
        train = grouped(seed, by_class)
        cut = cut_val(data(train), ValCut(seed, 0.25))
        assert not set(cut.splits["train"].groups) & set(cut.splits["val"].groups)
        shares.append((cut.splits["val"].labels.bincount() / train.labels.bincount()).numpy())
    assert abs(np.mean(shares, 0) - 0.25).max() < 0.03 and abs(np.array(shares) - 0.25).max() < 0.15
    others = {cut_val(data(train), ValCut(seed, 0.25)).fingerprint for seed in range(4)}
    assert len(others) == 4


def test_classes_of_few_groups_are_on_both_sides_or_in_train() -> None:
    """a and b have two groups each, c has one."""
    names = np.repeat(["a1", "a2", "b1", "b2", "c1"], 4)
    few = replace(rows(8, 8, 4), groups=names)
    for seed in range(8):
        cut = cut_val(data(few), ValCut(seed, 0.2))
        assert cut.splits["val"].labels.bincount().tolist() == [4, 4]
        assert cut.splits["train"].labels.bincount().tolist() == [4, 4, 4]
    with pytest.raises(InputError, match=r"since 5 groups leave .* at --val-share 0.9; change it"):
        cut_val(data(few), ValCut(0, 0.9))  # c would leave train
    with pytest.raises(InputError, match=r"val without two groups at --val-share 0\.01"):
        cut_val(data(grouped(0, by_class=False)), ValCut(0, 0.01))
    words = "number of groups of each class .* --folds 2, and c has 1"
    with pytest.raises(InputError, match=words):
        cut_fold(data(few), FoldCut(0, 2, 0))


def test_groups_of_a_pool_and_what_is_said_of_them() -> None:
    train, val = (replace(rows(2, 2, 2), groups=np.array(list(g))) for g in ("aabbcc", "cddeec"))
    own = data(train, val=val)
    assert list(find_shared_groups(own)) == [
        "1 of the 3 groups of val are also in train (c), with 2 of its 6 examples, so metrics on "
        "val are optimistic; divide the data by group, or use --folds"
    ]
    assert describe_data(own)[-1] == "Groups: train 3, val 3."
    assert data_record(own)["groups"] == {"train": 3, "val": 3}
    cut = cut_fold(own, FoldCut(0, 2, 0))
    assert list(find_shared_groups(cut)) == [] and find_copies(cut)
    assert len(cut.splits["train"].groups) + len(cut.splits["val"].groups) == 12


ORIENTATION = 0x0112
"""The tag of EXIF data that says how to turn the picture."""


def oriented(file, number, size=(40, 24)):
    """Write a picture whose EXIF data say that it is to be turned; return its pixels as stored."""
    values = photo(3, *size)
    image = Image.fromarray(values.permute(1, 2, 0).numpy())
    exif = Image.Exif()
    exif[ORIENTATION] = number
    image.save(file, exif=exif)
    return values


def by_hand(values, number):
    """Turn and mirror [3, H, W] as the EXIF standard defines the eight orientations."""
    flipped = {2: [2], 3: [1, 2], 4: [1], 5: [], 6: [1], 7: [1, 2], 8: [2]}
    turned = values.flip(flipped[number]) if number > 1 else values
    return turned.transpose(1, 2) if number >= 5 else turned


@pytest.mark.parametrize("number", range(1, 9))
def test_each_orientation_gives_the_pixels_of_the_standard(tmp_path, number):
    stored = oriented(file := tmp_path / "a.png", number)
    want = by_hand(stored, number)
    assert torch.equal(decode(str(file), "exif"), want)
    assert torch.equal(decode(str(file), None), want)
    assert torch.equal(decode(str(file), "stored"), stored)
    reference = np.asarray(ImageOps.exif_transpose(Image.open(file)))
    assert np.array_equal(want.permute(1, 2, 0).numpy(), reference)
    assert decode(Image.open(file), "exif", "L").shape == (1, *want.shape[1:])


def test_views_are_rotated_but_not_in_an_older_study(tmp_path):
    stored = oriented(file := tmp_path / "a.png", 6, size=(16, 16))
    split = Split(torch.tensor([0]), (str(file),))
    run = Run(data=str(tmp_path), eval_crop=1.0, augment="none")
    for own, want in ((run, by_hand(stored, 6)), (replace(run, orientation="stored"), stored)):
        assert torch.equal(next(Views(split, torch.tensor([0]), own, 16).batches())[0], want)
        augmented = Views(split, torch.tensor([0]), replace(own, augment="crop"), 16, epoch=0)
        turned = Split(torch.tensor([0]), want[None])
        reference = Views(turned, torch.tensor([0]), replace(own, augment="crop"), 16, epoch=0)
        assert torch.equal(augmented[[0]], reference[[0]])
    assert resolve(TINY).orientation == "exif"
    assert resolve(replace(TINY, orientation="stored")).orientation == "stored"
    for schema in (2, 3, 4):
        values = {"schema": schema, "run": {"data": "photos"}, "fingerprints": {}}
        assert migrate(values)["run"]["orientation"] == "stored"
        own = values | {"run": {"data": "photos", "orientation": "exif"}}
        assert migrate(own)["run"]["orientation"] == "exif"
    assert migrate_run({"data": "photos"})["orientation"] == "stored"


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


def test_augmentation_and_evaluation_views_do_not_depend_on_each_other(tmp_path):
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
def test_what_cannot_be_mixed(data: Data, space: dict[str, Any], message: str | None) -> None:
    study = Study(name="s", run=Run(data="own"), space=space, search="random")
    with nullcontext() if message is None else pytest.raises(InputError, match=message):
        check_mixing(study, data)
