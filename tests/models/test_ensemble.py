"""Ensembles against probabilities by hand."""

import numpy as np
import pytest
import torch

from kdtune.models.outputs import combine


def test_probabilities_are_the_mean() -> None:
    logits = [torch.tensor([[0.0, 0.0, 9.0]]), torch.tensor([[3.0, -1.0, 0.5]])]
    odds = [np.exp(values.numpy().astype(float)) for values in logits]
    wanted = np.mean([o / o.sum() for o in odds], axis=0)
    found = combine(logits)
    assert found.softmax(1).numpy() == pytest.approx(wanted, rel=1e-6)
    assert found.mean().item() == pytest.approx(0, abs=1e-6) and found.dtype == torch.float32


def test_one_member_is_itself_and_equal_members_agree_with_it() -> None:
    one = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert combine([one]) is one
    assert combine([one, one, one]).softmax(1).numpy() == pytest.approx(
        one.softmax(1).numpy(), 1e-5
    )


def test_extreme_logits_are_finite() -> None:
    assert combine([torch.tensor([[1e4, -1e4]]), torch.tensor([[-1e4, 1e4]])]).isfinite().all()
