"""Image files by name, in folders and of patterns."""

import glob
from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets.folder import IMG_EXTENSIONS

from kdtune.config.errors import InputError


def find_images(names: Sequence[str]) -> list[Path]:
    """Return image files, each once, in the order of the names and sorted within each.

    Args:
        names: Files (of any suffix), folders, whose files with a suffix of an image are taken at
            any depth, and patterns (*, ?, [...], ** for folders at any depth).

    Raises:
        InputError: There is no such file or folder, or no image in it or of the pattern.
    """
    found: dict[Path, None] = {}
    for name in names:
        found |= dict.fromkeys(_of(name))
    return list(found)


def _of(name: str) -> list[Path]:
    path = Path(name).expanduser()
    if path.is_dir():
        images = _in_folder(path)
        if not images:
            raise InputError(
                f"a folder must hold images ({', '.join(IMG_EXTENSIONS)}), but {path} holds none"
            )
        return images
    if path.exists() or not glob.has_magic(name):
        if not path.exists():
            raise InputError(
                f"IMAGE must be an image file, a folder or a pattern, but {path} does not exist"
            )
        return [path]
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    images = [image for match in matches for image in _expanded(match)]
    if not images:
        raise InputError(f"a pattern must match image files, but {name} matches none")
    return images


def _expanded(match: Path) -> list[Path]:
    return _in_folder(match) if match.is_dir() else [match]


def _in_folder(folder: Path) -> list[Path]:
    """Return the files that torchvision's ImageFolder takes for images, at any depth."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [file for file in files if file.name.lower().endswith(IMG_EXTENSIONS)]
