"""Decoding of image files by Pillow: pixels of 8 bits, rotated as their EXIF data say."""

import io
import struct
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import ExifTags, Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kdtune.config.errors import InputError, first_line
from kdtune.config.run_data import Orientation
from kdtune.config.text import printable

UNREADABLE = (
    *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
    *(LookupError, TypeError, ArithmeticError, AttributeError, EOFError, struct.error, zlib.error),
)
"""Errors of Pillow for a file that is no image, or a damaged one."""


TURNS = {
    **{2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180},
    **{4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE},
    **{6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90},
}
"""How an image is shown, by its EXIF orientation; 1 is as stored."""


def decode(
    file: Image.Image | str | Path,
    orientation: Orientation | None,
    mode: Literal["L", "RGB"] = "RGB",
    content: bytes | None = None,
) -> Tensor:
    """Return an image file with 8 bits per channel, uint8 [3, H, W]; in mode L [1, H, W].

    Args:
        file: the file; or an image of Pillow.
        orientation: whether the image is rotated and mirrored as its EXIF data say; None: it is.
        mode: of Pillow.
        content: of the file, if it has been read.

    Raises:
        InputError: it cannot be decoded.
    """
    try:
        if isinstance(file, Image.Image):
            return pixels(oriented(file, orientation), mode)
        with Image.open(file if content is None else io.BytesIO(content)) as image:
            return pixels(oriented(image, orientation), mode)
    except UNREADABLE as error:
        reason = first_line(error).replace(f" '{file}'", "")
        text = f"the image {printable(str(file))} cannot be read ({printable(reason)})"
        raise InputError(text) from None


def oriented(image: Image.Image, orientation: Orientation | None) -> Image.Image:
    """Return an image of Pillow as its EXIF data say, or as it is stored; see `decode`."""
    if orientation == "stored":
        return image
    # first, since some formats load in getexif; a second load after a failure returns black
    image.load()
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except UNREADABLE:  # damaged EXIF data say nothing
        return image
    # not ImageOps.exif_transpose, which also writes the other EXIF data anew and may fail
    return image if turn is None else image.transpose(turn)


def pixels(image: Image.Image, mode: Literal["L", "RGB"]) -> Tensor:
    """Return an image of Pillow with 8 bits per channel, uint8 [1, H, W] (L) or [3, H, W] (RGB).

    Raises:
        ValueError: its pixels have neither 8 nor 16 bits.
    """
    shown: Image.Image = image
    if image.mode.startswith("I;16"):  # Pillow clips at 255, which leaves white
        shown = Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise ValueError(f"its pixels have the mode {image.mode}, not 8 or 16 bits")
    return F.pil_to_tensor(shown.convert(mode))  # type: ignore[no-any-return]
