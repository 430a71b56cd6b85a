"""Objectives against their closed forms, and the user's own objectives.

References: plain definitions and their gradients by autograd, identities of the papers (Hinton et
al., 2015; Kim et al., 2021; Zhao et al., 2022; Sun et al., 2024), torch's own cross-entropy, and
laws. Float64, tolerance 1e-12, unless a test says otherwise.
"""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from random_logits import LABELS, B, K, close, gradient, laws, pair, temperatures
from torch import Tensor

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.training.losses import (
    OBJECTIVES,
    check_objective,
    check_searched,
    cross_entropy,
    find_objective,
    objective,
    total,
)


def row(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


@st.composite
def batches(draw: st.DrawFn, limit: float = 20.0, count: int = 2) -> list[Tensor]:
    """Count tensors of logits [b, k] of one shape."""
    b, k = draw(st.integers(1, 5)), draw(st.integers(2, 6))
    numbers = st.lists(st.floats(-limit, limit), min_size=b * k, max_size=b * k)
    return [row(*draw(numbers)).view(b, k) for _ in range(count)]


def any_labels(logits: Tensor) -> Tensor:
    return torch.arange(len(logits)) % logits.shape[1]


def kl(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return OBJECTIVES["kl"](student, teacher, any_labels(student), temperature=temperature)


def mse(student: Tensor, teacher: Tensor) -> Tensor:
    return OBJECTIVES["mse"](student, teacher, any_labels(student))


def ls(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    return OBJECTIVES["ls"](student, teacher, any_labels(student), temperature=temperature)


def dkd(student: Tensor, teacher: Tensor, temperature: float, alpha: float, beta: float) -> Tensor:
    weights = {"dkd_alpha": alpha, "dkd_beta": beta}
    labels = any_labels(student)
    return OBJECTIVES["dkd"](student, teacher, labels, temperature=temperature, **weights)


def plain_dkd(
    student: Tensor, teacher: Tensor, temperature: float, alpha: float, beta: float
) -> Tensor:
    """Equation 7 of Zhao et al., 2022, from probabilities, an example at a time."""
    found = []
    for s, t, y in zip(student, teacher, any_labels(student).tolist(), strict=True):
        q, p = (s / temperature).softmax(0), (t / temperature).softmax(0)
        binary = p[y] * (p[y] / q[y]).log() + (1 - p[y]) * ((1 - p[y]) / (1 - q[y])).log()
        others = [k for k in range(len(s)) if k != y]
        among = sum(
            p[k] / (1 - p[y]) * (p[k] * (1 - q[y]) / q[k] / (1 - p[y])).log() for k in others
        )
        found.append(temperature**2 * (alpha * binary + beta * among))
    return torch.stack(found).mean()


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
    close(kl(student, teacher, 4), 16 * K * (p * (p.log() - log_q)).mean())
    for loss in (lambda s, t: kl(s, t, 4), mse, lambda s, t: ls(s, t, 4)):
        singles = [loss(student[i : i + 1], teacher[i : i + 1]) for i in range(B)]
        close(loss(student, teacher), torch.stack(singles).mean())


def test_the_run_says_which_objective_with_which_hyperparameters() -> None:
    student, teacher = pair()
    for run, want in (
        (Run(loss="mse"), mse(student, teacher)),
        (Run(temperature=3), kl(student, teacher, 3)),
        (Run(loss="ls", temperature=2), ls(student, teacher, 2)),
        (Run(loss="dkd", temperature=2), dkd(student, teacher, 2, 1.0, 8.0)),
        (Run(loss="dkd", dkd_alpha=0.5, dkd_beta=2), dkd(student, teacher, 4, 0.5, 2.0)),
    ):
        assert objective(run)(student, teacher, LABELS) == want


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.0, 1.0), (2.0, 0.0)])
def test_dkd_is_its_definition_and_so_is_its_gradient(
    temperature: float, alpha: float, beta: float
) -> None:
    student, teacher = pair()
    student.requires_grad_()
    got, want = (f(student, teacher, temperature, alpha, beta) for f in (dkd, plain_dkd))
    close(got, want, rtol=1e-10, atol=1e-12)
    close(gradient(got, student), gradient(want, student), rtol=1e-9, atol=1e-12)


def test_dkd_by_hand() -> None:
    # label 0 (the first row); teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4)
    teacher, student = row(math.log(2), 0, 0), row(0, math.log(2), 0)
    binary = 0.5 * math.log(2) + 0.5 * math.log(2 / 3)
    among = 0.5 * math.log(3 / 4) + 0.5 * math.log(3 / 2)  # (1/2, 1/2) from (2/3, 1/3)
    close(dkd(student, teacher, 1, 1.0, 0.0), binary)
    close(dkd(student, teacher, 1, 0.0, 1.0), among)
    close(dkd(2 * student, 2 * teacher, 2, 1.0, 8.0), 4 * (binary + 8 * among))


