"""What the goldens hold: texts by the name of their file, in numbers/ or words/.

A group is a function that returns the files of one test. The current folder is that of `prepare`.
"""

import difflib
import hashlib
import html
import json
import random
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import boundary
import pandas as pd
from html_reader import Reader

import kdtune

HERE = Path(__file__).parent
DATA = HERE.parent / "data"
OLDER = ("study_v0_1", "study_schema_2", "study_schema_3")
STUDIES = (*OLDER, *sorted(folder.name for folder in (HERE / "studies").iterdir()))
"""Names of the stored studies."""
COMMANDS = ("search", "distill", "teacher", "analysis", "report", "predict", "export")
COMMANDS += ("convert", "completion")
FULL = "schema_4"
"""The study of which all is tried."""
MAX_ROWS = 400
"""Rows of a dataframe that are stored whole; of a longer one, the first ones and hashes."""
BLOCK = 100
CONFIGURATIONS = 2_000
"""Number of random ones."""

Files = dict[str, str]

CHANGING = (
    (re.compile(rf"\b{re.escape(kdtune.__version__)}(\.dev0)?\b"), "<version>"),
    (re.compile(r"\d+\.\d+ s\b"), "<seconds> s"),
)
"""Patterns of what depends on versions or on the clock, and what is stored in their place."""


def normalise(text: str) -> str:
    """Return a text without what depends on place, time or version."""
    text = text.replace(str(Path.cwd()), "<place>")
    for pattern, name in CHANGING:
        text = pattern.sub(name, text)
    return text


def prepare(place: Path) -> None:
    """Copy the stored studies and the tables into a folder, since commands write into them."""
    for file in (HERE / "inputs").iterdir():
        shutil.copy(file, place / file.name.removesuffix(".txt"))  # of Python that is no Python
    shutil.copy(DATA / "seed_results.csv", place)
    for name in STUDIES:
        shutil.copytree((DATA if name in OLDER else HERE / "studies") / name, place / "runs" / name)


