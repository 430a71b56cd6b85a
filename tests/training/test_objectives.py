"""The losses against their closed forms.

References: the numbered oracles of research/kd.md, section 4 (Hinton et al., 2015; Kim et al.,
2021; DKD, Zhao et al., 2022), torch's own cross-entropy, and laws. Float64, tolerance 1e-12,
unless a test says otherwise.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdtune.config.run import Run
from kdtune.training.objectives import cross_entropy, distillation, kl, mse, total

B, K = 6, 5
LABELS = torch.arange(B) % K
EXACT = {"rtol": 1e-12, "atol": 1e-12}
laws = settings(deadline=None, max_examples=50)
temperatures = st.floats(0.5, 20)


def pair(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Student's and teacher's logits."""
    generator = torch.Generator().manual_seed(1)
    return [(3 * torch.randn(B, K, generator=generator).double()).to(dtype) for _ in range(2)]


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@st.composite
def batches(draw: st.DrawFn, limit: float = 20.0, count: int = 2) -> list[Tensor]:
    """Count tensors of logits [b, k] of one shape."""
    b, k = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    numbers = st.lists(st.floats(-limit, limit), min_size=b * k, max_size=b * k)
    return [row(*draw(numbers)).view(b, k) for _ in range(count)]


def close(got: Tensor, want: Tensor | float, **tolerance: float) -> None:
    want = torch.as_tensor(want, dtype=got.dtype)
    torch.testing.assert_close(got, want, **(tolerance or EXACT))


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student)[0]


def each_loss(student: Tensor, teacher: Tensor) -> Tensor:
    return torch.stack(
        [kl(student, teacher, 20), mse(student, teacher), cross_entropy(student, LABELS)]
    )


def entropy(p: Tensor) -> Tensor:
    return -(p * p.log()).sum(1).mean()


def test_hand_worked_numbers() -> None:
    student, teacher = row(0, 0), row(math.log(3), 0)
    # teacher (3/4, 1/4), student (1/2, 1/2): the direction of KL matters
    close(kl(student, teacher, 1), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    close(kl(teacher, student, 1), 0.5 * math.log(2 / 3) + 0.5 * math.log(2))
    # at T = 2 the same probabilities come from twice the logits, and T^2 = 4 stands before
    close(kl(student, 2 * teacher, 2), 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)))
    close(mse(row(1, 2), row(3, 2)), 2.0)
    close(cross_entropy(teacher, torch.tensor([1])), math.log(4))
    close(total(0.25, row(2), row(10)), row(8))


def test_sums_over_classes_and_averages_over_the_batch() -> None:  # oracle 1
    student, teacher = pair()
    p, q = teacher.softmax(1), student.softmax(1)
    close(kl(student, teacher, 1), K * (p * (p / q).log()).mean())


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_soft_cross_entropy_and_gradient(temperature: float) -> None:  # oracles 2 and 4
    student, teacher = pair()
    student.requires_grad_()
    q, p = ((z / temperature).softmax(1) for z in (student, teacher))
    soft = temperature**2 * F.cross_entropy(student / temperature, p)
    got = kl(student, teacher, temperature)
    close(got, soft - temperature**2 * entropy(p))
    grad = gradient(got, student)
    close(grad, gradient(soft, student))
    close(grad, temperature / B * (q - p))
    close(grad.sum(1), torch.zeros(B))


