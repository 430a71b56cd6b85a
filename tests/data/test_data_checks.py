"""Checks of data: changed images, cuts of val, copies and counts of classes."""

import os
import shutil
from dataclasses import replace

import pytest
import torch
from photos import photo, save, save_photos

from kdtune.config.run import Run
from kdtune.config.text import DataChangedError, InputError
from kdtune.data.arrays import add_extra
from kdtune.data.checks import Contents, describe_data, find_changes, find_copies
from kdtune.data.dataset import Data, Split, ValCut, cut_val
from kdtune.data.sources import StudyData, load_data
from kdtune.data.views import Views
from kdtune.raytune.objects import freeze, thaw


@pytest.fixture
def root(tmp_path):
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
def test_an_overwritten_image_is_never_decoded_as_the_one_that_was_hashed(root, workers, change):
    run = Run(data=str(root))
    data = load_data(run)
    assert views(data, run, workers).shape == (6, 3, 16, 16)
    change(root / "val" / "bee" / "1.png")
    words = rf"^the image {root}/val/bee/1\.png has been changed or removed since [^\n]*$"
    with pytest.raises(DataChangedError, match=words):
        views(data, run, workers)


def replaced_by_a_copy(file, time_ns):
    """Give a file another inode and another time of change."""
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    os.utime(copy, ns=(time_ns, time_ns))
    copy.replace(file)


def test_images_that_are_touched_or_copied_while_they_are_read_are_the_same(root):
    run = Run(data=str(root))
    data = load_data(run)
    want = views(data, run)
    os.utime(root / "val" / "ant" / "0.png", ns=(1, 1))
    replaced_by_a_copy(root / "val" / "bee" / "1.png", 10**18)
    for _ in range(2):
        assert torch.equal(views(data, run), want)
    assert find_changes(data) == ""
    file = root / "val" / "ant" / "0.png"  # what was touched may be changed afterwards
    save(photo(99), file)
    os.utime(file, ns=(1, 1))
    with pytest.raises(DataChangedError, match=r"val/ant/0\.png has been changed or removed since"):
        views(data, run)


def test_files_of_passed_data_are_compared_by_content_on_another_machine(root):
    data, buffers = load_data(Run(data=str(root))), []
    want, frozen = data.splits["val"].example(0), freeze(data, buffers)
    for file in root.rglob("*.png"):
        replaced_by_a_copy(file, 10**18)
    there = thaw(frozen, buffers).splits["val"]
    assert torch.equal(there.example(0), want) and there.changed_files() == []
    save(photo(99), root / "val" / "ant" / "1.png")
    with pytest.raises(DataChangedError, match=r"val/ant/1\.png has been changed or removed since"):
        thaw(frozen, buffers).splits["val"].example(1)


def test_subsets_folds_and_cuts_keep_the_stamps(root):
    for run in (Run(data=str(root), folds=2), Run(data=str(root), extra="rest", train_images=2)):
        data = add_extra(load_data(run), run)
        for split in data.splits.values():
            assert split.stamps is not None and len(split.stamps) == len(split)
            assert split.changed_files() == []
    extra = replace(run, extra=str(root / "val"))
    changed = root / "val" / "bee" / "2.png"
    data = add_extra(load_data(extra), extra)
    save(photo(50), changed)
    assert data.splits["extra"].changed_files() == [str(changed)]


def test_a_process_that_reads_changed_data_is_stopped(root, tmp_path):
    save(photo(1), tmp_path / "more" / "a.png")
    run = Run(data=str(root), extra=str(tmp_path / "more"))
    of_study = StudyData(run)
    contents, data = Contents.of(of_study), of_study.with_extra(run)
    contents.read(run)
    assert find_changes(data) == ""
    save(photo(2), tmp_path / "more" / "a.png")
    with pytest.raises(DataChangedError, match=r"the images without labels in .*more have changed"):
        contents.read(run)
    for j in range(3):
        (root / "train" / "bee" / f"{j}.png").unlink()
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
    assert describe_data(imbalanced) == [text]
    assert describe_data(load_data(Run())) == []
    with pytest.raises(InputError, match="no class has two examples"):
        cut_val(data(train=rows((1, 1, 1))), ValCut(0, 0.5))


def test_a_folder_without_val_gets_one_and_other_names_of_val_count(root):
    (root / "val").rename(root / "dev")
    named = load_data(Run(data=str(root)))
    assert named.cut is None and len(named.splits["val"]) == 6
    (root / "dev").rename(root / "elsewhere")
    run = Run(data=str(root), val_share=0.4, seed=5)
    of_study = StudyData(run)
    cut = of_study.of(run)
    assert cut.cut == ValCut(5, 0.4) and torch.bincount(cut.splits["val"].labels).tolist() == [1, 1]
    assert of_study.of(replace(run, lr=0.5, repeat=3)) is cut


def test_shared_examples_are_counted_by_content(root, monkeypatch):
    train, val = rows((4, 4, 4)), rows((2, 2, 2), 9)  # 9, 10 and 11 are in both
    found = find_copies(data(train=train, val=val, test=rows((1, 1, 1), 50)))
    assert found == [
        "3 of the 6 examples in val are also in train (such as val[0] = train[9]), so metrics on "
        "val are optimistic"
    ]
    assert find_copies(data(train=train, test=rows((1, 1, 1), 50))) == []
    shutil.copytree(root / "val" / "ant", root / "test" / "ant")
    save(photo(99), root / "test" / "bee" / "0.png")
    shutil.copy(root / "train" / "ant" / "1.png", root / "train" / "ant" / "copy.png")
    (sentence,) = find_copies(load_data(Run(data=str(root))))
    words = "3 of the 4 images in test are also in val (such as test/ant/0.png = "
    assert sentence.startswith(words)
    monkeypatch.setattr(Split, "contents", None)  # kept: not read again
    assert find_copies(load_data(Run(data=str(root)))) == [sentence]


def test_copies_in_several_classes_of_a_split_are_counted():
    """Copies in one class, and a copy in another split, are no contradiction of this kind."""
    inputs = torch.tensor([[0], [1], [0], [0], [1], [2]])
    split = Split(torch.tensor([0, 0, 1, 0, 0, 2]), inputs)  # 0 is in a, b and a; 1 twice in a
    (sentence,) = find_copies(data(train=split))
    assert sentence.startswith(
        "3 of the 6 examples in train are copies of others in another class (such as train[0] of a "
        "= train[2] of b), so their labels contradict each other"
    )
