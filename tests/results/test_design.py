"""What intervals hold for: units, standard errors and words by what the repeats vary."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import at, draw, trials_of

from kdtune.config.run import Run
from kdtune.config.study import Study
from kdtune.results.comparison import Chosen, Criterion, compare, selection
from kdtune.results.design import ONE_TEACHER, Design, describe_teacher_share, stricter
from kdtune.results.words import ComparisonContext
from kdtune.statistics.intervals import crossed, teacher_share

exact = pytest.approx
LAST = draw({0.1: 0.01, 0.5: 0.03, 1.0: 0.0}, 8, seed=3)
D = np.subtract(LAST[0.5], LAST[1.0])


def compared(design: Design) -> pd.Series:
    table = compare(trials_of(LAST), Criterion(), design=design)
    return table.set_index("config/alpha").loc[0.5]


def test_a_study_names_its_design() -> None:
    run = Run(teacher_epochs=5)
    assert Design.of(Study(run=run)) == ONE_TEACHER
    assert Design.of(Study(run=replace(run, teachers=4))) == Design(4)
    given = replace(run, folds=5, teacher_epochs=0)
    assert Design.of(Study(run=given)) == Design(folds=5, fine_tuned=False)
    searched = Study(run=run, space={"teacher": ("resnet50", "resnet34")})
    assert Design.of(searched) == Design(several_recipes=True)
    auto = Study(run=replace(run, teachers=4), until_decided=True, budget="9runs")
    assert not Design.of(auto).by_teacher


def test_with_three_teachers_or_more_these_are_the_sample() -> None:
    """Means of 2 repeats each; the reference is scipy's t test over 4 teachers."""
    row, means = compared(Design(4)), D.reshape(2, 4).mean(0)
    test = stats.ttest_1samp(means, 0)
    assert (row["diff"], row.n, row.n_units) == exact((means.mean(), 8, 4))
    assert row.error == exact(stats.sem(means)) and row.p == exact(test.pvalue)
    assert (row.low, row.high) == exact(tuple(test.confidence_interval(1 - 0.05 / 2)))
    assert (row.low_here, row.high_here) == (row.low, row.high)  # no predictions here
    assert math.isnan(row.p_max_t)  # 4 signs only
    unbalanced = compared(Design(3))  # 3, 3 and 2 repeats
    assert unbalanced["diff"] == exact(np.mean([D[k::3].mean() for k in range(3)]))


def test_two_teachers_are_no_sample() -> None:
    pd.testing.assert_series_equal(compared(Design(2)), compared(ONE_TEACHER))


def test_folds_have_the_corrected_resampled_t_test() -> None:
    """V = (1/8 + 1/4) s^2 with 5 folds and 7 degrees of freedom (Nadeau and Bengio, 2003)."""
    row = compared(Design(folds=5))
    error = math.sqrt((1 / 8 + 1 / 4) * D.var(ddof=1))
    half = stats.t.ppf(1 - 0.05 / 4, 7) * error
    assert (row["diff"], row.error, row.df, row.n) == exact((D.mean(), error, 7, 8))
    assert (row.low, row.high) == exact((D.mean() - half, D.mean() + half))
    assert row.p == exact(2 * stats.t.sf(abs(D.mean()) / error, 7))
    assert np.isnan([row.low_here, row.high_here, row.p_max_t, row.n_images]).all()


def test_folds_never_pair_images_by_their_position() -> None:
    def read(trial_ids):  # type: ignore[no-untyped-def]
        raise AssertionError

    compare(trials_of(LAST), Criterion(), read=read, design=Design(folds=5))


def test_selection_has_the_same_standard_error(tmp_path) -> None:  # type: ignore[no-untyped-def]
    trials, design = trials_of(LAST), Design(folds=5)
    trials = trials.assign(**{"test/acc@last": trials["val/acc@last"], "phase": "search"})
    chosen = Chosen(at(0.5).config_id, at(1.0).config_id, at(0.5).config_id)
    rows = selection(tmp_path, trials, Criterion(), chosen, design=design).set_index("row")
    half = stats.t.ppf(0.975, 7) * math.sqrt((1 / 8 + 1 / 4) * D.var(ddof=1))
    difference = rows.loc["difference"]
    assert rows.loc["best"].config_id == at(0.5).config_id
    for split in ("val", "test"):
        assert difference[f"{split}/high"] - difference[f"{split}/mean"] == exact(half)


