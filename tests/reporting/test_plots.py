"""Figures and HTML of a study in a notebook: what they show, and that they are shown once."""

import base64
import io
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from html_reader import Reader
from matplotlib.collections import LineCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from PIL import Image
from small_study import write_small_study
from study_folders import at, draw, grid, make

import kdtune
from kdtune.config.text import InputError
from kdtune.reporting.canvas import COLOURS
from kdtune.reporting.figures import forest_plot
from kdtune.results.results import Results


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return write_small_study(tmp_path_factory.mktemp("runs") / "small")


# -- figures ---------------------------------------------------------------------------------------


def test_curves_show_the_means_of_the_epochs(small: Results) -> None:
    axes = small.plot.curves().axes[0]
    lines = {str(line.get_label()).partition(" (n")[0]: line for line in axes.lines}
    val = small.epochs[small.epochs.split == "val"]
    for label, own in val.groupby("label"):
        np.testing.assert_allclose(lines[label].get_ydata(), own.groupby("epoch").acc.mean())
    assert sum(isinstance(c, LineCollection) for c in axes.collections) == 3


def test_curves_of_the_last_epochs_and_of_a_derived_metric(small: Results) -> None:
    assert small.plot.curves("ce", last=2).axes[0].lines[0].get_xdata().tolist() == [2, 3]
    line = small.plot.curves("gap").axes[0].lines[0]
    acc = small.plot.curves("acc").axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), 0.9 - acc.get_ydata())  # the teacher's is 0.9


def test_differences_are_those_of_the_comparison(small: Results) -> None:
    axes = small.plot.differences(small.criterion("ce")).axes[0]
    table = small.compare(small.criterion("ce"))
    drawn = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "D"]
    np.testing.assert_allclose(drawn, table["diff"])
    assert [tick.get_text() for tick in axes.get_yticklabels()] == table.label.tolist()


def test_the_frontier_has_the_costs_of_the_students(small: Results) -> None:
    axes = small.plot.frontier("params").axes[0]
    drawn = [
        line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o" and line.get_gid()
    ]
    assert drawn == small.frontier().params.tolist() == [3724, 3724]
    assert small.plot.frontier().axes[0].get_xlabel() == "latency at batch size 1 (ms)"


@pytest.mark.parametrize("name", ["curves", "differences", "repeats", "frontier"])
def test_a_figure_is_matplotlibs_and_pyplot_does_not_know_it(small: Results, name: str) -> None:
    import matplotlib.pyplot as plt

    before = plt.get_fignums()
    figure = getattr(small.plot, name)()
    assert isinstance(figure, Figure) and plt.get_fignums() == before
    assert figure.caption.endswith(".")


def test_a_figure_is_shown_with_its_caption(small: Results) -> None:
    figure = small.plot.differences()
    html = figure._repr_html_()
    found = re.search(r'src="data:image/png;base64,([^"]+)" width="([0-9]+)"', html)
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1]))).convert("RGB")
    assert image.width == 1.5 * int(found[2]) == 165 * figure.get_figwidth()
    assert to_hex(np.array(image.getpixel((10, 10))) / 255) == "#ffffff"
    colours = {to_hex(np.array(pixel) / 255) for _, pixel in image.getcolors(1 << 20) or []}
    assert COLOURS[0].lower() in colours
    drawn = forest_plot(small, small.default_criterion)
    assert drawn is not None and drawn.caption == figure.caption and drawn.caption in html


def test_a_caption_is_escaped(small: Results) -> None:
    figure = small.plot.differences()
    figure.caption = '<script>"&'
    html = figure._repr_html_()
    assert "<script>" not in html and html.count("&lt;script&gt;&quot;&amp;") == 2


