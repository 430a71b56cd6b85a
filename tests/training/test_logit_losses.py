"""The losses dist and nkd, and a temperature of the teacher's own, against their closed forms.

References: the papers' definitions written out an example at a time (Huang et al., 2022; Yang et
al., 2023) and their gradients by autograd, numbers worked by hand, torch's own cross-entropy and
correlation, identities with other losses, and laws. Float64, tolerance 1e-12, unless a test says
otherwise.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from random_logits import LABELS, B, K, close, gradient, laws, pair, temperatures
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


def loss(
    name: str,
    student: Tensor,
    teacher: Tensor,
    temperature: float = 1.0,
    teacher_temperature: float | None = None,
    labels: Tensor | None = None,
    **weights: float,
) -> Tensor:
    """Return a loss of the table with the defaults of `Run`; labels 0, 1, 2, ... if not given."""
    own = {} if name == "mse" else {"temperature": temperature}
    run = Run(loss=name, teacher_temperature=teacher_temperature, **own, **weights)
    given = torch.arange(len(student)) % student.shape[1] if labels is None else labels
    return objective(run)(student, teacher, given)


def plain_correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson's correlation of two vectors, with the constant of the authors' code."""
    a, b = a - a.sum() / len(a), b - b.sum() / len(b)
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt() + 1e-8)


def plain_dist(
    student: Tensor, teacher: Tensor, ts: float, tt: float, beta: float, gamma: float
) -> Tensor:
    q = (student / ts).exp() / (student / ts).exp().sum(1, keepdim=True)
    p = (teacher / tt).exp() / (teacher / tt).exp().sum(1, keepdim=True)
    of_images = [plain_correlation(q[i], p[i]) for i in range(len(q))]
    of_classes = [plain_correlation(q[:, k], p[:, k]) for k in range(q.shape[1])]
    return beta * (1 - sum(of_images) / len(q)) + gamma * (1 - sum(of_classes) / q.shape[1])


def plain_nkd(student: Tensor, teacher: Tensor, ts: float, tt: float, gamma: float) -> Tensor:
    """The paper's form, with the cross-entropy of the other classes."""
    found = []
    for s, t, y in zip(student, teacher, range(len(student)), strict=True):
        y %= len(s)
        others = [k for k in range(len(s)) if k != y]
        soft_t, soft_s = (t[others] / tt).exp(), (s[others] / ts).exp()
        among = soft_t / soft_t.sum() * (soft_s / soft_s.sum()).log()
        of_label = t.exp()[y] / t.exp().sum() * (s.exp()[y] / s.exp().sum()).log()
        found.append(-of_label - gamma * ts**2 * among.sum())
    return torch.stack(found).mean()


def entropy_of_others(teacher: Tensor, temperature: float) -> Tensor:
    found = []
    for i, row in enumerate(teacher):
        others = torch.cat([row[: i % K], row[i % K + 1 :]])
        p = (others / temperature).softmax(0)
        found.append(-(p * p.log()).sum())
    return torch.stack(found).mean()


@pytest.mark.parametrize(("ts", "tt"), BOTH)
@pytest.mark.parametrize(("beta", "gamma"), [(2.0, 2.0), (1.0, 0.0), (0.0, 3.0)])
def test_dist_is_its_definition_and_so_is_its_gradient(
    ts: float, tt: float | None, beta: float, gamma: float
) -> None:
    student, teacher = pair()
    student.requires_grad_()
    got = loss("dist", student, teacher, ts, tt, dist_beta=beta, dist_gamma=gamma)
    want = plain_dist(student, teacher, ts, tt or ts, beta, gamma)
    close(got, want)
    close(gradient(got, student), gradient(want, student))


def test_dist_by_hand() -> None:
    up, down = (1.0, 2.0, 3.0), (3.0, 2.0, 1.0)
    # rows: r = -1 twice; columns (1, 3), (2, 2), (3, 1) against their reverse: -1, none, -1
    got = loss("dist", logs(up, down), logs(down, up), dist_beta=10.0, dist_gamma=3.0)
    close(got, 10 * 2 + 3 * (1 + 2 / 3), rtol=1e-6)
    # rows: r = 1 and -1; the teacher's columns are constant
    got = loss("dist", logs(up, down), logs(up, up), dist_beta=10.0, dist_gamma=3.0)
    close(got, 10 * 1 + 3 * 1, rtol=1e-6)
    # at T = 2 twice the logits give the same probabilities, and there is no factor T^2
    got = loss("dist", 2 * logs(up, down), 2 * logs(up, up), 2.0, dist_beta=10.0, dist_gamma=3.0)
    close(got, 10 * 1 + 3 * 1, rtol=1e-6)