def test_repeats_of_few_teachers_do_not_cover_new_teachers() -> None:
    """Teachers vary as much as repeats, 4 teachers in 16 repeats, 100 images: the truth is 0."""
    rng, repeats, n = np.random.default_rng(0), range(16), 100
    covers = {ONE_TEACHER: 0, Design(4): 0}
    draws = 2000
    for _ in range(draws):
        teachers, own = rng.normal(size=4), rng.normal(size=16)
        images, noise = rng.normal(size=n), rng.normal(size=(16, n))
        table = (np.tile(teachers, 4) + own)[:, None] + images + noise
        for design in covers:
            low, high = design.estimate(table.mean(1), table, repeats).interval()
            covers[design] += low <= 0 <= high
    assert covers[Design(4)] / draws >= 0.94 > 0.85 > covers[ONE_TEACHER] / draws


def test_one_teacher_is_the_two_way_estimate() -> None:
    table = np.random.default_rng(1).normal(size=(5, 9))
    found = ONE_TEACHER.estimate(table.mean(1), table, range(5))
    assert found == crossed(table)


@pytest.mark.parametrize(
    ("design", "images", "words"),
    [
        (ONE_TEACHER, 500, "new repeats with this teacher and new images like those of val"),
        (ONE_TEACHER, None, "new repeats with this teacher on these val images"),
        (Design(2), None, "new repeats with these 2 teachers on these val images"),
        (Design(3), 500, "new repeats with new teachers of this recipe and new images like those"),
        (
            Design(folds=4),
            None,
            "new train/val splits of data like these, with a teacher for each.",
        ),
        (
            Design(folds=4, fine_tuned=False),
            None,
            "new train/val splits of data like these, with this",
        ),
    ],
)
def test_conclusions(design: Design, images: int | None, words: str) -> None:
    context = ComparisonContext("b", 8, images=images, design=design)
    assert f"Conclusions are about {words}" in context.method


def test_methods_name_the_design() -> None:
    with_folds = ComparisonContext("b", 8, design=Design(folds=4))
    assert "corrected for overlapping train sets (Nadeau and Bengio, 2003)" in with_folds.method
    assert "max-T" not in with_folds.method + with_folds.method_in_full(3)
    several = ComparisonContext("b", 8, images=500, design=Design(4)).method
    assert "t intervals over the means of 4 teachers and 500 val images" in several
    assert "fine-tuned on its train" in Design(folds=4).constant
    assert "conditional on these teachers" in Design(2).constant


def test_a_study_that_searches_teachers_has_several() -> None:
    several = Design(several_recipes=True)
    assert several.new_units == "new repeats with these teachers"
    assert "conditional on these teachers" in several.constant
    assert replace(several, teachers=2).new_units == several.new_units
    assert replace(several, teachers=4).new_units.endswith("new teachers of these recipes")
    assert "4 teachers of each recipe" in replace(several, teachers=4).constant
    given = replace(several, folds=4, fine_tuned=False)
    assert given.new_units.endswith("with these teachers")
    assert given.constant.startswith("The teachers and test are the same")
    for design in (several, given):
        assert "this teacher" not in design.constant


def test_what_intervals_of_single_configurations_hold_for() -> None:
    assert ONE_TEACHER.single_interval == "over repeats, for these images"
    assert Design(4).single_interval == "over repeats, for these images and these teachers"
    not_corrected = "over repeats, not corrected for overlapping train sets"
    assert Design(folds=4).single_interval == not_corrected


def test_the_share_of_teachers_in_words() -> None:
    assert describe_teacher_share(Design(2).teacher_share(np.array([1.0, 5, 3, 7]), range(4))) == (
        "Teachers explain 78% of the variance of the difference over repeats (one-way random "
        "effects, 2 teachers, 4 repeats, F = 8, p = 0.11)."
    )
    assert describe_teacher_share(teacher_share([1, 2], [0, 1])) == ""
    assert ONE_TEACHER.teacher_share(np.array([1.0, 2, 3]), range(3)) is None


def test_the_stricter_design_decides_a_comparison_of_studies() -> None:
    assert stricter(ONE_TEACHER, Design(folds=5)) == Design(folds=5)
    assert stricter(Design(6), Design(4)) == stricter(Design(4), ONE_TEACHER) == Design(4)
    assert stricter(ONE_TEACHER, ONE_TEACHER) == ONE_TEACHER
