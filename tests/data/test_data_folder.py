"""Folders of images as users have them: links, odd names, other formats, folders in folders.

And checks of data: changed images, cuts of val, copies and counts of classes.
"""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from photos import photo, save, save_photos, write_table
from torchvision.datasets import ImageFolder

from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError
from kdtune.data.arrays import add_extra
from kdtune.data.checks import Contents, describe_data, find_changes, find_copies
from kdtune.data.dataset import Data, Split, ValCut, cut_val
from kdtune.data.folder import verify
from kdtune.data.sources import StudyData, load_data
from kdtune.data.views import Views
from kdtune.raytune.objects import freeze, thaw
from kdtune.storage.store import Store


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
    # without a split, the folders are classes, and val is cut from them
    train = load_data(Run(data=str(root / "train")))
    assert (train.classes, train.splits.keys()) == (own.classes, {"train", "val"})
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
    "no train": (
        lambda root: (root / "train").rename(root / "Training"),
        ("must have train", "val"),
    ),
    "no split": (
        lambda root: [(root / s).rename(root / s.title()) for s in ("train", "val")],
        ("ROOT must have train/", "(such as Train/ant/0.png)", "name the splits train, val and"),
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


def test_images_in_an_object_store_equal_a_folder_and_are_copied_once(root, s3):
    folder, table = load_data(Run(data=str(root), groups="(.).png")), write_table(root)
    store = Store("s3://kdtune")
    for path in table["path"]:
        store.put(root / path, f"photos/{path}")
    objects = table.assign(path="s3://kdtune/photos/" + table["path"])
    objects.to_csv(file := root / "o.csv")
    assert_same(data := load_data(run := Run(data=str(file))), folder)
    copies = {f: Path(f).stat().st_ino for split in data.splits.values() for f in split.inputs}
    store.put(root / table["path"][1], f"photos/{table['path'][0]}")
    assert load_data(run).fingerprint != data.fingerprint
    kept = [Path(name).stat().st_ino == inode for name, inode in copies.items()]
    assert kept.count(False) == 1
    for path, words in (
        ("s3://kdtune/photos/none.png", "row 1 .* path must be a .* file that can be read"),
        ("s3://kdtune/../x.png", "row 1 .* path must be an object"),
        ("s9://kdtune/x.png", "a URI must be"),
        ("s3://nobucket/x.png", "s3://nobucket cannot be read"),
    ):
        table.assign(path=[path, *["s3://kdtune/photos/" + p for p in table["path"][1:]]]).to_csv(
            file
        )
        with pytest.raises(InputError, match=words):
            load_data(run)


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
        ({"path": "s3://photos/a.png"}, "row 1 .* path must be an object .* is 'val/bee/1.png'"),
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


@pytest.fixture
def root3(tmp_path):
    """Three photographs of each class in train and in val."""
    save_photos(tmp_path / "photos", 3)
    return tmp_path / "photos"


def views(data: Data, run: Run, workers: int = 0):
    """All evaluation views of val, in one batch."""
    split = data.splits["val"]
    return next(Views(split, torch.arange(len(split)), run, 16).batches(workers=workers))


def spoil(file):
    """Change a byte and set the time of the change back."""
    before, content = file.stat(), bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [spoil, lambda file: save(photo(99), file)])
@pytest.mark.parametrize("workers", [0, 1])
def test_an_overwritten_image_is_never_decoded_as_the_one_that_was_hashed(root3, workers, change):
    run = Run(data=str(root3))
    data = load_data(run)
    assert views(data, run, workers).shape == (6, 3, 16, 16)
    change(root3 / "val" / "bee" / "1.png")
    words = rf"^the image {root3}/val/bee/1\.png has been changed or removed since [^\n]*$"
    with pytest.raises(DataChangedError, match=words):
        views(data, run, workers)


def replaced_by_a_copy(file, time_ns):
    """Give a file another inode and another time of change."""
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(time_ns, time_ns))
    copy.replace(file)


