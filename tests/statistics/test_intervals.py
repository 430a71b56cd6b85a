"""Intervals and paired comparisons against scipy, hand-worked numbers and laws.

The sleep data are Student's (1908), with the numbers that R documents for its t test.
"""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdtune.statistics.intervals import (
    Components,
    Estimate,
    binomial_p,
    by_group,
    chance_level,
    components,
    corrected_resampled,
    crossed,
    equivalent_size,
    fewer_p,
    mean_interval,
    mean_squares,
    over_repeats,
    paired_difference,
    share_interval,
    teacher_share,
    unpaired_difference,
    wilson_interval,
)

# extra hours of sleep under two drugs, ten patients
DRUG_1 = (0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0)
DRUG_2 = (1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4)

exact = pytest.approx
samples = st.lists(st.floats(-100, 100), min_size=3, max_size=12)


def test_mean_interval_by_hand() -> None:
    interval = mean_interval([1, 2, 3])
    assert (interval.mean, interval.sd, interval.n) == (2, 1, 3)
    # t(0.975, 2 df) = 4.302653, over the root of 3
    half = 4.302653 / math.sqrt(3)
    assert (interval.low, interval.high) == exact((2 - half, 2 + half), abs=1e-6)
    # n = 2: sd = |a - b| / root of 2, but no interval: t(0.975, 1 df) = 12.7
    two = mean_interval([0, 2])
    assert (two.mean, two.n, two.sd) == (1, 2, exact(math.sqrt(2), abs=1e-15))
    assert math.isnan(two.low) and math.isnan(two.high)


def test_too_few_and_equal_numbers_have_no_interval() -> None:
    one = mean_interval([0.7])
    assert (one.mean, one.n) == (0.7, 1)
    assert all(map(math.isnan, (one.sd, one.low, one.high)))
    none = mean_interval([])
    assert none.n == 0 and math.isnan(none.mean)
    difference = paired_difference([0.7], [0.5])
    assert difference.interval.mean == exact(0.2)
    assert math.isnan(difference.p) and math.isnan(difference.correlation)
    two = paired_difference([2, 5], [1, 2])
    assert (two.interval.mean, two.interval.n, two.wins) == (2, 2, 2)
    assert all(map(math.isnan, (two.p, two.correlation, two.interval.low)))


def test_students_sleep() -> None:
    got = paired_difference(DRUG_1, DRUG_2)
    # as R prints them
    assert got.p == exact(0.002832890, abs=1e-9)
    assert (got.interval.low, got.interval.high) == exact((-2.459886, -0.700114), abs=1e-6)
    assert got.interval.mean == exact(-1.58)
    assert got.interval.mean / (got.interval.sd / math.sqrt(10)) == exact(-4.062128, abs=1e-6)
    assert got.correlation == exact(0.7952, abs=1e-4)
    # differences 1, 2, 3: mean 2, standard error 1 / sqrt(3), t = sqrt(12) with two df:
    # p = 1 - t / sqrt(2 + t^2)
    got = paired_difference([2, 4, 5], [1, 2, 2])
    assert got.interval.mean == 2
    assert got.p == exact(1 - math.sqrt(12 / 14), rel=1e-9)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(3, 20), st.sampled_from([0, 0.2, 5]))
def test_the_paired_t_test_is_scipys_and_its_laws(seed: int, n: int, effect: float) -> None:
    """To the rounding of t: the relative error of p is at most n times that of t."""
    a, b, both = np.random.default_rng(seed).normal(size=(3, n))
    a += effect
    got, want = paired_difference(a, b), stats.ttest_rel(a, b)
    assert got.p == exact(want.pvalue, rel=1e-12 * n)
    for level in (0.8, 0.95, 0.99):
        interval, ends = paired_difference(a, b, level).interval, want.confidence_interval(level)
        assert (interval.low, interval.high) == exact((ends.low, ends.high), rel=1e-12, abs=1e-15)
    swapped = paired_difference(b, a)
    assert swapped.p == exact(got.p)
    ends = -got.interval.high, -got.interval.low
    assert (swapped.interval.low, swapped.interval.high) == exact(ends)
    # a shared effect of any size changes nothing
    shifted = paired_difference(a + 10 * both, b + 10 * both)
    assert shifted.p == exact(got.p, rel=1e-6)
    # nor does the order of the repeats
    assert paired_difference(a[::-1], b[::-1]).p == exact(got.p, rel=1e-9)


