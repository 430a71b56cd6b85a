"""experiments/soak.py: what its comparison finds, that it replays, and a soak of a minute."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pandas as pd
import pytest
from soak_comparison import Told, compare
from soak_damage import append_garbage, cut_last_line, damage_line
from soak_processes import below
from soak_run import draw_events, tracebacks
from soak_studies import Scene
from study_folders import edit_records, make, write_predictions

from kdtune.results.frames import write_frames
from kdtune.storage.records import Records, read_lines

SOAK = Path(__file__).parents[2] / "experiments" / "soak.py"
LAST = {0.5: [0.8, 0.81, 0.82], 1.0: [0.7, 0.71, 0.7]}


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A study and its reference, made in the same way at different times."""
    for name in ("own", "reference"):
        results = make(tmp_path / name, LAST)
        write_predictions(results)
        write_frames(tmp_path / name, results.frames)
    return tmp_path / "own", tmp_path / "reference"


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(t) for t in (folder / "epochs" / "00000.jsonl").read_text().splitlines()]


def rewrite(folder: Path, lines: list[dict]) -> None:
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "epochs" / "00000.jsonl").write_text(text)


def test_equal_studies_have_no_difference(pair: tuple[Path, Path]) -> None:
    found = compare(*pair)
    assert (found.differences, found.epochs_twice, found.epochs_lost) == ([], 0, 0)


def change_last_digit(line: dict) -> None:
    if line["kind"] == "epoch" and line["epoch"] == 1 and line["split"] == "train":
        line["ce"] += 2e-16


def test_a_changed_digit_is_found(pair: tuple[Path, Path]) -> None:
    edit_records(pair[0], change_last_digit)
    found = compare(*pair).differences
    assert "epoch 1, train: ce " in found[0] and "instead of" in found[0]
    assert any(text.startswith("epochs: ") for text in found)  # the table, too


def without_a_trial(lines: list[dict]) -> list[dict]:
    return [line for line in lines if line["trial_id"] != lines[0]["trial_id"]]


def with_a_doubled_trial(lines: list[dict]) -> list[dict]:
    return [*lines, *(x for x in lines if x["trial_id"] == lines[0]["trial_id"])]


def with_a_stranger(lines: list[dict]) -> list[dict]:
    own = [line for line in lines if line["trial_id"] == lines[0]["trial_id"]]
    other = {"trial_id": f"{lines[0]['config_id']}-r09", "repeat": 9}
    return [*lines, *(line | other for line in own)]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_a_trial, "was completed 0 times instead of 1"),
        (with_a_doubled_trial, "was completed 2 times instead of 1"),
        (with_a_stranger, "-r09, epoch 0, train is not in the reference"),
    ],
)
def test_a_missing_a_doubled_and_a_strange_trial_are_found(
    pair: tuple[Path, Path], change: Callable[[list[dict]], list[dict]], said: str
) -> None:
    rewrite(pair[0], change(lines_of(pair[0])))
    assert any(said in text for text in compare(*pair).differences)


def test_an_epoch_with_two_numbers_is_found_and_counted(pair: tuple[Path, Path]) -> None:
    """A trial that resumes tells an epoch again: with another time it was computed twice."""
    lines = lines_of(pair[0])
    place = next(i for i, line in enumerate(lines) if line.get("split") == "val")
    again = lines[place] | {"seconds": 0.75}
    rewrite(pair[0], [*lines[: place + 1], again, *lines[place + 1 :]])
    found = compare(*pair)
    assert (found.differences, found.epochs_twice) == ([], 1)
    rewrite(pair[0], [*lines[:place], again | {"acc": 0.1}, *lines[place:]])
    assert "acc 0.1 instead of" in compare(*pair).differences[0]


def test_a_lost_epoch_is_counted_only_if_it_was_damaged_on_purpose(
    pair: tuple[Path, Path],
) -> None:
    lines = lines_of(pair[0])
    place = next(i for i, line in enumerate(lines) if line.get("split") == "val")
    cut = lines.pop(place)
    rewrite(pair[0], lines)
    assert "is missing" in compare(*pair).differences[0]
    found = compare(*pair, damaged=[Told(cut["trial_id"], cut["epoch"], cut["split"])])
    assert (found.differences, found.epochs_lost) == ([], 1)


