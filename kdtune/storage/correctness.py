"""Correctness of each example as short text, for the records.

With it the plan of a study knows, from the records alone, how much an accuracy depends on the
images. N examples take N / 6 characters.
"""

import base64
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CORRECT = "correct"
"""Name of the text in the records of val at the last epoch."""


def pack_correct(correct: ArrayLike) -> str:
    """Return whether each of N predictions is correct, bool [N], as bits in base64."""
    return base64.b64encode(np.packbits(np.asarray(correct, dtype=bool)).tobytes()).decode()


def unpack_correct(line: Mapping[str, Any]) -> NDArray[np.bool_] | None:
    """Return whether each prediction is correct, bool [N], from a record of a split.

    None for records of version 0.12 and older, which lack it, and for damaged ones.
    """
    with suppress(KeyError, TypeError, ValueError):
        packed = np.frombuffer(base64.b64decode(line[CORRECT], validate=True), dtype=np.uint8)
        count = int(line["n_examples"])
        if -(-count // 8) == len(packed):
            return np.unpackbits(packed, count=count).astype(bool)
    return None
