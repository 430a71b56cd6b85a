"""Decoding of image files by Pillow: pixels of 8 bits, rotated as their EXIF data say."""

import io
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from kdtune.config.errors import InputError, first_line
from kdtune.config.orientation import UNREADABLE, oriented
from kdtune.config.run_data import Orientation
from kdtune.config.text import printable


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
        text = f"the image {printable(str(file))} cannot be read ({reason})"
        raise InputError(text) from None


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
