"""Runs over the stream against the plain loop of reference.py, and what the cache stores for them.

Weights must agree to a relative 1e-6 and metrics must be equal, since a stream must change no
number. So for images without labels, of which several configurations share the passes.
"""

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import blobs
import pytest
import torch
from reference import Means, build_teacher, plain_loop, side
from tiny_run import TINY, assert_close, assert_equal, new_stream, over_stream
from torch import Tensor, nn

import kdtune.distill
import kdtune.teacher
from kdtune.config.run import Run, derive_seed
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.arrays import add_extra
from kdtune.data.dataset import Data, Split
from kdtune.data.sources import load_data, load_fashion
from kdtune.data.views import Resizing, Views, padded_crop
from kdtune.models.classifier import Classifier
from kdtune.streams import views
from kdtune.streams import views as blocks
from kdtune.streams.cache import Cache
from kdtune.streams.stream import TeacherPasses
from kdtune.streams.views import Batch, Resources
from kdtune.training.epoch import Epoch
from kdtune.training.run import make_student
from kdtune.training.teachers import load_teacher

RUN = replace(TINY, data="own_data:clothes", augment="crop", train_images=43, epochs=2)
ALONE = {"trainable": "head", "augment": "none", "batch_norm": "eval"}
KINDS = {
    "all, kl": {},
    "all, mse": {"loss": "mse", "schedule": "step", "optimizer": "sgd", "lr_step_size": 1},
    "all, alpha 0": {"alpha": 0.0},
    "all, dropout": {"student": "factories:dropout_student"},
    "all, batch norm eval": {"batch_norm": "eval"},
    "head, batch norm train": {"trainable": "head", "batch_norm": "train"},
    "head, batch norm eval": {"trainable": "head", "batch_norm": "eval"},
    "head, dropout": ALONE
    | {"student": "factories:dropout_student", "augment": "crop", "batch_norm": "train"},
    "all, an augmentation of the user": {"augment": "own_data:noisy"},
    "all, resized crop": {"augment": "resized-crop", "image_size": 20},
    "head, random numbers": ALONE | {"student": "factories:dropout_student"},
    "head, of the whole batch": ALONE | {"student": f"{__name__}:mixing"},
    "all, weights of classes in one batch": {
        **{"class_weights": json.dumps({c: 1 + k for k, c in enumerate(load_fashion().classes)})},
        **{"batch_size": 64, "alpha": 0.7},
    },
    "all, all images": {"train_images": None, "epochs": 1, "batch_size": 150},
}


def assert_same(
    student: Classifier, last: Epoch, reference: Classifier, metrics: dict[str, Means]
) -> None:
    assert_close(student, reference)
    assert last.splits.keys() == metrics.keys()
    for split, means in metrics.items():
        for name, value in means.items():
            exact = split == "val" and name in ("acc", "teacher_acc", "agreement")
            want = value if exact else pytest.approx(value, rel=1e-5)
            assert last.splits[split][name] == want, (split, name)


class Mixing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


def mixing(classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), Mixing(), nn.Linear(784, classes))


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_loop(kind: str, teacher_folder: Path, tmp_path: Path) -> None:
    run = replace(RUN, **KINDS[kind])
    *_, (reference, means) = plain_loop(run, teacher_folder)
    resources = Resources(cache=Cache(tmp_path, 1))
    for entries in ("built", "read", "partly evicted"):
        if entries == "partly evicted":
            for file in sorted(tmp_path.glob("*/*/*.safetensors"))[::2]:
                file.unlink()
        student, (*_, last) = over_stream(run, teacher_folder, resources)
        assert_same(student, last, reference, means)


