"""Images that change while a study runs: no number is made of two versions of a file."""

import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from photos import photo, save, save_photos

from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError
from kdtune.data.arrays import with_extra
from kdtune.data.checks import Contents, find_changes
from kdtune.data.dataset import Data, hash_files, stamp_of
from kdtune.data.folder import verify
from kdtune.data.sources import clear_cached_data, load_data
from kdtune.data.views import Views
from kdtune.raytune.objects import PackedData

NOBODY = 65534


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    save_photos(tmp_path / "photos", 3)
    yield tmp_path / "photos"
    clear_cached_data()


def views(data: Data, run: Run, workers: int = 0):
    """All evaluation views of val, in one batch."""
    split = data.splits["val"]
    return next(Views(split, torch.arange(len(split)), run, 16).batches(workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_overwritten_image_is_never_decoded_as_the_one_that_was_hashed(root, workers):
    run = Run(data=str(root))
    data = load_data(run)
    assert views(data, run, workers).shape == (6, 3, 16, 16)
    save(photo(99), root / "val" / "bee" / "1.png")
    with pytest.raises(DataChangedError) as caught:
        views(data, run, workers)
    words = (
        f"the image {root}/val/bee/1.png has been changed or removed since the study read its data"
    )
    assert str(caught.value).startswith(words) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_removed_image_is_named(root, workers):
    run = Run(data=str(root))
    data = load_data(run)
    (root / "val" / "ant" / "0.png").unlink()
    with pytest.raises(
        DataChangedError, match=r"val/ant/0\.png has been changed or removed since"
    ) as caught:
        views(data, run, workers)
    assert "\n" not in str(caught.value)


def test_a_file_of_the_same_size_and_time_is_another_one(root):
    run = Run(data=str(root))
    data, file = load_data(run), root / "val" / "ant" / "0.png"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    other = root.parent / "other.png"
    other.write_bytes(content)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(file)
    assert data.splits["val"].changed_files() == [str(file)]
    assert find_changes(run).startswith(f"image files were changed or removed ({file})")


def replaced_by_a_copy(file, time_ns):
    """Give a file another inode and another time of change."""
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(time_ns, time_ns))
    copy.replace(file)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_are_touched_or_copied_while_they_are_read_are_the_same(root, workers):
    run = Run(data=str(root))
    data = load_data(run)
    want = views(data, run, workers)
    os.utime(root / "val" / "ant" / "0.png", ns=(1, 1))
    replaced_by_a_copy(root / "val" / "bee" / "1.png", 10**18)
    for _ in range(2):
        assert torch.equal(views(data, run, workers), want)
    assert data.splits["val"].changed_files() == []
    file = root / "val" / "ant" / "0.png"  # what was touched may be changed afterwards
    save(photo(99), file)
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataChangedError, match=r"val/ant/0\.png has been changed or removed since"):
        views(data, run, workers)


@pytest.mark.parametrize("size", ["the same", "another"])
def test_a_file_whose_time_is_set_back_is_another_one(root, size):
    split, file = load_data(Run(data=str(root))).splits["val"], root / "val" / "ant" / "0.png"
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content if size == "the same" else content + b"\0")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(DataChangedError, match=r"val/ant/0\.png has been changed or removed since"):
        split.example(0)


def test_a_pipe_in_the_place_of_an_image_is_no_wait(root):
    split, file = load_data(Run(data=str(root))).splits["val"], root / "val" / "ant" / "0.png"
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(DataChangedError, match=r"val/ant/0\.png has been changed or removed since"):
        split.example(0)


def test_a_note_of_contents_gives_the_same_stamps_as_reading_them(root):
    files = sorted(map(str, root.rglob("*.png")))
    for file in files:
        os.utime(file, ns=(10**18, 10**18))  # long ago, so that a note is kept
    first, notes = hash_files(root, files), list((root.parent / "notes").rglob("*"))
    (note,) = [found for found in notes if found.is_file()]
    again = hash_files(root, files)
    assert first.hash == again.hash and torch.equal(first.stamps, again.stamps)
    note.write_text(first.hash)  # cut short
    assert torch.equal(hash_files(root, files).stamps, first.stamps)


