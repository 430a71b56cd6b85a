"""Writer and reader of records."""

import json
from pathlib import Path

import pytest

from kdtune.config.run import Run
from kdtune.storage.records import Records, read_lines


def test_records_are_closed_by_their_context(tiny: Run, tmp_path: Path) -> None:
    with pytest.raises(KeyError), Records(tmp_path) as records:
        records.start(tiny, 0)
        raise KeyError
    with pytest.raises(ValueError, match="closed"):
        records.start(tiny, 1)
    lines, incomplete = read_lines(tmp_path)
    assert [line["attempt"] for line in lines] == [0] and incomplete == []


def test_an_incomplete_record_is_skipped_and_named(tiny: Run, tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        for attempt in range(2):
            records.start(tiny, attempt)
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
        records.start(tiny, 7)
    assert read_lines(tmp_path)[0][-1]["attempt"] == 7
    assert json.loads((tmp_path / "epochs" / "00001.jsonl").read_text())["attempt"] == 7


def test_a_trial_without_its_last_epochs_did_not_complete(tiny: Run, tmp_path: Path) -> None:
    values = {"val": {"n_examples": 2, "loss": 1.0, "ce": 1.0, "acc": 0.5}}
    for epochs, ends in ((tiny.epochs, 1), (tiny.epochs - 1, 0)):
        folder = tmp_path / str(epochs)
        with Records(folder) as records:
            records.start(tiny, 0)
            for epoch in range(epochs):
                records.epoch(tiny, 0, epoch, 1.0, values)
            records.roll()
            records.end(tiny, 0, "completed")
        kinds = [line["kind"] for line in read_lines(folder)[0]]
        assert kinds == ["start", *["epoch"] * epochs, *["end"] * ends]