@laws
@given(batches(), temperatures)
def test_dkd_with_the_mass_of_the_others_is_kl(pair: list[Tensor], temperature: float) -> None:
    """Equation 6 of Zhao et al.: KL = TCKD + (1 - p_y) NCKD, example by example."""
    student, teacher = pair
    labels = any_labels(student)
    p_label = (teacher / temperature).softmax(1).gather(1, labels[:, None])[:, 0]
    for i in range(len(student)):
        one, other = (z[i : i + 1].roll(-int(labels[i]), 1) for z in pair)  # the label is class 0
        got = dkd(one, other, temperature, 1.0, float(1 - p_label[i]))
        close(got, kl(one, other, temperature), rtol=1e-9, atol=1e-10)
    per_example = dkd(student, teacher, temperature, 1.0, 1 - p_label)  # [B] instead of a number
    close(per_example, kl(student, teacher, temperature), rtol=1e-9, atol=1e-10)


@laws
@given(batches(count=3), temperatures, st.floats(0, 10), st.floats(0, 10))
def test_laws_of_dkd(three: list[Tensor], temperature: float, alpha: float, beta: float) -> None:
    student, teacher, shift = three[0], three[1], three[2][:, :1]
    got = dkd(student, teacher, temperature, alpha, beta)
    assert got >= -1e-10
    close(dkd(student, student, temperature, alpha, beta), 0.0, rtol=0, atol=1e-10)
    moved = dkd(student + shift, teacher - shift, temperature, alpha, beta)
    close(moved, got, rtol=1e-9, atol=1e-9)
    parts = (dkd(student, teacher, temperature, *w) for w in ((1.0, 0.0), (0.0, 1.0)))
    target, others = parts
    close(got, alpha * target + beta * others, rtol=1e-9, atol=1e-9)
    if student.shape[1] == 2:  # a single other class leaves nothing to tell apart
        close(others, 0.0)


