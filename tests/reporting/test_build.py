"""The whole page: reproducible, safe, small, equal to the dataframes, made without torch.

Figures show the numbers of the dataframes; references: numpy and a published figure. The page is
also opened in Chromium, if it is there: in two frames with the widths of a phone and of a laptop,
nothing overflows, no text overlaps and nothing else is asked for.
"""

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Collection
from dataclasses import replace
from functools import cache, partial
from html import unescape
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from html_reader import Reader
from jinja2 import Template
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from study_folders import RUN, at, cost, draw, grid, make, write_predictions

import kdtune
import kdtune.report as report_command
from kdtune.config.files import PROVENANCE
from kdtune.config.records import write_costs
from kdtune.config.run import DISTILLATION
from kdtune.config.study import fashion
from kdtune.config.text import InputError
from kdtune.report import ReportFlags
from kdtune.reporting import build, canvas
from kdtune.reporting import figures as plots
from kdtune.reporting.build import html
from kdtune.reporting.canvas import INK, CaptionedFigure, environment, inline, outside
from kdtune.reporting.figures import FIGURE_NAMES, all_figures, forest_plot, frontier_plot, heat_map
from kdtune.reporting.sections import examples
from kdtune.results.comparison import Criterion
from kdtune.results.examples import class_accuracies, read_arms
from kdtune.results.results import Results

HOSTILE = "</td></script><script>alert('1')</script> & \"two\" $verdict ${data} $\\frac{1$ <b>"


