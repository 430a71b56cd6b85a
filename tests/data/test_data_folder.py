"""Folders of images as users have them: links, odd names, other formats, folders in folders."""

import os
import re

import pandas as pd
import pytest
import torch
from photos import photo, save, save_photos
from torchvision.datasets import ImageFolder

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.data.folder import verify
from kdtune.data.sources import load_data


@pytest.fixture
def root(tmp_path):
    save_photos(tmp_path / "photos", 2)
    return tmp_path / "photos"


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
    save(photo(9), root / "elsewhere" / "deeper" / "e.png")
    os.symlink(root / "elsewhere", train / "bee" / "more")
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
    # torchvision follows a circle until the name is too long for the system
    os.symlink(root / "train" / "ant", root / "train" / "ant" / "loop")
    assert load_data(Run(data=str(root))).fingerprint == own.fingerprint


def dangling_image(root):
    os.symlink(root / "gone.png", root / "val" / "bee" / "9.png")
    return ("val/bee/9.png cannot be read (No such file or directory)",)


def no_utf8_file(root):
    os.link(root / "val" / "bee" / "0.png", os.fsencode(root / "val" / "bee") + b"/caf\xe9.png")
    return "printable characters of UTF-8 only", r"val/bee/caf\udce9.png"


def escape(root):
    save(photo(1), root / "train" / "\x1b[31mred" / "0.png")
    return r"train/\x1b[31mred", r"such as '\x1b'; rename it"


def no_folder(root):
    root.rename(root.parent / "gone")
    return (f"{root} does not exist",)


def a_split_that_is_a_file(root):
    (root / "test").write_text("val is the test here")
    return (f"{root / 'test'} must be a folder",)


def other_classes(root):
    (root / "val" / "bee").rename(root / "val" / "wasp")
    return (f"{root}: train/", "train/ alone has bee and val/ alone has wasp")


SPOILED = (dangling_image, no_utf8_file, escape, no_folder, a_split_that_is_a_file)


@pytest.mark.parametrize("spoil", [*SPOILED, other_classes])
def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(root, spoil):
    words = spoil(root)
    with pytest.raises(InputError) as caught:
        verify(load_data(Run(data=str(root))))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 600
    assert all(word in sentence for word in words), sentence


def test_what_is_left_out_or_walked_into_is_said_once_with_an_example(root):
    for name in ("a.gif", "b.HEIC", ".hidden.gif", "notes.txt", "Thumbs.db", "README"):
        (root / "train" / "bee" / name).write_bytes(b"not opened")
    picture = (root / "train" / "bee" / "0.png").read_bytes()
    (root / "train" / "bee" / "download").write_bytes(picture)
    save(photo(3), root / "train" / "lost.png")
    save(photo(1), root / "val" / "bee" / "old" / "0.png")
    data = load_data(Run(data=str(root)))
    assert data.warnings == (
        f"files left out of {root}/train: 3 of other formats (such as bee/a.gif), 1 in no folder "
        f"of a class (such as lost.png); images are read from files with the suffixes .jpg, .jpeg, "
        f".png, .ppm, .bmp, .pgm, .tif, .tiff, .webp",
    )
    assert data.splits["val"].labels.tolist() == [0, 0, 1, 1, 1]
    (remark,) = data.remarks
    assert "class: 1 (such as bee/old/0.png); they have the label of that class" in remark


def test_groups_are_found_in_the_path_below_the_folder_of_the_split(root):
    for i in range(2):
        save(photo(i), root / "train" / "ant" / f"p{i}_7.png")
    for file in [*root.glob("*/*/[0-9].png")]:
        file.rename(file.with_name(f"p{file.stem}_0.png"))
    plain = load_data(Run(data=str(root)))
    data = load_data(Run(data=str(root), groups=r"p(\d)_"))
    assert data.splits["train"].groups.tolist() == ["0", "0", "1", "1", "0", "1"]
    assert data.fingerprint != plain.fingerprint
    whole = load_data(Run(data=str(root), groups="^.../p.")).splits["train"].groups
    assert whole.tolist()[::2] == ["ant/p0", "ant/p1", "bee/p0"]


def write_table(root, **changes):
    """Write a table of the folder's images, of val before train; with other values in row 3."""
    files = sorted(root.rglob("*.png"), reverse=True)
    table = pd.DataFrame({"path": [file.relative_to(root).as_posix() for file in files]})
    table[["split", "label"]] = [file.parts[-3:-1] for file in files]
    table["group"] = [file.stem for file in files]
    for column, value in changes.items():
        table.loc[2, column] = value
    table.to_csv(root / "t.csv", index=False)
    return Run(data=str(root / "t.csv")), table