def test_files_that_differ_or_cannot_be_read_are_found(pair: tuple[Path, Path]) -> None:
    own, reference = pair
    (own / "trials.parquet").write_bytes(b"PAR1")
    predictions = pd.read_parquet(own / "predictions.parquet")
    predictions.loc[7, "correct"] ^= True
    predictions.to_parquet(own / "predictions.parquet", index=False)
    for folder, weights in ((own, b"1"), (reference, b"2")):
        (folder / "students").mkdir()
        (folder / "students" / "repeat-00.safetensors").write_bytes(weights)
    said = " / ".join(compare(own, reference).differences)
    assert "trials.parquet cannot be read" in said
    assert "predictions.parquet: " in said
    assert "students/repeat-00.safetensors differs" in said


def test_tracebacks_of_the_driver_are_found_and_those_of_dead_workers_are_not() -> None:
    own = 'Traceback (most recent call last):\n  File "x", line 1\n    y\nIndexError: no\n'
    of_worker = f"ERROR tune_controller.py -- Trial task failed for trial a\n{own}"
    assert tracebacks(f"{of_worker}words\n") == []
    assert tracebacks(own) == tracebacks(f"words\n{own}{of_worker}") == ["IndexError: no"]


def test_a_seed_draws_the_same_faults_again() -> None:
    drawn = [[draw_events(Random(f"{s} {n}"), "folder", True) for n in range(20)] for s in "aab"]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A study of two epochs of one trial whose driver has not been started."""
    made = Scene("grid", tmp_path / "scene", {})
    values = {"val": {"n_examples": 2, "loss": 1.0, "ce": 1.0, "acc": 0.5}}
    with Records(made.folder) as records:
        records.start(made.study.run, 0)
        for epoch in range(2):
            records.epoch(made.study.run, 0, epoch, 1.0, values)
    yield made
    made.close()


def test_garbage_is_skipped_by_the_reader(scene: Scene) -> None:
    before = read_lines(scene.folder)[0]
    for seed in range(30):
        assert append_garbage(scene, Random(seed)) is not None
    assert read_lines(scene.folder)[0] == before


def test_a_record_that_is_cut_is_noted(scene: Scene) -> None:
    before = read_lines(scene.folder)[0]
    for seed, (gone, kept) in enumerate(((2, 1), (1, 1))):
        assert "epoch" in str(cut_last_line(scene, Random(seed)))
        assert read_lines(scene.folder)[0] == before[:gone]
        assert len(scene.damaged) == kept + seed
    assert {what.epoch for what in scene.damaged} == {0, 1}


def test_any_record_of_a_grid_is_damaged_and_noted(scene: Scene) -> None:
    whole, before = (scene.folder / "epochs" / "00000.jsonl").read_bytes(), scene.lines()
    hit = set()
    for seed in range(12):
        (scene.folder / "epochs" / "00000.jsonl").write_bytes(whole)
        assert damage_line(scene, Random(seed)) is not None
        gone = [line for line in before if line not in scene.lines()]
        assert len(gone) == (3 if gone[0]["kind"] == "start" else 1)  # a trial has a start
        hit.add((gone[0]["kind"], gone[0].get("epoch")))
    assert hit == {("start", None), ("epoch", 0), ("epoch", 1)} and len(scene.damaged) == 2


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_soak_of_a_minute_finds_no_difference_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "soak"
    flags = ["--minutes", "1", "--only", "grid,folder", "--out", str(out), "--seed", "1"]
    done = subprocess.run([sys.executable, str(SOAK), *flags], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    values = json.loads((out / "soak.json").read_text())
    assert values["studies"] and all(sum(s["faults"].values()) for s in values["studies"])
    assert "| differences | 0 |" in (out / "soak.md").read_text()
    assert not [p for p in below(os.getpid()) if str(out) in p.command]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds its processes in /proc")
def test_a_soak_that_is_interrupted_ends_what_it_has_started(tmp_path: Path) -> None:
    command = [sys.executable, str(SOAK), "--only", "grid", "--out", str(tmp_path / "soak")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as soak:
        started: list = []
        while len(started) < 4 and soak.poll() is None:
            started = below(soak.pid)
            time.sleep(0.2)
        soak.send_signal(signal.SIGINT)
        soak.communicate(timeout=240)
    assert soak.returncode == 1
    left = [p for p in started if Path(f"/proc/{p.pid}").exists()]
    assert not left
