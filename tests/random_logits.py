"""Logits of random numbers, and comparisons of losses and their gradients."""

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

B, K = 6, 5
LABELS = torch.arange(B) % K
laws = settings(deadline=None, max_examples=30)
temperatures = st.floats(0.5, 20)


def pair(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Student's and teacher's logits [B, K]."""
    generator = torch.Generator().manual_seed(1)
    first, second = (3 * torch.randn(B, K, generator=generator).double() for _ in range(2))
    return first.to(dtype), second.to(dtype)


def close(got: Tensor, want: Tensor | float, rtol: float = 1e-12, atol: float = 1e-12) -> None:
    torch.testing.assert_close(got, torch.as_tensor(want, dtype=got.dtype), rtol=rtol, atol=atol)


def gradient(loss: Tensor, student: Tensor) -> Tensor:
    return torch.autograd.grad(loss, student, retain_graph=True)[0]
