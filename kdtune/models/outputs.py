"""Teachers that are only a table of outputs: their logits on the examples of a data set."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from kdtune.models.preprocessing import Preprocessing

METADATA = "kdtune"
"""Entry of a file's metadata with its `OutputsRecord`, as JSON."""


@dataclass(frozen=True)
class OutputsRecord:
    """Record that kdtune keeps in a file of outputs which it has written."""

    teacher: str
    """Name of the network."""
    data: str
    """Fingerprint of the data."""
    has_cut_val: bool
    """Whether val was cut from train in these data."""
    views: dict[str, Any]
    """`image_size`, `orientation`, `eval_crop` and `eval_interpolation` of the images that the
    network saw; {} for data that are no images."""

    @property
    def text(self) -> str:
        """The record as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def of(text: str | bytes | None) -> "OutputsRecord | None":
        """Return the record of `text`; None if there is none, or another version's."""
        try:
            return OutputsRecord(**json.loads(text or "null"))
        except (TypeError, ValueError):
            return None


@dataclass(frozen=True, eq=False)
class OutputTeacher:
    """A teacher without a network: its logits on the examples of a data set."""

    name: str
    """Of the teacher in its study: that of the file, unless this was renamed."""
    digest: str
    """16 hex digits that change with the numbers of the file."""
    logits: Mapping[str, Tensor] = field(repr=False)
    """Of each split, float32 [N, K] in the split's own order; NaN for examples of train that the
    file lacks."""
    record: OutputsRecord | None = None
    """What the file says about itself."""

    is_normalized = True
    """It has no input that a wrong preprocessing could spoil."""

    @property
    def preprocessing(self) -> Preprocessing:
        """The views that the outputs were made of, as far as they are known."""
        views = {} if self.record is None else self.record.views
        size, crop = views.get("image_size"), views.get("eval_crop")
        return Preprocessing(
            size=size, crop=crop, interpolation=views.get("eval_interpolation", "bilinear")
        )

    def fingerprint(self) -> str:
        """Return the digest, as `Classifier.fingerprint` returns a network's."""
        return self.digest

    def place(self, device: torch.device, precision: str) -> "OutputTeacher":
        """Return the teacher, which stays on the CPU: its logits are put into batches there."""
        return self
