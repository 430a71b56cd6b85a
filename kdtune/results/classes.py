"""Accuracy by class, confusion and calibration of the two arms of a comparison."""

import numpy as np
import pandas as pd

from kdtune.config.metrics import ECE_BINS
from kdtune.results.arms import ARMS, Arms, Numbers
from kdtune.results.comparison import SIGNIFICANCE_LEVEL, over_known
from kdtune.results.pairs import Pair


def class_accuracies(arms: Arms) -> pd.DataFrame:
    """Return the accuracy of both arms on the images of each class, and their difference.

    Returns:
        One row per class that has images: class, images, distilled and baseline (accuracy, mean
        over repeats), diff (distilled - baseline), low, high (ends of the simultaneous 95 %
        interval for new repeats and new images of the class, Bonferroni over the classes; with
        folds for new train/val splits on these images), p and p_holm (Holm over the classes). With
        fewer than three repeats, or teachers where these are the sample, there is no interval and
        no p value (NaN); see `pairs.Pair.statistics`.
    """
    correct = arms.correct.astype(float)
    numbers = np.unique(arms.label)
    level = 1 - SIGNIFICANCE_LEVEL / len(numbers)
    rows = []
    for number in numbers:
        own = correct[:, :, arms.label == number]
        by_repeat = own.mean(2)
        images = own[0] - own[1] if arms.design.folds is None else None
        pair = Pair(by_repeat[0], by_repeat[1], images, arms.repeats, arms.design)
        row = {"class": arms.classes[number], "images": own.shape[2]}
        row |= dict(zip(ARMS, by_repeat.mean(1), strict=True))
        rows.append(row | pair.statistics(1, level, most=1.0))
    table = pd.DataFrame(rows)
    table["p_holm"] = over_known(table.p)
    return table[["class", "images", *ARMS, "diff", "low", "high", "p", "p_holm"]]


def confusion(arms: Arms) -> Numbers:
    """Return for each arm the share of the images of a class that is predicted as each class.

    Returns:
        Means over repeats, [2, K, K]: arm, label, prediction. Each row sums to 1, or is NaN for a
        class without images.
    """
    k, counts = len(arms.classes), np.bincount(arms.label, minlength=len(arms.classes))
    cells = arms.label * k + arms.predicted  # [2, R, N]
    tables = np.stack([np.bincount(arm.ravel(), minlength=k * k) for arm in cells])
    with np.errstate(invalid="ignore"):
        shares: Numbers = tables.reshape(2, k, k) / (len(arms.repeats) * counts[:, None])
    return shares


def largest_confusions(arms: Arms, most: int = 20) -> pd.DataFrame:
    """Return the pairs of classes that the distilled students confuse most.

    Returns:
        At most `most` rows, most confused first: label, predicted (names), images (of the label),
        distilled and baseline (share of these images, mean over repeats), diff.
    """
    shares = confusion(arms)
    counts = np.bincount(arms.label, minlength=len(arms.classes))
    wrong = np.nan_to_num(shares * (1 - np.eye(len(arms.classes))))
    # of images, not of shares: a class of three images must not lead the table
    order = np.argsort(-(wrong[0] * counts[:, None]).ravel(), kind="stable")[:most]
    rows = []
    for label, predicted in zip(*np.unravel_index(order, shares.shape[1:]), strict=True):
        of_arms = wrong[:, label, predicted]
        if of_arms[0] == 0:
            continue
        names = {"label": arms.classes[label], "predicted": arms.classes[predicted]}
        row = names | {"images": int(counts[label])} | dict(zip(ARMS, of_arms, strict=True))
        rows.append(row | {"diff": of_arms[0] - of_arms[1]})
    return pd.DataFrame(rows)


def calibration(arms: Arms) -> pd.DataFrame:
    """Return the reliability diagram of both arms: `ECE_BINS` bins of equal width.

    The confidence is the probability of the predicted class; bins are open on the left and closed
    on the right, and pool all repeats (Guo et al., 2017).

    Returns:
        One row per arm and bin with predictions: arm, bin (from 0), n, confidence and accuracy
        (means).
    """
    correct, index = arms.correct, _bins(arms.p_predicted)
    rows = []
    for i, arm in enumerate(ARMS):
        for number in range(ECE_BINS):
            own = index[i] == number
            if own.any():
                means = (float(x[i][own].mean()) for x in (arms.p_predicted, correct))
                row = {"arm": arm, "bin": number, "n": int(own.sum())}
                rows.append(row | dict(zip(("confidence", "accuracy"), means, strict=True)))
    return pd.DataFrame(rows)


def calibration_errors(arms: Arms) -> Numbers:
    """Return the expected calibration error of each student, [2, R]; see `config.metrics`.

    It is the mean over images of |accuracy - confidence| of their bin (Guo et al., 2017, eq. 3).
    """
    difference = arms.correct - arms.p_predicted
    index = _bins(arms.p_predicted)
    sums = [(difference * (index == number)).sum(-1) for number in range(ECE_BINS)]
    errors: Numbers = np.abs(sums).sum(0) / len(arms.label)
    return errors


def _bins(confidence: Numbers) -> Numbers:
    """Return the bin of each confidence; one on an edge belongs to the bin below."""
    index: Numbers = np.clip(np.ceil(confidence * ECE_BINS), 1, ECE_BINS).astype(int) - 1
    return index
