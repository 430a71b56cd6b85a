"""Predictions of the best distilled configuration and its baseline, and the images shown."""

import io

import numpy as np
import pandas as pd
import pytest
from photos import rotated_with_damage
from PIL import Image
from study_folders import at, draw, make, write_predictions
from whole_predictions import write_whole_predictions

import kdtune
from kdtune.config.files import PREDICTIONS, THUMBNAILS
from kdtune.results.comparison import Criterion
from kdtune.results.examples import (
    THUMBNAIL_SIDE,
    Arms,
    count_differences,
    has_thumbnails,
    most_different,
    read_arms,
    read_thumbnail,
    write_thumbnails,
)

LAST = draw({0.1: 0.05, 0.5: 0.0, 1.0: 0.0}, 3)


@pytest.fixture
def made(tmp_path):
    return write_whole_predictions(make(tmp_path, LAST), ["ant", "bee"], 60, ("val", "test"), "a")


def edit(results, change) -> dict[str, Arms]:
    """Change the rows of predictions.parquet; return what is read then."""
    frame = pd.read_parquet(results.folder / PREDICTIONS)
    change(frame).to_parquet(results.folder / PREDICTIONS, index=False)
    return read_arms(kdtune.load(results.folder), Criterion())


def test_both_arms_have_the_same_repeats_and_images(made) -> None:
    arms = read_arms(made, Criterion())
    assert list(arms) == ["val", "test"]
    val = arms["val"]
    assert val.configs == (at(0.1).config_id, at(1.0).config_id)
    assert val.repeats == (0, 1, 2) and val.classes == ("ant", "bee")
    assert val.correct.shape == (2, 3, 60) and val.files[7] == "a/7.png"
    for arm, config in enumerate(val.configs):
        accs = made.trials[made.trials.config_id == config].sort_values("repeat")
        want = (60 * accs["val/acc@last"]).round() / 60
        assert val.correct[arm].mean(1).tolist() == pytest.approx(list(want))


def test_the_order_of_the_examples_in_the_file_does_not_matter(made) -> None:
    before = read_arms(made, Criterion())["val"]
    turned = edit(made, lambda f: f.iloc[::-1])["val"]
    for name in ("label", "predicted", "p_label"):
        np.testing.assert_array_equal(getattr(before, name), getattr(turned, name))


def test_incomplete_predictions_are_left_out(made) -> None:
    own = read_arms(made, Criterion())["test"].configs[1]
    trial = made.trials[made.trials.config_id == own].trial_id.iloc[1]

    def other_images(frame):
        """Let the images of one repeat differ, as those of another fold do."""
        here = (frame.trial_id == trial) & (frame.split == "val")
        return frame.assign(label=frame.label.where(~here, 1 - frame.label))

    assert list(edit(made, other_images)) == ["test"]
    assert edit(made, lambda f: f[(f.trial_id != trial) | (f.split != "test")]) == {}


def test_studies_without_classes_or_baseline_have_no_arms(tmp_path) -> None:
    old = make(tmp_path / "old", LAST)
    write_predictions(old)  # as version 0.1 did
    assert read_arms(old, Criterion()) == {}
    plain = write_whole_predictions(make(tmp_path / "plain", {1.0: [0.7, 0.71]}), ["a", "b"])
    assert read_arms(plain, Criterion()) == {}


def by_hand() -> Arms:
    """Three repeats of four images of class 0; the counts of correct students are below."""
    distilled = [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 1, 1]]  # 3, 1, 0, 0
    baseline = [[1, 0, 0, 1], [1, 0, 0, 2], [0, 0, 1, 1]]  # 1, 3, 2, 0
    predicted = np.array([distilled, baseline])
    p = np.full(predicted.shape, 0.5)
    names = ("ant", "bee", "cat")
    return Arms("val", ("d", "b"), (0, 1, 2), names, np.zeros(4, int), (None,) * 4, predicted, p, p)


def test_the_images_that_differ_most_are_worked_by_hand() -> None:
    table = most_different(by_hand())
    assert table["image"].tolist() == [0, 1, 2] and table["diff"].tolist() == [2, -2, -2]
    assert table.distilled.tolist() == [3, 1, 0] and table.baseline.tolist() == [1, 3, 2]
    assert table.wrong_distilled.tolist() == ["", "cat (2)", "bee (2)"]
    assert table.wrong_baseline.tolist() == ["bee (2)", "", "bee (1)"]
    assert count_differences(by_hand()) == (1, 1, 2)
    assert most_different(by_hand(), 1)["image"].tolist() == [0, 1]


def test_thumbnails_are_in_the_folder_or_made_from_files(tmp_path) -> None:
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8))
    arms = {"val": by_hand()}
    assert not has_thumbnails(tmp_path, arms)
    write_thumbnails(tmp_path, arms, lambda split, index: photo)
    assert has_thumbnails(tmp_path, arms)
    assert sorted(f.name for f in (tmp_path / THUMBNAILS).iterdir()) == [
        f"val-00000{i}.jpeg" for i in range(3)
    ]
    content = read_thumbnail(tmp_path, None, "val", 1, None)
    shown = Image.open(io.BytesIO(content))
    assert shown.size == (THUMBNAIL_SIDE, round(THUMBNAIL_SIDE * 90 / 200))
    assert read_thumbnail(tmp_path, None, "val", 3, "a.png") == b""
    photo.save(tmp_path / "a.png")
    assert read_thumbnail(tmp_path, tmp_path, "val", 3, "a.png") == content
    assert read_thumbnail(tmp_path, tmp_path, "val", 3, "gone.png") == b""
    (tmp_path / "text.png").write_text("no image")
    assert read_thumbnail(tmp_path, tmp_path, "val", 3, "text.png") == b""


@pytest.mark.parametrize("tag", [0x100, 0x11A])
def test_an_image_with_damaged_exif_data_has_a_thumbnail(tmp_path, tag) -> None:
    image = Image.new("RGB", (40, 20))
    image.save(tmp_path / "a.png", exif=rotated_with_damage(tag))
    for orientation, size in ((None, (20, 40)), ("exif", (20, 40)), ("stored", (40, 20))):
        content = read_thumbnail(tmp_path, tmp_path, "val", 0, "a.png", orientation)
        assert Image.open(io.BytesIO(content)).size == size


def test_an_image_that_pillow_cannot_read_has_no_thumbnail(tmp_path) -> None:
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    for cut in range(0, len(content), 5):
        (tmp_path / "a.png").write_bytes(content[:cut])
        assert isinstance(read_thumbnail(tmp_path, tmp_path, "val", 0, "a.png"), bytes)


def test_small_images_keep_their_pixels(tmp_path) -> None:
    grey = Image.fromarray(np.arange(28 * 28, dtype=np.uint8).reshape(28, 28))
    write_thumbnails(tmp_path, {"val": by_hand()}, lambda split, index: grey)
    content = read_thumbnail(tmp_path, None, "val", 0, None)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(content))), np.asarray(grey))
