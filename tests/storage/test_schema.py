"""The one reader of a study's JSON files: what it refuses, what it escapes, what it keeps."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import kdtune
from kdtune.config.text import InputError
from kdtune.reporting.build import write
from kdtune.storage.records import provenance_faults, read_lines, read_provenance, read_study

OLD = ["study_v0_1", "study_schema_2", "study_schema_3"]
DATA = Path(__file__).parents[1] / "data"
DEEP = "[" * 100_000
PART = "epochs/00000.jsonl"

Change = Callable[[dict[str, Any]], Any]


def copy_of(name: str, folder: Path) -> Path:
    return shutil.copytree(DATA / name, folder / name)


def spoil(folder: Path, kind: str, change: Change, split: str = "val") -> str:
    """Change the first record of a kind, and return its place."""
    file = folder / PART
    lines = [json.loads(text) for text in file.read_text("utf-8").splitlines()]
    fits = (n for n, x in enumerate(lines) if x["kind"] == kind and x.get("split", split) == split)
    number = next(fits)
    changed = change(lines[number])
    texts = [json.dumps(line) for line in lines]
    texts[number] = changed if isinstance(changed, str) else json.dumps(lines[number])
    file.write_text("\n".join(texts) + "\n", "utf-8")
    return f"00000.jsonl:{number + 1}"


def set_to(**values: Any) -> Change:
    return lambda line: line.update(values)


def without(name: str) -> Change:
    return lambda line: line.pop(name) and None


EPOCHS = {
    "an accuracy of 2": set_to(acc=2.0),
    "a negative accuracy": set_to(acc=-1.0),
    "an accuracy that is true": set_to(acc=True),
    "an accuracy that is text": set_to(acc="0.9"),
    "an accuracy that is a list": set_to(acc=[0.9]),
    "no accuracy": set_to(acc=None),
    "an agreement of 1.5": set_to(agreement=1.5),
    "an infinite loss": lambda line: json.dumps(line | {"loss": float("inf")}),
    "a loss beyond float64": set_to(loss=10**400),
    "a loss that is no number": lambda line: json.dumps(line | {"loss": float("nan")}),
    "half an epoch": set_to(epoch=0.5),
    "an epoch that is true": set_to(epoch=True),
    "an epoch after the last": set_to(epoch=7),
    "a negative epoch": set_to(epoch=-1),
    "an epoch beyond 64 bits": set_to(epoch=10**30),
    "negative seconds": set_to(seconds=-1.0),
    "another split": set_to(split="vall"),
    "no split": without("split"),
    "no seconds": without("seconds"),
    "a trial that is a path": set_to(trial_id="../../../etc"),
    "a trial of another repeat": set_to(repeat=3),
    "text for the repeat": set_to(repeat="0"),
    "no trial": without("trial_id"),
    "an unknown kind": set_to(kind="epochs"),
    "a list for the kind": set_to(kind=["epoch"]),
    "a list": lambda line: "[1, 2]",
    "a number": lambda line: "7",
    "nothing": lambda line: "null",
    "deep nesting": lambda line: DEEP,
    "a deep value": lambda line: json.dumps(line)[:-1] + f', "x": {DEEP}}}',
    "half a record": lambda line: json.dumps(line)[:40],
    "bytes of another file": lambda line: "\x00\x01\x02PAR1",
}


@pytest.mark.parametrize("change", EPOCHS.values(), ids=EPOCHS)
def test_an_epoch_that_cannot_be_right_is_skipped_and_said(change: Change, tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    whole = kdtune.load(folder)
    place = spoil(folder, "epoch", change)
    results = kdtune.load(folder)
    assert results.frames.incomplete == [place]
    assert f"unreadable record skipped: {place}" in results.warnings
    assert len(results.frames.epochs) == len(whole.frames.epochs) - 1
    assert results.text() and "nan" not in results.verdict()


STARTS = {
    "an unknown hyperparameter": lambda line: line["config"].update(rate=1),
    "a value out of range": lambda line: line["config"].update(alpha=7),
    "a value of another type": lambda line: line["config"].update(alpha="half"),
    "a value of another configuration": lambda line: line["config"].update(alpha=0.25),
    "a nested value": lambda line: line["config"].update(alpha={"a": 1}),
    "a configuration that is a list": set_to(config=[]),
    "no configuration": without("config"),
    "an escape for a terminal": lambda line: line["config"].update(student="\x1b[2J"),
    "text for the epochs": set_to(epochs="two"),
    "an unknown phase": set_to(phase="later"),
}


@pytest.mark.parametrize("change", STARTS.values(), ids=STARTS)
def test_a_trial_whose_start_is_wrong_is_left_out_and_runs_again(
    change: Change, tmp_path: Path
) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    whole = kdtune.load(folder)
    lost = read_lines(folder)[0][0]["trial_id"]
    place = spoil(folder, "start", change)
    results = kdtune.load(folder)
    assert results.frames.incomplete == [place]
    assert set(whole.trials.trial_id) - set(results.trials.trial_id) == {lost}
    lines, _ = read_lines(folder, results.study)
    assert lost not in {line.get("trial_id") for line in lines}  # so the plan runs it again


ENDS = {
    "an unknown status": set_to(status="done"),
    "no status": without("status"),
    "no error": without("error"),
    "a number for the error": set_to(error=7),
}


@pytest.mark.parametrize("change", ENDS.values(), ids=ENDS)
def test_a_trial_whose_end_is_wrong_has_not_ended(change: Change, tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    place = spoil(folder, "end", change)
    results = kdtune.load(folder)
    assert results.frames.incomplete == [place]
    assert list(results.trials.status).count("truncated") == 1


def test_texts_of_records_are_escaped(tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    spoil(folder, "end", set_to(status="failed", error="\x1b]0;owned\x07\u202e", node="a\nb"))
    trials = kdtune.load(folder).trials
    (failed,) = trials[trials.status == "failed"].itertuples()
    assert failed.error == r"\x1b]0;owned\x07\u202e" and failed.node == r"a\nb"


@pytest.mark.parametrize("name", ["copy of 00000.jsonl", "00000 (1).jsonl", "x.jsonl", "-1.jsonl"])
def test_copies_of_records_are_not_read(name: str, tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    lines = read_lines(folder)
    (folder / "epochs" / name).write_bytes((folder / PART).read_bytes())
    assert read_lines(folder) == (lines[0], [name])


def test_a_folder_in_place_of_records_is_said(tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    (folder / "epochs" / "00001.jsonl").mkdir()
    assert read_lines(folder)[1] == ["00001.jsonl"]


STUDIES = {
    "a list": b"[]",
    "nothing": b"null",
    "no text": b"\xff\xfe\x00",
    "empty": b"",
    "deep nesting": DEEP.encode(),
    "a schema of text": b'{"schema": "four", "space": {}, "run": {}}',
    "a schema of true": b'{"schema": true, "space": {}, "run": {}}',
    "no space": b'{"schema": 4, "run": {}, "fingerprints": {}}',
    "a run that is a list": b'{"schema": 4, "run": [], "space": {}, "fingerprints": {}}',
    "a space of numbers": b'{"schema": 4, "run": {}, "space": {"alpha": 1}, "fingerprints": {}}',
    "fingerprints of numbers": b'{"schema": 4, "run": {}, "space": {}, "fingerprints": {"a": 1}}',
    "no run": b'{"schema": 4, "space": {}, "fingerprints": {}, "run": null}',
    "an unknown field": b'{"schema": 4, "space": {}, "run": {}, "fingerprints": {}, "speed": 1}',
    "a wrong value": b'{"schema": 4, "space": {}, "run": {"alpha": 2}, "fingerprints": {}}',
    "an infinite value": b'{"schema": 4, "space": {}, "run": {"lr": 1e999}, "fingerprints": {}}',
    "a name that is a path": b'{"schema": 4, "space": {}, "run": {}, "name": ".."}',
    "no schema, a run of text": b'{"run": "a", "space": {}}',
    "schema 1 without models": b'{"run": {}, "space": {}}',
}


@pytest.mark.parametrize("text", STUDIES.values(), ids=STUDIES)
def test_a_study_file_that_is_none_is_one_sentence(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "study.json").write_bytes(text)
    with pytest.raises(InputError, match=r"study\.json is not a study") as error:
        read_study(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


PROVENANCES = {
    "classes of numbers": (set_to(classes=[1, 2]), "classes"),
    "classes that are text": (set_to(classes="ants"), "classes"),
    "versions that are a list": (set_to(versions=["torch"]), "versions"),
    "a command of numbers": (set_to(command=[1]), "command"),
    "data that are text": (set_to(data_set="images"), "data_set"),
    "counts of text": (set_to(data_set={"examples": {"train": {"ants": "many"}}}), "data_set"),
    "a cut without a share": (set_to(data_set={"val_cut": {}}), "data_set"),
    "a machine that is text": (set_to(machine="vm"), "machine"),
    "warnings that are text": (set_to(warnings="none"), "warnings"),
    "a recipe of text": (set_to(recipe=["alpha"]), "recipe"),
    "models that are a list": (set_to(models=[]), "models"),
}


@pytest.mark.parametrize(("change", "name"), PROVENANCES.values(), ids=PROVENANCES)
def test_a_damaged_field_of_provenance_is_left_out_and_said(
    change: Change, name: str, tmp_path: Path
) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    file = folder / "provenance.json"
    record = json.loads(file.read_text("utf-8"))
    change(record)
    file.write_text(json.dumps(record), "utf-8")
    assert name not in read_provenance(folder) and read_provenance(folder)["python"]
    (sentence,) = provenance_faults(folder)
    assert sentence.startswith(f"provenance.json is damaged ({name}")
    assert sentence in kdtune.load(folder).warnings


def test_a_report_needs_no_field_of_provenance_that_can_be_damaged(tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    file = folder / "provenance.json"
    record = json.loads(file.read_text("utf-8"))
    for _, name in PROVENANCES.values():
        record[name] = 0
    file.write_text(json.dumps(record), "utf-8")
    results = kdtune.load(folder)
    (sentence,) = provenance_faults(folder)
    assert sentence.startswith("provenance.json is damaged (")
    assert not {name for _, name in PROVENANCES.values()} & set(read_provenance(folder))
    assert write(results, results.default_criterion, folder).is_file()


@pytest.mark.parametrize("text", [b"[]", b"\xff", b"", DEEP.encode()])
def test_a_provenance_that_cannot_be_read_is_said(text: bytes, tmp_path: Path) -> None:
    folder = copy_of("study_schema_3", tmp_path)
    (folder / "provenance.json").write_bytes(text)
    assert read_provenance(folder) == {} and len(provenance_faults(folder)) == 1
    assert kdtune.load(folder).text()


@pytest.mark.parametrize("name", OLD)
def test_every_released_schema_is_as_declared(name: str) -> None:
    study = read_study(DATA / name)
    assert read_lines(DATA / name, study)[1] == [] and provenance_faults(DATA / name) == []
