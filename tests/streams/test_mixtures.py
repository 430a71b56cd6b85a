"""Runs on mixed images against a plain loop, and what their configurations share.

The plain loop below draws, blends and weighs by itself, runs the teacher on each mixed batch and
shares only the augmented images and the order with kdtune. Weights must agree to a relative 1e-6.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import photos
import pytest
import torch
import torch.nn.functional as F
from blobs import CPU, NOWHERE, RUN, blobs, new_stream, new_student
from reference import build_teacher, distillation, evaluate, make_optimizer, measure, total_loss
from tiny_run import assert_close
from torch import Tensor

from kdtune.config.run import Run, derive_seed
from kdtune.data.dataset import Data, Split
from kdtune.data.sources import load_data
from kdtune.data.views import Views
from kdtune.models.classifier import Classifier
from kdtune.streams.cache import Cache
from kdtune.streams.views import Resources
from kdtune.training.epoch import Epoch
from kdtune.training.loop import train
from kdtune.training.recipe import resolve
from kdtune.training.teachers import fine_tuning_run

MIXUP = replace(RUN, mixup=0.4, epochs=2)


def mix_by_hand(run: Run, epoch: int, step: int, x: Tensor) -> tuple[Tensor, float, Tensor]:
    """The mixed images, the share of their own labels, and the positions of their partners."""
    rng = np.random.default_rng(derive_seed("mix", run.seed, run.repeat, epoch, step))
    with_mixup = run.mixup > 0
    if run.mixup and run.cutmix:
        with_mixup = rng.random() < 0.5
    a = run.mixup if with_mixup else run.cutmix
    share = rng.beta(a, a)
    other = torch.tensor(rng.permutation(len(x)).tolist())
    if with_mixup:
        share = max(share, 1 - share)
        blend = share * x.float() + (1 - share) * x[other].float()
        return (blend.round().byte() if x.dtype == torch.uint8 else blend), share, other
    height, width = x.shape[-2:]
    row, column = rng.integers(height), rng.integers(width)
    up, left = (int(0.5 * np.sqrt(1 - share) * side) for side in (height, width))
    inside = torch.zeros(height, width, dtype=torch.bool)
    inside[max(0, row - up) : row + up, max(0, column - left) : column + left] = True
    return torch.where(inside, x[other], x), 1 - float(inside.double().mean()), other


def plain_loop(run: Run, data: Data, workers: int = 0) -> Iterator[tuple[Classifier, dict]]:
    """Train on mixed batches as one writes it down; yield student and metrics of each epoch."""
    teacher = build_teacher(run, NOWHERE, data).place(CPU, run.precision)
    teacher.set_mode(False)
    student, split = new_student(run), data.splits["train"]
    if run.trainable == "head":
        student.requires_grad_(False)
        student.head.requires_grad_(True)
    optimizer, size = make_optimizer(run, student), run.image_size or split.inputs.shape[-1]
    for epoch in range(run.epochs):
        seed = derive_seed("order", run.seed, run.repeat, epoch)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))
        views = Views(split, order, run, size, epoch).batches(run.batch_size, workers)
        sums, count = dict.fromkeys(("loss", "ce", "distill", "acc", "agreement"), 0.0), 0
        for step, x in enumerate(views):
            y = split.labels[order][count : count + len(x)]
            x, share, other = mix_by_hand(run, epoch, step, x)
            student.set_mode(True, run.batch_norm_mode == "train")
            torch.manual_seed(derive_seed("step", run.seed, run.repeat, epoch, step))
            logits = student(x)
            with torch.no_grad():
                target = teacher(x)
            own, others = (total_loss(run, logits, each, target) for each in (y, y[other]))
            loss = share * own + (1 - share) * others
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            means = {
                "loss": loss,
                "ce": share * F.cross_entropy(logits, y)
                + (1 - share) * F.cross_entropy(logits, y[other]),
                "distill": share * distillation(run, logits, target, y)
                + (1 - share) * distillation(run, logits, target, y[other]),
                "acc": (logits.argmax(1) == y).double().mean(),
                "agreement": (logits.argmax(1) == target.argmax(1)).double().mean(),
            }
            for name, value in means.items():
                sums[name] += float(value.detach()) * len(x)
            count += len(x)
        passes = [
            (s.double(), t.double(), y)  # small divergences cancel in float32
            for s, t, y in evaluate(data, "val", run, size, student, teacher, CPU, workers)
        ]
        means = {name: value / count for name, value in sums.items()}
        yield student, {"train": means, "val": measure(run, passes)}


def over_stream(run: Run, data: Data, resources: Resources) -> tuple[Classifier, list[Epoch]]:
    student = new_student(run)
    return student, list(train(run, student, new_stream(run, student, resources, data)))


KINDS = {
    "mixup": {"mixup": 0.4},
    "cutmix": {"cutmix": 1.0},
    "both": {"mixup": 0.8, "cutmix": 1.0, "repeat": 1, "seed": 2},
    "function matching": {"mixup": 1.0, "alpha": 0.0, "temperature": 1.0},
    "a loss of the labels": {"mixup": 0.7, "loss": "dkd", "temperature": 2.0},
    "a loss of the labels, cutmix": {"cutmix": 0.7, "loss": "dkd", "alpha": 0.2},
    "plain": {"mixup": 0.4, "alpha": 1.0},
    "no augmentation": {"mixup": 0.4, "augment": "none"},
    "last batch of one": {"cutmix": 1.0, "batch_size": 20, "batch_norm": "eval"},
    "dropout": {"mixup": 0.4, "student": "factories:dropout_student", "image_size": 24},
    "head": {"mixup": 0.4, "trainable": "head", "batch_norm": "train"},
    "head, cutmix, batch norm eval": {"cutmix": 1.0, "trainable": "head", "batch_norm": "eval"},
    "head, no augmentation": {
        **{"mixup": 0.4, "cutmix": 0.4, "trainable": "head"},
        **{"batch_norm": "eval", "augment": "none"},
    },
    "tensors, which are not rounded": {
        **{"mixup": 0.4, "cutmix": 0.5, "augment": "none"},
        **{"student": "factories:bare_student", "teacher": "factories:bare_student"},
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_loop(
    kind: str, tmp_path: Path, seen: dict[tuple[float, ...], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, data = replace(RUN, epochs=2, **KINDS[kind]), enlarged(KINDS[kind].get("image_size", 8))
    if kind.startswith("tensors"):
        splits = {n: Split(s.labels, s.inputs.float() / 255) for n, s in data.splits.items()}
        data = replace(data, splits=splits)
    plain = list(plain_loop(run, data))
    whole, shards = (Cache(tmp_path / name, 1) for name in ("whole", "shards"))
    for cache in (whole, whole, shards):  # built, read, and too many views to hold
        if cache is shards:
            monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", 1)
        student, epochs = over_stream(run, data, Resources(cache=cache))
        assert seen.setdefault(tuple(student.head.bias.tolist()), kind) == kind
        assert_close(student, plain[-1][0], least=1)
        for epoch, (_, metrics) in zip(epochs, plain, strict=True):
            compare_metrics(run, epoch, metrics)


def enlarged(side: int) -> Data:
    """The blobs with images of this side."""
    data, splits = blobs(), {}
    for name, split in data.splits.items():
        images = F.interpolate(split.inputs.float(), (side, side)).to(torch.uint8)
        splits[name] = Split(split.labels, images)
    return replace(data, splits=splits)


def compare_metrics(run: Run, epoch: Epoch, metrics: dict[str, dict[str, float]]) -> None:
    for split, means in metrics.items():
        for name, value in means.items():
            found = epoch.splits[split][name]
            if run.alpha == 1 and (name == "distill" or (split, name) == ("train", "agreement")):
                assert found is None
            elif name in ("acc", "agreement", "teacher_acc"):
                assert found == pytest.approx(value, abs=1e-12), (split, name)
            else:
                assert found == pytest.approx(value, rel=1e-4, abs=5e-6), (split, name)


def test_photographs_are_mixed_after_they_are_cropped(tmp_path: Path) -> None:
    for split, each in (("train", 6), ("val", 3)):
        for i in range(3 * each):
            photos.save(photos.photo(i), tmp_path / split / "abc"[i % 3] / f"{i}.png")
    run = replace(RUN, data=str(tmp_path), image_size=48, augment="resized-crop", batch_size=5)
    run = replace(run, mixup=0.4, cutmix=1.0, epochs=2, student="factories:photo_student")
    run = replace(run, teacher="factories:photo_student")
    data = load_data(run)
    student, epochs = over_stream(run, data, Resources(loader_workers=2))
    *_, (reference, metrics) = plain_loop(run, data)
    assert_close(student, reference)
    compare_metrics(run, epochs[-1], metrics)


def test_a_teacher_is_not_fine_tuned_on_mixed_images() -> None:
    run = resolve(replace(MIXUP, cutmix=1.0, teacher_epochs=1))
    assert not fine_tuning_run(run).mixes
    assert fine_tuning_run(run) == fine_tuning_run(replace(run, mixup=0.0, cutmix=0.0))