def test_a_table_equals_a_folder_and_may_move(root, tmp_path):
    folder, (run, table) = load_data(Run(data=str(root), groups="(.).png")), write_table(root)
    other = table.rename(columns={"path": "FILE", "label": "CLASS", "split": "FOLD"})
    other["FILE"] = [str(root / path) for path in table["path"]]
    other.iloc[::-1].to_parquet(tmp_path / "other.parquet")
    columns = ("path=FILE", "label=CLASS", "split=FOLD")
    datas = [load_data(run), load_data(Run(data=f"{tmp_path}/other.parquet", columns=columns))]
    for data in datas:
        assert data.classes == folder.classes and data.photos
        for name, split in folder.splits.items():
            assert data.splits[name].inputs == split.inputs
            assert torch.equal(data.splits[name].labels, split.labels)
            assert data.splits[name].groups.tolist() == split.groups.tolist()
    cut = load_data(Run(data=run.data, columns=("split=", "group=")))
    assert cut.cut is not None and sum(map(len, cut.splits.values())) == 8
    swapped = load_data(write_table(root, label="bee")[0])
    assert {swapped.fingerprint, cut.fingerprint}.isdisjoint({data.fingerprint for data in datas})
    write_table(root)
    root.rename(tmp_path / "moved")
    assert load_data(Run(data=f"{tmp_path}/moved/t.csv")).fingerprint == datas[0].fingerprint


def test_classes_that_are_numbers_are_in_their_order(root):
    _, table = write_table(root)
    table["label"] = ["2", "10", "9", "2"] * 2
    table.drop(columns=["split", "group"]).to_csv(root / "t.csv", index=False)
    assert load_data(
        Run(
            data=str(root / "t.csv"),
        )
    ).classes == ("2", "9", "10")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "train/ant/9.png"}, "path must be a local file .* but is 'train/ant/9.png'"),
        ({"path": "s3://photos/a.png"}, "path must be a local file that can be read"),
        ({"path": "val/../train/ant/0.png"}, r"row 8 .* path must be an image that no row above"),
        ({"path": "t.csv"}, r"t.csv cannot be read \(cannot identify .* \(row 3 .* column path\)"),
        ({"label": " "}, "label must be filled, but is ''; correct or remove the row"),
        ({"label": "wasp"}, "label must be a class that rows of train have, but is 'wasp'"),
        ({"split": "vla"}, "split must be one of train, .* test, but is 'vla'"),
        ({"group": None}, "group must be filled"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_by_row_and_column(root, changes, words):
    run, _ = write_table(root, **changes)
    with pytest.raises(InputError, match=words) as caught:
        verify(load_data(run))
    assert re.search(f"row [38] below the header of {run.data}, column", str(caught.value))


@pytest.mark.parametrize(
    ("data", "columns", "words"),
    [
        ("t.csv", ("label=CLASS",), "a column CLASS for the label of each image, but has path, sp"),
        ("t.csv", ("split=FOLD",), "have a column FOLD for the split"),
        ("t.csv", ("label=",), "have a column  for the label"),
        ("t.csv", ("class=CLASS",), r"columns must be path\|label\|split\|group=COLUMN, each once"),
        ("t.csv", ("path=a", "path=b"), "each once"),
        ("", ("path=a",), "columns must be left out unless --data is a table"),
        ("broken.csv", (), r"the table .*broken.csv cannot be read .*utf-8"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(root, data, columns, words):
    write_table(root)
    (root / "broken.csv").write_bytes(b"\xff")
    with pytest.raises(InputError, match=words):
        load_data(Run(data=str(root / data), columns=columns))


@pytest.mark.parametrize(
    ("groups", "data", "words"),
    [
        (r"(q\d)", None, r"\(q.d\) does not match ant/0.png, .* bee/0.png, and 1 more in train"),
        ("(x)?", None, "does not match ant/0.png"),
        ("png", None, "must have examples of at least two groups, but all are of png"),
        (".", "fashion", "examples of fashion have no files; a function may return groups"),
    ],
)
def test_groups_that_cannot_be_found_are_refused(root, groups, data, words):
    with pytest.raises(InputError, match=words):
        load_data(Run(data=data or str(root), groups=groups))
