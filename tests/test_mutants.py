"""Faults sown on purpose, each of which the named fast tests must find.

The package is copied, one passage of it replaced, and the tests are run on the copy in a process of
their own: a test that no fault can fail says nothing. The faults are those that tools for such
studies were found with (research/stats.md, 5.6).
"""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Mutant:
    file: str
    old: str
    new: str
    tests: str
    """Test files that must fail: PACKAGE/MODULE of tests/PACKAGE/test_MODULE.py."""


MUTANTS = {
    "ddof 0": Mutant(
        "statistics/intervals.py",
        "x.std(ddof=1)",
        "x.std(ddof=0)",
        "statistics/intervals results/summaries",
    ),
    "ddof 0 in the band": Mutant(
        "reporting/learning_curves.py",
        'std="std"',
        "std=lambda x: x.std(ddof=0)",
        "reporting/figures",
    ),
    "standard error for sd": Mutant(
        "statistics/intervals.py",
        "return Interval(mean, sd, n, mean - half",
        "return Interval(mean, sd / math.sqrt(n), n, mean - half",
        "statistics/intervals results/summaries",
    ),
    "1.96 for t": Mutant(
        "statistics/intervals.py",
        "float(stats.t.ppf((1 + level) / 2, n - 1)) * sd",
        "1.96 * sd",
        "statistics/intervals results/summaries",
    ),
    "Holm without the running maximum": Mutant(
        "statistics/multiplicity.py",
        "running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))",
        "running = min(1.0, (len(p_values) - rank) * p_values[i])",
        "statistics/intervals",
    ),
    "Holm of the first step alone": Mutant(
        "statistics/multiplicity.py",
        "(len(p_values) - rank) * p_values[i]",
        "p_values[i]",
        "statistics/intervals results/comparison",
    ),
    "max-T in a single step": Mutant(
        "statistics/multiplicity.py",
        "highest[:, rank] >=",
        "highest[:, 0] >=",
        "statistics/intervals",
    ),
    "unpaired when paired": Mutant(
        "statistics/intervals.py",
        "    d = x - y\n    interval = mean_interval(d, level)",
        "    d = x - y\n    interval = mean_interval(np.sort(x) - np.sort(y), level)",
        "statistics/intervals results/comparison",
    ),
    "paired by position": Mutant(
        "results/comparison.py",
        "values[[c, baseline]].dropna().to_numpy().T for c in others",
        "np.array([values[x].sort_values().to_numpy() for x in (c, baseline)]) for c in others",
        "results/comparison",
    ),
    "pooled epochs in the summary": Mutant(
        "results/frames.py",
        "groups.tail(1).set_index",
        "groups.mean(numeric_only=True).reset_index().set_index",
        "results/frames results/summaries",
    ),
    "nanmean over failed repeats": Mutant(
        "results/comparison.py",
        'return trials[trials.status == "completed"]',
        "return trials",
        "results/summaries results/wording results/comparison",
    ),
    "a truncated run counts": Mutant(
        "storage/records.py",
        "seen.get(trial, 0) < planned.get(trial, 0)",
        "False",
        "results/diagnostics results/summaries",
    ),
    "legend from the first run": Mutant(
        "reporting/learning_curves.py",
        'axes.plot(x, line["mean"], color',
        "axes.plot(x, trials[0][metric].iloc[: len(x)], color",
        "reporting/figures",
    ),
    "n of the study, not of the curve": Mutant(
        "reporting/learning_curves.py",
        "sorted({line.n.min(), line.n.max()})",
        "[results.study.repeats]",
        "reporting/figures",
    ),
    "the first plain training is the baseline": Mutant(
        "results/comparison.py",
        "best_config(values[plain], criterion.sign)",
        "plain[0]",
        "results/comparison",
    ),
    "higher is always better": Mutant(
        "results/comparison.py",
        'return 1 if METRICS[self.metric].better == "higher" else -1',
        "return 1",
        "results/comparison results/wording",
    ),
    "Holm's p alone makes a verdict": Mutant(
        "results/wording.py",
        "_is_below_level(table.p_holm, context) & excludes_0",
        "_is_below_level(table.p_holm, context)",
        "results/wording",
    ),
    "the interval of one comparison in the verdict": Mutant(
        "results/wording.py",
        "interval = _ends(row.low_all, row.high_all, criterion)",
        "interval = _ends(row.low, row.high, criterion)",
        "results/wording",
    ),
    "chosen and judged on the same images": Mutant(
        "statistics/selection_bias.py",
        "kept = out.astype(float)",
        "kept = counts.astype(float)",
        "statistics/intervals results/sensitivity",
    ),
    "text that is not escaped": Mutant(
        "reporting/page.py",
        "autoescape=True",
        "autoescape=False",
        "reporting/page reporting/build",
    ),
    "a caption that is not escaped": Mutant(
        "reporting/page.py",
        "format(Markup(opening), figure.caption)",
        "format(Markup(opening), Markup(figure.caption))",
        "reporting/page",
    ),
    "a misspelt name in a template is empty text": Mutant(
        "reporting/page.py",
        "undefined=StrictUndefined",
        "optimized=True",
        "reporting/page",
    ),
    "a script that data can end": Mutant(
        "reporting/templates/report.html",
        "{{ data | tojson }}",
        '{{ data | tojson | list | join | replace("\\\\u003c", "<") | safe }}',
        "reporting/page reporting/build",
    ),
    "data with NaN, which is not JSON": Mutant(
        "reporting/page.py", '"allow_nan": False, ', "", "reporting/page"
    ),
    "figures with the same ids": Mutant(
        "reporting/page.py", r"\g<1>{name}-", r"\g<1>", "reporting/page reporting/build"
    ),
    "an SVG that depends on whether the PNG was drawn before": Mutant(
        "reporting/canvas.py",
        "self.figure.set_dpi(PNG_DPI)",
        "self.figure.get_dpi()",
        "reporting/figures",
    ),
    "the interval of one comparison in the figure": Mutant(
        "reporting/figures.py",
        "[scale * row.low_all, scale * row.high_all]",
        "[scale * row.low, scale * row.high]",
        "reporting/figures reporting/build",
    ),
    "the interval of one comparison for the best configuration": Mutant(
        "reporting/answer.py",
        'ends[["low_all", "high_all"]]',
        'ends[["low", "high"]]',
        "reporting/build",
    ),
    "a clock in the figures": Mutant(
        "reporting/canvas.py", '"svg.hashsalt": "kdtune",', "", "reporting/figures"
    ),
}


