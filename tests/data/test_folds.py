"""Train and val of a repeat: the laws of repeated stratified k-fold, by counting."""

from dataclasses import replace

import pytest
import torch
from tiny_run import TINY

from kdtune.config.run import TEACHER_REPEAT, Run
from kdtune.config.text import InputError
from kdtune.data.checks import describe_data, find_copies
from kdtune.data.dataset import Data, FoldCut, Split, cut_fold
from kdtune.data.sources import load_data

FOLDS = 4


def rows(*counts: int) -> Split:
    """Examples of one feature, their number in the pool, with so many of each class."""
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(counts)])
    return Split(labels, torch.arange(len(labels), dtype=torch.float32)[:, None])


def data(train: Split, **others: Split) -> Data:
    return Data(("a", "b", "c"), {"train": train, **others}, "fingerprint", photos=False)


@pytest.fixture(params=[(9, 21, 13), (4, 4, 5), (40, 40, 40)], ids=str)
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
        both = torch.cat([train.inputs, val.inputs]).flatten()  # type: ignore[list-item]
        assert sorted(both.tolist()) == sorted(every.inputs.flatten().tolist())  # type: ignore[union-attr]
        assert torch.equal(every.labels[cut.numbers("val")], val.labels)
        assert torch.equal(every.inputs[cut.numbers("val")], val.inputs)  # type: ignore[index,arg-type]
        assert torch.equal(every.inputs[cut.numbers("train")], train.inputs)  # type: ignore[index,arg-type]
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


def test_train_and_val_are_pooled_in_this_order() -> None:
    cut = cut_fold(data(rows(4, 4, 4), val=rows(4, 4, 4)), FoldCut(0, FOLDS, 1))
    assert sum(len(cut.splits[name]) for name in ("train", "val")) == 24
    for split in ("train", "val"):
        numbers = cut.numbers(split) % 12  # both have the examples 0 to 11
        assert torch.equal(cut.splits[split].inputs, numbers.float()[:, None])  # type: ignore[arg-type]


def test_fingerprints_tell_repeats_apart_and_the_study_has_one() -> None:
    own = data(rows(8, 8, 8))
    cuts = [cut_fold(own, FoldCut(0, FOLDS, repeat)) for repeat in range(2 * FOLDS)]
    assert len({cut.fingerprint for cut in cuts}) == 2 * FOLDS
    assert len({cut.study_fingerprint for cut in cuts}) == 1
    others = cut_fold(own, FoldCut(1, FOLDS, 0)), cut_fold(own, FoldCut(0, 3, 0))
    assert len({cuts[0].study_fingerprint, *(cut.study_fingerprint for cut in others)}) == 3
    assert own.study_fingerprint == own.fingerprint


def test_a_run_has_the_split_of_its_repeat_and_so_has_its_teacher() -> None:
    run = replace(TINY, folds=5, repeat=3)
    own = load_data(run)
    assert load_data(replace(run, repeat=TEACHER_REPEAT - 3)) is own
    assert load_data(replace(run, repeat=4)).fingerprint != own.fingerprint
    assert len(own.splits["val"]) == 500 and len(own.splits["train"]) == 2000
    assert len(own.splits["test"]) == 1000
    assert own.splits["val"].labels.bincount().tolist() == [50] * 10
    (line,) = describe_data(own)
    assert line.startswith("Train and val are pooled (2500 examples) and split anew in each repeat")


def test_small_classes_and_too_many_images_are_refused() -> None:
    with pytest.raises(InputError, match=r"--folds 4, and b has 3; use fewer folds"):
        cut_fold(data(rows(9, 3, 9)), FoldCut(0, FOLDS, 0))
    cut = cut_fold(data(rows(9, 9, 9)), FoldCut(0, FOLDS, 3))  # folds of 7, 7, 7 and 6
    assert len(cut.splits["train"]) == 21
    cut.subset(Run(train_images=20))
    with pytest.raises(InputError, match=r"between 3 \(one per class\) and 20"):
        cut.subset(Run(train_images=21))


def test_copies_in_the_pool_are_named(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert find_copies(cut_fold(data(rows(8, 8, 8)), FoldCut(0, FOLDS, 0))) == []
    twice = data(rows(4, 4, 4), val=rows(4, 4, 4))
    twice = replace(twice, fingerprint="twice")
    (sentence,) = find_copies(cut_fold(twice, FoldCut(0, FOLDS, 0)))
    assert sentence.startswith("12 of the 24 examples in train and val together are copies")
    val = twice.splits["val"]
    others = Split((val.labels + 1) % 3, val.inputs)
    moved = replace(twice, fingerprint="moved", splits=twice.splits | {"val": others})
    _, labels = find_copies(cut_fold(moved, FoldCut(0, FOLDS, 0)))
    assert labels.startswith("24 of the 24 examples in train and val are copies of others in anoth")
    assert " = pool[" in labels
