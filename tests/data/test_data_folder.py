"""Folders of images as users have them: links, odd names, other formats, folders in folders."""

import os
import struct
import zlib

import pytest
from photos import photo, save, save_photos
from torchvision.datasets import ImageFolder

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.arrays import with_extra
from kdtune.data.checks import describe_data
from kdtune.data.folder import verify
from kdtune.data.sources import clear_cached_data, load_data


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Make train/ and val/ with two images each of ants and bees."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    save_photos(tmp_path / "photos", 2)
    yield tmp_path / "photos"
    clear_cached_data()


def refusal(root):
    """The sentence with which the data are refused."""
    with pytest.raises(InputError) as caught:
        verify(load_data(Run(data=str(root))))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 600
    return sentence


def test_images_are_found_in_the_order_of_torchvision(root):
    train = root / "train"
    for name in ("B.JPG", "a.Jpeg", "ä.png", "b c.webp", "%s.png", "$x$.png", "'q\".png", ".h.png"):
        save(photo(7), train / "ant" / f"{name}")
    for place in ("z", "a/b", "a-b", "a/B", ".hidden"):
        save(photo(8), train / "bee" / place / "n.png")
    (train / "ant" / "cat.jpg").mkdir()
    (train / "ant" / ("n" * 251 + ".png")).write_bytes((train / "ant" / "0.png").read_bytes())
    (train / "notes.txt").write_text("no class")
    os.symlink(train / "ant" / "0.png", train / "ant" / "link.png")
    data = load_data(Run(data=str(root)))
    reference = ImageFolder(train)
    assert data.classes == tuple(reference.classes)
    assert data.splits["train"].inputs == tuple(path for path, _ in reference.samples)
    assert data.splits["train"].labels.tolist() == reference.targets
    verify(data)


def test_links_to_classes_and_to_splits_are_followed(root, tmp_path):
    (tmp_path / "linked").mkdir()
    os.symlink(root / "val", tmp_path / "linked" / "val")
    (tmp_path / "linked" / "train").mkdir()
    for name in ("ant", "bee"):
        os.symlink(root / "train" / name, tmp_path / "linked" / "train" / name)
    linked, own = (load_data(Run(data=str(place))) for place in (tmp_path / "linked", root))
    assert linked.fingerprint == own.fingerprint and not linked.warnings and not linked.remarks


LINKS = {
    "to another class": ("train/ant/more", "train/bee"),
    "to itself": ("train/ant/loop", "train/ant"),
    "to the split": ("train/bee/all", "train"),
    "to the root": ("train/bee/all", ""),
    "to what another class holds": ("train/ant/more", "train/bee/young"),
    "to nothing": ("train/bee/more", "gone"),
    "a class that is nowhere": ("train/wasp", "gone"),
}


@pytest.mark.parametrize("link", LINKS)
def test_each_image_is_read_once_and_links_to_nothing_or_to_it_again_are_counted(root, link):
    """torchvision follows a circle until the name is too long for the system."""
    save(photo(5), root / "train" / "bee" / "young" / "a.png")
    before = load_data(Run(data=str(root)))
    clear_cached_data()
    place, target = LINKS[link]
    os.symlink(root / target, root / place)
    data = load_data(Run(data=str(root)))
    assert data.splits["train"].inputs == before.splits["train"].inputs
    assert data.fingerprint == before.fingerprint
    (warning,) = data.warnings
    assert warning.startswith(
        f"files left out of {root}/train: 1 behind links to nothing or to folders that are read "
        f"already (such as {place.removeprefix('train/')}); images are read from"
    )


def class_twice(root):
    os.symlink(root / "train" / "ant", root / "train" / "wasp")
    return "wasp has none with the suffixes .jpg", "that no other class has", "remove the folder"


def class_of_all(root):
    os.symlink(root / "train", root / "train" / "all")
    return ("all has none with the suffixes",)


def circular_split(root):
    os.symlink("test", root / "test")
    return ("photos/test must be a folder, but is none",)


def dangling_image(root):
    os.symlink(root / "gone.png", root / "val" / "bee" / "9.png")
    return ("val/bee/9.png cannot be read (No such file or directory)",)


