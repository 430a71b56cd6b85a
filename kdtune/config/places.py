"""Paths and URIs of object stores that the user gives: those that cannot be are refused."""

import os
from urllib.parse import urlsplit

from kdtune.config.errors import InputError
from kdtune.config.text import shown

S3, AZURE = ("s3", "s3a"), ("az", "azure", "abfs", "abfss")
SCHEMES = (*S3, "gs", *AZURE, "file", "memory")
"""Schemes of the URIs of object stores."""
WITHOUT_BUCKET = ("file", "memory")
MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4095
"""Longest name of a file and longest path, on Linux and macOS."""


def check_place(name: str, place: str) -> None:
    """Raise InputError if a path or URI cannot be one.

    Args:
        name: The field that has it, for the error.
        place: The path, or SCHEME://BUCKET/PREFIX.
    """
    if "://" in place:
        check_uri(place)
        return
    if place.startswith("~") and os.path.expanduser(place).startswith("~"):
        user = place[1:].partition("/")[0]
        why = f"there is no user {user}" if user else "the home folder is not known (HOME)"
        here = "" if not user else f", or ./{place} for a name that begins with ~"
        raise InputError(
            f"{name} must be a path, but got {name}={shown(place)}, and {why}; give the whole "
            f"path{here}"
        )
    raw = os.fsencode(place)
    longest = max(map(len, raw.split(b"/")))
    if len(raw) > MAX_PATH_BYTES or longest > MAX_NAME_BYTES:
        raise InputError(
            f"{name} must be a path of at most {MAX_PATH_BYTES} bytes, with names of at most "
            f"{MAX_NAME_BYTES}, but got {len(raw)} bytes, with a name of {longest}: "
            f"{shown(place[:40])}..."
        )


def check_uri(uri: str) -> None:
    """Raise InputError unless a URI has a known scheme and a bucket."""
    try:
        parts = urlsplit(uri)
    except ValueError as error:  # [ without ]
        raise InputError(f"a URI must be SCHEME://BUCKET/PREFIX, but got {uri} ({error})") from None
    if parts.scheme not in SCHEMES:
        raise InputError(f"the scheme of a URI must be one of {', '.join(SCHEMES)}, but got {uri}")
    if not parts.netloc and parts.scheme not in WITHOUT_BUCKET:
        raise InputError(f"a URI must name a bucket, {parts.scheme}://BUCKET/PREFIX, but got {uri}")
