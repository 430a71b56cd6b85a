"""Reading of records for trackers: each once, also while they are being written."""

import json
from pathlib import Path

import pytest
import study_folders as folders

from kdtune.storage.records import Records, read_lines
from kdtune.tracking.sync import RecordReader, Trials, study_id

RUN = folders.at(0.5)


def test_a_line_that_is_being_written_is_read_once_it_is_complete(tmp_path: Path) -> None:
    with Records(tmp_path) as records:
        records.start(RUN, 0)
    part = tmp_path / "epochs" / "00000.jsonl"
    whole = part.read_text()
    part.write_text(whole[:30])
    reader = RecordReader(tmp_path)
    assert reader.read(10) == []
    part.write_text(whole)
    (record,) = reader.read(10)
    assert record.line == json.loads(whole) and record.position == "00000:000000001"
    assert reader.read(10) == []


def test_every_record_is_read_once_in_order_over_parts_and_portions(tmp_path: Path) -> None:
    for attempt in range(2):  # a start of the driver each
        folders.write_records(tmp_path, {RUN: [0.5, 0.6, 0.7]}, attempt=attempt)
    reader, found = RecordReader(tmp_path), []
    while records := reader.read(3):
        assert len(records) <= 3
        found += records
    assert [record.line for record in found] == read_lines(tmp_path)[0]
    positions = [record.position for record in found]
    assert positions == sorted(set(positions))


def test_a_record_that_the_tables_skip_is_skipped_here_too(tmp_path: Path) -> None:
    folders.write_records(tmp_path, {RUN: [0.5, 0.6, 0.7]})
    part = tmp_path / "epochs" / "00000.jsonl"
    part.write_text(part.read_text().replace('"acc": 0.6,', '"acc": 2.0,'))
    records = [record.line for record in RecordReader(tmp_path).read(99)]
    assert records == read_lines(tmp_path)[0] and len(records) > 3
    assert not [line for line in records if line.get("acc") == 2.0]


def test_damaged_and_other_lines_are_skipped(tmp_path: Path) -> None:
    folders.write_records(tmp_path, {RUN: [0.5]})
    part = tmp_path / "epochs" / "00000.jsonl"
    part.write_text('{"kind": "start"}\n[1]\nnot json\n{"kind": "finalists"}\n' + part.read_text())
    kinds = [record.line["kind"] for record in RecordReader(tmp_path).read(99)]
    assert kinds == ["start", "epoch", "epoch", "end"]


def test_an_update_has_metrics_by_epoch_and_how_the_trial_ended(tmp_path: Path) -> None:
    folders.write_records(tmp_path, {RUN: [0.5, 0.625]}, {RUN: "failed"})
    (update,) = Trials().updates(RecordReader(tmp_path).read(99), {})
    assert (update.status, update.error, update.node) == ("failed", "ValueError: boom", "node7")
    assert [(point.epoch, point.metrics["val/acc"]) for point in update.points] == [
        (0, 0.5),
        (1, 0.625),
    ]
    # all that `study_folders.metrics` writes but the number of examples, and the time
    names = {f"{split}/{n}" for split in ("train", "val") for n in folders.metrics(RUN, 0.5)}
    assert set(update.points[0].metrics) == {
        *(name for name in names if "n_examples" not in name),
        "seconds",
    }


def test_epochs_that_a_resumed_trial_repeats_are_left_out(tmp_path: Path) -> None:
    cut = {RUN: "running"}
    folders.write_records(tmp_path, {RUN: [0.5, 0.6]}, cut)
    folders.write_records(tmp_path, {RUN: [0.5, 0.6, 0.7]}, attempt=1)
    (update,) = Trials().updates(RecordReader(tmp_path).read(99), {})
    assert [point.epoch for point in update.points] == [0, 1, 2]
    assert update.status == "completed"


def test_what_a_tracker_has_is_left_out(tmp_path: Path) -> None:
    other = folders.at(1.0)
    folders.write_records(tmp_path, {RUN: [0.5, 0.6], other: [0.4]})
    records = RecordReader(tmp_path).read(99)
    sent = {RUN.trial_id: records[2].position}  # its start, and epoch 0 of train and of val
    first, second = Trials().updates(records, sent)
    assert [point.epoch for point in first.points] == [1]
    assert first.start["config"] == RUN.config  # also if the record of the start is not new
    assert second.trial_id == other.trial_id
    ends = {u.trial_id: u.position for u in (first, second)}
    assert Trials().updates(records, ends) == []


def test_a_completed_trial_without_its_last_epoch_is_truncated(tmp_path: Path) -> None:
    folders.write_records(tmp_path, {RUN: [0.5, 0.6]})  # of 3
    (update,) = Trials().updates(RecordReader(tmp_path).read(99), {})
    assert update.status == "truncated"
    assert read_lines(tmp_path)[0][-1]["kind"] == "epoch"  # as for the tables


def test_dropped_and_restored_trials(tmp_path: Path) -> None:
    folders.write_records(tmp_path, {RUN: [0.5, 0.6, 0.7]})
    names = {"trial_id": RUN.trial_id, "config_id": RUN.config_id, "repeat": 0}
    reader, trials = RecordReader(tmp_path), Trials()
    trials.updates(reader.read(99), {})
    with Records(tmp_path) as records:
        records.mark("drop", names, "a fault")
        (update,) = trials.updates(reader.read(99), {})
        assert (update.status, update.error) == ("dropped", "a fault")
        records.mark("restore", names)
        (update,) = trials.updates(reader.read(99), {})
    assert (update.status, update.error) == ("completed", None)


@pytest.mark.parametrize("copied", [True, False])
def test_a_copy_has_the_id_of_its_study_and_a_new_study_another(
    tmp_path: Path, copied: bool
) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    assert study_id(first) is None
    folders.write_records(first, {RUN: [0.5]})
    if copied:
        first.rename(second)
        folders.write_records(second, {folders.at(1.0): [0.5]}, attempt=1)
        second.rename(first)
    folders.write_records(second, {RUN: [0.5]})  # at another time
    before = study_id(first)
    if copied:
        first.rename(tmp_path / "c")
        assert study_id(tmp_path / "c") == before
    assert before != study_id(second)


def test_a_copy_of_a_part_is_not_read(tmp_path: Path) -> None:
    folders.write_records(tmp_path, {RUN: [0.5]})
    part = tmp_path / "epochs" / "00000.jsonl"
    part.with_name("00000 (1).jsonl").write_bytes(part.read_bytes())
    records = [record.line for record in RecordReader(tmp_path).read(99)]
    assert len(records) == len(part.read_text().splitlines())
