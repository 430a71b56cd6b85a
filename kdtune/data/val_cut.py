"""A val that is cut from train, where data have none."""

from dataclasses import replace

import torch

from kdtune.config.errors import InputError
from kdtune.config.run import derive_seed
from kdtune.data.content import combine_hashes, hash_tensor
from kdtune.data.dataset import Data, ValCut


def cut_val(data: Data, cut: ValCut) -> Data:
    """Return the data with a val that is cut from train.

    Each class gives the same share of its examples, rounded, but at least one and not all. A class
    with a single example stays in train.

    Args:
        data: without val.
        cut: seed and share.

    Returns:
        The data; the examples in val are part of its fingerprint.

    Raises:
        InputError: no class has two examples.
    """
    train = data.splits["train"]
    generator = torch.Generator().manual_seed(derive_seed(cut.seed, "val"))
    order = torch.randperm(len(train), generator=generator)
    chosen = torch.zeros(len(train), dtype=torch.bool)
    for k in range(len(data.classes)):
        members = order[train.labels[order] == k]
        count = min(max(round(cut.share * len(members)), 1), len(members) - 1)
        chosen[members[: max(count, 0)]] = True
    if not chosen.any():
        raise InputError(
            "val cannot be cut from train, since no class has two examples; give the data a val"
        )
    own, val = (train.select(part.nonzero()[:, 0]) for part in (~chosen, chosen))
    rest = {name: split for name, split in data.splits.items() if name != "train"}
    # the examples themselves, since another version of torch may draw others
    fingerprint = combine_hashes(data.fingerprint, hash_tensor(chosen))
    splits = {"train": own, "val": val, **rest}
    return replace(data, splits=splits, fingerprint=fingerprint, cut=cut)
