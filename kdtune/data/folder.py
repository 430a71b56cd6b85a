"""A data set in a folder of images."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import PIL
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from kdtune.config.errors import InputError, first_line
from kdtune.data.content import hash_files, keep_note, read_note
from kdtune.data.dataset import Data, Split, decode, name_splits


def verify(data: Data) -> None:
    """Decode every image file once.

    Files that could be read are not decoded again by a later call, in this or another process.

    Raises:
        InputError: some files cannot be read; the message names the first.
    """
    own = [split for name, split in data.splits.items() if name != "extra"]
    _verify(own, data.fingerprint)
    if data.extra is not None:
        _verify([data.splits["extra"]], data.extra.fingerprint)


def _verify(splits: Sequence[Split], fingerprint: str) -> None:
    files = [f for s in splits if isinstance(s.inputs, tuple) for f in s.inputs]
    note = f"{fingerprint}-read-by-pillow-{PIL.__version__}"
    if not files or read_note(note) is not None:
        return
    with ThreadPoolExecutor() as pool:
        broken = [error for error in pool.map(_fault, files) if error]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise InputError(f"{broken[0]}{more}; replace or remove the file")
    keep_note(note, "")


def load_folder(root: Path) -> Data:
    """Return the data set in a folder.

    Args:
        root: a folder with train/ and perhaps val/ (or validation/, valid/, dev/) and test/, and in
            each of them a folder of images for each class.

    Returns:
        The data set, without val if the folder has none.

    Raises:
        InputError: a folder is missing, a class is empty, or the splits differ in classes.
    """
    splits, classes = {}, {}
    for name, folder in _folders(root).items():
        try:
            found = ImageFolder(folder)
        except FileNotFoundError as error:  # no class at all, or one without images
            raise InputError(
                f"{folder} must hold one folder of images for each class: {first_line(error)}"
            ) from None
        classes[name] = tuple(found.classes)
        files = tuple(path for path, _ in found.samples)
        splits[name] = Split(torch.tensor(found.targets), files)
        if classes[name] != classes["train"]:
            lacks = {
                "train": sorted(set(classes[name]) - set(classes["train"])),
                folder.name: sorted(set(classes["train"]) - set(classes[name])),
            }
            found = (
                f"{place}/ lacks {', '.join(names)}" for place, names in lacks.items() if names
            )
            raise InputError(
                f"{root}: train/ and {folder.name}/ must hold the same classes, but "
                f"{' and '.join(found)}; add or remove these folders"
            )
    if len(classes["train"]) < 2:
        only = classes["train"][0]
        raise InputError(f"{root} must hold at least two classes, but has {only} alone")
    files = tuple(file for split in splits.values() for file in split.inputs)
    fingerprint = hash_files(root, files)
    return Data(classes["train"], splits, fingerprint, photos=True, root=str(root))


def _folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split; raise InputError without train, or with two of val."""
    if not root.is_dir():
        raise InputError(
            f'data must be "fashion", torchvision:NAME, module:factory or a folder with train/ and '
            f"val/, but there is no folder {root}; give one (--data FOLDER)"
        )
    present = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    return {split: root / name for split, name in name_splits(present, str(root)).items()}


def _fault(file: str) -> str | None:
    """Return a sentence if the image cannot be decoded, else None."""
    try:
        decode(file)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = first_line(error).replace(f" '{file}'", "")
        return f"the image {file} cannot be read ({reason})"
    return None
