"""Losses of features against their closed forms, and the checks before a run with one.

References: torch's own functions, as in reference.py, their gradients by autograd, and numbers by
hand. Float64, tolerance 1e-12, unless a test says otherwise.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from blobs import CPU, SMALL
from random_logits import close, gradient
from reference import one_loss
from torch import Tensor, nn

from kdtune.config.fields import takes_features
from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.data.sources import load_data
from kdtune.models.classifier import Preprocessing
from kdtune.models.outputs import OutputTeacher
from kdtune.raytune.machines import largest_runs
from kdtune.streams.views import Resources
from kdtune.training.epoch import check_features, make_projector
from kdtune.training.losses import OBJECTIVES, check_objective, objective
from kdtune.training.run import check_run, check_study, make_student, try_batch
from kdtune.training.teachers import initial_teacher

B, D = 6, 5
LABELS = torch.arange(B) % D
LOSSES = ("features_mse", "features_cosine")


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Features of student and teacher, [B, D]."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(B, D, generator=generator).double() for _ in range(2))
    return student.to(dtype), (3 * teacher + 1).to(dtype)


def value(loss: str, student: Tensor, teacher: Tensor) -> Tensor:
    return OBJECTIVES[loss](student, teacher, torch.arange(len(student)) % 2)


def test_hand_worked_numbers() -> None:
    student, teacher = (
        torch.tensor(rows).double() for rows in ([[3, 4], [0, 2]], [[4, 3], [0, -1]])
    )
    close(value("features_mse", student, teacher), (1 + 1 + 0 + 9) / 4)
    close(value("features_cosine", student, teacher), ((1 - 24 / 25) + 2) / 2)


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


def test_an_objective_of_the_user_may_take_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
        r"but --teacher factories:tiny_teacher\+factories:dropout_student is an ensemble; use",
    ),
    "teacher without a linear head": (
        {"teacher": f"{__name__}:conv_head"},
        r"but --teacher \S+:conv_head has a Conv2d as its last layer, 0; use another model",
    ),
    "student without a linear head": (
        {"student": f"{__name__}:conv_head"},
        r"but --student \S+:conv_head has a Conv2d as its last layer",
    ),
    "tokens": (
        {"student": f"{__name__}:Tokens"},
        r"but --student \S+:Tokens has features of the shape \[B, 8, 8\]",
    ),
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


def test_a_row_of_zeros_has_cosine_0_and_a_finite_gradient() -> None:
    student, teacher = pair()
    student[0], teacher[1] = 0, 0
    student.requires_grad_()
    loss = value("features_cosine", student, teacher)
    cosines = F.cosine_similarity(student, teacher)[2:]
    close(loss, (2 + (1 - cosines).sum()).detach() / B)
    slope = gradient(loss, student)
    assert slope.isfinite().all() and not slope[1].any()


def test_a_study_that_has_such_a_loss_anywhere_is_refused() -> None:
    names = {"loss": ("kl", "mse+features_cosine"), "alpha": (0.5, 1.0)}
    data = load_data(SMALL)
    check_study(Study(run=SMALL, space=names), data, fingerprints=False)
    space = {**names, "trainable": ("all", "head")}
    with pytest.raises(InputError, match=r"--trainable must be .* with --loss mse.features_"):
        check_study(Study(run=SMALL, space=space), data, fingerprints=False)
    table = OutputTeacher("outputs.parquet", "0" * 16, {})
    with pytest.raises(InputError, match=r"but --teacher outputs.parquet is a file of outputs"):
        check_features(Study(run=SMALL, space=names), [table], [], torch.zeros(2, 1, 8, 8))