def plain_ls(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Algorithm 1 of Sun et al., 2024, from probabilities, an example at a time."""
    found = []
    for s, t in zip(student, teacher, strict=True):
        q, p = (
            ((z - z.mean()) / ((((z - z.mean()) ** 2).sum() / (len(z) - 1)).sqrt() + 1e-7)).div(
                temperature
            )
            for z in (s, t)
        )
        p, q = p.exp() / p.exp().sum(), q.exp() / q.exp().sum()
        found.append(temperature**2 * (p * (p / q).log()).sum())
    return torch.stack(found).mean()


@pytest.mark.parametrize("temperature", [0.5, 1, 4, 20])
def test_ls_is_its_definition_and_so_is_its_gradient(temperature: float) -> None:
    student, teacher = pair()
    student.requires_grad_()
    got, want = (f(student, teacher, temperature) for f in (ls, plain_ls))
    close(got, want, rtol=1e-10, atol=1e-12)
    close(gradient(got, student), gradient(want, student), rtol=1e-9, atol=1e-12)


@laws
@given(batches(), temperatures, st.floats(0.5, 20), st.floats(-20, 20))
def test_ls_depends_on_neither_scale_nor_mean(
    pair: list[Tensor], temperature: float, a: float, b: float
) -> None:
    student, teacher = pair
    if min(z.std(1).min() for z in pair) < 0.1:
        return  # 1e-7 beside a smaller sd would show
    want = ls(student, teacher, temperature)
    for moved in ((a * student + b, teacher), (student, a * teacher + b)):
        close(ls(*moved, temperature), want, rtol=1e-4, atol=1e-4)


def test_limit_of_ls_at_high_temperature() -> None:
    student, teacher = pair()
    student.requires_grad_()
    pearson = torch.stack(
        [torch.corrcoef(torch.stack([s, t]))[0, 1] for s, t in zip(*pair(), strict=True)]
    )
    limit = (1 - pearson).mean() * (K - 1) / K
    close(ls(student, teacher, 1e4), limit, rtol=1e-3, atol=0)
    assert abs(gradient(ls(student, teacher, 1e4), student).sum(1)).max() < 1e-6


OWN = {
    "cosine": ("", "1 - torch.nn.functional.cosine_similarity(student, teacher).mean()"),
    "tempered": (
        ", *, temperature, dkd_beta",
        "((student - teacher) / temperature).square().mean() * dkd_beta",
    ),
    "misspelt": (", *, temprature=1.0", "student.sum()"),
    "more": (", other", "student.sum()"),
    "rows": ("", "student.sum(1)"),
    "number": ("", "1.0"),
    "nan": ("", "(student - student).sum() / 0"),
    "dead": ("", "student.detach().sum()"),
    "foreign": ("", "teacher.clone().requires_grad_().sum()"),
    "steep": ("", "(student - student).abs().sqrt().sum()"),
    "raises": ("", '{}["weights"]'),
    "weighed": (", *, loss_weight", "loss_weight * (student - teacher).square().mean()"),
    "smoothed": (", *, label_smoothing", "label_smoothing * student.sum()"),
}
"""By name: what follows (student, teacher, labels, and what is returned."""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    functions = (
        f"def {name}(student, teacher, labels{more}):\n    return {value}\n"
        for name, (more, value) in OWN.items()
    )
    (tmp_path / "own_objectives.py").write_text(
        "\n".join(["import torch", "constant = 3", *functions])
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_objectives", raising=False)
    return "own_objectives"


def test_an_objective_of_the_user(own: str) -> None:
    student, teacher = pair()
    cosine = Run(loss=f"{own}:cosine")
    check_objective(cosine, K)
    want = 1 - (student * teacher).sum(1) / student.norm(dim=1) / teacher.norm(dim=1)
    close(objective(cosine)(student, teacher, LABELS), want.mean())
    tempered = Run(loss=f"{own}:tempered", temperature=2, dkd_beta=3)
    check_objective(tempered, K)
    close(objective(tempered)(student, teacher, LABELS), 3 * mse(student, teacher) / 4)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("misspelt", "keyword-only parameters of .*misspelt must be fields of .*temprature"),
        ("more", r"must be a function \(student, teacher, labels, \*, hyperparameters\)"),
        ("rows", r"must return a scalar tensor, but got \[4\]"),
        ("number", "must return a scalar tensor, but got float"),
        ("nan", "must be finite, but got nan"),
        ("dead", "must have a finite gradient"),
        ("foreign", "must have a finite gradient"),
        ("steep", "must have a finite gradient"),
        ("raises", r"failed on random logits of shape \[4, 5\]: KeyError: 'weights' .*line \d+"),
        ("constant", "must be a function, but it is of type int"),
        ("weighed", "must not take loss_weight, which has an effect of its own"),
        ("smoothed", "must not take label_smoothing, which has an effect of its own"),
        ("absent", "cannot be imported: AttributeError"),
    ],
)
def test_an_objective_that_cannot_work_is_refused(name: str, message: str, own: str) -> None:
    with pytest.raises(InputError, match=message):
        check_objective(Run(loss=f"{own}:{name}"), K)


def test_an_objective_that_is_not_there() -> None:
    with pytest.raises(InputError, match="no_such_module:f cannot be imported"):
        objective(Run(loss="no_such_module:f"))
    with pytest.raises(
        InputError, match=r"loss must be one of kl, mse, dkd, .* or module:function"
    ):
        find_objective("KL")


def test_searching_what_an_objective_of_the_user_does_not_take(own: str) -> None:
    check_searched(["kl", f"{own}:tempered"], ["temperature", "dkd_beta", "lr"])
    check_searched(["kl", f"{own}:cosine"], ["lr", "alpha"])
    check_searched(["mse", "kl"], ["temperature", "lr"])
    with pytest.raises(InputError, match=r"temperature is searched, but the objective .*:cosine"):
        check_searched(["kl", f"{own}:cosine"], ["lr", "temperature"])


def test_a_sum_has_both_terms_with_their_hyperparameters(own: str) -> None:
    student, teacher = pair()
    student.requires_grad_()
    got = objective(Run(loss="kl+mse", temperature=2, loss_weight=0.3))(student, teacher, LABELS)
    want = kl(student, teacher, 2) + 0.3 * mse(student, teacher)
    close(got, want)
    close(gradient(got, student), gradient(want, student))
    other = Run(loss=f"dkd+{own}:tempered", temperature=2, dkd_beta=3, loss_weight=5)
    check_objective(other, K)
    tempered = 3 * mse(student, teacher) / 4
    want = dkd(student, teacher, 2, 1.0, 3.0) + 5 * tempered
    close(objective(other)(student, teacher, LABELS), want)


def test_the_users_term_of_a_sum_is_checked(own: str) -> None:
    with pytest.raises(InputError, match=rf"the objective {own}:nan must be finite"):
        check_objective(Run(loss=f"kl+{own}:nan"), K)
    with pytest.raises(InputError, match=r"keyword-only .* of .*misspelt must be fields"):
        check_objective(Run(loss=f"{own}:misspelt+kl"), K)
    check_searched([f"{own}:cosine+kl"], ["temperature", "loss_weight"])
    with pytest.raises(InputError, match=rf"dkd_beta is searched, .* parameter of {own}:cosine$"):
        check_searched([f"{own}:cosine+kl"], ["dkd_beta"])


@laws
@given(batches(), temperatures)
def test_kl_is_never_negative(pair: list[Tensor], temperature: float) -> None:
    assert kl(*pair, temperature) >= -1e-12
    close(kl(pair[0], pair[0], temperature), 0.0)


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
