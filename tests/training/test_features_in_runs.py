"""Runs with losses of features: against a plain loop, and what the runs of a study share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from blobs import CPU, NOWHERE, RUN, blobs, new_student
from reference import build_teacher, plain_loop
from tiny_run import assert_close
from torch import Tensor

from kdtune.config.run import Run
from kdtune.data.arrays import add_extra
from kdtune.models.classifier import Classifier
from kdtune.models.outputs import Teacher
from kdtune.streams.cache import Cache
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.training.epoch import Epoch
from kdtune.training.loop import train

FEATURES = replace(RUN, loss="features_mse", epochs=2)


@pytest.fixture
def teacher() -> Classifier:
    return build_teacher(RUN, NOWHERE, blobs()).place(CPU, "fp32")


def new_stream(
    run: Run, teacher: Classifier, resources: Resources | None = None
) -> tuple[Classifier, Stream]:
    student, data = new_student(run), add_extra(blobs(), run)
    return student, Stream(run, data, student, Teacher.of([teacher]), resources or Resources())


def trained(run: Run, *args: Any) -> tuple[Classifier, list[Epoch]]:
    student, stream = new_stream(run, *args)
    return student, list(train(run, student, stream))


def assert_teacher_saw(teacher: Classifier, views: Tensor | None, *outputs: Tensor | None) -> None:
    """The outputs are the teacher's logits and features of these views."""
    assert views is not None
    with torch.no_grad():
        for got, want in zip(outputs, teacher.with_features(views), strict=True):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


ADAMW = {"optimizer": "adamw", "lr": 1e-2}
"""It makes much of the last bits of a gradient, which definitions of the cosine differ in."""
KINDS: dict[str, dict[str, Any]] = {
    "mse": ADAMW,
    "mse, weight decay": {"weight_decay": 0.1},
    "mse, clipped": {"clip_norm": 0.1, "momentum": 0.0, "lr": 1e-2},
    "cosine, without augmentation": {"loss": "features_cosine", "augment": "none"},
    "kl and mse": {"loss": "kl+features_mse", "loss_weight": 0.3, "temperature": 2.0, **ADAMW},
    "cosine and kl": {"loss": "features_cosine+kl", "loss_weight": 0.3, "alpha": 0.0},
    "dropout": {"student": "factories:dropout_student", "image_size": 24, "batch_norm": "eval"},
}


