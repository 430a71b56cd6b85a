"""Losses of features: closed forms, checks before a run, whole runs, and what a study's runs share.

References: torch's own functions, as in reference.py, their gradients by autograd, numbers by hand,
and a plain loop. Float64, tolerance 1e-12, unless a test says otherwise.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import random_logits
import torch
import torch.nn.functional as F
from blobs import CPU, NOWHERE, RUN, SMALL, blobs, new_student
from random_logits import LABELS, B, close, gradient
from reference import build_teacher, one_loss, plain_loop
from tiny_run import assert_close
from torch import Tensor, nn

from kdtune.config.fields import takes_features
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.arrays import add_extra
from kdtune.data.sources import load_data
from kdtune.models.classifier import Classifier, Preprocessing
from kdtune.models.outputs import OutputTeacher, Teacher
from kdtune.raytune.machines import largest_runs
from kdtune.streams.cache import Cache
from kdtune.streams.stream import Stream
from kdtune.streams.views import Resources
from kdtune.training.epoch import Epoch, check_features, make_projector
from kdtune.training.loop import train
from kdtune.training.losses import OBJECTIVES, check_objective, objective
from kdtune.training.run import check_run, check_study, make_student, try_batch
from kdtune.training.teachers import initial_teacher

LOSSES = ("features_mse", "features_cosine")


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Features of student and teacher, [B, K]."""
    student, teacher = random_logits.pair()
    return (student / 3).to(dtype), (teacher + 1).to(dtype)


def value(loss: str, student: Tensor, teacher: Tensor) -> Tensor:
    return OBJECTIVES[loss](student, teacher, torch.arange(len(student)) % 2)


def test_hand_worked_numbers_and_a_row_of_zeros() -> None:
    student = torch.tensor([[3, 4], [0, 2]]).double()
    teacher = torch.tensor([[4, 3], [0, -1]]).double()
    close(value("features_mse", student, teacher), (1 + 1 + 0 + 9) / 4)
    close(value("features_cosine", student, teacher), ((1 - 24 / 25) + 2) / 2)
    student, teacher = pair()
    student[0], teacher[1] = 0, 0
    student.requires_grad_()
    loss = value("features_cosine", student, teacher)
    cosines = F.cosine_similarity(student, teacher)[2:]
    close(loss, (2 + (1 - cosines).sum()).detach() / B)
    slope = gradient(loss, student)
    assert slope.isfinite().all() and not slope[1].any()


@pytest.mark.parametrize("loss", LOSSES)
def test_each_is_its_definition_and_so_is_its_gradient(loss: str) -> None:
    student, teacher = pair()
    student.requires_grad_()
    want = one_loss(loss, Run(), student, teacher, LABELS, student, teacher)
    got = value(loss, student, teacher)
    close(got, want)
    close(gradient(got, student), gradient(want, student))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_computed_in_float32_and_finite(loss: str, dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    got = value(loss, student, teacher)
    assert got.dtype == torch.float32
    assert float(got) == pytest.approx(float(value(loss, student.double(), teacher.double())))
    largest = {"features_mse": 1e15, "features_cosine": torch.finfo(dtype).max / 4}[loss]
    for size in (min(largest, torch.finfo(dtype).max / 4), 1e-30, 0.0):
        far = (student.float() * size / student.float().abs().max()).to(dtype).requires_grad_()
        extreme = value(loss, far, -far.detach())
        assert extreme.isfinite() and gradient(extreme, far).float().isfinite().all(), size
    if loss == "features_cosine":  # as exact at the ends of bfloat16 as elsewhere
        far = (student.float() * largest / student.float().abs().max()).to(dtype)
        assert float(value(loss, far, teacher)) == pytest.approx(float(got), rel=0.02)


OWN = """
def distance(student_features, teacher_features, labels):
    return (student_features - teacher_features).abs().mean()

def other_names(student, teacher, labels):
    return (student - teacher).abs().mean()
"""


def test_an_objective_may_take_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "feature_losses_of_mine.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    run = Run(loss="feature_losses_of_mine:distance")
    assert run.compares_features and not takes_features("feature_losses_of_mine:other_names")
    check_objective(run, 10)
    (s, t), logits = pair(), torch.zeros(B, 10)
    close(objective(run)(logits, logits, LABELS, s, t), (s - t).abs().mean())


def test_the_projector_is_of_seed_and_repeat_and_draws_from_nothing_else() -> None:
    run = replace(SMALL, loss="features_mse")
    student, teacher = make_student(run, load_data(run)), initial_teacher(run, load_data(run))
    before = torch.get_rng_state()

    def weights(run: Run) -> Tensor:
        projector = make_projector(run, student, [teacher])
        assert projector is not None
        return projector.weight

    first = weights(run)
    assert first.shape == (teacher.head.in_features, student.head.in_features) == (16, 8)
    for same in ({"lr": 1.0}, {"alpha": 0.1}, {"loss": "kl+features_cosine"}, {"batch_size": 3}):
        assert torch.equal(weights(replace(run, **same)), first)
    others = [first, weights(replace(run, seed=1)), weights(replace(run, repeat=1))]
    assert len({tuple(w.flatten().tolist()) for w in others}) == 3
    assert first.abs().max() <= 1 / math.sqrt(8)
    assert torch.equal(torch.get_rng_state(), before)
    for none in ({"loss": "kl"}, {"alpha": 1.0}):
        assert make_projector(replace(run, **none), student, [teacher]) is None
    assert make_projector(run, student, []) is None  # a teacher that is fine-tuned


def conv_head(classes: int) -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    net.preprocessing = Preprocessing(mean=(0.3,), std=(0.35,))
    return net


class Tokens(nn.Module):
    """A head on each row of an image, and the mean of its outputs."""

    preprocessing = Preprocessing(mean=(0.3,), std=(0.35,))

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x[:, 0]).mean(1)


