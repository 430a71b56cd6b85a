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
    data, place, found, joined = file.read_bytes(), HEADER, [], b""
    assert data[:4] == b":W&B"
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        piece = data[place + HEADER : place + HEADER + length]
        joined = piece if kind in (FULL, FIRST) else joined + piece
        if kind in (FULL, LAST):
            found.append(joined)
        place += HEADER + length
    return found


def read_run(file: Path) -> dict[str, Any]:
    """Return id, name, group, job_type, tags, notes, config, history, summary, exit code, files."""
    from wandb.proto import wandb_internal_pb2 as proto

    run: dict[str, Any] = {"history": {}, "summary": {}, "exit_code": None, "artifact": []}
    for text in records_of(file):
        record = proto.Record()
        record.ParseFromString(text)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            own = record.run
            config = {u.key: json.loads(u.value_json) for u in own.config.update}
            run |= {"id": own.run_id, "name": own.display_name, "group": own.run_group}
            run |= {"job_type": own.job_type, "tags": list(own.tags), "notes": own.notes}
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
        elif kind == "artifact":
            run["artifact"] += [e.path for e in record.artifact.manifest.contents]
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
