"""Fuzz the readers of everything that a user, a stranger or a crash may have left in a file.

    python experiments/fuzz.py --minutes 10                  # each reader, one after another
    python experiments/fuzz.py --minutes 1 --only records tables --seed 7

Each reader is given valid content that Hypothesis has changed: bytes that are flipped, cut, doubled
or overwritten, and JSON whose values are replaced by others of any type. It must return, or raise
an `InputError` (a command then prints one sentence); any other exception is a fault, is shown with
its input (the smallest one with --shrink), and makes the exit code 1. What can be checked besides
is checked: no record has an accuracy outside [0, 1], no damaged cache entry gives other numbers,
and nothing that is printed holds a control character.
"""

import argparse
import contextlib
import io
import itertools
import json
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

import kdtune
from kdtune.config.cli import parse, study_flags
from kdtune.config.run import Run
from kdtune.config.study import Study, fashion
from kdtune.config.text import InputError, printable, printable_lines
from kdtune.data.folder import load_folder, verify
from kdtune.models.weights import read_checkpoint
from kdtune.reporting.build import write
from kdtune.results.tables import compare
from kdtune.streams.cache import Cache, Key, read

BATCH = 20
"""Examples between two looks at the clock."""
REPORTS = itertools.count()
REPORT_EVERY = 10
"""Studies of which one gets a report, which takes longer than reading it."""
DATA = Path(__file__).parent.parent / "tests" / "data"
STUDY = DATA / "study_schema_3"

Json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.sampled_from([2.0, -1.0, 0.5, "", "..", "../x", "\x1b[2J", "\u202e", "NaN", 2**63, 1e308])
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=5,
)


@st.composite
def damaged(draw: st.DrawFn, contents: list[bytes]) -> bytes:
    """Draw one of the contents with up to four edits of its bytes."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 2, 8, 100, len(content)]))
        own = draw(st.binary(max_size=9) | st.just(bytes(content[place : place + length])))
        content[place : place + draw(st.sampled_from([0, length]))] = own
    return bytes(content)


@st.composite
def changed(draw: st.DrawFn, value: Any) -> Any:
    """Draw a JSON value with some of its parts replaced, removed or added."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        inner, holder = value, None
        place: Any = None
        while isinstance(inner, dict | list) and inner and draw(st.integers(0, 3)):
            keys = list(inner) if isinstance(inner, dict) else range(len(inner))
            holder, place = inner, draw(st.sampled_from(list(keys)))
            inner = holder[place]
        if holder is None:
            return draw(Json)
        if draw(st.booleans()):
            holder[place] = draw(Json)
        elif isinstance(holder, dict) and draw(st.booleans()):
            holder[draw(st.text(max_size=8))] = draw(Json)
        else:
            del holder[place]
    return value


def texts(value: Any) -> st.SearchStrategy[bytes]:
    """Return a strategy of damaged JSON texts of a value."""
    whole = json.dumps(value).encode()
    return changed(value).map(lambda own: json.dumps(own).encode()) | damaged([whole])


def load_and_show(folder: Path) -> None:
    """Read a study as all commands do: results, tables, verdict and report."""
    results = kdtune.load(folder)
    shown = f"{results.text()}\n{results.verdict()}\n" + "\n".join(results.warnings)
    assert printable_lines(shown) == shown, f"shows {shown!r}"
    shares = results.trials["val/acc@last"].dropna()
    assert shares.between(-1e-6, 1 + 1e-6).all(), "has an accuracy outside [0, 1]"
    if len(results.trials) and next(REPORTS) % REPORT_EVERY == 0:
        write(results, results.default_criterion, folder)


class OfStudy:
    """Reader of one file of a study's folder."""

    def __init__(self, name: str):
        self.name = name
        self.whole = (STUDY / name).read_bytes()

    def __call__(self, folder: Path, content: bytes) -> None:
        """Read a study whose file has this content."""
        shutil.copytree(STUDY, folder / "study")
        (folder / "study" / self.name).write_bytes(content)
        load_and_show(folder / "study")


@st.composite
def records(draw: st.DrawFn) -> bytes:
    """Draw the records of a study with damaged lines."""
    lines = (STUDY / "epochs" / "00000.jsonl").read_bytes().splitlines()
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(lines) - 1))
        try:
            lines[number] = draw(texts(json.loads(lines[number])))
        except ValueError:  # it is damaged already
            lines[number] = draw(st.binary(max_size=50))
    return b"\n".join(lines) + b"\n"


OTHERS = [
    name
    for name in ("provenance.json", "costs.json", "teacher/teacher.json", "teacher/accuracy.json")
    if (STUDY / name).is_file()
] + ["students/students.json"]


@st.composite
def other_files(draw: st.DrawFn) -> tuple[str, bytes]:
    """Draw another JSON file of a study."""
    name = draw(st.sampled_from(OTHERS))
    return name, draw(texts(json.loads((STUDY / name).read_bytes())))


