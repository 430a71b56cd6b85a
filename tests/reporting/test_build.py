"""The whole page: reproducible, safe, small, equal to the dataframes, made without torch."""

import base64
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from html_reader import Reader
from study_folders import (
    RUN,
    at,
    cost,
    draw,
    grid,
    make,
    make_final,
    starting_repository,
    write_predictions,
)
from whole_predictions import write_whole_predictions

import kdtune
import kdtune.report as report_command
from kdtune.config.defaults import fashion
from kdtune.config.files import PROVENANCE
from kdtune.config.records import write_costs
from kdtune.config.task import RECORDED
from kdtune.config.text import InputError
from kdtune.report import ReportFlags
from kdtune.reporting import build
from kdtune.reporting.canvas import figure_style, inline
from kdtune.reporting.figures import (
    CLASS_FIGURES,
    FIGURE_NAMES,
    FRONTIERS,
    all_figures,
    forest_plot,
    frontier_plot,
    repeats_plot,
)
from kdtune.results.comparison import Criterion
from kdtune.results.results import Results

HOSTILE = "</td></script><script>alert('1')</script> & \"two\" 'one' $verdict ${data} <b>"


def html_of(results: Results, criterion: Criterion | None = None) -> str:
    """Return the page without writing files."""
    criterion = criterion or Criterion()
    figures = {f.name: inline(f) for f in all_figures(results, criterion)}
    return build.html(results, criterion, figures)


def words_of(results: Results, criterion: Criterion | None = None) -> str:
    return Reader(build.html(results, criterion or Criterion(), {})).words


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """The configurations of the default study, with 4 repeats and 20 epochs."""
    folder, study = tmp_path_factory.mktemp("whole"), fashion()
    runs = [replace(run, epochs=20) for run in study.runs()]
    last = draw({run: 0.03 * (run.alpha == 0.1) for run in runs}, 4)
    made = make(folder, last, run=replace(study.run, epochs=20), space=study.space)
    write_predictions(made)
    write_costs(folder, [cost(study.run.student), cost(study.run.teacher, "teacher", 24_314)])
    return kdtune.load(folder)


@pytest.fixture(scope="module")
def text(whole: Results) -> str:
    return build.write(whole, Criterion(), whole.folder).read_text("utf-8")


# Content


def test_the_conclusion_comes_first_then_the_sections_in_order(whole, text) -> None:
    read = Reader(text)
    words = read.words
    assert words.index(whole.verdict()) < words.index("Study")
    titles = ["Study", "Summary", "Learning curves", "Comparisons"]
    titles += ["What a student costs", "Sensitivity"]
    titles += ["Best configuration", "Methods", "Glossary", "Provenance"]
    assert [t for t in read.within("h2") if t.strip()] == titles
    assert "complete: 20 runs" in words
    assert len([t for t, _ in read.tags if t == "figure"]) == text.count("<figcaption>") >= 13


def test_it_is_small_and_complete_without_network_and_scripts(text) -> None:
    assert len(text.encode()) < 1_000_000
    read = Reader(text)
    scripts = [attrs for tag, attrs in read.tags if tag == "script"]
    assert [s.get("type") for s in scripts] == ["application/json", None]
    for tag, attrs in read.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert str(attrs.get(name, "#")).startswith(("#", "data:,", "data:image/png;")), (
                tag,
                attrs,
            )
    css = "".join(read.within("style"))
    assert "@import" not in css and not re.search(r"url\((?!#)", css)
    (policy,) = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    (script,) = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy and policy.startswith("default-src 'none'")
    assert not re.search(r"fetch|XMLHttp|import|eval|innerHTML|https?:", script)


def test_ids_are_unique_and_references_exist(text) -> None:
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert references and {next(filter(None, r)) for r in references} <= set(ids)


def test_figures_are_also_files(whole, text) -> None:
    names = {file.stem for file in (whole.folder / "figures").glob("*.svg")}
    assert names == {file.stem for file in (whole.folder / "figures").glob("*.png")}
    assert {"acc", "acc-last-15", "loss", "logit_diff", "differences", "heat-map"} <= names
    assert "importance" not in names  # of five configurations


