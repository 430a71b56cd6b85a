"""Lines of Python that run an exported student without kdtune."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kdtune.config.orientation import TURNS, oriented
from kdtune.deploy.description import Resize
from kdtune.deploy.graph import Signature

PILLOW_NAMES = {"nearest": "NEAREST", "bilinear": "BILINEAR", "bicubic": "BICUBIC"}


def onnx_lines(signature: Signature, resize: Resize | None, resizes: bool) -> str:
    """Return lines that predict with onnxruntime, NumPy and Pillow.

    They take the class of one image.

    Args:
        signature: input of the file.
        resize: steps from an image to a view; None if the data are no images.
        resizes: whether images have to be resized, since not all have the size of a view.
    """
    head = ["import json", "import numpy as np", "import onnxruntime"]
    if resize is None:
        shape = ", ".join(map(str, ("B", *signature.shape)))
        body = [
            'session = onnxruntime.InferenceSession("best.onnx")',
            f'inputs = np.load("inputs.npy")  # {signature.type_name} [{shape}]',
        ]
    else:
        head.append("from PIL import Image")
        body = [
            'session = onnxruntime.InferenceSession("best.onnx")',
            *(_resizing(resize) if resizes else _opening("image.png", resize)),
            "pixels = np.asarray(image)",
            f"images = {_as_batch(resize)}  # uint8 [1, {', '.join(map(str, signature.shape))}]",
        ]
    rest = [
        f'(logits,) = session.run(None, {{"{signature.name}": {signature.name}}})',
        'classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])',
        "print(classes[logits[0].argmax()])",
    ]
    return "\n".join([*head, "", *body, *rest])


def _opening(name: str, resize: Resize) -> Sequence[str]:
    """Return lines that read an image, as `data.decoding.decode` does."""
    if resize.orientation == "stored":
        return [f'image = Image.open("{name}").convert("{resize.mode}")']
    turns = {number: int(turn) for number, turn in TURNS.items()}
    return [  # not ImageOps.exif_transpose, see `config.orientation`
        f'image = Image.open("{name}")',
        "image.load()",
        f"turn = {turns}.get(image.getexif().get(274))",
        "if turn is not None:  # rotated or mirrored, by its EXIF orientation",
        "    image = image.transpose(turn)",
        f'image = image.convert("{resize.mode}")',
    ]


def _as_batch(resize: Resize) -> str:
    return "pixels[None, None]" if resize.mode == "L" else "pixels.transpose(2, 0, 1)[None]"


def _resizing(resize: Resize) -> Sequence[str]:
    """Return lines that read, resize and crop an image, as `data.views.Resizing` does."""
    short, size, mode = resize.shorter_side, resize.crop, PILLOW_NAMES[resize.interpolation]
    return [
        *_opening("image.jpg", resize),
        "short = min(image.size)",
        f"if short != {short}:  # the longer side is rounded down",
        f"    size = tuple({short} if side == short else int({short} * side / short) "
        "for side in image.size)",
        f"    image = image.resize(size, Image.{mode})",
        f"left, top = (round((side - {size}) / 2) for side in image.size)",
        f"image = image.crop((left, top, left + {size}, top + {size}))",
    ]


def pillow_view(file: str, resize: Resize) -> NDArray[np.uint8]:
    """Return the view that these lines make of an image file, uint8 [C, S, S]."""
    short, size = resize.shorter_side, resize.crop
    with Image.open(file) as opened:
        image = oriented(opened, resize.orientation).convert(resize.mode)
    own = min(image.size)
    if own != short:
        to = tuple(short if side == own else int(short * side / own) for side in image.size)
        mode = getattr(Image.Resampling, PILLOW_NAMES[resize.interpolation])
        image = image.resize((to[0], to[1]), mode)
    left, top = (round((side - size) / 2) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)))
    return pixels[None] if resize.mode == "L" else pixels.transpose(2, 0, 1)
