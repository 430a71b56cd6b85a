"""The losses of logits against their closed forms.

References: the papers' definitions (Hinton et al., 2015; Kim et al., 2021; Zhao et al., 2022; Huang
et al., 2022; Yang et al., 2023; Sun et al., 2024) as reference.py writes them down, and their
gradients by autograd, numbers worked by hand, and laws. Float64, tolerance 1e-12, unless a test
says otherwise.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_logits import B, K, close, gradient, laws, pair, temperatures
from reference import distillation
from torch import Tensor

from kdtune.config.fields import takes_features
from kdtune.config.run import Run
from kdtune.training.losses import OBJECTIVES, objective

OF_LOGITS = [name for name in OBJECTIVES if not takes_features(name)]
BOTH = [(0.5, None), (1.0, 1.0), (4.0, None), (4.0, 2.0), (1.0, 4.0), (20.0, None)]
"""Temperatures of student and teacher."""


def logs(*rows: tuple[float, ...]) -> Tensor:
    """Logits whose probabilities, at T = 1, are proportional to these numbers."""
    return torch.tensor(rows, dtype=torch.float64).log()


def any_labels(logits: Tensor) -> Tensor:
    """Labels 0, 1, 2, ..."""
    return torch.arange(len(logits)) % logits.shape[1]


def loss(
    name: str,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    labels: Tensor | None = None,
    **weights: float,
) -> Tensor:
    """Return a loss of the table with the defaults of `Run`, for `any_labels` if none are given."""
    if name != "mse":
        weights["temperature"] = temperature
    run = Run(loss=name, teacher_temperature=teacher_temperature, **weights)
    return objective(run)(student, teacher, any_labels(student) if labels is None else labels)


def normal_logits(seed: int, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logits, and a shift of each row."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(B, K, generator=generator).double() for _ in range(2))
    return scale * student, scale * teacher, torch.randn(B, 1, generator=generator).double()


WEIGHTS: dict[str, list[dict[str, float]]] = {
    "dkd": [{"dkd_alpha": a, "dkd_beta": b} for a, b in ((1.0, 8.0), (0.0, 1.0), (2.0, 0.0))],
    "dist": [{"dist_beta": a, "dist_gamma": b} for a, b in ((2.0, 2.0), (1.0, 0.0), (0.0, 3.0))],
    "nkd": [{"nkd_gamma": gamma} for gamma in (0.0, 1.5, 4.0)],
}


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize(("ts", "tt"), BOTH)
def test_each_is_its_definition_and_so_is_its_gradient(
    name: str, ts: float, tt: float | None
) -> None:
    student, teacher = pair()
    student.requires_grad_()
    for weights in WEIGHTS.get(name, [{}]):
        got = loss(name, student, teacher, ts, tt, **weights)
        run = Run(loss=name, temperature=ts, teacher_temperature=tt, **weights)
        want = distillation(run, student, teacher, any_labels(student))
        close(got, want)
        close(gradient(got, student), gradient(want, student))


def test_kl_and_mse_by_hand() -> None:
    even, three_to_one = logs((1, 1)), logs((3, 1))
    # teacher (3/4, 1/4), student (1/2, 1/2): the direction of KL matters
    close(loss("kl", even, three_to_one), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    close(loss("kl", three_to_one, even), 0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    # at T = 2 the same probabilities come from twice the logits, and T^2 = 4 stands before
    want = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    close(loss("kl", even, 2 * three_to_one, 2.0), want)
    student, teacher = torch.tensor([[[1.0, 2.0]], [[3.0, 2.0]]])
    close(loss("mse", student, teacher), 2.0)


def test_dkd_by_hand() -> None:
    # label 0; teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4)
    teacher, student = logs((2, 1, 1)), logs((1, 2, 1))
    binary = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    among = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)  # (1/2, 1/2) from (2/3, 1/3)
    close(loss("dkd", student, teacher, dkd_alpha=1.0, dkd_beta=0.0), binary)
    close(loss("dkd", student, teacher, dkd_alpha=0.0, dkd_beta=1.0), among)
    got = loss("dkd", 2 * student, 2 * teacher, 2.0, dkd_alpha=1.0, dkd_beta=8.0)
    close(got, 4 * (binary + 8 * among))


def test_dist_by_hand() -> None:
    up, down = (1.0, 2.0, 3.0), (3.0, 2.0, 1.0)
    weights = {"dist_beta": 10.0, "dist_gamma": 3.0}
    # rows: r = -1 twice; columns (1, 3), (2, 2), (3, 1) against their reverse: -1, none, -1
    got = loss("dist", logs(up, down), logs(down, up), **weights)
    close(got, 10 * 2 + 3 * (1 + 2 / 3), rtol=1e-6)
    # rows: r = 1 and -1; the teacher's columns are constant
    got = loss("dist", logs(up, down), logs(up, up), **weights)
    close(got, 10 * 1 + 3 * 1, rtol=1e-6)
    # at T = 2 twice the logits give the same probabilities, and there is no factor T^2
    got = loss("dist", 2 * logs(up, down), 2 * logs(up, up), 2.0, **weights)
    close(got, 10 * 1 + 3 * 1, rtol=1e-6)


def test_dist_of_one_image_and_of_two_classes() -> None:
    student, teacher = pair()
    one = student[:1].clone().requires_grad_()
    got = loss("dist", one, teacher[:1], dist_beta=2.0, dist_gamma=3.0)
    want = loss("dist", one, teacher[:1], dist_beta=2.0, dist_gamma=0.0)
    close(got, want + 3)  # columns of one image have no correlation, which counts as 0
    close(gradient(got, one), gradient(want, one))
    two = student[:, :2].clone().requires_grad_()
    got = loss("dist", two, teacher[:, :2], dist_gamma=0.0)
    agrees = (two[:, 0] > two[:, 1]) == (teacher[:, 0] > teacher[:, 1])
    close(got, 2 * (1 - (2 * agrees.double() - 1).mean()), rtol=1e-6)
    close(gradient(got, two), torch.zeros(B, 2), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_a_constant_row_has_no_correlation(classes: int, dtype: torch.dtype) -> None:
    # 1 / K is not exact, so what is left of it after centring is rounding error
    student = torch.full((4, classes), 0.3, dtype=dtype, requires_grad=True)
    teacher = torch.randn(4, classes, generator=torch.Generator().manual_seed(0)).to(dtype)
    for got in (loss("dist", student, teacher), loss("dist", student, student.detach())):
        assert got == 4
        assert (gradient(got, student) == 0).all()


def test_nkd_by_hand() -> None:
    # label 0; teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4)
    teacher, student = logs((2, 1, 1)), logs((1, 2, 1))
    of_label = 0.5 * math.log(4)
    among = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)  # (1/2, 1/2) from (2/3, 1/3)
    close(loss("nkd", student, teacher, nkd_gamma=0.0), of_label)
    close(loss("nkd", student, teacher), of_label + 1.5 * among)
    # at T = 2: softened are the others only; teacher's label 4/6, student's 1/6
    got = loss("nkd", 2 * student, 2 * teacher, 2.0, nkd_gamma=1.5)
    close(got, 2 / 3 * math.log(6) + 4 * 1.5 * among)


@laws
@given(temperatures, st.integers(0, 99), st.randoms(use_true_random=False))
@pytest.mark.parametrize("name", OF_LOGITS)
def test_laws(name: str, temperature: float, seed: int, random) -> None:
    """Neither shifts of rows nor the order of images and classes matter."""
    student, teacher, shift = normal_logits(seed, 3)
    labels, exact = any_labels(student), {"rtol": 1e-10, "atol": 1e-10}
    want = loss(name, student, teacher, temperature)
    assert want >= -1e-12
    if name != "mse":
        close(loss(name, student + shift, teacher - shift, temperature), want, **exact)
    rows, columns = (random.sample(range(n), n) for n in student.shape)
    mixed = [z[rows][:, columns] for z in (student, teacher)]
    moved = torch.tensor(columns).argsort()[labels[rows]]
    close(loss(name, *mixed, temperature, labels=moved), want, **exact)
    if name in ("mse", "kl", "ls", "dkd"):
        close(loss(name, student, student, temperature), 0.0, **exact)
    if name == "dist":
        assert want <= 8
        close(loss(name, teacher, student, temperature), want)
    if name == "ls":  # 1e-7 beside the sd is all that shows of a scale
        close(loss(name, 7 * student, teacher / 3, temperature), want, rtol=1e-4, atol=1e-4)


@laws
@given(temperatures, st.integers(0, 99))
@pytest.mark.parametrize(("name", "weight"), [("dkd", "dkd_beta"), ("nkd", "nkd_gamma")])
def test_a_single_other_class_leaves_nothing_to_tell_apart(
    name: str, weight: str, temperature: float, seed: int
) -> None:
    student, teacher, _ = normal_logits(seed, 3)
    without, others = (
        loss(name, student[:, :2], teacher[:, :2], temperature, **{weight: w}) for w in (0.0, 9.0)
    )
    close(others, without)


EXTREME = {
    "opposed": ([[1e4, -1e4, 0], [-1e4, 1e4, 1e4]], [[-1e4, 1e4, 0], [1e4, 0, -1e4]]),
    "one-hot teacher": ([[1, 2, 3], [3, 1, 2]], [[1e4, 0, 0], [0, 1e4, 0]]),
    "one-hot student": ([[1e4, 0, 0], [1e4, 0, 0]], [[1, 2, 3], [3, 1, 2]]),
    "constant rows": ([[0, 0, 0], [7, 7, 7]], [[1, 2, 3], [5, 5, 5]]),
    "all constant": ([[0, 0, 0], [0, 0, 0]], [[2, 2, 2], [2, 2, 2]]),
    "equal rows": ([[1, 2, 3], [1, 2, 3]], [[3, 2, 1], [3, 2, 1]]),
    "one image": ([[1, 2, 3]], [[3, 2, 1]]),
    "two classes": ([[1e4, -1e4], [0, 0]], [[-1e4, 1e4], [1, 2]]),
    "one image of two classes": ([[0, 0]], [[1e4, 0]]),
    "unlikely everywhere": ([[0, 50, -90], [50, 0, -90]], [[0, 50, -80], [50, 0, -99]]),
}


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ts", "tt"), [(0.5, None), (1.0, 20.0), (20.0, 0.5)])
def test_value_and_gradient_are_finite(
    name: str, dtype: torch.dtype, ts: float, tt: float | None
) -> None:
    for kind, both in EXTREME.items():
        student, teacher = (torch.tensor(rows, dtype=dtype) for rows in both)
        student.requires_grad_()
        got = loss(name, student, teacher, ts, tt)
        assert got.isfinite() and got.dtype == torch.float32, kind
        assert gradient(got, student).isfinite().all(), kind


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(name, student, teacher, 20.0)
    assert torch.equal(got, loss(name, student.float(), teacher.float(), 20.0))
