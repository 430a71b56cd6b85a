"""Selection bias and its correction: hand-worked cases, simulations with a known truth, laws."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdtune.statistics.selection import bootstrap_corrected

exact = pytest.approx


def test_bootstrap_corrected_by_hand() -> None:
    # of 2 images a bootstrap draws one twice (else none is left for evaluation): the configuration
    # that is right there is selected, and is wrong on the other
    got = bootstrap_corrected([[1, 0], [0, 1]])
    assert (got.corrected, got.low, got.high) == (0, 0, 0)
    # with one configuration there is no choice; each image is left out equally often
    assert bootstrap_corrected([[1, 0, 1, 1]], draws=20_000).corrected == exact(0.75, abs=0.01)


def test_the_best_of_equal_configurations_is_corrected() -> None:
    # of K = 10 configurations of accuracy 0.7, on 150 images, the best seems to have 0.76
    rng = np.random.default_rng(0)
    tables = rng.uniform(size=(200, 10, 150)) < 0.7
    studies = [bootstrap_corrected(table, draws=200) for table in tables]
    naive = tables.mean(2).max(1) - 0.7
    corrected = np.array([s.corrected for s in studies]) - 0.7
    assert naive.mean() > 0.04
    assert abs(corrected.mean()) < 4 * corrected.std(ddof=1) / math.sqrt(len(studies)) + 0.005
    assert all(s.low <= s.corrected <= s.high for s in studies)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(20, 120))
def test_bootstrap_corrected_laws(seed: int, k: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    correct = rng.uniform(size=(k, n)) < rng.uniform(0.3, 1, (k, 1))
    got = bootstrap_corrected(correct, draws=400)
    assert got == bootstrap_corrected(correct, draws=400)
    # selection cannot gain on images that did not select: only the draws' error can exceed naive
    naive = correct.mean(1).max()
    error = 4 * math.sqrt(0.25 / (0.36 * n)) / math.sqrt(400)
    assert got.corrected <= naive + error
    # a configuration that is better on all images is always selected, without bias
    better = correct[0] * 0.5 + 0.5
    sure = bootstrap_corrected([correct[0] * 0.0, better], draws=400)
    assert sure.corrected == exact(better.mean(), abs=error)
