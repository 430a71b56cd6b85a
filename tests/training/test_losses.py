"""The loss of a batch against its definition, written out here."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from random_logits import LABELS, B, K, close, gradient, laws, pair
from torch import Tensor

from kdtune.config.run import Run
from kdtune.streams.views import Batch
from kdtune.training.epoch import Losses, Outputs
from kdtune.training.losses import cross_entropy, objective, total

STUDENT, TEACHER = pair()
BATCH = Batch(LABELS, teacher=TEACHER)


def losses(run: Run, batch: Batch, student: Tensor = STUDENT) -> Losses:
    return Losses.of(run, objective(run), Outputs(student), batch)


@laws
@given(st.floats(-100, 100), st.floats(-100, 100), st.floats(0, 1))
def test_total_is_affine_in_alpha(ce: float, distill: float, alpha: float) -> None:
    a, b = torch.tensor([ce, distill], dtype=torch.float64)
    close(total(alpha, a, b), alpha * a + (1 - alpha) * b)
    close(total(1e-9, a, b), b, rtol=0, atol=1e-6)  # no jump
    close(total(1 - 1e-9, a, b), a, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_1_is_cross_entropy_bit_for_bit(dtype: torch.dtype) -> None:
    student, teacher = pair(dtype)
    student.requires_grad_()
    want = F.cross_entropy(student, LABELS)
    distill = objective(Run())(student, teacher * 1e5, LABELS)
    got = total(1, cross_entropy(student, LABELS), distill)
    assert torch.equal(got, want)
    assert torch.equal(gradient(got, student), gradient(want, student))


def test_a_dead_term_that_overflowed_stays_dead() -> None:
    three, nan, infinite = (torch.tensor(value) for value in (3.0, math.nan, math.inf))
    assert total(1, three, infinite) == total(0, nan, three) == 3


def test_smoothing_enters_the_loss_and_not_the_metric() -> None:
    got = losses(Run(alpha=0.3, label_smoothing=0.2), BATCH)
    hard = F.cross_entropy(STUDENT, LABELS)
    close(got.ce, hard)
    smooth = 0.8 * hard - 0.2 * STUDENT.log_softmax(1).mean()
    close(got.loss, 0.3 * smooth + 0.7 * got.distill)


@pytest.mark.parametrize("loss", ["kl", "dkd"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_labels_of_a_mixed_image_count_by_their_share(loss: str, smoothing: float) -> None:
    share, partners = 0.7, (LABELS + 2) % K
    mixed = Batch(LABELS, teacher=TEACHER, partners=partners, shares=torch.full((B,), share))
    run = Run(alpha=0.4, loss=loss, label_smoothing=smoothing)
    ce, distill = (
        share * term(LABELS) + (1 - share) * term(partners)
        for term in (
            lambda y: F.cross_entropy(STUDENT, y, label_smoothing=smoothing),
            lambda y: objective(run)(STUDENT, TEACHER, y),
        )
    )
    close(losses(run, mixed).loss, 0.4 * ce + 0.6 * distill, rtol=1e-6, atol=0)