def pipe(root):
    os.mkfifo(root / "val" / "bee" / "9.png")
    return ("val/bee/9.png is no file; remove it",)


def no_utf8_file(root):
    os.link(root / "val" / "bee" / "0.png", os.fsencode(root / "val" / "bee") + b"/caf\xe9.png")
    return "printable characters of UTF-8 only", r"val/bee/caf\udce9.png"


def no_utf8_folder(root):
    os.mkdir(os.fsencode(root / "val" / "bee") + b"/caf\xe9")
    save(photo(1), root / "val" / "bee" / "caf\udce9" / "0.png")
    return (r"val/bee/caf\udce9/0.png",)


def no_utf8_class(root):
    os.mkdir(os.fsencode(root / "val") + b"/caf\xe9")
    return "the name of a class", r"val/caf\udce9", r"such as '\udce9'; rename it"


def newline(root):
    save(photo(1), root / "val" / "bee" / "a\nb.png")
    return (r"val/bee/a\nb.png' has others, such as '\n'; rename it",)


def escape(root):
    save(photo(1), root / "train" / "\x1b[31mred" / "0.png")
    return r"train/\x1b[31mred", r"such as '\x1b'; rename it"


def bidirectional(root):
    save(photo(1), root / "train" / "a\u202egnp" / "0.png")
    return r"train/a\u202egnp", r"such as '\u202e'; rename it"


def invisible(root):
    save(photo(1), root / "train" / "ant\u200b" / "0.png")
    return r"train/ant\u200b", r"such as '\u200b'; rename it"


def file_as_split(root):
    (root / "test").write_text("")
    return ("photos/test must be a folder, but is none; remove or rename it",)


def no_class(root):
    for name in ("ant", "bee"):
        (root / "val" / name).rename(root / "train" / name / name)
    return ("val must hold one folder of images for each class, but holds no folder",)


def only_heic(root):
    for k in range(2):
        (root / "val" / "bee" / f"{k}.png").rename(root / "val" / "bee" / f"{k}.HEIC")
    return "bee has none with the suffixes .jpg", "2 images of other formats are left out"


def two_classes_without_images(root):
    for name in ("cat", "dog"):
        (root / "train" / name).mkdir()
    return ("cat, dog have none with the suffixes",)


def a_truncated_one(root):
    file = root / "val" / "bee" / "0.png"
    file.write_bytes(file.read_bytes()[:-300])
    return "the image", "val/bee/0.png cannot be read (", "; replace it, make it readable or remove"


def an_empty_one(root):
    (root / "val" / "bee" / "0.png").write_bytes(b"")
    return ("val/bee/0.png cannot be read (cannot identify image file)",)


def a_bomb(root):
    head = (root / "val" / "bee" / "0.png").read_bytes()
    size = b"IHDR" + struct.pack(">II", 60000, 60000) + head[24:29]
    whole = head[:12] + size + struct.pack(">I", zlib.crc32(size)) + head[33:]
    (root / "val" / "bee" / "0.png").write_bytes(whole)
    return "val/bee/0.png cannot be read (Image size (3600000000 pixels) exceeds limit", "bomb"


@pytest.mark.parametrize(
    "spoil",
    [
        class_twice,
        class_of_all,
        circular_split,
        dangling_image,
        pipe,
        no_utf8_file,
        no_utf8_folder,
        no_utf8_class,
        newline,
        escape,
        bidirectional,
        invisible,
        file_as_split,
        no_class,
        only_heic,
        two_classes_without_images,
        a_truncated_one,
        an_empty_one,
        a_bomb,
    ],
)
def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(root, spoil):
    words = spoil(root)
    sentence = refusal(root)
    assert all(word in sentence for word in words), sentence


def test_folders_that_a_class_links_to_belong_to_it_once(root, tmp_path):
    for name in ("terrier", "poodle"):
        save(photo(len(name)), tmp_path / "breeds" / name / "a.png")
    os.symlink(tmp_path / "breeds" / "terrier", root / "train" / "ant" / "terrier")
    assert load_data(Run(data=str(root))).splits["train"].inputs == tuple(
        path for path, _ in ImageFolder(root / "train").samples
    )
    clear_cached_data()
    os.symlink(tmp_path / "breeds" / "poodle", tmp_path / "breeds" / "terrier" / "x")
    os.symlink(tmp_path / "breeds" / "terrier", tmp_path / "breeds" / "poodle" / "x")
    os.symlink("0.png", root / "train" / "ant" / "again.png")
    train = load_data(Run(data=str(root))).splits["train"]
    names = [file.removeprefix(f"{root}/train/") for file in train.inputs]
    assert names == [
        *("ant/0.png", "ant/1.png", "ant/again.png", "ant/terrier/a.png", "ant/terrier/x/a.png"),
        *("bee/0.png", "bee/1.png"),
    ]


