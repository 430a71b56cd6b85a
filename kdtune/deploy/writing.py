"""Writing of exported files: aside, checked, then under their own names."""

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from kdtune.config.errors import DAMAGED, InputError, first_line
from kdtune.config.files import STUDY, atomic_write, check_links

BEST, INT8 = "best", "best-int8"
CARD, EARLIER_CARD = "README.md", "README.old.md"
_SEAL = "<!-- written by kdtune.export, {} -->\n"
"""Last line of a model card, with the digest of all before it."""


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Check that files can be written into a folder; errors of writing become sentences.

    Raises:
        InputError: they cannot, or it is a link inside a study's folder.
    """
    if (folder.parent / STUDY).is_file():
        check_links(folder.parent)
    try:
        with TemporaryFile(dir=folder):
            pass
        yield
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise InputError(
            f"{folder} must be a folder that can be written, but is not ({reason}); copy the "
            f"study's folder to another place and export there"
        ) from error


def write_checked(file: Path, write: Callable[[Path], None], check: Callable[[Path], None]) -> None:
    """Write a file aside, check it, and rename it.

    Args:
        file: which an earlier export may have written; it stays if the check fails.
        write: writes the file.
        check: raises an error if the file is not right.
    """
    with atomic_write(file) as part:
        write(part)
        check(part)


def write_facts(file: Path, facts: Mapping[str, Any]) -> None:
    """Write the JSON file beside an exported file, such as best.onnx.json."""
    facts = {"file": file.name, **facts, "bytes": file.stat().st_size}
    with atomic_write(file.with_name(f"{file.name}.json")) as part:
        text = json.dumps(facts, indent=2, ensure_ascii=False)
        part.write_text(f"{text}\n", encoding="utf-8")


def read_facts(folder: Path, config_id: str) -> list[dict[str, Any]]:
    """Return what is said of each exported file in students/, by the JSON files beside them.

    Args:
        folder: students/.
        config_id: of the students; files of another configuration are left out.
    """
    found = []
    for file in sorted(folder.glob(f"{BEST}*.json"), key=lambda f: (INT8 in f.name, f.name)):
        with suppress(OSError, *DAMAGED):  # or not ours
            facts = json.loads(file.read_text(encoding="utf-8"))
            if facts["config_id"] == config_id and _are_facts(facts, folder):
                found.append(facts)
    return found


def _are_facts(facts: Mapping[str, Any], folder: Path) -> bool:
    """Return True if facts have what a card shows of a file, and the file is in the folder."""
    name, notes = facts["file"], facts.get("notes", [])
    texts = isinstance(notes, list) and all(
        isinstance(text, str) for text in (name, facts["format"], *notes)
    )
    return (
        texts
        and type(facts["repeat"]) is int
        and Path(name).name == name
        and (folder / name).is_file()
    )


def write_card(folder: Path, text: str) -> tuple[Path, bool]:
    """Write the model card into students/; return its file and whether an earlier one was kept.

    A card that was edited since kdtune wrote it is renamed to README.old.md.
    """
    file = folder / CARD
    edited = file.is_file() and not _is_sealed(file.read_text(encoding="utf-8"))
    if edited:
        file.replace(folder / EARLIER_CARD)
    with atomic_write(file) as part:
        part.write_text(_sealed(f"{text.rstrip()}\n\n"), encoding="utf-8")
    return file, edited


def _sealed(text: str) -> str:
    return text + _SEAL.format(hashlib.sha256(text.encode()).hexdigest()[:16])


def _is_sealed(text: str) -> bool:
    *lines, _ = text.splitlines(keepends=True) or [""]
    return _sealed("".join(lines)) == text
