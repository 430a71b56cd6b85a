"""The page as a whole: the same bytes twice, safe, small, true to the frames; without torch."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from studies import (
    RUN,
    at,
    draw,
    edit_records,
    grid,
    make,
    make_final,
    starting_repository,
    write_predictions,
)

import kdtune
from kdtune import page, plots, report, sections
from kdtune.analysis import Results
from kdtune.cli import fashion
from kdtune.comparison import Rule
from kdtune.config import InputError
from kdtune.plots import FIGURES, pictures
from kdtune.race import anytime_interval
from kdtune.reading import Reporting
from kdtune.results import METRICS, PROVENANCE

HOSTILE = "</td></script><script>alert('1')</script> & \"two\" 'one' $verdict ${data} <b>"


class Reader(HTMLParser):
    """The elements, the text of each kind of element, and the embedded data."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    @property
    def data(self) -> dict:
        return json.loads("".join(self.texts["script"]))

    @property
    def words(self) -> str:
        parts = (t for tag, ts in self.texts.items() if tag not in ("script", "style") for t in ts)
        return " ".join(" ".join(parts).split())


def page_of(results: Results, folder: Path, rule: Rule | None = None) -> str:
    return report.write(results, rule or Rule(), folder).read_text("utf-8")


def html_of(results: Results, rule: Rule | None = None) -> str:
    """The page without writing a file."""
    rule = rule or Rule()
    return report.html(results, rule, {p.name: page.figure(p) for p in pictures(results, rule)})


