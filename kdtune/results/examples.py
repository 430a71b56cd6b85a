"""Predictions of the best student and its baseline by class and by image."""

from __future__ import annotations

import io
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from kdtune.config.files import TEACHER, TEACHER_RECORD, THUMBNAILS, atomic_write, oriented
from kdtune.config.run import DISTILLATION, Orientation
from kdtune.config.task import ECE_BINS
from kdtune.config.text import UserError
from kdtune.results import comparison
from kdtune.results.comparison import Criterion
from kdtune.results.design import ONE_TEACHER, Design, Pair
from kdtune.results.frames import GROUP, read_predictions
from kdtune.results.results import Results
from kdtune.results.words import ComparisonContext, holds_for
from kdtune.statistics.intervals import by_group, wilson_interval
from kdtune.storage.records import parse_object, read_provenance

# Predictions of the best distilled configuration and of its baseline, side by side.
#
# Both arms are students of the same repeats on the same images, so that everything about single
# images and classes can be compared in pairs. Arrays have the shape [2, R, N]: arm (distilled,
# baseline), repeat, image.


ARMS = ("distilled", "baseline")
_SPLITS = ("val", "test")
_COLUMNS = ("split", "example", "file", "label", "predicted", "p_predicted", "p_label", GROUP)
"""Columns of the predictions that are read."""
Numbers = np.ndarray[Any, Any]


@dataclass(frozen=True)
class BothArms:
    """Predictions of both arms on one split, at the last epoch."""

    split: str
    configs: tuple[str, str]
    """config_id of the distilled configuration and of its baseline."""
    repeats: tuple[int, ...]
    """The R repeats that both arms have completed."""
    classes: tuple[str, ...]
    """Names of the K classes."""
    label: Numbers
    """Class of each image, int [N]."""
    files: tuple[str | None, ...]
    """File of each image, relative to the folder of the data; None where images are no files."""
    predicted: Numbers
    """Predicted classes, int [2, R, N]."""
    p_predicted: Numbers
    """Probability of the predicted class, float [2, R, N]."""
    p_label: Numbers
    """Probability of the label, float [2, R, N]."""
    design: Design = ONE_TEACHER
    """What the repeats vary."""
    groups: Numbers | None = None
    """Name of each image's group, [N]; None without groups."""

    @property
    def correct(self) -> Numbers:
        """Whether each prediction is right, bool [2, R, N]."""
        right: Numbers = self.predicted == self.label
        return right


def read_arms(results: Results, criterion: Criterion) -> dict[str, BothArms]:
    """Return the predictions of the best distilled configuration and of its baseline, by split.

    Of several students, those of the student with the best configuration. Splits are val and
    perhaps test; there are none without a comparison. A split is left out if predictions are
    missing (studies of version 0.1 have no classes), or if its images differ between the repeats.
    """
    table, best = results.compare(criterion), results.best(criterion)
    baseline = None if best is None else comparison.baseline_of(table, best)
    if baseline is None:
        return {}
    rows = table[(table.baseline == baseline) & table["diff"].notna()]
    rows = rows[comparison.have_enough_repeats(rows.n)] if len(rows) else rows
    if not len(rows):
        return {}
    finished = comparison.completed(results.trials_for(criterion))
    trials = finished.pivot(index="repeat", columns="config_id", values="trial_id")
    trials = trials[[str(rows.config_id.iloc[0]), baseline]].dropna()
    frame = read_predictions(results.folder, list(trials.to_numpy().ravel()), _COLUMNS)
    needed = {"label", "predicted", "p_predicted", "p_label", *[GROUP] * results.design.has_groups}
    if not needed <= set(frame):
        return {}
    classes = classes_of(results.folder, int(frame[["label", "predicted"]].max().max()) + 1)
    splits = [split for split in _SPLITS if split in set(frame.split)]
    arms = {k: _arms(k, frame[frame.split == k], trials, classes, results.design) for k in splits}
    return {split: both for split, both in arms.items() if both is not None}


def classes_of(folder: Path, count: int) -> tuple[str, ...]:
    """Return the names of the classes of the study in a folder, or their numbers."""
    names = read_provenance(folder).get("classes")
    if not names:
        with suppress(OSError, ValueError):
            names = parse_object((folder / TEACHER / TEACHER_RECORD).read_bytes()).get("classes")
    if isinstance(names, list) and len(names) >= count:
        return tuple(str(name) for name in names)
    return tuple(str(number) for number in range(count))