def html_of(results: Results, names: Collection[str] = FIGURE_NAMES) -> str:
    """Return the page, with the figures of these names, without writing files."""
    criterion = results.default_criterion
    figures = (f for f in all_figures(results, criterion) if f.name in names)
    return build.html(results, criterion, {f.name: inline(f) for f in figures})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The configurations of the default study, with 4 repeats and 5 epochs."""
    folder, study = tmp_path_factory.mktemp("whole"), fashion()
    runs = [replace(run, epochs=5) for run in study.runs()]
    last = draw({run: 0.03 * (run.alpha == 0.1) for run in runs}, 4)
    made = make(folder, last, run=replace(study.run, epochs=5), space=study.space)
    write_predictions(made)
    write_costs(folder, [cost(study.run.student), cost(study.run.teacher, "teacher", 24_314)])
    return kdtune.load(folder)


@pytest.fixture(scope="module")
def text(whole: Results) -> str:
    return html_of(whole)


def test_it_is_small_and_complete_without_network_and_scripts(text) -> None:
    assert len(text.encode()) < 1_000_000
    read = Reader(text)
    scripts = [attrs for tag, attrs in read.tags if tag == "script"]
    assert [s.get("type") for s in scripts] == ["application/json", None]
    for tag, attrs in read.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        names = ("src", "href", "xlink:href", "action", "data", "srcset")
        for place in (str(attrs.get(name, "#")) for name in names):
            assert place.startswith(("#", "data:,", "data:image/png;")), (tag, attrs)
    css = "".join(read.within("style"))
    assert "@import" not in css and not re.search(r"url\((?!#)", css)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|https?:", script)

    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert references and {next(filter(None, r)) for r in references} <= set(ids)


def test_the_data_equal_the_dataframes(whole, text) -> None:
    data = Reader(text).data
    trials = pd.DataFrame(data["trials"])
    assert data["study"] == whole.study.name and len(trials) == 20
    near = {"rtol": 6e-5, "check_names": False}
    for name in trials:
        want = whole.trials[name]
        if pd.api.types.is_float_dtype(want):
            pd.testing.assert_series_equal(trials[name].astype(float), want.astype(float), **near)
        else:
            assert [x for x in trials[name] if not pd.isna(x)] == want.dropna().tolist()
    epochs = data["epochs"]
    frame = pd.DataFrame({k: v for k, v in epochs.items() if k not in ("every", "split")})
    frame["trial_id"] = trials.trial_id.to_numpy()[frame.trial]
    val = whole.epochs[(whole.epochs.split == epochs["split"])]
    assert epochs["every"] == 1 and len(frame) == len(val) == 20 * 5
    both = frame.merge(val, on=["trial_id", "epoch"], suffixes=("", "/want"), validate="1:1")
    recorded = [metric for metric in DISTILLATION.recorded if whole.epochs[metric].notna().any()]
    assert {"loss", "ce", "acc", "teacher_acc"} <= set(recorded)
    assert set(epochs) & set(DISTILLATION.recorded) == set(recorded)
    for metric in recorded:
        pd.testing.assert_series_equal(both[metric].astype(float), both[f"{metric}/want"], **near)


def test_a_comparison_has_one_interval_in_table_figure_and_best_configuration(whole, text) -> None:
    """The one for new repeats and new images, not the one for these images."""
    best = whole.compare().iloc[0]
    ends = [100 * best.low, 100 * best.high]
    assert [100 * best.low_here, 100 * best.high_here] != pytest.approx(ends, abs=0.1)
    assert "95% CI {:+z.1f} to {:+z.1f}, ".format(*ends) in whole.verdict()
    words = Reader(text).words
    comparisons = words.partition("Comparisons")[2].partition("What a student costs")[0]
    assert "[{:+z.1f}, {:+z.1f}]".format(*ends) in comparisons
    selected = words.partition("Best configuration val")[2].partition("Methods")[0]
    assert "{:+.2f} to {:+.2f}".format(*ends) in selected
    (interval, *_) = forest_plot(whole, Criterion()).figure.axes[0].lines
    assert list(interval.get_xdata()) == pytest.approx(ends)


def test_thumbnails_are_in_the_page(tmp_path: Path) -> None:
    last, run = draw({0.1: 0.1, 1.0: 0.0}, 3), replace(RUN, data=str(tmp_path))
    made = make(tmp_path / "study", last, run=run)
    (tmp_path / "a").mkdir()
    write_predictions(made, classes=["ant", "bee"], images=90, files="a")
    made = kdtune.load(made.folder)
    for i in range(0, 90, 2):
        Image.new("RGB", (100, 80), (i, 0, 0)).save(tmp_path / "a" / f"{i}.png")
    html = build.html(made, Criterion(), {})
    sources = [a["src"] for t, a in Reader(html).tags if t == "img"]
    shown = examples(made, read_arms(made, Criterion()))
    images = [image for group in shown["groups"].values() for image in group]
    assert 0 < len(images) <= 24 and [i.source for i in images if i.source] == sources
    for image in images:
        number = int(Path(image.name).stem)
        assert bool(image.source) == (number % 2 == 0)  # the other files are missing
        if image.source:
            head, content = image.source.split(",")
            assert head == "data:image/jpeg;base64" and base64.b64decode(content)[:2] == b"\xff\xd8"
    assert html.count("no image</span>") == len(images) - len(sources)


@pytest.mark.filterwarnings("ignore:constrained_layout")  # a name too long for any figure
def test_texts_from_records_are_escaped(tmp_path) -> None:
    run = {"data": f"/tmp/{HOSTILE}", "teacher": f"module:{HOSTILE}", "student": HOSTILE}
    study = {"run": replace(RUN, **run), "cache": HOSTILE}
    last = draw({at(0.1, student=HOSTILE): 0, 0.5: 0, 1.0: 0}, 4)
    make(tmp_path, last, {(0.5, 1): "failed"}, HOSTILE, **study)
    record = {"data": HOSTILE, "python": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    (tmp_path / PROVENANCE).write_text(json.dumps(record | {"command": ["python", HOSTILE]}))
    text = html_of(kdtune.load(tmp_path), ["loss", "differences"])
    read = Reader(text)
    assert [a.get("type") for t, a in read.tags if t == "script"] == ["application/json", None]
    assert "alert(" not in "".join(text for text in read.within("script") if text[0] != "{")
    assert not {"alert"} & {tag for tag, _ in read.tags}
    assert HOSTILE in read.data["trials"]["config/student"]
    # error, data, teacher, student, cache, fingerprint, version and its name, command, label
    assert read.words.count(HOSTILE) >= 10
    assert text.count("</script>") == 2 and text.count("<script") == 2


def test_tensors_are_not_called_images(tmp_path: Path) -> None:
    made = make(tmp_path, draw({0.1: 0.1, 1.0: 0.0}, 3))
    write_predictions(made, classes=["joy", "fear"], images=60, splits=("val", "test"))
    record = json.loads((tmp_path / PROVENANCE).read_text()) | {"data_set": {"kind": "tensors"}}
    (tmp_path / PROVENANCE).write_text(json.dumps(record))
    made = kdtune.load(tmp_path)
    text = html_of(made, {"repeats", "differences", *plots.CLASS_FIGURES}) + made.text()
    assert "image" not in Reader(text).words.partition("All settings")[0]
    assert "for new repeats and new examples" in text and "val example 5" in text


INCOMPLETE = [
    {0.5: [None], 1.0: [None]},
    {1.0: [0.7, 0.8]},
    {0.5: [None, 0.7], 1.0: [0.6, None]},
    {0.5: [0.0] * 2, 1.0: [1.0] * 2},
]


@pytest.mark.parametrize("last", INCOMPLETE)
@pytest.mark.filterwarnings("error")
def test_any_study_has_a_page(tmp_path, last) -> None:
    made = make(tmp_path, last)
    assert bool(list(all_figures(made, Criterion()))) == bool(len(made.summary()))
    words = Reader(build.html(made, Criterion(), {})).words
    assert made.verdict() in words
    assert not re.search(r"\bnan\b|\binf\b|None|-0\.0 %", words.partition("Every setting")[0])


def test_files_that_are_refused_and_nothing_to_draw(tmp_path: Path) -> None:
    places = tuple(str(tmp_path / name) for name in ("a", "b"))
    for place in places:
        make(Path(place), {0.5: [0.7, 0.8], 1.0: [0.6, 0.7]}, name=Path(place).name)
    for out, message in (
        (f"{places[0]}/report.html", "other than the report of one study"),
        (places[0], "must be a file that ends in .html"),
        ("page.htm", "must be a file that ends in .html"),
        ("s3://bucket/page.html", "must be on this machine"),
    ):
        with pytest.raises(InputError, match=message):
            report_command.main(ReportFlags(places, out=out))
    assert not Path(places[0], "report.html").exists()
    made = make(tmp_path / "one", {0.5: [0.5, 0.6]}, plain_share=0.0)
    for name, arguments, words in NOTHING:
        with pytest.raises(InputError, match=words):
            getattr(made.plot, name)(**arguments)


@pytest.mark.slow
def test_it_is_the_same_bytes_again_and_figures_of_an_earlier_report_are_deleted(tmp_path) -> None:
    """Also in another folder, by the command."""
    runs = grid([0.1, 0.5, 1.0], temperature=[1.0, 4.0])
    failed = {(at(0.1, temperature=4.0), 1): "failed"}
    made = make(tmp_path / "study", draw(dict.fromkeys(runs, 0.0), 3), failed)
    write_costs(made.folder, [cost(RUN.student), cost(RUN.teacher, "teacher", 24_314)])
    old = tmp_path / "one" / "figures"
    old.mkdir(parents=True)
    for name in ("importance.svg", "importance.png", "my-own.svg", "heat-map.pdf"):
        (old / name).write_text("")
    build.write(kdtune.load(made.folder), Criterion(), tmp_path / "one")
    for name in ("my-own.svg", "heat-map.pdf"):  # not deleted
        (old / name).unlink()
    flags = ReportFlags(runs=(str(made.folder),), out=str(tmp_path / "other"))
    assert report_command.main(flags) == 0
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    # too few configurations and epochs, one number of images, and no predictions
    absent = {
        "importance",
        "labels",
        *plots.CLASS_FIGURES,
        *(name for name in FIGURE_NAMES if "-last-" in name),
    }
    assert {file.stem for file in files} == {"report", *FIGURE_NAMES} - absent
    assert len(files) == 1 + 2 * len(FIGURE_NAMES - absent)
    for file in files:
        one, other = (tmp_path / folder / file for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes(), file


exact = pytest.approx
CSV = Path(__file__).parents[1] / "data" / "seed_results.csv"
CRITERION = Criterion()


@pytest.fixture(scope="module")
def wide(tmp_path_factory) -> Results:
    """A study of alpha and temperature with 13 configurations and one failed trial."""
    runs = grid([0.1, 0.3, 0.5, 0.9, 1.0], temperature=[1.0, 4.0, 8.0])
    last = draw({run: 0.02 * (run.alpha == 0.3) for run in runs}, 4)
    folder = tmp_path_factory.mktemp("wide")
    made = make(folder, last, {(at(0.3, temperature=4.0), 1): "failed"})
    write_costs(folder, [cost(made.study.run.student)])
    return kdtune.load(folder)


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """A study with costs and predictions."""
    folder = tmp_path_factory.mktemp("study")
    make(folder, draw({0.1: 0.05, 0.5: 0.02, 1.0: 0.0}, 4))
    costs = [cost(RUN.student, params=4_000, ms=0.2), cost(RUN.teacher, "teacher", 30_000, 0.4)]
    write_costs(folder, costs)
    results, classes = kdtune.load(folder), ["ant", "bee", "cat"]
    write_predictions(results, classes=classes, images=90, splits=("val", "test"))
    return kdtune.load(folder)


def test_the_frame_of_the_curves_counts_what_it_averages() -> None:
    file = pd.read_csv(CSV).rename(columns={"rep": "repeat"})
    frame = plots.curve_frame(file, "alpha", "epoch_acc_l")
    half = frame[frame.alpha == 0.5]
    assert half.n.tolist() == [4, 4] + [3] * 23  # one of its files holds 2 epochs
    assert (frame[frame.alpha != 0.5].n == 4).all()
    for row in frame.sample(12, random_state=0).itertuples():
        values = file[(file.alpha == row.alpha) & (file.epoch == row.epoch)].epoch_acc_l
        assert (row.mean, row.std) == exact((np.mean(values), np.std(values, ddof=1)))
    # as in the starting repository's picture
    first = frame[(frame.alpha == 0) & (frame.epoch == 0)].iloc[0]
    band = first["mean"] - first["std"], first["mean"], first["mean"] + first["std"]
    assert band == exact((0.761, 0.873, 0.984), abs=5e-4)


def test_a_curve_is_the_mean_over_the_repeats_counted_in_its_label(tmp_path) -> None:
    made = make(tmp_path, draw({0.1: 0.0, 0.5: 0.02, 1.0: 0.01}, 4), {(0.5, 1): "failed"})
    shown = plots.curve_data(made, plots.shown_configs(made, CRITERION), None)
    picture = plots.learning_curve(made, "loss", shown)
    epochs = made.epochs.merge(made.trials[["trial_id", "status"]])
    epochs = epochs[(epochs.status == "completed") & (epochs.split == "val")]
    (axes,) = picture.figure.axes
    lines = {x.get_label(): x for x in axes.lines if x.get_label()[0] != "_"}
    lines.pop("teacher", None)
    assert len(lines) == 3
    for name, line in lines.items():
        alpha, n = re.fullmatch(r"alpha = ([\d.]+) \(n = (\d)\)", name).groups()
        runs = epochs[epochs["config/alpha"] == float(alpha)]
        table = runs.pivot(index="epoch", columns="repeat", values="loss")
        assert int(n) == table.shape[1] == (3 if alpha == "0.5" else 4)
        assert list(line.get_xdata()) == [1, 2, 3]
        assert list(line.get_ydata()) == exact(list(table.mean(axis=1)))
        # of the same colour: a thin line for each repeat, and the band of mean +- sd
        colour = to_hex(line.get_color())
        thin = [c for c in axes.collections if isinstance(c, LineCollection)]
        (thin,) = (c for c in thin if to_hex(c.get_color()[0]) == colour)
        drawn = sorted(tuple(run[:, 1]) for run in thin.get_segments())
        assert drawn == sorted(tuple(column) for _, column in table.items())
        bands = [c for c in axes.collections if not isinstance(c, LineCollection)]
        band = next(c for c in bands if to_hex(c.get_facecolor()[0]) == colour)
        top = table.mean(axis=1) + table.std(axis=1, ddof=1)
        assert band.get_paths()[0].vertices[:, 1].max() == exact(top.max())


def test_the_dots_are_the_repeats(wide) -> None:
    picture = plots.repeats_plot(wide, CRITERION)
    (axes,) = picture.figure.axes
    names = [text.get_text() for text in axes.get_yticklabels()]
    summary = wide.summary(metrics=["acc"], full=True)
    for y, name in enumerate(names):
        here = [line for line in axes.lines if np.all(np.asarray(line.get_ydata()) == y)]
        dots, interval, mean = here
        config = wide.configs[wide.configs.config_id.map(wide.label) == name.partition(" (n")[0]]
        trials = wide.trials[wide.trials.config_id == config.config_id.iloc[0]]
        accs = trials[trials.status == "completed"]["val/acc@last"]
        assert sorted(dots.get_xdata()) == exact(sorted(100 * accs))
        assert f"(n = {len(accs)})" in name and mean.get_xdata()[0] == exact(100 * accs.mean())
        row = summary[(summary["val/acc/mean"] - accs.mean()).abs() < 1e-9].iloc[0]
        ends = 100 * row["val/acc/low"], 100 * row["val/acc/high"]
        assert tuple(interval.get_xdata()) == exact(ends)
    assert any("(n = 3)" in name for name in names)


@pytest.mark.parametrize("criterion", [CRITERION, Criterion("ce"), Criterion("gap", "best")])
def test_the_forest_plot_shows_the_comparison(wide, criterion: Criterion) -> None:
    picture = forest_plot(wide, criterion)
    (axes,) = picture.figure.axes
    table = wide.compare(criterion).head(10)
    scale = 1 if criterion.metric == "ce" else 100
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [wide.label(config) for config in table.config_id]
    for y, row in table.iterrows():
        interval, mean = (x for x in axes.lines if np.all(np.asarray(x.get_ydata()) == y))
        assert tuple(interval.get_xdata()) == exact((scale * row.low, scale * row.high))
        assert mean.get_xdata()[0] == exact(scale * row["diff"])
    assert ("one image" in picture.caption) == (criterion.metric != "ce")
    assert "the best 10 of 12" in picture.caption


def test_the_heat_map_tells_alphas_apart_and_leaves_missing_values_out(tmp_path) -> None:
    """As a range of log-odds samples them; six digits of their own would all be 1 or 0.999999."""
    alphas = ["0.00123", "0.99877", "0.99999877", "0.9999995"]
    runs = grid([float(alpha) for alpha in alphas], temperature=[1.0, 4.0])
    hole = {(at(0.00123, temperature=4.0), r): "failed" for r in range(2)}
    axes = heat_map(make(tmp_path, draw(dict.fromkeys(runs, 0.0), 2), hole), CRITERION)
    axes = axes.figure.axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == alphas
    texts = [t.get_text() for t in axes.texts]
    assert len(texts) == 7 and not any("nan" in t for t in texts)


def test_the_figures_of_classes_are_of_the_test_split(measured) -> None:
    arms = read_arms(measured, CRITERION)
    figures = {f.name: f for f in plots.class_plots(measured, arms)}
    assert list(figures) == ["confusion", "confusion-change", "calibration"]
    assert "test images" in figures["confusion"].caption
    diagonal = np.diagonal(figures["confusion"].figure.axes[0].images[0].get_array())
    assert list(diagonal) == exact(list(100 * class_accuracies(arms["test"]).distilled))
    svg = figures["calibration"].svg
    assert svg.count("predictions</title>") == svg.count("</title>") > 10


@pytest.mark.parametrize("name", list(plots.FRONTIERS))
def test_the_frontier_shows_the_frame(measured, name: str) -> None:
    table = measured.frontier()
    figure = frontier_plot(measured, CRITERION, name)
    axes = figure.figure.axes[0]
    cost_of = plots.FRONTIERS[name]
    points = [x for x in axes.lines if x.get_marker() == canvas.MARKERS[0] and len(x.get_xdata())]
    points = [line for line in points if line.get_transform() != axes.transAxes]
    assert [line.get_xdata()[0] for line in points] == list(table[cost_of])
    assert [line.get_ydata()[0] for line in points] == exact(list(100 * table["mean"]))
    colours = [to_hex(line.get_markerfacecolor()) for line in points]
    assert colours == [canvas.COLOURS[0].lower(), "#ffffff"]
    bars = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2][:2]
    assert bars == [exact([100 * row.low, 100 * row.high]) for row in table.itertuples()]
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    teacher = measured.costs.set_index("role").loc["teacher"]
    assert [*star.get_xdata(), *star.get_ydata()] == exact([teacher[cost_of], 90.0])
    low, high = axes.get_ylim()
    assert low <= 100 * table.low.min() and high >= 90  # shifted markers count for the limits
    # 30,000 / 4,000 parameters exceed a factor of 5, 0.4 / 0.2 ms do not
    assert axes.get_xscale() == ("log" if cost_of == "params" else "linear")


def test_the_label_curve_shows_the_frame_and_the_page_its_sentence(tmp_path) -> None:
    heights = {(100, 1.0): 0.6, (100, 0.5): 0.66, (300, 1.0): 0.7, (300, 0.5): 0.71}
    runs = {at(alpha, train_images=n): height for (n, alpha), height in heights.items()}
    made = make(tmp_path, draw({run: height - 0.7 for run, height in runs.items()}, 4, sd=0.004))
    table = made.label_curve()
    figure = plots.label_curve_plot(made, CRITERION).figure
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and axes.get_ylabel() == "test accuracy (%)"
    for arm, label in {"plain": "without distillation", "distilled": "distilled"}.items():
        (line,) = [line for line in axes.get_lines() if line.get_label() == label]
        assert list(line.get_ydata()) == exact(list(100 * table[table.arm == arm]["mean"]))
    ends = [text.xy for text in axes.texts]
    first = table[(table.arm == "distilled") & (table.n == 100)].iloc[0]
    assert ends[0] == exact((first.equivalent, 100 * first["mean"]))
    page = html(made, CRITERION, {})
    assert "What distilling is worth in labels" in page and made.label_curve_text() in page


def test_other_metrics_have_no_teacher_and_figures_are_matplotlibs(measured) -> None:
    assert len(plots.teacher_points(measured, Criterion("ce"), "params")) == 0
    assert "teacher" not in frontier_plot(measured, Criterion("ce"), "frontier-params").caption
    lines = frontier_plot(measured, CRITERION, "frontier-latency_ms").figure.axes[0].lines
    (steps,) = (line for line in lines if line.get_label() == "frontier of the students")
    assert (list(steps.get_xdata()), steps.get_drawstyle()) == ([0.2, 0.4], "steps-post")
    assert not any("-last-" in f.name for f in all_figures(measured, CRITERION))  # of 3 epochs
    assert measured.plot.curves("ce", last=2).axes[0].lines[0].get_xdata().tolist() == [2, 3]
    line = measured.plot.curves("gap").axes[0].lines[0]
    acc = measured.plot.curves("acc").axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 0.9 - acc.get_ydata())  # the teacher's is 0.9
    before = plt.get_fignums()
    for plot in ("curves", "differences", "repeats", "frontier"):
        figure = getattr(measured.plot, plot)()
        assert isinstance(figure, Figure) and plt.get_fignums() == before
    figure.caption = '<script>"&'
    html = figure._repr_html_()
    assert "<script>" not in html and html.count("&lt;script&gt;&quot;&amp;") == 2


def test_a_figure_has_the_same_bytes_twice(wide) -> None:
    one, other = (heat_map(wide, CRITERION) for _ in range(2))
    png = other.png()  # in the other order
    assert one.svg == other.svg == one.svg and one.png() == png
    assert Image.open(io.BytesIO(png)).size == tuple(200 * one.figure.get_size_inches())
    assert not re.search(r"<dc:date>|Matplotlib v", one.svg)


def test_the_users_matplotlib_settings_have_no_effect(tmp_path) -> None:
    """Optuna's figures set the style ggplot, and users have a matplotlibrc."""
    made = make(tmp_path, {0.5: [0.5, 0.52], 1.0: [0.4, 0.41]})
    picture = next(all_figures(made, Criterion()))
    before = picture.svg, picture.png()
    with mpl.rc_context():
        mpl.style.use("ggplot")
        picture = next(all_figures(made, Criterion()))
        assert (picture.svg, picture.png()) == before


