"""What students cost beside what they achieve: frames, frontier, limits, which one to take.

Whether a student may replace a reference, against crossed tables made of the predictions here: the
study is a stored one of three repeats with real predictions, costs and students/.
"""

import json
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from study_folders import at, cost, draw, edit_json, make, make_final, trials_of, write_predictions

import kdtune
import kdtune.analysis
from kdtune.analysis import parse
from kdtune.config.cli import ComparisonFlags
from kdtune.config.records import Limits, write_costs
from kdtune.config.study import Study
from kdtune.config.text import InputError
from kdtune.raytune.folder import merge_with_saved
from kdtune.results.comparison import Criterion, Judged, contenders
from kdtune.results.costs import best_within, cost_frame, cost_text, frontier, pareto
from kdtune.results.design import Design
from kdtune.results.replacement import recorded_sentences, replaces
from kdtune.results.results import Results, criterion_of, load
from kdtune.results.words import choice_text
from kdtune.statistics.intervals import components, crossed
from kdtune.statistics.tests import detectable_difference, holm
from kdtune.storage.records import FinalPair, Round, read_saved

exact = pytest.approx
SMALL, LARGE, TEACHER = "pkg:small", "pkg:large", "pkg:teacher"
COSTS = cost_frame(
    [
        cost(LARGE, params=90_000, ms=3.0),
        cost(SMALL, params=1_000, ms=0.5),
        cost(TEACHER, "teacher", params=500_000, ms=20.0),
    ]
)


def two_students() -> pd.DataFrame:
    """Return trials of two students."""
    begun = (("student", LARGE),)
    small, large = (partial(at, student=student, study_values=begun) for student in (SMALL, LARGE))
    last = {
        small(0.5): [0.70, 0.72],
        small(0.1): [0.69, 0.69],
        small(1.0): [0.60, 0.60],
        large(0.5): [0.79, 0.81],
        large(1.0): [0.80, 0.84],
    }
    trials = trials_of(last).assign(phase="search")
    return trials.assign(**{"test/acc@last": trials["val/acc@last"] - 0.1})


def within(criterion: Criterion, trials: pd.DataFrame | None = None) -> str:
    phases = [two_students() if trials is None else trials]
    return best_within(phases, COSTS, criterion, criterion.limits, ["alpha", "student"])


def test_a_number_that_was_not_measured_is_a_dash() -> None:
    unknown = replace(cost(SMALL), flops=None, latency_ms_iqr=None, latency32_ms=None)
    _, table, note = cost_text(cost_frame([unknown, cost(LARGE)]), [])
    cells = [line.replace(" ", "").split("|")[-4:-1] for line in table.splitlines()[2:]]
    assert cells == [["-", "0.25", "-"], ["745k", "0.250(IQR0.013)", "2"]]
    assert '("-": the measurement would have taken more than a second)' in note
    assert '"-"' not in cost_text(COSTS, [])[-1]


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12))
def test_the_frontier_against_brute_force(points: list[tuple[int, int]]) -> None:
    want = []
    for c, v in points:
        beaten = False
        for other_c, other_v in points:
            if other_c <= c and other_v >= v and (other_c, other_v) != (c, v):
                beaten = True
        want.append(not beaten)
    costs, values = zip(*points, strict=True)
    assert list(pareto(costs, values)) == want


def test_the_best_of_each_student_with_and_without_distillation() -> None:
    table = frontier(two_students(), COSTS, Criterion(), ["alpha"])
    assert list(table.student) == [SMALL, SMALL, LARGE, LARGE]  # cheapest first
    assert list(table.arm) == ["distilled", "plain"] * 2
    assert list(table.label) == ["alpha = 0.5", "alpha = 1"] * 2
    assert list(table["mean"]) == exact([0.71, 0.60, 0.80, 0.82])
    assert table.low.isna().all() and table.high.isna().all()  # of two repeats
    assert list(table.n) == [2, 2, 2, 2]
    assert list(table.latency_ms) == [0.5, 0.5, 3.0, 3.0]
    assert list(table["efficient/latency_ms"]) == [True, False, False, True]
    assert list(table["efficient/params"]) == [True, False, False, True]