def test_images_that_are_touched_or_copied_while_they_are_read_are_the_same(root3):
    run = Run(data=str(root3))
    data = load_data(run)
    want = views(data, run)
    os.utime(root3 / "val" / "ant" / "0.png", ns=(1, 1))
    replaced_by_a_copy(root3 / "val" / "bee" / "1.png", 10**18)
    for _ in range(2):
        assert torch.equal(views(data, run), want)
    assert find_changes(data) == ""
    file = root3 / "val" / "ant" / "0.png"  # what was touched may be changed afterwards
    save(photo(99), file)
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataChangedError, match=r"val/ant/0\.png has been changed or removed since"):
        views(data, run)


def test_files_of_passed_data_are_compared_by_content_on_another_machine(root3):
    data, buffers = load_data(Run(data=str(root3))), []
    want, frozen = data.splits["val"].example(0), freeze(data, buffers)
    for file in root3.rglob("*.png"):
        replaced_by_a_copy(file, 10**18)
    there = thaw(frozen, buffers).splits["val"]
    assert torch.equal(there.example(0), want) and there.changed_files() == []
    save(photo(99), root3 / "val" / "ant" / "1.png")
    with pytest.raises(DataChangedError, match=r"val/ant/1\.png has been changed or removed since"):
        thaw(frozen, buffers).splits["val"].example(1)


def test_subsets_folds_and_cuts_keep_the_stamps(root3):
    for run in (Run(data=str(root3), folds=2), Run(data=str(root3), extra="rest", train_images=2)):
        data = add_extra(load_data(run), run)
        for split in data.splits.values():
            assert split.stamps is not None and len(split.stamps) == len(split)
            assert split.changed_files() == []
    extra = replace(run, extra=str(root3 / "val"))
    changed = root3 / "val" / "bee" / "2.png"
    data = add_extra(load_data(extra), extra)
    save(photo(50), changed)
    assert data.splits["extra"].changed_files() == [str(changed)]


def test_a_process_that_reads_changed_data_is_stopped(root3, tmp_path):
    save(photo(1), tmp_path / "more" / "a.png")
    run = Run(data=str(root3), extra=str(tmp_path / "more"))
    of_study = StudyData(run)
    contents, data = Contents.of(of_study), of_study.with_extra(run)
    contents.read(run)
    assert find_changes(data) == ""
    save(photo(2), tmp_path / "more" / "a.png")
    with pytest.raises(DataChangedError, match=r"the images without labels in .*more have changed"):
        contents.read(run)
    for j in range(3):
        (root3 / "train" / "bee" / f"{j}.png").unlink()
    sentence = find_changes(data)
    assert sentence.startswith("image files were changed or removed (") and "\n" not in sentence
    assert "train/bee/1.png" in sentence and "and 1 more" in sentence
    with pytest.raises(DataChangedError, match=r"the data have changed since .* in .'bee'.;"):
        contents.read(run)


