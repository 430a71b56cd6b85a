"""Folders of images as users have them: links, odd names, other formats, folders in folders."""

import os
from dataclasses import replace

import pytest
import torch
from photos import photo, save, save_photos, write_table
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


SPOILED = {
    "dangling image": (
        lambda root: os.symlink(root / "gone.png", root / "val" / "bee" / "9.png"),
        ("val/bee/9.png cannot be read (No such file or directory)",),
    ),
    "no UTF-8": (
        lambda root: os.link(root / "val/bee/0.png", os.fsencode(root) + b"/val/bee/caf\xe9.png"),
        ("printable characters of UTF-8 only", r"val/bee/caf\udce9.png"),
    ),
    "escape": (
        lambda root: save(photo(1), root / "train" / "\x1b[31mred" / "0.png"),
        (r"train/\x1b[31mred", r"such as '\x1b'; rename it"),
    ),
    "no folder": (lambda root: root.rename(root.parent / "gone"), ("ROOT does not exist",)),
    "split that is a file": (
        lambda root: (root / "test").write_text("val is the test here"),
        ("ROOT/test must be a folder",),
    ),
    "other classes": (
        lambda root: (root / "val" / "bee").rename(root / "val" / "wasp"),
        ("ROOT: train/", "train/ alone has bee and val/ alone has wasp"),
    ),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILED.values(), ids=SPOILED)
def test_a_folder_that_cannot_be_read_is_refused_in_one_sentence(root, spoil, words):
    spoil(root)
    with pytest.raises(InputError) as caught:
        verify(load_data(Run(data=str(root))))
    sentence = str(caught.value)
    assert "\n" not in sentence and sentence.isprintable() and len(sentence) < 600
    assert all(word.replace("ROOT", str(root)) in sentence for word in words), sentence


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


def assert_same(data, folder):
    assert data.classes == folder.classes and data.photos
    for name, split in folder.splits.items():
        assert [*data.splits[name].contents()] == [*split.contents()]
        assert torch.equal(data.splits[name].labels, split.labels)
        assert data.splits[name].groups.tolist() == split.groups.tolist()


def test_a_table_equals_a_folder_and_may_move(root, tmp_path):
    folder, table = load_data(Run(data=str(root), groups="(.).png")), write_table(root)
    assert_same(data := load_data(run := Run(data=f"{root}/t.csv")), folder)
    other = table.rename(columns={"path": "FILE", "label": "CLASS", "split": "FOLD"})
    other["FILE"] = [str(root / path) for path in table["path"]]
    other.iloc[::-1].to_parquet(file := tmp_path / "other.parquet")
    columns = ("path=FILE", "label=CLASS", "split=FOLD")
    assert_same(load_data(Run(data=str(file), columns=columns)), folder)
    cut = load_data(replace(run, columns=("split=", "group=")))
    assert cut.cut is not None and sum(map(len, cut.splits.values())) == 8
    table["label"] = ["2", "10", "9", "2"] * 2
    table[["path", "label"]].to_csv(root / "t.csv", index=False)
    assert load_data(run).classes == ("2", "9", "10")  # in the order of numbers
    write_table(root, label="bee")
    assert data.fingerprint not in (cut.fingerprint, load_data(run).fingerprint)
    write_table(root)
    root.rename(tmp_path / "moved")
    assert load_data(Run(data=f"{tmp_path}/moved/t.csv")).fingerprint == data.fingerprint


