"""Runs with losses of features: against a plain loop, resumed, exported, and what they share."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from reference import plain_loop
from tiny_run import CPU, assert_close, assert_equal, new_stream, over_stream
from torch import Tensor

from kdtune.config.run import Run
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier
from kdtune.streams.cache import Cache
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.training.loop import train
from kdtune.training.teacher import load_teacher


@pytest.fixture
def run(tiny: Run) -> Run:
    return replace(tiny, loss="features_mse", schedule="constant")


@pytest.fixture
def teacher(tiny: Run, teacher_folder: Path) -> Classifier:
    return load_teacher(tiny, load_data(tiny), teacher_folder).place(CPU, "fp32")


SGD = {"optimizer": "sgd", "momentum": 0.0}
"""AdamW makes much of the last bits of a gradient, which definitions of the cosine differ in."""
KINDS: dict[str, dict[str, Any]] = {
    "mse": {},
    "mse, sgd, weight decay": {"weight_decay": 0.1, **SGD},
    "cosine": {"loss": "features_cosine", **SGD},
    "kl and mse": {"loss": "kl+features_mse", "loss_weight": 0.3, "temperature": 2.0},
    "cosine and kl": {"loss": "features_cosine+kl", "loss_weight": 0.3, "alpha": 0.0, **SGD},
    "clipped": {"clip_norm": 0.1, **SGD},
    "no augmentation": {"augment": "none"},
    "dropout": {"student": "factories:dropout_student", "batch_norm": "eval"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_the_plain_loop(
    kind: str, run: Run, teacher: Classifier, teacher_folder: Path, tmp_path: Path
) -> None:
    run = replace(run, **KINDS[kind])
    *_, (reference, means) = plain_loop(run, teacher_folder)
    resources = Resources(cache=Cache(tmp_path / "cache", 1))
    for _ in range(2):  # cold, then warm
        student, epochs = over_stream(run, teacher, resources)
        assert_close(student, reference, least=1e-2)  # biases begin at 0
        for split, name in product(("train", "val", "test"), ("loss", "distill")):
            value = epochs[-1].splits[split][name]
            assert value == pytest.approx(means[split][name], rel=1e-5), (split, name)


@pytest.mark.parametrize(("augment", "gigabytes"), [("crop", 0), ("none", 1)])
def test_views_too_many_to_hold(
    augment: str,
    gigabytes: int,
    run: Run,
    teacher: Classifier,
    teacher_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = replace(run, augment=augment, epochs=2)
    *_, (reference, _) = plain_loop(run, teacher_folder)
    monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", 1)  # one inference batch
    student, _ = over_stream(run, teacher, Resources(cache=Cache(tmp_path, gigabytes)))
    assert_close(student, reference, least=1e-2)


def test_alpha_1_equals_training_without_any_teacher(run: Run, teacher: Classifier) -> None:
    run = replace(run, alpha=1.0, student="factories:dropout_student")
    with_teacher, _ = over_stream(run, teacher, Resources(teacher_features=True))
    alone, _ = over_stream(run, None)
    assert_equal(with_teacher, alone)


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


def every_view(run: Run) -> int:
    splits = load_data(run).splits
    assert run.train_images is not None
    return run.epochs * run.train_images + len(splits["val"]) + len(splits["test"])


CONFIGURATIONS: list[dict[str, Any]] = [
    *({"loss": loss} for loss in ("kl", "features_mse", "features_cosine", "mse+features_mse")),
    *({"lr": 0.1}, {"batch_size": 20}, {"alpha": 1.0}, {"alpha": 0.2}),
]


@pytest.mark.parametrize("shards", [1, None])
def test_all_configurations_of_a_study_need_one_pass(
    shards: int | None,
    run: Run,
    teacher: Classifier,
    passes: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first one compares no features; the study says that others do."""
    run = replace(run, epochs=1)
    if shards:  # views are then made again, with the logits on the way
        monkeypatch.setattr("kdtune.streams.views.SHARD_BYTES", shards)
    resources = Resources(cache=Cache(tmp_path, 1), teacher_features=True)
    for change in CONFIGURATIONS:
        over_stream(replace(run, **change), teacher, resources)
    assert passes() == every_view(run)
    kinds = [file.parent.parent.name for file in tmp_path.glob("*/*/*.safetensors")]
    assert kinds.count("logits") == kinds.count("teacher-features") == run.epochs + 2