@pytest.mark.parametrize(
    ("limits", "parts", "absent"),
    [
        (Limits(2.0), ("pkg:small (0.5 ms", "alpha = 0.5", "Excluded by cost: pkg:large"), "spans"),
        (Limits(3.2), ("pkg:large (3 ms",), "spans"),
        # the ends count; the interquartile range of 3 ms is 0.15 ms
        (Limits(3.0, 90_000), (": pkg:large (", "alpha = 1; validation accuracy 82"), "Excluded"),
        (Limits(2.9), ("cost: pkg:large (3 ms with an interquartile range of 0.15,",), ""),
        (Limits(3.1), ("pkg:large (3 ms with an interquartile range of 0.15, which spans",), ""),
        (Limits(0.1, 10), ("No student has a latency", "pkg:small (0.5 ms, 1,000 param"), "Best"),
    ],
)
def test_the_best_student_within_limits(limits: Limits, parts: tuple, absent: str) -> None:
    text = within(Criterion(limits=limits))
    assert all(part in text for part in parts), text
    assert not absent or absent not in text


def test_a_student_without_a_cost_or_a_run_is_not_chosen() -> None:
    trials = two_students()
    of_large = trials["config/student"] == LARGE
    text = within(Criterion(limits=Limits(max_params=5_000)), trials[of_large])
    assert text.startswith("No run of a student with at most 5,000 parameters has completed yet.")
    trials.loc[of_large, "config/student"] = "pkg:new"
    text = within(Criterion(limits=Limits(10.0)), trials)
    assert ": pkg:small (" in text and text.endswith("Excluded by cost: pkg:new (not measured).")


def test_finalists_count_if_one_is_within_else_the_search() -> None:
    trials = two_students()
    of_large = trials[trials["config/student"] == LARGE].assign(phase="final")
    cheap, dear = Limits(2.0), Limits(max_params=10**6)
    text = best_within([of_large, trials], COSTS, Criterion(), cheap, ["alpha"])
    assert "pkg:small (0.5 ms" in text and "optimistic" in text
    text = best_within([of_large, trials], COSTS, Criterion(), dear, ["alpha"])
    assert "pkg:large (3 ms" in text and "with alpha = 1;" in text and "optimistic" in text
    plain, distilled = (of_large.config_id[of_large["config/alpha"] == a].iloc[0] for a in (1, 0.5))
    pair = FinalPair(student=LARGE, baseline=plain, distilled=distilled)
    recorded = Round(0, 2000, (pair,), (distilled, plain))
    text = best_within([of_large, trials], COSTS, Criterion(), dear, ["alpha"], recorded)
    assert "with alpha = 0.5;" in text and "held-out repeats" in text


FAR, NEAR = 0.10, 0.001
"""Behind the best, in a study whose differences have an SD of 0.014 over 8 repeats."""


def said(results: Results, criterion: Criterion | None = None) -> str:
    criterion = criterion or results.criterion()
    return choice_text(results.contenders(criterion), criterion, results.design)


def states(results: Results, criterion: Criterion | None = None) -> list[str]:
    """Return "best" for those that may be, "!" for the cheapest, "?" for those not compared."""
    return [
        "best" * row.may_be_best + "!" * row.cheapest + "?" * pd.isna(row.p_best)
        for row in results.contenders(criterion).itertuples()
    ]


