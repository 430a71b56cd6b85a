"""Files of the cache: safetensors with their key and a checksum inside."""

import os
import zlib
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdtune.config.owners import StrangerError, open_trusted

Tensors = dict[str, Tensor]

HAS_DEV_FD = os.path.isdir("/dev/fd")
"""Whether an opened file has a path of its own; not in every container."""


def read(path: Path, text: str) -> Tensors | None:
    """Return the tensors of an entry; None if the file is missing, damaged or of another key.

    Args:
        path: the file.
        text: the key as it must stand in the file.

    Raises:
        StrangerError: others own the file or may write it.
    """
    try:
        with open_trusted(path) as opened:
            # the file that was checked, whatever has its name now; a path is all safe_open takes
            place = f"/dev/fd/{opened.fileno()}" if HAS_DEV_FD else path
            with safe_open(place, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                metadata = file.metadata() or {}
            if metadata.get("key") != text or metadata.get("crc") != str(checksum(tensors)):
                return None
            with suppress(OSError):
                os.utime(opened.fileno())  # used now, so evicted late
    except StrangerError:
        raise
    except (OSError, SafetensorError):
        return None
    return tensors


def checksum(tensors: Tensors) -> int:
    """Return the CRC-32 of names, types, shapes and bytes."""
    crc = 0
    for name, value in sorted(tensors.items()):
        crc = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), crc)
        crc = zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data, crc)
    return crc