def test_the_data_equal_the_dataframes(whole, text) -> None:
    data = Reader(text).data
    trials = pd.DataFrame(data["trials"])
    assert data["study"] == whole.study.name and len(trials) == 20
    for name in trials:
        want = whole.trials[name]
        if pd.api.types.is_float_dtype(want):
            pd.testing.assert_series_equal(
                trials[name].astype(float), want.astype(float), rtol=6e-5, check_names=False
            )
        else:
            assert [x for x in trials[name] if not pd.isna(x)] == want.dropna().tolist()
    epochs = data["epochs"]
    frame = pd.DataFrame({k: v for k, v in epochs.items() if k not in ("every", "split")})
    frame["trial_id"] = trials.trial_id.to_numpy()[frame.trial]
    val = whole.epochs[(whole.epochs.split == epochs["split"])]
    assert epochs["every"] == 1 and len(frame) == len(val) == 20 * 20
    both = frame.merge(val, on=["trial_id", "epoch"], suffixes=("", "/want"), validate="1:1")
    recorded = [metric for metric in RECORDED if whole.epochs[metric].notna().any()]
    assert {"loss", "ce", "acc", "teacher_acc"} <= set(recorded)
    assert set(epochs) & set(RECORDED) == set(recorded)
    for metric in recorded:
        pd.testing.assert_series_equal(
            both[metric].astype(float), both[f"{metric}/want"], rtol=6e-5, check_names=False
        )


def test_of_many_epochs_the_data_keep_some_and_the_last(whole, monkeypatch) -> None:
    monkeypatch.setattr(build, "MAX_NUMBERS", 640)
    epochs = build.data(whole)["epochs"]
    assert epochs["every"] == 5  # of 20 x 20 x 8 numbers
    assert sorted(set(epochs["epoch"])) == list(range(4, 20, 5))
    monkeypatch.setattr(build, "MAX_NUMBERS", 20)
    epochs = build.data(whole)["epochs"]
    assert epochs["every"] == 0 and epochs["epoch"] == []


@pytest.mark.parametrize(
    "criterion",
    [Criterion("ce"), Criterion("gap", "best"), Criterion("acc", "last-5-avg", {"alpha": 0.5})],
)
def test_other_criteria(whole, criterion: Criterion) -> None:
    words = Reader(build.html(whole, criterion, {})).words
    assert whole.verdict(criterion) in words
    assert f"epoch selection {criterion.scope}" in words
    assert ("The epoch is selected by the accuracy that is reported" in words) == (
        criterion.scope == "best"
    )
    assert criterion.has_plain_baseline or "from alpha = 0.5 (T = " in words


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


def test_the_glossary_has_the_terms_of_the_study() -> None:
    """Its one source is docs/glossary.md; the page has neither Markdown nor other names."""
    both, general = build.glossary(True), build.glossary(False)
    assert {"alpha", "repeat", "BBC-CV", "p (Holm)", "win rate, P(better)"} <= set(both)
    assert "alpha" not in general and general == {k: v for k, v in both.items() if k in general}
    assert all(re.fullmatch(r"[A-Z0-9][^*`\[]*\.", meaning) for meaning in both.values())


# Texts from records