def run(package: Path, tests: str) -> subprocess.CompletedProcess:
    files = [str(ROOT / "tests" / name.replace("/", "/test_")) + ".py" for name in tests.split()]
    # the copy comes first on the path; the working folder must hold no other kdtune
    env = os.environ | {"PYTHONPATH": f"{package}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--noconftest", "-p", "no:cacheprovider"]
    command += ["--rootdir", str(ROOT), "-c", str(ROOT / "pyproject.toml"), *files]
    return subprocess.run(
        command, cwd=package, env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    ignore = shutil.ignore_patterns("__pycache__", "fashion.npz")
    shutil.copytree(ROOT / "kdtune", tmp_path / "kdtune", ignore=ignore)
    return tmp_path


@pytest.mark.parametrize("name", MUTANTS)
def test_the_passage_to_replace_is_there_once(name: str) -> None:
    mutant = MUTANTS[name]
    text = (ROOT / "kdtune" / mutant.file).read_text("utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.old!r} is no longer once in {mutant.file}"


@pytest.mark.slow
def test_the_copy_itself_passes(copy: Path) -> None:
    names = sorted({name for mutant in MUTANTS.values() for name in mutant.tests.split()})
    done = run(copy, " ".join(names))
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", MUTANTS)
def test_the_mutant_is_found(copy: Path, name: str) -> None:
    mutant = MUTANTS[name]
    file = copy / "kdtune" / mutant.file
    file.write_text(file.read_text("utf-8").replace(mutant.old, mutant.new), "utf-8")
    for tests in mutant.tests.split():
        done = run(copy, tests)
        assert done.returncode == 1, f"{tests} let it pass\n{done.stdout[-3000:]}"
        assert "failed" in done.stdout and "error" not in done.stdout.splitlines()[-1]
