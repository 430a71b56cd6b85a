"""What counts as an image, for data sets and models alike."""

from typing import Any

VAL_NAMES = ("val", "validation", "valid", "dev")
"""Names under which data may hold the split val."""
IMAGE_CHANNELS = (1, 3)
"""Channels of an image: grey or RGB."""


def are_images(inputs: Any) -> bool:
    """Return True if a tensor holds images: uint8 [N, C, H, W] with one or three channels.

    All other tensors are given to the models as they are.
    """
    # compared by name, since config does without torch
    is_bytes = str(inputs.dtype) == "torch.uint8"
    return is_bytes and inputs.ndim == 4 and inputs.shape[1] in IMAGE_CHANNELS