@pytest.mark.filterwarnings("ignore:constrained_layout")  # a name too long for any figure
def test_texts_from_records_are_escaped(tmp_path) -> None:
    run = {"data": f"/tmp/{HOSTILE}", "teacher": f"module:{HOSTILE}", "student": HOSTILE}
    study = {"run": replace(RUN, **run), "cache": HOSTILE}
    last = draw({at(0.1, student=HOSTILE): 0, 0.5: 0, 1.0: 0}, 4)
    make(tmp_path, last, {(0.5, 1): "failed"}, HOSTILE, **study)
    record = {"data": HOSTILE, "python": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    (tmp_path / PROVENANCE).write_text(json.dumps(record | {"command": ["python", HOSTILE]}))
    text = html_of(kdtune.load(tmp_path))
    read = Reader(text)
    assert [a.get("type") for t, a in read.tags if t == "script"] == ["application/json", None]
    assert "alert(" not in "".join(text for text in read.within("script") if text[0] != "{")
    assert not {"alert"} & {tag for tag, _ in read.tags}
    assert HOSTILE in read.data["trials"]["config/student"]
    # error, data, teacher, student, cache, fingerprint, version and its name, command, label
    assert read.words.count(HOSTILE) >= 10
    assert text.count("</script>") == 2 and text.count("<script") == 2


def test_figures_of_an_earlier_report_are_deleted_but_not_other_files(tmp_path) -> None:
    made = make(tmp_path / "study", {0.5: [0.7], 1.0: [0.6]}, {(0.5, 0): "failed"})
    figures = tmp_path / "out" / "figures"
    figures.mkdir(parents=True)
    for name in ("heat-map.svg", "heat-map.png", "my-own.svg", "heat-map.pdf"):
        (figures / name).write_text("")
    text = build.write(made, Criterion(), tmp_path / "out").read_text("utf-8")
    left = {file.name for file in figures.iterdir()}
    assert {"my-own.svg", "heat-map.pdf"} <= left and not left & {"heat-map.svg", "heat-map.png"}
    assert len(left) - 2 == 2 * text.count("<figure>")


# Incomplete studies


@pytest.mark.parametrize("fate", ["running", "failed", "pruned"])
def test_incomplete_studies(tmp_path, fate: str) -> None:
    last = draw({0.1: 0.0, 0.5: 0.0, 1.0: 0.0}, 4)
    made = make(tmp_path, last, {(0.5, r): fate for r in range(3)})
    words = Reader(build.html(made, Criterion(), {})).words
    assert made.status in words and made.verdict() in words
    assert f"{made.trials.status.value_counts()['completed']} of 12 runs completed" in words or (
        "complete: 9 runs, 3 failed or pruned" in words
    )
    assert "1 of 4" in words  # the summary says how many it averages


def test_a_study_without_a_completed_trial_has_no_figures(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7], 1.0: [0.6]}, {(0.5, 0): "truncated", (1.0, 0): "failed"})
    text = build.write(made, Criterion(), tmp_path).read_text("utf-8")
    assert "<figure" not in text and list((tmp_path / "figures").iterdir()) == []
    assert "No trial has completed yet." in Reader(text).words
    assert "0 of 2 runs completed" in Reader(text).words


@pytest.mark.parametrize(
    "last",
    [
        {0.5: [None], 1.0: [None]},
        {0.5: [0.7, 0.8], 0.1: [0.6, 0.7]},
        {1.0: [0.7, 0.8]},
        {0.5: [None, 0.7], 1.0: [0.6, None]},
        {0.5: [0.0] * 2, 1.0: [1.0] * 2},
    ],
)
@pytest.mark.filterwarnings("error")
def test_any_study_has_a_page(tmp_path, last) -> None:
    made = make(tmp_path, last)
    words = Reader(html_of(made)).words
    assert made.verdict() in words
    assert not re.search(r"\bnan\b|\binf\b|None|-0\.0 %", words.partition("Every setting")[0])


def test_a_metric_that_is_missing_everywhere(tmp_path) -> None:
    made = starting_repository(tmp_path)  # it kept neither ce nor agreement
    words = words_of(made)
    assert "2 of 25 epochs" in words and "3 of 4" in words
    assert not re.search(r"\bnan\b", words.partition("Every setting")[0])


def test_a_folder_that_cannot_be_written(whole, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the report cannot be written to"):
        build.write(whole, Criterion(), tmp_path / "file")
    flags = ReportFlags((str(tmp_path / "nowhere"),))
    with pytest.raises(InputError, match="does not exist"):
        report_command.main(flags)


# Held-out repeats, repeats added until a decision, folds

RACED = {0.1: [0.6, 0.61], 0.5: [0.7, 0.71], 1.0: [0.65, 0.66]}
FINAL = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}
AUTO = {"until_decided": True, "budget": "9runs"}


