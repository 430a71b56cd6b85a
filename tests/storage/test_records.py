"""Records: writer, reader, what is refused, escaped and kept."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_run import TINY

import kdtune
from kdtune.config.text import InputError
from kdtune.results.results import Results
from kdtune.storage.records import (
    Records,
    pack_correct,
    read_lines,
    read_provenance,
    read_study,
    unpack_correct,
)


def test_an_incomplete_record_is_named_and_a_trial_without_its_last_epochs(tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        for attempt in range(2):
            records.start(TINY, attempt)
    part = tmp_path / "epochs" / "00000.jsonl"
    whole = part.read_bytes()
    damaged = [whole[:-20], whole + b"[1]\n", whole + b'{"kind": "start"}\n', whole + b"\xff\n"]
    for content in damaged:
        part.write_bytes(content)
        lines, incomplete = read_lines(tmp_path)
        number = content.rstrip(b"\n").count(b"\n") + 1
        assert incomplete == [f"00000.jsonl:{number}"]
        assert [line["attempt"] for line in lines] == list(range(number - 1))
    with Records(tmp_path) as records:  # a new part: nothing is appended to a damaged one
        records.start(TINY, 7)
    assert read_lines(tmp_path)[0][-1]["attempt"] == 7
    assert json.loads((tmp_path / "epochs" / "00001.jsonl").read_text())["attempt"] == 7
    values = {"val": {"n_examples": 2, "loss": 1.0, "ce": 1.0, "acc": 0.5}}
    for epochs, ends in ((TINY.epochs, 1), (TINY.epochs - 1, 0)):
        folder = tmp_path / str(epochs)
        with Records(folder) as records:
            records.start(TINY, 0)
            for epoch in range(epochs):
                records.epoch(TINY, 0, {"number": epoch, "seconds": 1.0, "splits": values})
            records.roll()
            records.end(TINY, 0, "completed")
        kinds = [line["kind"] for line in read_lines(folder)[0]]
        assert kinds == ["start", *["epoch"] * epochs, *["end"] * ends]


def test_correctness_as_text_by_hand() -> None:
    # the bits 10100000 1 (then seven zeros of padding) are the bytes a0 80, in base64 oIA=
    assert pack_correct([True, False, True, False, False, False, False, False, True]) == "oIA="
    of_groups = {"n_examples": 9, "correct": pack_correct(np.array([0.25, 1.75]))}
    values = unpack_correct(of_groups)
    assert values is not None and values.tolist() == [0.25, 1.75]
    for line in (
        {"n_examples": 9},  # an older version
        {"n_examples": 9, "correct": None},
        {"n_examples": 17, "correct": "oIA="},  # three bytes
        {"n_examples": 9, "correct": "not base64"},
        {"correct": "oIA="},
    ):
        assert unpack_correct(line) is None


DATA = Path(__file__).parents[1] / "data"
DEEP = "[" * 100_000
PART = "epochs/00000.jsonl"

Change = Callable[[dict[str, Any]], Any]


@pytest.fixture(scope="module")
def whole() -> Results:
    return kdtune.load(DATA / "study_schema_3")


@pytest.fixture
def folder(whole: Results, tmp_path: Path) -> Path:
    """A copy of the study without its predictions and teacher."""
    place = tmp_path / whole.folder.name
    (place / "epochs").mkdir(parents=True)
    for name in ("study.json", "provenance.json", PART):
        shutil.copy(whole.folder / name, place / name)
    return place


def spoil(folder: Path, kind: str, change: Change) -> str:
    """Change the first record of a kind, and return its place."""
    file = folder / PART
    lines = [json.loads(text) for text in file.read_text("utf-8").splitlines()]
    number = next(n for n, x in enumerate(lines) if x["kind"] == kind)
    changed = change(lines[number])
    texts = [json.dumps(line) for line in lines]
    texts[number] = changed if isinstance(changed, str) else json.dumps(lines[number])
    file.write_text("\n".join(texts) + "\n", "utf-8")
    return f"00000.jsonl:{number + 1}"


def set_to(**values: Any) -> Change:
    return lambda line: line.update(values)


EPOCHS = {
    "an accuracy of 2": set_to(acc=2.0),
    "an infinite loss": lambda line: json.dumps(line | {"loss": float("inf")}),
    "an epoch after the last": set_to(epoch=7),
    "a trial that is a path": set_to(trial_id="../../../etc"),
    "a trial of another repeat": set_to(repeat=3),
    "a list": lambda line: "[1, 2]",
    "deep nesting": lambda line: DEEP,
}
STARTS = {
    "a value out of range": lambda line: line["config"].update(alpha=7),
    "a value of another configuration": lambda line: line["config"].update(alpha=0.25),
    "no configuration": lambda line: line.pop("config") and None,
    "an escape for a terminal": lambda line: line["config"].update(student="\x1b[2J"),
    "an unknown phase": set_to(phase="later"),
}
ENDS = {"an unknown status": set_to(status="done"), "no error": lambda line: line.pop("error")}
RECORDS = [("epoch", EPOCHS), ("start", STARTS), ("end", ENDS)]
CASES = [
    pytest.param(kind, change, id=f"{kind}: {name}")
    for kind, changes in RECORDS
    for name, change in changes.items()
]


@pytest.mark.parametrize(("kind", "change"), CASES)
def test_a_wrong_record_is_skipped(whole: Results, folder: Path, kind: str, change: Change) -> None:
    """Of a trial without a start nothing is read, so that the plan runs it again."""
    lines, _ = read_lines(folder, whole.study)
    wrong = next(line for line in lines if line["kind"] == kind)
    place = spoil(folder, kind, change)
    without = [line for line in lines if line is not wrong]
    if kind == "start":
        without = [line for line in lines if line.get("trial_id") != wrong["trial_id"]]
    assert read_lines(folder, whole.study) == (without, [place])


def test_the_tables_lack_what_was_skipped_and_say_so(whole: Results, folder: Path) -> None:
    place = spoil(folder, "epoch", set_to(acc=2.0))
    results = kdtune.load(folder)
    assert f"unreadable record skipped: {place}" in results.warnings
    assert len(results.frames.epochs) == len(whole.frames.epochs) - 1
    assert results.text() and "nan" not in results.verdict()
    ended = spoil(folder, "end", set_to(status="done"))
    results = kdtune.load(folder)
    assert results.frames.incomplete == [place, ended]
    assert list(results.trials.status).count("truncated") == 1


def test_texts_of_records_are_escaped_and_copies_are_not_read(folder: Path) -> None:
    spoil(folder, "end", set_to(status="failed", error="\x1b]0;owned\x07\u202e", node="a\nb"))
    trials = kdtune.load(folder).trials
    (failed,) = trials[trials.status == "failed"].itertuples()
    assert failed.error == r"\x1b]0;owned\x07\u202e" and failed.node == r"a\nb"
    lines = read_lines(folder)
    for name in ("-1.jsonl", "copy of 00000.jsonl"):
        shutil.copy(folder / PART, folder / "epochs" / name)
    assert read_lines(folder) == (lines[0], ["-1.jsonl", "copy of 00000.jsonl"])


STUDIES = {
    "a list": b"[]",
    "no space": b'{"schema": 4, "run": {}, "fingerprints": {}}',
    "a space of numbers": b'{"schema": 4, "run": {}, "space": {"alpha": 1}, "fingerprints": {}}',
    "an unknown field": b'{"schema": 4, "space": {}, "run": {}, "fingerprints": {}, "speed": 1}',
    "a name that is a path": b'{"schema": 4, "space": {}, "run": {}, "name": ".."}',
}


@pytest.mark.parametrize("text", STUDIES.values(), ids=STUDIES)
def test_a_study_file_that_is_none_is_one_sentence(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes(text)
    with pytest.raises(InputError, match=r"study\.json is not a study") as error:
        read_study(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


PROVENANCES = {
    "classes of numbers": (b'{"classes": [1, 2]}', "classes.0: a valid string"),
    "a cut without numbers": (b'{"data_set": {"val_cut": [1]}}', "data_set.val_cut: an object"),
    "models that are a list": (b'{"models": []}', "models: an object"),
    "a list": (b"[]", "an object"),
    "deep nesting": (DEEP.encode(), "Invalid JSON"),
}


@pytest.mark.parametrize(("text", "fault"), PROVENANCES.values(), ids=PROVENANCES)
def test_a_damaged_provenance_is_left_out_and_said(text: bytes, fault: str, folder: Path) -> None:
    (folder / "provenance.json").write_bytes(text)
    faults: list[str] = []
    assert read_provenance(folder, faults) == {}
    (sentence,) = faults
    assert sentence.startswith(f"provenance.json is damaged ({fault}")
    if fault == "an object":
        assert sentence in kdtune.load(folder).warnings