def test_limit_of_high_temperature() -> None:  # oracle 5
    student, teacher = pair()
    student.requires_grad_()
    d = student - teacher
    centred = d - d.mean(1, keepdim=True)
    limit = (centred**2).sum(1).mean() / (2 * K)
    close(mse(student, teacher), 2 * limit + (d.mean(1) ** 2).mean())
    # the error falls as 1 / T: 1e-2 at most at T = 100 with these logits
    close(kl(student, teacher, 1e2), limit.detach(), rtol=1e-2, atol=0)
    close(kl(student, teacher, 1e4), limit.detach(), rtol=1e-4, atol=0)
    grad = gradient(kl(student, teacher, 1e4), student)
    close(grad, (centred / (K * B)).detach(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("alpha", [0, 0.3, 1])
def test_mixed_targets_at_temperature_one(alpha: float) -> None:  # oracle 6
    student, teacher = pair()
    p = teacher.softmax(1)
    got = total(alpha, cross_entropy(student, LABELS), kl(student, teacher, 1))
    mixed = alpha * F.one_hot(LABELS, K).double() + (1 - alpha) * p
    close(got + (1 - alpha) * entropy(p), F.cross_entropy(student, mixed))


@pytest.mark.parametrize("alpha", [0.1, 0.9])
def test_uniform_teacher_is_label_smoothing(alpha: float) -> None:  # oracle 7
    student = pair()[0]
    got = total(alpha, cross_entropy(student, LABELS), kl(student, 0 * student, 1))
    smooth = F.cross_entropy(student, LABELS, label_smoothing=1 - alpha)
    close(got + (1 - alpha) * math.log(K), smooth)


def test_one_hot_teacher_is_cross_entropy() -> None:  # oracle 8
    student, teacher = pair()[0], F.one_hot(LABELS, K).double() * 1e4
    close(kl(student, teacher, 1), F.cross_entropy(student, LABELS))


@pytest.mark.parametrize("temperature", [1, 7.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_one_is_plain_training_bit_for_bit(temperature: float, dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    student.requires_grad_()
    plain = F.cross_entropy(student, LABELS)
    got = total(1, cross_entropy(student, LABELS), kl(student, teacher * 1e5, temperature))
    assert torch.equal(got, plain)
    assert torch.equal(gradient(got, student), gradient(plain, student))


def test_a_dead_term_that_overflowed_stays_dead() -> None:
    assert total(1, row(3), row(math.inf)) == 3
    assert total(0, row(math.nan), row(3)) == 3


@pytest.mark.parametrize("temperature", [1, 4])
def test_target_and_non_target_parts(temperature: float) -> None:  # oracle 9, DKD eq. 5-7
    student, teacher = pair()
    target = F.one_hot(LABELS, K).bool()
    p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
    p_t, q_t = p[target], q[target]
    tckd = p_t * (p_t / q_t).log() + (1 - p_t) * ((1 - p_t) / (1 - q_t)).log()
    p_rest, q_rest = (r[~target].view(B, K - 1) / (1 - r[target])[:, None] for r in (p, q))
    nckd = (p_rest * (p_rest / q_rest).log()).sum(1)
    got = [kl(student[i : i + 1], teacher[i : i + 1], temperature) for i in range(B)]
    close(torch.stack(got), temperature**2 * (tckd + (1 - p_t) * nckd))


def test_log_targets_and_single_examples() -> None:  # oracle 13
    student, teacher = pair()
    log_q, p = (student / 4).log_softmax(1), (teacher / 4).softmax(1)
    close(kl(student, teacher, 4), 16 * F.kl_div(log_q, p, reduction="batchmean"))
    for loss in (lambda s, t: kl(s, t, 4), mse):
        singles = [loss(student[i : i + 1], teacher[i : i + 1]) for i in range(B)]
        close(loss(student, teacher), torch.stack(singles).mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    got = each_loss(student, teacher)
    assert torch.equal(got, each_loss(student.float(), teacher.float()))
    assert got.dtype == torch.float32
    assert each_loss(*pair(torch.float64)).dtype == torch.float64


def test_autocast_changes_nothing() -> None:  # oracle 13
    student, teacher = pair(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = each_loss(student, teacher)
    close(inside, each_loss(student, teacher), rtol=1e-6, atol=0)


@pytest.mark.parametrize("temperature", [0.5, 1, 20])
def test_extreme_logits_stay_finite(temperature: float) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 0.0, -1e4]])
    for loss in (kl(student, teacher, temperature), mse(student, teacher)):
        assert loss.isfinite()
        assert gradient(loss, student).isfinite().all()


def test_the_run_says_which_term() -> None:
    student, teacher = pair()
    assert distillation(Run(loss="mse"), student, teacher) == mse(student, teacher)
    assert distillation(Run(temperature=3), student, teacher) == kl(student, teacher, 3)


@laws
@given(batches(), temperatures)
def test_kl_is_never_negative(pair: list[Tensor], temperature: float) -> None:
    assert kl(*pair, temperature) >= -1e-12
    close(kl(pair[0], pair[0], temperature), 0.0)


@laws
@given(batches(limit=3.0), st.floats(1, 8))
def test_kl_is_zero_only_between_equals(pair: list[Tensor], temperature: float) -> None:
    d = pair[0] - pair[1]
    if (d - d.mean(1, keepdim=True)).abs().max() > 0.1:  # some probability differs by 1e-4
        assert kl(*pair, temperature) > 1e-8


@laws
@given(batches(count=3), temperatures)
def test_kl_is_blind_to_shifts_of_rows(three: list[Tensor], temperature: float) -> None:  # oracle 3
    student, teacher, shift = three[0], three[1], three[2][:, :1]
    want = kl(student, teacher, temperature)
    for moved in ((student + shift, teacher), (student, teacher - shift)):
        close(kl(*moved, temperature), want, rtol=1e-10, atol=1e-10)


@laws
@given(batches(), temperatures, st.randoms(use_true_random=False))
def test_order_does_not_matter(pair: list[Tensor], temperature: float, random) -> None:  # oracle 3
    rows, columns = (random.sample(range(n), n) for n in pair[0].shape)
    mixed = [z[rows][:, columns] for z in pair]
    close(kl(*mixed, temperature), kl(*pair, temperature), rtol=1e-10, atol=1e-10)
    close(mse(*mixed), mse(*pair), rtol=1e-10, atol=1e-10)


@laws
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0, 1))
def test_total_is_affine_in_alpha(ce: float, distill: float, alpha: float) -> None:  # oracle 12
    a, b = torch.tensor([ce, distill], dtype=torch.float64)
    ends = total(0, a, b), total(1, a, b)
    close(total(alpha, a, b), ends[0] + alpha * (ends[1] - ends[0]))
    close(total(1e-9, a, b), ends[0], rtol=0, atol=1e-6)  # no jump
    close(total(1 - 1e-9, a, b), ends[1], rtol=0, atol=1e-6)
