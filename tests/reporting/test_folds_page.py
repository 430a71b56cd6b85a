"""Notes of the page of a study with folds, whose repeats have other val images each."""

from dataclasses import replace

from html_reader import Reader
from study_folders import RUN, cost, draw, make
from whole_predictions import write_whole_predictions

import kdtune
from kdtune.config.records import write_costs
from kdtune.reporting import build
from kdtune.reporting.canvas import figure_style
from kdtune.reporting.figures import FRONTIERS, frontier_plot, repeats_plot
from kdtune.results.comparison import Criterion
from kdtune.results.examples import read_arms


def test_no_note_says_that_an_interval_is_for_the_same_images(tmp_path) -> None:
    run = replace(RUN, folds=5)
    runs = {replace(run, alpha=a): v for a, v in draw({0.5: 0.02, 1.0: 0.0}, 4).items()}
    study = make(tmp_path, runs, run=run)
    write_whole_predictions(study, ["ant", "bee"], 60, ("val", "test"))
    write_costs(tmp_path, [cost(run.student, params=4_000, ms=0.2)])
    results = kdtune.load(tmp_path)
    assert read_arms(results, Criterion())["test"].design.folds == 5
    reader = Reader(build.html(results, Criterion(), {}))
    text = " ".join(" ".join(reader.within("p") + reader.within("li")).split())
    assert "for these images" not in text
    uncorrected = "over repeats, not corrected for overlapping train sets"
    assert text.count(uncorrected) == 3  # summary, frontier and methods
    with figure_style():
        figures = (
            repeats_plot(results, Criterion()),
            frontier_plot(results, Criterion(), next(iter(FRONTIERS))),
        )
    assert all(f"95% t interval {uncorrected}" in figure.caption for figure in figures)
    assert "Those on test are for these test images." in text
    assert (
        "The 95% CI is a t interval over repeats, corrected for overlapping train sets (Nadeau and "
        "Bengio, 2003) for new train/val splits of data like these, with a teacher for each, on "
        "these test images, and simultaneous"
    ) in text
