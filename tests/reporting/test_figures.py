"""Figures show the numbers of the dataframes; references: numpy and a published figure."""

import io
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from study_folders import RUN, at, cost, draw, grid, make, write_predictions

import kdtune
from kdtune.config.records import write_costs
from kdtune.config.text import InputError
from kdtune.reporting.build import html
from kdtune.reporting.canvas import COLOURS, MARKERS
from kdtune.reporting.figures import (
    FRONTIERS,
    all_figures,
    class_plots,
    curve_data,
    curve_frame,
    forest_plot,
    frontier_plot,
    heat_map,
    label_curve_plot,
    learning_curve,
    repeats_plot,
    shown_configs,
    teacher_points,
)
from kdtune.results.comparison import Criterion
from kdtune.results.examples import class_accuracies, read_arms
from kdtune.results.results import Results

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
    frame = curve_frame(file, "alpha", "epoch_acc_l")
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
    shown = curve_data(made, shown_configs(made, CRITERION), None)
    picture = learning_curve(made, "loss", shown)
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
    picture = repeats_plot(wide, CRITERION)
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
    table = wide.compare(criterion)
    scale = 1 if criterion.metric == "ce" else 100
    names = [text.get_text() for text in axes.get_yticklabels()]
    assert names == [wide.label(config) for config in table.config_id]
    for y, row in table.iterrows():
        interval, mean = (x for x in axes.lines if np.all(np.asarray(x.get_ydata()) == y))
        assert tuple(interval.get_xdata()) == exact((scale * row.low, scale * row.high))
        assert mean.get_xdata()[0] == exact(scale * row["diff"])
    assert ("one image" in picture.caption) == (criterion.metric != "ce")


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
    figures = {f.name: f for f in class_plots(measured, arms)}
    assert list(figures) == ["confusion", "confusion-change", "calibration"]
    assert "test images" in figures["confusion"].caption
    diagonal = np.diagonal(figures["confusion"].figure.axes[0].images[0].get_array())
    assert list(diagonal) == exact(list(100 * class_accuracies(arms["test"]).distilled))
    svg = figures["calibration"].svg
    assert svg.count("predictions</title>") == svg.count("</title>") > 10


@pytest.mark.parametrize("name", list(FRONTIERS))
def test_the_frontier_shows_the_frame(measured, name: str) -> None:
    table = measured.frontier()
    figure = frontier_plot(measured, CRITERION, name)
    axes = figure.figure.axes[0]
    cost_of = FRONTIERS[name]
    points = [x for x in axes.lines if x.get_marker() == MARKERS[0] and len(x.get_xdata())]
    points = [line for line in points if line.get_transform() != axes.transAxes]
    assert [line.get_xdata()[0] for line in points] == list(table[cost_of])
    assert [line.get_ydata()[0] for line in points] == exact(list(100 * table["mean"]))
    colours = [to_hex(line.get_markerfacecolor()) for line in points]
    assert colours == [COLOURS[0].lower(), "#ffffff"]
    bars = [list(line.get_ydata()) for line in axes.lines if len(line.get_ydata()) == 2][:2]
    assert bars == [exact([100 * row.low, 100 * row.high]) for row in table.itertuples()]
    (star,) = [line for line in axes.lines if line.get_marker() == "*"]
    teacher = measured.costs.set_index("role").loc["teacher"]
    assert [*star.get_xdata(), *star.get_ydata()] == exact([teacher[cost_of], 90.0])
    low, high = axes.get_ylim()
    assert low <= 100 * table.low.min() and high >= 90  # shifted markers count for the limits
    # 30,000 / 4,000 parameters exceed a factor of 5, 0.4 / 0.2 ms do not
    assert axes.get_xscale() == ("log" if cost_of == "params" else "linear")
    assert "The star is the teacher." in figure.caption


def test_the_label_curve_shows_the_frame_and_the_page_its_sentence(tmp_path) -> None:
    heights = {(100, 1.0): 0.6, (100, 0.5): 0.66, (300, 1.0): 0.7, (300, 0.5): 0.71}
    runs = {at(alpha, train_images=n): height for (n, alpha), height in heights.items()}
    made = make(tmp_path, draw({run: height - 0.7 for run, height in runs.items()}, 4, sd=0.004))
    table = made.label_curve()
    figure = label_curve_plot(made, CRITERION).figure
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


def test_other_metrics_have_no_teacher(measured) -> None:
    assert len(teacher_points(measured, Criterion("ce"), "params")) == 0
    assert "teacher" not in frontier_plot(measured, Criterion("ce"), "frontier-params").caption
    lines = frontier_plot(measured, CRITERION, "frontier-latency_ms").figure.axes[0].lines
    (steps,) = (line for line in lines if line.get_label() == "frontier of the students")
    assert (list(steps.get_xdata()), steps.get_drawstyle()) == ([0.2, 0.4], "steps-post")


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


def test_curves_of_the_last_epochs_and_of_a_derived_metric(measured) -> None:
    assert not any("-last-" in f.name for f in all_figures(measured, CRITERION))  # of 3 epochs
    assert measured.plot.curves("ce", last=2).axes[0].lines[0].get_xdata().tolist() == [2, 3]
    line = measured.plot.curves("gap").axes[0].lines[0]
    acc = measured.plot.curves("acc").axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 0.9 - acc.get_ydata())  # the teacher's is 0.9


def test_a_figure_is_matplotlibs_and_pyplot_does_not_know_it(measured) -> None:
    before = plt.get_fignums()
    for plot in ("curves", "differences", "repeats", "frontier"):
        figure = getattr(measured.plot, plot)()
        assert isinstance(figure, Figure) and plt.get_fignums() == before
    figure.caption = '<script>"&'
    html = figure._repr_html_()
    assert "<script>" not in html and html.count("&lt;script&gt;&quot;&amp;") == 2


NOTHING = [
    ("curves", {"metric": "acuracy"}, "metric must be one of .*, but got acuracy"),
    ("curves", {"metric": "nll"}, "learning curves must have recorded values of nll, but made"),
    ("curves", {"last": 0}, "last must be a number of epochs, at least 1, but got 0"),
    ("differences", {}, "must have a baseline and another .*, but made has none \\(complete"),
    ("frontier", {}, "the frontier must have a completed run of a student with known costs"),
    ("frontier", {"cost": "bytes"}, "cost must be one of latency_ms, params, but got bytes"),
]


def test_there_is_nothing_to_draw(tmp_path) -> None:
    made = make(tmp_path / "one", {0.5: [0.5, 0.6]}, plain_share=0.0)
    for name, arguments, words in NOTHING:
        with pytest.raises(InputError, match=words):
            getattr(made.plot, name)(**arguments)