@laws
@given(st.floats(0.2, 1), st.floats(-5, 5), st.integers(0, 99))
def test_dist_is_zero_for_affine_probabilities(slope: float, shift: float, seed: int) -> None:
    student = 2 * torch.randn(B, K, generator=torch.Generator().manual_seed(seed)).double()
    q = student.softmax(1)
    teacher = (slope * q + (1 - slope) / K).log() + shift  # a shift of logits changes nothing
    # 1e-8 in the denominator shows in classes that are unlikely in all images
    close(loss("dist", student, teacher), 0.0, atol=1e-3)
    close(loss("dist", student, student), 0.0, atol=1e-3)


@laws
@given(temperatures, st.integers(0, 99), st.randoms(use_true_random=False))
def test_laws_of_dist(temperature: float, seed: int, random) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (2 * torch.randn(B, K, generator=generator).double() for _ in range(2))
    got = loss("dist", student, teacher, temperature)
    assert 0 <= got <= 8
    close(loss("dist", teacher, student, temperature), got)  # symmetric
    shift = torch.randn(B, 1, generator=generator).double()
    close(loss("dist", student + shift, teacher - shift, temperature), got)
    rows, columns = (random.sample(range(n), n) for n in student.shape)
    mixed = (z[rows][:, columns] for z in (student, teacher))
    close(loss("dist", *mixed, temperature), got)
    parts = (
        loss("dist", student, teacher, temperature, dist_beta=beta, dist_gamma=1 - beta)
        for beta in (1.0, 0.0)
    )
    close(2 * sum(parts), got)


def test_limit_of_dist_at_high_temperature() -> None:
    """It is that of the logits: of a row, and of a column of logits less the row's mean."""
    student, teacher = pair()
    centred = [z - z.mean(1, keepdim=True) for z in (student, teacher)]
    rows, columns = (
        torch.stack([plain_correlation(a, b) for a, b in zip(*both, strict=True)]).mean()
        for both in (centred, [z.T for z in centred])
    )
    want = 2 * (1 - rows) + 2 * (1 - columns)
    close(loss("dist", student, teacher, 300.0), want, rtol=1e-2)
    close(loss("dist", 10 * student, 10 * teacher, 1000.0), want, rtol=5e-2)
    student.requires_grad_()
    sizes = [gradient(loss("dist", student, teacher, t), student).norm() for t in (30.0, 300.0)]
    close(sizes[1], sizes[0], rtol=0.1)  # so no factor T^2 is needed


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


@pytest.mark.parametrize(("ts", "tt"), BOTH)
@pytest.mark.parametrize("gamma", [0.0, 1.5, 4.0])
def test_nkd_is_its_definition_and_so_is_its_gradient(
    ts: float, tt: float | None, gamma: float
) -> None:
    student, teacher = pair()
    student.requires_grad_()
    got = loss("nkd", student, teacher, ts, tt, nkd_gamma=gamma)
    want = plain_nkd(student, teacher, ts, tt or ts, gamma)
    close(got, want - gamma * ts**2 * entropy_of_others(teacher, tt or ts), atol=1e-11)
    close(gradient(got, student), gradient(want, student))


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


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_others_of_nkd_are_those_of_dkd(temperature: float) -> None:
    student, teacher = pair()
    p, q = (z.softmax(1).gather(1, LABELS[:, None])[:, 0] for z in (teacher, student))
    others = loss("dkd", student, teacher, temperature, dkd_alpha=0.0, dkd_beta=3.0)
    want = others - (p * q.log()).mean()
    close(loss("nkd", student, teacher, temperature, nkd_gamma=3.0), want)