NOTHING = [
    ("curves", {"metric": "acuracy"}, "metric must be one of .*, but got acuracy"),
    ("curves", {"metric": "nll"}, "learning curves must have recorded values of nll, but made"),
    ("curves", {"last": 0}, "last must be a number of epochs, at least 1, but got 0"),
    ("differences", {}, "must have a baseline and another .*, but made has none \\(complete"),
    ("frontier", {}, "the frontier must have a completed run of a student with known costs"),
    ("frontier", {"cost": "bytes"}, "cost must be one of latency_ms, params, but got bytes"),
]


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WIDTHS = (390, 1280)
WRAPPER = Path(__file__).with_name("wrapper.html")


def open_in_browser(folder: Path, scratch: Path) -> tuple[dict[str, Any], list[str], str]:
    """Return measurements by width, served paths and the console output.

    It violates the page's policy, which is on the console, to ask for anything else.
    """
    wrapper = WRAPPER.read_text().replace("WIDTHS", json.dumps(WIDTHS))
    (folder / "wrapper.html").write_text(wrapper)
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
    flags += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    flags += [f"--user-data-dir={scratch / 'profile'}"]
    flags += ["--enable-logging=stderr", "--window-size=1400,1000"]
    flags += ["--virtual-time-budget=20000", "--dump-dom"]
    url = f"http://127.0.0.1:{server.server_port}/wrapper.html"
    try:
        command = [CHROMIUM, *flags, url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    finally:
        server.shutdown()
        server.server_close()
    output = re.search(r"<output>(.*)</output>", done.stdout, re.DOTALL)
    assert output, done.stdout[-2000:] + done.stderr[-2000:]
    return json.loads(unescape(output[1])), asked, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_report_in_a_browser(tmp_path: Path) -> None:
    """Of long names and words, many rows, a heat map and importance."""
    runs = grid([0.1, 0.3, 0.9, 1.0], temperature=[1.0, 4.0], lr=[0.0123, 0.123])
    last = draw({run: 0.02 * (run.alpha == 0.3) for run in runs}, 3)
    made = make(tmp_path / "study", last, {(runs[0], 1): "failed"}, error="word" * 100)
    write_predictions(made, classes=[f"class {i}" for i in range(12)], images=60)
    made = kdtune.load(made.folder)
    figures = {figure.name: inline(figure) for figure in all_figures(made, Criterion())}
    text = html(made, Criterion(), figures)
    (made.folder / "report.html").write_text(text, "utf-8")
    static = [re.sub(r"<[^>]+>", "", x) for x in re.findall(r"<td>(.*?)</td>", text, re.DOTALL)]
    static = [" ".join(unescape(cell).split()) for cell in static]
    found, served, console = open_in_browser(made.folder, tmp_path)
    assert sorted(set(served)) == ["/report.html", "/wrapper.html"]
    assert "CONSOLE" not in console, console
    for width in WIDTHS:
        page = found[str(width)]
        assert width - 20 < page["client"] <= width  # its scroll bar
        assert page["scroll"] <= page["client"], page["wide"]
        assert page["wide"] == []
        assert page["overlaps"] == [] and page["outside"] == []
        assert "gradient" in page["hint"]  # at the side where a wide table goes on
        assert page["figures"] >= 13
        assert page["verdict"] == made.verdict(brief=True)
        assert sorted(page["cells"]) == sorted(static)  # no number comes from the script
        check_interaction(page["use"], made)


def check_interaction(seen: dict[str, Any], made: Results) -> None:
    """Check what the script did: it sorted, filtered, chose a comparison and hid a curve."""
    first = [float(value) for value in seen["ascending"]]
    assert first == sorted(first) and len(set(first)) > 1
    assert [float(value) for value in seen["descending"]] == first[::-1]
    assert seen["filtered"] == 1
    assert seen["choices"] == [1, 1] and seen["chosen"] == seen["metrics"][1]
    assert seen["metrics"][0] == "validation accuracy"
    assert seen["boxes"] == min(7, made.trials.config_id.nunique())
    before, after = seen["groups"]
    assert 0 < after < before


MARKUP = "</td></script><script>alert('1')</script> & \"two\" $verdict {x} {{ x }} {% x %} <b>"
CELLS = {"table", "thead", "tbody", "tr", "th", "td"}


@cache
def template(source: str) -> Template:
    macros = "bullets, cell, facts, figures, fold, note, section, table"
    return environment().from_string(f'{{% from "macros.html" import {macros} %}}{source}')


def made_by(source: str, **values: object) -> str:
    """Render a template that has all macros."""
    return template(source).render(values).strip()


def test_the_label_of_an_axis_is_inside_the_figure() -> None:
    """At this height the layout made room for ticks of one digit, and then there were more."""
    with canvas.figure_style():
        figure, axes = canvas.new_axes()
        for _ in range(4):
            axes.plot([1, 4], [0.1, 0.4], label="alpha = 0.5, T = 4 (n = 3)")
        axes.set(xlabel="epoch", ylabel="validation distillation term", ylim=(0.0721, 0.4521))
        canvas.add_legend_below(figure, axes)
    svg = CaptionedFigure("distill", "", figure).svg
    (left,) = map(float, re.findall(r"rotate\(-90 ([-\d.]+) ", svg))
    assert left > 9  # points, the height of the letters


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        ("{% call note() %}{{ x }}{% endcall %}", {"p"}),
        ("{{ bullets([x]) }}", {"ul", "li"}),
        ("{{ facts({x: x}) }}", {"dl", "div", "dt", "dd"}),
        ("{{ table({'head': [x], 'rows': [[x]]}) }}", {"div", *CELLS}),
        ("{{ table({'head': [x], 'rows': [[x]]}, x, 0) }}", {"div", "details", "summary", *CELLS}),
        ("{% call fold(x) %}{{ x }}{% endcall %}", {"details", "summary"}),
        ("{% call section(x) %}{{ x }}{% endcall %}", {"section", "h2"}),
        ("{{ cell(interval) }}", {"br", "small"}),
        ("{{ cell(rank) }}", {"small"}),
        ("{{ figures([{'svg': x, 'caption': x}]) }}", {"div", "figure", "figcaption"}),
    ],
)
def test_text_from_records_is_never_markup(source: str, allowed: set) -> None:
    cells = {
        "interval": canvas.interval_cell(MARKUP, MARKUP, MARKUP),
        "rank": canvas.Cell(MARKUP, MARKUP),
    }
    made = made_by(source, x=MARKUP, **cells)
    read = Reader(made)
    assert {tag for tag, _ in read.tags} == allowed and MARKUP in read.text


