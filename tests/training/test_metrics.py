"""Metrics of a split against scikit-learn, reference.py and hand-worked numbers; so the meter.

The names stand here once more on purpose: they are columns of every saved study.
"""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from random_logits import laws
from reference import calibration_error
from torch import Tensor

from kdtune.config.run import Run
from kdtune.config.task import (
    expected_calibration_error,
    macro_f1,
    negative_log_likelihood,
)
from kdtune.streams.views import Batch
from kdtune.training.epoch import Losses, Meter, Outputs, Predictions
from kdtune.training.losses import objective

N, K = 150, 5


def logits(seed: int, scale: float = 2.0, n: int = N) -> Tensor:
    return scale * torch.randn(n, K, generator=torch.Generator().manual_seed(seed))


def labels(n: int = N) -> Tensor:
    return torch.randint(K, (n,), generator=torch.Generator().manual_seed(11))


def from_probabilities(rows: list[list[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def meter(run: Run, student: Tensor, teacher: Tensor | None, y: Tensor, size: int) -> Meter:
    """A meter that was given batches of this size."""
    found = Meter()
    targets = [None] * N if teacher is None else teacher.split(size)
    for s, t, part in zip(student.split(size), targets, y.split(size), strict=False):
        batch = Batch(views=None, features=None, labels=part, teacher=t)
        found.add(s, batch, Losses.of(run, objective(run), Outputs(s), batch))
    return found


def test_nll_is_scikit_learns_log_loss() -> None:
    reference = pytest.importorskip("sklearn.metrics")
    s, y = logits(1), labels()
    p = s.double().softmax(1).numpy()
    want = reference.log_loss(y.numpy(), p, labels=range(K))
    assert negative_log_likelihood(s, None, y) == pytest.approx(want, rel=1e-12)
    assert negative_log_likelihood(s, None, y) == pytest.approx(float(F.cross_entropy(s, y)))


@pytest.mark.parametrize("present", [range(K), (0, 2), (3,)])
def test_macro_f1_is_scikit_learns(present: tuple[int, ...]) -> None:
    reference = pytest.importorskip("sklearn.metrics")
    y = torch.tensor(list(present))[labels() % len(present)]
    for s in (logits(1), logits(1).index_fill(1, torch.tensor([1, 4]), -99.0)):
        want = reference.f1_score(y.numpy(), s.argmax(1).numpy(), average="macro")
        assert macro_f1(s, None, y) == pytest.approx(want, rel=1e-12)


@laws
@given(st.integers(0, 1000), st.floats(0.01, 20), st.integers(1, 40))
def test_ece_is_that_of_the_reference(seed: int, scale: float, n: int) -> None:
    s, y = logits(seed, scale, n), labels(n)
    got = expected_calibration_error(s, None, y)
    assert got == pytest.approx(calibration_error(s.double().softmax(1), y), abs=1e-12)
    assert 0 <= got <= 1


def test_an_edge_belongs_to_the_bin_below() -> None:
    # 0.6 = 9/15 is the upper edge of (8/15, 9/15], which 0.55 shares and 0.62 does not
    edge = torch.tensor([[0.6, 0.4]], dtype=torch.float64).log()
    assert float(edge.softmax(1).max()) == 0.6
    y = torch.tensor([0, 1])
    for other, want in ((0.55, abs((1 - 0.6) - 0.55) / 2), (0.62, ((1 - 0.6) + 0.62) / 2)):
        both = torch.cat([edge, from_probabilities([[other, 1 - other]])])
        assert expected_calibration_error(both, None, y) == pytest.approx(want, rel=1e-9)


def test_what_cannot_be_computed_is_none() -> None:
    s, t, y = logits(1), logits(2), labels()
    alone = meter(Run(), s, None, y, 64).metrics()
    missing = {name for name, value in alone.items() if value is None}
    assert missing == {"distill", "teacher_acc", "logit_diff", "agreement", "kl"}
    assert alone["loss"] == alone["ce"]
    baseline = meter(Run(alpha=1.0), s, t, y, 64).metrics()
    assert {name for name, value in baseline.items() if value is None} == {"distill"}


def test_predictions_by_hand() -> None:
    s = from_probabilities([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    found = Predictions.of(s, torch.eye(3)[[2, 1]], torch.tensor([0, 1]))
    assert found.predicted.tolist() == [0, 2] and found.label.tolist() == [0, 1]
    assert found.p_predicted.tolist() == pytest.approx([0.7, 0.6])
    assert found.p_label.tolist() == pytest.approx([0.7, 0.3])
    assert found.teacher is not None and found.teacher.tolist() == [2, 1]
    assert found.correct.tolist() == [True, False]
    assert Predictions.of(s, None, torch.tensor([0, 1])).teacher is None
