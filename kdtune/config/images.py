"""EXIF orientation of images of Pillow, read without the rest of their EXIF data."""

import struct
import zlib

from PIL import ExifTags, Image

from kdtune.config.run import Orientation

UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
    LookupError,
    TypeError,
    ArithmeticError,
    AttributeError,
    EOFError,
    struct.error,
    zlib.error,
)
"""Errors of Pillow for a file that is no image, or a damaged one."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""How an image is shown, by its EXIF orientation; 1 is as stored."""


def oriented(image: Image.Image, orientation: Orientation | None) -> Image.Image:
    """Return an image as its EXIF data say, or as it is stored.

    Args:
        image: of Pillow.
        orientation: whether it is rotated and mirrored as its EXIF data say; None: it is.
    """
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