HEAD = {"trainable": "head", "allow_random_backbone": True}
FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "frozen": (HEAD, "--trainable must be all with --loss features_mse, since a"),
    "ensemble": (
        {"teacher": "factories:tiny_teacher+factories:dropout_student", "image_size": 24},
        r"but got --teacher factories:tiny_teacher\+factories:dropout_student; use",
    ),
    "teacher without a linear head": (
        {"teacher": f"{__name__}:conv_head"},
        r"but got --teacher \S+:conv_head; use another model",
    ),
    "student without a linear head": (
        {"student": f"{__name__}:conv_head"},
        r"but got --student \S+:conv_head; use",
    ),
    "tokens": ({"student": f"{__name__}:Tokens"}, r"but got --student \S+:Tokens; use"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_learn_from_features_is_refused(fault: str) -> None:
    changes, sentence = FAULTS[fault]
    run = replace(SMALL, **changes)
    check_run(replace(run, loss="features_mse", alpha=1.0))  # plain training compares none
    check_run(replace(run, loss="kl"))
    with pytest.raises(InputError, match=sentence):
        check_run(replace(run, loss="features_mse"))


def test_the_study_says_whether_passes_of_the_teacher_give_features() -> None:
    def wanted(**space: Any) -> bool:
        return Resources.of(Study(run=SMALL, space=space, gpus=0)).teacher_features

    assert not wanted(loss=("kl", "mse")) and not wanted(loss=("features_mse",), alpha=(1.0,))
    assert wanted(loss=("kl", "features_mse"), alpha=(0.5, 1.0))
    assert wanted(loss=("kl+features_cosine",), alpha=(0.0, 0.9))


def test_a_batch_is_tried_with_its_projector(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Study(run=replace(SMALL, alpha=1.0, loss="features_mse"))
    assert not any(run.compares_features for run in largest_runs(plain))
    space = {"loss": ("kl", "features_mse"), "alpha": (0.5, 1.0)}
    (run,) = largest_runs(Study(run=replace(SMALL, alpha=1.0), space=space))
    assert run.compares_features
    made: list[nn.Linear | None] = []

    def seen(*args: Any) -> nn.Linear | None:
        made.append(make_projector(*args))
        return made[-1]

    monkeypatch.setattr("kdtune.training.loop.make_projector", seen)
    try_batch(run, load_data(run), CPU)
    (projector,) = made
    assert projector is not None and projector.weight.grad is not None
    assert projector.weight.grad.any()


def test_a_study_that_has_such_a_loss_anywhere_is_refused() -> None:
    names = {"loss": ("kl", "mse+features_cosine"), "alpha": (0.5, 1.0)}
    data = load_data(SMALL)
    check_study(Study(run=SMALL, space=names), data, fingerprints=False)
    space = {**names, "trainable": ("all", "head")}
    with pytest.raises(InputError, match=r"--trainable must be .* with --loss mse.features_"):
        check_study(Study(run=SMALL, space=space), data, fingerprints=False)
    table = OutputTeacher("outputs.parquet", "0" * 16, {})
    with pytest.raises(InputError, match=r"but got --teacher outputs.parquet; use"):
        check_features(Study(run=SMALL, space=names), [table], [], torch.zeros(2, 1, 8, 8))


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
def test_features_change_no_logits(precision: Any, teacher: Classifier, tmp_path: Path) -> None:
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
def test_features_of_mixed_images_are_of_the_mixtures(augment: Any, teacher: Classifier) -> None:
    run = replace(FEATURES, augment=augment, mixup=1.0)
    for batch in new_stream(run, teacher)[1].train(1):
        assert batch.partners is not None
        assert_teacher_saw(teacher, batch.views, batch.teacher, batch.teacher_features)
