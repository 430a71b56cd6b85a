"""Images on which distilled and plain students differ most, and their thumbnails.

A study ends with thumbnails in its folder, so that its report shows them wherever the folder is
read. Without them, thumbnails are made from the files of the data, if these are still there.
"""

import io
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from kdtune.config.errors import UserError
from kdtune.config.files import THUMBNAILS, atomic_write
from kdtune.config.orientation import UNREADABLE, oriented
from kdtune.config.run_data import Orientation
from kdtune.results.arms import ARMS, Arms, Numbers

MOST_SHOWN = 12
"""Images of each kind: more often correct with distillation, or without."""
THUMBNAIL_SIDE = 72
"""Longest side of a thumbnail in pixels."""
MAX_PIXELS = 50_000_000
"""Larger image files get no thumbnail: decoding them could need more memory than there is."""


def most_different(arms: Arms, most: int = MOST_SHOWN) -> pd.DataFrame:
    """Return the images that one arm classifies correctly more often than the other.

    Returns:
        At most `most` rows of each sign of diff, the largest differences first. Ties are ordered
        by the difference in the mean probability of the label, then by the index. Columns: image
        (index in the split), file, label (name), distilled and baseline (students that are
        correct, of n), n, diff (distilled - baseline), wrong_distilled and wrong_baseline (the
        most frequent wrong class, with its count, e.g. "Coat (3)"; "" without).
    """
    right = arms.correct.sum(1)  # [2, N]
    diff = right[0] - right[1]
    surer = arms.p_label.mean(1)[0] - arms.p_label.mean(1)[1]
    rows = []
    for sign in (1, -1):
        order = np.lexsort((-sign * surer, -sign * diff))[:most]
        rows += [_row(arms, int(i), right) for i in order if sign * diff[i] > 0]
    return pd.DataFrame(rows)


def _row(arms: Arms, image: int, right: Numbers) -> dict[str, object]:
    """Return the row of one image in `most_different`; `right` [2, N] counts correct students."""
    label = int(arms.label[image])
    row: dict[str, object] = {
        **{"image": image, "file": arms.files[image], "label": arms.classes[label]},
        **{arm: int(count) for arm, count in zip(ARMS, right[:, image], strict=True)},
        **{"n": len(arms.repeats), "diff": int(right[0, image] - right[1, image])},
    }
    for arm, predicted in zip(ARMS, arms.predicted[:, :, image], strict=True):
        counts = np.bincount(predicted[predicted != label], minlength=1)
        worst = int(counts.argmax())
        row[f"wrong_{arm}"] = f"{arms.classes[worst]} ({counts[worst]})" if counts[worst] else ""
    return row


def count_differences(arms: Arms) -> tuple[int, int, int]:
    """Return on how many images more, as many and fewer distilled students are correct."""
    diff = np.subtract(*arms.correct.sum(1))
    return int((diff > 0).sum()), int((diff == 0).sum()), int((diff < 0).sum())


def thumbnail(image: Image.Image) -> bytes:
    """Return an image as PNG, no side longer than `THUMBNAIL_SIDE`; the same bytes each time."""
    small = image.convert("L" if image.mode in ("1", "L") else "RGB")
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    photo = max(image.size) > THUMBNAIL_SIDE  # JPEG blurs small drawings, but is a third of a PNG
    small.save(buffer, **({"format": "jpeg", "quality": 82} if photo else {"format": "png"}))
    return buffer.getvalue()


def write_thumbnails(
    folder: Path, arms: Mapping[str, Arms], picture: Callable[[str, int], Image.Image]
) -> None:
    """Write thumbnails of the images that the report of a study shows into the study's folder.

    Args:
        folder: of the study.
        arms: see `arms.read_arms`.
        picture: picture(split, index) returns an image of the data; what raises OSError,
            ValueError or UserError gets no thumbnail.
    """
    target = folder / THUMBNAILS
    shutil.rmtree(target, ignore_errors=True)  # those of an earlier best configuration
    for split, image in _shown(arms):
        with suppress(OSError, ValueError, UserError):
            content = thumbnail(picture(split, image))
            target.mkdir(exist_ok=True)
            with atomic_write(target / f"{_stem(split, image)}.{image_type(content)}") as part:
                part.write_bytes(content)


def has_thumbnails(folder: Path, arms: Mapping[str, Arms]) -> bool:
    """Return whether the folder of a study has all thumbnails that its report shows."""
    have = {file.stem for file in (folder / THUMBNAILS).glob("*")}
    return all(_stem(split, image) in have for split, image in _shown(arms))


def image_type(content: bytes) -> str:
    """Return the type of a thumbnail: png or jpeg."""
    return "png" if content.startswith(b"\x89PNG") else "jpeg"


def read_thumbnail(
    folder: Path,
    root: Path | None,
    split: str,
    image: int,
    file: str | None,
    orientation: Orientation | None = None,
) -> bytes:
    """Return the thumbnail of an image as PNG or JPEG; b"" if there is none.

    Args:
        folder: of the study.
        root: folder of the data; None where they are no folder.
        split: of the image.
        image: its index in the split.
        file: its file, relative to the folder of the data.
        orientation: whether it is rotated as its EXIF data say (None: it is), or as it is stored.
    """
    for kind in ("png", "jpeg"):
        with suppress(OSError):
            return (folder / THUMBNAILS / f"{_stem(split, image)}.{kind}").read_bytes()
    if root is not None and file is not None:
        with suppress(*UNREADABLE):
            return _from_file(root / file, orientation)
    return b""


def _from_file(file: Path, orientation: Orientation | None) -> bytes:
    with Image.open(file) as image:
        if image.width * image.height > MAX_PIXELS:
            return b""
        return thumbnail(oriented(image, orientation))


def _shown(arms: Mapping[str, Arms]) -> Iterator[tuple[str, int]]:
    """Yield split and index of each image that is shown: of val."""
    if "val" in arms:
        table = most_different(arms["val"])
        yield from (("val", int(i)) for i in (table["image"] if len(table) else ()))


def _stem(split: str, image: int) -> str:
    return f"{split}-{image:06d}"