def read_other(folder: Path, given: tuple[str, bytes]) -> None:
    """Read a study with such a file, and its students."""
    name, content = given
    OfStudy(name)(folder, content)
    if name.startswith("students"):
        kdtune.load_student(folder / "study")


def words() -> st.SearchStrategy[list[str]]:
    """Return a strategy of command lines with flags that exist and values of any kind."""
    flags = [flag.name for flag in study_flags("search", fashion())]
    flags = [f if f.startswith("--") else f"--{f.replace('_', '-')}" for f in flags]
    value = st.sampled_from(
        ["0", "1", "-1", "0.5", "1e308", "nan", "inf", "1" * 25, "a,b", "0..1", "1..0:log", "..",
         "s3://", "s3://b/x", "~nouser/x", "alpha=1", "=", "x=", "kl+kl", "", " ", "\x1b[2J"]
    ) | st.text(max_size=12)  # fmt: skip
    pair = st.tuples(st.sampled_from(flags), st.lists(value, max_size=3))
    return st.lists(pair, min_size=1, max_size=4).map(
        lambda pairs: [word for flag, values in pairs for word in (flag, *values)]
    )


def read_flags(folder: Path, given: list[str]) -> None:
    """Parse a command line; tyro ends the process with code 2 after its own sentence."""
    try:
        study = parse("search", given)
    except SystemExit as ended:
        assert ended.code in (0, 2), f"exit code {ended.code}"  # 0: --help
        return
    assert Study.from_json(study.to_json()) == study, "is another study when it is read again"


@st.composite
def experiments(draw: st.DrawFn) -> bytes:
    """Draw the text of an experiment: fields of any value, or damaged Python."""
    literal = Json.map(repr)

    def some(names: list[str], most: int) -> dict[str, str]:
        return draw(st.dictionaries(st.sampled_from(names), literal, max_size=most))

    run = some([f.name for f in fields(Run)], 3)
    own = some([f.name for f in fields(Study)], 3)
    space = some([*run, "alpha", "lr", "x"], 2)
    inner = ", ".join(f"{name}={text}" for name, text in run.items())
    spaces = ", ".join(f"{name!r}: {text}" for name, text in space.items())
    given = {"run": f"Run({inner})", "space": f"{{{spaces}}}"} | own
    text = ", ".join(f"{name}={value}" for name, value in given.items())
    whole = f"from kdtune import *\ninf = nan = float('inf')\nstudy = Study({text})\n".encode(
        "utf-8", "surrogatepass"
    )
    # damage stays outside of what is executed as written: only the encoding and the syntax break
    return whole + draw(st.sampled_from([b"", b"\xff", b"(", b"\x00", b"study = 7", b"raise 3"]))


def read_experiment(folder: Path, content: bytes) -> None:
    """Read an experiment as the command search does."""
    (folder / "experiment.py").write_bytes(content)
    with contextlib.suppress(SystemExit):
        parse("search", [str(folder / "experiment.py")])


FORMATS = "PNG/RGB PNG/P PNG/I;16 JPEG/CMYK JPEG/L GIF/P BMP/RGB WEBP/RGB TIFF/RGB"
"""Of pictures, with their modes."""


def pictures() -> list[bytes]:
    """Return small images of several formats and modes."""
    made = []
    for name in FORMATS.split():
        kind, mode = name.split("/")
        stream = io.BytesIO()
        noise = np.random.default_rng(0).integers(0, 255, (9, 12), dtype=np.uint8)
        Image.fromarray(noise).convert(mode).save(stream, kind)
        made.append(stream.getvalue())
    return made


@st.composite
def folders(draw: st.DrawFn) -> list[tuple[str, bytes]]:
    """Draw the files of an image folder: names and contents."""
    sound, images = pictures()[0], pictures()
    files = [(f"{split}/{c}/0.png", sound) for split in ("train", "val") for c in ("ants", "bees")]
    part = st.sampled_from(["train", "val", "test", "ants", "bees", "a b", "\x1b[2J", "é", "..."])
    ending = st.sampled_from(
        ["0.png", "1.PNG", "2.jpg", "3.gif", "4.txt", ".hidden", "5", "6.webp"]
    )
    for _ in range(draw(st.integers(1, 3))):
        parts = draw(st.lists(part, min_size=0, max_size=3))
        files.append(("/".join([*parts, draw(ending)]), draw(damaged(images))))
    return files


def read_folder(folder: Path, given: list[tuple[str, bytes]]) -> None:
    """Read an image folder and decode its images."""
    for name, content in given:
        file = folder / "data" / name
        with contextlib.suppress(OSError):  # a file where another has a folder
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
    data = load_folder(folder / "data")
    verify(data)  # which decodes them
    assert len(data.classes) > 1


STATE = {"conv.weight": torch.ones(3, 3), "head.bias": torch.zeros(7)}