def _arms(
    split: str, frame: pd.DataFrame, trials: pd.DataFrame, classes: Sequence[str], design: Design
) -> BothArms | None:
    """Return the predictions on one split; None if they are incomplete or of other images.

    Args:
        split: val or test.
        frame: rows of `read_predictions` on this split.
        trials: trial_id by repeat (rows) and configuration (columns: distilled, baseline).
        classes: names.
        design: what the repeats vary.
    """
    if frame.empty:
        return None
    order = list(trials.to_numpy().T.ravel())  # all repeats of one arm, then those of the other
    names = frame.columns.drop(["trial_id", "split", "example"])
    wide = frame.pivot(index="trial_id", columns="example", values=names).reindex(order)
    labels = wide["label"]
    if not labels.size or labels.isna().any(axis=None) or (labels != labels.iloc[0]).any(axis=None):
        return None
    files = wide["file"].iloc[0] if "file" in frame else [None] * labels.shape[1]

    def stacked(name: str, kind: type) -> Numbers:
        numbers: Numbers = wide[name].to_numpy(dtype=kind)
        return numbers.reshape(2, len(trials), labels.shape[1])

    return BothArms(
        split=split,
        configs=(trials.columns[0], trials.columns[1]),
        repeats=tuple(int(r) for r in trials.index),
        classes=tuple(classes),
        label=stacked("label", int)[0, 0],
        files=tuple(None if pd.isna(name) else str(name) for name in files),
        predicted=stacked("predicted", int),
        p_predicted=stacked("p_predicted", float),
        p_label=stacked("p_label", float),
        design=design,
        groups=wide[GROUP].iloc[0].to_numpy(str) if design.has_groups else None,
    )


# Accuracy by class, confusion and calibration of the two arms of a comparison.


def class_accuracies(arms: BothArms) -> pd.DataFrame:
    """Return the accuracy of both arms on the images of each class, and their difference.

    Returns:
        One row per class that has images: class, images, distilled and baseline (accuracy, mean
        over repeats), diff (distilled - baseline), low, high (ends of the simultaneous 95 %
        interval for new repeats and new images of the class, Bonferroni over the classes; with
        folds for new train/val splits on these images), p and p_holm (Holm over the classes). With
        fewer than three repeats, or teachers where these are the sample, there is no interval and
        no p value (NaN); see `pairs.Pair.statistics`.
    """
    correct, rows, pairs = arms.correct.astype(float), [], []
    for number in np.unique(arms.label):
        is_of_class = arms.label == number
        of_class = correct[:, :, is_of_class]
        by_repeat = of_class.mean(2)
        images = of_class[0] - of_class[1] if arms.design.folds is None else None
        if images is not None and arms.groups is not None:
            images = by_group(images, arms.groups[is_of_class])
        pairs.append(Pair(by_repeat[0], by_repeat[1], images, arms.repeats, arms.design))
        row = {"class": arms.classes[number], "images": of_class.shape[2]}
        rows.append(row | dict(zip(ARMS, by_repeat.mean(1), strict=True)))
    table = pd.DataFrame(rows).join(comparison.compare_family(pairs, comparison.DEFAULT))
    return table[["class", "images", *ARMS, "diff", "low", "high", "p", "p_holm"]]


def confusion(arms: BothArms) -> Numbers:
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


def largest_confusions(arms: BothArms, most: int = 20) -> pd.DataFrame:
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


def calibration(arms: BothArms) -> pd.DataFrame:
    """Return the reliability diagram of both arms: `ECE_BINS` bins of equal width.

    The confidence is the probability of the predicted class; bins are open on the left and closed
    on the right, and pool all repeats (Guo et al., 2017).

    Returns:
        One row per arm and bin with predictions: arm, bin (from 0), n, confidence and accuracy
        (means).
    """
    correct, bins = arms.correct, _bins(arms.p_predicted)
    rows = []
    for i, arm in enumerate(ARMS):
        for number in np.unique(bins[i]):
            inside = bins[i] == number
            row = {"arm": arm, "bin": int(number), "n": int(inside.sum())}
            row["confidence"] = float(arms.p_predicted[i][inside].mean())
            row["accuracy"] = float(correct[i][inside].mean())
            rows.append(row)
    return pd.DataFrame(rows)


