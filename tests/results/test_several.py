"""Studies side by side, against scipy's tests, and the list of a folder's studies."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from study_folders import IMAGES, RUN, draw, edit_json, edit_records, make, write_study

from kdtune.config.run import Run
from kdtune.config.text import InputError
from kdtune.reporting.build import write_comparison
from kdtune.results.comparison import Criterion
from kdtune.results.several import differing_settings, list_studies, load_several, text
from kdtune.statistics.tests import holm

exact = pytest.approx
A = draw({0.5: 0.03, 0.1: 0.0, 1.0: 0.0}, 8)
B = draw({0.5: 0.06, 1.0: 0.01}, 8, seed=1)
C = draw({0.5: 0.0, 1.0: 0.0}, 5, seed=2)


def save(folder: Path, last: dict, run: Run = RUN, data: str | None = "x", **study) -> str:
    runs = {replace(run, alpha=alpha): accs for alpha, accs in last.items()}
    write_study(folder, runs, name=folder.name, run=run, **study)
    if data is not None:
        edit_json(folder / "study.json", lambda own: own.update(fingerprints={"data": data}))
    return str(folder)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return three studies: another student than the first, and another seed."""
    folder = tmp_path_factory.mktemp("runs")
    return [
        save(folder / "a", A),
        save(folder / "b", B, replace(RUN, student="resnet34")),
        save(folder / "c", C, replace(RUN, seed=1)),
    ]


def test_pairs_where_the_seeds_allow_and_welch_elsewhere(places: list[str]) -> None:
    table = load_several(places).comparisons.query("split == 'test'").set_index(["study", "pair"])
    assert list(table.index) == [("b", "best"), ("b", "plain"), ("c", "best"), ("c", "plain")]
    assert table.paired["b"].all() and not table.paired["c"].any()
    assert set(table.why["c"]) == {"seed 0 and 1"}
    paired = stats.ttest_rel(B[0.5], A[0.5])
    row = table.loc[("b", "best")]
    assert row.p == exact(paired.pvalue)
    ends = paired.confidence_interval(1 - 0.05 / len(table))
    assert (row.low, row.high) == exact((ends.low, ends.high))
    welch = stats.ttest_ind(C[1.0], A[1.0], equal_var=False)
    row = table.loc[("c", "plain")]
    assert (row.p, row.n, row.n_baseline) == (exact(welch.pvalue), 5, 8)
    ends = welch.confidence_interval(1 - 0.05 / len(table))
    assert (row.low, row.high) == exact((ends.low, ends.high))
    assert list(table.p_holm) == exact(holm(list(table.p)))


def test_repeats_pair_only_where_there_are_common_ones(tmp_path: Path) -> None:
    first = save(tmp_path / "first", {0.5: [0.7, 0.72, 0.71], 1.0: [0.6, 0.61, 0.64]})
    late = {0.5: [None, None, 0.75, 0.76, 0.77], 1.0: [None, None, 0.7, 0.71, 0.72]}
    table = load_several([first, save(tmp_path / "late", late)]).comparisons
    assert set(table.why) == {"1 common repeats"} and table.n.tolist() == [3] * 4
    cut = replace(RUN, train_images=100, augment="none")
    other = save(tmp_path / "cut", {0.5: [0.7, 0.72, 0.71], 1.0: [0.6, 0.61, 0.64]}, cut)
    why = load_several([first, other]).comparisons.why[0]
    assert why == "train images None and 100, augmentation crop and none"


def test_unpaired_folds_have_no_test(tmp_path: Path) -> None:
    """Paired ones have the corrected variance (1/8 + 1/4) s^2 (Nadeau and Bengio, 2003)."""
    folds = replace(RUN, folds=5)
    places = [
        save(tmp_path / "first", A, folds),
        save(tmp_path / "paired", B, replace(folds, student="resnet34")),
        save(tmp_path / "seed", B, replace(folds, seed=1)),
        save(tmp_path / "cut", B, RUN),
    ]
    side = load_several(places)
    table = side.comparisons.query("split == 'test' and pair == 'best'").set_index("study")
    assert table.why.tolist() == ["", "seed 0 and 1", "folds 5 and None"]
    d = np.subtract(B[0.5], A[0.5])
    t = d.mean() / np.sqrt((1 / 8 + 1 / 4) * d.var(ddof=1))
    assert table.p["paired"] == exact(2 * stats.t.sf(abs(t), 7))
    alone = table.loc[["seed", "cut"]]
    assert alone[["low", "high", "p", "p_holm"]].isna().all(axis=None)
    assert alone["diff"].tolist() == exact([d.mean()] * 2)
    assert "Welch" not in text(side)