def rows(counts, first=0):
    """Examples that all differ: their number, from `first` on; labels in a mixed order."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    return Split(labels, torch.arange(first, first + len(labels)).float()[:, None])


def data(**splits):
    return Data(("a", "b", "c"), splits, f"print {sorted(splits)}", photos=False)


def test_each_class_gives_the_same_share_and_no_example_is_lost_or_shared():
    whole = data(train=rows((100, 21, 2)), test=rows((1, 1, 1), 1000))
    cut = cut_val(whole, ValCut(3, 0.2))
    train, val = cut.splits["train"], cut.splits["val"]
    assert torch.bincount(val.labels).tolist() == [20, 4, 1]  # 20, 4.2 and at least 1
    assert torch.bincount(train.labels).tolist() == [80, 17, 1]
    assert list(cut.splits) == ["train", "val", "test"]
    numbers = torch.cat([train.inputs, val.inputs])[:, 0].long()
    assert sorted(numbers.tolist()) == list(range(123))
    given = whole.splits["train"].labels
    for split in (train, val):
        index = split.inputs[:, 0].long()
        assert torch.equal(split.labels, given[index]) and torch.equal(index, index.sort().values)
    same, other = (cut_val(whole, ValCut(seed, 0.2)) for seed in (3, 4))
    assert torch.equal(same.splits["val"].inputs, val.inputs)
    assert not torch.equal(other.splits["val"].inputs, val.inputs)
    assert len({whole.fingerprint, cut.fingerprint, other.fingerprint}) == 3
    assert same.fingerprint == cut.fingerprint


def test_a_class_of_one_stays_in_train_and_is_named():
    cut = cut_val(data(train=rows((5, 4, 1))), ValCut(0, 0.9))
    assert torch.bincount(cut.splits["val"].labels, minlength=3).tolist() == [4, 3, 0]
    lines = describe_data(cut)
    assert lines[0].startswith("Val is cut from train: 7 of 10 examples, 90% of each class")
    assert any("warning: val has no example of c, so" in line for line in lines)
    imbalanced = data(train=rows((30, 12, 21)), val=rows((3, 3, 2)))
    remedies = "(--class-weights balanced, --sampler balanced)"
    text = f"Classes of train are imbalanced {remedies}: a 30, c 21, b 12."
    small = "Val has 8 examples, so one of them is 12.5 points of accuracy"
    assert describe_data(imbalanced)[0].startswith(small)
    assert describe_data(imbalanced)[1:] == [text]
    assert describe_data(load_data(Run())) == []
    with pytest.raises(InputError, match="no class has two examples"):
        cut_val(data(train=rows((1, 1, 1))), ValCut(0, 0.5))


def test_a_folder_without_val_gets_one_and_other_names_of_val_count(root3):
    (root3 / "val").rename(root3 / "dev")
    named = load_data(Run(data=str(root3)))
    assert named.cut is None and len(named.splits["val"]) == 6
    (root3 / "dev").rename(root3 / "elsewhere")
    run = Run(data=str(root3), val_share=0.4, seed=5)
    of_study = StudyData(run)
    cut = of_study.of(run)
    assert cut.cut == ValCut(5, 0.4) and torch.bincount(cut.splits["val"].labels).tolist() == [1, 1]
    assert of_study.of(replace(run, lr=0.5, repeat=3)) is cut


def test_shared_examples_are_counted_by_content(root3, monkeypatch):
    train, val = rows((4, 4, 4)), rows((2, 2, 2), 9)  # 9, 10 and 11 are in both
    found = find_copies(data(train=train, val=val, test=rows((1, 1, 1), 50)))
    assert found == [
        "3 of the 6 examples in val are also in train (such as val[0] = train[9]), so metrics on "
        "val are optimistic"
    ]
    assert find_copies(data(train=train, test=rows((1, 1, 1), 50))) == []
    shutil.copytree(root3 / "val" / "ant", root3 / "test" / "ant")
    save(photo(99), root3 / "test" / "bee" / "0.png")
    shutil.copy(root3 / "train" / "ant" / "1.png", root3 / "train" / "ant" / "copy.png")
    (sentence,) = find_copies(load_data(Run(data=str(root3))))
    words = "3 of the 4 images in test are also in val (such as test/ant/0.png = "
    assert sentence.startswith(words)
    monkeypatch.setattr(Split, "contents", None)  # kept: not read again
    assert find_copies(load_data(Run(data=str(root3)))) == [sentence]


def test_copies_in_several_classes_of_a_split_are_counted():
    """Copies in one class, and a copy in another split, are no contradiction of this kind."""
    inputs = torch.tensor([[0], [1], [0], [0], [1], [2]])
    split = Split(torch.tensor([0, 0, 1, 0, 0, 2]), inputs)  # 0 is in a, b and a; 1 twice in a
    (sentence,) = find_copies(data(train=split))
    assert sentence.startswith(
        "3 of the 6 examples in train are copies of others in another class (such as train[0] of a "
        "= train[2] of b), so their labels contradict each other"
    )
