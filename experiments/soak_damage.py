"""Damage to the files of a soak's study: its cache, checkpoints, records and tables.

Each function does its damage, and returns what was hit; None if there was nothing to hit.
"""

import shutil
from contextlib import suppress
from pathlib import Path
from random import Random

from soak_comparison import told
from soak_studies import ADAPTIVE, Scene

from kdtune.config.files import CHECKPOINT
from kdtune.storage.records import read_lines


def empty_cache(scene: Scene, rng: Random) -> str | None:
    """Delete all that the cache holds."""
    entries = list(scene.cache.iterdir())
    for entry in entries:
        shutil.rmtree(entry, ignore_errors=True)
    return f"{len(entries)} folders" if entries else None


def truncate_cache_entry(scene: Scene, rng: Random) -> str | None:
    """Truncate an entry of the cache."""
    entries = sorted(scene.cache.rglob("*.safetensors"))
    return _truncate(rng.choice(entries), rng) if entries else None


def _truncate(file: Path, rng: Random) -> str | None:
    """Cut a file as a crash of the machine does; those who have mapped the old one keep it."""
    with suppress(FileNotFoundError):
        content = file.read_bytes()
        size = rng.randrange(len(content)) if content else 0
        _replace(file, content[:size])
        return f"{file.name} to {size} of {len(content)} bytes"
    return None


def _flip(file: Path, rng: Random) -> str | None:
    content = bytearray(file.read_bytes())
    if not content:
        return None
    place, bit = rng.randrange(len(content)), rng.randrange(8)
    content[place] ^= 1 << bit
    _replace(file, bytes(content))
    return f"bit {bit} of byte {place} of {len(content)} of {file.parent.name}/{file.name}"


def _replace(file: Path, content: bytes) -> None:
    """Write the content as a new file: one that is mapped, cut in place, would kill its reader."""
    part = file.with_name(f"{file.name}.soak")
    part.write_bytes(content)
    part.rename(file)


def _newest_checkpoint(scene: Scene) -> Path | None:
    files = (scene.folder / "trials").glob(f"*/{CHECKPOINT}")
    return max(files, key=lambda file: file.stat().st_mtime_ns, default=None)


def truncate_checkpoint(scene: Scene, rng: Random) -> str | None:
    """Truncate the newest checkpoint of a trial; the state before it stays."""
    newest = _newest_checkpoint(scene)
    return None if newest is None else _truncate(newest, rng)


def flip_checkpoint(scene: Scene, rng: Random) -> str | None:
    """Flip a bit of the newest checkpoint of a trial; the state before it stays."""
    newest = _newest_checkpoint(scene)
    return None if newest is None else _flip(newest, rng)


def delete_trial_folder(scene: Scene, rng: Random) -> str | None:
    """Delete the folder of a trial that has not ended."""
    folders = [scene.folder / "trials" / trial for trial in scene.unfinished()]
    there = [folder for folder in folders if folder.is_dir()]
    if not there:
        return None
    shutil.rmtree(hit := rng.choice(there))
    return hit.name


def delete_working_folder(scene: Scene, rng: Random) -> str | None:
    """Delete what this machine has of a study on a store, as if another machine went on."""
    if not scene.folder.exists():
        return None
    shutil.rmtree(scene.folder)
    return str(scene.folder)


GARBAGE = (
    b"\x00\xff\xfe binary \x80\n",
    b"{\n",
    b'{"kind": "epoch"}\n',
    b'{"kind": "epoch", "trial_id": "stran',
    b"[]\n",
    b"\n\n",
    b'"text"\n',
)


def append_garbage(scene: Scene, rng: Random) -> str | None:
    """Append lines to the records that their reader must skip."""
    parts = sorted((scene.folder / "epochs").glob("*.jsonl"))
    if not parts:
        return None
    part, garbage = rng.choice(parts), rng.choice(GARBAGE)
    with part.open("ab") as file:
        file.write(garbage)
    return f"{garbage!r} to {part.name}"


def cut_last_line(scene: Scene, rng: Random) -> str | None:
    """Cut the last line of the records, as a crash of the machine does."""
    parts = [p for p in sorted((scene.folder / "epochs").glob("*.jsonl")) if p.stat().st_size]
    if not parts:
        return None
    content = parts[-1].read_bytes()
    whole = content.rpartition(b"\n")[0]  # without what an earlier cut has left
    if not whole:
        return None
    start = whole.rfind(b"\n") + 1
    return _rewrite(scene, parts[-1], whole[: rng.randrange(start, len(whole))])


def damage_line(scene: Scene, rng: Random) -> str | None:
    """Overwrite a part of any line of a grid's records, as a faulty disk does.

    Not in adaptive studies: a run of the search that has to be run again after the finalists are
    fixed begins another round of final repeats, as if the study were extended (`planning.rounds`).
    """
    parts = [p for p in sorted((scene.folder / "epochs").glob("*.jsonl")) if p.stat().st_size]
    if not parts or scene.kind in ADAPTIVE:
        return None
    part = rng.choice(parts)
    lines = part.read_bytes().split(b"\n")
    number = rng.randrange(max(1, len(lines) - 1))
    lines[number] = b"\x00" * 16 + lines[number][16:]
    return _rewrite(scene, part, b"\n".join(lines))


def _rewrite(scene: Scene, part: Path, content: bytes) -> str:
    """Give a part of the records another content; note the epochs that are lost with it."""
    before = read_lines(scene.folder)[0]
    part.write_bytes(content)
    after = read_lines(scene.folder)[0]
    gone = [line for line in before if line not in after]
    scene.damaged |= {told(line) for line in gone if line["kind"] == "epoch"}
    return f"{part.name}: {[(line['kind'], line.get('trial_id')) for line in gone][:3]}"


def damage_tables(scene: Scene, rng: Random) -> str | None:
    """Truncate a file that follows from the records, or flip a bit of it."""
    names = ("epochs.parquet", "trials.parquet", "predictions.parquet", "summary.csv", "summary.md")
    files = [scene.folder / name for name in names if (scene.folder / name).exists()]
    if not files:
        return None
    file = rng.choice(files)
    how = rng.choice((_truncate, _flip))
    return f"{file.name}: {how(file, rng)}"