def calibration_errors(arms: BothArms) -> Numbers:
    """Return the expected calibration error of each student, [2, R]; see `config.task`.

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


# Images on which students with and without distillation differ most, and their thumbnails.
#
# A study ends with thumbnails in its folder, so that its report shows them wherever the folder is
# read. Without them, thumbnails are made from the files of the data, if these are still there.


MOST_SHOWN = 12
"""Images of each kind: more often correct with distillation, or without."""
THUMBNAIL_SIDE = 72
"""Longest side of a thumbnail in pixels."""


def most_different(arms: BothArms, most: int = MOST_SHOWN) -> pd.DataFrame:
    """Return the images that one arm classifies correctly more often than the other.

    Returns:
        At most `most` rows of each sign of diff, the largest differences first. Ties are ordered
        by the difference in the mean probability of the label, then by the index. Columns: image
        (index in the split), file, label (name), distilled and baseline (students that are
        correct, of n), n, diff (distilled - baseline), wrong_distilled and wrong_baseline (the
        most frequent wrong class, with its count, e.g. "Coat (3)"; "" without).
    """
    right = arms.correct.sum(1)  # [2, N]
    diff = right[0] - right[1]
    surer = arms.p_label.mean(1)[0] - arms.p_label.mean(1)[1]
    rows = []
    for sign in (1, -1):
        order = np.lexsort((-sign * surer, -sign * diff))[:most]
        rows += [_row(arms, int(i), right) for i in order if sign * diff[i] > 0]
    return pd.DataFrame(rows)


def _row(arms: BothArms, image: int, right: Numbers) -> dict[str, object]:
    """Return the row of one image in `most_different`; `right` [2, N] counts correct students."""
    label = int(arms.label[image])
    row: dict[str, object] = {
        "image": image,
        "file": arms.files[image],
        "label": arms.classes[label],
        "distilled": int(right[0, image]),
        "baseline": int(right[1, image]),
        "n": len(arms.repeats),
        "diff": int(right[0, image] - right[1, image]),
    }
    for arm, predicted in zip(ARMS, arms.predicted[:, :, image], strict=True):
        counts = np.bincount(predicted[predicted != label], minlength=1)
        worst = int(counts.argmax())
        row[f"wrong_{arm}"] = f"{arms.classes[worst]} ({counts[worst]})" if counts[worst] else ""
    return row


def thumbnail(image: Image.Image) -> bytes:
    """Return an image as PNG, no side longer than `THUMBNAIL_SIDE`; the same bytes each time."""
    small = image.convert("L" if image.mode in ("1", "L") else "RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    # JPEG blurs small drawings, but is a third of a PNG, which ignores the quality
    kind = "jpeg" if max(image.size) > THUMBNAIL_SIDE else "png"
    small.save(buffer, format=kind, quality=82)
    return buffer.getvalue()


def write_thumbnails(
    folder: Path, arms: Mapping[str, BothArms], picture: Callable[[str, int], Image.Image]
) -> None:
    """Write thumbnails of the images that the report of a study shows into the study's folder.

    Args:
        folder: of the study.
        arms: see `read_arms`.
        picture: picture(split, index) returns an image of the data; what raises OSError,
            ValueError or UserError gets no thumbnail.
    """
    target = folder / THUMBNAILS
    shutil.rmtree(target, ignore_errors=True)  # those of an earlier best configuration
    for split, image in _shown(arms):
        with suppress(OSError, ValueError, UserError):
            content = thumbnail(picture(split, image))
            target.mkdir(exist_ok=True)
            with atomic_write(target / f"{_stem(split, image)}.{image_type(content)}") as part:
                part.write_bytes(content)


def has_thumbnails(folder: Path, arms: Mapping[str, BothArms]) -> bool:
    """Return whether the folder of a study has all thumbnails that its report shows."""
    have = {file.stem for file in (folder / THUMBNAILS).glob("*")}
    return {_stem(split, image) for split, image in _shown(arms)} <= have


def image_type(content: bytes) -> str:
    """Return the type of a thumbnail: png or jpeg."""
    return "png" if content.startswith(b"\x89PNG") else "jpeg"


def read_thumbnail(
    folder: Path, root: Path | None, arms: BothArms, image: int, orientation: Orientation | None
) -> bytes:
    """Return the thumbnail of an image as PNG or JPEG; b"" if there is none.

    Args:
        folder: of the study.
        root: folder of the data; None where they are no folder.
        arms: predictions on the split of the image.
        image: its index in the split.
        orientation: whether it is rotated as its EXIF data say (None: it is), or as it is stored.
    """
    for kind in ("png", "jpeg"):
        with suppress(OSError):
            return (folder / THUMBNAILS / f"{_stem(arms.split, image)}.{kind}").read_bytes()
    if root is not None and (file := arms.files[image]) is not None:
        with suppress(Exception), Image.open(root / file) as picture:
            return thumbnail(oriented(picture, orientation))
    return b""


def _shown(arms: Mapping[str, BothArms]) -> Iterator[tuple[str, int]]:
    """Yield split and index of each image that is shown: of val."""
    table = most_different(arms["val"]) if "val" in arms else pd.DataFrame()
    for image in table["image"] if len(table) else ():
        yield "val", int(image)


def _stem(split: str, image: int) -> str:
    return f"{split}-{image:06d}"


# Metrics of the best configuration and of its students, as students.json records them.


def configuration_record(results: Results) -> dict[str, Any]:
    """Return what the study says of its best configuration.

    Returns:
        config_id; label; hyperparameters that tell the configurations apart; accuracy, by split
        (val and, if the data have one, test): mean over repeats, low and high of its interval, n
        (repeats), interval (its kind), holds_for (what the interval generalises to) and on val
        `bias`; difference, the same for the mean paired difference from the baseline, and on val p
        (empty if the configuration is the baseline or there is none); baseline in words; verdict.
        Shares, not percent; None where there is no such number. {} before a run has completed.
    """
    best, table = results.best(), results.selection()
    if best is None or not len(table):
        return {}
    rows, compared = table.set_index("row"), results.compare()
    trial = results.trials[results.trials.config_id == best].iloc[0]
    context = results.context(student=results.student(best))
    splits = [split for split in _SPLITS if rows.loc["best", f"{split}/n"] > 0]
    accuracy = {split: _numbers(context, rows.loc["best"], split) for split in splits}
    if "val" in accuracy:
        accuracy["val"]["bias"] = context.sentence("bias")
    difference = {}
    if len(compared) and best in set(compared.config_id) and "difference" in rows.index:
        row = compared.set_index("config_id").loc[best]  # val has the interval of the conclusion
        columns = {"mean": "diff", "low": "low", "high": "high", "p": "p_holm"}
        on_val = {name: _plain(row[column]) for name, column in columns.items()}
        on_val |= {"n": int(row.n), "interval": context.interval, "holds_for": context.holds_for}
        others = {s: _numbers(context, rows.loc["difference"], s) for s in splits if s != "val"}
        difference = {"val": on_val} | others
    return {
        "config_id": best,
        "label": results.label(best),
        "hyperparameters": {name: _plain(trial[f"config/{name}"]) for name in results.by},
        "accuracy": accuracy,
        "difference": difference,
        "baseline": context.baseline,
        "verdict": results.verdict(),
    }


def trial_metrics(trial: pd.Series) -> dict[str, dict[str, float]]:
    """Return the metrics of one trial at its last epoch, by split and name.

    Args:
        trial: A row of `Frames.trials`.
    """
    metrics, left_out = {}, {*DISTILLATION.metrics} - {*DISTILLATION.comparable}
    for split in _SPLITS:
        columns = [c for c in trial.index if c.startswith(f"{split}/") and c.endswith("@last")]
        names = {c.removeprefix(f"{split}/").removesuffix("@last"): c for c in columns}
        values = {name: trial[c] for name, c in names.items() if name not in left_out}
        if recorded := {name: float(v) for name, v in values.items() if not pd.isna(v)}:
            metrics[split] = recorded
    return metrics


def _numbers(context: ComparisonContext, row: pd.Series, split: str) -> dict[str, Any]:
    """Return the numbers of a row of `Results.selection` on a split."""
    about = holds_for(context.design, split, not math.isnan(row[f"{split}/n_images"]))
    numbers = {name: _plain(row[f"{split}/{name}"]) for name in ("mean", "low", "high")}
    numbers |= {"n": int(row[f"{split}/n"]), "interval": context.single_interval}
    return numbers | {"holds_for": about}


def _plain(value: Any) -> Any:
    """Return a value of a dataframe as JSON has it; None for NaN and infinity."""
    if pd.isna(value) or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value


# Accuracy by class of one student of a configuration, and of all its repeats.


def student_classes(
    results: Results, config_id: str, repeat: int, classes: Sequence[str], split: str
) -> pd.DataFrame:
    """Return the accuracy by class of a student, from the recorded predictions.

    Args:
        results: of the study.
        config_id: the student's configuration.
        repeat: of the student.
        classes: names of the K classes.
        split: val or test.

    Returns:
        One row per class that has images: class, images, accuracy (of the student), low, high (its
        95 % Wilson interval over images), mean (over the repeats that have predictions) and repeats
        (their number). Empty if the student's predictions are not there.
    """
    trials = comparison.completed(results.trials)
    trials = trials[trials.config_id == config_id]
    frame = read_predictions(results.folder, list(trials.trial_id), ["split", "label", "correct"])
    if "label" not in frame:  # version 0.1
        return pd.DataFrame()
    frame = frame[frame.split == split].merge(trials[["trial_id", "repeat"]], on="trial_id")
    of_repeat = frame[frame["repeat"] == repeat]
    rows = []
    for label, of_class in of_repeat.groupby("label"):
        right, count = int(of_class.correct.sum()), len(of_class)
        low, high = wilson_interval(right, count)
        means = frame[frame.label == label].groupby("repeat").correct.mean()
        row = {"class": classes[int(label)], "images": count, "accuracy": right / count}
        rows.append(row | {"low": low, "high": high, "mean": means.mean(), "repeats": len(means)})
    return pd.DataFrame(rows)