def test_a_saved_dataset_equals_a_folder_and_may_move(root, tmp_path):
    datasets = pytest.importorskip("datasets")
    folder, made = load_data(Run(data=str(root), groups="(.).png")), {}
    kinds = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["ant", "bee"])}
    kinds = datasets.Features(kinds | {"other": kinds["label"], "who": datasets.Value("string")})
    for name, split in folder.splits.items():
        rows = {"image": list(split.inputs), "label": split.labels.tolist()}
        rows |= {"other": rows["label"][::-1], "who": split.groups.tolist()}
        made[name.replace("val", "validation")] = datasets.Dataset.from_dict(rows, features=kinds)
    datasets.DatasetDict(made).save_to_disk(tmp_path / "saved")
    run = Run(data=f"hf:{tmp_path}/saved", columns=("label=label", "group=who"))
    assert_same(data := load_data(run), folder)
    assert load_data(replace(run, columns=("label=other",))).fingerprint != data.fingerprint
    for columns, words in ((None, "but has .'label', 'other'."), (("label=who",), "ClassLabel")):
        with pytest.raises(InputError, match=words):
            load_data(replace(run, columns=columns))
    (tmp_path / "saved").rename(tmp_path / "moved")
    assert load_data(replace(run, data=f"hf:{tmp_path}/moved")).fingerprint == data.fingerprint


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "train/ant/9.png"}, "row 3 .* path must be a local file .* is 'train/ant/9.png'"),
        ({"path": "s3://photos/a.png"}, "row 3 .* path must be a local file that can be read"),
        ({"path": "val/../train/ant/0.png"}, "row 8 .* path must be an image that no row above"),
        ({"path": "t.csv"}, r"t.csv cannot be read \(cannot identify .* \(row 3 .* column path\)"),
        ({"label": " "}, "row 3 .* label must be filled, but is ''; correct or remove"),
        (
            {"label": "wasp"},
            "row 3 .* label must be a class that rows of train have, but is 'wasp'",
        ),
        ({"split": "vla"}, "row 3 .* split must be one of train, .* test, but is 'vla'"),
        ({"group": None}, "row 3 .* group must be filled"),
        ({"columns": ("label=CLASS",)}, "a column CLASS for the label of .* but has path, split"),
        ({"columns": ("split=FOLD",)}, "have a column FOLD for the split"),
        ({"columns": ("class=CLASS",)}, r"must be path\|label\|split\|group=COLUMN, each once"),
        ({"columns": ("path=a", "path=b")}, "each once"),
        ({"columns": ("path=a",), "data": "photos"}, "must be left out unless --data is a table"),
        ({"data": "ROOT/broken.csv"}, "the table .*broken.csv cannot be read .*utf-8"),
        ({"groups": "x"}, "the examples of .*t.csv have groups of their own"),
        (
            {"groups": r"(q\d)", "data": "ROOT"},
            r"\(q.d\) does not match ant/0.png, .* bee/0.png, and 1 more in train",
        ),
        ({"groups": "(x)?", "data": "ROOT"}, "does not match ant/0.png"),
        ({"groups": "png", "data": "ROOT"}, "examples of at least two groups, but all are of png"),
        (
            {"groups": ".", "data": "fashion"},
            "examples of fashion have no files; a function may ret",
        ),
        ({"data": "torchvision:SVHN"}, r"be read from .*nowhere \(Dataset not.*--download"),
        ({"data": "torchvision:CIFAR"}, "CIFAR of labelled images; did .* torchvision:CIFAR10"),
        ({"data": "/no/CIFAR10"}, "such as torchvision:CIFAR10.* /no/CIFAR10 does not exist"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_one_sentence(root, changes, words):
    row = {name: changes[name] for name in {"path", "label", "split", "group"} & changes.keys()}
    run = {"data": "ROOT/t.csv", "data_root": str(root / "nowhere")} | changes
    run = {name: value for name, value in run.items() if name not in row}
    write_table(root, **row)
    (root / "broken.csv").write_bytes(b"\xff")
    with pytest.raises(InputError, match=words) as caught:
        verify(load_data(Run(**run | {"data": run["data"].replace("ROOT", str(root))})))
    assert all(f"header of {root}/t.csv, column {name}" in str(caught.value) for name in row)
    assert "\n" not in str(caught.value) and not (root / "nowhere").exists()