def test_hidden_links_that_lead_nowhere_are_passed_over(root):
    os.symlink("somebody@host.123:456", root / ".#notes.txt")
    os.symlink("gone", root / "notes")
    os.symlink("somebody@host.123:456", root / "train" / ".#notes")
    os.symlink("somebody@host.123:456", root / "train" / "ant" / ".#0.png")
    data = load_data(Run(data=str(root)))
    verify(data)
    assert len(data.splits["train"]) == 4 and not data.warnings


def test_names_with_joiners_and_files_with_marks_of_direction_are_taken(root):
    save(photo(1), root / "train" / "\u0645\u06cc\u200c\u0631\u0648" / "\u200e24.\u200e12.png")
    save(photo(2), root / "val" / "\u0645\u06cc\u200c\u0631\u0648" / "\u202a0.png")
    data = load_data(Run(data=str(root)))
    verify(data)
    assert len(data.classes) == 3


def test_images_that_are_left_out_are_said_once_with_an_example(root):
    for name in ("a.gif", "b.HEIC", "c.avif"):
        (root / "train" / "bee" / name).write_bytes(b"not opened")
    picture = (root / "train" / "bee" / "0.png").read_bytes()
    (root / "train" / "bee" / "download").write_bytes(picture)
    for name in (".hidden.gif", "notes.txt", "labels.json", "Thumbs.db", "README"):
        (root / "train" / "bee" / name).write_bytes(b"text")
    save(photo(3), root / "train" / "lost.png")
    found = load_data(Run(data=str(root))).warnings
    assert found == (
        f"files left out of {root}/train: 4 of other formats (such as bee/a.gif), 1 in no folder "
        f"of a class (such as lost.png); images are read from files with the suffixes .jpg, .jpeg, "
        f".png, .ppm, .bmp, .pgm, .tif, .tiff, .webp",
    )


def test_folders_of_images_without_labels_that_link_to_each_other_are_taken_once(root, tmp_path):
    more = tmp_path / "more"
    for k in range(8):  # without a memory of them, as many paths as orders of the folders
        save(photo(k), more / f"{k}" / "a.png")
        for j in range(8):
            if j != k:
                os.symlink(f"../{j}", more / f"{k}" / f"to{j}")
    save(photo(9), tmp_path / "outside" / "b.png")
    os.symlink(tmp_path / "outside", more / "c")
    os.symlink(tmp_path / "outside", more / "d")
    run = Run(data=str(root), extra=str(more))
    files = with_extra(load_data(run), run).splits["extra"].inputs
    assert files == (*(f"{more}/{k}/a.png" for k in range(8)), f"{more}/c/b.png")


def test_images_without_labels_that_are_left_out_are_said_too(root, tmp_path):
    save(photo(1), tmp_path / "more" / "a.png")
    (tmp_path / "more" / "b.gif").write_bytes(b"GIF89a")
    os.symlink(tmp_path / "more", tmp_path / "more" / "circle")
    run = Run(data=str(root), extra=str(tmp_path / "more"))
    data = with_extra(load_data(run), run)
    assert len(data.splits["extra"]) == 1
    (warning,) = data.warnings
    assert "1 of other formats (such as b.gif), 1 behind links" in warning


def test_folders_inside_a_class_are_walked_and_said(root):
    save(photo(1), root / "val" / "bee" / "old" / "0.png")
    data = load_data(Run(data=str(root)))
    assert data.splits["val"].labels.tolist() == [0, 0, 1, 1, 1] and not data.warnings
    (remark,) = data.remarks
    assert "class: 1 (such as bee/old/0.png); they have the label of that class" in remark
    assert f"{remark}." in describe_data(data)
