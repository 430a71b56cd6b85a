"""EXIF orientation of image files, and its absence in studies of earlier versions."""

import io
import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from photos import photo, rotated_with_damage, save
from PIL import Image, ImageOps

from kdtune.config.migrations import migrate, migrate_run
from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.dataset import Split, decode
from kdtune.data.views import Views
from kdtune.streams.cache import Keys
from kdtune.training.recipe import resolve

ORIENTATION = 0x0112
TEXT = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04abc\0"
"""EXIF data in which the orientation is a text."""


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


def test_a_truncated_image_is_refused_in_either_orientation(tmp_path):
    """Pillow loads a png to look for EXIF data; its second load after a failure does not fail."""
    file = tmp_path / "a.png"
    save(photo(1), file)
    file.write_bytes(file.read_bytes()[:-300])
    for orientation in ("exif", "stored"):
        with pytest.raises(InputError, match=r"a\.png cannot be read"):
            decode(str(file), orientation)


@pytest.mark.parametrize(
    "content", [b"", b"Exif\0\0junk", b"Exif\0\0II*\0\x08\0\0\0\xff\xff", TEXT]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_damaged_exif_data_say_nothing(tmp_path, content):
    values = photo(3, 40, 24)
    image = Image.fromarray(values.permute(1, 2, 0).numpy())
    image.save(tmp_path / "a.jpg", exif=content)
    plain = io.BytesIO()
    image.save(plain, "jpeg")
    want = decode(Image.open(plain), "stored")
    assert torch.equal(decode(str(tmp_path / "a.jpg"), "exif"), want)


@pytest.mark.parametrize("tag", [0x100, 0x11A])
def test_damaged_exif_data_beside_the_orientation_do_no_harm(tmp_path, tag):
    stored = oriented(file := tmp_path / "a.png", 1)
    Image.open(file).save(file, exif=rotated_with_damage(tag))
    with pytest.raises((TypeError, struct.error)):
        ImageOps.exif_transpose(Image.open(file))
    assert torch.equal(decode(str(file), "exif"), by_hand(stored, 6))


def test_views_of_train_and_val_are_rotated(tmp_path):
    stored = oriented(file := tmp_path / "a.png", 6, size=(16, 16))
    split = Split(torch.tensor([0]), (str(file),))
    run = Run(data=str(tmp_path), eval_crop=1.0, augment="none")
    for own, want in ((run, by_hand(stored, 6)), (replace(run, orientation="stored"), stored)):
        assert torch.equal(next(Views(split, torch.tensor([0]), own, 16).batches())[0], want)
        augmented = Views(split, torch.tensor([0]), replace(own, augment="crop"), 16, epoch=0)
        turned = Split(torch.tensor([0]), want[None])
        reference = Views(turned, torch.tensor([0]), replace(own, augment="crop"), 16, epoch=0)
        assert torch.equal(augmented[[0]], reference[[0]])


def test_only_new_studies_of_files_have_other_keys_than_before():
    run = Run(data="photos", orientation="stored", augment="none")
    before = Keys(run, "d", 32, torch.device("cpu"), 32)
    assert "orientation" not in before.views("val", 0, 0, 4).text
    for split in ("train", "val", "test", "extra"):
        want = replace(before, extra="e").views(split, 0, 0, 4)
        of_files = replace(before, extra="e", files=True)
        assert of_files.views(split, 0, 0, 4).name == want.name
        for changed in ("exif", None):
            new = replace(run, orientation=changed)
            assert replace(of_files, run=new).views(split, 0, 0, 4).name != want.name
            assert replace(before, extra="e", run=new).views(split, 0, 0, 4).name == want.name


def test_a_study_that_begins_rotates_and_an_older_one_does_not():
    run = Run(data="fashion", teacher_epochs=0, teacher_weights="none")
    assert resolve(run).orientation == "exif"
    assert resolve(replace(run, orientation="stored")).orientation == "stored"
    for schema in (2, 3, 4):
        values = {"schema": schema, "run": {"data": "photos"}, "fingerprints": {}}
        assert migrate(values)["run"]["orientation"] == "stored"
        own = values | {"run": {"data": "photos", "orientation": "exif"}}
        assert migrate(own)["run"]["orientation"] == "exif"
    assert migrate_run({"teacher_trainable": "all"})["orientation"] == "stored"
    assert migrate_run({"data": "photos"})["orientation"] == "stored"


def test_images_without_exif_data_are_read_as_before(tmp_path):
    save(photo(1), tmp_path / "a.jpg")
    file = str(tmp_path / "a.jpg")
    assert torch.equal(decode(file, "exif"), decode(file, "stored"))