@pytest.mark.parametrize(
    ("kind", "views_of_a_shard", "gigabytes"),
    [
        *((kind, None, 1) for kind in KINDS),
        ("mse", 1, 0),
        ("cosine, without augmentation", 1, 1),  # too many views to hold
    ],
)
def test_equals_the_plain_loop(
    kind: str,
    views_of_a_shard: int | None,
    gigabytes: int,
    teacher: Classifier,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = replace(FEATURES, **KINDS[kind])
    *_, (reference, means) = plain_loop(run, NOWHERE, data=blobs())
    if views_of_a_shard:
        monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", views_of_a_shard)
    resources = Resources(cache=Cache(tmp_path / "cache", gigabytes))
    for _ in ("built", "read"):
        student, epochs = trained(run, teacher, resources)
        assert_close(student, reference, least=1e-2)  # biases begin at 0
        for split, name in product(("train", "val", "test"), ("loss", "distill")):
            value = epochs[-1].splits[split][name]
            assert value == pytest.approx(means[split][name], rel=1e-5), (split, name)


@pytest.fixture
def passes(teacher: Classifier) -> Callable[[], int]:
    """Return the number of views that the teacher has seen since the last call."""
    seen: list[int] = []
    teacher.net.register_forward_hook(lambda net, inputs, output: seen.append(len(output)))

    def count() -> int:
        total = sum(seen)
        seen.clear()
        return total

    return count


CONFIGURATIONS: list[dict[str, Any]] = [
    *({"loss": loss} for loss in ("kl", "features_mse", "features_cosine", "mse+features_mse")),
    *({"lr": 0.1}, {"batch_size": 20}, {"alpha": 1.0}, {"alpha": 0.2}),
]


@pytest.mark.parametrize("shards", [1, None])
def test_all_configurations_of_a_study_need_one_pass(
    shards: int | None,
    teacher: Classifier,
    passes: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one compares no features; the study says that others do."""
    run = replace(FEATURES, epochs=1)
    if shards:  # views are then made again, with the logits on the way
        monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", shards)
    resources = Resources(cache=Cache(tmp_path, 1), teacher_features=True)
    for change in CONFIGURATIONS:
        trained(replace(run, **change), teacher, resources)
    assert passes() == sum(map(len, blobs().splits.values()))
    kinds = [file.parent.parent.name for file in tmp_path.glob("*/*/*.safetensors")]
    assert kinds.count("logits") == kinds.count("teacher-features") == run.epochs + 2


@pytest.mark.parametrize(("augment", "passes_of_extra"), [("crop", 5), ("none", 1)])
def test_images_without_labels_have_features_of_the_same_pass(
    augment: Any,
    passes_of_extra: int,
    teacher: Classifier,
    passes: Callable[[], int],
    tmp_path: Path,
) -> None:
    # in an epoch 33 images with labels, and as many of the 8 without
    run = replace(FEATURES, augment=augment, train_images=33, extra="rest", extra_share=0.5)
    resources = Resources(cache=Cache(tmp_path, 1))
    seen = 33 + passes_of_extra * 8
    for loss in (run.loss, "kl+features_cosine", "kl"):
        _, stream = new_stream(replace(run, loss=loss), teacher, resources)
        assert [batch.unlabelled for batch in stream.train(0)] == [8] * 4 + [1]
        assert passes() == (seen if loss == run.loss else 0)
    student, stream = new_stream(run, teacher, resources)
    for batch in stream.train(0):
        assert_teacher_saw(teacher, batch.views, batch.teacher, batch.teacher_features)
    *_, last = train(replace(run, epochs=1), student, stream)
    assert last.splits["train"]["distill"] is not None


def outputs(stream: Stream) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for batch in (*stream.train(0), *stream.train(1), *stream.evaluate("val", 1)):
        assert batch.views is not None and batch.teacher is not None
        yield batch.views, batch.teacher, batch.teacher_features


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_have_the_same_bits_with_features_and_without(
    precision: Any, teacher: Classifier, tmp_path: Path
) -> None:
    """They are those of the head on the features, and their keys are the old ones."""
    run = replace(FEATURES, precision=precision, batch_size=32)  # a CPU's inference batch
    teacher.place(CPU, precision)
    both = []
    for loss in ("kl", "features_mse"):
        resources = Resources(cache=Cache(tmp_path / loss, 1))
        both.append(list(outputs(new_stream(replace(run, loss=loss), teacher, resources)[1])))
    for (_, plain, none), (views, logits, features) in zip(*both, strict=True):
        assert none is None and features is not None
        assert torch.equal(plain, logits)
        with torch.no_grad():
            torch.testing.assert_close(features, teacher.features(views), rtol=1e-2, atol=1e-2)
    for views, logits, features in both[1][:4]:  # of train: whole inference batches
        assert features is not None
        with torch.no_grad():
            assert torch.equal(teacher.classify(features.clone()), logits)
            assert torch.equal(teacher.features(views), features)
    keys = [{f.name for f in (tmp_path / loss / "logits").glob("*/*")} for loss in ("kl", run.loss)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("augment", ["crop", "none"])
def test_features_of_mixed_images_are_those_of_the_mixtures(
    augment: Any, teacher: Classifier
) -> None:
    run = replace(FEATURES, augment=augment, mixup=1.0)
    for batch in new_stream(run, teacher)[1].train(1):
        assert batch.partners is not None
        assert_teacher_saw(teacher, batch.views, batch.teacher, batch.teacher_features)
