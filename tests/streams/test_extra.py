"""Images without labels: runs against the plain loop, and what several configurations share."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path

import pytest
import torch
from reference import build_teacher, plain_loop, side
from tiny_run import TINY, assert_close, assert_equal, new_stream, over_stream
from torch import Tensor

from kdtune.config.run import Run, derive_seed
from kdtune.data.arrays import add_extra
from kdtune.data.dataset import Data
from kdtune.data.sources import load_data, load_fashion
from kdtune.data.views import Views
from kdtune.streams import views as blocks
from kdtune.streams.cache import Cache
from kdtune.streams.passes import TeacherPasses
from kdtune.streams.views import Resources
from kdtune.training.run import make_student

EXTRA = 50
RUN = replace(
    TINY,
    **{"data": "own_data:clothes", "augment": "crop", "extra": f"{__name__}:images"},
    **{"extra_share": 0.4, "temperature": 2.0, "alpha": 0.3, "epochs": 2},
)
"""Batches of 10 labelled images and 6 others; in an epoch 8 and 45 of them, the last one of 5 and
3. So the second epoch begins in the first pass over the 50 others and ends in the second one."""
FROZEN = {"trainable": "head", "batch_norm": "eval"}


@cache
def bare_images() -> Tensor:
    return load_fashion().splits["test"].inputs[-EXTRA:]


def images() -> tuple[Tensor, Tensor]:
    return bare_images(), torch.randint(10, (EXTRA,))


def sequence(run: Run, data: Data, size: int) -> Iterator[Tensor]:
    """Views of the images without labels, one at a time: pass after pass, each in its order."""
    split = data.splits["extra"]
    for k in range(10**6):
        seed = derive_seed("extra order", run.seed, run.repeat, k)
        order = torch.randperm(EXTRA, generator=torch.Generator().manual_seed(seed))
        yield from torch.cat(list(Views(split, order, run, size, k, "extra view").batches()))


KINDS = {
    "share 0.4": {},
    "share 0.75": {"extra_share": 0.75},
    "at least one": {"extra_share": 0.01},
    "at most all but one": {"extra_share": 0.99, "epochs": 1},
    "only the teacher": {"alpha": 0.0},
    "no augmentation": {"augment": "none"},
    "dropout": {"student": "factories:dropout_student"},
    "head, batch norm train": {"trainable": "head", "batch_norm": "train"},
    "head, batch norm eval": FROZEN,
    "head, eval, no augmentation": FROZEN | {"augment": "none"},
    "head, dropout": FROZEN | {"student": "factories:dropout_student"},
}
UNLABELLED = {
    "share 0.75": [12] * 18 + [9],  # beside 18 of 4 labelled images, one of 3
    "at least one": [1] * 5,
    "at most all but one": [15] * 75,
}
"""Numbers of images without labels in the batches of an epoch, where they are not those of RUN."""


@pytest.mark.parametrize(
    ("kind", "block"),
    [
        *((kind, blocks.BLOCK) for kind in KINDS if kind != "at most all but one"),
        *((kind, 32) for kind in ("share 0.4", "head, batch norm eval")),
        pytest.param("at most all but one", blocks.BLOCK, marks=pytest.mark.slow),
    ],
)
def test_equals_the_plain_loop(
    kind: str, block: int, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, counts = replace(RUN, **KINDS[kind]), UNLABELLED.get(kind, [6] * 7 + [3])
    data = add_extra(load_data(run), run)
    models = (make_student(run, data), build_teacher(run, teacher_folder, data))
    unlabelled = (sequence(run, data, side(run, data, *models)), counts)
    plain = list(plain_loop(run, teacher_folder, data=data, unlabelled=unlabelled))
    accuracies = [epoch.metrics["train"]["acc"] for epoch in plain]
    monkeypatch.setattr(blocks, "BLOCK", block)  # two blocks in a pass, or one
    for _ in ("built", "read"):
        resources = Resources(cache=Cache(tmp_path, 1))
        student, epochs = over_stream(run, teacher_folder, resources)
        assert_close(student, plain[-1].student)
        assert [epoch.splits["train"]["acc"] for epoch in epochs] == pytest.approx(accuracies)
        assert [epoch.splits["train"]["n_examples"] for epoch in epochs] == [75] * run.epochs


def test_labels_of_these_images_change_no_bit(teacher_folder: Path) -> None:
    run = replace(RUN, loss="dkd")
    data = add_extra(load_data(run), run)
    want, epochs = over_stream(run, teacher_folder, data=data)
    own = data.splits["extra"]
    random = replace(own, labels=torch.randint(10, (EXTRA,)))
    with_labels = replace(data, splits={**data.splits, "extra": random})
    bare = replace(run, extra=f"{__name__}:bare_images")
    for changed, other in ((run, with_labels), (bare, add_extra(load_data(bare), bare))):
        assert other.extra.fingerprint == data.extra.fingerprint
        student, found = over_stream(changed, teacher_folder, data=other)
        assert_equal(student, want)
        assert [epoch.splits for epoch in found] == [epoch.splits for epoch in epochs]


@pytest.mark.parametrize("change", [{"extra_share": 0.0}, {"alpha": 1.0}])
def test_without_a_share_or_a_teacher_there_are_none(
    change: dict[str, float], teacher_folder: Path
) -> None:
    run = replace(RUN, **change)
    alone = replace(run, extra=None, extra_share=0.0)
    assert run.config_id == alone.config_id
    student, found = over_stream(run, teacher_folder)
    want, epochs = over_stream(alone, teacher_folder)
    assert_equal(student, want)
    assert [epoch.splits for epoch in found] == [epoch.splits for epoch in epochs]


def test_only_labelled_images_are_mixed(teacher_folder: Path) -> None:
    """The others stay, and their label is the class of the teacher."""
    mixing = replace(RUN, mixup=1.0)
    streams = (new_stream(run, teacher_folder)[1].train(1) for run in (RUN, mixing))
    for plain, mixed in zip(*streams, strict=True):
        n = plain.unlabelled
        assert mixed.unlabelled == n and len(plain) == len(plain.labelled) + n
        assert torch.equal(plain.labels[-n:], plain.teacher[-n:].argmax(1))
        for one, other in zip(vars(plain).values(), vars(mixed).values(), strict=True):
            if isinstance(one, Tensor):
                assert torch.equal(one[-n:], other[-n:])
        assert not torch.equal(mixed.views[:-n], plain.views[:-n])
        assert torch.equal(mixed.labels, plain.labels)
        assert torch.equal(mixed.partners[-n:], mixed.labels[-n:])
        assert sorted(mixed.partners[:-n].tolist()) == sorted(plain.labels[:-n].tolist())
        share, most = mixed.shares[0], plain.views[:-n].float().amax()
        low = (share * plain.views[:-n] - mixed.views[:-n].float()).amax()
        high = (mixed.views[:-n].float() - share * plain.views[:-n]).amax()
        assert low <= 1 and high <= (1 - share) * most + 1


@pytest.mark.parametrize("batch_size", [2, 7, 16, 64, 1000])
@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.85, 0.999])
@pytest.mark.parametrize("labelled", [3, 75, 300])
def test_numbers_of_images_in_an_epoch(batch_size: int, share: float, labelled: int) -> None:
    run = replace(RUN, batch_size=batch_size, extra_share=share)
    n = batch_size - run.unlabelled_per_batch
    assert 1 <= n < batch_size
    sizes = [min(n, labelled - done) for done in range(0, labelled, n)]
    beside = [blocks.extra_beside(run, size) for size in sizes]
    assert sum(beside) == blocks.extra_per_epoch(run, labelled)
    whole = Fraction(run.unlabelled_per_batch, n)
    for size, count in zip(sizes, beside, strict=True):
        assert count == 1 or abs(count - whole * size) <= Fraction(1, 2)
    assert abs(run.unlabelled_per_batch - share * batch_size) <= 1


CONFIGURATIONS = [
    {"alpha": 0.0, "temperature": 4.0, "lr": 0.1},
    {"batch_size": 8, "extra_share": 0.2},
    {"extra_share": 0.75},  # 225 images an epoch, so that it needs all passes first
    {"loss": "mse"},
]


@pytest.mark.parametrize("augment", ["none", "crop"])
def test_configurations_share_the_passes(
    augment: str, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resources = Resources(cache=Cache(tmp_path, 1))
    seen: list[int] = []
    forward = TeacherPasses._forward
    monkeypatch.setattr(
        TeacherPasses, "_forward", lambda s, m, b: seen.append(len(b)) or forward(s, m, b)
    )
    runs = [replace(RUN, augment=augment, **change) for change in CONFIGURATIONS]
    over_stream(max(runs, key=lambda run: run.extra_share), teacher_folder, resources)
    evaluated = sum(len(load_data(RUN).splits[split]) for split in ("val", "test"))
    per_epoch = 18 * 12 + 9
    passes = 1 if augment == "none" else -(-2 * per_epoch // EXTRA)
    epochs = 1 if augment == "none" else 2
    assert sum(seen) == epochs * 75 + passes * EXTRA + evaluated
    seen.clear()
    for run in runs:
        over_stream(run, teacher_folder, resources)
    assert not seen  # all logits come from the cache