def lines_of(name: str) -> list[str]:
    """Return the command lines of a file in this folder."""
    lines = (HERE / name).read_text("utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def command_lines(command: str) -> Files:
    """Return what command lines of a command, or "more", parse to, or how they are refused."""
    lines = [line for line in lines_of("command_lines.txt") if line.split()[0] == command]
    values, words = {}, []
    for line in lines if command != "more" else lines_of("more_command_lines.txt"):
        result = boundary.parse_command(shlex.split(line))
        if isinstance(result, dict):
            values[line] = result
        else:
            words.append(show(line, result))
    return {
        f"numbers/command_lines/{command}.json": normalise(as_json(values)),
        f"words/command_lines/{command}.txt": "\n".join(words),
    }


def helps() -> Files:
    lines = ["--help", *(f"{command} --help" for command in COMMANDS)]
    lines += ["analysis long.csv --help", "--version", "serach", "--alpha 1", "search --version"]
    return {"words/help.txt": "\n".join(show(line) for line in lines)}


def run(line: str) -> boundary.Ran:
    return boundary.run_command(shlex.split(line))


def show(line: str, ran: boundary.Ran | None = None) -> str:
    """Return a command line and what it prints, as text."""
    ran = ran or run(line)
    parts = [f"$ kdtune {line}", f"exit code {ran.code}"]
    for name, text in (("stdout", ran.out), ("stderr", ran.err)):
        if text:
            parts += [f"-- {name}", plain(text).rstrip("\n")]
    return normalise("\n".join(parts) + "\n")


def plain(text: str) -> str:
    """Return a text without the frames that tyro draws, its indentation and its random order."""
    if "usage: " not in text and "For full helptext" not in text:
        return text
    lines = (" ".join(re.sub("[│╭╮╰╯─]|-{5,}", " ", line).split()) for line in text.splitlines())
    text = "\n".join(line for line in lines if line)

    def in_order(match: re.Match[str]) -> str:
        return f"Expected one of ({', '.join(sorted(match[1].replace(chr(10), ' ').split(', ')))})"

    return re.sub(r"Expected one of \((.*?)\)", in_order, text, flags=re.S)


def configurations() -> Files:
    """Return a hash per block of ids of random configurations, and the first ones in full."""
    table = json.loads((HERE / "hyperparameters.json").read_text("utf-8"))
    dice, found, refused = random.Random(7), [], 0
    while len(found) < CONFIGURATIONS:
        # half of the hyperparameters have their default; without extra, extra_share must be 0
        values = {name: dice.choice(own) for name, own in table.items() if dice.random() < 0.5}
        if configuration := boundary.configuration(values | {"extra": "unlabelled"}):
            found.append(configuration)
        else:
            refused += 1
    blocks = [[one[0] for one in found[k : k + BLOCK]] for k in range(0, len(found), BLOCK)]
    hashes = [hashlib.sha256("\n".join(ids).encode()).hexdigest() for ids in blocks]
    values = {"refused": refused, "first": blocks[0], "sha256": hashes}
    return {
        "numbers/configurations/ids.json": as_json(values),
        "numbers/configurations/first.json": as_json(dict(found[:BLOCK])),
    }


def results_of(study: str) -> Files:
    """Return all dataframes, texts and warnings of a study."""
    results = kdtune.load(Path("runs") / study)
    words = {
        "repr": repr(results),
        "status": results.status,
        "by": ", ".join(results.by),
        "warnings": "\n".join(results.warnings),
        "text": results.text(),
        "summary for reading": results.summary().to_string(),
    }
    frames = {
        "trials": results.trials,
        "epochs": results.epochs,
        "costs": results.costs,
        "configs": results.configs,
        "summary": results.summary(full=True),
        "summary-pooled": results.summary(full=True, pooled=True),
        "summary-best-epoch": results.summary(full=True, scope="best"),
        "summary-first-by": results.summary(results.by[:1], full=True),
        "marginal": results.marginal(),
        "sensitivity": results.sensitivity(),
        "effort": results.effort,
        "predictions-val": results.predictions(),
    }
    files = judged(results, study, {"default": results.criterion()})
    files[f"words/results/{study}.txt"] = sections(words) + files[f"words/results/{study}.txt"]
    return files | as_files(f"numbers/results/{study}", frames)


def more_results() -> Files:
    """Return what follows from other criteria in some studies."""
    files = {}
    for study in (FULL, "race", "decided", "folds", "teachers", "auto", "file_teacher"):
        results = kdtune.load(Path("runs") / study)
        files |= judged(results, f"{study}-criteria", boundary.criteria(results))
        frame = results.predictions("test")
        files |= as_files(f"numbers/results/{study}-criteria", {"predictions-test": frame})
    return files


def judged(results: kdtune.Results, name: str, criteria: dict[str, Any]) -> Files:
    """Return what follows from a study by some criteria."""
    words, frames = {}, {}
    values: dict[str, Any] = {"default": results.default, "final": list(results.final_trials.index)}
    for own, criterion in criteria.items():
        words |= {
            f"verdict, {own}": results.verdict(criterion),
            f"baseline, {own}": results.baseline(criterion),
            f"edges, {own}": results.edges(criterion),
            f"within limits, {own}": results.best_within_limits(criterion),
        }
        frames |= {
            f"{own}/compare": results.compare(criterion),
            f"{own}/frontier": results.frontier(criterion),
            f"{own}/selection": results.selection(criterion),
            f"{own}/spread": results.spread(criterion),
            f"{own}/importance": results.importance(criterion),
        }
        share = results.teacher_share(criterion)
        values[own] = {
            "best": results.best(criterion),
            "students": results.compared_students(criterion),
            "teacher share": share and share._asdict(),
        }
    return {
        f"words/results/{name}.txt": sections(words),
        f"numbers/results/{name}/values.json": as_json(values),
        **as_files(f"numbers/results/{name}", frames),
    }


def sections(words: dict[str, str]) -> str:
    """Return texts under their names."""
    return normalise("".join(f"## {name}\n{text}\n\n" for name, text in words.items()))


def as_files(folder: str, frames: dict[str, pd.DataFrame]) -> Files:
    """Return dataframes as the files of a folder."""
    return {f"{folder}/{name}.csv": normalise(as_csv(frame)) for name, frame in frames.items()}


ANALYSIS = ("", "--pooled", "--format latex --strict")
ANALYSIS_NUMBERS = ("--format csv", "--format json", "--format csv --pooled")


def analysis(study: str) -> Files:
    """Return what `analysis` prints of a study."""
    words, numbers = (
        [f"analysis runs/{study} {own}".strip() for own in flags]
        for flags in (ANALYSIS, ANALYSIS_NUMBERS)
    )
    return shown(f"analysis/{study}", words, numbers)


def shown(name: str, words: list[str], numbers: list[str]) -> Files:
    """Return what command lines print: lines whose output are words, and others."""
    return {
        f"words/{name}.txt": "\n".join(map(show, words)),
        f"numbers/{name}.txt": "\n".join(map(show, numbers)),
    }


SEVERAL = (
    "schema_4 study_schema_3",
    "study_v0_1 study_schema_2 study_schema_3",
    "schema_4 race --metric ce",
    "folds teachers",
    "schema_4 text",
    "schema_4 own_function",
    "schema_4 schema_4",
    "schema_4 missing",
    "schema_4 race --by alpha",
    "schema_4 race --format latex",
)


def side_by_side() -> Files:
    """Return what `analysis` prints of several studies, and of a folder of studies."""
    lines = ["analysis runs", "analysis runs --metric ce --scope best --strict"]
    lines += [f"analysis {_places(line)}" for line in SEVERAL]
    numbers = ["analysis runs --format csv", "analysis runs --format json"]
    numbers += [f"analysis {_places(SEVERAL[0])} --format {kind}" for kind in ("csv", "json")]
    return shown("several", lines, numbers)


def _places(line: str) -> str:
    names, flags, rest = line.partition(" --")
    return " ".join(f"runs/{name}" for name in names.split()) + flags + rest


def tables() -> Files:
    """Return what `analysis` prints of tables of results that were made elsewhere."""
    lines = lines_of("tables.txt")
    numbers = [f"{line} --format {kind}" for line in lines[:4] for kind in ("csv", "json")]
    return shown("tables", lines, numbers)


def dropping() -> Files:
    """Return what follows from dropping runs, restoring them and other flags, in a copy."""
    shutil.copytree(Path("runs") / "folds", Path("dropped") / "folds")
    trials = list(kdtune.load(Path("runs") / "folds").trials.trial_id[:2])
    own = "analysis dropped/folds"
    lines = [f"{own} --drop {' '.join(trials)} --reason 'a fault'"]
    lines += [f"{own} --restore {trials[0]} --strict", f"{own} --reason none"]
    flags = "--metric ce --scope best --by alpha --columns acc kl --baseline alpha=0.2"
    lines += [f"{own} {flags} --max-ms 100"]
    return {"words/dropping.txt": "\n".join(show(line) for line in lines)}


REPORTED = (FULL, "own_function", "killed", "race", "teachers", "folds", "text", "study_v0_1")
REPORTS = {
    **{name: name for name in REPORTED},
    "several": "schema_4 study_schema_3",
    "decided": "decided --max-params 5000 --metric ce --scope best",
}
"""Reports by name, and their studies and flags."""


def report(name: str) -> Files:
    """Return the visible text of a report and its data."""
    place, several = Path("pages") / name, name == "several"
    place.mkdir(parents=True)
    target = place / "page.html" if several else place
    ran = run(f"report {_places(REPORTS[name])} --out {target}")
    assert ran.code == 0, ran.err
    page = Path(ran.out.strip()).read_text("utf-8")
    files = {f"words/reports/{name}.txt": normalise(visible(page))}
    if not several:
        files[f"numbers/reports/{name}.json"] = normalise(as_json(Reader(page).data))
    return files


def visible(page: str) -> str:
    """Return the text of a page by line, without figures, styles and scripts."""
    page = re.sub(r"<(svg|style|script)\b.*?</\1>", "", page, flags=re.S)
    page = re.sub(r"\s+", " ", page)  # as a browser does, but for <pre>
    page = re.sub(
        r"</?(p|div|section|h\d|tr|li|dt|dd|table|figure|figcaption|summary|details)\b",
        r"\n<\1",
        page,
    )
    page = re.sub(r"</t[dh]>", " | ", page)
    text = html.unescape(re.sub(r"<[^>]*>", "", page))
    lines = (" ".join(line.split()) for line in text.splitlines())
    return "\n".join(line for line in lines if line) + "\n"


def card() -> Files:
    """Return the model card of an exported student, the facts beside it and a few predictions."""
    place = Path("exported") / FULL
    shutil.copytree(Path("runs") / FULL, place)
    lines = [f"export exported/{FULL} --format safetensors --repeat 1"]
    lines += [f"export exported/{FULL} --format safetensors --repeat 7", "export missing"]
    images = sorted(f.relative_to(place) for f in (place / "thumbnails").iterdir())[:3]
    own = " ".join(f"exported/{FULL}/{image}" for image in images)
    lines += [f"predict exported/{FULL} {own} --device cpu --top 2", f"predict missing {own}"]
    lines += [f"predict exported/{FULL} exported/{FULL}/study.json --device cpu"]
    said = "\n".join(show(line) for line in lines)
    facts = json.loads((place / "students" / "best.safetensors.json").read_text("utf-8"))
    return {
        "words/students.txt": said,
        "words/card.md": normalise((place / "students" / "README.md").read_text("utf-8")),
        "numbers/card.json": normalise(as_json(facts)),
    }


def as_json(values: Any) -> str:
    """Return JSON with all digits, a line per innermost value."""

    def plain_value(value: Any) -> Any:
        return value.item() if hasattr(value, "item") else repr(value)  # of numpy, others

    return json.dumps(values, indent=1, ensure_ascii=False, default=plain_value) + "\n"


def as_csv(frame: pd.DataFrame) -> str:
    """Return a dataframe as csv with all digits; the second line has the types.

    Of a long dataframe these are its first rows, and a hash of each block of its rows.
    """
    if not len(frame.columns):
        return f"no columns, {len(frame)} rows\n"
    types = ",".join([str(frame.index.dtype), *map(str, frame.dtypes)])
    whole = len(frame) <= MAX_ROWS
    head, *rows = (frame if whole else frame[:10]).to_csv(lineterminator="\n").splitlines()
    if not whole:
        hashes = pd.util.hash_pandas_object(frame).to_numpy()
        size = -(-len(frame) // 100)
        for k in range(0, len(frame), size):
            block = hashes[k : k + size]
            hashed = hashlib.sha256(block.tobytes()).hexdigest()
            rows.append(f"sha256 of {len(block)} rows from row {k}: {hashed}")
    return "\n".join([head, types, *rows]) + "\n"


GROUPS: dict[str, Callable[[], Files]] = {
    **{f"command lines of {name}": partial(command_lines, name) for name in COMMANDS},
    **{f"results of {name}": partial(results_of, name) for name in STUDIES},
    **{f"analysis of {name}": partial(analysis, name) for name in STUDIES},
    **{f"report of {name}": partial(report, name) for name in REPORTS},
    **{"help": helps, "configurations": configurations},
    **{"several studies": side_by_side, "tables": tables, "dropping": dropping, "students": card},
    "more command lines": partial(command_lines, "more"),
    "more criteria": more_results,
}
"""The goldens in groups of one test each."""
FAST = [name for name in GROUPS if name.startswith("command lines of")]
FAST += ["help", "configurations", f"results of {FULL}", "results of race"]
FAST += ["analysis of own_function"]
"""Groups that each run of the tests compares, some of each kind; -m slow compares the others."""


def difference(name: str, old: str, new: str, most: int = 20) -> Sequence[str]:
    """Return the first lines that differ between a golden and what is there now."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), "golden", "now", "", "", 0, "")
    return [name, *(line[:400] for line in islice(lines, most))]