def test_unpaired_teachers_are_the_sample(tmp_path: Path) -> None:
    four, one = replace(RUN, teachers=4), replace(RUN, teacher="resnet101")
    places = [save(tmp_path / "one", C, one), save(tmp_path / "four", A, four)]
    side = load_several(places)
    row = side.comparisons.query("split == 'val' and pair == 'best'").iloc[0]
    means = np.reshape(A[0.5], (2, 4)).mean(0)  # repeat r learns from teacher r mod 4
    welch = stats.ttest_ind(means, C[0.5], equal_var=False)
    assert row.why == "teachers 1 and 4" and row.p == exact(welch.pvalue)
    assert (row.n, row.n_baseline) == (8, 5)
    about = "new repeats on these training images with new teachers of these recipes on these test"
    assert about in text(side)


def test_other_data_are_refused_and_unknown_ones_said(tmp_path: Path, places: list[str]) -> None:
    other = save(tmp_path / "other", C, data="y")
    with pytest.raises(InputError, match=r"different data \(a: fashion, fingerprint x, 500 val"):
        load_several([places[0], other])
    unknown = save(tmp_path / "unknown", C, data=None)
    assert "unknown has no fingerprint" in load_several([places[0], unknown]).doubt


def test_a_training_function_is_unpaired_and_its_data_are_not_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IMAGES, "val", 8)
    own = Path(__file__).parents[1] / "goldens" / "studies" / "own_function"
    side = load_several([save(tmp_path / "a", A), str(own)])
    (row,) = side.comparisons.query("split == 'val'").to_dict("records")
    results = side.studies["own_function"]
    best = results.trials[results.trials.config_id == results.best()]["val/acc@last"]
    assert row["p"] == exact(stats.ttest_ind(best, A[0.5], equal_var=False).pvalue)
    words = text(side)
    assert "(a training function has random seeds of its own)" in words
    assert "own_function has no fingerprint" in words
    assert write_comparison(side, tmp_path / "page.html").exists()
    with pytest.raises(InputError, match="own_function has acc and not kl"):
        load_several([str(tmp_path / "a"), str(own)], Criterion("kl"))


def test_the_recipe_of_a_teacher_that_is_not_trained_does_not_differ(tmp_path: Path) -> None:
    recipes = ({"teacher_lr": 0.1}, {"teacher_lr": 0.2}, {"teacher_epochs": 3, "epochs": 4})
    runs = [replace(RUN, **({"teacher_epochs": 0} | recipe)) for recipe in recipes]
    places = [save(tmp_path / str(k), C, run) for k, run in enumerate(runs)]
    names = [set(differing_settings(load_several(p).studies).setting) for p in (places[:2], places)]
    assert names[0] == set() and names[1] >= {"teacher_epochs", "teacher_lr", "epochs"}


def test_the_latest_comes_first_and_a_damaged_study_is_a_row(tmp_path: Path) -> None:
    for day, gain in enumerate([-0.05, 0.05, 0.012]):
        write_study(folder := tmp_path / f"day{day}", draw({0.5: gain, 1.0: 0.0}, 8))
        edit_records(folder, lambda line, day=day: line.update(time=1.7e9 + 86_400 * day))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "study.json").write_text("{")
    write_study(tmp_path / "strange", draw({0.5: 0.0, 1.0: 0.0}, 2))
    edit_records(tmp_path / "strange", lambda line: line.pop("epochs", None))
    (tmp_path / "notes").mkdir()  # no study
    table = list_studies(tmp_path).set_index("name")
    assert list(table.index) == ["day2", "day1", "day0", "cut", "strange"]
    assert table.state["cut"].startswith("damaged: study.json is not a study")
    assert table.state["strange"].endswith("0 of 4 runs completed, 4 damaged records")
    for day, verdict in enumerate(("worse: -", "better: +", "not significant: ")):
        assert table.verdict[f"day{day}"].startswith(verdict)
    want = pd.Series(draw({0.5: 0.05, 1.0: 0.0}, 8)[0.5])
    assert (table["mean"]["day1"], table["std"]["day1"]) == exact((want.mean(), want.std()))


def test_the_conclusion_is_on_the_student_of_the_best_configuration(tmp_path: Path) -> None:
    both = (("resnet18", 0.6, 0.2), ("resnet34", 0.8, 0.01))
    made = make(
        tmp_path / "two",
        {
            replace(RUN, student=student, alpha=alpha): [base + gain + r / 1000 for r in range(4)]
            for student, base, gained in both
            for alpha, gain in ((0.5, gained), (1.0, 0.0))
        },
    )
    assert len(made.compared_students()) == 2
    (row,) = list_studies(tmp_path).to_dict("records")
    assert "resnet34" in row["best"] and row["verdict"].startswith("not significant: +1.0")
