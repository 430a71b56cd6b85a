"""Adjusted p values against statsmodels, scipy, a slow reference, hand-worked numbers and laws."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kdtune.statistics.intervals import paired_difference
from kdtune.statistics.tests import holm, max_t

exact = pytest.approx


def test_holm_by_hand() -> None:
    # 4 x .01, 3 x .03, max(.09, 2 x .04), .5: without the running maximum .04 became .08
    assert holm([0.01, 0.04, 0.03, 0.5]) == exact([0.04, 0.09, 0.09, 0.5])
    assert holm([]) == []
    assert holm([0.03]) == [0.03]
    assert holm([0.6, 0.7]) == [1, 1]


@pytest.mark.parametrize("m", [1, 2, 3, 5, 8, 13])
def test_holm_is_statsmodels(m: int) -> None:
    p_values = np.random.default_rng(m).uniform(0, 0.2, m).round(2)  # some are equal
    want = multipletests(p_values, method="holm")[1]
    assert holm(list(p_values)) == exact(list(want), rel=1e-12, abs=1e-15)


@given(st.lists(st.floats(0, 1), max_size=12), st.randoms(use_true_random=False))
def test_holm_laws(p_values: list[float], random) -> None:
    adjusted = holm(p_values)
    assert all(p <= q <= min(1, len(p_values) * p) for p, q in zip(p_values, adjusted, strict=True))
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]


def t_size(d: np.ndarray, axis: int = -1) -> np.ndarray:
    return abs(d.mean(axis)) / (d.std(axis, ddof=1) / math.sqrt(d.shape[axis]))


def slow_max_t(d: np.ndarray) -> list[float]:
    """Return max-T p values by Westfall and Young (1993), algorithm 4.1, over all 2^n patterns."""
    n, m = d.shape
    observed = [float(t_size(d[:, j])) for j in range(m)]
    order = sorted(range(m), key=lambda j: -observed[j])
    counts = [0] * m
    for signs in itertools.product([1, -1], repeat=n):
        flipped = d * np.array(signs)[:, None]
        for rank, j in enumerate(order):
            rest = max(float(t_size(flipped[:, k])) for k in order[rank:])
            counts[rank] += rest >= observed[j] - 1e-9
    steps = np.maximum.accumulate(np.array(counts) / 2**n)
    return [float(steps[order.index(j)]) for j in range(m)]


@pytest.mark.parametrize("n", [2, 5, 9])
def test_max_t_of_one_is_scipys_sign_flip(n: int) -> None:
    d = np.random.default_rng(n).normal(0.5, 1, n)
    want = stats.permutation_test(
        (d,), t_size, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    )
    assert max_t(d[:, None]) == exact([want.pvalue], abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(4, 2), (6, 3), (7, 4)])
def test_max_t_is_the_slow_one(n: int, m: int) -> None:
    rng = np.random.default_rng(10 * n + m)
    d = rng.normal(size=(n, 1)) + rng.normal(size=(n, m)) + np.linspace(0, 3, m)
    assert max_t(d) == exact(slow_max_t(d), abs=1e-12)


def test_max_t_of_drawn_patterns_is_near_the_exact() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, (15, 1))  # the first n that is not enumerated
    (drawn,) = max_t(d)
    exactly = stats.permutation_test(
        (d[:, 0],), t_size, permutation_type="samples", n_resamples=np.inf, alternative="greater"
    ).pvalue
    assert 0.01 < exactly < 0.5
    assert drawn == exact(exactly, abs=4 * math.sqrt(exactly * (1 - exactly) / 20_000))
    assert max_t(d, seed=1) != max_t(d) == max_t(d)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(2, 9), st.integers(1, 5))
def test_max_t_laws(seed: int, n: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    d = rng.normal(size=(n, m)) + rng.normal(0, 2, m)
    got = np.array(max_t(d))
    assert (got >= 2 / 2**n - 1e-12).all() and (got <= 1).all()
    # order of repeats and comparisons, units and signs change nothing
    order = rng.permutation(m)
    units = rng.choice([-3, 0.01, 1, 7], m)
    again = np.array(max_t((rng.permutation(d) * units)[:, order]))
    assert again == exact(got[order], abs=1e-12)
    # never below each comparison alone; the larger |t|, the smaller p
    alone = np.array([max_t(d[:, [j]])[0] for j in range(m)])
    assert (got >= alone - 1e-12).all()
    assert (np.diff(got[np.argsort(-t_size(d, 0))]) >= -1e-12).all()


def test_max_t_of_equal_differences() -> None:
    # |t| is infinite where all are equal: for `same` as it is and negated; `mixed` becomes equal,
    # too, under its own two patterns
    zero, same, mixed = [0.0] * 6, [0.01] * 6, [0.01, -0.01] * 3
    assert max_t(np.array([zero, same]).T) == [1.0, 2 / 2**6]
    assert max_t(np.array([zero, same, mixed]).T) == [1.0, 4 / 2**6, 1.0]
    assert all(map(math.isnan, max_t([[0.1, 0.2]])))


def within(share: float, n: int) -> float:
    """Return four standard errors of a share over n studies."""
    return 4 * math.sqrt(share * (1 - share) / n)


@pytest.mark.slow
@pytest.mark.parametrize(("n", "m"), [(6, 3), (8, 10)])
def test_family_wise_error_without_any_effect(n: int, m: int) -> None:
    rng = np.random.default_rng(n)
    studies = 4000
    baseline, others = rng.normal(size=(studies, n, 1)), rng.normal(size=(studies, n, m))
    by_holm = by_max_t = 0
    for d in others - baseline:
        by_holm += min(holm([paired_difference(column, 0 * column).p for column in d.T])) < 0.05
        by_max_t += min(max_t(d)) <= 0.05
    # Holm is valid under any dependence; max-T takes the common baseline into account and comes
    # close to 5 %, down to its steps of 2 / 2^n
    assert by_holm / studies <= 0.05 + within(0.05, studies)
    steps = math.floor(0.05 / (2 / 2**n)) * (2 / 2**n)
    assert by_max_t / studies == exact(steps, abs=within(steps, studies))