def test_files_of_passed_data_are_compared_by_content_on_another_machine(root):
    data = load_data(Run(data=str(root)))
    want = data.splits["val"].example(0)
    for file in root.rglob("*.png"):
        replaced_by_a_copy(file, 10**18)
    there = PackedData.of(data).unpacked().splits["val"]
    assert torch.equal(there.example(0), want) and there.changed_files() == []
    save(photo(99), root / "val" / "ant" / "1.png")
    there = PackedData.of(data).unpacked().splits["val"]
    with pytest.raises(DataChangedError, match=r"val/ant/1\.png has been changed or removed since"):
        there.example(1)


def test_subsets_folds_and_cuts_keep_the_stamps(root):
    for run in (
        Run(data=str(root)),
        Run(data=str(root), folds=2),
        Run(data=str(root), extra="rest", train_images=2),
    ):
        data = with_extra(load_data(run), run)
        for split in data.splits.values():
            assert split.stamps is not None and len(split.stamps) == len(split)
            assert split.changed_files() == []
    extra = replace(run, extra=str(root / "val"))
    changed = root / "val" / "bee" / "2.png"
    data = with_extra(load_data(extra), extra)
    save(photo(50), changed)
    assert data.splits["extra"].changed_files() == [str(changed)]


def test_a_process_that_reads_changed_data_is_stopped(root):
    run = Run(data=str(root))
    contents = Contents.of(run)
    clear_cached_data()  # another process
    contents.check(run)
    save(photo(99), root / "val" / "bee" / "1.png")
    clear_cached_data()
    with pytest.raises(DataChangedError, match=r"the data in .*photos have changed since"):
        contents.check(run)
    for file in (root / "val" / "bee").iterdir():
        file.unlink()
    clear_cached_data()
    with pytest.raises(DataChangedError, match=r"have changed .* but bee has none"):
        contents.check(run)


def test_changed_images_without_labels_are_told_from_changed_data(root, tmp_path):
    save(photo(1), tmp_path / "more" / "a.png")
    run = Run(data=str(root), extra=str(tmp_path / "more"))
    contents = Contents.of(run)
    assert find_changes(run) == ""
    save(photo(2), tmp_path / "more" / "a.png")
    assert "more/a.png" in find_changes(run)
    clear_cached_data()
    with pytest.raises(DataChangedError, match=r"the images without labels in .*more have changed"):
        contents.check(run)


def test_a_file_that_was_only_touched_has_not_changed(root):
    run = Run(data=str(root))
    load_data(run)
    assert find_changes(run) == ""
    touched = root / "val" / "bee" / "1.png"
    before = touched.stat()
    os.utime(touched, ns=(1, 1))
    assert load_data(run).splits["val"].changed_files() == []
    assert find_changes(run) == ""
    os.utime(touched, ns=(before.st_atime_ns, before.st_mtime_ns))
    save(photo(99), root / "train" / "ant" / "9.png")
    assert find_changes(run).startswith("image files were added while the study ran")
    for j in range(3):
        (root / "train" / "bee" / f"{j}.png").unlink()
    save(photo(99), root / "train" / "ant" / "1.png")
    found = find_changes(run)
    assert "train/ant/1.png" in found and "and 1 more" in found and "\n" not in found


@contextmanager
def as_another_user():
    """Run as a user who owns nothing, if this process is root's."""
    if os.getuid():
        yield
        return
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.fixture
def open_root(root, monkeypatch):
    """The folder of images in a place that every user may read."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        monkeypatch.setenv("XDG_CACHE_HOME", f"{place}/notes")
        yield Path(shutil.copytree(root, f"{place}/photos"))


def test_a_file_that_may_no_longer_be_read_is_named_before_any_work(open_root):
    run = Run(data=str(open_root))
    verify(load_data(run))
    (open_root / "val" / "bee" / "1.png").chmod(0)
    sentence = r"val/bee/1\.png cannot be read .no permission.; replace it, make it readable"
    with as_another_user(), pytest.raises(InputError, match=sentence):
        verify(load_data(run))
    clear_cached_data()
    (open_root / "val" / "bee").chmod(0)
    sentence = r"the folder .*photos/val/bee cannot be read .Permission denied.; make it readable"
    with as_another_user(), pytest.raises(InputError, match=sentence):
        load_data(run)
    (open_root / "val" / "bee").chmod(0o755)


def test_stamps_are_the_same_in_every_process(root):
    file = root / "val" / "bee" / "1.png"
    found = file.stat()
    assert stamp_of(str(file)) == hash((found.st_size, found.st_mtime_ns, found.st_ctime_ns))
    assert stamp_of(str(Path(root, "gone.png"))) is None
