"""Predictions of both arms by class and by image, and what students.json records of them."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from sklearn.metrics import confusion_matrix
from study_folders import at, draw, make, write_predictions

import kdtune
from kdtune.config.files import PREDICTIONS, THUMBNAILS
from kdtune.results import examples
from kdtune.results.comparison import Criterion
from kdtune.results.design import Design
from kdtune.results.examples import BothArms
from kdtune.statistics.intervals import by_group, corrected_resampled, crossed
from kdtune.statistics.selection import bootstrap_corrected

LAST = draw({0.1: 0.05, 0.5: 0.0, 1.0: 0.0}, 3)


@pytest.fixture
def made(tmp_path):
    made, splits = make(tmp_path, LAST), ("val", "test")
    write_predictions(made, classes=["ant", "bee"], images=60, splits=splits, files="a")
    return kdtune.load(tmp_path)


def edit(results, change) -> dict[str, BothArms]:
    """Change the rows of predictions.parquet; return what is read then."""
    frame = pd.read_parquet(results.folder / PREDICTIONS)
    change(frame).to_parquet(results.folder / PREDICTIONS, index=False)
    return examples.read_arms(kdtune.load(results.folder), Criterion())


def test_both_arms_have_the_same_repeats_and_images(made) -> None:
    arms = examples.read_arms(made, Criterion())
    assert list(arms) == ["val", "test"]
    val = arms["val"]
    assert val.configs == (at(0.1).config_id, at(1.0).config_id)
    assert val.repeats == (0, 1, 2) and val.classes == ("ant", "bee")
    assert val.correct.shape == (2, 3, 60) and val.files[7] == "a/7.png"
    for arm, config in enumerate(val.configs):
        accs = made.trials[made.trials.config_id == config].sort_values("repeat")
        want = (60 * accs["val/acc@last"]).round() / 60
        assert val.correct[arm].mean(1).tolist() == pytest.approx(list(want))


def test_groups_are_the_unit_of_intervals_and_words(tmp_path) -> None:
    """The reference is `crossed` of tables by group, made of the file here."""
    splits = ("val", "test")
    made = make(tmp_path, LAST)
    frame = write_predictions(made, classes=["ant", "bee"], images=60, splits=splits, groups=6)
    made = kdtune.load(tmp_path)
    of_trial = {key: rows for key, rows in frame.groupby(["trial_id", "split"])}

    def table(split: str, keep: object = slice(None)) -> np.ndarray:
        rows = [[of_trial[at(a, r).trial_id, split] for r in range(3)] for a in (0.1, 1.0)]
        values = [[by_group(one.correct[keep], one.group[keep]) for one in arm] for arm in rows]
        return np.subtract(*values)

    row, best = made.compare().iloc[0], made.selection().set_index("row").loc["difference"]
    estimate, on_test = crossed(table("val")), crossed(table("test"))
    assert (row.n_images, row.error) == (6, exact(estimate.error))
    assert (row.low, row.high) == exact(estimate.interval(1 - 0.05 / 2))
    assert (best["test/low"], best["test/high"]) == exact(on_test.interval())
    arms = examples.read_arms(made, Criterion())["val"]
    images = of_trial[at(1.0).trial_id, "val"]
    bees = (images.label == 1).to_numpy()
    of_class = crossed(table("val", bees))
    assert examples.class_accuracies(arms).p[1] == exact(of_class.p) and len(arms.groups) == 60
    text = made.text()
    assert "n = 3 repeats × 6 groups)" in text and "3 repeats, 6 val groups and 2 comp" in text
    assert "Paired by repeat and group. CI: t intervals over repeats and 6 val groups," in text
    assert "training images with this teacher and new groups like those of val." in text
    means = frame[frame.split == "val"].merge(made.trials[["trial_id", "config_id"]])
    correct = means.pivot_table(index="config_id", columns="example", values="correct")
    corrected = bootstrap_corrected(by_group(correct, images.group)).corrected
    assert made.selection()["corrected/mean"][0] == exact(corrected)
    assert edit(made, lambda frame: frame.drop(columns="group")) == {}
    without = kdtune.load(tmp_path)  # whose groups are lost: over repeats alone, never by image
    assert without.compare().n_images.isna().all() and "val groups" not in without.text()
    assert without.selection()["corrected/mean"].isna().all()


def test_without_groups_the_limit_is_said(made) -> None:
    assert "like those of val; images are counted as independent." in made.text()


def test_incomplete_predictions_are_left_out(made) -> None:
    own = examples.read_arms(made, Criterion())["test"].configs[1]
    trial = made.trials[made.trials.config_id == own].trial_id.iloc[1]

    def other_images(frame):
        """Let the images of one repeat differ, as those of another fold do."""
        here = (frame.trial_id == trial) & (frame.split == "val")
        return frame.assign(label=frame.label.where(~here, 1 - frame.label))

    assert list(edit(made, other_images)) == ["test"]
    assert edit(made, lambda f: f[(f.trial_id != trial) | (f.split != "test")]) == {}


exact = pytest.approx


def arms(label, predicted, p_predicted=None, classes=("ant", "bee", "cat")) -> BothArms:
    """Return predictions [2, R, N] without files."""
    predicted = np.asarray(predicted)
    p = np.full(predicted.shape, 0.5) if p_predicted is None else np.asarray(p_predicted)
    label, repeats = np.asarray(label), tuple(range(predicted.shape[1]))
    names = (None,) * len(label)
    return BothArms("val", ("d", "b"), repeats, tuple(classes), label, names, predicted, p, p)


def by_hand() -> BothArms:
    """Three repeats of four images of class 0; the counts of correct students are below."""
    distilled = [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 1, 1]]  # 3, 1, 0, 0
    baseline = [[1, 0, 0, 1], [1, 0, 0, 2], [0, 0, 1, 1]]  # 1, 3, 2, 0
    return arms([0, 0, 0, 0], [distilled, baseline])


def test_the_images_that_differ_most_are_worked_by_hand() -> None:
    table = examples.most_different(by_hand())
    assert table["image"].tolist() == [0, 1, 2] and table["diff"].tolist() == [2, -2, -2]
    assert table.distilled.tolist() == [3, 1, 0] and table.baseline.tolist() == [1, 3, 2]
    assert table.wrong_distilled.tolist() == ["", "cat (2)", "bee (2)"]
    assert table.wrong_baseline.tolist() == ["bee (2)", "", "bee (1)"]
    assert examples.most_different(by_hand(), 1)["image"].tolist() == [0, 1]


def test_thumbnails_are_in_the_folder_or_made_from_files(tmp_path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8))
    arms = {"val": by_hand()}
    assert not examples.has_thumbnails(tmp_path, arms)
    examples.write_thumbnails(tmp_path, arms, lambda split, index: photo)
    assert examples.has_thumbnails(tmp_path, arms)
    names = [f"val-00000{i}.jpeg" for i in range(3)]
    assert sorted(f.name for f in (tmp_path / THUMBNAILS).iterdir()) == names
    content = examples.read_thumbnail(tmp_path, None, arms["val"], 1, None)
    shown = Image.open(io.BytesIO(content))
    assert shown.size == (examples.THUMBNAIL_SIDE, round(examples.THUMBNAIL_SIDE * 90 / 200))
    named = replace(arms["val"], files=("gone.png",) * 3 + ("a.png", "gone.png"))
    assert examples.read_thumbnail(tmp_path, None, named, 3, None) == b""
    photo.save(tmp_path / "a.png")
    assert examples.read_thumbnail(tmp_path, tmp_path, named, 3, None) == content
    assert examples.read_thumbnail(tmp_path, tmp_path, named, 4, None) == b""
    cut = (tmp_path / "a.png").read_bytes()[:99]
    for content in (b"no image", cut):
        (tmp_path / "a.png").write_bytes(content)
        assert examples.read_thumbnail(tmp_path, tmp_path, named, 3, None) == b""


def drawn(n: int = 60, repeats: int = 4) -> BothArms:
    rng = np.random.default_rng(3)
    return arms(rng.integers(0, 3, n), rng.integers(0, 3, (2, repeats, n)))


def test_the_difference_of_a_class_is_worked_by_hand() -> None:
    # class 0: the baseline is always wrong, so that D is the distilled arm's correctness;
    # class 1: both arms are always right
    distilled = [[0, 1, 1, 1], [0, 0, 1, 1], [1, 0, 1, 1]]
    table = examples.class_accuracies(arms([0, 0, 1, 1], [distilled, [[1, 1, 1, 1]] * 3]))
    assert table["class"].tolist() == ["ant", "bee"] and table.images.tolist() == [2, 2]
    ant, bee = table.iloc[0], table.iloc[1]
    assert (ant.distilled, ant.baseline, ant["diff"]) == exact((4 / 6, 0, 4 / 6))
    # D = [[1, 0], [1, 1], [0, 1]]: MS_R = 1/6, MS_I = 0, MS_E = 1/2, V = MS_R / 6, and df = N - 1
    error, t = (1 / 36) ** 0.5, stats.t(1)
    assert ant.p == exact(2 * t.sf((4 / 6) / error))
    assert 4 / 6 - t.ppf(1 - 0.05 / 4) * error < -1  # Bonferroni over two classes
    assert (ant.low, ant.high) == (-1, 1)  # no difference is larger than 100 points
    assert (bee["diff"], bee.p) == (0, 1)
    assert ant.p_holm == exact(2 * ant.p) and bee.p_holm == 1


def test_the_design_decides_the_interval_of_a_class() -> None:
    """With folds the corrected t test; with 3 teachers of 2 repeats the two-way test over them."""
    made = drawn(repeats=6)
    by_folds = examples.class_accuracies(replace(made, design=Design(folds=5))).iloc[0]
    own = made.correct[:, :, made.label == 0].astype(float)
    estimate = corrected_resampled((own[0] - own[1]).mean(1), 1 / 4)
    assert by_folds.p == exact(estimate.p)
    assert (by_folds.low, by_folds.high) == exact(estimate.interval(1 - 0.05 / 3))  # 3 classes
    means = made.predicted.reshape(2, 2, 3, -1)  # repeat r learns from teacher r mod 3
    right = (means == made.label)[:, :, :, made.label == 0].mean(1)
    by_teacher = examples.class_accuracies(replace(made, design=Design(3))).iloc[0]
    assert by_teacher.p == exact(crossed(right[0] - right[1]).p)
    two = examples.class_accuracies(replace(made, repeats=(0, 3, 1, 4, 6, 7), design=Design(3)))
    assert two.p.isna().all()


def test_confusion_is_that_of_scikit_learn() -> None:
    made = drawn()
    for arm, shares in enumerate(examples.confusion(made)):
        predicted, label = made.predicted[arm].ravel(), np.tile(made.label, 4)
        want = confusion_matrix(label, predicted, labels=[0, 1, 2], normalize="true")
        np.testing.assert_allclose(shares, want)
    table = examples.class_accuracies(made)
    np.testing.assert_allclose(np.diagonal(examples.confusion(made)[0]), table.distilled)
    absent = examples.confusion(arms([0, 1], [[[0, 2]], [[1, 1]]]))
    assert np.isnan(absent[:, 2]).all() and absent[0, 1].tolist() == [0, 0, 1]


def test_the_largest_confusions_are_counted_in_images() -> None:
    # two of four ants become bees, one of one bee becomes a cat
    made = arms([0, 0, 0, 0, 1], [[[1, 1, 0, 0, 2]], [[1, 0, 0, 0, 1]]])
    table = examples.largest_confusions(made)
    assert table[["label", "predicted"]].to_numpy().tolist() == [["ant", "bee"], ["bee", "cat"]]
    numbers = table[["images", "distilled", "baseline", "diff"]].to_numpy()
    assert numbers.tolist() == [[4, 0.5, 0.25, 0.25], [1, 1, 0, 1]]


def test_calibration_is_worked_by_hand() -> None:
    # 0.4 = 6 / 15 is on an edge and belongs to the bin below, (5/15, 6/15]
    p = [[[0.4, 0.35, 0.95, 0.98]], [[0.9, 0.9, 0.9, 0.9]]]
    made = arms([0, 0, 0, 0], [[[0, 1, 0, 1]], [[0, 0, 0, 1]]], p)
    distilled = examples.calibration(made).query("arm == 'distilled'")
    assert distilled[["bin", "n"]].to_numpy().tolist() == [[5, 2], [14, 2]]
    assert distilled.confidence.tolist() == exact([0.375, 0.965])
    assert distilled.accuracy.tolist() == [0.5, 0.5]
    errors = examples.calibration_errors(made)
    assert errors[0] == exact(2 / 4 * 0.125 + 2 / 4 * 0.465)
    assert errors[1] == exact(0.15)
