"""Train and val pooled, and split anew in each repeat: repeated stratified k-fold."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdtune.config.errors import InputError
from kdtune.config.run import derive_seed
from kdtune.data.content import combine_hashes, hash_tensor
from kdtune.data.dataset import Data, Fold, Split


@dataclass(frozen=True)
class FoldCut:
    """Which split of the pool into train and val is asked for."""

    seed: int
    """Seed of the study, which draws the partitions."""
    folds: int
    """Number of folds N in a partition."""
    repeat: int
    """Repeat r, from 0: val is fold r mod N of partition number r // N."""


def cut_fold(data: Data, cut: FoldCut) -> Data:
    """Return the data with the train and val of a repeat, both from their pooled examples.

    The examples in val are part of its fingerprint, and so of the identity of the repeat's teacher
    and of every cache key. Test stays as it is.

    Args:
        data: Of a study, with or without val; the pool is train, followed by val.
        cut: The repeat and the number of folds.

    Raises:
        InputError: A class has fewer examples than there are folds.
    """
    pool = pooled(data)
    _check_classes(data, pool.labels, cut.folds)
    # the examples themselves, since another version of torch may draw others
    first = hash_tensor(assign_folds(pool.labels, replace(cut, repeat=0)))
    of_pool = combine_hashes(data.fingerprint, "folds", first)
    is_val = assign_folds(pool.labels, cut) == cut.repeat % cut.folds
    train, val = (part.nonzero()[:, 0] for part in (~is_val, is_val))
    rest = {name: split for name, split in data.splits.items() if name not in ("train", "val")}
    return replace(
        data,
        splits={"train": pool.select(train), "val": pool.select(val), **rest},
        fingerprint=combine_hashes(of_pool, hash_tensor(is_val)),
        fold=Fold(cut.folds, cut.repeat, cut.seed, data.fingerprint, of_pool, train, val),
    )


def pooled(data: Data) -> Split:
    """Return the examples of train, followed by those of val if the data have one."""
    train, val = data.splits["train"], data.splits.get("val")
    if val is None:
        return train
    labels = torch.cat([train.labels, val.labels])
    if isinstance(train.inputs, Tensor) and isinstance(val.inputs, Tensor):
        return Split(labels, torch.cat([train.inputs, val.inputs]))
    assert isinstance(train.inputs, tuple) and isinstance(val.inputs, tuple)  # noqa: S101 - both splits are of one kind
    stamps = None
    if train.stamps is not None and val.stamps is not None:
        stamps = torch.cat([train.stamps, val.stamps])
    return Split(labels, (*train.inputs, *val.inputs), stamps)


def assign_folds(labels: Tensor, cut: FoldCut) -> Tensor:
    """Return the fold of each example in the partition of a repeat.

    The examples are shuffled, sorted by class and dealt to the folds in turn, so that the folds
    have each class, and all examples, in equal numbers within 1.

    Args:
        labels: Class of each example, int64 [N].
        cut: The repeat; all those with the same quotient r // folds have the same partition.

    Returns:
        int64 [N], in [0, folds).
    """
    seed = derive_seed(cut.seed, "folds", cut.repeat // cut.folds)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    order = order[torch.argsort(labels[order], stable=True)]
    folds = torch.empty(len(labels), dtype=torch.int64)
    folds[order] = torch.arange(len(labels)) % cut.folds
    return folds


def _check_classes(data: Data, labels: Tensor, folds: int) -> None:
    counts = labels.bincount(minlength=len(data.classes)).tolist()
    smallest, count = min(zip(data.classes, counts, strict=True), key=lambda pair: pair[1])
    if count < folds:
        raise InputError(
            f"--folds must be at most the number of examples of each class in train and val, but "
            f"got --folds {folds}, and {smallest} has {count}; use fewer folds, or remove the class"
        )
