"""Sections of the page on classes and images, its head, its glossary and its other comparisons."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from html_reader import Reader
from PIL import Image
from study_folders import RUN, at, cost, draw, grid, make
from whole_predictions import write_whole_predictions

import kdtune
from kdtune.config.files import PROVENANCE, STUDY
from kdtune.config.records import write_costs
from kdtune.reporting import build
from kdtune.reporting.canvas import limits, outside
from kdtune.reporting.figures import class_plots, curve_data, learning_curve
from kdtune.reporting.sections import (
    MAX_TABLE_ROWS,
    _accuracies,
    by_class,
    choices,
    examples,
    histories,
    identity,
    methods,
)
from kdtune.results.comparison import Criterion
from kdtune.results.design import ONE_TEACHER
from kdtune.results.examples import (
    class_accuracies,
    largest_confusions,
    read_arms,
    write_thumbnails,
)
from kdtune.results.results import Results

CRITERION = Criterion()
LAST = draw({0.1: 0.1, 0.5: 0.0, 1.0: 0.0}, 4)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Results:
    study = make(tmp_path_factory.mktemp("study"), LAST)
    return write_whole_predictions(study, ["ant", "bee", "<cat>"], 90, ("val", "test"))


@pytest.fixture(scope="module")
def text(made) -> str:
    return build.html(made, CRITERION, {})


# -- classes ---------------------------------------------------------------------------------------


def test_each_split_has_the_accuracy_of_each_class(made) -> None:
    arms = read_arms(made, CRITERION)
    section = by_class(made, arms)
    assert list(section.splits) == ["val", "test"] and section.confusions is None
    for split, noted in section.splits.items():
        table = class_accuracies(arms[split])
        for cells, row in zip(noted.table.rows, table.itertuples(), strict=True):
            assert cells[:4] == [
                *(row[1], "30"),
                *(f"{100 * row.baseline:.1f}", f"{100 * row.distilled:.1f}"),
            ]
            assert cells[4].text == f"{100 * row.diff:+.1f}"
            assert cells[4].small == f"{100 * row.low:+.1f} to {100 * row.high:+.1f}"
        significant = table[(table.p_holm < 0.05) & ((table.low > 0) | (table.high < 0))]
        words = f"{len(significant)} of 3" if len(significant) else "no class differs"
        assert words in noted.note
        assert all(name in noted.note for name in significant["class"])


def test_equal_differences_of_a_class_need_no_interval(made) -> None:
    """The only image of a class is right in all of 8 repeats or none: p = 3 * 2 / 2^8 by Holm."""
    arms = read_arms(made, CRITERION)["test"]
    correct = np.zeros((2, 8, 90))
    correct[0, :, 0] = 1
    label = np.repeat([0, 1, 2], [1, 44, 45])
    own = SimpleNamespace(
        **{"correct": correct, "label": label, "classes": arms.classes, "split": "test"},
        **{"repeats": list(range(8)), "design": ONE_TEACHER},
    )
    noted = _accuracies(own)
    assert f"1 of 3 classes differs significantly: {arms.classes[0]} (+100.0 points)" in noted.note
    assert noted.table.rows[0][4:] == ["+100.0", "0.023"]


def test_many_classes_have_a_table_of_confusions(tmp_path) -> None:
    study = make(tmp_path, LAST)
    many = write_whole_predictions(study, [f"class {i}" for i in range(25)], 100)
    arms = read_arms(many, CRITERION)
    section = by_class(many, arms)
    table = largest_confusions(arms["val"])
    assert [row[0] for row in section.confusions.table.rows] == table.label.tolist()
    assert section.confusions.note.startswith(f"The {len(table)} largest")
    p = class_accuracies(arms["val"]).sort_values("p", kind="stable")
    assert [row[0] for row in section.splits["val"].table.rows] == p["class"].tolist()
    assert [figure.name for figure in class_plots(many, arms)] == ["calibration"]


def test_the_figures_are_of_the_test_split(made) -> None:
    figures = {f.name: f for f in class_plots(made, read_arms(made, CRITERION))}
    assert list(figures) == ["confusion", "confusion-change", "calibration"]
    assert "test images" in figures["confusion"].caption
    diagonal = np.diagonal(figures["confusion"].figure.axes[0].images[0].get_array())
    table = class_accuracies(read_arms(made, CRITERION)["test"])
    assert list(diagonal) == pytest.approx(list(100 * table.distilled))
    svg = figures["calibration"].svg()
    assert svg.count("predictions</title>") == svg.count("</title>") > 10


def test_without_predictions_the_sections_are_left_out(tmp_path) -> None:
    page = build.html(make(tmp_path, LAST), CRITERION, {})
    titles = Reader(page).within("h2")
    assert "Classes" not in titles and "Images that differ most" not in titles


# -- images ----------------------------------------------------------------------------------------


def test_images_without_thumbnails_are_a_table(made, text) -> None:
    section = examples(made, read_arms(made, CRITERION))
    assert section.groups == {} and "There are no thumbnails" in section.note
    assert all(re.fullmatch(r"val image \d+", row[0]) for row in section.table.rows)
    assert "<cat>" in Reader(text).words and "<cat>" not in text


def test_thumbnails_are_in_the_page(tmp_path) -> None:
    study = make(tmp_path / "study", LAST, run=replace(RUN, data=str(tmp_path)))
    (tmp_path / "a").mkdir()
    with_files = write_whole_predictions(study, ["ant", "bee"], 90, ("val",), "a")
    for i in range(0, 90, 2):
        Image.new("RGB", (100, 80), (i, 0, 0)).save(tmp_path / "a" / f"{i}.png")
    page = build.html(with_files, CRITERION, {})
    sources = [a["src"] for t, a in Reader(page).tags if t == "img"]
    shown = examples(with_files, read_arms(with_files, CRITERION))
    images = [image for group in shown.groups.values() for image in group]
    assert 0 < len(images) <= 24 and [i.source for i in images if i.source] == sources
    for image in images:
        number = int(Path(image.name).stem)
        assert bool(image.source) == (number % 2 == 0)  # the other files are missing
        if image.source:
            head, content = image.source.split(",")
            assert head == "data:image/jpeg;base64" and base64.b64decode(content)[:2] == b"\xff\xd8"
    assert page.count("no image</span>") == len(images) - len(sources)
    assert build.html(kdtune.load(with_files.folder), CRITERION, {}) == page
    arms = read_arms(with_files, CRITERION)
    write_thumbnails(with_files.folder, arms, lambda *_: Image.new("L", (8, 8)))
    assert build.html(with_files, CRITERION, {}).count("data:image/png") == len(images)


# -- head, glossary, other comparisons -------------------------------------------------------------


def test_the_head_says_when_where_and_with_what(tmp_path) -> None:
    study = make(tmp_path, LAST)
    write_costs(tmp_path, [cost(RUN.student)])
    machine = {"system": "Linux 6.1", "cores": 4}
    record = {"machine": machine, "python": "3.12.1", "versions": {"kdtune": "0.2", "numpy": "9"}}
    (tmp_path / PROVENANCE).write_text(json.dumps(record))
    saved = json.loads((tmp_path / STUDY).read_text())
    saved["fingerprints"] = {"data": "abc", "teacher": "def"}
    (tmp_path / STUDY).write_text(json.dumps(saved))
    facts = identity(kdtune.load(tmp_path))
    assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d UTC", facts["last record"])
    assert facts["machine"] == "Some CPU, 4 cores, Linux 6.1"
    assert facts["software"] == "kdtune 0.2, Python 3.12.1"
    assert facts["fingerprints"] == "data abc, teacher def"
    assert "last record" in identity(study)


def test_the_history_of_a_teacher(tmp_path) -> None:
    made = make(tmp_path, LAST)
    assert histories(made) is None
    (tmp_path / "teacher").mkdir()
    file = tmp_path / "teacher" / "teacher.json"
    old = {"run": {"student": "net"}, "epochs": 2, "val": {"acc": 0.75}}
    file.write_text(json.dumps(old))
    assert histories(made).table.rows == [["net", "2", "-", "75.0%", "kept"]]
    epochs = [{"epoch": i, "train": 0.5 + i / 10, "val": 0.6} for i in range(2)]
    new = old | {"acc_before": 0.1, "kept_epoch": 0, "history": epochs}
    file.write_text(json.dumps(new))
    assert histories(made).table.rows == [
        ["net", "before", "-", "10.0%", ""],
        ["net", "1", "50.0%", "60.0%", "kept"],
        ["net", "2", "60.0%", "60.0%", ""],
    ]
    file.write_text("{")
    assert histories(made) is None


def test_other_metrics_and_baselines_are_precomputed(tmp_path) -> None:
    runs = grid([0.1, 1.0], lr=[0.1, 0.01])
    made = make(tmp_path, draw(dict.fromkeys(runs, 0.0), 3))
    found = choices(made, CRITERION)
    plain = "training without distillation"
    assert (found[0].metric, found[0].baseline) == ("validation accuracy", plain)
    pairs = [(one.metric, one.baseline) for one in found]
    assert len(set(pairs)) == len(pairs)
    metrics, baselines = ({pair[i] for pair in pairs} for i in (0, 1))
    assert baselines == {plain, "alpha = 1, lr = 0.1", "alpha = 1, lr = 0.01"}
    assert "validation agreement" in metrics and len(pairs) == len(metrics) * len(baselines)
    for one in found:
        assert one.metric in one.content.note
    page = Reader(build.html(made, CRITERION, {}))
    shown = [(a["data-metric"], a["data-baseline"]) for _, a in page.tags if "data-metric" in a]
    assert shown == pairs


def test_many_configurations_have_fewer_other_comparisons(tmp_path) -> None:
    runs = grid([0.1 * i for i in range(9)] + [1.0], lr=[0.1, 0.01])
    found = choices(make(tmp_path, draw(dict.fromkeys(runs, 0.0), 2)), CRITERION)
    assert len(found) > 1 and sum(len(c.content.table.rows) for c in found) <= MAX_TABLE_ROWS


def test_a_study_without_baseline_offers_nothing(tmp_path) -> None:
    made = make(tmp_path, {0.1: [0.7, 0.71], 0.5: [0.6, 0.61]})
    (one,) = choices(made, CRITERION)
    assert one.content.table is None and one.content.note == made.verdict()


def test_warnings_are_warnings_only(tmp_path) -> None:
    page = Reader(build.html(make(tmp_path, LAST), CRITERION, {}))
    assert "Warnings" not in page.within("h2")
    summary = page.words.partition("Summary")[2].partition("Learning curves")[0]
    assert "is not comparable across alpha" in summary


def test_the_only_script_is_allowed_by_its_hash(text) -> None:
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|https?:", script)


# -- the frame of learning curves ------------------------------------------------------------------


def test_a_wild_line_is_left_outside() -> None:
    lines = {"a": [0.7, 0.75], "b": [0.72, 0.76], "c": [0.71, 0.74], "wild": [0.1, 0.1]}
    assert outside(lines, "higher") == ["wild"]
    assert outside(lines, "lower") == []  # there it would be the best
    assert outside(lines, None) == []
    assert outside(lines | {"wild": [0.6, 0.7]}, "higher") == []  # 0.16 is less than 5 x 0.06
    assert outside(lines | {"worse": [0.0, 0.1]}, "higher") == ["worse", "wild"]
    assert outside({k: lines[k] for k in ("a", "wild")}, "higher") == []  # half of all
    assert outside({}, "higher") == outside({"a": [np.nan]}, "lower") == []
    assert limits([[1.0, np.nan], [3.0]]) == pytest.approx((0.9, 3.1))


def test_a_wild_configuration_does_not_flatten_the_others(tmp_path) -> None:
    last = draw({0.1: 0.0, 0.5: 0.0, 0.9: 0.0, 1.0: 0.0}, 3) | {0.3: [0.1, 0.11, 0.1]}
    runs = {at(a, epochs=40): accs for a, accs in last.items()}
    made = make(tmp_path, runs)
    shown = [run.config_id for run in runs]
    end = learning_curve(made, "acc", curve_data(made, shown, 5))
    low, high = end.figure.axes[0].get_ylim()
    assert 0.5 < low < 0.65 and high > 0.9  # with the teacher
    assert end.caption.endswith("Outside the frame runs alpha = 0.3 (means 0.093 to 0.103).")
    whole = learning_curve(made, "acc", curve_data(made, shown))
    assert "Outside" not in whole.caption  # there all begin at 0
    svg = end.svg()
    wild = at(0.3, epochs=40).config_id
    assert svg.count(f'data-config="{wild}"') == 3
    assert "<title>alpha = 0.3 (n = 3)</title>" in svg


@pytest.mark.parametrize(("cutmix", "said"), [((0.0,), False), ((0.0, 0.5), True)])
def test_methods_say_that_repeats_vary_the_mixing(
    cutmix: tuple[float, ...], said: bool, tmp_path
) -> None:
    last = {at(alpha, cutmix=a): [0.7, 0.8] for alpha in (0.5, 1.0) for a in cutmix}
    results = make(tmp_path / "s", last)
    first, *_ = methods(results, CRITERION)
    assert ("the augmentation, the mixing of images and dropout" in first) == said
    assert ("the augmentation and dropout" in first) != said
