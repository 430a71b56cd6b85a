"""The loss of a batch against its definition, written out here."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtune.config.run import Run
from kdtune.streams.views import Batch
from kdtune.training.epoch import Losses, Outputs
from kdtune.training.losses import objective

B, K = 12, 5


def draw(seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(B, K, generator=generator, dtype=torch.float64)


@pytest.fixture
def batch() -> Batch:
    return Batch(torch.arange(B) % K, teacher=draw(2))


def gradient(run: Run, logits: Tensor, batch: Batch) -> Tensor:
    own = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(Losses.of(run, objective(run), Outputs(own), batch).loss, own)
    return found


@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_a_uniform_teacher_is_label_smoothing(smoothing: float, batch: Batch) -> None:
    """kl at T = 1 and alpha = 1 - epsilon; both losses differ by the uniform entropy alone."""
    logits = draw(1)
    distilled = Run(alpha=1 - smoothing, temperature=1.0)
    uniform = Batch(batch.labels, teacher=torch.zeros(B, K, dtype=torch.float64))
    plain = Run(alpha=1.0, label_smoothing=smoothing)
    want = gradient(plain, logits, batch)
    torch.testing.assert_close(gradient(distilled, logits, uniform), want, rtol=1e-12, atol=1e-15)
    own = logits.clone().requires_grad_()
    smoothed = F.cross_entropy(own, batch.labels, label_smoothing=smoothing)
    (by_torch,) = torch.autograd.grad(smoothed, own)
    torch.testing.assert_close(want, by_torch, rtol=1e-12, atol=1e-15)


def test_smoothing_enters_the_loss_and_not_the_metric(batch: Batch) -> None:
    logits, run = draw(1), Run(alpha=0.3, label_smoothing=0.2)
    losses = Losses.of(run, objective(run), Outputs(logits), batch)
    hard = F.cross_entropy(logits, batch.labels)
    torch.testing.assert_close(losses.ce, hard)
    smooth = 0.8 * hard - 0.2 * logits.log_softmax(1).mean()
    assert losses.distill is not None
    torch.testing.assert_close(losses.loss, 0.3 * smooth + 0.7 * losses.distill)


@pytest.mark.parametrize("loss", ["kl", "dkd"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_both_labels_of_a_mixed_image_count_by_their_share(
    loss: str, smoothing: float, batch: Batch
) -> None:
    logits, share = draw(1), 0.7
    partners = (torch.arange(B) + 2) % K
    mixed = Batch(
        batch.labels, teacher=batch.teacher, partners=partners, shares=torch.full((B,), share)
    )
    run = Run(alpha=0.4, loss=loss, label_smoothing=smoothing)
    function = objective(run)
    got = Losses.of(run, function, Outputs(logits), mixed)
    ce, distill = (
        share * term(batch.labels) + (1 - share) * term(partners)
        for term in (
            lambda y: F.cross_entropy(logits, y, label_smoothing=smoothing),
            lambda y: function(logits, batch.teacher, y),
        )
    )
    torch.testing.assert_close(got.loss, 0.4 * ce + 0.6 * distill, rtol=1e-6, atol=0)


def test_images_without_a_label_are_in_the_distillation_term_only(batch: Batch) -> None:
    logits, run, n = draw(1), Run(alpha=0.4), 8
    for labels in (batch.labels, torch.cat([batch.labels[:n], torch.zeros(B - n).long()])):
        part = Batch(labels, teacher=batch.teacher, unlabelled=B - n)
        got = Losses.of(run, objective(run), Outputs(logits), part)
        torch.testing.assert_close(got.ce, F.cross_entropy(logits[:n], batch.labels[:n]))
        whole = objective(run)(logits, batch.teacher, labels)  # type: ignore[arg-type]
        torch.testing.assert_close(got.loss, 0.4 * got.ce + 0.6 * whole)
    assert len(part.labelled) == n and part.labelled.unlabelled == 0