def test_the_cheapest_of_those_that_may_be_the_best(tmp_path) -> None:
    """Of the students the faster one; of one student training without a teacher, then the mean."""
    small, large = (partial(at, student=student) for student in (SMALL, LARGE))
    last = draw({large(0.5): 0.0, large(1.0): -FAR, small(0.5): -NEAR, small(0.1): -FAR}, 8)
    made = make(tmp_path, last)
    write_costs(tmp_path, [cost(SMALL, ms=0.5), cost(LARGE, ms=3.0)])
    table = (made := kdtune.load(tmp_path)).contenders()
    assert table.may_be_best.tolist() == [True, True, False, False]
    cheapest = table[table.cheapest].iloc[0]
    assert (cheapest["config/student"], cheapest["config/alpha"]) == (SMALL, 0.5)
    assert cheapest.latency_ms == 0.5 and table.p_best.sum() == exact(1)
    text = said(made)
    assert "of 4 configurations 2 are not distinguishable from the best" in text
    assert "n = 8 repeats)" in text and text.endswith(" (0.5 ms).") and text in made.text()
    within = made.criterion(limits=Limits(max_ms=1.0))
    assert states(made, within) == ["best!", ""]
    assert "of 2 configurations only" in said(made, within)


@pytest.mark.parametrize(
    ("effects", "cheapest", "part"),
    [
        (
            {0.5: 0.0, 0.1: -NEAR, 1.0: -2 * NEAR},
            1.0,
            "is alpha = 1 (no teacher needed; its mean is 0.7 percentage points from the best).",
        ),
        ({0.5: 0.0, 0.1: -NEAR, 1.0: -FAR}, None, "; they cost the same, and alpha = 0."),
        ({0.5: 0.0, 0.1: -FAR, 1.0: -FAR}, 0.5, "only alpha = 0.5 is not distinguishable"),
    ],
)
def test_of_one_student(tmp_path, effects: dict, cheapest: float | None, part: str) -> None:
    made = make(tmp_path, draw(effects, 8, seed=5))
    table = made.contenders()
    assert part in said(made)
    assert table["config/alpha"][table.cheapest].item() == (cheapest or table["config/alpha"][0])
    write_predictions(made)
    images = kdtune.load(tmp_path)
    assert "n = 8 repeats × 500 images" in said(images)
    assert images.contenders().may_be_best.sum() >= table.may_be_best.sum()


def test_a_margin_of_practical_equality(tmp_path) -> None:
    made = make(tmp_path, draw({0.5: 0.0, 1.0: -0.03}, 8))
    for equal, want in ((0.0, ["best!", ""]), (0.5, ["best!", ""]), (5.0, ["best", "best!"])):
        criterion = criterion_of(ComparisonFlags((str(tmp_path),), equal=equal), made)
        assert states(made, criterion) == want and criterion.equal == exact(equal / 100)
        margin = f", margin {equal} percentage points, n = 8"
        assert (margin in said(made, criterion)) == (equal > 0)
    flags = ComparisonFlags((str(tmp_path),), metric="ce", equal=0.5)
    assert criterion_of(flags, made).equal == 0.5  # nats
    with pytest.raises(InputError, match=r"equal must be above 0 and below 100 .*, but got 200"):
        made.criterion(equal=2)


def test_configurations_that_were_stopped_or_lack_repeats(tmp_path) -> None:
    """The study's own test has excluded the former; the latter cannot be excluded."""
    last = draw({0.5: 0.0, 0.3: -0.02, 0.1: -NEAR, 1.0: -NEAR}, 8, 5)
    few = last | {0.3: [0.5], 0.1: last[0.1][:2]}
    made = make(tmp_path / "pruned", few, {(0.3, 0): "pruned"}, stop_early=True)
    assert sorted(states(made)) == ["?", "best", "best!", "best?"]
    assert "; the search stopped 1; 1 more cannot be excluded, for lack of" in said(made)
    final = {0.5: last[0.5][:3], 1.0: last[1.0][:3]}
    raced = make_final(tmp_path / "raced", few, final, policy="race")
    assert sorted(states(raced)) == ["?", "?", "best", "best!"]
    assert "of 4 configurations 2 are" in said(raced) and "stopped 2" in said(raced)
    # the race of training without distillation ended early, with one configuration left
    early = make_final(tmp_path / "early", few | {1.0: last[1.0][:3]}, final, policy="race")
    assert sorted(states(early)) == ["?", "?", "best!", "best?"]
    two = make(tmp_path / "two", {alpha: accs[:2] for alpha, accs in last.items()})
    assert said(two) == "" and states(two) == ["best?"] * 4