def default_like(folder: Path) -> Results:
    """The default study's size: 5 configurations by 8 repeats by 60 epochs."""
    study = fashion()
    runs = study.runs()
    last = draw({run: 0.03 * (run.alpha == 0.1) for run in runs}, study.repeats)
    made = make(folder, last, run=study.run, space=study.space)
    write_predictions(made)
    return kdtune.load(folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Results:
    return default_like(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def text(whole) -> str:
    return page_of(whole, whole.folder)


# -- what is in it ---------------------------------------------------------------------------------


def test_it_says_the_verdict_first_then_the_rest_in_order(whole, text) -> None:
    read = Reader(text)
    words = read.words
    assert words.index(whole.verdict()) < words.index("The study")
    titles = ["The study", "Warnings", "Summary", "Curves", "Comparisons", "Sensitivity"]
    titles += ["Best configuration", "Methods", "Provenance"]
    assert [t for t in read.texts["h2"] if t.strip()] == titles
    assert "complete: 40 runs" in words
    assert len([t for t, _ in read.tags if t == "figure"]) == text.count("<figcaption>") >= 13


def test_it_is_small_and_whole_without_network_and_script(text) -> None:
    assert len(text.encode()) < 1_000_000
    read = Reader(text)
    scripts = [attrs for tag, attrs in read.tags if tag == "script"]
    assert [s.get("type") for s in scripts] == ["application/json"]
    for tag, attrs in read.tags:
        assert tag not in ("iframe", "object", "embed", "base", "img", "form")
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        for name in ("src", "href", "xlink:href", "action", "data", "srcset"):
            assert str(attrs.get(name, "#")).startswith(("#", "data:,", "data:image/png;")), (
                tag,
                attrs,
            )
    css = "".join(read.texts["style"])
    assert "@import" not in css and not re.search(r"url\((?!#)", css)


def test_ids_are_unique_and_references_meet(text) -> None:
    ids = re.findall(r'\sid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    references = re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text)
    assert references and {next(filter(None, r)) for r in references} <= set(ids)


def test_figures_are_files_too(whole, text) -> None:
    names = {file.stem for file in (whole.folder / "figures").glob("*.svg")}
    assert names == {file.stem for file in (whole.folder / "figures").glob("*.png")}
    assert {"acc", "acc-last-15", "loss", "logit_diff", "differences", "heat-map"} <= names
    assert "importance" in names or len(whole.importance()) == 0


def test_the_data_are_the_frames(whole, text) -> None:
    data = Reader(text).data
    trials = pd.DataFrame(data["trials"])
    assert data["study"] == whole.study.name and len(trials) == 40
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
    assert epochs["every"] == 1 and len(frame) == len(val) == 40 * 60
    both = frame.merge(val, on=["trial_id", "epoch"], suffixes=("", "/want"), validate="1:1")
    for metric in METRICS:
        pd.testing.assert_series_equal(
            both[metric].astype(float), both[f"{metric}/want"], rtol=6e-5, check_names=False
        )


def test_of_many_epochs_the_data_keep_some_and_the_last(whole, monkeypatch) -> None:
    monkeypatch.setattr(report, "MOST_NUMBERS", 4_000)
    epochs = report.data(whole)["epochs"]
    assert epochs["every"] == 5  # of 40 x 60 x 8 numbers
    assert sorted(set(epochs["epoch"])) == list(range(4, 60, 5))
    monkeypatch.setattr(report, "MOST_NUMBERS", 100)
    epochs = report.data(whole)["epochs"]
    assert epochs["every"] == 0 and epochs["epoch"] == []


@pytest.mark.parametrize(
    "rule", [Rule("ce"), Rule("gap", "best"), Rule("acc", "last-5-avg", {"alpha": 0.5})]
)
def test_other_rules(whole, rule: Rule) -> None:
    words = Reader(report.html(whole, rule, {})).words
    assert whole.verdict(rule) in words
    assert f"scope {rule.scope}" in words
    assert ("The epoch is chosen by the accuracy that is reported" in words) == (
        rule.scope == "best"
    )
    assert rule.is_plain or "against alpha = 0.5 (T = " in words


RACED = {0.1: [0.6, 0.61], 0.5: [0.7, 0.71], 1.0: [0.65, 0.66]}
FINAL = {0.5: [0.75, 0.76, 0.74, 0.755], 1.0: [0.7, 0.705, 0.71, 0.7]}


@pytest.mark.parametrize("study", [{"policy": "race"}, {"until_decided": True, "budget": "9runs"}])
@pytest.mark.parametrize("baseline", [{"alpha": 1}, {"alpha": 0.1}, {"alpha": 0.5}])
def test_all_words_are_of_the_trials_that_the_rule_is_judged_by(tmp_path, study, baseline) -> None:
    """A finalist as baseline, or one that has no final repeat, is compared on the search's."""
    made = make_final(tmp_path, RACED, FINAL, **study)
    rule = Rule(baseline=baseline)
    fresh = rule.is_plain
    assert set(made.compare(rule).n) == {4 if fresh else 2}
    assert made.best(rule) == at(0.5).config_id
    words = Reader(report.html(made, rule, {})).words
    for text in (made.text(rule=rule), words):
        assert ("fresh repeats" in text) == fresh
    assert ("which chose it" in made.text(rule=rule)) != fresh
    assert ("since val chose it" in words) != fresh
    assert ("Other repeats have chosen these two" in words) == fresh
    assert ("val (selected by it)" in words) != fresh


def words_of_comparison(made: Results, rule: Rule) -> list[str]:
    """All that is said of how its numbers came about: the text, the page, the figure."""
    page_words = Reader("".join(sections.comparisons(made, rule))).words
    return [made.text(rule=rule), page_words, plots.forest(made, rule).caption]


def test_t_intervals_are_named_where_they_are(tmp_path) -> None:
    rule = Rule()
    fixed = make_final(tmp_path / "race", RACED, FINAL, policy="race")
    adds = {"until_decided": True, "budget": "9runs", "level": 0.1}
    auto = make_final(tmp_path / "auto", RACED, {a: 3 * accs for a, accs in FINAL.items()}, **adds)
    for text in words_of_comparison(fixed, rule):
        assert "95 % t interval" in text and "stopped" not in text
    for text in words_of_comparison(auto, rule):
        assert "t interval" not in text and "max-T's" not in text
        assert re.search(r"whenever (it|the study) had stopped[ ,(]+90 %", text)
    assert "no decision has seen" in fixed.text() and "no decision has seen" not in auto.text()
    # on test, too: no t interval of a number of repeats that hung on val
    assert re.search(r"On test against plain training: \+4\.8 \(\S+ to \S+\) points", auto.text())
    assert re.search(r"On test against plain training: \+4\.8 ± \S+ points", fixed.text())
    row = auto.selection().set_index("row").loc["difference"]
    differences = 3 * [a - b for a, b in zip(*FINAL.values(), strict=True)]
    assert (row["test/low"], row["test/high"]) == pytest.approx(anytime_interval(differences, 0.1))
    methods = [Reader(sections.methods(made, rule)[0]).words for made in (fixed, auto)]
    assert "Holm's p is below 0.05" in methods[0] and "p is at most 0.1" in methods[1]
    assert all("owe nothing for it" in text for text in methods)


def test_a_comparison_of_repeats_that_a_race_has_given_says_so(tmp_path) -> None:
    last = {0.1: [0.6, None, None], 0.5: [0.7, 0.71, 0.72], 1.0: [0.65, 0.66, None]}
    made = make(tmp_path, last, policy="race")
    for text in words_of_comparison(made, Rule())[:2]:
        assert "how many repeats a row has hung on what they said" in text
    card = Reader(sections.facts(made, Rule())).words
    assert "3 × 1 to 3" in card and "80 % chance" not in card


@pytest.mark.parametrize(
    ("study", "counts", "seen"),
    [
        ({}, "3 × 2; final 2 × 4", True),
        ({"policy": "race"}, "3 × 2; final 2 × 4", True),
        ({"until_decided": True, "budget": "9runs"}, "3 × 2; final 2 × 4", False),
    ],
)
def test_the_card_counts_repeats_and_claims_power_where_n_was_fixed(
    tmp_path, study, counts: str, seen: bool
) -> None:
    made = make_final(tmp_path, RACED, FINAL, **study)
    card = Reader(sections.facts(made, Rule())).words
    assert counts in card and ("with 80 % chance, of n = 4 and 1 comparison" in card) == seen


# -- what others wrote -----------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:constrained_layout")  # a name too long for any figure
def test_what_others_wrote_stays_text(tmp_path) -> None:
    run = {"data": f"/tmp/{HOSTILE}", "teacher": f"module:{HOSTILE}", "student": HOSTILE}
    study = {"run": replace(RUN, **run), "cache": HOSTILE}
    last = draw({at(0.1, optimizer="adamw"): 0, 0.5: 0, 1.0: 0}, 4)
    make(tmp_path, last, {(0.5, 1): "failed"}, HOSTILE, **study)

    def change(line: dict) -> None:
        if line.get("config", {}).get("optimizer") == "adamw":
            line["config"]["optimizer"] = HOSTILE

    edit_records(tmp_path, change)
    record = {"data": HOSTILE, "python": HOSTILE, "versions": {HOSTILE: HOSTILE}}
    (tmp_path / PROVENANCE).write_text(json.dumps(record | {"command": ["python", HOSTILE]}))
    text = html_of(kdtune.load(tmp_path))
    read = Reader(text)
    assert [a.get("type") for t, a in read.tags if t == "script"] == ["application/json"]
    assert not {"b", "alert"} & {tag for tag, _ in read.tags}
    assert HOSTILE in read.data["trials"]["config/optimizer"]
    # error, data, teacher, student, cache, fingerprint, version and its name, command, optimizer
    assert read.words.count(HOSTILE) >= 10
    assert text.count("</script>") == 1 and text.count("<script") == 1


def test_figures_of_an_earlier_report_go_and_those_of_the_user_stay(tmp_path) -> None:
    made = make(tmp_path / "study", {0.5: [0.7], 1.0: [0.6]}, {(0.5, 0): "failed"})
    figures = tmp_path / "out" / "figures"
    figures.mkdir(parents=True)
    for name in ("heat-map.svg", "heat-map.png", "my-own.svg", "heat-map.pdf"):
        (figures / name).write_text("")
    text = page_of(made, tmp_path / "out")
    left = {file.name for file in figures.iterdir()}
    assert {"my-own.svg", "heat-map.pdf"} <= left and not left & {"heat-map.svg", "heat-map.png"}
    assert len(left) - 2 == 2 * text.count("<figure>")


# -- studies that are not whole --------------------------------------------------------------------


@pytest.mark.parametrize("fate", ["running", "failed", "pruned"])
def test_studies_that_are_not_whole(tmp_path, fate: str) -> None:
    last = draw({0.1: 0.0, 0.5: 0.0, 1.0: 0.0}, 4)
    made = make(tmp_path, last, {(0.5, r): fate for r in range(3)})
    words = Reader(report.html(made, Rule(), {})).words
    assert made.state in words and made.verdict() in words
    assert f"{made.trials.status.value_counts()['completed']} of 12 runs completed" in words or (
        "complete: 9 runs, 3 failed or pruned" in words
    )
    assert "1 of 4" in words  # the summary says how many it averages


def test_a_study_without_a_completed_run_has_no_figures(tmp_path) -> None:
    made = make(tmp_path, {0.5: [0.7], 1.0: [0.6]}, {(0.5, 0): "truncated", (1.0, 0): "failed"})
    text = page_of(made, tmp_path)
    assert "<figure" not in text and list((tmp_path / "figures").iterdir()) == []
    assert "No run has completed yet." in Reader(text).words
    assert "0 of 2 runs completed" in Reader(text).words


@pytest.mark.parametrize(
    "last",
    [
        {0.5: [None], 1.0: [None]},
        {0.5: [0.7], 1.0: [0.6]},
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
    words = Reader(html_of(made)).words
    assert "2 of 25 epochs" in words and "3 of 4" in words
    assert not re.search(r"\bnan\b", words.partition("Every setting")[0])


def test_a_folder_that_cannot_be_written(whole, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="the report cannot be written to"):
        report.write(whole, Rule(), tmp_path / "file")
    flags = Reporting(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="there is no"):
        report.main(flags)


# -- the same bytes, on a laptop without torch ----------------------------------------------------

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
ABSENT = "torch,torchvision,timm,ray,optuna,tyro,rich,pyarrow,filelock,tqdm,safetensors,click"


def test_it_is_the_same_bytes_with_pandas_scipy_and_matplotlib_alone(tmp_path) -> None:
    """In another process, folder and hash seed."""
    runs = grid([0.1, 0.3, 0.5, 1.0], temperature=[1.0, 4.0])
    failed = {(at(0.1, temperature=4.0), 1): "failed"}
    made = make(tmp_path / "study", draw(dict.fromkeys(runs, 0.0), 3), failed)
    report.write(made, Rule(), tmp_path / "one")
    write_predictions(made)  # a parquet file, which cannot be read there
    command = [sys.executable, "-c", BARE, ABSENT, str(made.folder)]
    env = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(kdtune.__file__).parents[1])}
    done = subprocess.run(
        command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert made.verdict() in done.stdout and done.stdout.endswith("other/report.html\n")
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*.*"))
    assert len(files) == 1 + 2 * len(FIGURES)
    for file in files:
        one, other = (tmp_path / folder / file for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes(), file
