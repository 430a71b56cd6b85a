"""The whole page: reproducible, safe, small, equal to the dataframes, made without torch."""

import base64
import hashlib
import json
import re
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from html_reader import Reader
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
from kdtune.reporting import build
from kdtune.reporting.canvas import inline
from kdtune.reporting.figures import CLASS_FIGURES, FIGURE_NAMES, all_figures, forest_plot
from kdtune.reporting.sections import examples
from kdtune.results.comparison import Criterion
from kdtune.results.examples import read_arms
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
    text = html_of(made, {"repeats", "differences", *CLASS_FIGURES}) + made.text()
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


def test_files_that_are_refused(tmp_path: Path) -> None:
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
    # too few configurations and epochs, and no predictions
    absent = {"importance", *CLASS_FIGURES, *(name for name in FIGURE_NAMES if "-last-" in name)}
    assert {file.stem for file in files} == {"report", *FIGURE_NAMES} - absent
    assert len(files) == 1 + 2 * len(FIGURE_NAMES - absent)
    for file in files:
        one, other = (tmp_path / folder / file for folder in ("one", "other"))
        assert one.read_bytes() == other.read_bytes(), file