def checkpoints() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a strategy of damaged files of weights, by their ending."""
    stream = io.BytesIO()
    torch.save({"state_dict": STATE, "epoch": 3}, stream)
    record = save(STATE, {"kdtune": json.dumps({"classes": ["a", "b"], "size": 3})})
    return st.tuples(st.just("w.safetensors"), damaged([save(STATE), record])) | st.tuples(
        st.just("w.pt"), damaged([stream.getvalue()])
    )


def read_weights(folder: Path, given: tuple[str, bytes]) -> None:
    """Read a file of weights."""
    file = folder / given[0]
    file.write_bytes(given[1])
    for value in read_checkpoint(file).values():
        assert isinstance(value, torch.Tensor)


KEY = Key("logits", {"data": "x"})
ENTRY = {"logits": torch.arange(12.0).reshape(3, 4)}


def entries() -> st.SearchStrategy[bytes]:
    """Return a strategy of damaged entries of the cache."""
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(name)
        cache.get(KEY, "logits", lambda progress: ENTRY)
        (file,) = Path(name).rglob("*.safetensors")
        return damaged([file.read_bytes()])


def read_entry(folder: Path, content: bytes) -> None:
    """Read a cache entry: the numbers that were stored, or none."""
    file = folder / "entry.safetensors"
    file.write_bytes(content)
    found = read(file, KEY.text)
    assert found is None or torch.equal(found["logits"], ENTRY["logits"]), "gives other numbers"


def tables() -> st.SearchStrategy[tuple[str, bytes]]:
    """Return a strategy of damaged tables of results, by their ending."""
    frame = pd.DataFrame(
        {
            "alpha": [0, 0, 1, 1],
            "seed": [0, 1, 0, 1],
            "epoch": [2] * 4,
            "acc": [0.9, 0.8, 0.7, 0.75],
        }
    )
    stream = io.BytesIO()
    frame.to_parquet(stream)
    csv = frame.to_csv(index=False).encode()
    many = [csv, csv.replace(b",", b";"), csv.replace(b",", b"\t")]
    return st.tuples(st.just("t.csv"), damaged(many)) | st.tuples(
        st.just("t.parquet"), damaged([stream.getvalue()])
    )


def read_table(folder: Path, given: tuple[str, bytes]) -> None:
    """Compare the configurations of a table."""
    file = folder / given[0]
    file.write_bytes(given[1])
    assert str(compare(str(file), by="alpha", repeat="seed", metric="acc", epoch="epoch"))


@dataclass(frozen=True)
class Target:
    """A reader and what it is given."""

    inputs: Callable[[], st.SearchStrategy[Any]]
    read: Callable[[Path, Any], None]


def _study_texts() -> st.SearchStrategy[bytes]:
    return texts(json.loads((STUDY / "study.json").read_bytes()))


TARGETS = {
    "study.json": Target(_study_texts, OfStudy("study.json")),
    "records": Target(records, OfStudy("epochs/00000.jsonl")),
    "other files of a study": Target(other_files, read_other),
    "flags": Target(words, read_flags),
    "experiment": Target(experiments, read_experiment),
    "image folder": Target(folders, read_folder),
    "weights": Target(checkpoints, read_weights),
    "cache entry": Target(entries, read_entry),
    "table": Target(tables, read_table),
}


def fuzz(
    target: Target, seconds: float, first_seed: int, shrink: bool
) -> tuple[int, int, str | None]:
    """Return the number of inputs, of those that were refused, and a fault if there is one."""
    until, counts, inputs = time.monotonic() + seconds, [0, 0], target.inputs()

    def one(content: Any) -> None:
        counts[0] += 1
        with tempfile.TemporaryDirectory() as name, _silence():
            try:
                target.read(Path(name), content)
            except InputError as error:
                counts[1] += 1
                assert printable(str(error)) == str(error), repr(str(error))

    for number in range(first_seed, sys.maxsize):
        if time.monotonic() > until:
            return counts[0], counts[1], None
        try:
            _with_hypothesis(one, inputs, number, shrink)
        except Exception as error:
            notes = "\n".join(getattr(error, "__notes__", []))
            return counts[0], counts[1], f"{traceback.format_exc(limit=-6)}\n{notes[:3000]}"
    raise AssertionError


def _with_hypothesis(one: Callable[[Any], None], inputs: Any, number: int, shrink: bool) -> None:
    """Call a function with a batch of inputs."""
    quiet = settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=[Phase.generate, *([Phase.shrink] if shrink else [])],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    seed(number)(quiet(given(inputs)(one)))()


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    sink = io.StringIO()
    with (
        contextlib.redirect_stdout(sink),
        contextlib.redirect_stderr(sink),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def main() -> int:
    """Fuzz the readers and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0, help="for each reader")
    parser.add_argument("--only", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shrink", action="store_true", help="find a small input; takes minutes")
    options = parser.parse_args()
    print("| reader | inputs | refused in a sentence | faults |\n|---|---|---|---|")
    faults = {}
    for name in options.only:
        count, refused, fault = fuzz(
            TARGETS[name], 60 * options.minutes, options.seed, options.shrink
        )
        print(f"| {name} | {count:,} | {refused:,} | {int(fault is not None)} |", flush=True)
        if fault is not None:
            faults[name] = fault
    for name, fault in faults.items():
        print(f"\n{name}:\n{fault}", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