@pytest.mark.parametrize("augment", ["crop", "none"])
def test_images_without_labels_have_features_of_the_same_pass(
    augment: str, run: Run, teacher: Classifier, passes: Callable[[], int], tmp_path: Path
) -> None:
    run = replace(run, augment=augment, train_images=1900, extra="rest", extra_share=0.25)
    cache = Cache(tmp_path, 1)
    # 635 of the 100 without labels in an epoch
    seen = 1900 + (100 if augment == "none" else 7 * 100)
    for change in ({}, {"loss": "kl+features_cosine"}, {"loss": "kl"}):
        own = replace(run, **change)  # type: ignore[arg-type]
        _, stream = new_stream(own, teacher, Resources(cache=cache))
        assert len(list(stream.train(0))) == 159  # 12 of 1,900 in each
        assert passes() == (0 if change else seen)
    student, stream = new_stream(run, teacher, Resources(cache=cache))
    for batch in list(stream.train(0))[:40:13]:
        assert batch.unlabelled == 4 and batch.views is not None
        with torch.no_grad():
            logits, features = teacher.with_features(batch.views)
        torch.testing.assert_close(batch.teacher, logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.teacher_features, features, rtol=1e-4, atol=1e-4)
    *_, last = train(replace(run, epochs=1), student, stream)
    assert last.splits["train"]["distill"] is not None


def outputs(stream: Stream, run: Run) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    for batch in (*stream.train(0), *stream.train(1), *stream.evaluate("val", 1)):
        assert batch.views is not None and batch.teacher is not None
        yield batch.views, batch.teacher, batch.teacher_features


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_logits_have_the_same_bits_with_features_and_without(
    precision: Any, run: Run, teacher: Classifier, tmp_path: Path
) -> None:
    """They are those of the head on the features, and their keys are the old ones."""
    run = replace(run, precision=precision, batch_size=32)  # a CPU's inference batch
    teacher.place(CPU, precision)
    found = []
    for loss in ("kl", "features_mse"):
        own = replace(run, loss=loss)
        _, stream = new_stream(own, teacher, Resources(cache=Cache(tmp_path / loss, 1)))
        found.append(list(outputs(stream, own)))
    for (_, plain, none), (views, logits, features) in zip(*found, strict=True):
        assert none is None and features is not None
        assert torch.equal(plain, logits)
        with torch.no_grad():
            own_features = teacher.features(views)
        torch.testing.assert_close(features, own_features, rtol=1e-2, atol=1e-2)
    for views, logits, features in found[1][:4]:  # of train: whole inference batches but the last
        assert features is not None
        with torch.no_grad():
            assert torch.equal(teacher.classify(features.clone()), logits)
            assert torch.equal(teacher.features(views), features)
    keys = [{f.name for f in (tmp_path / loss / "logits").glob("*/*")} for loss in ("kl", run.loss)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize("augment", ["crop", "none"])
def test_features_of_mixed_images_are_those_of_the_mixtures(
    augment: str, run: Run, teacher: Classifier
) -> None:
    run = replace(run, augment=augment, mixup=1.0)
    for batch in new_stream(run, teacher)[1].train(1):
        assert batch.views is not None and batch.partners is not None
        with torch.no_grad():
            logits, features = teacher.with_features(batch.views)
        torch.testing.assert_close(batch.teacher, logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(batch.teacher_features, features, rtol=1e-4, atol=1e-4)