def test_nkd_beside_kl() -> None:
    """With gamma = 1 - p, nkd lacks only -(1 - p) log(1 - q) of the gradient of kl at T = 1."""
    student, teacher = pair()
    for i in range(B):
        own, target, y = student[i : i + 1].clone().requires_grad_(), teacher[i : i + 1], LABELS[i]
        p, q = target.softmax(1)[0, y], own.softmax(1)[0, y]
        got = loss("nkd", own, target, labels=LABELS[i : i + 1], nkd_gamma=float(1 - p))
        want = loss("kl", own, target) + (1 - p) * (1 - q).log()
        close(gradient(got, own), gradient(want, own))


def test_nkd_of_a_sure_teacher_is_cross_entropy() -> None:
    student, _ = pair()
    student.requires_grad_()
    sure = 1e4 * F.one_hot(LABELS, K).double()
    got, want = loss("nkd", student, sure, nkd_gamma=0.0), F.cross_entropy(student, LABELS)
    close(got, want)
    close(gradient(got, student), gradient(want, student))
    # such a teacher knows nothing of the others: they are pulled to 1 / (K - 1)
    level = torch.where(F.one_hot(LABELS, K).bool(), student.detach(), 0.7).requires_grad_()
    rest = loss("nkd", level, sure, nkd_gamma=1.5) - loss("nkd", level, sure, nkd_gamma=0.0)
    close(rest, 0.0)


@laws
@given(temperatures, st.integers(0, 99))
def test_laws_of_nkd(temperature: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(B, K, generator=generator).double() for _ in range(2))
    shift = torch.randn(B, 1, generator=generator).double()
    got = loss("nkd", student, teacher, temperature)
    assert got > 0
    close(loss("nkd", student + shift, teacher - shift, temperature), got, rtol=1e-10)
    singles = [
        loss("nkd", student[i : i + 1], teacher[i : i + 1], temperature, labels=LABELS[i : i + 1])
        for i in range(B)
    ]
    close(torch.stack(singles).mean(), got)
    # two classes: a single other class leaves nothing to tell apart
    binary = [loss("nkd", student[:, :2], teacher[:, :2], temperature, nkd_gamma=g) for g in (0, 9)]
    close(binary[1], binary[0])


SOFTENED = [name for name in OF_LOGITS if name != "mse"]


def test_the_gradient_of_kl_has_the_students_temperature() -> None:
    student, teacher = pair()
    student.requires_grad_()
    got = loss("kl", student, teacher, 4.0, 2.0)
    q, p = (student / 4).softmax(1), (teacher / 2).softmax(1)
    close(got, 16 * (p * (p / q).log()).sum(1).mean())
    close(gradient(got, student), 4 * (q - p) / B)


@pytest.mark.parametrize("name", ["kl", "dkd", "dist"])
def test_another_temperature_is_another_scale_of_the_teachers_logits(name: str) -> None:
    student, teacher = pair()
    close(loss(name, student, teacher, 4.0, 2.0), loss(name, student, 2 * teacher, 4.0))


@pytest.mark.parametrize("name", SOFTENED)
def test_the_same_temperature_is_none(name: str) -> None:
    student, teacher = pair(torch.float32)
    assert torch.equal(
        loss(name, student, teacher, 3.0, 3.0), loss(name, student, teacher, 3.0, None)
    )
    assert loss(name, student, teacher, 3.0, 2.0) != loss(name, student, teacher, 3.0, None)


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
@pytest.mark.parametrize("kind", EXTREME)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("ts", "tt"), [(0.5, None), (1.0, 20.0), (20.0, 0.5)])
def test_value_and_gradient_are_finite(
    name: str, kind: str, dtype: torch.dtype, ts: float, tt: float | None
) -> None:
    student, teacher = (torch.tensor(rows, dtype=dtype) for rows in EXTREME[kind])
    student.requires_grad_()
    got = loss(name, student, teacher, ts, tt)
    assert got.isfinite() and got.dtype == torch.float32
    assert gradient(got, student).isfinite().all()


@pytest.mark.parametrize("name", OF_LOGITS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = loss(name, student, teacher, 20.0)
    assert torch.equal(got, loss(name, student.float(), teacher.float(), 20.0))


def test_standardised_logits_are_softened_after_it() -> None:
    student, teacher = pair()
    of_unit_sd = [(z - z.mean(1, keepdim=True)) / (z.std(1, keepdim=True) + 1e-7) for z in pair()]
    close(loss("ls", student, teacher, 4.0, 2.0), loss("kl", *of_unit_sd, 4.0, 2.0))
