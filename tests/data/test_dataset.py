"""Data sets: splits and labels, errors about folders, laws of subsets and fingerprints."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import photo, save
from PIL import Image

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.dataset import Data, Split
from kdtune.data.folder import verify
from kdtune.data.sources import clear_cached_data, load_data

RUN = Run(data="fashion", seed=3, repeat=1)


@pytest.fixture(autouse=True)
def own_notes(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))


def make_folder(root):
    """Make train/ and val/ of ants (1 JPEG, 1 grey PNG, a stray .gif) and bees (2 JPEGs)."""
    for split in ("train", "val"):
        save(photo(1), root / split / "ants" / "a.jpg")
        save(photo(2), root / split / "ants" / "b.png", grey=True)
        save(photo(3), root / split / "ants" / "c.gif")
        save(photo(4), root / split / "bees" / "a.jpg")
        save(photo(5), root / split / "bees" / "b.jpeg")
    return root


def test_embedded_set_is_whole():
    data = load_data(Run())
    assert len(data.classes) == 10 and not data.photos
    for name, count in (("train", 2000), ("val", 500), ("test", 1000)):
        split = data.splits[name]
        assert split.inputs.shape == (count, 1, 28, 28) and split.inputs.dtype == torch.uint8
        assert torch.bincount(split.labels).tolist() == [count // 10] * 10
        assert len(split) == count and split.labels.dtype == torch.int64


def test_embedded_splits_share_no_image():
    splits = load_data(Run()).splits.values()
    seen = [{image.numpy().tobytes() for image in split.inputs} for split in splits]
    assert len(set.union(*seen)) == sum(len(images) for images in seen)
    assert min(image.float().std() for image in load_data(Run()).splits["val"].inputs) > 1


def test_a_folder_becomes_images_and_labels(tmp_path):
    data = load_data(Run(data=str(make_folder(tmp_path / "photos"))))
    assert data.classes == ("ants", "bees") and list(data.splits) == ["train", "val"]
    train = data.splits["train"]
    assert data.photos and train.labels.tolist() == [0, 0, 1, 1]
    names = [file.rpartition("/")[2] for file in train.inputs]
    assert names == ["a.jpg", "b.png", "a.jpg", "b.jpeg"]
    assert all(train.example(i).shape == (3, 60, 80) for i in range(4))
    grey = train.example(1)
    assert torch.equal(grey[0], grey[1]) and torch.equal(grey[0], grey[2])
    assert (train.example(2).float() - photo(4).float()).abs().mean() < 4  # JPEG loses a little
    verify(data)


def drop_train(root):
    shutil.rmtree(root / "train")


def second_val(root):
    shutil.copytree(root / "val", root / "valid")


def empty_class(root):
    for file in (root / "train" / "bees").iterdir():
        file.unlink()


def rename_class(root):
    (root / "val" / "bees").rename(root / "val" / "wasps")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (shutil.rmtree, "there is no folder"),
        (drop_train, "must have train, but has val"),
        (second_val, "one split for val, but has val and valid"),
        (empty_class, "bees"),
        (rename_class, "train/ lacks wasps and val/ lacks bees"),
    ],
)
def test_faults_of_a_folder_are_refused_in_one_sentence(tmp_path, fault, words):
    root = make_folder(tmp_path / "photos")
    fault(root)
    with pytest.raises(InputError) as caught:
        load_data(Run(data=str(root)))
    assert str(root) in str(caught.value) and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_images_of_16_bits_are_scaled_to_8(tmp_path):
    root = make_folder(tmp_path / "photos")
    values = np.arange(0, 65536, 13, dtype=np.uint16)[:4800].reshape(60, 80)
    Image.fromarray(values).save(root / "train" / "ants" / "b.png")
    split = load_data(Run(data=str(root))).splits["train"]
    seen = split.example([Path(f).name for f in split.inputs].index("b.png"))
    assert torch.equal(seen[0], torch.from_numpy(np.rint(values / 257).astype(np.uint8)))
    assert torch.equal(seen[0], seen[2])


def test_images_of_floats_are_refused(tmp_path):
    root = make_folder(tmp_path / "photos")
    odd = root / "train" / "ants" / "d.tif"
    Image.fromarray(np.zeros((60, 80), np.float32)).save(odd)
    with pytest.raises(InputError, match=r"d\.tif cannot be read .its pixels have the mode F"):
        verify(load_data(Run(data=str(root))))


def test_a_folder_with_one_class_is_refused(tmp_path):
    root = make_folder(tmp_path / "photos")
    for split in ("train", "val"):
        shutil.rmtree(root / split / "bees")
    with pytest.raises(InputError, match="at least two classes, but has ants alone"):
        load_data(Run(data=str(root)))


def test_verify_names_the_images_that_cannot_be_read(tmp_path):
    root = make_folder(tmp_path / "photos")
    truncated, noise = root / "train" / "bees" / "b.jpeg", root / "val" / "ants" / "b.png"
    truncated.write_bytes(truncated.read_bytes()[:-400])
    with pytest.raises(InputError, match="cannot be read") as caught:
        verify(load_data(Run(data=str(root))))
    assert str(truncated) in str(caught.value) and "more)" not in str(caught.value)
    noise.write_bytes(b"no image at all")
    with pytest.raises(InputError, match="and 1 more") as caught:
        verify(load_data(Run(data=str(root))))
    assert "\n" not in str(caught.value)


def test_fingerprint_depends_on_the_content_not_on_the_path(tmp_path):
    first = make_folder(tmp_path / "first")
    prints = {load_data(Run(data=str(first))).fingerprint}
    same = tmp_path / "elsewhere" / "same"
    shutil.copytree(first, same)
    assert load_data(Run(data=str(same))).fingerprint in prints
    for change in ("longer", "renamed", "other"):
        root = tmp_path / change
        shutil.copytree(first, root)
        file = root / "val" / "bees" / "a.jpg"
        if change == "renamed":
            file.rename(file.with_name("aa.jpg"))
        else:
            file.write_bytes(file.read_bytes()[: -1 if change == "other" else None] + b"\0")
        prints.add(load_data(Run(data=str(root))).fingerprint)
    assert len(prints) == 4


def refuse(*_):
    raise AssertionError("read again")


def test_contents_are_read_once_and_again_when_they_change(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "photos")
    for file in root.rglob("*.*"):
        os.utime(file, (1e9, 1e9))
    first = load_data(Run(data=str(root))).fingerprint
    with monkeypatch.context() as patch:
        patch.setattr("kdtune.data.dataset._content", refuse)
        clear_cached_data()  # as in another process
        assert load_data(Run(data=str(root))).fingerprint == first
    file = root / "train" / "bees" / "a.jpg"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    clear_cached_data()
    assert load_data(Run(data=str(root))).fingerprint != first


def test_the_fingerprint_of_files_just_written_is_not_kept(tmp_path):
    root = make_folder(tmp_path / "photos")
    first, file = load_data(Run(data=str(root))).fingerprint, root / "val" / "ants" / "a.jpg"
    written = file.stat()
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    os.utime(file, ns=(written.st_atime_ns, written.st_mtime_ns))  # as on a coarse clock
    clear_cached_data()
    assert load_data(Run(data=str(root))).fingerprint != first


def test_images_are_decoded_once_to_verify_them(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "photos")
    verify(load_data(Run(data=str(root))))
    with monkeypatch.context() as patch:
        patch.setattr("kdtune.data.folder.decode", refuse)
        verify(load_data(Run(data=str(root))))
    (root / "val" / "ants" / "a.jpg").write_bytes(b"no image at all")
    clear_cached_data()
    with pytest.raises(InputError, match="cannot be read"):
        verify(load_data(Run(data=str(root))))


def test_subset_is_even_and_fixed_by_the_seed_alone():
    data = load_data(Run())
    labels = data.splits["train"].labels
    subset = data.subset(replace(RUN, train_images=305))
    counts = torch.bincount(labels[subset]).tolist()
    assert sorted(counts) == [30] * 5 + [31] * 5
    assert subset.tolist() == sorted(set(subset.tolist()))
    for other in (replace(RUN, repeat=6), replace(RUN, lr=0.3, epochs=2)):
        assert torch.equal(data.subset(replace(other, train_images=305)), subset)
    assert not torch.equal(data.subset(replace(RUN, seed=4, train_images=305)), subset)
    assert torch.equal(data.subset(RUN), torch.arange(2000))


def test_subset_takes_all_images_of_a_small_class_before_it_is_uneven():
    labels = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0])
    data = Data(("a", "b"), {"train": Split(labels, torch.zeros(8, 1, 4, 4))}, "", photos=False)
    subset = data.subset(replace(RUN, train_images=6))
    assert torch.bincount(labels[subset]).tolist() == [4, 2]


@pytest.mark.parametrize("count", [9, 2001])
def test_subset_refuses_too_few_and_too_many(count):
    with pytest.raises(InputError, match=f"between 10 .* and 2000 .* train_images={count}"):
        load_data(Run()).subset(replace(RUN, train_images=count))