def test_ties() -> None:
    same = paired_difference([0.5, 0.6, 0.7], [0.5, 0.6, 0.7])
    assert (same.interval.mean, same.p) == (0, 1)
    assert math.isnan(same.interval.low)
    assert same.correlation == exact(1)
    flat = paired_difference([0.5] * 3, [0.5] * 3)
    assert flat.p == 1 and math.isnan(flat.correlation)
    assert paired_difference([1.5, 2.5, 3.5], [1, 2, 3]).p == 0.25  # sign-flip: 2 / 2^3
    for images in (153, 500):  # equal differences of accuracies, whatever the rounding
        b = [400 / 500, 380 / 500, 371 / 500]
        a = [value + 10 / images for value in b]
        assert paired_difference(a, b).p == 2.0 ** (1 - 3)
    # accuracies of 500 images; the second pair is equal but for rounding
    got = paired_difference([0.9, 0.1 + 0.2, 0.5, 0.7], [0.8, 0.3, 0.6, 0.6])
    assert (got.wins, got.ties, got.losses) == (2, 1, 1)
    assert got.p_greater == (2 + 0.5) / 4
    assert math.isnan(paired_difference([], []).p_greater)


@pytest.mark.filterwarnings("ignore:Precision loss")  # of scipy, for samples that are constant
@settings(deadline=None)
@given(samples, samples, st.sampled_from([0.8, 0.95, 0.99]))
def test_unpaired_difference_is_scipys_welch_test(a: list, b: list, level: float) -> None:
    got = unpaired_difference(a, b)
    if max(np.std(a), np.std(b)) < 1e-6 * max(map(abs, (*a, *b, 1))):  # scipy warns of rounding
        return
    want = stats.ttest_ind(a, b, equal_var=False)
    interval = want.confidence_interval(level)
    numbers = (want.pvalue, want.df, interval.low, interval.high)
    assert (got.p, got.df, *got.interval(level)) == exact(numbers, rel=1e-6, abs=1e-9)
    assert got.mean == exact(np.mean(a) - np.mean(b), abs=1e-12)


