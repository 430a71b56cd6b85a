"""kdtune.data against torchvision's own transforms, Pillow, and laws of what a view depends on.

The laws (DESIGN, section 4): a view is a function of (seed, repeat, epoch, index) and of nothing
else: neither the process, the loader's workers, the batch size nor the global generator.
"""

import hashlib
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from kdtune.config import InputError, Run
from kdtune.data import Data, Split, Views, load_data, samples, verify

RUN = Run(data="fashion", seed=3, repeat=1)
INDEX = torch.arange(5, 69)


def photo(seed, height=60, width=80):
    """A smooth random picture, uint8 [3, H, W]."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 8, 8, generator=generator)
    fine = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    return (fine[0].clamp(0, 1) * 255).to(torch.uint8)


def save(image, file, grey=False):
    file.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    (picture.convert("L") if grey else picture).save(file)


def make_folder(root):
    """train/ and val/ of ants (1 JPEG, 1 grey PNG, a stray .gif) and bees (2 JPEGs)."""
    for split in ("train", "val"):
        save(photo(1), root / split / "ants" / "a.jpg")
        save(photo(2), root / split / "ants" / "b.png", grey=True)
        save(photo(3), root / split / "ants" / "c.gif")
        save(photo(4), root / split / "bees" / "a.jpg")
        save(photo(5), root / split / "bees" / "b.jpeg")
    return root


def training_views(run=RUN, epoch=0, index=INDEX, size=28, batch=64, workers=0):
    views = Views(load_data("fashion").splits["train"], index, run, size, epoch)
    return torch.cat(list(views.batches(batch, workers)))


def test_embedded_set_is_whole():
    data = load_data("fashion")
    assert len(data.classes) == 10 and not data.photos
    for name, count in (("train", 2000), ("val", 500), ("test", 1000)):
        split = data.splits[name]
        assert split.images.shape == (count, 1, 28, 28) and split.images.dtype == torch.uint8
        assert torch.bincount(split.labels).tolist() == [count // 10] * 10
        assert len(split) == count and split.labels.dtype == torch.int64


def test_embedded_splits_share_no_image():
    splits = load_data("fashion").splits.values()
    seen = [{image.numpy().tobytes() for image in split.images} for split in splits]
    assert len(set.union(*seen)) == sum(len(images) for images in seen)
    assert min(image.float().std() for image in load_data("fashion").splits["val"].images) > 1


def test_folder_gives_its_images_and_labels(tmp_path):
    data = load_data(str(make_folder(tmp_path / "photos")))
    assert data.classes == ("ants", "bees") and list(data.splits) == ["train", "val"]
    train = data.splits["train"]
    assert data.photos and train.labels.tolist() == [0, 0, 1, 1]
    names = [file.rpartition("/")[2] for file in train.images]
    assert names == ["a.jpg", "b.png", "a.jpg", "b.jpeg"]
    assert all(train.image(i).shape == (3, 60, 80) for i in range(4))
    grey = train.image(1)
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    assert (train.image(2).float() - photo(4).float()).abs().mean() < 4  # JPEG loses a little
    verify(data)


def drop_val(root):
    shutil.rmtree(root / "val")


def empty_class(root):
    for file in (root / "train" / "bees").iterdir():
        file.unlink()


def rename_class(root):
    (root / "val" / "bees").rename(root / "val" / "wasps")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (shutil.rmtree, "there is no folder"),
        (drop_val, "no val/"),
        (empty_class, "bees"),
        (rename_class, "['bees', 'wasps'] differ"),
    ],
)
def test_folder_faults_are_one_sentence(tmp_path, fault, words):
    root = make_folder(tmp_path / "photos")
    fault(root)
    with pytest.raises(InputError) as caught:
        load_data(str(root))
    assert str(root) in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_verify_names_the_images_that_cannot_be_read(tmp_path):
    root = make_folder(tmp_path / "photos")
    truncated, noise = root / "train" / "bees" / "b.jpeg", root / "val" / "ants" / "b.png"
    truncated.write_bytes(truncated.read_bytes()[:-400])
    with pytest.raises(InputError, match="cannot be read") as caught:
        verify(load_data(str(root)))
    assert str(truncated) in str(caught.value) and "more)" not in str(caught.value)
    noise.write_bytes(b"no image at all")
    with pytest.raises(InputError, match="and 1 more") as caught:
        verify(load_data(str(root)))
    assert "\n" not in str(caught.value)


def test_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    first = make_folder(tmp_path / "first")
    prints = {load_data(str(first)).fingerprint}
    same = tmp_path / "elsewhere" / "same"
    shutil.copytree(first, same)
    assert load_data(str(same)).fingerprint in prints
    for change in ("longer", "renamed", "other"):
        root = tmp_path / change
        shutil.copytree(first, root)
        file = root / "val" / "bees" / "a.jpg"
        if change == "renamed":
            file.rename(file.with_name("aa.jpg"))
        else:
            file.write_bytes(file.read_bytes()[: -1 if change == "other" else None] + b"\0")
        prints.add(load_data(str(root)).fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize("augment", ["crop", "resized-crop"])
def test_views_do_not_depend_on_workers_batches_or_order(augment):
    run = replace(RUN, augment=augment)
    views = training_views(run)
    assert views.shape == (64, 1, 28, 28) and views.dtype == torch.uint8
    assert torch.equal(training_views(run, batch=7), views)
    assert torch.equal(training_views(run, batch=10, workers=2), views)
    assert torch.equal(training_views(run, index=INDEX.flip(0)).flip(0), views)


def digest():
    runs = RUN, replace(RUN, augment="resized-crop")
    content = b"".join(training_views(run, epoch=4).numpy().tobytes() for run in runs)
    return hashlib.sha256(content).hexdigest()


def test_views_are_equal_in_a_fresh_process():
    code = "import torch, test_data; torch.manual_seed(9); print(test_data.digest())"
    command, folder = [sys.executable, "-c", code], __file__.rpartition("/")[0]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == digest()


def test_views_differ_with_repeat_epoch_seed_and_index():
    views = training_views()
    assert not torch.equal(training_views(epoch=1), views)
    assert not torch.equal(training_views(replace(RUN, repeat=2)), views)
    assert not torch.equal(training_views(replace(RUN, seed=4)), views)
    assert torch.equal(training_views(replace(RUN, alpha=0.1, lr=0.5, epochs=7)), views)
    image = load_data("fashion").splits["train"].images[:1]
    twins = Split(torch.zeros(64, dtype=torch.int64), image.expand(64, -1, -1, -1))
    seen = torch.cat(list(Views(twins, torch.arange(64), RUN, 28, 0).batches()))
    assert len(seen.flatten(1).unique(dim=0)) > 32  # of 98 possible; 48 expected


def test_views_leave_the_global_generator_alone():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    training_views()
    training_views(replace(RUN, augment="resized-crop"), workers=2)
    samples(load_data("fashion"), RUN, 28)
    load_data("fashion").subset(replace(RUN, train_images=100))
    assert torch.equal(torch.get_rng_state(), before)


def test_crop_is_a_shift_of_at_most_an_eighth_perhaps_flipped():
    images = load_data("fashion").splits["train"].images[INDEX]
    flips = 0
    for image, view in zip(images, training_views(), strict=True):
        padded = torch.nn.functional.pad(image, (3, 3, 3, 3))
        shifts = padded.unfold(1, 28, 1).unfold(2, 28, 1)[0].reshape(49, 28, 28)
        straight = (shifts == view).flatten(1).all(1).any()
        flipped = (shifts.flip(-1) == view).flatten(1).all(1).any()
        assert straight or flipped
        flips += int(flipped and not straight)
    assert 16 < flips < 48  # 32 expected, sd 4


@pytest.mark.parametrize("shape", [(300, 400), (256, 256), (500, 231), (90, 120)])
def test_evaluation_views_of_photos_are_torchvisions(tmp_path, shape):
    file = tmp_path / "photo.png"
    save(photo(7, *shape), file)
    split = Split(torch.tensor([0]), (str(file),))
    run = replace(RUN, augment="resized-crop")
    (view,) = next(Views(split, torch.tensor([0]), run, 224).batches())
    reference = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    assert torch.equal(view, reference(photo(7, *shape)))
    pillow = v2.functional.pil_to_tensor(reference(Image.open(file)))
    assert (view.int() - pillow.int()).abs().max() <= 1


def test_evaluation_views_of_fashion_are_the_images():
    data = load_data("fashion")
    assert torch.equal(samples(data, RUN, 28), data.splits["val"].images[:2])
    views = training_views(replace(RUN, augment="none"))
    assert torch.equal(views, data.splits["train"].images[INDEX])


def test_subset_is_even_and_fixed_by_the_seed_alone():
    data = load_data("fashion")
    labels = data.splits["train"].labels
    subset = data.subset(replace(RUN, train_images=305))
    counts = torch.bincount(labels[subset]).tolist()
    assert sorted(counts) == [30] * 5 + [31] * 5
    assert subset.tolist() == sorted(set(subset.tolist()))
    for other in (replace(RUN, repeat=6), replace(RUN, lr=0.3, epochs=2)):
        assert torch.equal(data.subset(replace(other, train_images=305)), subset)
    assert not torch.equal(data.subset(replace(RUN, seed=4, train_images=305)), subset)
    assert torch.equal(data.subset(RUN), torch.arange(2000))


def test_subset_takes_all_of_a_small_class_before_it_is_uneven():
    labels = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0])
    data = Data(("a", "b"), {"train": Split(labels, torch.zeros(8, 1, 4, 4))}, "", photos=False)
    subset = data.subset(replace(RUN, train_images=6))
    assert torch.bincount(labels[subset]).tolist() == [4, 2]


@pytest.mark.parametrize("count", [9, 2001])
def test_subset_refuses_too_few_and_too_many(count):
    with pytest.raises(InputError, match=f"between 10 .* and 2000 .* train_images={count}"):
        load_data("fashion").subset(replace(RUN, train_images=count))