def test_data_are_json_of_finite_numbers_that_cannot_end_their_element() -> None:
    source, _, _ = environment().loader.get_source(environment(), "report.html")
    (element,) = re.findall(r"<script type=.*?</script>", source, re.DOTALL)
    made = made_by(element, data={MARKUP: [MARKUP, "é\n\u2028", 1.5, None, True]})
    text = made.partition(">")[2].removesuffix("</script>")
    assert made == f"{element.partition('>')[0]}>{text}</script>" and "<" not in text
    assert json.loads(text) == {MARKUP: [MARKUP, "é\n\u2028", 1.5, None, True]}
    with pytest.raises(ValueError, match="JSON"):
        made_by(element, data=[float("nan")])


def test_a_figure_is_part_of_the_page() -> None:
    figure = canvas.StudyFigure(figsize=(2, 2))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], "o-", color=INK)
    title = '<b> & "x" id="y" href="#z" url(#w) #1a1b1c'
    axes.set_title(title, color=INK)
    item = inline(CaptionedFigure("dots", MARKUP, figure))
    made = made_by("{{ figures([item]) }}", item=item)
    read = Reader(made)
    assert not {"script", "b", "metadata", "image"} & {tag for tag, _ in read.tags}
    (label,) = (a["aria-label"] for t, a in read.tags if t == "svg")
    assert label == MARKUP and MARKUP in [text for _, text in read.pieces]
    assert title in [text for _, text in read.pieces]
    ids = [a["id"] for _, a in read.tags if "id" in a]
    assert ids and all(i.startswith("dots-") for i in ids) and len(ids) == len(set(ids))
    marks = "".join(re.findall(r"<[^>]+>", made))
    for reference in re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', marks):
        assert next(filter(None, reference)) in ids
    assert INK not in marks and "currentColor" in marks
    assert "<?xml" not in made and "<!DOCTYPE" not in made
    (svg,) = (a for t, a in read.tags if t == "svg")
    assert "viewbox" in svg and not {"width", "height"} & set(svg)


def test_a_wild_line_is_left_outside() -> None:
    lines = {"a": [0.7, 0.75], "b": [0.72, 0.76], "c": [0.71, 0.74], "wild": [0.1, 0.1]}
    assert outside(lines, "higher") == ["wild"]
    assert outside(lines, "lower") == []  # there it would be the best
    assert outside(lines, None) == []
    assert outside(lines | {"wild": [0.6, 0.7]}, "higher") == []  # 0.16 is less than 5 x 0.06
    assert outside(lines | {"worse": [0.0, 0.1]}, "higher") == ["worse", "wild"]
    assert outside({k: lines[k] for k in ("a", "wild")}, "higher") == []  # half of all
    assert outside({}, "higher") == outside({"a": [np.nan]}, "lower") == []
    assert canvas.limits([[1.0, np.nan], [3.0]]) == pytest.approx((0.9, 3.1))