@pytest.fixture
def one_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out other baselines, whose sentences differ by design, and the glossary."""
    offered = build.sections.choices
    monkeypatch.setattr(build.sections, "choices", lambda *args: offered(*args)[:1])
    monkeypatch.setattr(build, "glossary", lambda is_distillation: {})


@pytest.mark.usefixtures("one_comparison")
@pytest.mark.parametrize("study", [{"policy": "race"}, AUTO])
@pytest.mark.parametrize("baseline", [{"alpha": 1}, {"alpha": 0.1}])
def test_all_sentences_are_about_the_trials_of_the_criterion(tmp_path, study, baseline) -> None:
    """Another baseline than no distillation is compared on the repeats of the search."""
    made = make_final(tmp_path, RACED, FINAL, **study)
    criterion = Criterion(baseline=baseline)
    held_out = criterion.has_plain_baseline
    assert made.best(criterion) == at(0.5).config_id
    words = words_of(made, criterion)
    for sentence in (
        "finalists on held-out repeats",
        "The finalists, and which of them is the best, were recorded before the first of",
    ):
        assert (sentence in words) == held_out
    assert ("because it was selected on val" in words) != held_out
    assert ("val (used for selection)" in words) != held_out
    assert "3 × 2; held-out: 2 × 4" in words
    power = "at 80% power with 4 repeats and 1 comparison: " in words
    assert power == ("policy" in study) or not held_out


@pytest.mark.usefixtures("one_comparison")
def test_each_kind_of_interval_is_named_where_it_is_used(tmp_path) -> None:
    fixed = make_final(tmp_path / "race", RACED, FINAL, policy="race")
    final = {a: 3 * accs for a, accs in FINAL.items()}
    auto = make_final(tmp_path / "auto", RACED, final, **AUTO, level=0.1)
    words = words_of(fixed)
    assert "simultaneous 95% CI" in words and "always-valid" not in words
    assert "Holm-adjusted p value is below 0.05" in words
    more = words_of(auto)
    assert "always-valid 90% CI" in more and "simultaneous" not in more
    assert "p is at most 0.1" in more and "by max-T" not in more
    for text in (words, more):
        assert "n repeats of the search" in text
        assert "p values are not adjusted for that" in text


@pytest.mark.usefixtures("one_comparison")
def test_an_older_study_is_not_said_to_have_recorded_its_finalists(tmp_path) -> None:
    words = words_of(make_final(tmp_path, RACED, FINAL, recorded=False, policy="race"))
    assert "held-out" not in words and "did not record the finalists" in words


def test_the_default_stands_beside_the_chosen_configuration(tmp_path) -> None:
    """Test is val - 0.1 in the search: 0.605 for the chosen alpha = 0.5, 0.505 for the default."""
    words = words_of(make(tmp_path, RACED, run=replace(RUN, alpha=0.1)))
    assert "default: alpha = 0.1 60.50 50.50" in words.replace(" - ", " ")
    assert "chosen - default +10.00" in words and "recipe's default (alpha = 0.1): 50.5%" in words


def test_an_adaptive_number_of_repeats_is_said_not_to_be_adjusted_for(tmp_path) -> None:
    last = {0.1: [0.6, None, None], 0.5: [0.7, 0.71, 0.72], 1.0: [0.65, 0.66, None]}
    words = words_of(make(tmp_path, last, policy="race"))
    assert "p values are not adjusted for the adaptive number of repeats" in words
    assert "3 × 1 to 3" in words and "at 80% power with " not in words


def test_with_folds_no_note_says_that_an_interval_is_for_the_same_images(tmp_path) -> None:
    run = replace(RUN, folds=5)
    runs = {replace(run, alpha=a): v for a, v in draw({0.5: 0.02, 1.0: 0.0}, 4).items()}
    made = make(tmp_path, runs, run=run)
    write_costs(tmp_path, [cost(run.student, params=4_000, ms=0.2)])
    results = write_whole_predictions(made, ["ant", "bee"], 60, ("val", "test"))
    reader = Reader(build.html(results, Criterion(), {}))
    text = " ".join(" ".join(reader.within("p") + reader.within("li")).split())
    assert "for these images" not in text
    uncorrected = "over repeats, not corrected for overlapping train sets"
    assert text.count(uncorrected) == 3  # summary, frontier and methods
    with figure_style():
        figures = [repeats_plot(results, Criterion())]
        figures += [frontier_plot(results, Criterion(), name) for name in FRONTIERS]
    assert all(f"95% t interval {uncorrected}" in figure.caption for figure in figures)
    assert "Those on test are for these test images." in text
    assert (
        "The 95% CI is a t interval over repeats, corrected for overlapping train sets (Nadeau and "
        "Bengio, 2003) for new train/val splits of data like these, with a teacher for each, on "
        "these test images, and simultaneous"
    ) in text


# Several studies side by side


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("runs")
    make(folder / "a", draw({0.5: 0.03, 1.0: 0.0}, 4), name="a")
    make(folder / "b", draw({0.5: 0.0, 1.0: 0.0}, 4, seed=1), name="b", level=0.01)
    return str(folder / "a"), str(folder / "b")


def test_studies_have_one_page_with_tables_and_figures(places, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert report_command.main(ReportFlags(places)) == 0
    page = Reader((tmp_path / "comparison-a-b.html").read_text())
    titles = ["Studies", "Warnings", "Best configurations", "Differences"]
    titles += ["Settings that differ", "Conclusion of each study"]
    assert page.within("h2") == titles
    assert sum(tag == "svg" for tag, _ in page.tags) == 2
    assert "test accuracy" in page.words and "It is not known whether the data" in page.words
    links = [a for _, a in page.tags if a.get("src") or a.get("href", "").startswith("http")]
    assert links == []  # works offline
    first = (tmp_path / "comparison-a-b.html").read_bytes()
    report_command.main(ReportFlags(places, out="again/x.html"))
    assert (tmp_path / "again" / "x.html").read_bytes() == first


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("{a}/report.html", "must not be the report of one study"),
        ("{a}", "must be a file that ends in .html"),
        ("page.htm", "must be a file that ends in .html"),
        ("s3://bucket/page.html", "must be on this machine"),
    ],
)
def test_files_that_are_refused(places, out: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        report_command.main(ReportFlags(places, out=out.format(a=places[0])))
    assert not (Path(places[0]) / "report.html").exists()


# A study in a notebook


def test_a_notebook_shows_conclusion_table_and_figure(tmp_path) -> None:
    runs = grid([0.1, 0.3, 0.5, 0.9, 1.0], temperature=[1.0, 4.0, 8.0])
    made = make(tmp_path, draw(dict.fromkeys(runs, 0.0), 2), {(runs[0], 1): "failed"})
    html = made._repr_html_()
    page = Reader(html)
    assert made.verdict() in page.words and made.status in page.words
    assert made.warnings and made.warnings[0] in page.text
    head, cells = page.within("th"), page.within("td")
    alphas = [f"{alpha:g}" for alpha in made.compare()["config/alpha"][:10]]
    assert head[:2] == ["alpha", "temperature"] and cells[:: len(head)] == alphas
    assert "the best 10 of 12 (results.compare()" in html
    assert html.count("<img ") == 1 and "<script" not in html and "<style" not in html


def test_a_notebook_of_a_study_without_a_comparison(tmp_path) -> None:
    evil = "m:<script>alert(1)</script>"
    last = {at(alpha, student=evil): [None] for alpha in (0.5, 1.0)}
    html = make(tmp_path / "<b>", last)._repr_html_()
    assert "0 of 2 runs completed" in html and "No conclusion" in html and "<img" not in html
    assert "<script" not in html and "<b>(" not in html and "/&lt;b&gt;)" in html


# Reproducibility, without torch


BARE = """
import runpy, sys
absent, *words = sys.argv[1:]
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent.split(","):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
for module, out in (("analysis", []), ("report", ["--out", "other"])):
    sys.argv = [module, *words, *out]
    try:
        runpy.run_module(f"kdtune.{module}", run_name="__main__")
    except SystemExit as ended:
        assert not ended.code, ended.code
