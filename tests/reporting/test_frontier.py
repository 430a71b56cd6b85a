"""The section on costs shows the numbers of the dataframes."""

import pytest
from html_reader import Reader
from matplotlib.colors import to_hex
from study_folders import cost, draw, make

import kdtune
from kdtune.config.records import write_costs
from kdtune.reporting import build
from kdtune.reporting.canvas import COLOURS, MARKERS, figure_style
from kdtune.reporting.figures import (
    FRONTIERS,
    cost_table,
    frontier_plot,
    frontier_table,
    style_of,
    teacher_points,
)
from kdtune.results.comparison import Criterion
from kdtune.results.results import Results

exact = pytest.approx
CRITERION = Criterion()


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> Results:
    folder = tmp_path_factory.mktemp("study")
    made = make(folder, draw({0.1: 0.05, 0.5: 0.02, 1.0: 0.0}, 4))
    run = made.study.run
    costs = [cost(run.student, params=4_000, ms=0.2), cost(run.teacher, "teacher", 30_000, 0.4)]
    write_costs(folder, costs)
    return kdtune.load(folder)


def drawn(results: Results, name: str, criterion: Criterion = CRITERION):
    with figure_style():
        figure = frontier_plot(results, criterion, name)
    assert figure is not None
    return figure


@pytest.mark.parametrize("name", list(FRONTIERS))
def test_the_figure_shows_the_frame(measured, name: str) -> None:
    table = measured.frontier()
    figure = drawn(measured, name)
    axes = figure.figure.axes[0]
    cost_of = FRONTIERS[name]
    points = [
        line for line in axes.lines if line.get_marker() == MARKERS[0] and len(line.get_xdata())
    ]
    points = [line for line in points if line.get_transform() != axes.transAxes]
    assert [line.get_xdata()[0] for line in points] == list(table[cost_of])
    assert [line.get_ydata()[0] for line in points] == exact(list(100 * table["mean"]))
    assert [to_hex(line.get_markerfacecolor()) for line in points] == [
        COLOURS[0].lower(),
        "#ffffff",
    ]
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


def test_the_frontier_goes_from_the_cheapest_to_the_right(measured) -> None:
    axes = drawn(measured, "frontier-latency_ms").figure.axes[0]
    (steps,) = [line for line in axes.lines if line.get_label() == "frontier of the students"]
    assert list(steps.get_xdata()) == [0.2, 0.4]
    assert list(steps.get_ydata()) == exact([100 * measured.frontier()["mean"].max()] * 2)
    assert steps.get_drawstyle() == "steps-post"


def test_other_metrics_have_no_teacher(measured) -> None:
    criterion = Criterion("ce")
    assert len(teacher_points(measured, criterion, "params")) == 0
    figure = drawn(measured, "frontier-params", criterion)
    axes = figure.figure.axes[0]
    assert "teacher" not in figure.caption and "cross-entropy" in axes.get_ylabel()
    best = measured.frontier(criterion)
    assert best["efficient/params"].tolist() == [True, False]


def test_49_students_have_different_markers() -> None:
    assert len({style_of(number) for number in range(49)}) == 49


def test_the_section_of_the_page(measured) -> None:
    words = Reader(build.html(measured, CRITERION, {})).words
    section = words.partition("What a student costs")[2].partition("Sensitivity")[0]
    costs, frontier = cost_table(measured), frontier_table(measured, CRITERION)
    assert costs is not None and costs.table is not None and frontier is not None
    for cells in costs.table.rows:
        assert " ".join(map(str, cells)) in section
    assert costs.note in section and frontier.note in section
    assert f"distilled alpha = 0.1 {100 * measured.frontier()['mean'][0]:.1f}" in section
    assert "latency, parameters" in section


def test_a_study_without_costs_has_no_section(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.8, 0.81], 1.0: [0.7, 0.75]})
    assert cost_table(made) is None and frontier_table(made, CRITERION) is None
    assert all(frontier_plot(made, CRITERION, name) is None for name in FRONTIERS)
    assert "What a student costs" not in build.html(made, CRITERION, {})