@pytest.mark.parametrize(
    ("design", "n", "size"), [(Design(teachers=3), 3, 2), (Design(folds=3), 6, 2), (Design(), 6, 1)]
)
def test_the_design_of_the_repeats_counts(design: Design, n: int, size: int) -> None:
    """A difference that is clear over 6 repeats is not over 3 teachers, or overlapping folds."""
    trials = trials_of(draw({0.5: 0.0, 1.0: -0.012}, 6, 5)).assign(n_epochs_planned=3, seconds=1.0)
    table = contenders(Judged(trials, Criterion(), design=design))
    assert table.may_be_best.sum() == size and table.n_units.tolist() == [n, n]


STUDIES = Path(__file__).parents[1] / "goldens" / "studies"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(STUDIES / "schema_4", tmp_path / "study"))


@pytest.fixture
def frame(folder: Path) -> pd.DataFrame:
    """Return the predictions of the best configuration on test, by repeat and example."""
    rows = kdtune.load(folder).predictions("test")
    rows = rows[rows.config_id == kdtune.load(folder).best()].sort_values(["repeat", "example"])
    return rows.assign(right=rows.correct.astype(float), known=1.0 * (rows.teacher == rows.label))


def tables(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Return whether student and teacher are right, [R, N] both."""
    n = frame["repeat"].nunique()
    return frame.right.to_numpy().reshape(n, -1), frame.known.to_numpy().reshape(n, -1)


def edit(folder: Path, **values: object) -> None:
    edit_json(folder / "study.json", lambda study: study.update(values))


def command(capsys: pytest.CaptureFixture[str], line: str) -> str:
    assert kdtune.analysis.main(parse(line.split())) == 0
    return " ".join(capsys.readouterr().out.split())


def wide(d: np.ndarray) -> np.ndarray:
    """Differences with two images more, one with each of the largest (Bonett and Price, 2012)."""
    rows = np.atleast_2d(d)
    return np.hstack([rows, np.tile([1.0, -1.0], (len(rows), 1))])


def test_the_recipe_is_judged_over_repeats_and_images(folder: Path, frame: pd.DataFrame) -> None:
    student, teacher = tables(frame)
    table = kdtune.load(folder).replaces(margin=0.01)
    assert table.kind.tolist() == ["recipe", "file"] and set(table.split) == {"test"}
    with pytest.raises(InputError, match="a replacement, but nope has none"):
        kdtune.load(folder).replaces(margin=0.01, configs=["nope"])
    for configs, selected in (((), [True, False]), ([table.config_id[0]], [False, False])):
        sentences = replaces(load(folder), margin=0.01, configs=configs).sentences
        assert ["the best on val in the same repeats" in text for text in sentences] == selected
    row, estimate = table.iloc[0], crossed(student - teacher)
    assert row["diff"] == exact(estimate.mean) and (row.n, row.n_images) == student.shape
    assert (row.low, row.high) == exact(crossed(wide(student - teacher)).interval())
    at = kdtune.load(folder).replaces(margin=0.173).iloc[0]
    parts = components(wide(student - teacher))  # three repeats vary too much for 80 % power
    assert at.images_needed == math.inf
    assert detectable_difference(parts, 3, 1e9) > at["diff"] + 0.173
    assert (row.student, row.reference) == exact((student.mean(), teacher.mean()))
    negative, positive = teacher * (1 - student), student * (1 - teacher)
    assert (row.negative_flips, row.positive_flips) == exact((negative.mean(), positive.mean()))
    assert row.positive_flips - row.negative_flips == exact(row["diff"])
    for name, flips in (("negative_flips", negative), ("positive_flips", positive)):
        low, high = crossed(flips).interval()  # Wilson's is not symmetric, but nearly as wide
        assert row[f"{name}_high"] - row[f"{name}_low"] == exact(high - low, rel=0.15)
        assert 0 < row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    costs = kdtune.load(folder).costs.set_index("role")
    assert row.latency_ratio == exact(costs.latency_ms["student"] / costs.latency_ms["teacher"])
    assert row.size_ratio == exact(costs.bytes["student"] / costs.bytes["teacher"])


def test_the_file_that_ships_is_one_run_on_new_images(folder: Path, frame: pd.DataFrame) -> None:
    student, teacher = tables(frame)
    row = kdtune.load(folder).replaces(margin=0.01).iloc[1]
    d = student[0] - teacher[0]
    ends = stats.ttest_1samp(wide(d)[0], 0).confidence_interval()
    assert (row["diff"], row.low, row.high) == exact((d.mean(), ends.low, ends.high))
    assert row.negative_flips == exact((teacher[0] > student[0]).mean())
    needed = kdtune.load(folder).replaces(margin=0.05).iloc[1].images_needed
    sd, power = wide(d).std(ddof=1), []
    for n in (needed, needed - 1):  # of the t test of the wider differences
        shift, limit = abs(d.mean() + 0.05) / sd * n**0.5, stats.t.ppf(0.975, n - 1)
        power.append(stats.nct.sf(limit, n - 1, shift) + stats.nct.cdf(-limit, n - 1, shift))
    assert power[0] > 0.8 > power[1] - 1e-9
    shutil.rmtree(folder / "students")
    assert kdtune.load(folder).replaces(margin=0.01).kind.tolist() == ["recipe"]


def test_the_worst_class_and_slices_are_adjusted_by_holm(
    folder: Path, frame: pd.DataFrame, capsys: pytest.CaptureFixture[str]
) -> None:
    student, teacher = tables(frame)
    first = frame[frame["repeat"] == frame["repeat"].min()]
    masks = [(first.label == k).to_numpy() for k in sorted(first.label.unique())]
    of_each = [crossed((student - teacher)[:, mask]) for mask in masks]
    worst = int(np.argmin([estimate.mean for estimate in of_each]))
    row = kdtune.load(folder).replaces(margin=0.01).iloc[0]
    assert row.worst_diff == exact(of_each[worst].mean)
    assert row.worst_p == exact(holm([estimate.p for estimate in of_each])[worst])

    columns = {"example": first.example, "half": np.where(first.example % 2, "odd", "even")}
    slices = pd.DataFrame(columns | {"kind": first.label.to_numpy() % 3})
    table = replaces(load(folder), margin=0.01, slices=slices).slices
    recipe = table[table.kind == "recipe"]
    assert recipe["column"].tolist() == ["half"] * 2 + ["kind"] * 3
    of_slices = [first.example % 2 == 0, first.example % 2 == 1]
    of_slices += [first.label % 3 == k for k in range(3)]
    estimates = [crossed((student - teacher)[:, mask.to_numpy()]) for mask in of_slices]
    assert recipe["diff"].tolist() == exact([estimate.mean for estimate in estimates])
    assert recipe.low.tolist() == exact([max(e.interval(0.99)[0], -1) for e in estimates])
    assert recipe.p_holm.tolist() == exact(holm([e.p for e in estimates]))
    slices.to_csv(folder / "slices.csv", index=False)
    out = command(capsys, f"{folder} --margin 1 --slices {folder / 'slices.csv'}")
    assert "| half | odd | 500 |" in out and "| as | recipe | file |" in out
    assert command(capsys, f"{folder} --margin 1 --format csv").startswith("config_id,label,kind,s")
    of = [slices.assign(**{name: value}) for name, value in (("example", 0), ("kind", np.nan))]
    of += [slices.assign(kind=slices.example), slices.assign(example=slices.example + 5000)]
    for wrong in (slices.drop(columns="example"), slices.head(0), slices[["example"]], *of):
        with pytest.raises(InputError, match="a column example, the index or the file of ex"):
            replaces(load(folder), margin=0.01, slices=wrong)


@pytest.mark.parametrize("margin", [1e-9, 0.999])
def test_outcomes_and_the_images_that_decide(folder: Path, margin: float) -> None:
    """With so many images an interval of the same components ends at the margin."""
    row = kdtune.load(folder).replaces(margin=margin).iloc[0]
    outcome = "non-inferior" if row.low > -margin else "inferior" if row.high < -margin else ""
    assert row.outcome == (outcome or "undecided")
    assert bool(outcome) == np.isnan(row.images_needed)
    near = (row["diff"] + row.high) / 2  # inside of the interval
    near = kdtune.load(folder).replaces(margin=abs(near)).iloc[0] if near < 0 else row
    assert near.outcome == "undecided" and near.images_needed > near.n_images


def test_outputs_of_a_file_are_the_same_as_the_teacher(folder: Path, frame: pd.DataFrame) -> None:
    """The teacher's classes, as probabilities in another order of the classes, named or by csv."""
    classes = json.loads((folder / "provenance.json").read_text())["classes"]
    first = frame[frame["repeat"] == frame["repeat"].min()]
    order = list(reversed(range(len(classes))))
    one_hot = (np.array(order)[None] == first.teacher.to_numpy()[:, None]) * 0.8 + 0.02
    content = {"split": ["test"] * len(first), "example": first.example.to_numpy()}
    outputs = pa.table(content | {"probabilities": list(one_hot)})
    named = json.dumps([classes[k] for k in order])
    pq.write_table(outputs.replace_schema_metadata({"classes": named}), folder / "outputs.parquet")
    names = [classes[k] for k in first.teacher.astype(int)]
    pd.DataFrame(content | {"predicted": names}).to_csv(folder / "outputs.csv", index=False)
    results = kdtune.load(folder)
    wanted = results.replaces(margin=0.01).drop(columns=["latency_ratio", "size_ratio"])
    for name in ("outputs.parquet", "outputs.csv"):
        table = results.replaces(str(folder / name), 0.01)
        assert table.latency_ratio.isna().all()
        pd.testing.assert_frame_equal(table[list(wanted)], wanted)
    few = pd.DataFrame(content | {"predicted": names})[1:]
    few.to_csv(folder / "few.csv", index=False)
    with pytest.raises(InputError, match=r"few.csv must .*, but 1 of 1,000 have none, such as 0"):
        results.replaces(str(folder / "few.csv"), 0.01)
    few.rename(columns={"predicted": "guess"}).to_csv(folder / "few.csv", index=False)
    with pytest.raises(InputError, match="must have the column example or file, each once, pred"):
        results.replaces(str(folder / "few.csv"), 0.01)


def test_another_study_is_paired_where_its_repeats_are(folder: Path, frame: pd.DataFrame) -> None:
    """The reference of ce, of which lower values are better, is the same study without students."""
    other = Path(shutil.copytree(folder, folder.parent / "other"))
    same = kdtune.load(folder).replaces(str(other), 0.01).iloc[0]
    assert (same["diff"], same.negative_flips, same.outcome) == (0, 0, "non-inferior")
    assert same.high == exact(crossed(wide(np.zeros((same.n, 1000)))).interval()[1])
    assert (same.low, same.latency_ratio) == (exact(-same.high), 1)
    of_ce = replaces(load(folder), str(other), 0.01, criterion=load(folder).criterion("ce"))
    assert of_ce.table.low.isna().all() and set(of_ce.table.outcome) == {"undecided"}

    run = json.loads((other / "study.json").read_text())["run"]
    edit(other, run=run | {"seed": 7})
    verdict = replaces(load(folder), str(other), 0.01)
    student, _ = tables(frame)
    d = student - student.mean(0)
    assert verdict.table["diff"][0] == exact(0, abs=1e-12)
    assert (verdict.table.low[0], verdict.table.high[0]) == exact(crossed(wide(d)).interval())
    assert verdict.table.negative_flips[0] == exact((student.mean(0) * (1 - student)).mean())
    assert verdict.sentences[-1].endswith("not those of the student (seed 0 and 7).")
    with pytest.raises(InputError, match="each study must be given once"):
        replaces(load(folder), str(folder), 0.01)


def test_lower_values_of_a_metric_are_better(tmp_path: Path) -> None:
    """ce of the reference is 0.1 lower: the difference is +0.1, a loss."""
    worse = make(tmp_path / "worse", draw({0.5: 0.0, 1.0: -0.1}, 4), name="worse")
    frame = write_predictions(worse, classes=["ant", "bee"], images=60, splits=("val", "test"))
    better = Path(shutil.copytree(tmp_path / "worse", tmp_path / "better"))
    frame["p_label"] *= np.exp(np.random.default_rng(0).uniform(0.08, 0.12, len(frame)))
    frame.to_parquet(better / "predictions.parquet", index=False)
    results = load(tmp_path / "worse")
    for margin, outcome in ((0.05, "inferior"), (0.15, "non-inferior")):
        of_ce = replaces(results, str(better), margin, criterion=results.criterion("ce"))
        row = of_ce.table.iloc[0]
        assert row["diff"] == exact(0.1, abs=2e-3) and row.filter(like="flips").isna().all()
        assert row.outcome == outcome
    with pytest.raises(InputError, match="--metric must be acc, or --against a study, not ce"):
        replaces(results, margin=0.1, criterion=results.criterion("ce"))


REFUSED = {
    "--against teacher": "must be used with --margin, the largest loss that you accept",
    "--margin 100": "margin must be above 0 and below 100 percentage points, but got 100",
    "--margin 1 --pooled": "pooled must be left out with --against or --margin",
    "--margin 1 --scope best": r"needs a value per example .*, not acc \(--scope best\)",
    "--margin 1 --slices no.csv": "--slices must be a file, but no.csv does not exist",
}


def test_fixed_in_advance_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert recorded_sentences(load(folder)) == []
    before = command(capsys, f"{folder} --verbose")
    assert "(chosen after the results)" in command(capsys, f"{folder} --margin 2.5")
    for flags, error in REFUSED.items():
        with pytest.raises(InputError, match=error):
            command(capsys, f"{folder} {flags}")
    edit(folder, margin=2.5)
    recipe, file = recorded_sentences(load(folder))
    assert "margin of 2.5 percentage points (fixed in advance): test accuracy differs" in recipe
    assert "n = 3 repeats × 1,000 images), for new repeats" in recipe
    assert file.startswith("The student that ships (") and "for new images like those of t" in file
    assert command(capsys, f"{folder} --verbose") == f"{recipe} {file} {before}"
    assert command(capsys, f"{folder}").startswith(f"{recipe} {file} ")
    assert "(fixed in advance)" in command(capsys, f"{folder} --margin 2.5 --against teacher")
    assert "(chosen after the results)" in command(capsys, f"{folder} --margin 2.4")
    edit(folder, against="gone.parquet")
    assert recorded_sentences(load(folder))[0].startswith("Whether the student may replace --aga")
    with pytest.raises(InputError, match=r"gone.parquet does not exist"):
        kdtune.load(folder).replaces()


def test_a_study_that_has_begun_keeps_its_margin(folder: Path, tmp_path: Path) -> None:
    study, lines = read_saved(folder).study, []
    assert study.margin is None and '"margin": null' in study.to_json()
    asked = Study.from_json(study.to_json().replace('"margin": null', '"margin": 1.0'))
    assert merge_with_saved(asked, read_saved(folder), lines.append).margin is None
    assert "was begun with no --margin (kdtune.analysis takes one after" in lines[0]
    edit(folder, margin=2.0, against="teacher")
    assert merge_with_saved(asked, read_saved(folder), lines.append).margin == 2
    assert "was begun with --against teacher --margin 2.0; continuing" in lines[1]
    with pytest.raises(InputError, match="margin must be given with --against"):
        Study(against="teacher")
    with pytest.raises(InputError, match="margin must be below 100 percentage points"):
        Study(margin=100)


def test_val_that_chose_the_student_is_said_and_missing_predictions(tmp_path: Path) -> None:
    made = make(tmp_path / "s", draw({0.5: 0.02, 1.0: 0.0}, 4))
    with pytest.raises(InputError, match=r"lacks those of .*, or an early version wrote them"):
        made.replaces(margin=0.02)
    frame = write_predictions(made, classes=["ant", "bee"], images=60, splits=("val", "test"))
    frame.assign(teacher=None).to_parquet(made.folder / "predictions.parquet")
    with pytest.raises(InputError, match="the teacher must have an output for each example of te"):
        made.replaces(margin=0.02)


def test_folds_and_groups_and_teachers_are_judged_by_their_design(tmp_path: Path) -> None:
    for name in ("folds", "teachers", "race"):
        results = kdtune.load(shutil.copytree(STUDIES / name, tmp_path / name))
        row = results.replaces(margin=0.05).iloc[0]
        near = results.replaces(margin=abs(row["diff"] + row.high) / 2).iloc[0]
        assert near.outcome == "undecided" and np.isnan(near.images_needed) == (name != "race")
        assert row.low < row["diff"] < row.high and row.label == results.label(results.best())


def samples(tmp_path: Path, runs: int) -> Path:
    """Write logs in the layout of lm-evaluation-harness as one table; return its file.

    Each line of its samples_TASK_DATE.jsonl has doc_id, doc, target, filter, ..., and the metric.
    """
    rng, files = np.random.default_rng(0), []
    for model, share in (("new", 0.75), ("old", 0.8)):
        for run in range(runs):
            acc = (rng.random(200) < share).astype(float)
            lines = [
                {"doc_id": i, "doc": {"question": "?"}, "target": "A", "resps": [["A"]]}
                | {"filter": "none", "metrics": ["acc"], "doc_hash": f"{i:x}", "acc": value}
                for i, value in enumerate(acc)
            ]
            files.append(tmp_path / f"{model}-{run}.jsonl")
            files[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    logs = {f.stem: pd.read_json(f, lines=True)[["doc_id", "acc"]] for f in files}
    named = [log.assign(model=name[:3], run=int(name[4:])) for name, log in logs.items()]
    pd.concat(named).to_csv(tmp_path / "log.csv", index=False)
    return tmp_path / "log.csv"


@pytest.mark.parametrize("runs", [1, 4])
def test_a_log_of_a_harness(runs: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = samples(tmp_path, runs)
    of = {name: rows for name, rows in pd.read_csv(file).groupby("model")}
    new, old = (of[n].acc.to_numpy().reshape(runs, -1) for n in ("new", "old"))
    line = f"{file} --by model --repeat run --example doc_id --metric acc --baseline model=old"
    result = kdtune.compare(file, "model", "run", "acc", example="doc_id", margin=0.1,
                            baseline={"model": "old"})  # fmt: skip
    row, d = result.replacements.iloc[0], new - old
    one = stats.ttest_1samp(wide(d)[0], 0).confidence_interval()
    ends = (one.low, one.high) if runs == 1 else crossed(wide(d)).interval()
    assert (row.low, row.high) == exact(ends) and row.is_one_run == (runs == 1)
    assert row.negative_flips == exact((old > new).mean())
    out = command(capsys, f"{line} --margin 10")
    about = {1: "for this run and new examples, n = 200)", 4: "n = 4 repeats × 200 examples)"}
    assert "to model = old at a margin of 10.0 percentage points: " in out and about[runs] in out
    assert "Negative flips, where model = old alone is right: " in out
    assert "margin" not in command(capsys, line)
    with pytest.raises(InputError, match="margin must be above 0 and below 100 percentage points"):
        replace(result, margin=1.0).text()
