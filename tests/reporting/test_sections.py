"""Sections of the page: their numbers, and that the text of the page has them."""

import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from html_reader import Reader
from PIL import Image
from study_folders import RUN, at, cost, draw, grid, make
from whole_predictions import write_whole_predictions

from kdtune.config.records import write_costs
from kdtune.reporting import build
from kdtune.reporting.figures import class_plots
from kdtune.reporting.sections import (
    MAX_TABLE_ROWS,
    by_class,
    choices,
    examples,
)
from kdtune.results.comparison import Criterion
from kdtune.results.examples import class_accuracies, read_arms, write_thumbnails
from kdtune.results.results import Results

CRITERION = Criterion()
LAST = draw({0.1: 0.1, 0.5: 0.0, 1.0: 0.0}, 4)


def page_of(results: Results) -> Reader:
    return Reader(build.html(results, CRITERION, {}))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("study")
    bare = make(folder, LAST)
    write_costs(folder, [cost(RUN.student), cost(RUN.teacher, "teacher", 24_314)])
    return write_whole_predictions(bare, ["ant", "bee", "<cat>"], 90, ("val", "test"))


@pytest.fixture(scope="module")
def page(study: Results) -> Reader:
    return page_of(study)


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study without costs and predictions."""
    return make(tmp_path_factory.mktemp("bare"), LAST)


# Classes and images


def test_each_split_has_the_accuracy_of_each_class(study: Results, page: Reader) -> None:
    arms = read_arms(study, CRITERION)
    section = by_class(study, arms)
    assert list(section.splits) == ["val", "test"] and section.confusions is None
    for split, part in section.splits.items():
        table = class_accuracies(arms[split])
        for cells, row in zip(part["table"].rows, table.itertuples(), strict=True):
            assert cells[:2] == [row[1], "30"]
            assert cells[2:4] == [f"{100 * row.baseline:.1f}", f"{100 * row.distilled:.1f}"]
            assert cells[4].text == f"{100 * row.diff:+.1f}"
            assert cells[4].small == f"{100 * row.low:+.1f} to {100 * row.high:+.1f}"
        significant = table[(table.p_holm < 0.05) & ((table.low > 0) | (table.high < 0))]
        sentence = f"On {split} no class differs significantly (of 3 compared)."
        if len(significant):
            sentence = f"On {split}, {len(significant)} of 3 classes"
        assert sentence in page.words
        assert all(any(name in text for text in part["largest"]) for name in significant["class"])
    assert "<cat>" in page.words


def test_equal_differences_of_a_class_need_no_interval(tmp_path: Path) -> None:
    """The only image of a class is right in all of 8 repeats or none: p = 3 * 2 / 2^8 by Holm."""
    made = make(tmp_path, draw({0.5: 0.1, 1.0: 0.0}, 8))
    made = write_whole_predictions(made, ["ant", "bee", "cat"], 90)
    label = np.repeat([0, 1, 2], [1, 44, 45])
    predicted = np.tile((label + 1) % 3, (2, 8, 1))
    predicted[0, :, 0] = 0
    arms = replace(read_arms(made, CRITERION)["val"], label=label, predicted=predicted)
    part = by_class(made, {"val": arms}).splits["val"]
    assert (part["changed"], part["compared"]) == (1, 3)
    assert part["largest"] == ["ant (+100.0 points)"]
    assert part["table"].rows[0][4:] == ["+100.0", "0.023"]
    sentence = "On val, 1 of 3 classes differs significantly: ant (+100.0 points)."
    assert sentence in Reader(build.html(made, CRITERION, {}, {"val": arms})).words


def test_many_classes_have_a_table_of_confusions(tmp_path: Path) -> None:
    made = write_whole_predictions(make(tmp_path, LAST), [f"class {i}" for i in range(25)], 100)
    arms = read_arms(made, CRITERION)
    section = by_class(made, arms)
    assert f"The {len(section.confusions.rows)} largest confusions" in page_of(made).words
    p = class_accuracies(arms["val"]).sort_values("p", kind="stable")
    assert [row[0] for row in section.splits["val"]["table"].rows] == p["class"].tolist()
    assert [figure.name for figure in class_plots(made, arms)] == ["calibration"]


def test_thumbnails_are_in_the_page(tmp_path: Path) -> None:
    made = make(tmp_path / "study", LAST, run=replace(RUN, data=str(tmp_path)))
    (tmp_path / "a").mkdir()
    made = write_whole_predictions(made, ["ant", "bee"], 90, ("val",), "a")
    for i in range(0, 90, 2):
        Image.new("RGB", (100, 80), (i, 0, 0)).save(tmp_path / "a" / f"{i}.png")
    html = build.html(made, CRITERION, {})
    sources = [a["src"] for t, a in Reader(html).tags if t == "img"]
    shown = examples(made, read_arms(made, CRITERION))
    images = [image for group in shown.groups.values() for image in group]
    assert 0 < len(images) <= 24 and [i.source for i in images if i.source] == sources
    for image in images:
        number = int(Path(image.name).stem)
        assert bool(image.source) == (number % 2 == 0)  # the other files are missing
        if image.source:
            head, content = image.source.split(",")
            assert head == "data:image/jpeg;base64" and base64.b64decode(content)[:2] == b"\xff\xd8"
    assert html.count("no image</span>") == len(images) - len(sources)
    write_thumbnails(made.folder, read_arms(made, CRITERION), lambda *_: Image.new("L", (8, 8)))
    assert build.html(made, CRITERION, {}).count("data:image/png") == len(images)


def test_many_configurations_have_fewer_other_comparisons(tmp_path: Path) -> None:
    runs = grid([0.1 * i for i in range(9)] + [1.0], lr=[0.1, 0.01])
    offered = choices(make(tmp_path, draw(dict.fromkeys(runs, 0.0), 2)), CRITERION)
    assert len(offered) > 1 and sum(len(c.table.rows) for c in offered) <= MAX_TABLE_ROWS


def test_methods_say_that_repeats_vary_the_mixing(page: Reader, tmp_path: Path) -> None:
    last = {at(alpha, cutmix=a): [0.7, 0.8] for alpha in (0.5, 1.0) for a in (0.0, 0.5)}
    words = page_of(make(tmp_path / "s", last)).words
    assert "the augmentation, the mixing of images and dropout" in words
    assert ", the augmentation and dropout, all" in page.words