assert "matplotlib.pyplot" not in sys.modules
"""
ABSENT = "torch,torchvision,timm,ray,optuna,rich,pyarrow,filelock,tqdm,safetensors,click"


def test_it_is_the_same_bytes_with_pandas_scipy_and_matplotlib_alone(tmp_path) -> None:
    """With another process, folder and hash seed."""
    runs = grid([0.1, 0.5, 1.0], temperature=[1.0, 4.0])
    failed = {(at(0.1, temperature=4.0), 1): "failed"}
    made = make(tmp_path / "study", draw(dict.fromkeys(runs, 0.0), 3), failed)
    write_costs(made.folder, [cost(RUN.student), cost(RUN.teacher, "teacher", 24_314)])
    made = kdtune.load(made.folder)
    build.write(made, Criterion(), tmp_path / "one")
    write_predictions(made)  # a parquet file, which cannot be read there
    command = [sys.executable, "-c", BARE, ABSENT, str(made.folder)]
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(kdtune.__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert made.verdict() in done.stdout and done.stdout.endswith("other/report.html\n")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    absent = {"importance", *CLASS_FIGURES}  # too few configurations, and no predictions
    assert {file.stem for file in files} == {"report", *FIGURE_NAMES} - absent
    assert len(files) == 1 + 2 * len(FIGURE_NAMES - absent)
    for file in files:
        one, other = (tmp_path / folder / file for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes(), file