def test_a_figure_may_be_changed_and_saved(small: Results, tmp_path: Path) -> None:
    figure = small.plot.differences()
    figure.axes[0].set_xlabel("a label of one's own")
    figure.savefig(tmp_path / "own.svg", metadata={"Date": None})
    assert "a label of one" in (tmp_path / "own.svg").read_text()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("curves", {"metric": "acuracy"}, "metric must be one of .*, but got acuracy"),
        ("curves", {"metric": "nll"}, "learning curves must have recorded values of nll, but made"),
        ("curves", {"last": 0}, "last must be a number of epochs, at least 1, but got 0"),
        ("differences", {}, "must have a baseline and another .*, but made has none \\(complete"),
        ("frontier", {}, "the frontier must have a completed run of a student with known costs"),
        ("frontier", {"cost": "bytes"}, "cost must be one of latency_ms, params, but got bytes"),
    ],
)
def test_there_is_nothing_to_draw(tmp_path: Path, name: str, arguments: dict, words: str) -> None:
    made = make(tmp_path, {0.5: [0.5, 0.6]}, plain_share=0.0)
    with pytest.raises(InputError, match=words):
        getattr(made.plot, name)(**arguments)


@pytest.mark.parametrize("name", ["curves", "repeats", "differences", "frontier"])
def test_a_study_that_has_just_begun_has_no_figures(tmp_path: Path, name: str) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    with pytest.raises(InputError, match="but made has none"):
        getattr(made.plot, name)()


# -- a study in a notebook -------------------------------------------------------------------------


def test_a_notebook_shows_conclusion_table_and_figure(small: Results) -> None:
    html = small._repr_html_()
    page = Reader(html)
    assert small.verdict() in page.text and small.status in page.text
    head, cells = page.within("th"), page.within("td")
    alphas = [f"{alpha:g}" for alpha in small.compare()["config/alpha"]]
    assert head[:2] == ["alpha", "difference (points)"] and cells[:: len(head)] == alphas
    assert html.count("<img ") == 1 and "<script" not in html and "<style" not in html


def test_every_text_of_a_study_is_escaped(tmp_path: Path) -> None:
    evil = "m:<script>alert(1)</script>"
    last = {at(alpha, student=evil): accs for alpha, accs in ((0.5, [0.5, 0.6]), (1.0, [0.4, 0.4]))}
    made = make(tmp_path / "<b>", last)
    assert evil in made.trials["config/student"].tolist()
    html = made._repr_html_()
    assert "<script" not in html and "<b>(" not in html and "/&lt;b&gt;)" in html


def test_many_comparisons_are_cut(tmp_path: Path) -> None:
    runs = grid([0.1, 0.3, 0.5, 0.9, 1.0], temperature=[1.0, 4.0, 8.0])
    made = make(tmp_path, draw(dict.fromkeys(runs, 0.0), 2))
    html = made._repr_html_()
    page = Reader(html)
    assert len(page.within("td")) == 10 * len(page.within("th"))
    assert "the best 10 of 12 (results.compare()" in html


def test_a_study_without_a_comparison_shows_its_state(tmp_path: Path) -> None:
    made = make(tmp_path, {0.5: [None], 1.0: [None]})
    html = made._repr_html_()
    assert "0 of 2 runs completed" in html and "No conclusion" in html and "<img" not in html


def test_warnings_are_folded(tmp_path: Path) -> None:
    made = make(tmp_path, {0.5: [0.5, 0.6], 1.0: [0.4, 0.5]}, {(0.5, 1): "failed"})
    assert made.warnings and made.warnings[0] in Reader(made._repr_html_()).text


def test_results_load_matplotlib_only_for_figures(small: Results) -> None:
    code = (
        f"import kdtune, sys; results = kdtune.load({str(small.folder)!r}); results.summary();"
        "repr(results); assert not {'matplotlib', 'jinja2', 'torch', 'ray'} & set(sys.modules);"
        "results.plot.curves(); assert 'matplotlib.pyplot' not in sys.modules;"
        "results._repr_html_(); assert not {'torch', 'ray'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert kdtune.load(small.folder).plot.curves().caption == small.plot.curves().caption