def test_unpaired_differences_of_sleep_in_another_unit_of_constants_and_of_too_few() -> None:
    """Also where the square of their variance is less than the least number."""
    one = unpaired_difference([0.0, 0.0, 0.0], [0.0, 1.0, 1.0])
    tiny = unpaired_difference([0.0, 0.0, 0.0], [0.0, 1e-122, 1e-122])
    assert (tiny.p, tiny.df) == exact((one.p, one.df), rel=1e-12)
    assert tiny.interval()[1] == exact(1e-122 * one.interval()[1], rel=1e-12, abs=0)
    # R: t.test(extra ~ group): t = -1.8608, df = 17.776, p = 0.07939, -3.3654832 to 0.2054832
    got = unpaired_difference(DRUG_1, DRUG_2)
    assert (got.df, got.p) == (exact(17.776, abs=5e-4), exact(0.07939, abs=5e-6))
    assert got.interval() == exact((-3.3654832, 0.2054832), abs=5e-8)
    assert unpaired_difference([2, 2, 2], [1, 1, 1]).p == 2 / 20  # of C(6, 3), both extremes
    assert unpaired_difference([2] * 4, [1] * 3).p == 1 / 35  # of C(7, 3), the other is -3/4
    assert unpaired_difference([1] * 4, [1] * 3).p == 1
    one = unpaired_difference([2, 2], [1, 2, 3])
    assert one.mean == 0 and math.isnan(one.p) and math.isnan(one.interval()[0])


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
def test_wilson_is_scipys(level: float) -> None:
    for n in (1, 2, 7, 153, 500, 10_000):
        for successes in {0, 1, n // 3, n - 1, n}:
            want = stats.binomtest(successes, n).proportion_ci(level, "wilson")
            assert wilson_interval(successes, n, level) == (want.low, want.high)


def test_the_test_against_chance_by_hand() -> None:
    # 3 or 4 of 4 with a fair coin: (4 + 1) / 16
    assert binomial_p(3, 4, 0.5) == pytest.approx(5 / 16, rel=1e-12)
    # 2 of 2 where one in three is right
    assert binomial_p(2, 2, 1 / 3) == pytest.approx(1 / 9, rel=1e-12)
    assert binomial_p(0, 4, 0.5) == 1.0
    assert binomial_p(4, 4, 1.0) == 1.0  # one class only: nothing can be better than chance
    assert chance_level(80, 100, 10) == 0.8  # of the largest class
    assert chance_level(1, 20, 10) == 0.1  # few examples: no class of a split can be rarer


@pytest.mark.parametrize(
    "counts", [(0, 3, 3, 3), (3, 3, 0, 3), (57, 100, 92, 100), (480, 500, 9_900, 10_000)]
)
def test_a_smaller_share_by_fishers_exact_test(counts: tuple[int, int, int, int]) -> None:
    a, n, b, m = counts
    want = stats.fisher_exact([[a, n - a], [b, m - b]], alternative="less").pvalue
    assert fewer_p(*counts) == pytest.approx(want, rel=1e-8)


TABLE = np.array([[1.0, 0.0, 2.0, 1.0], [0.0, 0.0, 1.0, 3.0], [2.0, 1.0, 3.0, 4.0]])
"""3 repeats of 4 images."""


def test_a_table_worked_by_hand() -> None:
    """Mean squares 9.5/2 = 3, 4.75 ... of `TABLE`, computed with fractions."""
    # means: rows 1, 1, 5/2; columns 1, 1/3, 2, 8/3; all 3/2
    ms_repeat = 4 * (0.25 + 0.25 + 1) / 2
    ms_image = 3 * (1 / 4 + 49 / 36 + 1 / 4 + 49 / 36) / 3
    total = sum((x - 1.5) ** 2 for x in TABLE.ravel())
    ms_rest = (total - 2 * ms_repeat - 3 * ms_image) / 6
    variance = (ms_repeat + ms_image - ms_rest) / 12
    of_squares = (ms_repeat / 12) ** 2 / 2 + (ms_image / 12) ** 2 / 3 + (ms_rest / 12) ** 2 / 6
    df = variance**2 / of_squares
    estimate = crossed(TABLE)
    assert estimate.mean == pytest.approx(1.5)
    assert estimate.error == pytest.approx(math.sqrt(variance))
    assert estimate.df == pytest.approx(max(df, 2))
    low, high = estimate.interval(0.9)
    half = stats.t.ppf(0.95, estimate.df) * estimate.error
    assert (low, high) == (pytest.approx(1.5 - half), pytest.approx(1.5 + half))
    p = 2 * stats.t.sf(1.5 / estimate.error, estimate.df)
    p_here = 2 * stats.t.sf(1.5 / math.sqrt(ms_repeat / 12), 2)
    assert estimate.p == pytest.approx(max(p, p_here))
    parts = components(TABLE)
    assert parts.repeat == pytest.approx((ms_repeat - ms_rest) / 4)
    assert parts.image == pytest.approx((ms_image - ms_rest) / 3)
    assert parts.rest == pytest.approx(ms_rest)
    assert parts.error(3, 4) == pytest.approx(estimate.error)
    assert sum(parts.shares(3, 4)) == pytest.approx(1)


def test_groups_take_the_place_of_images() -> None:
    """The variance is that of a mean over clusters, here by the sandwich formula over residuals."""
    groups = ["p7", "p1", "p7", "p2"]  # p1, p2, p7: 1, 1 and 2 images
    assert by_group([1, 0, 2, 1], groups) == exact([0.25, 1.0, 1.75])  # 1 + (S - n) 3/4
    by_hand = by_group(TABLE, groups)
    assert by_hand.mean(1) == exact(TABLE.mean(1))
    residuals = TABLE.mean(0) - TABLE.mean()
    sums = np.array([residuals[1], residuals[3], residuals[0] + residuals[2]])
    of_clusters = (sums**2).sum() / 4**2 * 3 / 2  # sandwich, times G / (G - 1)
    assert mean_squares(by_hand)[1] / by_hand.size == exact(of_clusters)
    a, b = np.random.default_rng(0).normal(size=(2, 5, 4))
    assert by_group(a, groups) - by_group(b, groups) == exact(by_group(a - b, groups))
    assert (by_group(TABLE, [0, 1, 2, 3]) == TABLE).all()


def test_intervals_by_group_cover_where_those_by_image_do_not() -> None:
    """1,000 draws of 20 groups of 1 to 19 images, in 16 repeats; experiments/coverage.py."""
    rng, draws, covered = np.random.default_rng(1), 1000, np.zeros(2)
    for _ in range(draws):
        groups = np.repeat(np.arange(20), rng.integers(1, 20, 20))
        table = rng.normal(0, 0.5, 20)[groups] + rng.normal(0, 1, len(groups))
        table = table + rng.normal(0, 0.1, (16, 1)) + rng.normal(0, 1, (16, len(groups)))
        for i, values in enumerate((table, by_group(table, groups))):
            low, high = crossed(values).interval()
            covered[i] += low <= 0 <= high
    assert covered[0] < 0.85 * draws and 0.93 * draws <= covered[1] <= 0.97 * draws


def test_two_repeats_and_equal_ones_give_no_interval() -> None:
    for repeats in (1, 2):
        table = np.random.default_rng(0).normal(size=(repeats, 9))
        for estimate in (crossed(table), over_repeats(table.mean(1))):
            assert estimate.mean == pytest.approx(table.mean())
            assert all(map(math.isnan, (estimate.error, estimate.p, *estimate.interval())))
    for table in (np.zeros((6, 5)), np.full((6, 5), 0.1)):  # nothing is known about new repeats
        assert math.isnan(crossed(table).error) and math.isnan(over_repeats(table.mean(1)).error)
    # three equal differences of 6 in 153 images: the test is that of the images; repeats alone have
    # a sign-flip test, with a larger p
    row = np.where(np.arange(153) < 6, 1.0, 0.0)
    estimate, of_images = crossed(np.tile(row, (3, 1))), stats.ttest_1samp(row, 0)
    assert (estimate.error, estimate.p) == exact((stats.sem(row), of_images.pvalue))
    assert math.isnan(over_repeats(np.tile(row, (3, 1)).mean(1)).error)
    assert estimate.p < 0.02 and paired_difference([6 / 153] * 3, [0] * 3).p == 0.25


def test_new_images_never_narrow_an_interval_and_far_tails_hold_their_level() -> None:
    """Repeats that dominate: the interval is Student's over repeats, and p is its p value."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        table = rng.normal(0, 1, (4, 1)) + rng.normal(0, 1, (4, 30))
        reference = stats.ttest_1samp(table.mean(1), 0)
        estimate = crossed(table)
        for level in (0.95, 0.998):
            alone = reference.confidence_interval(level)
            low, high = estimate.interval(level)
            assert low <= alone.low + 1e-12 and high >= alone.high - 1e-12
        assert estimate.p >= reference.pvalue * (1 - 1e-9)
    # 4 repeats vary 10 times as much as the images: errors at 1 % stay below 1.4 %, not 2 %
    rng, draws = np.random.default_rng(4), 4000
    repeat, image = rng.normal(0, math.sqrt(10), (draws, 4, 1)), rng.normal(0, 5, (draws, 1, 25))
    found = sum(crossed(own).p < 0.01 for own in repeat + image)
    assert found / draws < 0.014


@pytest.mark.parametrize(("repeats", "images"), [(4, 153), (8, 500), (16, 153)])
def test_intervals_cover_the_mean_of_the_population(repeats: int, images: int) -> None:
    """1,500 draws of normal effects: at least 94 %, where repeats alone cover at most 90 %."""
    rng, true, draws = np.random.default_rng(repeats), Components(0.02, 3.0, 1.0), 1500
    covered = alone = 0
    for _ in range(draws):
        table = rng.normal(0, math.sqrt(true.repeat), (repeats, 1))
        table = table + rng.normal(0, math.sqrt(true.image), images)
        table = table + rng.normal(0, math.sqrt(true.rest), (repeats, images))
        low, high = crossed(table).interval()
        covered += low <= 0 <= high
        low, high = over_repeats(table.mean(1)).interval()
        alone += low <= 0 <= high
    assert 0.935 <= covered / draws <= 0.985
    assert alone / draws <= 0.9


def test_degrees_of_freedom_of_a_design() -> None:
    """Those of the table whose components these are; without images those of the t test."""
    parts, estimate = components(TABLE), crossed(TABLE)
    assert parts.df(3, 4) == pytest.approx(estimate.df)
    alone = Components(4.0, math.nan, math.nan)
    assert (alone.df(9, math.nan), alone.error(9, math.nan)) == (8, pytest.approx(2 / 3))
    images = Components(1.0, 2.0, 3.0)
    assert images.df(math.inf, 50) == pytest.approx(49)
    assert images.error(math.inf, 50) == pytest.approx(0.2)
    assert Components(1.0, 0.0, 0.0).df(6, 1000) == pytest.approx(5)


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
        hits = [np.einsum("df,dnf->dn", w, x[:, val]) * y[:, val] > 0 for w in (one, other)]
        own[:, repeat] = hits[0].mean(1) - hits[1].mean(1)
        true[:, repeat] = accuracy(one) - accuracy(other)
    truth = true.mean()
    quantile = stats.t.ppf(0.975, REPEATS - 1)
    corrected = [corrected_resampled(d, 1 / (FOLDS - 1)) for d in own]
    covers = np.mean([abs(e.mean - truth) <= quantile * e.error for e in corrected])
    naive_error = own.std(1, ddof=1) / math.sqrt(REPEATS)
    naive = np.mean(abs(own.mean(1) - truth) <= quantile * naive_error)
    assert covers >= 0.94
    assert naive < 0.9


def test_corrected_resampled_by_hand() -> None:
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
    for values, without in (  # replication or variance
        ([1, 2, 3], [0, 1, 2]),
        ([1, 2, 3], [0, 0, 0]),
        ([0.1] * 4, [0, 1, 0, 1]),
    ):
        assert teacher_share(values, without) is None


PLAIN = np.array([[0.6] * 4, [0.7] * 4, [0.75] * 4])[:, :, None] + [[0.01], [0], [0], [-0.01]]
"""Of 100, 300 and 1,000 labels in 4 repeats."""


@pytest.mark.parametrize(
    ("gains", "size", "low", "high"),  # over the curve at 100 labels
    [
        # half way from 100 to 300 in 1 / sqrt(n): (0.5 / 10 + 0.5 / 17.3205)^-2; the curve is 0.1
        # higher at 300 in every repeat, so the ends are where the mean gain is,
        # 0.05 -+ 3.18245 * 0.0163299 / 2, at 0.24016 and 0.75984 of the way
        ((0.03, 0.05, 0.05, 0.07), 160.770, 123.871, 216.990),
        # 0.8 of the way from 300 to 1,000; 0.16 is more than 0.15, the end of the curve
        ((0.12, 0.14, 0.14, 0.16), 736.610, 393.438, math.inf),
        ((0.19, 0.20, 0.21, 0.20), math.inf, 1000, math.inf),  # above all, clearly
        ((-0.02, 0.0, 0.0, 0.02), 100, 0, 126.193),  # 0 + 0.025984: 0.25984 of the way
        ((-0.09, -0.1, -0.11, -0.1), 0, 0, 100),
    ],
)
def test_sizes_by_hand(gains: tuple[float, ...], size: float, low: float, high: float) -> None:
    values = PLAIN[0] + np.array(gains)[:, None]
    assert equivalent_size((100, 300, 1000), PLAIN, values) == exact((size, low, high), rel=1e-4)


def test_a_curve_that_falls_is_inverted_where_it_is_flat() -> None:
    """0.70 and 0.66 are pooled to 0.68, from 300 to 1,000 labels; 0.64 is a third of the way."""
    curve = np.array([0.62, 0.7, 0.66, 0.8])[:, None, None] + np.zeros((1, 4, 1))
    sizes, value = (100, 300, 1000, 3000), np.full((4, 1), 0.64)
    assert equivalent_size(sizes, curve, value).size == exact(135.486374)
    below, above = (equivalent_size(sizes, curve, value + x).size for x in (0.0399, 0.0401))
    assert (below, above) == exact((300, 1000), rel=0.01)


@pytest.mark.parametrize("repeats", [4, 8])
def test_intervals_of_equivalent_sizes_cover_the_truth(repeats: int) -> None:
    """New repeats and new images, with effects of both that differ from size to size."""
    rng, sizes, true, inside = np.random.default_rng(1), (100, 300, 1000), (0.6, 0.7, 0.76), 0
    for _ in range(draws := 300):
        shape = (4, repeats, 60)
        of_repeat, of_image = rng.normal(0, 0.02, (4, repeats, 1)), rng.normal(0, 0.2, (4, 1, 60))
        shared = rng.normal(0, 0.3, (1, 1, 60))
        noise = rng.normal(0, 0.2, shape)
        table = np.array([*true, 0.66])[:, None, None] + of_repeat + of_image + shared + noise
        found = equivalent_size(sizes, table[:3], table[3])
        inside += found.low <= 179.492 <= found.high
    assert 0.93 < inside / draws < 0.995


@pytest.mark.parametrize(("k", "n"), [(0, 40), (3, 40), (11, 500), (40, 40)])
def test_the_interval_of_a_share_is_wilsons_for_independent_examples(k: int, n: int) -> None:
    p = k / n
    error = math.sqrt(p * (1 - p) / n) or math.nan
    want = stats.binomtest(k, n).proportion_ci(method="wilson")
    assert share_interval(Estimate(p, error, 1e9), n) == exact((want.low, want.high), abs=1e-8)


def test_intervals_of_rare_flips_cover_where_t_intervals_are_too_short() -> None:
    """Two flips are expected among the 500 images of one run, and of four repeats."""
    rng = np.random.default_rng(0)
    for repeats, below in ((1, 0.9), (4, 1.0)):
        covered = []
        for _ in range(1_000):
            table = (rng.random((repeats, 500)) < rng.beta(0.02, 4.98, 500)).astype(float)
            estimate = crossed(table) if repeats > 1 else over_repeats(table[0])
            ends = (share_interval(estimate, 500), estimate.interval())
            covered.append([low <= 0.004 <= high for low, high in ends])
        wilson, t = np.mean(covered, 0)
        assert wilson > 0.93 and t < min(below, wilson)
