"""Accuracy by class, confusion and calibration: hand-worked numbers and scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import confusion_matrix

from kdtune.results.design import Design
from kdtune.results.examples import (
    Arms,
    calibration,
    calibration_errors,
    class_accuracies,
    confusion,
    largest_confusions,
)
from kdtune.statistics.intervals import crossed

exact = pytest.approx


def arms(label, predicted, p_predicted=None, classes=("ant", "bee", "cat")) -> Arms:
    """Return predictions [2, R, N] without files."""
    predicted = np.asarray(predicted)
    p = np.full(predicted.shape, 0.5) if p_predicted is None else np.asarray(p_predicted)
    label, repeats = np.asarray(label), tuple(range(predicted.shape[1]))
    names = (None,) * len(label)
    return Arms("val", ("d", "b"), repeats, tuple(classes), label, names, predicted, p, p)


def drawn(n: int = 60, repeats: int = 4) -> Arms:
    rng = np.random.default_rng(3)
    return arms(rng.integers(0, 3, n), rng.integers(0, 3, (2, repeats, n)))


def test_the_difference_of_a_class_is_worked_by_hand() -> None:
    # class 0: the baseline is always wrong, so that D is the distilled arm's correctness;
    # class 1: both arms are always right
    distilled = [[0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 1]]
    table = class_accuracies(arms([0, 0, 1, 1], [distilled, [[1, 1, 1, 1]] * 3]))
    assert table["class"].tolist() == ["ant", "bee"] and table.images.tolist() == [2, 2]
    ant, bee = table.iloc[0], table.iloc[1]
    assert (ant.distilled, ant.baseline, ant["diff"]) == exact((4 / 6, 0, 4 / 6))
    # D = [[1, 0], [1, 1], [0, 1]]: MS_R = 1/6, MS_I = 0, MS_E = 1/2, V = MS_R / 6, and df = R - 1
    error, t = (1 / 36) ** 0.5, stats.t(2)
    assert ant.p == exact(2 * t.sf((4 / 6) / error))
    assert ant.low == exact(4 / 6 - t.ppf(1 - 0.05 / 4) * error)  # Bonferroni over two classes
    assert ant.high == 1  # no difference is larger than 100 points
    assert (bee["diff"], bee.p) == (0, 1)
    assert ant.p_holm == exact(2 * ant.p) and bee.p_holm == 1


def test_the_design_decides_the_interval_of_a_class() -> None:
    """With 5 folds V = (1/6 + 1/4) s^2; with 3 teachers of 2 repeats the two-way test over them."""
    made = drawn(repeats=6)
    by_folds = class_accuracies(replace(made, design=Design(folds=5))).iloc[0]
    own = made.correct[:, :, made.label == 0].astype(float)
    d = (own[0] - own[1]).mean(1)
    error = np.sqrt((1 / 6 + 1 / 4) * d.var(ddof=1))
    assert by_folds.p == exact(2 * stats.t.sf(abs(d.mean()) / error, 5))
    half = stats.t.ppf(1 - 0.05 / 6, 5) * error
    assert (by_folds.low, by_folds.high) == exact((d.mean() - half, d.mean() + half))
    means = made.predicted.reshape(2, 2, 3, -1)  # repeat r learns from teacher r mod 3
    right = (means == made.label)[:, :, :, made.label == 0].mean(1)
    by_teacher = class_accuracies(replace(made, design=Design(3))).iloc[0]
    assert by_teacher.p == exact(crossed(right[0] - right[1]).p)
    two = class_accuracies(replace(made, repeats=(0, 3, 1, 4, 6, 7), design=Design(3)))
    assert two.p.isna().all()


def test_two_repeats_have_no_interval() -> None:
    table = class_accuracies(drawn(repeats=2))
    assert len(table) == 3
    assert table[["low", "high", "p", "p_holm"]].isna().all(axis=None)


def test_confusion_is_that_of_scikit_learn() -> None:
    made = drawn()
    for arm, shares in enumerate(confusion(made)):
        predicted, label = made.predicted[arm].ravel(), np.tile(made.label, 4)
        want = confusion_matrix(label, predicted, labels=[0, 1, 2], normalize="true")
        np.testing.assert_allclose(shares, want)
    table = class_accuracies(made)
    np.testing.assert_allclose(np.diagonal(confusion(made)[0]), table.distilled)
    absent = confusion(arms([0, 1], [[[0, 2]], [[1, 1]]]))
    assert np.isnan(absent[:, 2]).all() and absent[0, 1].tolist() == [0, 0, 1]


def test_the_largest_confusions_are_counted_in_images() -> None:
    # two of four ants become bees, one of one bee becomes a cat
    made = arms([0, 0, 0, 0, 1], [[[1, 1, 0, 0, 2]], [[1, 0, 0, 0, 1]]])
    table = largest_confusions(made)
    assert table[["label", "predicted"]].to_numpy().tolist() == [["ant", "bee"], ["bee", "cat"]]
    assert table[["images", "distilled", "baseline", "diff"]].to_numpy().tolist() == [
        [4, 0.5, 0.25, 0.25],
        [1, 1, 0, 1],
    ]


def test_calibration_is_worked_by_hand() -> None:
    # 0.4 = 6 / 15 is on an edge and belongs to the bin below, (5/15, 6/15]
    p = [[[0.4, 0.35, 0.95, 0.98]], [[0.9, 0.9, 0.9, 0.9]]]
    made = arms([0, 0, 0, 0], [[[0, 1, 0, 1]], [[0, 0, 0, 1]]], p)
    distilled = calibration(made).query("arm == 'distilled'")
    assert distilled[["bin", "n"]].to_numpy().tolist() == [[5, 2], [14, 2]]
    assert distilled.confidence.tolist() == exact([0.375, 0.965])
    assert distilled.accuracy.tolist() == [0.5, 0.5]
    errors = calibration_errors(made)
    assert errors[0] == exact(2 / 4 * 0.125 + 2 / 4 * 0.465)
    assert errors[1] == exact(0.15)