@pytest.mark.parametrize("gigabytes", [0, 1])
@pytest.mark.parametrize(
    ("trainable", "augment", "shards"),  # of 32 views: of train, of val and of test
    [("all", "crop", 2 * 2 + 2 + 2), ("head", "crop", 2 + 2), ("all", "none", 2 + 2 + 2)],
)
def test_views_too_many_to_hold_are_made_again_or_stored_in_shards(
    trainable: str,
    augment: str,
    shards: int,
    gigabytes: int,
    teacher_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = replace(RUN, trainable=trainable, augment=augment, batch_norm="train")
    *_, (reference, means) = plain_loop(run, teacher_folder)
    monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", 1)  # one inference batch
    made: list[Tensor] = []
    resize = Resizing.__call__
    monkeypatch.setattr(Resizing, "__call__", lambda s, x, n: made.append(x) or resize(s, x, n))
    resources = Resources(cache=Cache(tmp_path, gigabytes))
    student, (*_, last) = over_stream(run, teacher_folder, resources)
    assert_same(student, last, reference, means)
    val, test = (len(load_data(run).splits[split]) for split in ("val", "test"))
    times = 1 if gigabytes else run.epochs  # without a cache val is made again in every epoch
    if augment == "crop":
        assert sum(map(len, made)) == run.epochs * 43 + times * val + test
    assert len(list(tmp_path.glob("views/*/*"))) == (shards if gigabytes else 0)


def test_alpha_1_equals_training_without_any_teacher(teacher_folder: Path) -> None:
    run = replace(RUN, alpha=1.0)
    with_teacher, _ = over_stream(run, teacher_folder)
    alone, (*_, last) = over_stream(run, None)
    assert last.splits["val"]["teacher_acc"] is None
    assert_equal(with_teacher, alone)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*.safetensors"))


def count_kinds(folder: Path) -> Counter[str]:
    return Counter(file.parent.parent.name for file in entries(folder))


def test_the_key_holds_data_weights_and_threads(teacher_folder: Path, tmp_path: Path) -> None:
    data, cache = load_data(RUN), Cache(tmp_path, 1)
    model = load_teacher(RUN, data, teacher_folder)

    def fresh(data: Data = data) -> int:
        before = len(entries(tmp_path))
        _, stream = new_stream(RUN, model, Resources(cache=cache), data)
        list(stream.train(0))
        return len(entries(tmp_path)) - before

    assert [fresh(), fresh()] == [2, 0]  # views and logits
    assert fresh(replace(data, fingerprint="0" * 16)) == 2
    with torch.no_grad():
        model.head.bias += 1e-3
    assert fresh() == 1
    torch.set_num_threads(2)
    assert fresh() == 1


def test_bf16_learns_as_fp32_does(teacher_folder: Path) -> None:
    run = replace(TINY, data="own_data:clothes", train_images=None, epochs=4)
    fp32, bf16 = (
        over_stream(replace(run, precision=precision), teacher_folder)[1][-1].splits["val"]["acc"]
        for precision in ("fp32", "bf16")
    )
    assert bf16 == pytest.approx(fp32, abs=0.1)


def test_val_features_after_other_images_stay_apart(teacher_folder: Path, tmp_path: Path) -> None:
    """Running statistics follow the training images, and features of val follow these."""
    run = replace(RUN, trainable="head", batch_norm="train")
    resources = Resources(cache=Cache(tmp_path, 1))
    for change in ({}, {"augment": "none"}, {"mixup": 0.4}, {"train_images": 40}):
        _, cached = over_stream(replace(run, **change), teacher_folder, resources)
        _, alone = over_stream(replace(run, **change), teacher_folder)
        assert [e.splits for e in cached] == [e.splits for e in alone], change


@pytest.mark.parametrize(
    ("trainable", "batch_norm", "kinds"),
    [  # of train in each repeat, which draws its own, val and test, for both epochs
        ("all", "train", {"logits": 4, "views": 4}),
        # of each repeat's random backbone: one a split, and the answer whether it may be
        ("head", "eval", {"logits": 4, "features": 2 * (3 + 1)}),
        # batches differ from epoch to epoch, and running statistics drift
        ("head", "train", {"logits": 4, "features": 2 * (2 + 2 + 1)}),
    ],
)
def test_without_augmentation_nothing_is_built_twice(
    trainable: str, batch_norm: str, kinds: dict[str, int], teacher_folder: Path, tmp_path: Path
) -> None:
    run = replace(RUN, augment="none", trainable=trainable, batch_norm=batch_norm)
    resources = Resources(cache=Cache(tmp_path, 1))
    for repeat in (0, 1, 0):
        again = replace(run, repeat=repeat)
        *_, (reference, means) = plain_loop(again, teacher_folder)
        student, (*_, last) = over_stream(again, teacher_folder, resources)
        assert_same(student, last, reference, means)
    assert count_kinds(tmp_path).items() >= kinds.items()


def test_all_folds_share_the_features_of_a_backbone(teacher_folder: Path, tmp_path: Path) -> None:
    """Of train and val pooled, of test, and the answer whether it treats each image by itself.

    Of student and teacher, whose logits in each fold then need no pass.
    """
    weights, resources = tmp_path / "student.pt", Resources(cache=Cache(tmp_path / "cache", 1))
    torch.save(make_student(RUN, load_data(RUN)).net.state_dict(), weights)
    run = replace(RUN, **ALONE, folds=3, student_weights=str(weights), train_images=None)
    run = replace(run, teacher_epochs=1, teacher_trainable="head", teacher_batch_norm="eval")
    for repeat in (0, 1, 3):
        again = replace(run, repeat=repeat)
        *_, (reference, means) = plain_loop(again, teacher_folder)
        student, (*_, last) = over_stream(again, teacher_folder, resources)
        assert_same(student, last, reference, means)
    assert count_kinds(tmp_path / "cache") == {"features": 2 * 3, "logits": 3 * 3}


def seen(run: Run, student: Classifier, resources: Resources) -> list[Batch]:
    """All training batches of a run on the blobs, with views as labels and logits are."""
    stream = blobs.new_stream(run, student, resources)
    return [batch for epoch in range(run.epochs) for batch in stream.train(epoch)]


def rows_of(batches: list[Batch]) -> Counter[tuple[bytes, bytes]]:
    """Each view with the teacher's logits on it, and how often it is seen."""
    pairs = [pair for b in batches for pair in zip(b.views, b.teacher, strict=True)]  # type: ignore[arg-type]
    return Counter((view.numpy().tobytes(), logits.numpy().tobytes()) for view, logits in pairs)


@pytest.mark.parametrize("augment", ["crop", "none"])
@pytest.mark.parametrize("budget_per", ["steps", "epochs"])
def test_fewer_images_are_read_out_of_the_stream_of_more(
    budget_per: Literal["steps", "epochs"],
    augment: Literal["crop", "none"],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One pass of the teacher over the largest set is all that the smaller ones need."""
    run = replace(blobs.RUN, augment=augment, train_images=30, largest_train_images=30, epochs=5)
    run = replace(run, budget_per=budget_per)
    resources, student = Resources(cache=Cache(tmp_path, 1)), blobs.new_student(run)
    whole = seen(run, student, resources)
    alone = replace(run, largest_train_images=None)
    assert rows_of(whole) == rows_of(seen(alone, student, resources))
    monkeypatch.setattr(Views, "batches", pytest.fail)
    monkeypatch.setattr(Classifier, "forward", pytest.fail)
    before = entries(tmp_path)
    for count in (12, 6):
        small = replace(run, train_images=count)
        batches = seen(small, student, resources)
        mine, every = rows_of(batches), rows_of(whole)
        assert mine.keys() < every.keys()
        labels = Counter(label for batch in batches for label in batch.labels.tolist())
        if budget_per == "epochs":  # each image as often as in the larger set
            assert all(n == every[row] for row, n in mine.items()) and mine.total() == 5 * count
            assert set(labels.values()) == {5 * count // 3}
        else:
            assert [len(b) for b in batches] == [len(b) for b in whole]
            per_image = 5 * 30 / count  # as nearly as whole passes allow
            assert all(abs(n / (count / 3) - per_image) < 5 for n in labels.values())
    assert entries(tmp_path) == before


def test_a_balanced_sampler_draws_classes_alike_and_augments_each_draw_anew() -> None:
    """The order is read from images as they are; views of its draws are cropped by hand."""
    data, run = blobs.blobs(), replace(blobs.RUN, sampler="balanced", epochs=3, repeat=1)
    images, labels = data.splits["train"].inputs, torch.tensor([0] * 29 + [1] * 9 + [2] * 3)
    data = replace(data, splits=data.splits | {"train": Split(labels, images)})
    number = {image.numpy().tobytes(): i for i, image in enumerate(images)}
    orders = set()
    for epoch in range(run.epochs):
        plain, cropped = (
            [*blobs.new_stream(each, blobs.new_student(each), data=data).train(epoch)]
            for each in (replace(run, augment="none"), run)
        )
        order = [number[view.numpy().tobytes()] for batch in plain for view in batch.views]
        assert torch.cat([batch.labels for batch in plain]).equal(labels[order])
        assert sorted(labels[order].bincount().tolist()) == [13, 14, 14]
        times = Counter(order)
        for k in range(3):  # as nearly alike as they can be
            of_class = [times[i] for i in range(41) if labels[i] == k]
            assert max(of_class) - min(of_class) <= 1
        before = Counter[int]()
        for i, view in zip(order, torch.cat([batch.views for batch in cropped]), strict=True):
            seed = derive_seed("view", run.seed, 1, epoch, i + 41 * before[i])
            assert torch.equal(view, padded_crop(images[[i]], [seed])[0])
            before[i] += 1
        orders.add(tuple(order))
    assert len(orders) == run.epochs


SAMPLED: list[dict[str, Any]] = [
    *({}, {"augment": "none"}, {"mixup": 0.4}, {"trainable": "head", "batch_norm": "train"}),
    {"trainable": "head", "batch_norm": "eval", "augment": "none"},
    {"train_images": 12, "largest_train_images": 30},
]


@pytest.mark.parametrize("changes", SAMPLED)
def test_a_balanced_sampler_changes_no_number_of_the_cache(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, resources = replace(blobs.RUN, **changes), Resources(cache=Cache(tmp_path, 1))
    sampled = replace(run, sampler="balanced")
    alone = seen(sampled, blobs.new_student(run), Resources())
    shuffled = seen(run, blobs.new_student(run), resources)
    assert list(map(len, alone)) == list(map(len, shuffled))
    for shard in (2**29, 2**29, 1):  # built, read, and too many to hold
        monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", shard)
        batches = seen(sampled, blobs.new_student(run), resources)
        for mine, other in zip(batches, alone, strict=True):
            for name, value in mine._parts().items():
                torch.testing.assert_close(value, getattr(other, name), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("changes", [{"mixup": 0.5}, {"trainable": "head", "batch_norm": "eval"}])
def test_sizes_with_dependent_batches_have_streams_of_their_own(changes: dict[str, Any]) -> None:
    run = replace(blobs.RUN, train_images=12, largest_train_images=30, **changes)
    own = set(blobs.blobs().splits["train"].labels.tolist())
    batches = seen(run, blobs.new_student(run), Resources())
    assert sum(map(len, batches)) == run.epochs * 30
    assert {label for batch in batches for label in batch.labels.tolist()} == own


EXTRA = 50
WITH_EXTRA = replace(
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


KINDS_OF_EXTRA = {
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
"""Numbers of unlabelled images in the batches of an epoch, where WITH_EXTRA has others."""


@pytest.mark.parametrize(
    ("kind", "block"),
    [
        *((kind, blocks.BLOCK) for kind in KINDS_OF_EXTRA if kind != "at most all but one"),
        *((kind, 32) for kind in ("share 0.4", "head, batch norm eval")),
        pytest.param("at most all but one", blocks.BLOCK, marks=pytest.mark.slow),
    ],
)
def test_images_without_labels_equal_the_plain_loop(
    kind: str, block: int, teacher_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, counts = replace(WITH_EXTRA, **KINDS_OF_EXTRA[kind]), UNLABELLED.get(kind, [6] * 7 + [3])
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
    run = replace(WITH_EXTRA, loss="dkd")
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
def test_no_share_or_no_teacher_no_images(change: dict[str, float], teacher_folder: Path) -> None:
    run = replace(WITH_EXTRA, **change)
    alone = replace(run, extra=None, extra_share=0.0)
    assert run.config_id == alone.config_id
    student, found = over_stream(run, teacher_folder)
    want, epochs = over_stream(alone, teacher_folder)
    assert_equal(student, want)
    assert [epoch.splits for epoch in found] == [epoch.splits for epoch in epochs]


def test_only_labelled_images_are_mixed(teacher_folder: Path) -> None:
    """The others stay, and their label is the class of the teacher."""
    mixing = replace(WITH_EXTRA, mixup=1.0)
    streams = (new_stream(run, teacher_folder)[1].train(1) for run in (WITH_EXTRA, mixing))
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
    run = replace(WITH_EXTRA, batch_size=batch_size, extra_share=share)
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
    runs = [replace(WITH_EXTRA, augment=augment, **change) for change in CONFIGURATIONS]
    over_stream(max(runs, key=lambda run: run.extra_share), teacher_folder, resources)
    evaluated = sum(len(load_data(WITH_EXTRA).splits[split]) for split in ("val", "test"))
    per_epoch = 18 * 12 + 9
    passes = 1 if augment == "none" else -(-2 * per_epoch // EXTRA)
    epochs = 1 if augment == "none" else 2
    assert sum(seen) == epochs * 75 + passes * EXTRA + evaluated
    seen.clear()
    for run in runs:
        over_stream(run, teacher_folder, resources)
    assert not seen  # all logits come from the cache


def test_a_step_seeds_the_generators_of_all_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    monkeypatch.setattr(torch.mps, "manual_seed", seeds.append)
    views.seed_step(Run(), 1, 2)
    monkeypatch.setattr(views, "HAS_MPS", True)
    views.seed_step(Run(), 1, 2)
    assert seeds == [torch.default_generator.initial_seed()] * 3  # of cuda, then of cuda and mps


STUDY = Study(name="s", repeats=8, gpus=0)


@pytest.mark.parametrize(
    ("change", "gpus", "sentence"),
    [
        ({"gpus": 4}, 3, r"--gpus must be at most the 3 .* got --gpus 4. Use .* 3"),
        ({"gpus": 1}, 0, r"--gpus 1. Use --gpus 0, which runs on the CPUs"),
        ({"device": "cuda"}, 0, "--device must be .* got --device cuda.* --device c"),
        ({"device": "mps"}, 0, "--device must be .* got --device mps.* --device c"),
    ],
)
def test_gpus_that_are_not_there_are_an_error(change: dict, gpus: int, sentence: str) -> None:
    study = replace(STUDY, **{"gpus": None, **change})
    views.check_gpus(study, 4)
    with pytest.raises(InputError, match=sentence):
        views.check_gpus(study, gpus)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with 8 cores, 2 GPUs of CUDA and one of MPS, on which nothing can be computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(views, "local_cpus", lambda: 8)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "device"),
    [
        ({"gpus": None}, "cuda"),
        ({"gpus": 1}, "cuda"),
        ({"gpus": 0}, "cpu"),
        ({"gpus": None, "device": "cpu"}, "cpu"),
        ({"gpus": None, "device": "mps"}, "mps"),  # never chosen by itself
    ],
)
def test_device_of_a_study(change: dict, device: str) -> None:
    study = replace(STUDY, **change)
    assert views.device_of(study).type == device == Resources.of(study).device.type
    assert views.count_gpus(study) == (1 if device == "mps" else 2)
    assert views.device_of(study, gpus=0).type == {"cuda": "cpu"}.get(device, device)


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("change", "photos", "workers", "threads"),
    [
        ({}, True, 7, 1),  # all cores of the machine, one of them for the run's own process
        ({}, False, 0, 8),  # tensors need no workers
        ({"cpus_per_trial": 2}, True, 1, 1),
        ({"cpus_per_trial": 1}, True, 0, 1),
        ({"cpus_per_trial": 40}, True, views.MAX_LOADER_WORKERS, 24),
        ({"loader_workers": 3}, False, 3, 5),
        ({"gpus": 0}, True, 0, 1),  # without a GPU as ever
        ({"gpus": 0, "cpus_per_trial": 2}, True, 0, 2),
        ({"gpus": 0, "cpus_per_trial": 2, "loader_workers": 3}, True, 3, 2),
    ],
)
def test_cores_of_a_trial_are_divided_into_threads_and_loader_workers(
    monkeypatch: pytest.MonkeyPatch, change: dict, photos: bool, workers: int, threads: int
) -> None:
    made = Resources.of(replace(STUDY, **{"gpus": None, **change}), photos)
    assert (made.loader_workers, made.threads) == (workers, threads)


def test_bf16_is_refused_where_it_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU without instructions for it emulates them."""
    run, name, cpu = Run(precision="bf16"), "kdtune.streams.views.has_bf16", torch.device("cpu")
    monkeypatch.setattr(name, lambda: False)
    words = "--precision must be fp32 on this CPU, .* 15 times"
    with pytest.raises(InputError, match=words) as caught:
        views.check_precision(run, cpu)
    assert "\n" not in str(caught.value)
    views.check_precision(run, torch.device("cuda"))
    views.check_precision(replace(run, precision="fp32"), cpu)
    monkeypatch.setattr(name, lambda: True)
    views.check_precision(run, cpu)
    with pytest.raises(InputError, match="fp32 on this CPU, but got --precision fp16"):
        views.check_precision(replace(run, precision="fp16"), cpu)


GPUS = {"H100": ("bf16", (9, 0)), "T4": ("fp16", (7, 5)), "P100": ("fp32", (6, 0))}


def test_auto_is_the_precision_of_the_hardware(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    auto = Study(run=Run(precision="auto"), device="cuda", gpus=1)
    for name, (precision, capability) in GPUS.items():
        major = capability[0]  # what CUDA says of the cards: bf16 since Ampere, 8.0
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda name=name: name)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda major=major, **_: major >= 8)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda c=capability: c)
        assert views.with_precision(auto).run.precision == precision
        assert capsys.readouterr().out.startswith(f"--precision auto is {precision} here: {name} ")
    for has, precision in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr(views, "has_bf16", lambda has=has: has)
        assert views.with_precision(replace(auto, device="cpu", gpus=0)).run.precision == precision
    with pytest.raises(InputError, match="precision must be fp32, bf16 or fp16 with --address"):
        replace(auto, address="auto")


@pytest.mark.parametrize("command", [kdtune.distill, kdtune.teacher])
def test_commands_refuse_bf16_before_any_work(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "has_bf16", lambda: False)
    study = replace(STUDY, out=str(tmp_path), run=Run(precision="bf16"))
    with pytest.raises(InputError, match="--precision must be fp32 on this CPU"):
        command.main(study)
    assert not list(tmp_path.iterdir())
