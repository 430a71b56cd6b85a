"""Repeats that vary the train/val split or the teacher: coverage by simulation, and hand work."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from kdtune.statistics.intervals import corrected_resampled, teacher_share

EXAMPLES, CLASSES, FEATURES, FOLDS, REPEATS = 100, 2, 6, 10, 15
SHIFT = 0.45
"""Half of the distance of the two classes in each feature."""


def draw(rng: np.random.Generator, data_sets: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return features [data_sets, n, FEATURES] and classes -1 or 1 [data_sets, n], half each."""
    y = np.tile(np.repeat([-1.0, 1.0], n // 2), (data_sets, 1))
    x = rng.normal(size=(data_sets, n, FEATURES)) + SHIFT * y[:, :, None]
    return x, y


def directions(x: np.ndarray, y: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the discriminants of nearest mean and of ridge regression, [..., FEATURES].

    The classes are symmetric about 0, so neither needs an intercept.
    """
    own, signs = x[:, train], y[:, train]
    mean = np.einsum("dn,dnf->df", signs, own) / len(train)
    gram = np.einsum("dnf,dng->dfg", own, own) + np.eye(FEATURES)
    ridge = np.linalg.solve(gram, np.einsum("dn,dnf->df", signs, own)[..., None])[..., 0]
    # nearest mean has half of the features, so that the two differ
    return np.concatenate([mean[:, :3], 0 * mean[:, 3:]], 1), ridge


def accuracy(direction: np.ndarray) -> np.ndarray:
    """Return the exact accuracy on new data: Phi of the projected shift over the norm."""
    return stats.norm.cdf(SHIFT * direction.sum(-1) / np.linalg.norm(direction, axis=-1))


def folds(rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield train and val of each repeat: stratified folds, a new partition after all of them."""
    half = EXAMPLES // 2
    for repeat in range(REPEATS):
        if repeat % FOLDS == 0:
            fold = np.concatenate([rng.permutation(half) % FOLDS for _ in range(CLASSES)])
        is_val = fold == repeat % FOLDS
        yield np.flatnonzero(~is_val), np.flatnonzero(is_val)


def test_corrected_intervals_cover_and_naive_ones_do_not() -> None:
    """10 folds, 15 repeats, 4,000 data sets; the truth is the mean accuracy difference on new data
    of models trained on as many examples as each train has, computed exactly.
    """
    rng, data_sets = np.random.default_rng(0), 4000
    x, y = draw(rng, data_sets, EXAMPLES)
    own = np.empty((data_sets, REPEATS))
    true = np.empty_like(own)
    for repeat, (train, val) in enumerate(folds(rng)):
        one, other = directions(x, y, train)
        hits = [
            (np.einsum("df,dnf->dn", w, x[:, val]) * y[:, val] > 0).mean(1) for w in (one, other)
        ]
        own[:, repeat] = hits[0] - hits[1]
        true[:, repeat] = accuracy(one) - accuracy(other)
    truth = true.mean()
    quantile = stats.t.ppf(0.975, REPEATS - 1)
    corrected = [corrected_resampled(d, 1 / (FOLDS - 1)) for d in own]
    covers = np.mean([abs(e.mean - truth) <= quantile * e.error for e in corrected])
    naive_error = own.std(1, ddof=1) / math.sqrt(REPEATS)
    naive = np.mean(abs(own.mean(1) - truth) <= quantile * naive_error)
    assert covers >= 0.94
    assert naive < 0.9


def test_by_hand() -> None:
    """Differences 1, 2, 3: s^2 = 1; (1/3 + 1/6) s^2 = 1/2."""
    found = corrected_resampled([1, 2, 3], 1 / 6)
    assert (found.mean, found.error, found.df) == pytest.approx((2, math.sqrt(0.5), 2))
    assert corrected_resampled([1, 2, 3], 0).error == pytest.approx(stats.sem([1, 2, 3]))
    for none in ([1], [1, 2], [2, 2, 2], [0.1] * 3):  # too few, or nothing varies
        assert math.isnan(corrected_resampled(none, 0.1).error)


def test_share_of_teachers_by_hand_and_with_the_f_test_of_scipy() -> None:
    """Groups 1, 3 | 5, 7: MSB = 16, MSW = 2, n0 = 2: between = 7, share = 7/9."""
    found = teacher_share([1, 5, 3, 7], [0, 1, 0, 1])
    assert found is not None and found.share == pytest.approx(7 / 9) and found.f == 8
    assert (found.teachers, found.n) == (2, 4)
    rng, teachers = np.random.default_rng(1), [r % 3 for r in range(8)]  # 3, 3 and 2 repeats
    x = rng.normal(size=8)
    groups = [x[[t == g for t in teachers]] for g in range(3)]
    found, want = teacher_share(x, teachers), stats.f_oneway(*groups)
    assert found is not None and (found.f, found.p) == pytest.approx((want.statistic, want.pvalue))
    assert found.share >= 0


def test_share_of_teachers_in_simulation() -> None:
    """sd 2 between and 1 within is a share of 0.8; without teachers p is below 0.05 in 5 %."""
    rng, teachers = np.random.default_rng(2), [r % 40 for r in range(160)]
    effects = 2 * rng.normal(size=40)
    found = teacher_share([effects[t] for t in teachers] + rng.normal(size=160), teachers)
    assert found is not None and found.share == pytest.approx(0.8, abs=0.06) and found.p < 1e-9
    none = [teacher_share(rng.normal(size=12), [r % 4 for r in range(12)]) for _ in range(1000)]
    rate = np.mean([found is not None and found.p < 0.05 for found in none])
    assert rate == pytest.approx(0.05, abs=3 * math.sqrt(0.05 * 0.95 / 1000))


def test_no_share_without_replication_or_variance() -> None:
    assert teacher_share([1, 2, 3], [0, 1, 2]) is None
    assert teacher_share([1, 2, 3], [0, 0, 0]) is None
    assert teacher_share([0.1] * 4, [0, 1, 0, 1]) is None
