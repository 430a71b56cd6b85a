"""Reader of the files that wandb writes in offline mode: LevelDB's log format with a header."""

import json
import struct
import time
from pathlib import Path
from typing import Any

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4


def records_of(file: Path) -> list[bytes]:
    """Return the records of a .wandb file, joined from their fragments."""
    data, position, records, joined = file.read_bytes(), HEADER, [], b""
    assert data[:4] == b":W&B"
    while position + HEADER <= len(data):
        if BLOCK - position % BLOCK < HEADER:  # the rest of a block is padding
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER])
        piece = data[position + HEADER : position + HEADER + length]
        joined = piece if kind in (FULL, FIRST) else joined + piece
        if kind in (FULL, LAST):
            records.append(joined)
        position += HEADER + length
    return records


def read_run(file: Path) -> dict[str, Any]:
    """Return id, name, group, tags, notes, config, history, summary and exit code of a run."""
    from wandb.proto import wandb_internal_pb2 as proto

    run: dict[str, Any] = {"history": {}, "summary": {}, "exit_code": None}
    for text in records_of(file):
        record = proto.Record()
        record.ParseFromString(text)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            new = record.run
            config = {u.key: json.loads(u.value_json) for u in new.config.update}
            run |= {"id": new.run_id, "name": new.display_name, "group": new.run_group}
            run |= {"tags": list(new.tags), "notes": new.notes}
            run["config"] = run.get("config", {}) | config
        elif kind == "history":
            items = {
                (i.key or "/".join(i.nested_key)): json.loads(i.value_json)
                for i in record.history.item
            }
            run["history"].setdefault(record.history.step.num, {}).update(items)
        elif kind == "summary":
            run["summary"] |= {
                (u.key or ".".join(u.nested_key)): json.loads(u.value_json)
                for u in record.summary.update
            }
        elif kind == "exit":
            run["exit_code"] = record.exit.exit_code
    return run


def read_runs(folder: Path, seconds: float = 20) -> list[dict[str, Any]]:
    """Return what each start of a run has written below a folder, in the order of the starts.

    wandb's service writes the end of a run a moment after `finish` has returned.
    """
    while True:
        files = folder.glob("wandb/offline-run-*/*.wandb")
        runs = [read_run(file) for file in sorted(files, key=lambda f: f.stat().st_mtime_ns)]
        if all(run["exit_code"] is not None for run in runs) or seconds <= 0:
            return runs
        seconds -= 0.2
        time.sleep(0.2)
